"""Work that one process does at a time: where it stands is a document, and who writes it holds it for a while.

All processes look. The one whose write succeeds has the lease; when it dies, another takes over after that time.
"""

import secrets
import time
from collections.abc import Callable
from typing import Any

from dicomweb_server.errors import NotFound
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document

LEASE_SECONDS = 60.0  # longer than a step takes, and than clocks of several machines differ
FORGET_EVERY = 50  # versions of a document

_FREE = {"owner": "", "leased_until": 0.0}


class LeasedState:
    """The document of some work. `owner` tells processes, and the threads of one, apart."""

    def __init__(
        self, storage: Storage, *, kind: str, name: str, owner: str = "", clock: Callable[[], float] = time.time
    ) -> None:
        self._storage = storage
        self._kind = kind
        self._name = name
        self._owner = owner or secrets.token_hex(8)
        self._clock = clock

    def read(self, fresh: Callable[[], dict[str, Any]]) -> Document:
        """Where the work stands; written with what `fresh` gives where nobody has begun it yet."""
        try:
            return self._storage.get_document(kind=self._kind, document_id=self._name)
        except NotFound:
            return self._put(0, _FREE | fresh())

    def is_free(self, document: Document) -> bool:
        """Whether nobody else has the lease."""
        state = document.body
        return bool(state["owner"] == self._owner or state["leased_until"] <= self._clock())

    def take(self, document: Document) -> Document:
        """Take the lease, or prolong it. Raises VersionConflict where another process was quicker."""
        lease = {"owner": self._owner, "leased_until": self._clock() + LEASE_SECONDS}
        return self._put(document.version, document.body | lease)

    def give(self, document: Document, changes: dict[str, Any]) -> Document:
        """Write where the work stands now, and give the lease up. Raises VersionConflict where another has taken it."""
        kept = self._put(document.version, document.body | {"leased_until": 0.0} | changes)
        if kept.version % FORGET_EVERY < 2:  # a step mostly writes two versions
            self._storage.forget_versions(kind=self._kind, document_id=self._name, before=kept.version)
        return kept

    def _put(self, version: int, body: dict[str, Any]) -> Document:
        return self._storage.put_document(
            kind=self._kind, document_id=self._name, body=body, keys={}, expected_version=version
        )
