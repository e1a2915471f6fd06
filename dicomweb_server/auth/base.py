"""The contract of a way to log in. To add one, implement `Authenticator` and name the class in an entry point
`dicomweb_server.auth`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from dicomweb_server.auth.access import Rules
from dicomweb_server.auth.rights import Identity, Roles
from dicomweb_server.auth.sessions import Session
from dicomweb_server.errors import NotFound, Unauthenticated
from dicomweb_server.storage.base import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What ways to log in are made of. `clock` gives seconds since 1970."""

    storage: Storage
    roles: Roles
    rules: Rules
    clock: Callable[[], float]

    def identity(self, name: str, roles: tuple[str, ...], *, kind: str = "user", access: str = "") -> Identity:
        """Somebody with these roles of ours, and with the rules that hold for them."""
        permissions = self.roles.permissions(roles)
        terms = self.rules.terms(user=name.casefold(), roles=roles, own=access, exempt="admin" in roles)
        return Identity(name=name, kind=kind, roles=roles, permissions=permissions, terms=terms)


class Authenticator(ABC):
    """A way to log in. Every method may be called from several threads at once.

    confirm_seconds: how long a session goes on before `confirm` is asked; such sessions end at a fixed time after the
    login. 0 where `of_session` always knows.
    """

    confirm_seconds: float = 0.0

    @classmethod
    @abstractmethod
    def from_settings(cls, *, settings: Mapping[str, Any], parts: Parts) -> Self:
        """One for the table of the settings that belongs to it. Touches no network. Raises ConfigError."""

    @abstractmethod
    def bearer(self, token: str) -> Identity:
        """Whom a token that this server did not make stands for. Raises Unauthenticated, IssuerUnavailable."""

    @abstractmethod
    def password(self, user: str, password: str, *, address: str) -> Identity:
        """Whom a name and a password stand for. Raises Unauthenticated, TooManyRequests, IssuerUnavailable."""

    @abstractmethod
    def facts(self, identity: Identity) -> Mapping[str, Any]:
        """What a session has to keep, as JSON, to give the identity again."""

    @abstractmethod
    def of_session(self, session: Session) -> Identity:
        """Whom a session stands for now. Raises Unauthenticated where that has ended."""

    def confirm(self, session: Session) -> Mapping[str, Any]:
        """The facts of a session as they are now. Raises Unauthenticated where the login is no longer good,
        IssuerUnavailable where that cannot be known now."""
        return session.facts

    def login_url(self, *, redirect_uri: str, after: str) -> tuple[str, Mapping[str, str]]:
        """Where a browser goes to log in elsewhere, and what to keep until it is back. Raises NotFound where the form
        of this server is the place."""
        raise NotFound("this server has no login elsewhere")

    def complete_login(
        self, *, parameters: Mapping[str, str], kept: Mapping[str, str], redirect_uri: str
    ) -> tuple[Identity, Mapping[str, Any]]:
        """Who is back, and the facts for the session. Raises Unauthenticated."""
        raise Unauthenticated("this server has no login elsewhere")

    def logout_url(self, session: Session, *, after: str) -> str:
        """Where a browser goes to log out elsewhere; empty where that is not needed."""
        return ""

    def close(self) -> None:
        """Release connections."""
        return
