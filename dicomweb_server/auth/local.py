"""Logging in with users of this server, and with tokens of one other issuer: `auth.method = "jwt"`."""

from collections.abc import Mapping
from typing import Any, Self

from dicomweb_server.auth import passwords
from dicomweb_server.auth.base import Authenticator, Parts
from dicomweb_server.auth.failures import Failures
from dicomweb_server.auth.issuer import TokenReader, token_reader
from dicomweb_server.auth.remembered import PasswordKeys, Remembered
from dicomweb_server.auth.rights import Identity
from dicomweb_server.auth.sessions import Session
from dicomweb_server.auth.users import User, Users
from dicomweb_server.errors import Unauthenticated

REMEMBER_SECONDS = 60.0
MAX_REMEMBERED = 2000
WRONG = "the user name or the password is wrong"


class LocalLogin(Authenticator):
    """Users in the storage."""

    def __init__(self, parts: Parts, *, reader: TokenReader | None = None) -> None:
        self._parts = parts
        self._users = Users(parts.storage)
        self._failures = Failures(parts.storage, clock=parts.clock)
        self._keys = PasswordKeys()
        self._generations: Remembered[bytes, int] = Remembered(seconds=REMEMBER_SECONDS, most=MAX_REMEMBERED)
        self._reader = reader

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any], parts: Parts) -> Self:
        """With the table `[auth.jwt]`: which other issuer's tokens are taken; none where it is empty."""
        return cls(parts, reader=token_reader(settings, "jwt", clock=parts.clock))

    def bearer(self, token: str) -> Identity:
        """A token of the other issuer."""
        if self._reader is None:
            raise Unauthenticated("the token is not one of this server")
        read = self._reader.read(token)
        return self._parts.identity(read.name, self._parts.roles.of_issuer(read.roles), kind="token")

    def password(self, user: str, password: str, *, address: str) -> Identity:
        """Verified once, then remembered for a minute; forgotten when the user changes."""
        found = self._users.find(user)
        key = self._keys.of(user, password)
        known = self._generations.get(key, self._parts.clock())
        if found is not None and not found.disabled and known == found.generation:
            return self._identity(found)
        self._failures.check(user, address)
        right = passwords.matches(password, found.password if found else None)
        if not right or found is None or found.disabled:
            self._failures.failed(user, address)
            # The same words for all, so that nobody learns which names there are.
            raise Unauthenticated(WRONG)
        self._failures.succeeded(user, address)
        self._generations.put(key, found.generation, self._parts.clock())
        return self._identity(found)

    def facts(self, identity: Identity) -> Mapping[str, Any]:
        """The generation of the user."""
        found = self._users.find(identity.name)
        return {"generation": found.generation if found else 0}

    def of_session(self, session: Session) -> Identity:
        """The user as they are now, unless they changed so that all have to log in again."""
        found = self._users.find(session.user)
        if found is None or found.disabled or found.generation != session.facts.get("generation"):
            raise Unauthenticated("the session has ended; log in again")
        return self._identity(found)

    def _identity(self, user: User) -> Identity:
        return self._parts.identity(user.name, user.roles, access=user.access)
