"""A file on its way into the directory of the blobs."""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from dicomweb_server.storage.base import StagedBlob

_BUFFER_BYTES = 1 << 16
_SYNC_FILE_RANGE_WRITE = 2


def _find_begin_writing() -> Callable[[int], None]:
    """Linux can start to write a file back without waiting for it; elsewhere `keep` does all the waiting."""
    function = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if function is None:
        return lambda _descriptor: None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    # An error is no matter: what could not be begun here, `keep` meets again and tells.
    return lambda descriptor: function(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


_begin_writing = _find_begin_writing()


def _forget(descriptor: int) -> None:
    """The next file gets the same memory. New memory for each costs the cache what it has of files that are read, and a
    virtual machine that is given memory as it touches it more than the writing."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


class StagedFile(StagedBlob):
    """A file in `staging/` until it is kept: at `path`, as long as it is `pending`. `suffix`: what its name ends with
    when it is kept."""

    def __init__(self, path: str, suffix: str = "") -> None:
        self.path = path
        self.suffix = suffix
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.file = os.fdopen(descriptor, "w+b", buffering=_BUFFER_BYTES)
        self.pending = True

    def complete(self) -> None:
        """Let the disk begin with what is written, so that `keep` has little left to wait for."""
        self.file.flush()
        _begin_writing(self.file.fileno())

    def sync(self) -> None:
        """Wait until all is on the disk."""
        self.file.flush()
        os.fdatasync(self.file.fileno())
        if not self.read_soon:
            _forget(self.file.fileno())

    def discard(self) -> None:
        with suppress(OSError):
            self.file.close()
        if self.pending:
            self.pending = False
            with suppress(OSError):
                os.unlink(self.path)
