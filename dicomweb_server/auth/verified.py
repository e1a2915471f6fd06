"""Tokens whose signature was verified before: the same bytes under the same key need no second look at it."""

import threading
from collections import OrderedDict
from hashlib import sha256
from typing import Any

MAX_REMEMBERED = 2000


class Verified:
    """Claims by token and key; tokens are kept as digests. Times, and whether the key is still good, are for the caller
    to check each time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, tuple[Any, dict[str, Any]]] = OrderedDict()

    def get(self, token: str, key: object) -> dict[str, Any] | None:
        """The claims of a token that was verified with this very key."""
        with self._lock:
            found = self._entries.get(_digest(token))
        return dict(found[1]) if found is not None and found[0] is key else None

    def add(self, token: str, key: object, claims: dict[str, Any]) -> None:
        """It was verified with this key."""
        with self._lock:
            self._entries[_digest(token)] = (key, dict(claims))
            while len(self._entries) > MAX_REMEMBERED:
                self._entries.popitem(last=False)


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
