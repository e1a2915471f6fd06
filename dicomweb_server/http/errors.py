"""The one table from our errors to HTTP, and the one shape in which every error is answered."""

import html
import logging
from typing import Any

import falcon
import orjson

from dicomweb_server import errors
from dicomweb_server.http import pages

_log = logging.getLogger("dicomweb_server.errors")

# Looked up by class hierarchy: the most special class decides. A test walks the tree of errors against it.
STATUS: dict[type[errors.DicomwebError], int] = {
    errors.CallerError: 400,
    errors.BadRequest: 400,
    errors.TooCostly: 400,
    errors.BadDicom: 400,
    errors.NotDicom: 400,
    errors.NotFound: 404,
    errors.Gone: 410,
    errors.NotAcceptable: 406,
    errors.UnsupportedMedia: 415,
    errors.TooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    errors.Conflict: 409,
    errors.VersionConflict: 409,
    errors.PreconditionFailed: 412,
    errors.Invalid: 400,
    errors.Unprocessable: 422,
    errors.BadPixels: 422,
    errors.DecoderFailed: 422,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooManyRequests: 429,
    errors.ServerError: 500,
    errors.Busy: 503,
    errors.IssuerUnavailable: 503,
    errors.StorageError: 500,
    errors.StorageUnavailable: 503,
    errors.OutcomeUnknown: 503,
    errors.StorageFull: 503,
    errors.StorageCorrupt: 500,
    errors.LinkBroken: 500,
    errors.CodecError: 500,
    errors.MissingCodec: 501,
    errors.CodecBusy: 503,
    errors.ConfigError: 500,
}

_CODEC_RETRY_SECONDS = 5
_INTERNAL = "the server failed to answer; the log names the cause under this request id"


def status_of(exc: errors.DicomwebError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[kind] for kind in type(exc).__mro__ if kind in STATUS)


def handle_our_error(
    req: falcon.Request, resp: falcon.Response, exc: errors.DicomwebError, _params: dict[str, Any]
) -> None:
    """Answer one of our own errors."""
    status = status_of(exc)
    hidden = status == 500 and not isinstance(exc, errors.StorageCorrupt)
    if status >= 500 and not isinstance(exc, errors.Busy):
        traceback = exc if status == 500 and not isinstance(exc, errors.LinkBroken) else None
        _log.error("%s", exc.message, exc_info=traceback, extra={"request_id": req.context.request_id})
    details: dict[str, object] = {}
    if isinstance(exc, errors.NotAcceptable) and exc.offered:
        details["offered"] = list(exc.offered)
    if isinstance(exc, errors.StorageUnavailable | errors.Busy | errors.IssuerUnavailable | errors.TooManyRequests):
        resp.set_header("Retry-After", str(exc.retry_after_seconds))
    if isinstance(exc, errors.CodecBusy):
        resp.set_header("Retry-After", str(_CODEC_RETRY_SECONDS))
    if isinstance(exc, errors.RangeNotSatisfiable):
        resp.set_header("Content-Range", f"bytes */{exc.size_bytes}")
    if isinstance(exc, errors.Unauthenticated):
        for challenge in exc.challenges:
            resp.append_header("WWW-Authenticate", challenge)
    answer_error(req, resp, status, _INTERNAL if hidden else exc.message, cause=exc, **details)


def handle_falcon_error(
    req: falcon.Request, resp: falcon.Response, exc: falcon.HTTPError, _params: dict[str, Any]
) -> None:
    """Answer an error of the framework: an unknown route, a method that a route does not have."""
    if exc.headers:
        resp.set_headers(exc.headers)
    if exc.status_code == 405:
        resp.set_header("Allow", req.context.route.allow)
    reasons = {404: "no such resource", 405: "this resource does not have this method"}
    answer_error(req, resp, exc.status_code, reasons.get(exc.status_code) or exc.title or "the request is malformed")


def handle_unexpected(req: falcon.Request, resp: falcon.Response, exc: Exception, _params: dict[str, Any]) -> None:
    """Answer what nobody foresaw, without internals; the log has them."""
    kind = type(exc).__name__
    _log.error("unexpected %s", kind, exc_info=exc, extra={"request_id": req.context.request_id})
    answer_error(req, resp, 500, _INTERNAL)


def answer_error(
    req: falcon.Request,
    resp: falcon.Response,
    status: int,
    reason: str,
    *,
    cause: errors.DicomwebError | None = None,
    **details: object,
) -> None:
    """The one shape: JSON, or a page where a browser asks for one. Where another protocol has a shape of its own, what
    stands at `req.context.write_error` writes that instead."""
    resp.status = status
    resp.stream = None
    resp.text = None
    if write := getattr(req.context, "write_error", None):
        write(req, resp, status, reason, cause)
        return
    title = falcon.util.code_to_http_status(status).partition(" ")[2]
    request_id = req.context.request_id
    if _wants_page(req):
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("Content-Security-Policy", pages.policy())
        address = getattr(req.context, "address", None)  # none where the request ended before it was known
        resp.data = _page(f"{status} {title}", reason, request_id, root="" if address is None else address.root)
        return
    resp.content_type = "application/json"
    resp.data = orjson.dumps({"status": status, "error": title, "reason": reason, **details, "request_id": request_id})


def _wants_page(req: falcon.Request) -> bool:
    accept = req.get_header("Accept") or ""
    return "text/html" in accept and "json" not in accept and "multipart" not in accept


def _page(title: str, reason: str, request_id: str, *, root: str) -> bytes:
    start = f"<p><a href='{html.escape(root, quote=True)}/'>Start page</a></p>" if root else ""
    told = f"<p>{html.escape(reason)}</p>{start}<p><small>Request {html.escape(request_id)}</small></p>"
    return pages.page(title, f"<h1>{html.escape(title)}</h1>{told}", width="40em")
