"""Failed logins: who guesses has to wait, longer each time; who has the right password is never kept out for long.

Failures count per user and address, and per address. The owner of an account who comes from elsewhere is not touched by
a stranger's failures, so nobody can lock the admin out. Failures are counted in each process; a wait, once earned, is a
document in the storage and holds in all of them.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from dicomweb_server.auth import expiry
from dicomweb_server.errors import NotFound, TooManyRequests
from dicomweb_server.storage.base import Storage

KIND = expiry.LOGIN_WAIT
FREE_FAILURES = 5
FREE_FAILURES_OF_ADDRESS = 20
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 900.0
FORGET_SECONDS = 3600.0
MAX_REMEMBERED = 10_000
REREAD_SECONDS = 2.0

_T = TypeVar("_T")


class Failures:
    """Counts them. `clock` gives seconds since 1970."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._waits: OrderedDict[str, tuple[float, float]] = OrderedDict()  # until, read at

    def check(self, user: str, address: str) -> None:
        """Raise TooManyRequests while this user from this address, or this address, has to wait."""
        now = self._clock()
        until = max(self._until(key, now) for key in _keys(user, address))
        # A wait that is longer than any was earned by a clock that has been set back since.
        if 0 < until - now <= LONGEST_WAIT_SECONDS:
            seconds = int(until - now) + 1
            raise TooManyRequests(
                f"too many failed logins from this address; try again in {seconds} s", retry_after_seconds=seconds
            )

    def failed(self, user: str, address: str) -> None:
        """Note a failure."""
        now = self._clock()
        for key, free in zip(_keys(user, address), (FREE_FAILURES, FREE_FAILURES_OF_ADDRESS), strict=True):
            count = self._count(key, now)
            if count >= free:
                wait = min(FIRST_WAIT_SECONDS * 2.0 ** min(count - free, 20), LONGEST_WAIT_SECONDS)
                body, keys = {"until": now + wait}, {expiry.KEY: (expiry.stamp(now + wait),)}
                kept = self._storage.put_document(kind=KIND, document_id=key, body=body, keys=keys)
                self._storage.forget_versions(kind=KIND, document_id=key, before=kept.version)
                with self._lock:
                    _remember(self._waits, key, (now + wait, now))

    def succeeded(self, user: str, address: str) -> None:
        """Forget the failures of this user from this address. Those of the address stay: one right password does not
        pardon guessing at others."""
        with self._lock:
            self._counts.pop(_keys(user, address)[0], None)

    def _count(self, key: str, now: float) -> int:
        with self._lock:
            count, last = self._counts.get(key, (0, now))
            count = 1 if now - last > FORGET_SECONDS else count + 1
            _remember(self._counts, key, (count, now))
            return count

    def _until(self, key: str, now: float) -> float:
        with self._lock:
            until, read = self._waits.get(key, (0.0, 0.0))
        if until > now or abs(now - read) < REREAD_SECONDS:
            return until
        try:
            until = float(self._storage.get_document(kind=KIND, document_id=key).body["until"])
        except NotFound:
            until = 0.0
        with self._lock:
            _remember(self._waits, key, (until, now))
        return until


def _keys(user: str, address: str) -> tuple[str, str]:
    """Of the user from the address, and of the address: digests, since names that were tried are none of our data."""
    network = _network(address)
    texts = (f"{user.casefold()}|{network}", f"|{network}")
    first, second = (sha256(text.encode("utf-8", "replace")).hexdigest()[:40] for text in texts)
    return f"u{first}", f"a{second}"


def _network(address: str) -> str:
    """One customer has a whole /64 of IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(parsed if parsed.version == 4 else ipaddress.ip_network((address, 64), strict=False))


def _remember(memory: OrderedDict[str, _T], key: str, value: _T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
