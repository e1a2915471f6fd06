"""Frames that a codec process crashed on, or that exceeded its limits: for a minute they are refused at once, so that
asking again and again for one does not keep the processes busy."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from dicomweb_server.errors import DecoderFailed

SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 1000


class GivenUp:
    """What failed, by the operation and the bytes it was done on; in memory. `clock` gives seconds that only grow."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def check(self, operation: str, pieces: Sequence[bytes]) -> None:
        """Raise DecoderFailed where the same failed within the last minute."""
        if not self._failures:
            return
        with self._lock:
            until, message = self._failures.get(_digest(operation, pieces), (0.0, ""))
        if until > self._clock():
            raise DecoderFailed(f"{message}; a minute later it can be tried again")

    def note(self, operation: str, pieces: Sequence[bytes], failure: DecoderFailed) -> None:
        """Remember that this failed just now."""
        now, digest = self._clock(), _digest(operation, pieces)
        with self._lock:
            self._failures[digest] = (now + SECONDS, failure.message)
            self._failures.move_to_end(digest)
            while self._failures and (
                len(self._failures) > _MAX_REMEMBERED or next(iter(self._failures.values()))[0] <= now
            ):
                self._failures.popitem(last=False)


def _digest(operation: str, pieces: Sequence[bytes]) -> bytes:
    found = blake2b(operation.encode(), digest_size=16)
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little"))
        found.update(piece)
    return found.digest()
