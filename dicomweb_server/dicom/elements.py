"""The elements of a data set (PS3.5 section 7), read into the DICOM JSON model; bulk values are passed over."""

from collections.abc import Callable
from typing import Any, Final

from dicomweb_server.dicom import dictionary
from dicomweb_server.dicom.charset import ESCAPE, Charset, Notes
from dicomweb_server.dicom.fragments import Fragments, scan
from dicomweb_server.dicom.json_model import (
    ALL_VRS,
    UTF8,
    WORD_BYTES,
    Attributes,
    Decoder,
    Element,
    first_int,
    first_value,
    inline_binary,
    swap_words,
    unsigned_entries,
)
from dicomweb_server.dicom.layout import BulkElement
from dicomweb_server.dicom.plans import (
    AMBIGUOUS,
    BINARY,
    CHARSET,
    DELIMITER,
    EXPLICIT_LITTLE,
    MAX_DEPTH,
    PIXELS,
    SEQUENCE,
    SKIPPED,
    UNDEFINED,
    UNKNOWN,
    VALUE,
    Encoding,
    Plan,
    Run,
    implicit_of,
    is_filling,
    kind_of,
)
from dicomweb_server.dicom.source import Window
from dicomweb_server.errors import BadDicom

INLINE_BYTES: Final = 1024
"""Binary values above this become a BulkDataURI."""
INLINE_TEXT_BYTES: Final = 1 << 20
"""So do other values above this; PS3.18 Table F.2.3-1 allows it for every VR that can be so long."""
INLINE_TOTAL_BYTES: Final = 1 << 26
"""Once so much of long values stands inline, the further ones above INLINE_BYTES are bulk data."""
MEMO_VALUE_BYTES: Final = 64
MEMO_VALUES: Final = 64
NUMBER_VRS: Final = frozenset(("AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"))
"""Their values are binary."""
MEMO_SEQUENCES: Final = 512
RUN_ELEMENTS: Final = 4
"""Fewer are no run."""
RUN_BYTES: Final = 8192
MEMO_RUNS: Final = 256
MEMO_ELEMENTS: Final = 4096
"""A file with more elements is not kept to compare the next with."""
MAX_ELEMENTS: Final = 2_000_000

_ITEM_END: Final = "FFFEE00D"
_Single = tuple[bytes, int, int, str, Element]


class Scope:
    """A data set while it is read: the top one or an item. `path` leads to it: its parent's path, the tag of the
    sequence, the number of the item from 1."""

    __slots__ = ("attributes", "charset", "closed", "depth", "encoding", "end", "path")

    def __init__(self, encoding: Encoding, charset: Charset, *, depth: int, path: Any, end: int) -> None:
        self.attributes: Attributes = {}
        self.encoding = encoding
        self.charset = charset
        self.depth = depth
        self.path = path
        self.end = end
        self.closed = False

    def bulk_key(self, tag: str) -> str:
        """The key of a value of this data set, as in `Layout.bulk_element`."""
        parts = [tag]
        path = self.path
        while path is not None:
            path, sequence, number = path
            parts.append(f"{sequence}/{number}")
        return "/".join(reversed(parts))


class DataSetReader:
    """Reads one data set. Afterwards `bulk` holds the places of the values that were passed over, `links` the elements
    that are to get their BulkDataURI, and `fragments` the items of the top level pixel data when it is encapsulated."""

    def __init__(self, window: Window, notes: Notes) -> None:
        self.bulk: dict[str, BulkElement] = {}
        self.links: list[tuple[Element, str]] = []
        self.fragments: Fragments | None = None
        self._window = window
        self._notes = notes
        self._counted = 0
        self._inline_bytes = 0
        self._unresolved: list[tuple[str, Element, bytes, Encoding]] = []
        # Of the top data set: what runs gave; and short values one by one, with their place in the bytes of the window.
        self._of_runs: dict[str, Element] = {}
        self._single: list[_Single] = []

    def read(self, position: int, end: int, encoding: Encoding) -> Attributes:
        """The attributes between two positions. Raises BadDicom."""
        if encoding.explicit is False and self._looks_explicit(position, end):
            self._notes.warn("implicit VR was declared, but the data set has explicit VR")
            encoding = EXPLICIT_LITTLE
        scope = Scope(encoding, Charset(b"", self._notes), depth=0, path=None, end=end)
        self._elements(scope, position)
        if scope.closed:
            raise BadDicom("an item delimiter stands outside of a sequence")
        if scope.encoding is encoding:
            self._learn(encoding)
        return scope.attributes

    def _learn(self, encoding: Encoding) -> None:
        """Find runs of elements that are those of the file before: the next file may have them too."""
        elements: dict[str, Element] = {}
        data, first, last = b"", 0, 0
        for bytes_, start, end, key, element in self._single:
            known = encoding.previous.get(key) is element
            if not (known and bytes_ is data and start == last and end - first <= RUN_BYTES):
                _remember(encoding, data[first:last], elements)
                elements, data, first = {}, bytes_, start
            if known:
                elements[key] = element
            else:
                first = end
            last = end
        _remember(encoding, data[first:last], elements)
        found = {**self._of_runs, **{key: element for _, _, _, key, element in self._single}}
        encoding.previous = found if len(found) <= MEMO_ELEMENTS else {}

    def _looks_explicit(self, position: int, end: int) -> bool:
        return end - position >= 8 and self._window.bytes_at(position, 8)[4:6].decode("latin-1") in ALL_VRS

    def _elements(self, scope: Scope, position: int) -> int:
        """Read elements up to the end of the scope or its delimiter; gives the position behind.

        This loop is what a header costs: runs and short values take its first branches, everything else a handler.
        """
        window, attributes, end = self._window, scope.attributes, scope.end
        data, base, last_header = window.data, window.base, window.last_header
        reach = min(end, base + len(data))
        plans, unpack_head, u32 = scope.encoding.plans, scope.encoding.unpack_head, scope.encoding.u32
        top = scope.depth == 0
        runs, single = (scope.encoding.runs, self._single) if top else (_NO_RUNS, [])
        unresolved = len(self._unresolved)
        while position < end:
            if position > last_header:
                self._count(len(attributes), add=False)
                window.load(position)
                data, base, last_header = window.data, window.base, window.last_header
                reach = min(end, base + len(data))
            place = position - base
            head, length = unpack_head(data, place)
            run = runs.get(head)
            if run is not None and data.startswith(run.raw, place) and position + len(run.raw) <= reach:
                attributes.update(run.elements)
                self._of_runs.update(run.elements)
                position += len(run.raw)
                continue
            start = position
            plan = plans.get(head)
            if plan is None:
                plan, length = self._new_plan(scope, place)
                plans, unpack_head = scope.encoding.plans, scope.encoding.unpack_head
                runs = scope.encoding.runs if top else _NO_RUNS
            key, _, kind, _, length_at, memo = plan
            if length_at:
                length = u32(data, place + length_at)[0]
                place += length_at + 4
            else:
                place += 8
            position = base + place + length
            if kind == VALUE and length <= INLINE_BYTES and position <= reach:
                raw = data[place : place + length]
                if (element := memo.get(raw) or self._decoded(scope, plan, raw, base + place)) is not None:
                    attributes[key] = element
                    single.append((data, start - base, place + length, key, element))
            elif key == _ITEM_END and length == 0:
                scope.closed = True
                break
            else:
                position = self._other(scope, plan, base + place, length)
                window.reach_back(position)
                data, base, last_header = window.data, window.base, window.last_header
                reach = min(end, base + len(data))
        self._count(len(attributes), add=True)
        if len(self._unresolved) > unresolved and (scope.depth == 0 or "00280103" in attributes):
            self._resolve(unresolved, signed=first_int(attributes, "00280103") == 1)
        if (tags := list(attributes)) != sorted(tags):
            scope.attributes = dict(sorted(attributes.items()))
        return position

    def _decoded(self, scope: Scope, plan: Plan, raw: bytes, start: int) -> Element | None:
        """A short value that no plan remembers; None where it does not fit its VR and is dealt with."""
        try:
            values = plan.decode(raw, scope.charset)
        except ValueError:
            self._misfit(scope, plan.key, plan.vr, start, len(raw))
            return None
        element: Element = {"vr": plan.vr} if values is None else {"vr": plan.vr, "Value": values}
        # Numbers and what is ASCII mean the same in every character set: the memo need not know which one is in force.
        if len(raw) <= MEMO_VALUE_BYTES and (plan.vr in NUMBER_VRS or (raw.isascii() and ESCAPE not in raw)):
            if len(plan.memo) >= MEMO_VALUES:
                plan.memo.clear()
            plan.memo[raw] = element
        return element

    def _count(self, elements: int, *, add: bool) -> None:
        if self._counted + elements > MAX_ELEMENTS:
            raise BadDicom(f"more than {MAX_ELEMENTS} elements")
        if add:
            self._counted += elements

    def _new_plan(self, scope: Scope, place: int) -> tuple[Plan, int]:
        """The plan for a header that is not in the table, and its length: a new tag, or a VR that is none."""
        head = self._window.data[place : place + 12]
        encoding = scope.encoding
        key, length = encoding.unpack_head(head)
        if (plan := encoding.plan(key)) is not None:
            return plan, length
        if head[4:6].isalpha() and head[4:6].isupper():
            self._notes.warn("an element has an unknown VR: read as UN")
            fits = self._window.base + place + 12 + encoding.u32(head, 8)[0] <= scope.end
            return encoding.unknown(head, long=fits and head[6:8] == b"\0\0"), length
        if scope.attributes:
            self._notes.warn("an element without VR stands in a data set with explicit VR")
            return encoding.switched(head), length
        if scope.depth == 0:
            self._notes.warn("explicit VR was declared, but the data set has implicit VR")
        scope.encoding = implicit_of(encoding)
        return self._new_plan(scope, place)

    def _other(self, scope: Scope, plan: Plan, start: int, length: int) -> int:
        """Read an element that is no short value; gives the position behind it."""
        if length == UNDEFINED and plan.kind != DELIMITER:
            return self._undefined(scope, plan, start)
        if start + length > scope.end:
            if self._is_filling(scope, start - (plan.length_at + 4 if plan.length_at else 8)):
                return scope.end
            start, length = self._refit(scope, plan, start, length)
        _HANDLERS[plan.kind](self, scope, plan, start, length)
        return start + length

    def _is_filling(self, scope: Scope, position: int) -> bool:
        if scope.depth or scope.end - position >= 8:
            return False
        rest = self._window.bytes_at(position, scope.end - position)
        if not is_filling(rest, pixels_seen="7FE00010" in scope.attributes):
            return False
        self._notes.warn("behind the last element stand bytes that mean nothing")
        return True

    def _refit(self, scope: Scope, plan: Plan, start: int, length: int) -> tuple[int, int]:
        """Old writers gave 16 bits to the length of OB, OW and UN, where two zeros should stand, and to that of
        elements for which they wrote two signs that are no VR."""
        if plan.length_at and start <= scope.end:
            value = start - 4 if plan.length_at == 8 else start
            number = int.from_bytes(
                self._window.bytes_at(value - 2, 2), "big" if scope.encoding.big_endian else "little"
            )
            if number and value + number <= scope.end:
                self._notes.warn(f"{_shown(plan.key)} has a length of 16 bits where 32 are due")
                return value, number
        left = scope.end - start
        if left < 0:
            raise BadDicom("truncated: the data ends inside an element header")
        raise BadDicom(f"truncated: {_shown(plan.key)} says {length} bytes, {left} are left")

    def _undefined(self, scope: Scope, plan: Plan, start: int) -> int:
        """An element of undefined length: a sequence, or encapsulated binary data."""
        if plan.kind in (BINARY, PIXELS):
            return self._encapsulated(scope, plan, start)
        if plan.kind not in (SEQUENCE, UNKNOWN):
            raise BadDicom(f"{_shown(plan.key)} has an undefined length")
        # What was written as UN has implicit VR inside (PS3.5 6.2.2); an explicit scope detects that item by item.
        encoding = EXPLICIT_LITTLE if plan.kind == UNKNOWN and scope.encoding.explicit else scope.encoding
        items, position = self._items(scope, plan.key, start, scope.end, encoding=encoding, closed=False)
        scope.attributes[plan.key] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        return position

    def _items(
        self, scope: Scope, key: str, position: int, end: int, *, encoding: Encoding, closed: bool
    ) -> tuple[list[Attributes], int]:
        """The items of a sequence, and the position behind it. closed: its end is known, no delimiter is due."""
        if scope.depth >= MAX_DEPTH:
            raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
        items: list[Attributes] = []
        window = self._window
        while position < end:
            if position + 8 > end:
                raise BadDicom(f"truncated: {_shown(key)} ends inside an item header")
            head = window.bytes_at(position, 8)
            position += 8
            if head[:4] == encoding.sequence_end:
                return items, position
            if head[:4] != encoding.item:
                raise BadDicom(f"{_shown(key)} holds something that is no item")
            length = encoding.u32(head, 4)[0]
            is_open = length == UNDEFINED
            item_end = end if is_open else position + length
            if item_end > end:
                raise BadDicom(f"truncated: an item of {_shown(key)} says {length} bytes, {end - position} are left")
            path = (scope.path, key, len(items) + 1)
            item = Scope(encoding, scope.charset, depth=scope.depth + 1, path=path, end=item_end)
            position = self._elements(item, position)
            if is_open and not item.closed:
                raise BadDicom(f"truncated: an item of {_shown(key)} has no end")
            items.append(item.attributes)
            self._count(1, add=True)
        if not closed:
            raise BadDicom(f"truncated: {_shown(key)} has no end")
        return items, position

    def _encapsulated(self, scope: Scope, plan: Plan, start: int) -> int:
        fragments = scan(self._window, start, scope.end)
        vr = plan.vr if plan.vr in WORD_BYTES and plan.vr != "UN" else "OB"
        self._put_bulk(scope, plan.key, vr, BulkElement(start, fragments.end - start, vr, True))
        if scope.depth == 0 and plan.key == "7FE00010":
            self.fragments = fragments
        elif not fragments.closed:
            raise BadDicom(f"truncated: {_shown(plan.key)} has no end")
        return fragments.next_element

    # Handlers by kind, for elements of known length that lie within the scope

    def _delimiter(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        raise BadDicom(f"{_shown(plan.key)} stands where an element is due")

    def _skipped(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        self._count(1, add=True)

    def _value(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        self._put_value(scope, plan.key, plan.vr, plan.decode, start, length)

    def _binary(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        self._put_binary(scope, plan.key, plan.vr, start, length, encoding=scope.encoding)

    def _sequence(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        if scope.depth or not 0 < length <= INLINE_BYTES:
            self._put_sequence(scope, plan.key, start, length, encoding=scope.encoding)
            return
        window, memo = self._window, scope.encoding.sequences
        raw = window.bytes_at(start, length)
        if (element := memo.get(raw)) is None:
            self._remember_sequence(scope, plan, start, raw)
            return
        scope.attributes[plan.key] = element
        first, place = start - (plan.length_at + 4 if plan.length_at else 8), start - window.base
        if first >= window.base:
            self._single.append((window.data, first - window.base, place + length, plan.key, element))

    def _remember_sequence(self, scope: Scope, plan: Plan, start: int, raw: bytes) -> None:
        """Read a short sequence, and keep it, if nothing outside of it has a part in what it means."""
        notes, foreign = self._notes, self._notes.foreign
        before = len(self.links), len(self._unresolved), notes.told
        notes.foreign = False
        self._put_sequence(scope, plan.key, start, len(raw), encoding=scope.encoding)
        after = len(self.links), len(self._unresolved), notes.told
        # As for values: what is ASCII means the same in every character set.
        if before == after and not notes.foreign and ESCAPE not in raw:
            memo = scope.encoding.sequences
            if len(memo) >= MEMO_SEQUENCES:
                memo.clear()
            memo[raw] = scope.attributes[plan.key]
        notes.foreign |= foreign

    def _charset(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        value = self._window.bytes_at(start, min(length, INLINE_BYTES))
        scope.charset = Charset(value, self._notes)
        scope.attributes[plan.key] = {"vr": "CS", "Value": [UTF8]}

    def _pixels(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        vr = plan.vr
        if vr not in WORD_BYTES or vr == "UN":  # PS3.5 A.1 and A.2
            wide = not scope.encoding.explicit or (first_int(scope.attributes, "00280100") or 0) > 8
            vr = {"7FE00008": "OF", "7FE00009": "OD"}.get(plan.key, "OW" if wide else "OB")
        if length:
            self._put_bulk(scope, plan.key, vr, BulkElement(start, length, vr, False))
        else:
            scope.attributes[plan.key] = {"vr": vr}

    def _ambiguous(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        self._put_ambiguous(scope, plan.key, plan.vr, start, length, encoding=scope.encoding)

    def _unknown(self, scope: Scope, plan: Plan, start: int, length: int) -> None:
        """VR UN with a tag that a dictionary knows is read with its VR, unless the value does not fit."""
        vr = plan.vr if plan.vr != "UN" else private_vr(scope.attributes, plan.key)
        kind = kind_of(vr)
        # The value of UN is little endian whatever the data set is (PS3.5 6.2.2).
        encoding = EXPLICIT_LITTLE if scope.encoding.explicit else scope.encoding
        if kind == VALUE:
            self._put_value(scope, plan.key, vr, encoding.decoders[vr], start, length)
        elif kind == AMBIGUOUS:
            self._put_ambiguous(scope, plan.key, vr, start, length, encoding=encoding)
        elif kind != SEQUENCE or not self._try_sequence(scope, plan.key, start, length, encoding=encoding):
            vr = "UN" if kind == SEQUENCE else vr
            self._put_binary(scope, plan.key, vr, start, length, encoding=encoding)

    # What they put into the attributes

    def _put_value(self, scope: Scope, key: str, vr: str, decode: Decoder, start: int, length: int) -> None:
        if length > INLINE_BYTES:
            if length > INLINE_TEXT_BYTES or self._inline_bytes > INLINE_TOTAL_BYTES:
                self._put_bulk(scope, key, vr, BulkElement(start, length, vr, False))
                return
            self._inline_bytes += length
        try:
            values = decode(self._window.bytes_at(start, length), scope.charset)
        except ValueError:
            self._misfit(scope, key, vr, start, length)
        else:
            scope.attributes[key] = {"vr": vr} if values is None else {"vr": vr, "Value": values}

    def _misfit(self, scope: Scope, key: str, vr: str, start: int, length: int) -> None:
        self._notes.warn(f"{_shown(key)} has a value of {length} bytes, which does not fit {vr}: given as UN")
        self._put_binary(scope, key, "UN", start, length, encoding=scope.encoding)

    def _put_binary(self, scope: Scope, key: str, vr: str, start: int, length: int, *, encoding: Encoding) -> None:
        if length > INLINE_BYTES:
            self._put_bulk(scope, key, vr, BulkElement(start, length, vr, False))
        elif length:
            data = self._window.bytes_at(start, length)
            if encoding.big_endian:  # JSON is little endian (PS3.18 F.2.7)
                data = swap_words(data, WORD_BYTES[vr])
            scope.attributes[key] = {"vr": vr, "InlineBinary": inline_binary(data)}
        else:
            scope.attributes[key] = {"vr": vr}

    def _put_bulk(self, scope: Scope, key: str, vr: str, bulk: BulkElement) -> None:
        element: Element = {"vr": vr}
        path = scope.bulk_key(key)
        scope.attributes[key] = element
        self.bulk[path] = bulk
        self.links.append((element, path))

    def _put_sequence(self, scope: Scope, key: str, start: int, length: int, *, encoding: Encoding) -> None:
        items, position = self._items(scope, key, start, start + length, encoding=encoding, closed=True)
        if position != start + length:
            raise BadDicom(f"{_shown(key)} is shorter than it says")
        scope.attributes[key] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}

    def _try_sequence(self, scope: Scope, key: str, start: int, length: int, *, encoding: Encoding) -> bool:
        links, unresolved = len(self.links), len(self._unresolved)
        try:
            self._put_sequence(scope, key, start, length, encoding=encoding)
        except BadDicom:
            for _, path in self.links[links:]:
                self.bulk.pop(path, None)
            del self.links[links:], self._unresolved[unresolved:]
            return False
        return True

    def _put_ambiguous(self, scope: Scope, key: str, vr: str, start: int, length: int, *, encoding: Encoding) -> None:
        """The choices of PS3.6: "US or SS" hangs on Pixel Representation, which may follow or stand further out."""
        if vr == "US or SS":
            self._put_value(scope, key, "US", encoding.decoders["US"], start, length)
            element = scope.attributes[key]
            if "Value" in element:
                self._unresolved.append((key, element, self._window.bytes_at(start, length), encoding))
        elif vr == "US or OW" and first_value(scope.attributes, "00283002") == 1:
            self._put_value(scope, key, "US", encoding.decoders["US"], start, length)
        else:
            self._put_binary(scope, key, "OW", start, length, encoding=encoding)

    def _resolve(self, first: int, *, signed: bool) -> None:
        if signed:
            for key, element, value, encoding in self._unresolved[first:]:
                values = encoding.decoders["SS"](value, _NO_CHARSET)
                element.update(vr="SS", Value=unsigned_entries(key, values or []))
        del self._unresolved[first:]


_NO_CHARSET: Final = Charset(b"", Notes())
_NO_RUNS: Final[dict[bytes, Run]] = {}

_Handler = Callable[[DataSetReader, Scope, Plan, int, int], None]
_HANDLERS: Final[dict[int, _Handler]] = {
    VALUE: DataSetReader._value,
    BINARY: DataSetReader._binary,
    SEQUENCE: DataSetReader._sequence,
    UNKNOWN: DataSetReader._unknown,
    AMBIGUOUS: DataSetReader._ambiguous,
    PIXELS: DataSetReader._pixels,
    CHARSET: DataSetReader._charset,
    SKIPPED: DataSetReader._skipped,
    DELIMITER: DataSetReader._delimiter,
}


def _remember(encoding: Encoding, raw: bytes, elements: dict[str, Element]) -> None:
    if len(elements) >= RUN_ELEMENTS:
        if len(encoding.runs) >= MEMO_RUNS:
            encoding.runs.clear()
        encoding.runs[encoding.unpack_head(raw)[0]] = Run(raw, elements)


def private_vr(attributes: Attributes, key: str) -> str:
    """The VR that the private dictionary has for a tag, by the creator that reserved its block (PS3.5 7.8.1)."""
    tag = int(key, 16)
    if tag & 0x10000 == 0 or tag & 0xFFFF < 0x1000:
        return "UN"
    creator = first_value(attributes, f"{key[:4]}00{key[4:6]}")
    return dictionary.private_vr(tag, creator) or "UN" if isinstance(creator, str) else "UN"


def _shown(key: str) -> str:
    return f"({key[:4]},{key[4:]})"
