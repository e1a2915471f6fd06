"""How values become keys of views and ids of documents, so that CouchDB orders them as Python does.

CouchDB compares text in keys by the rules of a language (ICU), which ignore some characters and mix cases. Text is
therefore kept as the hex digits of its UTF-8, for which these rules, plain bytes and PouchDB agree. UIDs hold only
digits and dots and need none of it. Numbers come before text in every order.
"""

import threading
import time
import uuid
from typing import Any

Key = str | float

NONE = "z"
"""Stands for a missing value and sorts behind every other (to ICU, "~" would stand before the digits)."""

END: dict[str, Any] = {}
"""Sorts behind everything at its place of a key."""

AFTER_HEX = "g"
"""Appended to a prefix, sorts behind all texts that begin with it."""

_COMPLEMENT = str.maketrans("0123456789abcdef", "fedcba9876543210")
_DIGITS = str.maketrans("0123456789", "9876543210")


def encode(value: Key) -> Key:
    """A value as it stands in keys."""
    return value.encode("utf-8", "surrogatepass").hex() if isinstance(value, str) else value


def decode(value: Key) -> Key:
    """The value that `encode` was given."""
    return bytes.fromhex(value).decode("utf-8", "surrogatepass") if isinstance(value, str) else value


def ascending(value: Key | None) -> Key:
    """For an index in rising order, missing values last."""
    return NONE if value is None else encode(value)


def descending(value: Key | None) -> Key:
    """For an index whose rising order is the falling order of the values, missing values last."""
    if value is None:
        return NONE
    if isinstance(value, str):
        # Of two texts that begin alike the longer one comes first: "g" is behind every digit.
        return value.encode("utf-8", "surrogatepass").hex().translate(_COMPLEMENT) + AFTER_HEX
    return -value


def newest(date: Key | None, clock: Key | None) -> str:
    """The key of a study by date and time, newest first."""
    day = date if isinstance(date, str) else None
    hours = clock if isinstance(clock, str) else None
    return (day.translate(_DIGITS) if day else NONE * 8) + (hours.translate(_DIGITS) if hours else NONE * 12)


def newest_day(date: str) -> str:
    """How the keys of that day begin."""
    return date.translate(_DIGITS)


class Clock:
    """Numbers for the order of storing and changing: microseconds since 1970, each larger than the one before. They fit
    a double, so that views can reduce them. They follow this machine's clock when it is set forward, and go on as if
    nothing had happened when it is set back. Across machines they are as good as the clocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._ahead = 0  # of the clock that nobody can set

    def next(self, after: int = 0) -> int:
        """A new number, larger than `after`."""
        with self._lock:
            self._follow(time.time_ns() // 1000)
            self._last = max(self._last + 1, time.monotonic_ns() // 1000 + self._ahead)
            return max(self._last, after + 1)

    def go_on_from(self, number: int) -> None:
        """All numbers from now on are larger: it was given before this process began."""
        with self._lock:
            self._follow(number)

    def _follow(self, number: int) -> None:
        self._ahead = max(self._ahead, number + 1 - time.monotonic_ns() // 1000)


def new_attempt() -> str:
    """A name for one attempt to write something, never given twice."""
    return uuid.uuid4().hex
