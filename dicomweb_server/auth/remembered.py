"""What a process remembers of logins for a while, so that not each request asks the storage or an issuer again."""

import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Hashable
from hashlib import sha256
from typing import Generic, TypeVar

from dicomweb_server.auth.expiry import is_recent

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """Values by key, each good for so many seconds; at most so many, of which the oldest goes first."""

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def get(self, key: K, now: float) -> V | None:
        """The value, if it was put within that time."""
        with self._lock:
            found = self._entries.get(key)
        return found[0] if found is not None and is_recent(found[1], now, self._seconds) else None

    def put(self, key: K, value: V, now: float) -> None:
        """Remember it from now on."""
        with self._lock:
            self._entries[key] = (value, now)
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        """It is not good any more; nothing where it is not there."""
        with self._lock:
            self._entries.pop(key, None)


class PasswordKeys:
    """Keys for names with passwords: under a secret that lives in this process only, never the password."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def of(self, user: str, password: str) -> bytes:
        """The key of both together."""
        return hmac.digest(self._secret, f"{user}\0{password}".encode("utf-8", "surrogatepass"), sha256)
