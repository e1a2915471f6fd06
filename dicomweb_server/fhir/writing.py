"""Writing: what clients create, update, patch and delete.

A resource that stands for itself is a document; every write is a version of it. What is written over a view is kept as
additions to that view (`merging.py`). Deleting an ImagingStudy deletes the study, as DICOMweb does.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jsonpatch
import jsonpointer
import orjson

from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import (
    BadRequest,
    Conflict,
    Invalid,
    NotFound,
    PreconditionFailed,
    TooLarge,
    Unprocessable,
    VersionConflict,
)
from dicomweb_server.fhir import matching, models
from dicomweb_server.fhir.clauses import Clause
from dicomweb_server.fhir.documents import Documents, kind_of, resource_of
from dicomweb_server.fhir.merging import difference, merged
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.search import Row, Search
from dicomweb_server.fhir.values import DICOM_UID, Json
from dicomweb_server.fhir.views import Address, Views, additions_kind
from dicomweb_server.services.remove import Remove
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Scope

MAX_OPERATIONS = 1000
MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class Written:
    """A resource as it is after a write, and whether it is new. changed: False when it was there already."""

    resource: Json
    created: bool
    changed: bool = True


class Writing:
    """Writes. `max_bytes` bounds a resource that a patch makes."""

    def __init__(
        self,
        storage: Storage,
        *,
        views: Views,
        documents: Documents,
        search: Search,
        reading: Reading,
        remove: Remove,
        max_bytes: int,
    ) -> None:
        self._storage = storage
        self._views = views
        self._documents = documents
        self._search = search
        self._reading = reading
        self._remove = remove
        self._max_bytes = max_bytes

    # Create

    def create(
        self,
        kind: str,
        body: Json,
        address: Address,
        *,
        unless: Sequence[Clause] = (),
        new_id: str | None = None,
    ) -> Written:
        """A new resource with an id of ours, which may be chosen before. unless: If-None-Exist; when one matches, that
        is the answer.

        Raises Invalid, Unprocessable for an ImagingStudy whose study is not in the archive, PreconditionFailed when
        several match.
        """
        if unless:
            rows = self._search.all_rows(kind, unless, address, limit=2)
            if len(rows) > 1:
                raise PreconditionFailed("If-None-Exist: more than one resource matches")
            if rows:
                there = self._reading.read(kind, self._id_of(rows[0]), address)
                return Written(there, created=False, changed=False)
        models.check(body, kind)
        if kind == "ImagingStudy":
            return self._write_view(kind, _study_uid(body), body, address, if_match=None)
        resource_id = new_id or uuid.uuid4().hex
        document = self._documents.put(kind_of(kind), kind, resource_id, _kept(body, resource_id), expected_version=0)
        return Written(resource_of(document), created=True)

    # Update

    def update(
        self,
        kind: str,
        resource_id: str,
        body: Json,
        address: Address,
        *,
        if_match: str | None = None,
        only_new: bool = False,
    ) -> Written:
        """Put a resource in place, or create it with this id.

        if_match: the version that must be there. only_new: none may be there. Raises Invalid, PreconditionFailed,
        Unprocessable for an ImagingStudy whose study is not in the archive.
        """
        if body.get("id") != resource_id:
            raise Invalid("the id of the resource is not that of the URL", [(f"{kind}.id", "must be that of the URL")])
        models.check(body, kind)
        if self._reading.is_view(kind, resource_id):
            if only_new:
                raise PreconditionFailed("there is such a resource already")
            return self._write_view(kind, resource_id, body, address, if_match=if_match)
        if kind == "ImagingStudy":
            raise Unprocessable("the archive has no such study: store its images first")
        expected = 0 if only_new else None
        if if_match is not None:
            expected = self._expected(kind, resource_id, if_match)
        try:
            document = self._documents.put(
                kind_of(kind), kind, resource_id, _kept(body, resource_id), expected_version=expected
            )
        except VersionConflict as exc:
            raise PreconditionFailed("the resource has changed since that version") from exc
        return Written(resource_of(document), created=self._is_first(document.version, kind, resource_id))

    def _is_first(self, version: int, kind: str, resource_id: str) -> bool:
        """Whether a version creates: the first, and one that follows a deletion."""
        if version == 1:
            return True
        before = self._storage.get_document(kind=kind_of(kind), document_id=resource_id, version=version - 1)
        return before.deleted

    def _expected(self, kind: str, resource_id: str, if_match: str) -> int:
        if not (if_match.isascii() and if_match.isdigit() and 0 < len(if_match) < 10):
            raise PreconditionFailed("the resource has no such version")
        try:
            self._storage.get_document(kind=kind_of(kind), document_id=resource_id)
        except NotFound:
            raise PreconditionFailed(f"there is no {kind} with this id") from None
        return int(if_match)

    def _write_view(
        self, kind: str, resource_id: str, body: Json, address: Address, *, if_match: str | None
    ) -> Written:
        """Keep what a client writes over a view. Atomic among writers: with if_match the additions must be those of
        that version when it is written."""
        name = (additions_kind(kind), resource_id)
        expected: int | None = None
        if if_match is not None:
            additions = self._documents.of([name]).get(name)
            current = self._reading.read(kind, resource_id, address)
            if current["meta"]["versionId"] != if_match:
                raise PreconditionFailed("the resource has changed since that version")
            expected = additions.version if additions is not None else 0
        try:
            plain = self._reading.without_additions(kind, resource_id, address)
        except NotFound:
            raise Unprocessable("the archive has no such study: store its images first") from None
        added = _kept(difference(plain, body), resource_id)
        try:
            self._documents.put(name[0], kind, resource_id, added, expected_version=expected)
        except VersionConflict as exc:
            raise PreconditionFailed("the resource has changed since that version") from exc
        return Written(self._reading.read(kind, resource_id, address), created=False)

    def add_to_study(self, study_uid: str, body: Json, address: Address) -> Written:
        """Merge an ImagingStudy into the stored one (`convertFHIR` of older systems). Raises NotFound."""
        models.check(body, "ImagingStudy")
        if not self._reading.is_view("ImagingStudy", study_uid):
            raise NotFound("there is no ImagingStudy with this id")
        name = (additions_kind("ImagingStudy"), study_uid)

        def attempt() -> Written:
            there = self._documents.of([name]).get(name)
            known: Json = {"resourceType": "ImagingStudy", "id": study_uid, **(there.body if there else {})}
            plain = self._reading.without_additions("ImagingStudy", study_uid, address)
            both = merged(known, difference(plain, body))
            self._documents.put(
                name[0],
                "ImagingStudy",
                study_uid,
                _kept(both, study_uid),
                expected_version=there.version if there is not None else 0,
            )
            return Written(self._reading.read("ImagingStudy", study_uid, address), created=False)

        return _again(attempt)

    # Patch

    def patch(
        self, kind: str, resource_id: str, operations: Any, address: Address, *, if_match: str | None = None
    ) -> Written:
        """Apply a JSON Patch (RFC 6902). Raises Invalid for what is none, Unprocessable where it does not fit."""
        if not isinstance(operations, list) or not all(isinstance(one, dict) for one in operations):
            raise Invalid("a JSON Patch is a list of operations")
        if len(operations) > MAX_OPERATIONS:
            raise TooLarge(f"a patch has at most {MAX_OPERATIONS} operations")

        def attempt() -> Written:
            current = self._reading.read(kind, resource_id, address)
            version = current["meta"]["versionId"]
            if if_match not in (None, version):
                raise PreconditionFailed("the resource has changed since that version")
            changed = self._patched(current, operations)
            return self.update(kind, resource_id, changed, address, if_match=version)

        return attempt() if if_match is not None else _again(attempt)

    def _patched(self, resource: Json, operations: Sequence[Json]) -> Json:
        changed: Any = orjson.loads(orjson.dumps(resource))
        try:
            for operation in operations:
                changed = jsonpatch.apply_patch(changed, [operation], in_place=True)
                # Copies of copies double each time.
                if operation.get("op") == "copy" and len(orjson.dumps(changed)) > self._max_bytes:
                    raise TooLarge(f"the patched resource is larger than {self._max_bytes} bytes")
        except jsonpatch.InvalidJsonPatch as exc:
            raise Invalid("the payload is no JSON Patch: every operation has op, path, and value or from") from exc
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as exc:
            raise Unprocessable("the patch does not fit the resource: a test failed, or a path is not there") from exc
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as exc:
            raise Unprocessable("the patch does not fit the resource") from exc
        if not isinstance(changed, dict):
            raise Unprocessable("the patch leaves no resource")
        return changed

    # Delete

    def delete(self, kind: str, resource_id: str, address: Address, *, if_match: str | None = None) -> None:
        """Delete. Raises NotFound, Conflict for a Patient or Endpoint with studies, PreconditionFailed."""
        if self._reading.is_view(kind, resource_id):
            if kind != "ImagingStudy":
                raise Conflict(f"this {kind} belongs to studies in the archive; delete those")
            if if_match is not None:
                current = self._reading.read(kind, resource_id, address)
                if current["meta"]["versionId"] != if_match:
                    raise PreconditionFailed("the resource has changed since that version")
            self._remove.remove(scope=Scope(study_uid=resource_id))
            return
        if kind == "ImagingStudy":
            raise NotFound("there is no ImagingStudy with this id")
        expected = self._expected(kind, resource_id, if_match) if if_match is not None else None
        try:
            self._storage.delete_document(kind=kind_of(kind), document_id=resource_id, expected_version=expected)
        except VersionConflict as exc:
            raise PreconditionFailed("the resource has changed since that version") from exc

    def delete_below(self, scope: Scope) -> None:
        """Delete a series or an instance of a study. Raises NotFound."""
        self._remove.remove(scope=scope)

    # Conditional

    def match(self, kind: str, clauses: Sequence[Clause], address: Address) -> str | None:
        """The id of the one resource that matches; None when none does. Raises PreconditionFailed for several."""
        if not clauses:
            raise BadRequest("a conditional request needs a search parameter")
        rows = self._search.all_rows(kind, clauses, address, limit=2)
        if len(rows) > 1:
            raise PreconditionFailed("more than one resource matches")
        return self._id_of(rows[0]) if rows else None

    def update_matching(
        self, kind: str, clauses: Sequence[Clause], body: Json, address: Address, *, if_match: str | None = None
    ) -> Written:
        """Conditional update: of the one that matches, or a new one. Raises as `update`, and PreconditionFailed."""
        found = self.match(kind, clauses, address)
        own = body.get("id")
        if found is None and own is None:
            return self.create(kind, body, address)
        if found is not None and own not in (None, found):
            raise BadRequest("the id of the resource is not that of the one that matches")
        resource_id = found or str(own)
        return self.update(kind, resource_id, {**body, "id": resource_id}, address, if_match=if_match)

    def _id_of(self, row: Row) -> str:
        if row.document is not None:
            return row.document.document_id
        return self._views.id_of(row.kind, row.hit) if row.hit is not None else ""


def _again(attempt: Callable[[], Written]) -> Written:
    """Try again when others were faster, up to a bound."""
    for _ in range(MAX_TRIES):
        try:
            return attempt()
        except (PreconditionFailed, VersionConflict):
            continue
    raise Conflict("the resource is changed by many others at once; try again")


def _kept(body: Json, resource_id: str) -> Json:
    """The resource as it is kept: with the id it has here, without the version that is ours to say."""
    meta = {name: value for name, value in (body.get("meta") or {}).items() if name not in ("versionId", "lastUpdated")}
    kept = {name: value for name, value in body.items() if name != "meta"}
    return {**kept, "id": resource_id, **({"meta": meta} if meta else {})}


def _study_uid(body: Json) -> str:
    """The study that an ImagingStudy says it is. Raises Unprocessable."""
    for system, code in (token for value in matching.elements(body, "identifier") for token in matching.tokens(value)):
        uid = (code or "").removeprefix("urn:oid:")
        if system == DICOM_UID and is_uid(uid):
            return uid
    raise Unprocessable(
        "an ImagingStudy is of a study in the archive: give its Study Instance UID as identifier of the system "
        + DICOM_UID
    )
