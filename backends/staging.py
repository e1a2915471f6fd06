"""Blobs on their way to stores that are not on this machine: temporary files without a name, so that nothing is left of
a process that dies."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from dicomweb_server.errors import StorageError, StorageFull, StorageUnavailable
from dicomweb_server.storage.base import StagedBlob

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_BUFFER_BYTES = 1 << 18


@contextmanager
def file_errors() -> Iterator[None]:
    """Turn what the operating system raises into errors of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("No space is left for temporary files.", retry_after_seconds=60) from error
        raise StorageUnavailable("Temporary files cannot be written now.") from error


class TemporaryBlob(StagedBlob):
    """A temporary file."""

    def __init__(self) -> None:
        with file_errors():
            self.file = cast(BinaryIO, tempfile.TemporaryFile(buffering=_BUFFER_BYTES))  # noqa: SIM115 - outlives this
        self.pending = True

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
