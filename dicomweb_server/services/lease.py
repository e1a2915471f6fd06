"""Work that one process does at a time: where it stands is a document, and who writes it holds it for a while.

All processes look. The one whose write succeeds has the lease, and writes again before it ends. Whoever has seen the
same version for that time, by a clock that nobody can set, knows that the holder died, and takes over: the time of day
has no part in it, so it can be wrong, set back, or another one on each machine.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

from dicomweb_server.errors import NotFound
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document

LEASE_SECONDS = 60.0  # longer than a step takes
FORGET_EVERY = 50  # versions of a document

_FREE: dict[str, Any] = {"owner": "", "held": False}


class LeasedState:
    """The document of some work; kept as long as the process looks after the work. `owner` tells processes, and the
    threads of one, apart. `stopwatch` gives seconds that only grow.

    Who looks once only, as a command does, cannot see whether the holder still writes: with `clock`, the time of day, a
    lease ends when its time is over, or where that is so far ahead that the clock was set back."""

    def __init__(
        self,
        storage: Storage,
        *,
        kind: str,
        name: str,
        owner: str = "",
        stopwatch: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._storage = storage
        self._kind = kind
        self._name = name
        self._owner = owner or secrets.token_hex(8)
        self._stopwatch = stopwatch
        self._clock = clock
        self._seen = (0, 0.0)  # a version, and when it was new to us

    def read(self, fresh: Callable[[], dict[str, Any]]) -> Document:
        """Where the work stands; written with what `fresh` gives where nobody has begun it yet."""
        try:
            document = self._storage.get_document(kind=self._kind, document_id=self._name)
        except NotFound:
            document = self._put(0, _FREE | fresh())
        if document.version != self._seen[0]:
            self._seen = (document.version, self._stopwatch())
        return document

    def is_free(self, document: Document) -> bool:
        """Whether nobody else has the lease of what was read."""
        state = document.body
        if not state.get("held") or state["owner"] == self._owner:
            return True
        if self._clock is not None:
            return not 0 < state.get("leased_until", 0.0) - self._clock() <= LEASE_SECONDS
        return self._stopwatch() - self._seen[1] >= LEASE_SECONDS

    def take(self, document: Document) -> Document:
        """Take the lease. Raises VersionConflict where another process was quicker."""
        lease: dict[str, Any] = {"owner": self._owner, "held": True}
        if self._clock is not None:
            lease["leased_until"] = self._clock() + LEASE_SECONDS
        return self._put(document.version, document.body | lease)

    def prolong(self, document: Document) -> Document:
        """Take one's own lease again when half of its time is over. Raises VersionConflict where another has it."""
        return document if self._stopwatch() - self._seen[1] < LEASE_SECONDS / 2 else self.take(document)

    def give(self, document: Document, changes: dict[str, Any]) -> Document:
        """Write where the work stands now, and give the lease up. Raises VersionConflict where another has taken it."""
        kept = self._put(document.version, document.body | {"held": False} | changes)
        if kept.version % FORGET_EVERY < 2:  # a step mostly writes two versions
            self._storage.forget_versions(kind=self._kind, document_id=self._name, before=kept.version)
        return kept

    def _put(self, version: int, body: dict[str, Any]) -> Document:
        began = self._stopwatch()
        document = self._storage.put_document(
            kind=self._kind, document_id=self._name, body=body, keys={}, expected_version=version
        )
        self._seen = (document.version, began)
        return document
