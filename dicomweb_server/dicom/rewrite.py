"""A data set in another encoding of its elements: explicit or implicit VR little endian, from any (PS3.5 section 7).

Values keep their bytes, but for the byte order of numbers: text is neither decoded nor mended. What changes is how they
are framed, and the elements that the caller replaces.
"""

import struct
from collections.abc import Mapping
from typing import Final

from dicomweb_server.dicom.delimiters import ITEM_END, ITEM_TAG, OPEN_ITEM, SEQUENCE_END
from dicomweb_server.dicom.json_model import ALL_VRS, LONG_VRS, NUMBER_FORMATS, WORD_BYTES, swap_words
from dicomweb_server.dicom.plans import (
    BINARY,
    DELIMITER,
    MAX_DEPTH,
    PIXELS,
    SEQUENCE,
    SKIPPED,
    UNDEFINED,
    UNKNOWN,
    Encoding,
    Plan,
    header_at,
)
from dicomweb_server.dicom.source import HEADER_ROOM
from dicomweb_server.errors import BadDicom

Patches = Mapping[str, tuple[str, bytes] | None]
"""Elements of the outermost level by tag: the VR and the value to write, or None to leave the element out."""

_MAX_SHORT: Final = 0xFFFF
_SWAPPED: Final = {**WORD_BYTES, **{vr: size for vr, (_, size) in NUMBER_FORMATS.items()}, "AT": 2}


def rewrite(
    data: bytes, encoding: Encoding, *, explicit: bool, signed: bool = False, patches: Patches | None = None
) -> bytes:
    """The elements of `data`, little endian, with explicit or implicit VR.

    signed: Pixel Representation is 1, which decides between US and SS. Group lengths and trailing padding are left out,
    and so are sequences that hold compressed pixel data (icons): they would have to be in the transfer syntax of the
    file. Raises BadDicom where the elements cannot be told apart.
    """
    writer = _Rewriter(data, explicit=explicit, signed=signed)
    writer.top(encoding, patches or {})
    return bytes(writer.out)


def element_head(tag: str, vr: str, length: int, *, explicit: bool) -> bytes:
    """The header of an element; a value too long for its VR becomes UN (PS3.5 6.2.2)."""
    place = struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16))
    if not explicit:
        return place + struct.pack("<I", length)
    if vr not in LONG_VRS:
        if length <= _MAX_SHORT:
            return place + vr.encode("ascii") + struct.pack("<H", length)
        vr = "UN"
    return place + vr.encode("ascii") + struct.pack("<HI", 0, length)


class _Rewriter:
    def __init__(self, data: bytes, *, explicit: bool, signed: bool) -> None:
        self.out = bytearray()
        self._data = data
        self._explicit = explicit
        self._signed = signed
        self._compressed = 0

    def top(self, encoding: Encoding, patches: Patches) -> None:
        """The outermost level, with the patches at their places."""
        waiting = [(tag, patch) for tag, patch in sorted(patches.items()) if patch is not None]
        place, end = 0, len(self._data)
        while place + 8 <= end:
            plan, start, length, encoding = self._header(place, end, encoding, first=place == 0)
            while waiting and waiting[0][0] < plan.key:
                self._put(*waiting.pop(0))
            begin, compressed = len(self.out), self._compressed
            place = self._element(plan, start, length, end, encoding, place, 0)
            if plan.key in patches or self._compressed > compressed:
                del self.out[begin:]
        for tag, patch in waiting:
            self._put(tag, patch)

    def _put(self, tag: str, patch: tuple[str, bytes] | None) -> None:
        vr, value = patch or ("UN", b"")
        value += (b"\0" if vr in ("UI", "OB", "UN") else b" ")[: len(value) & 1]
        self.out += element_head(tag, vr, len(value), explicit=self._explicit) + value

    def _header(self, place: int, end: int, encoding: Encoding, *, first: bool) -> tuple[Plan, int, int, Encoding]:
        head = self._data[place : place + HEADER_ROOM].ljust(HEADER_ROOM, b"\0")
        return header_at(head, place, end, encoding, first=first)

    def _element(
        self, plan: Plan, start: int, length: int, end: int, encoding: Encoding, place: int, depth: int
    ) -> int:
        """Write one element; gives the place behind it."""
        is_open = length == UNDEFINED
        if plan.kind == DELIMITER or (not is_open and start + length > end):
            raise BadDicom("the elements of the data set do not fit into each other")
        if plan.kind == SKIPPED:
            return start + length
        if is_open and plan.kind in (BINARY, PIXELS):
            return self._fragments(plan, start, end)
        if plan.kind == SEQUENCE or (is_open and plan.kind == UNKNOWN):
            self.out += element_head(plan.key, "SQ", UNDEFINED, explicit=self._explicit)
            place = self._items(start, end if is_open else start + length, encoding, depth, is_open=is_open)
            self.out += SEQUENCE_END
            return place
        if is_open:
            raise BadDicom("an element of the data set has no length")
        vr = self._vr(plan, encoding, place)
        value = self._data[start : start + length]
        if encoding.big_endian:
            value = swap_words(value, _SWAPPED.get(vr, 1))
        self.out += element_head(plan.key, vr, length, explicit=self._explicit) + value
        return start + length

    def _vr(self, plan: Plan, encoding: Encoding, place: int) -> str:
        if encoding.explicit and plan.length_at != 4:
            written = self._data[place + 4 : place + 6].decode("latin-1")
            return written if written in ALL_VRS else "UN"
        if " or " not in plan.vr:
            return plan.vr
        return ("SS" if self._signed else "US") if plan.vr == "US or SS" else "OW"

    def _items(self, place: int, end: int, encoding: Encoding, depth: int, *, is_open: bool) -> int:
        if depth >= MAX_DEPTH:
            raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
        while place + 8 <= end:
            head = self._data[place : place + 4]
            length = int(encoding.u32(self._data, place + 4)[0])
            place += 8
            if head == encoding.sequence_end:
                return place
            if head != encoding.item:
                raise BadDicom("a sequence holds something that is no item")
            item_end = end if length == UNDEFINED else place + length
            if item_end > end:
                raise BadDicom("an item is longer than its sequence")
            self.out += OPEN_ITEM
            place = self._item(place, item_end, encoding, depth + 1, is_open=length == UNDEFINED)
            self.out += ITEM_END
        if is_open:
            raise BadDicom("a sequence has no end")
        return end

    def _item(self, place: int, end: int, encoding: Encoding, depth: int, *, is_open: bool) -> int:
        first = True
        while place + 8 <= end:
            plan, start, length, encoding = self._header(place, end, encoding, first=first)
            if is_open and plan.key == "FFFEE00D":
                return start
            place = self._element(plan, start, length, end, encoding, place, depth)
            first = False
        if is_open:
            raise BadDicom("an item has no end")
        return end

    def _fragments(self, plan: Plan, start: int, end: int) -> int:
        """Compressed data below the outermost level: it is walked over, and what holds it is left out."""
        self._compressed += 1
        place = start
        while place + 8 <= end:
            tag, length = struct.unpack_from("<4sI", self._data, place)
            place += 8
            if tag == SEQUENCE_END[:4]:
                return place
            if tag != ITEM_TAG or length > end - place:
                break
            place += length
        raise BadDicom("compressed data in the data set has no end")
