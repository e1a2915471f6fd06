"""Whether there is room for more: a floor of free space, so that the disk is never filled to its end, and a quota."""

import threading
import time
from collections.abc import Callable

from dicomweb_server.errors import StorageFull

RETRY_AFTER_SECONDS = 60
FREE_FOR_SECONDS = 1.0
USED_FOR_SECONDS = 60.0
NEAR_QUOTA_FOR_SECONDS = 5.0
NEAR_QUOTA = 0.95


class Space:
    """Room for what comes in. Figures are measured now and then, and what was taken since is added to them; a quota can
    be overstepped by what other processes store in that time.

    free: how much fits, None where that cannot be known. used: what the quota is of. A floor or quota of 0 is none.
    """

    def __init__(
        self,
        *,
        free: Callable[[], int | None],
        used: Callable[[], int],
        floor_bytes: int,
        quota_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free = _Measured(free, clock)
        self._used = _Measured(used, clock)
        self._floor_bytes = floor_bytes
        self._quota_bytes = quota_bytes

    def require(self, incoming_bytes: int = 0) -> None:
        """Raises StorageFull unless there is room for so many bytes more."""
        if self._floor_bytes:
            free = self._free.value(FREE_FOR_SECONDS)
            if free is not None and free - incoming_bytes < self._floor_bytes:
                raise StorageFull("there is too little free space left (disk.floor_bytes)", RETRY_AFTER_SECONDS)
        if self._quota_bytes:
            used = self._used.value(USED_FOR_SECONDS) or 0
            if used > NEAR_QUOTA * self._quota_bytes:
                used = self._used.value(NEAR_QUOTA_FOR_SECONDS) or 0
            if used + incoming_bytes > self._quota_bytes:
                raise StorageFull("the archive has reached its quota (disk.quota_bytes)", RETRY_AFTER_SECONDS)

    def took(self, size_bytes: int) -> None:
        """So much was stored."""
        self._free.add(-size_bytes)
        self._used.add(size_bytes)


class _Measured:
    """A figure that is measured again when it is too old."""

    def __init__(self, measure: Callable[[], int | None], clock: Callable[[], float]) -> None:
        self._measure = measure
        self._clock = clock
        self._lock = threading.Lock()
        self._value: int | None = None
        self._measured_at = float("-inf")

    def value(self, for_seconds: float) -> int | None:
        with self._lock:
            if self._clock() - self._measured_at >= for_seconds:
                self._value = self._measure()
                self._measured_at = self._clock()
            return self._value

    def add(self, difference: int) -> None:
        with self._lock:
            if self._value is not None:
                self._value += difference
