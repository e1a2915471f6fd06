"""Bundles, and what goes into them. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from dicomweb_server.fhir.requests import SearchRequest
from dicomweb_server.fhir.values import Json, filled, instant


def searchset(
    request: SearchRequest,
    *,
    base: str,
    matches: Sequence[Json],
    included: Sequence[Json],
    outcome: Json | None,
    total: int | None,
    more: bool,
) -> Json:
    """The Bundle of a search, with links to this page, the next and the one before."""
    entries = [_entry(base, resource, "match") for resource in matches]
    entries += [_entry(base, resource, "include") for resource in included]
    if outcome is not None:
        entries.append({"resource": outcome, "search": {"mode": "outcome"}})
    return filled(
        resourceType="Bundle",
        meta={"lastUpdated": instant(datetime.now(UTC))},
        type="searchset",
        total=total,
        link=list(_links(request, base, len(matches), more=more)),
        entry=entries,
    )


def _entry(base: str, resource: Json, mode: str) -> Json:
    url = f"{base}/{resource['resourceType']}/{quote(resource['id'])}"
    return {"fullUrl": url, "resource": resource, "search": {"mode": mode}}


def _links(request: SearchRequest, base: str, taken: int, *, more: bool) -> Iterable[Json]:
    def link(relation: str, offset: int) -> Json:
        page = (("_count", str(request.count)), ("_offset", str(offset)))
        query = urlencode([*request.parameters, *page])
        return {"relation": relation, "url": f"{base}/{request.kind}?{query}"}

    yield link("self", request.offset)
    if request.count and request.summary != "count":
        if more:
            yield link("next", request.offset + taken)
        if request.offset:
            yield link("previous", max(request.offset - request.count, 0))
            yield link("first", 0)


def history(kind: str, base: str, entries: Sequence[Json], *, total: int) -> Json:
    """The Bundle of the versions of a resource, newest first."""
    return filled(
        resourceType="Bundle",
        type="history",
        meta={"lastUpdated": instant(datetime.now(UTC))},
        total=total,
        entry=list(entries),
    )


def version_entry(base: str, kind: str, resource_id: str, resource: Json | None, number: int, when: datetime) -> Json:
    """A version in a history: created, updated or deleted (then without resource)."""
    method, status = ("DELETE", "204") if resource is None else ("POST", "201") if number == 1 else ("PUT", "200")
    path = f"{kind}/{resource_id}" if method != "POST" else kind
    return filled(
        fullUrl=f"{base}/{kind}/{quote(resource_id)}",
        resource=resource,
        request={"method": method, "url": path},
        response={"status": status, "etag": etag(str(number)), "lastModified": instant(when)},
    )


def etag(version: str) -> str:
    """A version as an entity tag."""
    return f'W/"{version}"'


def response_bundle(kind: str, entries: Sequence[Json]) -> Json:
    """The answer to a batch or transaction."""
    return filled(resourceType="Bundle", type=f"{kind}-response", entry=list(entries))


def outcome(*issues: dict[str, Any]) -> Json:
    """An OperationOutcome of issues made by `issue`."""
    return {"resourceType": "OperationOutcome", "issue": list(issues)}


def issue(
    code: str, diagnostics: str, *, severity: str = "error", expression: Sequence[str] = (), request_id: str = ""
) -> dict[str, Any]:
    """One issue of an OperationOutcome; `expression` is the path of the element that failed."""
    details = {"text": f"Request {request_id}"} if request_id else None
    return filled(severity=severity, code=code, details=details, diagnostics=diagnostics, expression=list(expression))
