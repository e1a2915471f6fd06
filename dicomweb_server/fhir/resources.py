"""FHIR over HTTP (http://hl7.org/fhir/R4/http.html): Falcon resources over the services of this package."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from typing import Any

import falcon

from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.fhir import bundles, formats, models
from dicomweb_server.fhir.batches import Asker, Batches, clauses_of, version_of_tag
from dicomweb_server.fhir.capability import capability_statement
from dicomweb_server.fhir.matching import shown
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.requests import SearchRequest, parse_search
from dicomweb_server.fhir.selection import detail_of, selected
from dicomweb_server.fhir.tables import TYPES
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import Address
from dicomweb_server.fhir.writing import Writing, Written
from dicomweb_server.http.auditing import step
from dicomweb_server.http.params import query_parameters, scope_of
from dicomweb_server.http.table import Route
from dicomweb_server.permissions import Permission


class FhirResource:
    """All of FHIR below its root `base`. dicomweb: the path of the DICOMweb root that Endpoints name."""

    def __init__(
        self,
        reading: Reading,
        writing: Writing,
        batches: Batches,
        *,
        transactions: bool,
        routes: Sequence[Route],
        base: str,
        dicomweb: str,
        max_count: int,
        max_request_bytes: int,
    ) -> None:
        self._reading = reading
        self._writing = writing
        self._batches = batches
        self._transactions = transactions
        self._routes = routes
        self._base = base
        self._dicomweb = dicomweb
        self._max_count = max_count
        self._max_request_bytes = max_request_bytes
        self._started = datetime.now(UTC)

    # Reading

    def on_get_metadata(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The CapabilityStatement."""
        statement = capability_statement(
            self._routes, base=self._address(req).fhir, started=self._started, transactions=self._transactions
        )
        resp.set_header("Cache-Control", "no-cache")
        formats.write(req, resp, statement)

    def on_get_type(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Search."""
        self._search(req, resp, _known(kind), query_parameters(req) if req.query_string else [])

    def on_post_search(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Search by a form."""
        parameters = formats.parameters_of_form(req, max_bytes=self._max_request_bytes)
        self._search(req, resp, _known(kind), parameters)

    def _search(self, req: falcon.Request, resp: falcon.Response, kind: str, parameters: list[tuple[str, str]]) -> None:
        lenient = "handling=lenient" in (req.get_header("Prefer") or "").replace(" ", "")
        request = parse_search(kind, parameters, max_count=self._max_count, lenient=lenient)
        bundle = self._reading.search(request, self._address(req))
        resp.set_header("Cache-Control", "private, no-store")
        formats.write(req, resp, bundle, release=formats.wanted_release(req))

    def on_get_resource(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        """Read."""
        parameters = query_parameters(req) if req.query_string else []
        part = _part(kind, parameters)
        resource = self._reading.read(_known(kind), resource_id, self._address(req), detail_of(part))
        self._answer(req, resp, resource, part)

    def on_get_version(
        self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str, version: str
    ) -> None:
        """Read a version."""
        resource = self._reading.version(_known(kind), resource_id, version, self._address(req))
        self._answer(req, resp, resource, SearchRequest(kind=kind))

    def on_get_history(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        """Read all versions."""
        bundle = self._reading.history(_known(kind), resource_id, self._address(req))
        resp.set_header("Cache-Control", "private, no-store")
        formats.write(req, resp, bundle, release=formats.wanted_release(req))

    def _answer(self, req: falcon.Request, resp: falcon.Response, resource: Json, part: SearchRequest) -> None:
        release = formats.wanted_release(req)
        meta: dict[str, Any] = resource["meta"]
        etag = bundles.etag(meta["versionId"])
        resp.set_header("Cache-Control", "private, no-cache")
        resp.set_header("ETag", etag)
        if "lastUpdated" in meta:
            when = datetime.fromisoformat(meta["lastUpdated"])
            resp.set_header("Last-Modified", format_datetime(when, usegmt=True))
        known = {one.strip() for one in (req.get_header("If-None-Match") or "").split(",")}
        if part == SearchRequest(kind=part.kind) and (etag in known or "*" in known):
            resp.status = 304
            return
        formats.write(req, resp, selected(resource, part), release=release)

    # Writing

    def on_post_type(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Create, unless If-None-Exist finds one."""
        body = formats.read(req, max_bytes=self._max_request_bytes)
        unless = clauses_of(_known(kind), req.get_header("If-None-Exist") or "")
        self._written(req, resp, self._writing.create(kind, body, self._address(req), unless=unless))

    def on_put_resource(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        """Update, or create with this id."""
        body = formats.read(req, max_bytes=self._max_request_bytes)
        written = self._writing.update(
            _known(kind),
            _valid_id(resource_id),
            body,
            self._address(req),
            if_match=version_of_tag(req.get_header("If-Match")),
            only_new=(req.get_header("If-None-Match") or "").strip() == "*",
        )
        self._written(req, resp, written)

    def on_put_type(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Conditional update."""
        body = formats.read(req, max_bytes=self._max_request_bytes)
        clauses = clauses_of(_known(kind), req.query_string or "")
        if_match = version_of_tag(req.get_header("If-Match"))
        written = self._writing.update_matching(kind, clauses, body, self._address(req), if_match=if_match)
        self._written(req, resp, written)

    def on_patch_resource(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        """Apply a JSON Patch."""
        self._patch(req, resp, _known(kind), resource_id)

    def on_patch_type(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Conditional patch."""
        found = self._writing.match(_known(kind), clauses_of(kind, req.query_string or ""), self._address(req))
        if found is None:
            raise NotFound("no resource matches")
        self._patch(req, resp, kind, found)

    def _patch(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        operations = formats.read_patch(req, max_bytes=self._max_request_bytes)
        if_match = version_of_tag(req.get_header("If-Match"))
        self._written(
            req, resp, self._writing.patch(kind, resource_id, operations, self._address(req), if_match=if_match)
        )

    def on_delete_resource(self, req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str) -> None:
        """Delete; of an ImagingStudy the study."""
        if_match = version_of_tag(req.get_header("If-Match"))
        self._writing.delete(_known(kind), resource_id, self._address(req), if_match=if_match)
        resp.status = 204

    def on_delete_type(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Conditional delete of one."""
        found = self._writing.match(_known(kind), clauses_of(kind, req.query_string or ""), self._address(req))
        if found is not None:
            with step(req, Permission.DELETE, kind, found):
                self._writing.delete(kind, found, self._address(req))
        resp.status = 204

    def on_delete_below(
        self, _req: falcon.Request, resp: falcon.Response, kind: str, resource_id: str, **uids: str
    ) -> None:
        """Delete a series or an instance of a study, as older systems do it."""
        if kind != "ImagingStudy":
            raise NotFound("only an ImagingStudy has series")
        self._writing.delete_below(scope_of(study_uid=resource_id, **uids))
        resp.status = 204

    def on_post_convert(self, req: falcon.Request, resp: falcon.Response, kind: str, study_uid: str) -> None:
        """Merge an ImagingStudy into the stored one, as older systems do it."""
        if kind != "ImagingStudy":
            raise NotFound("only an ImagingStudy can be merged")
        body = formats.read(req, max_bytes=self._max_request_bytes)
        self._written(req, resp, self._writing.add_to_study(study_uid, body, self._address(req)))

    def on_post_validate(self, req: falcon.Request, resp: falcon.Response, kind: str) -> None:
        """Check a resource; what is wrong is told as an error."""
        models.check(formats.read(req, max_bytes=self._max_request_bytes), _known(kind))
        formats.write(req, resp, bundles.outcome(bundles.issue("informational", "valid", severity="information")))

    def on_post_batch(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A batch."""
        identity = getattr(req.context, "identity", None)
        bundle = formats.read(req, max_bytes=self._max_request_bytes)
        asker = Asker(may=lambda permission: identity is None or identity.may(permission), step=partial(step, req))
        answer = self._batches.run(bundle, self._address(req), asker)
        formats.write(req, resp, answer)

    def _written(self, req: falcon.Request, resp: falcon.Response, written: Written) -> None:
        resource = written.resource
        meta: dict[str, Any] = resource["meta"]
        url = f"{self._address(req).fhir}/{resource['resourceType']}/{resource['id']}"
        resp.status = 201 if written.created else 200
        resp.set_header("Location", f"{url}/_history/{meta['versionId']}")
        resp.set_header("ETag", bundles.etag(meta["versionId"]))
        wish = (req.get_header("Prefer") or "").replace(" ", "")
        if "return=minimal" in wish:
            return
        if "return=OperationOutcome" in wish:
            done = "created" if written.created else "updated" if written.changed else "there already"
            resource = bundles.outcome(bundles.issue("informational", done, severity="information"))
        formats.write(req, resp, resource)

    def _address(self, req: falcon.Request) -> Address:
        root = req.context.address.root
        return Address(fhir=root + self._base, dicomweb=root + self._dicomweb)


def _valid_id(resource_id: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,64}", resource_id):
        raise BadRequest("an id has at most 64 letters, digits, hyphens and dots")
    return resource_id


def _known(kind: str) -> str:
    if kind not in TYPES:
        raise NotFound(f"there is no type {shown(kind)} here, but {', '.join(TYPES)}")
    return kind


def _part(kind: str, parameters: list[tuple[str, str]]) -> SearchRequest:
    """What part of a resource is wanted: reading takes no other parameters than these."""
    wanted = [(name, value) for name, value in parameters if name in ("_summary", "_elements")]
    part = parse_search(_known(kind), wanted, max_count=1)
    if part.summary == "count":
        raise BadRequest("_summary=count is for searches")
    return SearchRequest(kind=kind, summary=part.summary, elements=part.elements)
