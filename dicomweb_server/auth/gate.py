"""The one place that says who a request is of, whatever it brings: password, token, key, cookie or link."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dicomweb_server.auth.base import Authenticator, Parts
from dicomweb_server.auth.expiry import is_recent, purge_expired
from dicomweb_server.auth.keys import PREFIX, ApiKeys
from dicomweb_server.auth.remembered import Remembered
from dicomweb_server.auth.rights import ANONYMOUS, EVERYTHING, Identity
from dicomweb_server.auth.sessions import Session, Sessions
from dicomweb_server.auth.shares import Shares
from dicomweb_server.auth.tokens import Signer
from dicomweb_server.errors import IssuerUnavailable, Unauthenticated
from dicomweb_server.permissions import Permission

NO_TOKEN = frozenset({"", "none", "null", "undefined"})
"""What clients without a token send as one: dicomweb_client sends None, pages null and undefined."""
REREAD_SECONDS = 2.0
MAX_REMEMBERED = 5000
PURGED_AT_ONCE = 500

NOBODY_ASKED = Identity(name="", kind=ANONYMOUS, roles=("admin",), permissions=EVERYTHING)
"""Whoever asks, where nobody has to log in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request brings. `scheme` is that of Authorization, in lower case."""

    scheme: str = ""
    token: str = ""
    user: str = ""
    password: str = ""
    session_cookie: str = ""
    share_cookie: str = ""
    address: str = ""

    @property
    def in_header(self) -> bool:
        """Whether a header names somebody: a cookie that comes with it is then not asked."""
        return self.scheme != "" and not (self.scheme == "bearer" and self.token.casefold() in NO_TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What is allowed. anonymous: who is not logged in, None where everybody must. strict: a token that cannot be used
    is refused also where anonymous access is allowed."""

    anonymous: Identity | None
    strict: bool
    basic: bool
    access_seconds: int
    refresh_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a login gives: tokens, and the value of the cookie for a browser."""

    identity: Identity
    access_token: str
    refresh_token: str
    cookie: str
    expires_in: int


class Gate:
    """Who asks, and logging in and out. `clock` gives seconds since 1970."""

    def __init__(
        self,
        authenticator: Authenticator,
        parts: Parts,
        *,
        secret: str,
        rules: GateRules,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.rules = rules
        self.authenticator = authenticator
        self.keys = ApiKeys(parts.storage, clock=clock)
        self.shares = Shares(parts.storage, Signer(secret, "share", clock=clock), clock=clock)
        self.kept = Signer(secret, "login", clock=clock)
        self._parts = parts
        self._sessions = Sessions(parts.storage, clock=clock)
        self._access = Signer(secret, "access", clock=clock)
        self._cookies = Signer(secret, "cookie", clock=clock)
        self._clock = clock
        self._remembered: Remembered[str, Identity] = Remembered(seconds=REREAD_SECONDS, most=MAX_REMEMBERED)

    def identify(self, credentials: Credentials) -> Identity:
        """Who it is. Raises Unauthenticated, TooManyRequests, IssuerUnavailable."""
        try:
            found = self._named(credentials)
        except Unauthenticated:
            if self.rules.anonymous is None or self.rules.strict or credentials.scheme != "bearer":
                raise
            found = None
        if found is not None:
            return found
        if self.rules.anonymous is None:
            raise Unauthenticated("log in first")
        return self.rules.anonymous

    def login(self, user: str, password: str, *, address: str) -> Granted:
        """Log in with a password. Raises as `Authenticator.password`."""
        identity = self.authenticator.password(user, password, address=address)
        return self.begin(identity, self.authenticator.facts(identity))

    def begin(self, identity: Identity, facts: Mapping[str, Any]) -> Granted:
        """A session for somebody who has logged in."""
        session, refresh = self._sessions.begin(identity.name, seconds=self.rules.refresh_seconds, facts=facts)
        return self._granted(identity, session, refresh)

    def refresh(self, token: str) -> Granted:
        """New tokens for a refresh token. Raises Unauthenticated."""
        session, refresh = self._sessions.renew(token, extend=not self.authenticator.confirm_seconds)
        session = self._confirmed(session)
        return self._granted(self.authenticator.of_session(session), session, refresh)

    def logout(self, identity: Identity) -> Session | None:
        """End the session; gives what it was."""
        if not identity.session:
            return None
        try:
            session = self._sessions.get(identity.session)
        except Unauthenticated:
            return None
        self._sessions.end(identity.session)
        self._remembered.forget(identity.session)
        return session

    def purge_expired(self) -> int:
        """Delete for good some of the sessions and waits that have expired; gives how many."""
        return purge_expired(self._parts.storage, now=self._clock(), limit=PURGED_AT_ONCE)

    def now(self) -> float:
        """Seconds since 1970, by the clock of this gate."""
        return self._clock()

    def close(self) -> None:
        """Release connections."""
        self.authenticator.close()

    def _granted(self, identity: Identity, session: Session, refresh: str) -> Granted:
        claims = {"sub": identity.name, "sid": session.session_id}
        return Granted(
            identity=replace(identity, session=session.session_id),
            access_token=self._access.sign(claims, seconds=self.rules.access_seconds),
            refresh_token=refresh,
            cookie=self._cookies.sign(claims, seconds=self.rules.refresh_seconds),
            expires_in=self.rules.access_seconds,
        )

    def _named(self, credentials: Credentials) -> Identity | None:
        """Who is named; None where nobody is."""
        if credentials.scheme == "basic":
            return self._basic(credentials)
        if credentials.in_header:
            if credentials.scheme != "bearer":
                raise Unauthenticated("log in with a Bearer token or with Basic")
            return self._bearer(credentials.token)
        for cookie, read in ((credentials.session_cookie, self._session), (credentials.share_cookie, self._share)):
            if cookie:
                try:
                    return read(cookie)
                except Unauthenticated:
                    continue  # an old cookie is as good as none
        return None

    def _basic(self, credentials: Credentials) -> Identity:
        if credentials.password.startswith(PREFIX):
            return self._key(credentials.password)
        if not self.rules.basic:
            raise Unauthenticated("passwords are not taken with each request here; log in at /login")
        return self.authenticator.password(credentials.user, credentials.password, address=credentials.address)

    def _bearer(self, token: str) -> Identity:
        if token.startswith(PREFIX):
            return self._key(token)
        if self._access.is_own(token):
            return self._of_session(self._access.verify(token)["sid"])
        return self.authenticator.bearer(token)

    def _session(self, cookie: str) -> Identity:
        return self._of_session(self._cookies.verify(cookie)["sid"])

    def _of_session(self, session_id: str) -> Identity:
        """Read again after two seconds: so long a log-out or a change of the user may go unnoticed elsewhere."""
        now = self._clock()
        if (found := self._remembered.get(session_id, now)) is not None:
            return found
        session = self._confirmed(self._sessions.get(session_id))
        identity = replace(self.authenticator.of_session(session), session=session_id)
        self._remembered.put(session_id, identity, now)
        return identity

    def _confirmed(self, session: Session) -> Session:
        """The session, unless where one logs in says that the login is no longer good. While nobody answers there, it
        goes on: until its end at most."""
        every = self.authenticator.confirm_seconds
        if not every or is_recent(session.confirmed, self._clock(), every) or not self._sessions.claim(session):
            return session
        try:
            facts = self.authenticator.confirm(session)
        except IssuerUnavailable:
            return session
        except Unauthenticated:
            self._sessions.end(session.session_id)
            raise
        return self._sessions.keep(session.session_id, facts)

    def _key(self, text: str) -> Identity:
        key = self.keys.verify(text)
        identity = self._parts.identity(f"key:{key.name}", key.roles, kind="key", access=key.access)
        if key.permissions:
            narrowed = identity.permissions & frozenset(map(Permission, key.permissions))
            identity = replace(identity, permissions=narrowed)
        return identity

    def _share(self, cookie: str) -> Identity:
        return self.shares.identity(cookie)
