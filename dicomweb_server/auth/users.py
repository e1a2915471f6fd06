"""The users of this server, kept as documents in the storage."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dicomweb_server.auth import passwords
from dicomweb_server.errors import BadRequest, Conflict, NotFound, VersionConflict
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents
from dicomweb_server.storage.records import Document, DocumentTerm

KIND = "user"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user. `password` is what argon2id made of it.

    generation: grows whenever tokens that were given out before must end: with a new password, other roles, disabling.
    access: which studies exist for them, as in `auth.access`; empty for all.
    details: what an older user interface keeps of a person.
    """

    name: str
    password: str
    roles: tuple[str, ...]
    disabled: bool = False
    generation: int = 1
    access: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


def user_name(text: str) -> str:
    """The name in the form in which names are kept. Raises BadRequest."""
    name = text.strip().casefold()
    if not _NAME.fullmatch(name):
        raise BadRequest("a user name has up to 64 letters, digits and . _ - @, a letter or digit first")
    return name


class Users:
    """All users."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get(self, name: str) -> User:
        """The user of that name. Raises NotFound."""
        return _user(self._document(name))

    def find(self, name: str) -> User | None:
        """The user, or None: also for what can be no name."""
        try:
            return self.get(name)
        except (NotFound, BadRequest):
            return None

    def all(self) -> Iterator[User]:
        """Every user, by name."""
        return map(_user, all_documents(self._storage, kind=KIND))

    def has_admin(self) -> bool:
        """Whether anybody can administer."""
        term = DocumentTerm(key="role", equal="admin")
        return any(not _user(one).disabled for one in all_documents(self._storage, kind=KIND, terms=(term,)))

    def add(self, user: User) -> User:
        """A new user. Raises Conflict when the name is taken."""
        try:
            self._put(user, expected_version=0)
        except VersionConflict:
            raise Conflict(f"there is a user {user.name} already") from None
        return user

    def change(self, name: str, changed: Callable[[User], User]) -> User:
        """Write what the function makes of the user. Raises NotFound; tokens that were given out end where something
        changed that they depend on."""
        for _ in range(_TRIES):
            document = self._document(name)
            old = _user(document)
            new = changed(old)
            if _rights(new) != _rights(old):
                new = replace(new, generation=old.generation + 1)
            try:
                self._put(new, expected_version=document.version)
            except VersionConflict:
                continue
            return new
        raise Conflict(f"the user {name} is being changed by others; try again")

    def set_password(self, name: str, password: str) -> User:
        """A new password. Raises NotFound, BadRequest."""
        passwords.check_strength(password, user=name)
        kept = passwords.hashed(password)
        return self.change(name, lambda user: replace(user, password=kept))

    def remove(self, name: str) -> None:
        """Raises NotFound."""
        try:
            self._storage.delete_document(kind=KIND, document_id=user_name(name))
        except NotFound:
            raise NotFound(f"there is no user {user_name(name)}") from None

    def _document(self, name: str) -> Document:
        try:
            return self._storage.get_document(kind=KIND, document_id=user_name(name))
        except NotFound:
            raise NotFound(f"there is no user {user_name(name)}") from None

    def _put(self, user: User, *, expected_version: int) -> None:
        keys = {"role": user.roles, "state": ("disabled" if user.disabled else "active",)}
        body = {**asdict(user), "roles": list(user.roles), "details": dict(user.details)}
        self._storage.put_document(
            kind=KIND, document_id=user.name, body=body, keys=keys, expected_version=expected_version
        )


def new_user(name: str, password: str, *, roles: tuple[str, ...], **more: Any) -> User:
    """A user with the password, checked. Raises BadRequest."""
    name = user_name(name)
    passwords.check_strength(password, user=name)
    return User(name=name, password=passwords.hashed(password), roles=roles, **more)


def _rights(user: User) -> tuple[object, ...]:
    """What tokens that were given out depend on."""
    return user.password, user.roles, user.disabled, user.access


def _user(document: Document) -> User:
    body = dict(document.body)
    return User(**{**body, "roles": tuple(body["roles"])})
