"""The front door: what is true of every request and every answer, whatever the route.

Request ids, the check of Host and Origin, CORS, security headers; `served.py` notes what became of it.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import falcon

from dicomweb_server.errors import Forbidden
from dicomweb_server.http.address import AddressRules, address_of
from dicomweb_server.http.resources.wado_uri import is_wado_uri
from dicomweb_server.http.served import note
from dicomweb_server.http.table import MountedRoute
from dicomweb_server.metrics import Metrics

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = (
    "Accept, Authorization, Content-Type, Range, If-Range, If-Match, If-None-Match, If-Modified-Since, Cache-Control, "
    "If-None-Exist, Prefer, X-Requested-With"
)
_EXPOSED = (
    "Content-Type, Content-Length, Content-Range, Content-Location, Content-Disposition, Accept-Ranges, Location, "
    "ETag, Warning, Retry-After, WWW-Authenticate, X-Request-Id, X-Decode-Level"
)


class FrontDoor:
    """Falcon middleware around every route, and around what is no route."""

    def __init__(
        self, *, rules: AddressRules, allowed_origins: frozenset[str], metrics: Metrics, hsts_seconds: int = 0
    ) -> None:
        self._rules = rules
        self._hsts_seconds = hsts_seconds
        self._allowed_origins = allowed_origins
        self._metrics = metrics
        self._homes = {path for prefix in rules.prefixes for path in (prefix or "/", prefix + "/")}

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Find the address, refuse foreign writes, answer preflights."""
        req.context.request_id = secrets.token_hex(8)
        req.context.started = time.perf_counter()
        req.context.received_bytes = 0
        req.context.origin_allowed = False
        req.context.address = address_of(req, self._rules)
        origin = req.env.get("HTTP_ORIGIN")
        if origin is not None:
            own = origin == req.context.address.origin
            listed = origin in self._allowed_origins or "*" in self._allowed_origins
            req.context.origin_allowed = own or listed
        self._refuse_foreign_writes(req, origin)
        if req.method == "OPTIONS" and origin is not None and req.get_header("Access-Control-Request-Method"):
            # A preflight asks before the route is known; the request itself then gets the right answer, also a 404.
            resp.status = 204
            resp.set_header("Allow", _METHODS)
            resp.complete = True
        elif req.query_string and req.path in self._homes and is_wado_uri(req):
            req.path = req.path.rstrip("/") + "/wado"  # older viewers have WADO-URI at the root

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _fields: Mapping[str, str]
    ) -> None:
        """Note the entry of the route table; only a path that is a route comes here."""
        if isinstance(resource, MountedRoute):
            req.context.route = resource.route

    def _refuse_foreign_writes(self, req: falcon.Request, origin: str | None) -> None:
        """A form of another site can post without preflight and without login (multipart/form-data is "simple"): a
        browser tells where it comes from, other clients send neither header."""
        if req.method in _READING or req.context.origin_allowed:
            return
        if origin is not None:
            raise Forbidden("a page of another origin may not write here (http.allowed_origins lists those that may)")
        if req.env.get("HTTP_SEC_FETCH_SITE") == "cross-site":
            raise Forbidden("a page of another site may not write here")

    def process_response(self, req: falcon.Request, resp: falcon.Response, _resource: object, _ok: bool) -> None:
        """Headers of every answer, also of errors."""
        context = req.context
        resp.set_header("X-Request-Id", context.request_id)
        resp.set_header("X-Content-Type-Options", "nosniff")
        if resp.get_header("Referrer-Policy") is None:
            resp.set_header("Referrer-Policy", "same-origin")  # a URL here names a study
        if self._hsts_seconds and context.address.root.startswith("https:"):
            resp.set_header("Strict-Transport-Security", f"max-age={self._hsts_seconds}")
        resp.set_header("Cross-Origin-Resource-Policy", "cross-origin" if self._allowed_origins else "same-origin")
        resp.append_header("Vary", "Origin")
        origin = req.env.get("HTTP_ORIGIN")
        if origin is not None and context.origin_allowed:
            resp.set_header("Access-Control-Allow-Origin", origin)
            if "*" not in self._allowed_origins:
                resp.set_header("Access-Control-Allow-Credentials", "true")
            resp.set_header("Access-Control-Expose-Headers", _EXPOSED)
            if req.method == "OPTIONS":
                resp.set_header("Access-Control-Allow-Methods", _METHODS)
                resp.set_header("Access-Control-Allow-Headers", _REQUEST_HEADERS)
                resp.set_header("Access-Control-Max-Age", "7200")
        note(req, resp, self._metrics)


StartResponse = Callable[..., Any]


class HeadAsGet:
    """WSGI wrapper: HEAD takes the way of GET, so that its headers are true, and sends no body (RFC 9110 9.3.2)."""

    def __init__(self, app: Callable[[dict[str, Any], StartResponse], Iterable[bytes]]) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry."""
        if environ["REQUEST_METHOD"] != "HEAD":
            return self.app(environ, start_response)
        body = self.app({**environ, "REQUEST_METHOD": "GET", "dicomweb.method": "HEAD"}, start_response)
        close = getattr(body, "close", None)
        if close is not None:
            close()
        return []
