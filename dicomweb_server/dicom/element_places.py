"""Where the elements of a data set stand in its file, without their values: what an edit cuts out and leaves as it is.

As lenient as `elements`: a data set that can be stored can be edited.
"""

from collections.abc import Iterator
from typing import NamedTuple

from dicomweb_server.dicom.fragments import scan
from dicomweb_server.dicom.json_model import ALL_VRS
from dicomweb_server.dicom.plans import (
    BINARY,
    DELIMITER,
    EXPLICIT_LITTLE,
    MAX_DEPTH,
    PIXELS,
    SEQUENCE,
    UNDEFINED,
    UNKNOWN,
    Encoding,
    Plan,
    header_at,
    is_filling,
)
from dicomweb_server.dicom.source import HEADER_ROOM, Window
from dicomweb_server.errors import BadDicom


class Place(NamedTuple):
    """One element. `begin` is where its header stands, `start` its value, `end` what follows it; an open one, of
    undefined length, ends in a delimiter of eight bytes. `encoding` is what its header was read with."""

    plan: Plan
    begin: int
    start: int
    end: int
    is_open: bool
    encoding: Encoding

    @property
    def tag(self) -> str:
        """As in the JSON model."""
        return self.plan.key

    @property
    def length_at(self) -> int:
        """Where its length of 32 bits stands. Only of sequences and others that have one."""
        return self.start - 4

    @property
    def items_encoding(self) -> Encoding:
        """What items in it begin with: UN is little endian inside, and may be implicit (PS3.5 6.2.2)."""
        return EXPLICIT_LITTLE if self.plan.kind == UNKNOWN and self.encoding.explicit else self.encoding

    @property
    def items_end(self) -> int:
        """Where the last item of a sequence ends."""
        return self.end - 8 if self.is_open else self.end


class ItemPlace(NamedTuple):
    """One item: `begin` is where its header stands, `start` its first element, `end` what follows it."""

    begin: int
    start: int
    end: int
    is_open: bool

    @property
    def elements_end(self) -> int:
        """Where its last element ends."""
        return self.end - 8 if self.is_open else self.end


class ElementPlaces:
    """Finds elements in a window of a file."""

    def __init__(self, window: Window) -> None:
        self._window = window

    def bytes_at(self, start: int, end: int) -> bytes:
        """What stands between two positions."""
        return self._window.bytes_at(start, end - start)

    def elements(self, position: int, end: int, encoding: Encoding, *, depth: int = 0) -> Iterator[Place]:
        """The elements from a position on, to the end or to the delimiter of an open item. Raises BadDicom."""
        if depth == 0 and not encoding.explicit and self._vr_at(position, end) in ALL_VRS:
            encoding = EXPLICIT_LITTLE
        first, pixels_seen = True, False
        while position < end:
            if depth == 0 and end - position < 8 and is_filling(self.bytes_at(position, end), pixels_seen=pixels_seen):
                return
            plan, start, length, encoding = header_at(self._head(position), position, end, encoding, first=first)
            pixels_seen |= plan.kind == PIXELS
            first = False
            if plan.kind == DELIMITER:
                if depth and plan.key == "FFFEE00D" and length == 0:
                    return
                raise BadDicom(f"({plan.key[:4]},{plan.key[4:]}) stands where an element is due")
            place = self._place(plan, position, start, length, end, encoding, depth)
            yield place
            position = place.end

    def items(self, place: Place, *, depth: int = 0) -> Iterator[ItemPlace]:
        """The items of a sequence. Raises BadDicom."""
        position, encoding = place.start, place.items_encoding
        while position < place.items_end:
            item = self._item(position, place.items_end, encoding, depth)
            if item is None:
                return
            yield item
            position = item.end

    def _vr_at(self, position: int, end: int) -> str:
        return self._window.bytes_at(position, 8)[4:6].decode("latin-1") if end - position >= 8 else ""

    def _head(self, position: int) -> bytes:
        """The twelve bytes from here on, zeros behind the end of the file."""
        left = self._window.size - position
        return self._window.bytes_at(position, min(HEADER_ROOM, left)).ljust(HEADER_ROOM, b"\0")

    def _place(
        self, plan: Plan, begin: int, start: int, length: int, end: int, encoding: Encoding, depth: int
    ) -> Place:
        if length != UNDEFINED:
            if start + length > end:
                raise BadDicom(f"truncated: ({plan.key[:4]},{plan.key[4:]}) ends behind its data set")
            return Place(plan, begin, start, start + length, False, encoding)
        if plan.kind in (BINARY, PIXELS):
            return Place(plan, begin, start, scan(self._window, start, end).next_element, True, encoding)
        if plan.kind not in (SEQUENCE, UNKNOWN):
            raise BadDicom(f"({plan.key[:4]},{plan.key[4:]}) has an undefined length")
        whole = Place(plan, begin, start, end, False, encoding)
        position = start
        while position < end:
            item = self._item(position, end, whole.items_encoding, depth)
            if item is None:
                return Place(plan, begin, start, position + 8, True, encoding)
            position = item.end
        raise BadDicom(f"truncated: ({plan.key[:4]},{plan.key[4:]}) has no end")

    def _item(self, position: int, end: int, encoding: Encoding, depth: int) -> ItemPlace | None:
        """The item that begins here; None where the sequence ends instead."""
        if depth >= MAX_DEPTH:
            raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
        head = self._head(position)
        if position + 8 > end:
            raise BadDicom("truncated: a sequence ends inside an item header")
        if head[:4] == encoding.sequence_end:
            return None
        if head[:4] != encoding.item:
            raise BadDicom("a sequence holds something that is no item")
        start, length = position + 8, int(encoding.u32(head, 4)[0])
        if length != UNDEFINED:
            if start + length > end:
                raise BadDicom("truncated: an item is longer than its sequence")
            return ItemPlace(position, start, start + length, False)
        at = start
        for place in self.elements(start, end, encoding, depth=depth + 1):
            at = place.end
        if at + 8 > end:
            raise BadDicom("truncated: an item has no end")
        return ItemPlace(position, start, at + 8, True)
