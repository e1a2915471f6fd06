"""Files that stay where they are: among the blobs lie lists of links, one for all that were kept together.

A list is a file `....links` with a line for each link: `+`, and path, size and time of the file. The key of a link
names the list and the place in it: `....links-OFFSET`. A link is deleted by a `-` in the place of its `+`; the list
goes with its last link. A file `....link` is one link alone, as they were kept before.

A link is read as its file. Nothing here writes to, moves or deletes that file.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

import orjson

from dicomweb_server.errors import BadDicom, LinkBroken, StorageCorrupt
from dicomweb_server.storage.base import StagedBlob

LIST_SUFFIX = ".links"
KEY_ENDING = r"\.link|\.links-(0|[1-9][0-9]{0,8})"
"""What the key of a link ends with; a pattern."""
_LIVE, _DELETED = b"+", b"-"
_LINE_BYTES = 1 << 14  # the longest path, twice, for it is written in hex, and what stands beside it
_BUFFER_BYTES = 1 << 16
_CHANGED = "A file that is linked into the archive has changed since; link it again."
_MISSING = "A file that is linked into the archive is missing."


class StagedLink(StagedBlob):
    """A link until it is kept; `file` is the linked file, open for reading."""

    def __init__(self, target: str) -> None:
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

    def discard(self) -> None:
        self.pending = False
        with suppress(OSError):
            self.file.close()

    def line(self) -> bytes:
        """What a list has of it."""
        content = {"path": os.fsencode(self._target).hex(), "size": self._size_bytes, "stamp": self._stamp}
        return _LIVE + orjson.dumps(content) + b"\n"


def offsets_of(lines: Sequence[bytes]) -> list[int]:
    """Where each line of a list begins."""
    offsets, offset = [], 0
    for line in lines:
        offsets.append(offset)
        offset += len(line)
    return offsets


def is_link(key: str) -> bool:
    """Whether it is the key of a link."""
    return key.endswith(".link") or f"{LIST_SUFFIX}-" in key


def place_of(key: str) -> tuple[str, int | None]:
    """The file of a key, and the offset in it where that is a list."""
    name, found, offset = key.partition("-")
    return name, int(offset) if found else None


def open_linked(descriptor: int, offset: int | None) -> int:
    """The descriptor of the file that an open link, or the one at the offset of an open list, leads to; the open one is
    closed. Raises StorageCorrupt where there is no link, LinkBroken unless the file is as it was."""
    try:
        line = os.pread(descriptor, _LINE_BYTES, offset or 0)
    finally:
        os.close(descriptor)
    if offset is not None:
        if not line.startswith(_LIVE):
            raise StorageCorrupt("A file of the archive is missing.")
        line = line[1:].partition(b"\n")[0]
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise StorageCorrupt("A link of the archive is damaged.") from error
    try:
        target = _opened(os.fsdecode(bytes.fromhex(content["path"])))
    except OSError as error:
        raise LinkBroken(_MISSING) from error
    found = os.fstat(target)
    if (found.st_size, found.st_mtime_ns) != (content["size"], content["stamp"]):
        os.close(target)
        raise LinkBroken(_CHANGED)
    return target


def delete(path: str, offsets: Sequence[int]) -> None:
    """Delete the links at these offsets of a list, and the list when none is left. Others may do the same meanwhile:
    whoever deletes the last one sees it, and so does who deletes again after an interruption."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        live = set(_live(_whole(descriptor)))
        for offset in offsets:
            if offset in live:
                os.pwrite(descriptor, _DELETED, offset)
        live = set(_live(_whole(descriptor)))
    finally:
        os.close(descriptor)
    if not live:
        os.unlink(path)


def live_offsets(path: str) -> list[int]:
    """Where the links of a list stand that are not deleted. A list that could not go with its last one goes now."""
    with open(path, "rb", buffering=0) as file:
        offsets = list(_live(file.readall()))
    if not offsets:
        with suppress(OSError):
            os.unlink(path)
    return offsets


def _whole(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _live(listed: bytes) -> Iterator[int]:
    lines = listed.splitlines(keepends=True)
    return (offset for offset, line in zip(offsets_of(lines), lines, strict=True) if line.startswith(_LIVE))


def _opened(target: str) -> int:
    """A file by its real path: where a part of it has become a symbolic link, it is another one."""
    descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if os.path.realpath(target) != target or not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(target)
    return descriptor
