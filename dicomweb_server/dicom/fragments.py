"""Encapsulated pixel data (PS3.5 A.4): its items, and which of them make up a frame. Only item headers are read."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from dicomweb_server.dicom.charset import Notes
from dicomweb_server.dicom.delimiters import ITEM_TAG, SEQUENCE_END
from dicomweb_server.dicom.layout import EncapsulatedFrames
from dicomweb_server.dicom.source import ReadAt, Window
from dicomweb_server.errors import BadDicom

SEVERAL: Final = 1 << 63
"""Marks the length of a frame of several items in the table of `EncapsulatedFrames`."""
MAX_FRAGMENTS: Final = 2_000_000

_U32 = Struct("<I").unpack_from
_SMALL_BYTES: Final = 2048
_CODESTREAM_STARTS: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP", b"\xff\x0a")
_CODESTREAM_END: Final = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Fragments:
    """The items of a value, the offset table first.

    items: the offset and the length of each, both with its header of 8 bytes, alternating.
    end: where the last item ends; next_element: where the delimiter ends; closed: whether there is one.
    """

    items: Sequence[int]
    end: int
    next_element: int
    closed: bool

    @property
    def count(self) -> int:
        """The number of fragments, without the offset table."""
        return max(0, len(self.items) // 2 - 1)


def scan(window: Window, start: int, end: int) -> Fragments:
    """Find the items from `start` on. Raises BadDicom where they end in the middle of one, or are none."""
    items = array("Q")
    position = start
    while position < end:
        head = window.peek(position, 8)
        if position + 8 > end or len(head) < 8:
            raise BadDicom("truncated: the pixel data ends inside an item header")
        length = _U32(head, 4)[0]
        if head[:4] != ITEM_TAG:
            if head[:4] == SEQUENCE_END[:4]:
                return Fragments(items, position, position + 8, True)
            raise BadDicom("the encapsulated pixel data holds something that is no item")
        following = position + 8 + length
        if following > end:
            raise BadDicom(f"truncated: an item of the pixel data says {length} bytes, {end - position - 8} are left")
        items.extend((position, 8 + length))
        if len(items) > 2 * MAX_FRAGMENTS:
            raise BadDicom(f"more than {MAX_FRAGMENTS} fragments of pixel data")
        position = following
        if length < _SMALL_BYTES and position < end and position + 8 > window.base + len(window.data):
            window.load(position)
    return Fragments(items, position, position, False)


def frame_table(
    fragments: Fragments, frames: int, *, extended_offsets: bytes, read: ReadAt, notes: Notes
) -> EncapsulatedFrames | None:
    """Which fragments are which frame.

    frames: Number of Frames. extended_offsets: the value of Extended Offset Table (7FE0,0001), or nothing.
    """
    starts = fragments.items[2::2]
    if not starts:
        return None
    if len(starts) == frames:
        return _table(fragments, range(frames))
    if frames == 1:
        return _table(fragments, [0])
    if len(starts) < frames:
        notes.warn(f"Number of Frames (0028,0008) is {frames}, but the pixel data has {len(starts)} fragments")
        return _table(fragments, range(len(starts)))
    basic = _basic_offsets(fragments, read)
    ways: tuple[Callable[[], Sequence[int]], ...] = (
        lambda: _by_offsets(_numbers("Q", extended_offsets), starts),
        lambda: _by_offsets(basic, starts),
        lambda: _by_ends(fragments, read),
        lambda: _by_starts(fragments, read),
    )
    for way in ways:
        if len(firsts := way()) == frames:
            return _table(fragments, firsts)
    notes.warn("the fragments of the pixel data cannot be told apart into frames with certainty")
    return _table(fragments, _by_offsets(basic, starts) or _by_ends(fragments, read))


def _table(fragments: Fragments, firsts: Sequence[int]) -> EncapsulatedFrames:
    """The table for frames that begin with these fragments."""
    if len(firsts) == fragments.count:
        table = array("Q", fragments.items[2:])
    else:
        items = fragments.items
        table = array("Q")
        for first, after in zip(firsts, [*firsts[1:], fragments.count], strict=True):
            start = items[2 + 2 * first]
            end = items[2 + 2 * after] if after < fragments.count else fragments.end
            table.extend((start, end - start | (SEVERAL if after - first > 1 else 0)))
    if sys.byteorder == "big":
        table.byteswap()
    return EncapsulatedFrames(len(firsts), table.tobytes())


def _numbers(code: str, data: bytes) -> Sequence[int]:
    size = array(code).itemsize
    numbers = array(code, data[: len(data) // size * size])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _basic_offsets(fragments: Fragments, read: ReadAt) -> Sequence[int]:
    start, length = fragments.items[0], fragments.items[1]
    return _numbers("I", read(start + 8, length - 8)) if 8 < length <= 4 * MAX_FRAGMENTS else ()


def _by_offsets(offsets: Sequence[int], starts: Sequence[int]) -> Sequence[int]:
    """The fragments that an offset table points at; nothing unless it begins with 0, ascends and hits item tags."""
    firsts = array("Q")
    previous = -1
    for offset in offsets:
        place = starts[0] + offset
        index = bisect_left(starts, place)
        if index <= previous or index == len(starts) or starts[index] != place:
            return ()
        firsts.append(index)
        previous = index
    return firsts if firsts and firsts[0] == 0 else ()


def _by_ends(fragments: Fragments, read: ReadAt) -> Sequence[int]:
    """A fragment after an end of codestream (in its last ten bytes) begins a frame."""
    firsts = array("Q", [0])
    for index in range(fragments.count - 1):
        start, length = fragments.items[2 + 2 * index], fragments.items[3 + 2 * index]
        tail = min(10, length - 8)
        if _CODESTREAM_END in read(start + length - tail, tail):
            firsts.append(index + 1)
    return firsts


def _by_starts(fragments: Fragments, read: ReadAt) -> Sequence[int]:
    """A fragment that looks like the start of a codestream begins a frame."""
    firsts = array("Q")
    for index in range(fragments.count):
        if read(fragments.items[2 + 2 * index] + 8, 6).startswith(_CODESTREAM_STARTS):
            firsts.append(index)
    return firsts if firsts and firsts[0] == 0 else array("Q")
