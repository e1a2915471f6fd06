"""Files that stay where they are: in the place of a blob lies a small file with their path, size and time.

A link is read as its file. Nothing here writes to, moves or deletes that file.
"""

import os
import stat
from contextlib import suppress

import orjson

from dicomweb_server.errors import BadDicom, LinkBroken
from dicomweb_server.storage.base import StagedBlob

SUFFIX = ".link"
_BUFFER_BYTES = 1 << 16
_CHANGED = "A file that is linked into the archive has changed since; link it again."
_MISSING = "A file that is linked into the archive is missing."


class InStaging(StagedBlob):
    """What has a file in `staging/` until it is kept: at `path`, as long as it is `pending`."""

    path: str
    pending: bool

    def discard(self) -> None:
        with suppress(OSError):
            self.file.close()
        if self.pending:
            self.pending = False
            with suppress(OSError):
                os.unlink(self.path)


class StagedLink(InStaging):
    """A link that is made when it is kept; `file` is the linked file, open for reading."""

    suffix = SUFFIX

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.pending = True
        self._target = target
        self.file = os.fdopen(_opened(target), "rb", buffering=_BUFFER_BYTES)
        found = os.fstat(self.file.fileno())
        self._size_bytes, self._stamp = found.st_size, found.st_mtime_ns

    def complete(self) -> None:
        """Nothing is written; the file must be as it was when it was opened."""
        found = os.fstat(self.file.fileno())
        if (found.st_size, found.st_mtime_ns) != (self._size_bytes, self._stamp):
            raise BadDicom("the file changed while it was read")

    def sync(self) -> None:
        """Write the link to where it is staged, durably."""
        descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as link:
            content = {"path": os.fsencode(self._target).hex(), "size": self._size_bytes, "stamp": self._stamp}
            link.write(orjson.dumps(content))
            link.flush()
            os.fsync(link.fileno())


def open_linked(link: int) -> int:
    """The descriptor of the file of an open link, which is closed; raises LinkBroken unless it is as it was."""
    with os.fdopen(link, "rb") as file:
        content = orjson.loads(file.read())
    try:
        descriptor = _opened(os.fsdecode(bytes.fromhex(content["path"])))
    except OSError as error:
        raise LinkBroken(_MISSING) from error
    found = os.fstat(descriptor)
    if (found.st_size, found.st_mtime_ns) != (content["size"], content["stamp"]):
        os.close(descriptor)
        raise LinkBroken(_CHANGED)
    return descriptor


def _opened(target: str) -> int:
    """A file by its real path: where a part of it has become a symbolic link, it is another one."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if os.path.realpath(target) != target or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(target)
    return descriptor
