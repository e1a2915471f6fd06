"""The change feed for those who wait for it: bounded waits, and an end to all of them when the server stops."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from dicomweb_server.errors import Busy
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Change, ChangeKind

LOOK_EVERY_SECONDS = 0.5
RETRY_AFTER_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePage:
    """Changes in the order of the feed, without those that the reader does not see. `next` is where to go on: behind
    all that was looked at, or where the page began. more: there may be more at once."""

    changes: Sequence[Change]
    next: str | None
    more: bool


def shown(change: Change, base: str) -> dict[str, Any]:
    """A change as those outside see it. What is still there has a URL that begins with `base`."""
    found: dict[str, Any] = {
        "cursor": change.cursor,
        "kind": change.kind.value,
        "changed_at": change.changed_at.isoformat(timespec="milliseconds"),
        "study_uid": change.study_uid,
        "series_uid": change.series_uid,
        "instance_uid": change.instance_uid,
    }
    if change.kind is not ChangeKind.REMOVED:
        place = f"/studies/{change.study_uid}/series/{change.series_uid}/instances/{change.instance_uid}"
        found["url"] = base + place
    return found


class ChangeFeed:
    """Reads the feed. `sees` says of which studies the reader may know. At most `max_waiting` readers of this process
    wait for changes at a time, so that threads are left for others."""

    def __init__(
        self,
        storage: Storage,
        *,
        sees: Callable[[str], bool],
        max_waiting: int,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        self._storage = storage
        self._sees = sees
        self._max_waiting = max_waiting
        self._places = threading.BoundedSemaphore(max_waiting) if max_waiting else None
        self._look_every_seconds = look_every_seconds
        self._closed = threading.Event()

    def close(self) -> None:
        """Let all who wait go, with what they have: the server stops."""
        self._closed.set()

    def newest(self) -> str | None:
        """As `Storage.newest_change`."""
        return self._storage.newest_change()

    def read(self, *, after: str | None, limit: int) -> ChangePage:
        """What there is now. Raises BadRequest for a cursor that the feed never gave."""
        changes = self._storage.changes(after=after, limit=limit)
        return ChangePage(
            changes=[change for change in changes if self._sees(change.study_uid)],
            next=changes[-1].cursor if changes else after,
            more=len(changes) == limit,
        )

    def place(self) -> "WaitingPlace":
        """A place among those who wait, to be closed. Raises Busy when none is left."""
        if self._places is None or not self._places.acquire(blocking=False):
            raise Busy(f"{self._max_waiting} clients wait for changes here already", RETRY_AFTER_SECONDS)
        return WaitingPlace(self._places.release)

    def wait(self, *, after: str | None, limit: int, seconds: float) -> ChangePage:
        """What there is now, or once there is something; empty after so many seconds, or when the server stops. The
        caller has a place."""
        deadline = time.monotonic() + seconds
        while True:
            page = self.read(after=after, limit=limit)
            after = page.next
            left = deadline - time.monotonic()
            pause = 0.0 if page.more else min(left, self._look_every_seconds)
            if page.changes or left <= 0 or self._closed.wait(pause):
                return page

    def follow(
        self,
        *,
        after: str | None,
        limit: int,
        heartbeat_seconds: float,
        seconds: float,
        admitted: Callable[[], bool] = lambda: True,
    ) -> Iterator[ChangePage]:
        """Pages as they come, an empty one as a sign of life in between, until the time is over, the server stops, or
        the reader is not `admitted` any more, which is asked before each page. The caller has a place."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._closed.is_set():
            page = self.wait(after=after, limit=limit, seconds=min(heartbeat_seconds, left))
            if not admitted():
                return
            after = page.next
            yield page


class WaitingPlace:
    """A place that was taken; closing it twice does nothing more."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it to somebody else."""
        release, self._release = self._release, None
        if release is not None:
            release()
