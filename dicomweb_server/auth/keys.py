"""API keys: what a script logs in with. Each has a name, roles, an expiry and a scope, and is kept as a digest."""

import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from dicomweb_server.errors import NotFound, Unauthenticated
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents
from dicomweb_server.storage.records import Document

KIND = "api-key"
PREFIX = "dws_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key. `expires` is in seconds since 1970, 0 for never; `permissions` narrows what the roles allow, empty for all
    of it; `access` is as in `auth.access`."""

    key_id: str
    name: str
    roles: tuple[str, ...]
    permissions: tuple[str, ...] = ()
    access: str = ""
    expires: float = 0.0
    created_by: str = ""


class ApiKeys:
    """All keys. `clock` gives seconds since 1970."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock

    def make(self, name: str, *, roles: tuple[str, ...], seconds: int = 0, **more: Any) -> tuple[ApiKey, str]:
        """A new key and its text, which cannot be shown again."""
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        expires = self._clock() + seconds if seconds else 0.0
        key = ApiKey(key_id=key_id, name=name, roles=roles, expires=expires, **more)
        body = {
            "name": name,
            "roles": list(roles),
            "permissions": list(key.permissions),
            "access": key.access,
            "expires": key.expires,
            "created_by": key.created_by,
            "digest": sha256(secret.encode()).hexdigest(),
        }
        self._storage.put_document(kind=KIND, document_id=key_id, body=body, keys={"name": (name,)}, expected_version=0)
        return key, f"{PREFIX}{key_id}_{secret}"

    def verify(self, text: str) -> ApiKey:
        """The key of a text. Raises Unauthenticated."""
        key_id, _, secret = text.removeprefix(PREFIX).partition("_")
        try:
            if not (key_id.isascii() and key_id.isalnum() and len(key_id) <= 32):
                raise NotFound("no key")
            document = self._storage.get_document(kind=KIND, document_id=key_id)
        except NotFound:
            raise Unauthenticated("there is no such API key") from None
        digest = sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        if not hmac.compare_digest(digest, document.body["digest"]):
            raise Unauthenticated("there is no such API key")
        key = _key(document)
        if key.expires and key.expires < self._clock():
            raise Unauthenticated("the API key has expired")
        return key

    def all(self) -> Iterator[ApiKey]:
        """Every key that was not revoked."""
        return map(_key, all_documents(self._storage, kind=KIND))

    def revoke(self, key_id: str) -> None:
        """End it. Raises NotFound."""
        try:
            if not (key_id.isascii() and key_id.isalnum()):
                raise NotFound("no key")
            self._storage.delete_document(kind=KIND, document_id=key_id)
        except NotFound:
            raise NotFound(f"there is no API key {key_id}") from None


def _key(document: Document) -> ApiKey:
    body = {name: value for name, value in document.body.items() if name != "digest"}
    lists = {name: tuple(body[name]) for name in ("roles", "permissions")}
    return ApiKey(key_id=document.document_id, **{**body, **lists})
