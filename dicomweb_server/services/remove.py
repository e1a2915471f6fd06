"""Deleting: first the records, so that nobody finds what is going, then the bytes; or all into the bin."""

from collections.abc import Callable

from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import Removed, Scope

RELEASE_BATCH = 500


class Remove:
    """Takes studies, series and instances out of the archive. `keep`: into the bin. `released` is told that there are
    files to delete; without it they are deleted here."""

    def __init__(
        self, storage: Storage, blobs: BlobStore, *, keep: bool = False, released: Callable[[], None] | None = None
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._keep = keep
        self._released = released or self.release

    def remove(self, *, scope: Scope) -> Removed:
        """Remove what the scope names, with all that was derived from it. Raises NotFound."""
        removed = self._storage.remove(scope=scope, keep=self._keep)
        if not self._keep:
            self._released()
        return removed

    def release(self) -> int:
        """Delete the blobs that nothing references any more; gives their number. Safe to repeat: a process that dies in
        between leaves the rest in the queue for the next call."""
        total = 0
        while keys := self._storage.released(limit=RELEASE_BATCH):
            self._blobs.delete(keys=keys)
            self._storage.confirm_released(keys=keys)
            total += len(keys)
        return total
