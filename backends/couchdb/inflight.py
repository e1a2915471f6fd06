"""Which studies this process is writing to, told to the database beforehand.

A process that dies between an instance and what is derived from it leaves its name here; whoever opens the archive next
derives those studies again. The entry is written when a study comes up that it does not name, not for every instance,
and never cleared while the process lives: to derive once too often does no harm. What a failure left half-way stays
named until it is mended (`mending`), or for the next who opens the archive.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from backends.couchdb import keys
from backends.couchdb.database import Database, Json
from dicomweb_server.errors import StorageUnavailable

PREFIX = "writer:"
TRUSTED_SECONDS = 600
"""So long the process believes that its entry is still there. Others delete it after `ABANDONED_SECONDS`."""

ABANDONED_SECONDS = 24 * 3600
_TRIES = 5


class InFlight:
    """The entry of this process."""

    def __init__(self, records: Database) -> None:
        self._records = records
        self._document: Json = {"_id": f"{PREFIX}{keys.new_attempt()}", "type": "writer", "studies": [], "at": 0}
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self.when_left: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def writing(self, studies: Collection[str]) -> Iterator[None]:
        """While inside, the database knows that these studies are being written to."""
        with self._lock:
            self._busy.update(studies)
            self._tell()
        try:
            yield
        except BaseException as exc:
            with self._lock:
                self._left.update(set(studies))
            if isinstance(exc, Exception):  # else the process is about to end
                self.when_left()
            raise
        finally:
            with self._lock:
                self._busy.subtract(studies)
                self._busy += Counter()

    def left(self) -> dict[str, int]:
        """The studies that failures of this process left half-way, and how many did."""
        with self._lock:
            return dict(self._left)

    def mended(self, study: str, failures: int) -> None:
        """One of them is whole again, but for what failed since `left` said so."""
        with self._lock:
            self._left.subtract({study: failures})
            self._left += Counter()  # leaves out those that are at none

    def _tell(self) -> None:
        known, age = set(self._document["studies"]), time.time() - self._document["at"]
        if known.issuperset(self._busy) and abs(age) < TRUSTED_SECONDS:
            return
        for _ in range(_TRIES):
            wanted = {**self._document, "studies": sorted({*self._left, *self._busy}), "at": int(time.time())}
            if self._records.put(wanted):
                self._document = wanted
                return
            there = self._records.get(self._document["_id"])
            self._document.pop("_rev", None)
            if there is not None:
                self._document["_rev"] = there["_rev"]
        raise StorageUnavailable("CouchDB does not take the entry of this process.")

    def close(self) -> None:
        """Withdraw the entry, unless something is still being written, or was left half-way by a failure."""
        with self._lock:
            if "_rev" in self._document and not self._busy and not self._left:
                self._records.delete([self._document])
                self._document.pop("_rev")
                self._document["at"] = 0

    def abandoned(self) -> Iterator[Json]:
        """The entries of other processes, alive or dead."""
        for document in self._records.with_prefix(PREFIX):
            if document["_id"] != self._document["_id"]:
                yield document

    def forget(self, document: Json) -> None:
        """Delete the entry of a process that is surely dead."""
        if abs(time.time() - document["at"]) > ABANDONED_SECONDS:
            self._records.delete([document])
