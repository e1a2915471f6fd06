"""FHIR over HTTP (http://hl7.org/fhir/R4/http.html): Falcon resources over the services of this package."""

from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import falcon

from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.fhir import bundles, formats
from dicomweb_server.fhir.capability import capability_statement
from dicomweb_server.fhir.matching import shown
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.requests import SearchRequest, parse_search
from dicomweb_server.fhir.selection import detail_of, selected
from dicomweb_server.fhir.tables import TYPES
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import Address
from dicomweb_server.http.params import query_parameters
from dicomweb_server.http.table import Route


class FhirResource:
    """All of FHIR below its root `base`. dicomweb: the path of the DICOMweb root that Endpoints name."""

    def __init__(
        self,
        reading: Reading,
        *,
        routes: Sequence[Route],
        base: str,
        dicomweb: str,
        max_count: int,
        max_request_bytes: int,
    ) -> None:
        self._reading = reading
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
            self._routes, base=self._address(req).fhir, started=self._started, transactions=False
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

    def _address(self, req: falcon.Request) -> Address:
        root = req.context.address.root
        return Address(fhir=root + self._base, dicomweb=root + self._dicomweb)


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
