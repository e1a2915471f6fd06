"""Logging in and out: tokens for programs, a cookie for browsers, and the paths that older clients know."""

import html
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import falcon
import orjson

from dicomweb_server.auth.gate import Gate, Granted
from dicomweb_server.auth.rights import Identity
from dicomweb_server.errors import BadRequest, Forbidden, NotFound, Unauthenticated
from dicomweb_server.http import pages
from dicomweb_server.http.errors import answer_error
from dicomweb_server.http.forms import read_fields
from dicomweb_server.http.guard import BEARER, MAX_TRIED_NAME, SESSION_COOKIE, SHARE_COOKIE, Guard
from dicomweb_server.http.params import first_parameter, query_parameters
from dicomweb_server.permissions import Permission

STATE_COOKIE = "dicomweb_login"
STATE_SECONDS = 600
CALLBACK = "/login/callback"
_OFF = 'nobody has to log in here (auth.method is "none")'

_STYLE = (
    "label{display:block;margin:1em 0}input{width:100%;border-color:var(--soft)}.soft{margin:0}.bad{margin:1em 0 0}"
    "button{width:100%;margin-top:.5em;padding:.6em;background:var(--link);border-color:var(--link);color:var(--face)}"
    "main{margin-top:8vh}"
)


class LoginResource:
    """`/login` and what belongs to it. `gate` is None where nobody has to log in."""

    def __init__(self, gate: Gate | None, guard: Guard, *, viewer: str) -> None:
        self._viewer = viewer
        self._gate = gate
        self._guard = guard

    # Login

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The form; or on to where this site logs in."""
        gate = self._on()
        after = _local(first_parameter(req, "next"))
        try:
            url, kept = gate.authenticator.login_url(redirect_uri=_root(req) + CALLBACK, after=after)
        except NotFound:
            _send_page(resp, after=after)
            return
        token = gate.kept.sign({**kept, "after": after}, seconds=STATE_SECONDS)
        _set_cookie(req, resp, STATE_COOKIE, token, seconds=STATE_SECONDS)
        _redirect(resp, url)

    def on_get_callback(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Back from where this site logs in (OpenID Connect Core 3.1.2.5)."""
        gate = self._on()
        kept = gate.kept.verify(req.cookies.get(STATE_COOKIE, ""))
        identity, facts = gate.authenticator.complete_login(
            parameters=dict(query_parameters(req)), kept=kept, redirect_uri=_root(req) + CALLBACK
        )
        _drop_cookie(req, resp, STATE_COOKIE)
        req.context.identity = identity
        granted = gate.begin(identity, facts)
        self._set_session(req, resp, gate, granted)
        _redirect(resp, _root(req) + _local(str(kept.get("after", "/"))))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name and password for tokens, and a cookie where the form of a page asks."""
        gate = self._on()
        fields = read_fields(req)
        page = "text/html" in (req.get_header("Accept") or "")
        foreign = self._guard.is_foreign(req)
        if foreign and page:
            raise Forbidden("a page of another site may not log you in here")
        try:
            granted = self._login(req, gate, fields)
        except Unauthenticated as exc:
            if page:
                _send_page(resp, after=_local(fields.get("next")), user=fields["username"], failure=exc.message)
                resp.status = 401
            else:
                answer_error(req, resp, 401, exc.message, code=2, message=exc.message)
            resp.set_header("WWW-Authenticate", BEARER)
            return
        if not foreign:
            self._set_session(req, resp, gate, granted)
        if page:
            _redirect(resp, _root(req) + _local(fields.get("next")))
            return
        _send_json(resp, {"code": 1, "message": "login success", "token": granted.access_token, **_tokens(granted)})

    def on_post_refresh(self, req: falcon.Request, resp: falcon.Response) -> None:
        """New tokens for a refresh token, which is good for one use."""
        token = read_fields(req).get("refresh_token", "")
        if not token:
            raise BadRequest("the payload names no refresh_token")
        granted = self._on().refresh(token)
        req.context.identity = granted.identity
        _send_json(resp, _tokens(granted))

    def on_logout(self, req: falcon.Request, resp: falcon.Response) -> None:
        """End the session: its tokens and its cookie are worth nothing from now on."""
        gate = self._on()
        if self._guard.is_foreign(req):
            raise Forbidden("a page of another site may not log you out here")
        session = None
        try:
            identity = self._guard.identify(req)
            req.context.identity = identity
            session = gate.logout(identity)
        except Unauthenticated:
            pass  # who is logged out may log out
        for name in (SESSION_COOKIE, SHARE_COOKIE):
            _drop_cookie(req, resp, name)
        home = _root(req) + "/"
        url = gate.authenticator.logout_url(session, after=home) if session else ""
        if "text/html" in (req.get_header("Accept") or ""):
            _redirect(resp, url or home)
        else:
            _send_json(resp, {"code": 1, "message": "logged out", **({"logout_url": url} if url else {})})

    # What older clients ask

    def on_post_check(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whether the token of the request is good."""
        try:
            identity = self._guard.identify(req)
        except Unauthenticated as exc:
            answer_error(req, resp, 401, exc.message, code=2, message=exc.message)
            return
        if identity.is_anonymous and self._gate is not None:
            answer_error(req, resp, 401, "no token was sent", code=2, message="no token was sent")
            return
        _send_json(resp, {"code": 1, "message": "the token is good", "user": _shown(identity)})

    def on_post_legacy_token(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A token with the word Bearer before it."""
        granted = self._login(req, self._on(), read_fields(req))
        token = f"Bearer {granted.access_token}"
        _send_json(resp, {"code": 1, "message": "login success", "token": token, "username": granted.identity.name})

    def on_get_profile(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Who is logged in, and what they may do."""
        _send_json(resp, _shown(self._guard.identify(req)))

    def on_get_is_login(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Whether anybody is logged in."""
        try:
            identity = self._guard.identify(req)
        except Unauthenticated:
            identity = Identity(name="", kind="anonymous")
        _send_json(resp, {"isLogin": not identity.is_anonymous, "username": identity.name})

    # Share links

    def on_get_share(self, req: falcon.Request, resp: falcon.Response, token: str) -> None:
        """Open a link: it becomes a cookie that is good for its study, and the viewer shows that."""
        gate = self._on()
        share = gate.shares.find(token)
        req.context.identity = gate.shares.identity(token)
        req.context.fields = {"study_uid": share.study_uid}
        seconds = max(1, int(share.expires - gate.now()))
        _set_cookie(req, resp, SHARE_COOKIE, token, seconds=seconds)
        _drop_cookie(req, resp, SESSION_COOKIE)
        resp.set_header("Referrer-Policy", "no-referrer")
        _redirect(resp, f"{_root(req)}{self._viewer}/viewer?StudyInstanceUIDs={quote(share.study_uid)}")

    # Parts

    def _on(self) -> Gate:
        if self._gate is None:
            raise NotFound(_OFF)
        return self._gate

    def _login(self, req: falcon.Request, gate: Gate, fields: Mapping[str, str]) -> Granted:
        user, password = fields.get("username", ""), fields.get("password", "")
        if not user or not password:
            raise BadRequest("the payload names username and password")
        req.context.identity = Identity(name=user[:MAX_TRIED_NAME], kind="anonymous")
        granted = gate.login(user, password, address=req.context.client_address)
        req.context.identity = granted.identity
        return granted

    def _set_session(self, req: falcon.Request, resp: falcon.Response, gate: Gate, granted: Granted) -> None:
        _set_cookie(req, resp, SESSION_COOKIE, granted.cookie, seconds=gate.rules.refresh_seconds)


def _root(req: falcon.Request) -> str:
    return str(req.context.address.root)


def _local(target: str | None) -> str:
    """A path on this server: nothing that a browser could read as another host."""
    target = target or "/"
    parts = urlsplit(target)
    fine = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if fine and not parts.netloc and "\\" not in target and len(target) < 2000 else "/"


def _set_cookie(req: falcon.Request, resp: falcon.Response, name: str, value: str, *, seconds: int) -> None:
    resp.set_cookie(
        name,
        value,
        max_age=seconds,
        path=urlsplit(_root(req)).path or "/",
        secure=_root(req).startswith("https:"),
        http_only=True,
        same_site="Lax",
    )


def _drop_cookie(req: falcon.Request, resp: falcon.Response, name: str) -> None:
    resp.unset_cookie(name, path=urlsplit(_root(req)).path or "/", same_site="Lax")


def _redirect(resp: falcon.Response, url: str) -> None:
    resp.status = 303
    resp.set_header("Location", url)
    resp.set_header("Cache-Control", "no-store")


def _tokens(granted: Granted) -> dict[str, object]:
    """As OAuth 2.0 names them (RFC 6749 5.1)."""
    return {
        "access_token": granted.access_token,
        "token_type": "Bearer",
        "expires_in": granted.expires_in,
        "refresh_token": granted.refresh_token,
    }


def _shown(identity: Identity) -> dict[str, object]:
    return {
        "username": identity.name,
        "kind": identity.kind,
        "roles": list(identity.roles),
        "permissions": sorted(identity.permissions - {Permission.PUBLIC}),
        "restricted": bool(identity.terms),
    }


def _send_json(resp: falcon.Response, body: Mapping[str, object]) -> None:
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "no-store")
    resp.data = orjson.dumps(body)


def _send_page(resp: falcon.Response, *, after: str, user: str = "", failure: str = "") -> None:
    resp.content_type = "text/html; charset=utf-8"
    resp.set_header("Cache-Control", "no-store")
    resp.set_header("Referrer-Policy", "same-origin")
    resp.set_header("Content-Security-Policy", pages.policy())
    bad = f"<p class=bad role=alert>{html.escape(failure[:1].upper() + failure[1:])}.</p>" if failure else ""
    name = f" value='{html.escape(user[:MAX_TRIED_NAME], quote=True)}'" if user else " autofocus"
    body = (
        f"<main><h1>Log in</h1><p class=soft>to the image archive</p>{bad}"
        f"<form method=post><label>User<input name=username autocomplete=username autocapitalize=none spellcheck=false"
        f"{name} required></label>"
        f"<label>Password<input name=password type=password autocomplete=current-password{' autofocus' if user else ''}"
        " required></label>"
        f"<input type=hidden name=next value='{html.escape(after, quote=True)}'><button>Log in</button></form></main>"
    )
    resp.data = pages.page("Log in: dicomweb-server", body, width="24em", style=_STYLE)
