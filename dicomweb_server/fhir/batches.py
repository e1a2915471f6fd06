"""Bundles of requests: every entry of a batch is a request of its own, with its own answer."""

import base64
import binascii
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson

from dicomweb_server.errors import (
    BadRequest,
    Conflict,
    DicomwebError,
    Forbidden,
    Invalid,
    NotFound,
    TooLarge,
    Unprocessable,
    VersionConflict,
)
from dicomweb_server.fhir import bundles
from dicomweb_server.fhir.clauses import Clause, parse_clause
from dicomweb_server.fhir.formats import decoded_query
from dicomweb_server.fhir.outcome import outcome_of_error
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.requests import parse_search
from dicomweb_server.fhir.tables import TYPES
from dicomweb_server.fhir.transactions import GatheringStorage, with_new_ids
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import Address
from dicomweb_server.fhir.writing import Writing, Written
from dicomweb_server.permissions import Permission
from dicomweb_server.storage.base import Storage

MAX_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A request of a Bundle: method, type, id ("" for none), what follows the id, the query, and what it brings."""

    method: str
    kind: str
    resource_id: str
    rest: str
    query: str
    resource: Any
    conditions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: which permissions they have, and what is told of each write: its permission, the type and the id, ""
    for a new resource."""

    may: Callable[[Permission], bool]
    step: Callable[[Permission, str, str], AbstractContextManager[None]] = lambda *_: nullcontext()

    def check(self, permission: Permission) -> None:
        """Raise Forbidden for what they may not."""
        if not self.may(permission):
            raise Forbidden(f"this needs the permission {permission}")


class Batches:
    """Answers Bundles. over: reading and writing over a storage; storage: where transactions are written."""

    def __init__(self, storage: Storage, over: Callable[[Storage], tuple[Reading, Writing]], *, max_count: int) -> None:
        self._storage = storage
        self._over = over
        self._reading, self._writing = over(storage)
        self._max_count = max_count

    def run(self, bundle: Json, address: Address, asker: Asker) -> Json:
        """The answer to a batch or transaction. Raises Invalid; of a transaction whatever one of its entries raises,
        and nothing is written then."""
        if bundle.get("resourceType") != "Bundle":
            raise Invalid("what is posted to the root is a Bundle", [("Bundle", "resourceType must be Bundle")])
        if bundle.get("type") not in ("batch", "transaction"):
            raise Invalid("the Bundle is no batch or transaction", [("Bundle.type", "must be batch or transaction")])
        entries = bundle.get("entry", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise Invalid("Bundle.entry is a list of entries", [("Bundle.entry", "must be a list of entries")])
        if len(entries) > MAX_ENTRIES:
            raise TooLarge(f"a Bundle has at most {MAX_ENTRIES} entries")
        if bundle["type"] == "transaction":
            return bundles.response_bundle("transaction", self._transaction(entries, address, asker))
        return bundles.response_bundle("batch", [self._answered(entry, address, asker) for entry in entries])

    def _transaction(self, entries: list[Json], address: Address, asker: Asker) -> list[Json]:
        """The answers to the entries, in their order; they are done in the order that R4 has for transactions."""
        if not self._storage.transacts:
            raise Unprocessable("this storage has no transactions, see metadata; send a batch")
        gathering = GatheringStorage(self._storage)
        inside = Batches(gathering, self._over, max_count=self._max_count)
        parsed = [_parsed(entry) for entry in entries]
        new_ids = {
            str(entry["fullUrl"]): uuid.uuid4().hex
            for entry, one in zip(entries, parsed, strict=True)
            if one.method == "POST" and isinstance(entry.get("fullUrl"), str)
        }
        references = {
            str(entry["fullUrl"]): f"{one.kind}/{new_ids.get(str(entry['fullUrl']), one.resource_id)}"
            for entry, one in zip(entries, parsed, strict=True)
            if isinstance(entry.get("fullUrl"), str) and one.method in ("POST", "PUT")
        }
        answers: dict[int, Json] = {}
        for method in ("DELETE", "POST", "PUT", "PATCH"):
            for place, one in enumerate(parsed):
                if one.method == method:
                    resource = with_new_ids(one.resource, references)
                    own = new_ids.get(str(entries[place].get("fullUrl")))
                    answers[place] = inside._answer(replace(one, resource=resource), address, asker, new_id=own)
        try:
            gathering.commit()
        except VersionConflict as exc:
            raise Conflict("a resource of the transaction was changed by another meanwhile; send it again") from exc
        for place, one in enumerate(parsed):
            if one.method == "GET":
                answers[place] = self._answer(one, address, asker)
        return [answers[place] for place in range(len(parsed))]

    def _answered(self, entry: Json, address: Address, asker: Asker) -> Json:
        try:
            return self._answer(_parsed(entry), address, asker)
        except DicomwebError as exc:
            status, outcome = outcome_of_error(exc)
            return {"response": {"status": str(status), "outcome": outcome}}

    def _answer(self, entry: Entry, address: Address, asker: Asker, *, new_id: str | None = None) -> Json:
        if entry.method == "GET":
            asker.check(Permission.RETRIEVE if entry.resource_id else Permission.SEARCH)
            return self._get(entry, address)
        permission = Permission.DELETE if entry.method == "DELETE" else Permission.EDIT
        resource_id = entry.resource_id
        if not resource_id and entry.method != "POST" and asker.may(permission):
            resource_id = self._writing.match(entry.kind, _clauses(entry), address) or ""
            if entry.method == "PATCH":
                entry = replace(entry, resource_id=resource_id)
        with asker.step(permission, entry.kind, resource_id):
            asker.check(permission)
            if entry.rest:
                raise BadRequest(f"{entry.method} goes to a resource or a type")
            if entry.method != "DELETE":
                return _written(self._write(entry, address, new_id), address)
            if resource_id:
                self._writing.delete(entry.kind, resource_id, address, if_match=_version(entry))
            return {"response": {"status": "204"}}

    def _get(self, entry: Entry, address: Address) -> Json:
        if not entry.resource_id:
            request = parse_search(entry.kind, decoded_query(entry.query), max_count=self._max_count)
            resource = self._reading.search(request, address)
            return {"resource": resource, "response": {"status": "200"}}
        if entry.rest == "_history":
            resource = self._reading.history(entry.kind, entry.resource_id, address)
            return {"resource": resource, "response": {"status": "200"}}
        if entry.rest.startswith("_history/"):
            version = entry.rest.partition("/")[2]
            resource = self._reading.version(entry.kind, entry.resource_id, version, address)
        elif entry.rest:
            raise NotFound("there is no such resource")
        else:
            resource = self._reading.read(entry.kind, entry.resource_id, address)
        return {
            "resource": resource,
            "response": {"status": "200", "etag": bundles.etag(resource["meta"]["versionId"])},
        }

    def _write(self, entry: Entry, address: Address, new_id: str | None) -> Written:
        writing, body = self._writing, entry.resource
        if entry.method == "PATCH":
            operations = _operations(body)
            if not entry.resource_id:
                raise NotFound("no resource matches")
            return writing.patch(entry.kind, entry.resource_id, operations, address, if_match=_version(entry))
        if not isinstance(body, dict):
            raise Invalid("the entry has no resource", [("Bundle.entry.resource", "is needed")])
        if entry.method == "POST":
            if entry.resource_id:
                raise BadRequest("POST goes to a type")
            unless = clauses_of(entry.kind, entry.conditions.get("ifNoneExist", ""))
            return writing.create(entry.kind, body, address, unless=unless, new_id=new_id)
        if not entry.resource_id:
            return writing.update_matching(entry.kind, _clauses(entry), body, address, if_match=_version(entry))
        return writing.update(
            entry.kind,
            entry.resource_id,
            body,
            address,
            if_match=_version(entry),
            only_new=entry.conditions.get("ifNoneMatch") == "*",
        )


def _parsed(entry: Json) -> Entry:
    request = entry.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("url"), str):
        raise Invalid("the entry has no request", [("Bundle.entry.request", "needs method and url")])
    method = request.get("method")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise Invalid("the method is not known", [("Bundle.entry.request.method", "GET, POST, PUT, PATCH or DELETE")])
    path, _, query = request["url"].partition("?")
    parts = path.strip("/").split("/", 2)
    kind, resource_id, rest = (*(unquote(part) for part in parts), "", "")[:3]
    if kind not in TYPES:
        raise NotFound(f"there is no such type here, but {', '.join(TYPES)}")
    if resource_id == "_search":
        resource_id = ""
    conditions = {name: value for name, value in request.items() if isinstance(value, str)}
    return Entry(method, kind, resource_id, rest, query, entry.get("resource"), conditions)


def _written(written: Written, address: Address) -> Json:
    resource = written.resource
    version = resource["meta"]["versionId"]
    url = f"{address.fhir}/{resource['resourceType']}/{resource['id']}"
    response = {
        "status": "201" if written.created else "200",
        "location": f"{url}/_history/{version}",
        "etag": bundles.etag(version),
        "lastModified": resource["meta"].get("lastUpdated"),
    }
    filled = {name: value for name, value in response.items() if value}
    return {"fullUrl": url, "resource": resource, "response": filled}


def _operations(body: Any) -> Any:
    """A JSON Patch in a Bundle is a Binary or, as clients write it, the list itself."""
    if isinstance(body, dict) and body.get("resourceType") == "Binary":
        try:
            return orjson.loads(base64.b64decode(str(body.get("data", "")), validate=True))
        except (binascii.Error, ValueError) as exc:
            raise Invalid("the Binary holds no JSON Patch", [("Bundle.entry.resource.data", "is no JSON")]) from exc
    return body


def _clauses(entry: Entry) -> list[Clause]:
    return clauses_of(entry.kind, entry.query)


def clauses_of(kind: str, query: str) -> list[Clause]:
    """The clauses of a conditional request."""
    found = [parse_clause(kind, name, value) for name, value in decoded_query(query.lstrip("?"))]
    return [clause for clause in found if clause is not None]


def _version(entry: Entry) -> str | None:
    return version_of_tag(entry.conditions.get("ifMatch"))


def version_of_tag(tag: str | None) -> str | None:
    """The version that an entity tag stands for; None for none, and for `*`, which any version fits."""
    if tag is None or tag.strip() == "*":
        return None
    return tag.strip().removeprefix("W/").strip('"')
