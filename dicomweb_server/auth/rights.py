"""Roles as sets of permissions, and the identity that a request turns out to have."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dicomweb_server.dicom.matching import Term
from dicomweb_server.errors import ConfigError
from dicomweb_server.permissions import Permission

_READER = frozenset({Permission.SEARCH, Permission.RETRIEVE})
_WRITER = _READER | {Permission.STORE}
_CURATOR = _WRITER | {Permission.EDIT, Permission.DELETE, Permission.RESTORE, Permission.SHARE}
EVERYTHING = frozenset(Permission)

BUILTIN_ROLES: Mapping[str, frozenset[Permission]] = MappingProxyType(
    {"reader": _READER, "writer": _WRITER, "curator": _CURATOR, "admin": EVERYTHING}
)

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks.

    kind: "anonymous", "user", "key" (an API key), "token" (of an issuer) or "share" (a share link).
    terms: what a study must match to exist for them; empty for all studies.
    session: the id of the session that a log-out ends; empty without one.
    view_only: pictures may be seen, but no study, series or zip be taken away.
    """

    name: str
    kind: str = "user"
    roles: tuple[str, ...] = ()
    permissions: frozenset[Permission] = frozenset()
    terms: tuple[Term, ...] = ()
    session: str = ""
    view_only: bool = False

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody is logged in."""
        return self.kind == ANONYMOUS

    def may(self, permission: Permission) -> bool:
        """Whether they have it. Everybody has PUBLIC."""
        return permission is Permission.PUBLIC or permission in self.permissions


class Roles:
    """The roles of this server: those built in, and those that the settings define.

    definitions: texts like "technician=search,retrieve,store". A built-in role can be defined anew, but for admin.
    mapping: texts like "pacs-admins=admin": a role of an issuer, and ours that it stands for. A role of an issuer that
    has the name of one of ours needs no entry.
    """

    def __init__(self, definitions: Sequence[str] = (), mapping: Sequence[str] = ()) -> None:
        self._roles = {**BUILTIN_ROLES, **dict(map(_definition, definitions))}
        self._mapping: dict[str, set[str]] = {}
        for entry in mapping:
            theirs, ours = _pair(entry, "auth.role_map")
            self._mapping.setdefault(theirs, set()).update(self.checked(ours.split(","), "auth.role_map"))

    @property
    def names(self) -> tuple[str, ...]:
        """All roles."""
        return tuple(self._roles)

    def checked(self, names: Iterable[str], where: str) -> tuple[str, ...]:
        """The names, if all are roles. Raises ConfigError."""
        found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
        for name in found:
            if name not in self._roles:
                raise ConfigError(f'{where}: there is no role "{name}"; known are {", ".join(self._roles)}')
        return found

    def permissions(self, names: Iterable[str]) -> frozenset[Permission]:
        """What the roles allow together. Unknown ones allow nothing."""
        return frozenset().union(*(self._roles.get(name, frozenset()) for name in names))

    def of_issuer(self, names: Iterable[str]) -> tuple[str, ...]:
        """Our roles for those of an issuer, without duplicates."""
        found: dict[str, None] = {}
        for name in names:
            if name in self._mapping:
                found.update(dict.fromkeys(sorted(self._mapping[name])))
            elif name in self._roles:
                found[name] = None
        return tuple(found)


def _definition(text: str) -> tuple[str, frozenset[Permission]]:
    name, listed = _pair(text, "auth.roles")
    if name == "admin":
        raise ConfigError("auth.roles: admin always has every permission; choose another name")
    permissions = set()
    for word in filter(None, (piece.strip() for piece in listed.split(","))):
        try:
            permissions.add(Permission(word))
        except ValueError:
            known = ", ".join(Permission)
            raise ConfigError(f'auth.roles: "{word}" is no permission; known are {known}') from None
    return name, frozenset(permissions)


def _pair(text: str, where: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name.strip() and value.strip()):
        raise ConfigError(f'{where}: "{text}" is not NAME=VALUE,VALUE')
    return name.strip(), value.strip()
