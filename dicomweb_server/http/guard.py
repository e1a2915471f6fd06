"""The guard: asks for every route whether who asks may use it. It takes the permission from the route table."""

import base64
import binascii
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

import falcon

from dicomweb_server.auth.gate import NOBODY_ASKED, Credentials, Gate
from dicomweb_server.auth.rights import Identity
from dicomweb_server.errors import Forbidden, IssuerUnavailable, TooManyRequests, Unauthenticated
from dicomweb_server.http.address import client_address
from dicomweb_server.http.pace import Pace
from dicomweb_server.http.params import accepted
from dicomweb_server.http.table import MountedRoute, Operation
from dicomweb_server.permissions import Permission
from dicomweb_server.services.scoped import see_through

BEARER = 'Bearer realm="dicomweb-server"'
SESSION_COOKIE, SHARE_COOKIE = "dicomweb_session", "dicomweb_share"
MAX_TRIED_NAME = 64
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_VIEWER = "viewer."
_TAKES_AWAY = frozenset(
    entity + what
    for entity in ("/studies/{study_uid}", "/studies/{study_uid}/series/{series_uid}")
    for what in ("", "/bulkdata", "/pixeldata")
)
_ZIP = "application/zip"
_NOBODY = Identity(name="", kind="anonymous")


class Witness(Protocol):
    """What is told of everything that was asked for and allowed or not, before the answer is sent."""

    def sees_coming(self, req: falcon.Request, operation: Operation) -> None:
        """It is allowed and about to be done."""

    def saw(self, req: falcon.Request, resp: falcon.Response, identity: Identity, operation: Operation) -> None:
        """Note it."""


class Guard:
    """Falcon middleware. `gate` is None where nobody has to log in.

    listed_origins: pages of these may write with the cookie of a session, besides our own.
    """

    def __init__(
        self,
        gate: Gate | None,
        *,
        trusted_proxies: tuple[str, ...],
        listed_origins: frozenset[str] = frozenset(),
        witness: Witness | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace
        self.gate = gate
        self._trusted_proxies = trusted_proxies
        self._listed_origins = listed_origins - {"*"}
        self._witness = witness

    def process_request(self, req: falcon.Request, _resp: falcon.Response) -> None:
        """Until somebody is known, nothing is seen; the thread may have served someone else before."""
        see_through(())
        req.context.identity = _NOBODY
        req.context.operation = None
        req.context.client_address = self.address(req)
        if self._pace is not None and not req.path.startswith("/health"):
            self._pace.check(req.context.client_address)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, fields: Mapping[str, str]
    ) -> None:
        """Refuse who may not. A resource that is in no route table is for administrators."""
        if isinstance(resource, MountedRoute):
            if req.method == "OPTIONS":
                return
            operation = resource.operation(req)
            if operation is None:
                return  # 405
            permission = operation.permission
        else:
            operation, permission = None, Permission.ADMIN
        req.context.operation = operation
        req.context.fields = fields
        if self.gate is None:
            req.context.identity = NOBODY_ASKED
            return
        if permission is Permission.PUBLIC and not (operation and operation.responder.startswith(_VIEWER)):
            return
        self._admit(req, resp, permission)
        see_through(req.context.identity.terms)
        if self._witness is not None and operation is not None and not resp.complete:
            self._witness.sees_coming(req, operation)

    def process_response(self, req: falcon.Request, resp: falcon.Response, _resource: object, _ok: bool) -> None:
        """Tell the witness, and caches: what one may see is not what another may."""
        if self.gate is not None:
            resp.append_header("Vary", "Authorization, Cookie, X-Api-Key, X-Access-Token")
        operation = getattr(req.context, "operation", None)
        if self._witness is not None and operation is not None:
            self._witness.saw(req, resp, req.context.identity, operation)

    def identify(self, req: falcon.Request) -> Identity:
        """Who asks, for routes that are public but differ for who is logged in. Raises as `Gate.identify`."""
        if self.gate is None:
            return NOBODY_ASKED
        credentials = self.credentials(req)
        if req.context.identity is _NOBODY:
            _note_attempt(req, credentials)
        return self.gate.identify(credentials)

    def still_admits(self, req: falcon.Request) -> bool:
        """Whether who asked at the beginning of a long answer could ask again: their login has neither ended nor
        changed. An issuer that is down changes nothing."""
        try:
            return bool(self.identify(req) == req.context.identity)
        except IssuerUnavailable:
            return True
        except (Unauthenticated, TooManyRequests):
            return False

    def credentials(self, req: falcon.Request) -> Credentials:
        """What a request brings to say whose it is. Older clients have tokens in x-access-token, scripts in
        X-Api-Key."""
        scheme, _, value = (req.get_header("Authorization") or "").strip().partition(" ")
        scheme, value = scheme.lower(), value.strip()
        other = req.get_header("X-Api-Key") or req.get_header("X-Access-Token")
        if not scheme and other:
            scheme, value = "bearer", other.strip().removeprefix("Bearer ")
        user, password = _basic(value) if scheme == "basic" else ("", "")
        cookies = req.cookies if "HTTP_COOKIE" in req.env else {}
        return Credentials(
            scheme=scheme,
            token=value if scheme != "basic" else "",
            user=user,
            password=password,
            session_cookie=cookies.get(SESSION_COOKIE, ""),
            share_cookie=cookies.get(SHARE_COOKIE, ""),
            address=req.context.client_address,
        )

    def address(self, req: falcon.Request) -> str:
        """Where a request comes from."""
        return client_address(req, self._trusted_proxies)

    def _admit(self, req: falcon.Request, resp: falcon.Response, permission: Permission) -> None:
        credentials = self.credentials(req)
        _note_attempt(req, credentials)
        page = req.method == "GET" and "text/html" in (req.get_header("Accept") or "")
        viewer = permission is Permission.PUBLIC
        try:
            identity = self.gate.identify(credentials) if self.gate else NOBODY_ASKED
        except Unauthenticated as exc:
            if page:
                _to_login(req, resp)
                return
            if viewer:
                return
            exc.challenges = self._challenges(req, refused=credentials.scheme == "bearer" and credentials.in_header)
            raise
        req.context.identity = identity
        by_cookie = not credentials.in_header and identity.kind in ("user", "share")
        if by_cookie and req.method not in _READING and self._is_foreign(req, unknown=True):
            raise Forbidden("a page of another site may not write here; programs log in with a token")
        if not identity.may(permission):
            if identity.is_anonymous:
                refusal = Unauthenticated(f"log in first: this needs the permission {permission}")
                refusal.challenges = self._challenges(req)
                raise refusal
            raise Forbidden(f"{identity.name} may not do this: it needs the permission {permission}")
        if identity.view_only and _takes_away(req):
            raise Forbidden("this link is for viewing; it does not give whole studies and series")

    def is_foreign(self, req: falcon.Request) -> bool:
        """Whether a page of another site, which is not listed, makes the browser ask without a token of its own. Such
        a page may neither log somebody in nor out."""
        return not self.credentials(req).in_header and self._is_foreign(req, unknown=False)

    def _is_foreign(self, req: falcon.Request, *, unknown: bool) -> bool:
        """A cookie comes with whatever page asks: only our own pages, and listed ones, may use it. unknown: what to
        think of who tells nothing."""
        origin, site = req.get_header("Origin"), req.get_header("Sec-Fetch-Site")
        if origin is not None:
            return origin != req.context.address.origin and origin not in self._listed_origins
        return unknown if site is None else site not in ("same-origin", "none")

    def _challenges(self, req: falcon.Request, *, refused: bool = False) -> tuple[str, ...]:
        """A browser opens its own window for Basic, which the requests of a page must not do. refused: a token came
        that is not good, which programs tell from none (RFC 6750 3.1)."""
        bearer = BEARER + (', error="invalid_token"' if refused else "")
        if req.get_header("Sec-Fetch-Mode") or self.gate is None or not self.gate.rules.basic:
            return (bearer,)
        return (bearer, 'Basic realm="dicomweb-server", charset="UTF-8"')


def _note_attempt(req: falcon.Request, credentials: Credentials) -> None:
    """Who is tried with a password, for the record of what is refused: a name, not what is longer than names are."""
    if credentials.scheme == "basic":
        req.context.identity = Identity(name=credentials.user[:MAX_TRIED_NAME], kind="anonymous")
        req.context.password_tried = True


def _basic(value: str) -> tuple[str, str]:
    """User and password of Basic (RFC 7617)."""
    try:
        user, colon, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise Unauthenticated("the Authorization header is malformed") from None
    if not colon:
        raise Unauthenticated("the Authorization header is malformed")
    return user, password


def _to_login(req: falcon.Request, resp: falcon.Response) -> None:
    """Send a browser to the login page, and back after it."""
    target = req.relative_uri if req.relative_uri.startswith("/") else "/"
    root = req.context.address.root
    resp.status = 303
    resp.set_header("Location", f"{root}/login?next={quote(target, safe='/')}")
    resp.set_header("Cache-Control", "no-store")
    resp.complete = True


def _takes_away(req: falcon.Request) -> bool:
    """Whether this gives a whole study or series, or a zip of anything."""
    route = getattr(req.context, "route", None)
    if route is not None and route.template in _TAKES_AWAY:
        return True
    return any(wanted.media == _ZIP for wanted in accepted(req))
