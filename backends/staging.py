"""Blobs on their way to stores that are not on this machine: small ones in memory, as long as there is room, others in
temporary files without a name. So nothing is left of a process that dies."""

import errno
import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from dicomweb_server.errors import StorageError, StorageFull, StorageUnavailable
from dicomweb_server.storage.base import StagedBlob

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_BUFFER_BYTES = 1 << 18

SMALL_BYTES = 1 << 20
"""Blobs up to this size stay in memory."""
ROOM_BYTES = 32 << 20
"""What all blobs in memory may take in this process."""


@contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the operating system raises into errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("No space is left for temporary files.", retry_after_seconds=60) from error
        raise StorageUnavailable("Temporary files cannot be written now.") from error


class _Room:
    """What is left for blobs in memory."""

    def __init__(self) -> None:
        self._left = ROOM_BYTES
        self._lock = threading.Lock()

    def take(self, size: int) -> int:
        """So many bytes, or none of them."""
        with self._lock:
            taken = size if size <= self._left else 0
            self._left -= taken
        return taken

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


_room = _Room()


class _SpooledFile(tempfile.SpooledTemporaryFile[bytes]):
    """In memory while it is small and fits into the room; a temporary file from then on, or when its descriptor is
    asked for."""

    def __init__(self) -> None:
        self._taken = _room.take(SMALL_BYTES)
        super().__init__(max_size=SMALL_BYTES, buffering=_BUFFER_BYTES)
        if not self._taken:
            self.rollover()

    def settle(self) -> None:
        """All is written: no more of the room than that is needed. Reading all of it at once then makes no copy."""
        if self._taken:
            cast(io.BytesIO, self._file).getvalue()  # cuts the buffer to its size, which `read` asks for
            self._leave(keep=self.tell())

    def rollover(self) -> None:
        super().rollover()
        self._leave()

    def close(self) -> None:
        super().close()
        self._leave()

    def __del__(self) -> None:
        self.close()

    def _leave(self, *, keep: int = 0) -> None:
        left, self._taken = self._taken - keep, keep
        _room.give_back(left)


class TemporaryBlob(StagedBlob):
    """A blob until it is kept."""

    def __init__(self) -> None:
        with file_errors():
            self._spooled = _SpooledFile()
        self.file = cast(BinaryIO, self._spooled)
        self.pending = True

    def complete(self) -> None:
        with file_errors():
            self.file.seek(0, 2)
            self._spooled.settle()
            super().complete()

    def size(self) -> int:
        """How many bytes were written."""
        with file_errors():
            return self.file.seek(0, 2)

    def discard(self) -> None:
        self.pending = False
        with suppress(OSError):
            self.file.close()


def pending_files(staged: object) -> list[TemporaryBlob]:
    """The staged blobs, all still to be kept; raises StorageError otherwise."""
    blobs = list(cast("list[object]", staged))
    files = [blob for blob in blobs if isinstance(blob, TemporaryBlob) and blob.pending]
    if len(files) != len(blobs):
        raise StorageError("A blob was given up, kept before, or staged elsewhere.")
    return files
