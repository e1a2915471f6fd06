"""What nothing needs any more is deleted in the background: what was in the bin for long enough, older versions, and
the files that nothing refers to. Of all processes one at a time does it. Edits that were interrupted are finished, too.

Every step can be done again: a process that dies leaves the rest in the bin or in the queue, for the next one.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from dicomweb_server.errors import DicomwebError, VersionConflict
from dicomweb_server.services.lease import LeasedState
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import Scope

LOOK_EVERY_SECONDS = 60.0
FIRST_LOOK_SECONDS = 5.0
BATCH = 500
STOP_SECONDS = 10.0

_log = logging.getLogger("dicomweb_server.release")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long what was removed stays in the bin (0: not at all), and older versions of what is stored (0: always)."""

    bin_days: int
    replaced_days: int

    def bin_until(self, now: datetime) -> datetime:
        """What was removed before this time goes."""
        return now - timedelta(days=self.bin_days)

    def replaced_until(self, now: datetime) -> datetime | None:
        """What was replaced before this time goes."""
        return now - timedelta(days=self.replaced_days) if self.replaced_days else None


class Release:
    """Deletes from a thread of its own. chores: what else goes with time; each does some of it, and gives how much."""

    def __init__(
        self,
        storage: Storage,
        blobs: BlobStore,
        retention: Retention,
        *,
        chores: Sequence[Callable[[], int]] = (),
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
        first_look_seconds: float = FIRST_LOOK_SECONDS,
        resume: Callable[[], object] = lambda: None,
    ) -> None:
        self._resume = resume
        self._storage = storage
        self._blobs = blobs
        self._retention = retention
        self._chores = tuple(chores)
        self._clock = clock
        self._look_every_seconds = look_every_seconds
        self._first_look_seconds = first_look_seconds
        self._lease = LeasedState(storage, kind="work", name="release", stopwatch=stopwatch)
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to delete now."""
        self._wanted.set()

    def close(self) -> None:
        """Stop after the batch that is under way."""
        self._closed.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        self._wanted.wait(self._first_look_seconds)
        while not self._closed.is_set():
            self._wanted.clear()
            try:
                self.step()
                self._resume()
            except VersionConflict:
                pass  # another process was quicker
            except DicomwebError as exc:
                _log.warning("release: %s; it is tried again", exc.message)
            except Exception as exc:  # the outermost loop of this thread: the next look may go better
                _log.error("release: unexpected %s", type(exc).__name__, exc_info=exc)
            if not self._closed.is_set():
                self._wanted.wait(self._look_every_seconds)

    def step(self) -> int:
        """Delete all there is to delete, unless another process does; gives the number of files.

        Raises VersionConflict where another process has taken over.
        """
        if not self._is_due():
            return 0
        document = self._lease.read(dict)
        if not self._lease.is_free(document):
            return 0
        document = self._lease.take(document)
        files = 0
        while not self._closed.is_set():
            document = self._lease.prolong(document)
            gone = self._purge() + sum(chore() for chore in self._chores)
            keys = self._storage.released(limit=BATCH)
            if not keys and not gone:
                break
            self._blobs.delete(keys=keys)
            self._storage.confirm_released(keys=keys)
            files += len(keys)
        self._lease.give(document, {})
        _log.info("released %d files", files)
        return files

    def _is_due(self) -> bool:
        if self._storage.released(limit=1):
            return True
        if self._storage.binned(scope=Scope(), before=self._retention.bin_until(self._now()), limit=1).entries:
            return True
        return self._purge_replaced() > 0 or any(chore() for chore in self._chores)

    def _purge(self) -> int:
        before = self._retention.bin_until(self._now())
        return self._storage.purge_binned(scope=Scope(), before=before, limit=BATCH) + self._purge_replaced()

    def _purge_replaced(self) -> int:
        before = self._retention.replaced_until(self._now())
        return 0 if before is None else self._storage.purge_replaced(scope=Scope(), before=before, limit=BATCH)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
