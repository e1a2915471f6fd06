"""What is noted of every request once it is answered: a line of the access log, and the figures of it.

The log names the route and the query keys, never a value of them: those identify patients.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import falcon
from falcon.typing import ReadableIO

from dicomweb_server.http.params import names
from dicomweb_server.metrics import Metrics

NO_ROUTE = "(no route)"

_access = logging.getLogger("dicomweb_server.access")


def note(req: falcon.Request, resp: falcon.Response, metrics: Metrics) -> None:
    """Note the request when its answer is complete: now, or when the last piece of a body of unknown length is sent."""
    length = _length(req, resp)
    if length is not None:
        _note(req, resp.status_code, length, metrics)
        return
    status = resp.status_code
    body = _Counted(cast(Iterable[bytes], resp.stream), lambda sent: _note(req, status, sent, metrics))
    resp.stream = cast(ReadableIO, body)


def _length(req: falcon.Request, resp: falcon.Response) -> int | None:
    """The size of the body; None where only its end tells."""
    if "dicomweb.method" in req.env:  # HEAD
        return 0
    if resp.data is not None:
        return len(resp.data)
    known = resp.content_length
    if known is not None:
        return int(known)
    return None if resp.stream is not None and not hasattr(resp.stream, "read") else 0


def _note(req: falcon.Request, status: int, sent: int, metrics: Metrics) -> None:
    seconds = time.perf_counter() - req.context.started
    method = req.env.get("dicomweb.method", req.method)
    route = req.uri_template or NO_ROUTE
    received = req.context.received_bytes
    metrics.request(method=method, route=route, status=status, seconds=seconds, received=received, sent=sent)
    if _access.isEnabledFor(logging.INFO):
        keys = names([(piece.partition("=")[0], "") for piece in req.query_string.split("&")[:100] if piece])
        _access.info(
            "%s %s%s %s %.1f ms %d bytes",
            method,
            route,
            f"?{keys}" if keys else "",
            status,
            seconds * 1000,
            sent,
            extra={
                "request_id": req.context.request_id,
                "method": method,
                "route": route,
                "query_keys": keys,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
                "received_bytes": received,
                "sent_bytes": sent,
            },
        )


class _Counted:
    """A body that counts what it gives, and tells once, however it ends."""

    def __init__(self, body: Iterable[bytes], told: Callable[[int], None]) -> None:
        self._body = body
        self._told: Callable[[int], None] | None = told
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._sent += len(piece)
            yield piece

    def close(self) -> None:
        """The answer is complete, or the client went away."""
        told, self._told = self._told, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if told is not None:
                told(self._sent)
