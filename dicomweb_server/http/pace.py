"""How many requests an address may send: so many at once, and so many in a minute, to this process."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from dicomweb_server.errors import TooManyRequests

MAX_REMEMBERED = 10_000


class Pace:
    """A bucket for each address, which fills by `per_minute` a minute and holds that many. `clock` gives seconds that
    only grow."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Count a request. Raises TooManyRequests."""
        now = self._clock()
        with self._lock:
            level, last = self._buckets.get(address, (self._size, now))
            level = min(self._size, level + (now - last) * self._per_second)
            if level < 1:
                wait = int((1 - level) / self._per_second) + 1
                raise TooManyRequests(f"too many requests from this address; try again in {wait} s", wait)
            self._buckets[address] = (level - 1, now)
            self._buckets.move_to_end(address)
            while len(self._buckets) > MAX_REMEMBERED:
                self._buckets.popitem(last=False)
