"""Random access to a seekable file, and the window of it that a parser looks at."""

import io
import os
from collections.abc import Callable
from typing import BinaryIO, Final

from dicomweb_server.errors import BadDicom

ReadAt = Callable[[int, int], bytes]
"""Gives `length` bytes from `start`, fewer only at the end of the file."""

WINDOW_BYTES: Final = 65536
HEADER_ROOM: Final = 12
"""The longest element header."""


def read_at(file: BinaryIO) -> ReadAt:
    """Reads of the file that neither need nor, for a real file, move its position."""
    if isinstance(file, io.BufferedReader | io.BufferedRandom | io.FileIO) and hasattr(os, "pread"):
        if file.writable():
            file.flush()
        descriptor = file.fileno()
        return lambda start, length: os.pread(descriptor, length, start)

    def read(start: int, length: int) -> bytes:
        file.seek(start)
        return file.read(length)

    return read


def size_of(file: BinaryIO) -> int:
    """The size of the file in bytes."""
    return file.seek(0, io.SEEK_END)


class Window:
    """Bytes of the file from `base` on. An element header that begins at `last_header` or before is in them: zeros
    follow the last byte of the file, so that a header that is cut short can be read, and is then found to end too late.
    """

    __slots__ = ("_read", "base", "data", "last_header", "size")

    def __init__(self, read: ReadAt, size: int) -> None:
        self._read = read
        self.size = size
        self.data = b""
        self.base = 0
        self.last_header = -1

    def load(self, position: int, length: int = 0) -> None:
        """Move the window to `position`, with at least `length` bytes of the file in it."""
        data = self._read(position, max(length, WINDOW_BYTES))
        if len(data) < min(length, self.size - position):
            raise BadDicom("truncated: the file ended before its size")
        if position + len(data) >= self.size:
            data += bytes(HEADER_ROOM)
        self.data, self.base = data, position
        self.last_header = position + len(data) - HEADER_ROOM

    def reach_back(self, position: int) -> None:
        """Move the window where it lies behind the position."""
        if position < self.base:
            self.load(position)

    def bytes_at(self, position: int, length: int) -> bytes:
        """Bytes that are known to lie within the file; the window moves only where it must."""
        start = position - self.base
        if start < 0 or start + length > len(self.data):
            self.load(position, length)
            start = 0
        return self.data[start : start + length]

    def peek(self, position: int, length: int) -> bytes:
        """A few bytes without moving the window: for jumps from item to item."""
        start = position - self.base
        if start >= 0 and start + length <= len(self.data):
            return self.data[start : start + length]
        return self._read(position, length)
