"""Sessions, kept as documents in the storage: what a refresh token or a cookie of a browser stands for.

A refresh token is good for one use; each gives the next. One that comes a second time, however many were given since,
was stolen, or its successor was: the session ends, and both have to log in again (RFC 9700 4.14). What has ended is
purged once it would have expired.
"""

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from dicomweb_server.auth import expiry
from dicomweb_server.errors import NotFound, Unauthenticated, VersionConflict
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document

KIND = expiry.SESSION
_TRIES = 5
_SECRET_BYTES, _SECRET_LENGTH = 32, 43  # in base64url


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session. `expires`, and `confirmed` when the login was last known to be good, are in seconds since 1970;
    `facts` is what the login knew then."""

    session_id: str
    user: str
    expires: float
    confirmed: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Sessions:
    """All sessions. `clock` gives seconds since 1970."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock

    def begin(self, user: str, *, seconds: int, facts: Mapping[str, Any] | None = None) -> tuple[Session, str]:
        """A new session and its first refresh token."""
        session_id, secret = secrets.token_urlsafe(18), secrets.token_urlsafe(_SECRET_BYTES)
        body = {
            "user": user,
            "expires": self._clock() + seconds,
            "seconds": seconds,
            "confirmed": self._clock(),
            "facts": dict(facts or {}),
            "current": _digest(secret),
        }
        self._put(session_id, body, expected_version=0)
        return _session(session_id, body), f"{session_id}.{secret}"

    def get(self, session_id: str) -> Session:
        """A session that has neither ended nor expired. Raises Unauthenticated."""
        document = self._document(session_id)
        return _session(session_id, document.body)

    def renew(self, token: str, *, extend: bool = True) -> tuple[Session, str]:
        """The session of a refresh token, and the token for the next time. Without `extend` it ends when it would have
        ended. Raises Unauthenticated."""
        session_id, _, secret = token.partition(".")
        for _ in range(_TRIES):
            document = self._document(session_id)
            body, digest = dict(document.body), _digest(secret)
            if not hmac.compare_digest(digest, body["current"]):
                if len(secret) == _SECRET_LENGTH:  # one of before, however long ago
                    self.end(session_id)
                    raise Unauthenticated("this refresh token was used before; log in again")
                raise Unauthenticated("this is no refresh token of this server, or it has expired")
            following = secrets.token_urlsafe(_SECRET_BYTES)
            body["current"] = _digest(following)
            if extend:
                body["expires"] = self._clock() + body["seconds"]
            try:
                self._put(session_id, body, expected_version=document.version)
            except VersionConflict:
                continue  # it was confirmed meanwhile, or the token was used twice at once: the next look tells
            return _session(session_id, body), f"{session_id}.{following}"
        self.end(session_id)
        raise Unauthenticated("this refresh token was used many times at once; log in again")

    def claim(self, session: Session) -> bool:
        """Whether the caller is the one to find out that a login is still good; the others need not, for a while."""
        document = self._document(session.session_id)
        if document.body.get("confirmed", 0.0) != session.confirmed:
            return False
        body = {**document.body, "confirmed": self._clock()}
        try:
            self._put(session.session_id, body, expected_version=document.version)
        except VersionConflict:
            return False
        return True

    def keep(self, session_id: str, facts: Mapping[str, Any]) -> Session:
        """The session with what is known of its login now. Raises Unauthenticated where it has ended meanwhile."""
        for _ in range(_TRIES):
            document = self._document(session_id)
            body = {**document.body, "facts": dict(facts)}
            try:
                self._put(session_id, body, expected_version=document.version)
            except VersionConflict:
                continue
            return _session(session_id, body)
        raise Unauthenticated("the session changes too often; log in again")

    def end(self, session_id: str) -> None:
        """End it; one that is not there has ended already. Nothing is left but that it was."""
        try:
            body = self._storage.get_document(kind=KIND, document_id=session_id).body
        except NotFound:
            return
        self._put(session_id, {"user": body["user"], "expires": body["expires"], "ended": True})

    def _document(self, session_id: str) -> Document:
        try:
            if not 0 < len(session_id) <= 64 or not session_id.isascii():
                raise NotFound("no session")
            document = self._storage.get_document(kind=KIND, document_id=session_id)
        except NotFound:
            raise Unauthenticated("the session has ended; log in again") from None
        if document.body.get("ended"):
            raise Unauthenticated("the session has ended; log in again")
        if document.body["expires"] < self._clock():
            raise Unauthenticated("the session has expired; log in again")
        return document

    def _put(self, session_id: str, body: Mapping[str, Any], *, expected_version: int | None = None) -> None:
        keys = {"user": (str(body["user"]),), expiry.KEY: (expiry.stamp(body["expires"]),)}
        kept = self._storage.put_document(
            kind=KIND, document_id=session_id, body=body, keys=keys, expected_version=expected_version
        )
        self._storage.forget_versions(kind=KIND, document_id=session_id, before=kept.version)


def _session(session_id: str, body: Mapping[str, Any]) -> Session:
    return Session(
        session_id=session_id,
        user=body["user"],
        expires=body["expires"],
        confirmed=body.get("confirmed", 0.0),
        facts=body["facts"],
    )


def _digest(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
