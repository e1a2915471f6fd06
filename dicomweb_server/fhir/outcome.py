"""Errors below the FHIR root: always an OperationOutcome, also for paths that are no route."""

import falcon
import orjson

from dicomweb_server import errors
from dicomweb_server.fhir import bundles, formats, models
from dicomweb_server.fhir.values import Json
from dicomweb_server.http.errors import status_of

# http://hl7.org/fhir/R4/valueset-issue-type.html
_CODES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    406: "not-supported",
    409: "conflict",
    410: "deleted",
    412: "conflict",
    413: "too-long",
    415: "not-supported",
    422: "business-rule",
    429: "throttled",
    503: "transient",
    507: "no-store",
}


class OutcomeFront:
    """Falcon middleware before all others: what fails below the root is told as FHIR tells it."""

    def __init__(self, base: str) -> None:
        self._base = base

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Say who writes errors."""
        if req.path == self._base or req.path.startswith(self._base + "/"):
            req.context.write_error = write_outcome


def write_outcome(
    req: falcon.Request, resp: falcon.Response, status: int, reason: str, cause: errors.DicomwebError | None
) -> None:
    """Answer an error."""
    resource = outcome_of(status, reason, cause, request_id=getattr(req.context, "request_id", ""))
    try:
        media = formats.wanted_media(req)
    except errors.DicomwebError:
        media = formats.JSON
    resp.content_type = f"{media}; charset=utf-8"
    resp.data = models.to_xml(resource) if media == formats.XML else orjson.dumps(resource)


def outcome_of(status: int, reason: str, cause: errors.DicomwebError | None, *, request_id: str = "") -> Json:
    """The OperationOutcome of an error, with the path of each element that failed."""
    code = "too-costly" if isinstance(cause, errors.TooCostly) else _CODES.get(status, "exception")
    severity = "fatal" if status == 500 else "error"
    if isinstance(cause, errors.Invalid) and cause.problems:
        return bundles.outcome(
            *(
                bundles.issue(code, message, expression=[path], request_id=request_id)
                for path, message in cause.problems
            )
        )
    return bundles.outcome(bundles.issue(code, reason, severity=severity, request_id=request_id))


def outcome_of_error(exc: errors.DicomwebError) -> tuple[int, Json]:
    """Status and OperationOutcome of an error in an entry of a batch."""
    status = status_of(exc)
    reason = exc.message if status != 500 else "the server failed to answer"
    return status, outcome_of(status, reason, exc)
