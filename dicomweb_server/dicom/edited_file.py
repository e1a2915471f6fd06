"""A DICOM file with other values of some attributes; every other byte of it stays as it is.

What was changed is kept in the Original Attributes Sequence (PS3.3 C.12.1.1.9), byte for byte. Only where a new value
does not fit the character set of the file are the texts in it encoded again, in UTF-8. The file is never held in
memory: what an edit makes is a list of small replacements, between which it is copied.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from dicomweb_server.dicom.attributes import is_empty
from dicomweb_server.dicom.charset import Notes
from dicomweb_server.dicom.element_places import ElementPlaces, Place
from dicomweb_server.dicom.elements import DataSetReader
from dicomweb_server.dicom.json_model import ALL_VRS, UTF8
from dicomweb_server.dicom.plans import IMPLICIT_LITTLE, UNKNOWN, Encoding
from dicomweb_server.dicom.rewrite import rewrite
from dicomweb_server.dicom.source import ReadAt, Window
from dicomweb_server.dicom.splices import Splice, element_bytes, encoded_element, group_length, item_bytes, longer
from dicomweb_server.dicom.text_conversion import TextConversion
from dicomweb_server.errors import BadDicom

ORIGINAL: Final = "04000561"
_CHARSET: Final = "00080005"
_MAX_SHORT: Final = 0xFFFF
_COPY_BYTES: Final = 1 << 20
_FAR: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new value of an attribute of the outermost level. values: as under "Value" of the DICOM JSON model; none empty
    it, or take it out unless `stays` says that it must be there (type 2 in PS3.3)."""

    tag: str
    vr: str
    values: Sequence[Any] = ()
    stays: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEdit:
    """What is to be changed, in which name. `made_at` has a time zone. `code` is the Reason for the Attribute
    Modification: COERCE or CORRECT."""

    changes: Sequence[Change]
    made_at: datetime
    system: str
    code: str


@dataclass(frozen=True, slots=True)
class EditedFile:
    """The file after an edit. changed: the tags whose values differ, sorted; none: it is what it was.

    converted: its texts are in another character set now.
    """

    changed: tuple[str, ...]
    converted: bool
    _read: ReadAt
    _data: ReadAt
    _start: int
    _end: int
    _meta_end: int
    _deflated: bool
    _splices: tuple[Splice, ...] = field(repr=False, default=())

    @property
    def size_bytes(self) -> int:
        """How large it is; of a deflated one at most, give or take what does not compress."""
        grown = sum(splice.growth for splice in self._splices)
        return self._meta_end + self._end - self._start + grown

    def chunks(self) -> Iterator[bytes]:
        """The whole file."""
        yield from _copied(self._read, 0, self._meta_end)
        if not self._deflated:
            yield from self._data_set()
            return
        engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        written = 0
        for chunk in self._data_set():
            packed = engine.compress(chunk)
            written += len(packed)
            yield packed
        packed = engine.flush()
        yield packed + bytes((written + len(packed)) & 1)  # PS3.5 A.5

    def _data_set(self) -> Iterator[bytes]:
        position = self._start
        for splice in self._splices:
            yield from _copied(self._data, position, splice.start)
            yield splice.data
            position = splice.end
        yield from _copied(self._data, position, self._end)


def edit_file(
    edit: FileEdit,
    *,
    read: ReadAt,
    size: int,
    start: int,
    encoding: Encoding,
    inflated: tuple[ReadAt, int] | None = None,
) -> EditedFile:
    """Apply an edit to a file whose data set begins at `start` in this encoding; of a deflated one `inflated` reads the
    data set, and gives its size. Raises BadDicom where its elements cannot be told apart, Conflict where it would lose
    text.
    """
    data, data_start, data_end = (read, start, size) if inflated is None else (inflated[0], 0, inflated[1])
    work = _Work(ElementPlaces(Window(data, data_end)), data_start, data_end, encoding, edit)
    splices = work.splices()
    return EditedFile(
        changed=tuple(sorted(work.changed)),
        converted=work.converts,
        _read=read,
        _data=data,
        _start=data_start,
        _end=data_end,
        _meta_end=start,
        _deflated=inflated is not None,
        _splices=tuple(sorted(splices, key=lambda splice: splice[:2])),
    )


class _Work:
    """One file: what is in it, what differs, and what is to be put where."""

    def __init__(self, places: ElementPlaces, start: int, end: int, encoding: Encoding, edit: FileEdit) -> None:
        self._places = places
        self._start = start
        self._end = end
        self._encoding = encoding
        self._edit = edit
        self._found: dict[str, list[Place]] = {}
        self._order: list[tuple[str, int]] = []
        self._behind = end  # what was not looked at begins there
        self._look()
        self._charset = self._value(self._found.get(_CHARSET, []))
        self._old = {change.tag: self._element_of(change) for change in edit.changes}
        self.changed = {change.tag for change in edit.changes if self._differs(change)}
        self.converts = any(
            self._encoded(change, self._charset) is None for change in edit.changes if change.tag in self.changed
        )

    def splices(self) -> list[Splice]:
        """All replacements; none where nothing differs."""
        if not self.changed:
            return []
        charset = UTF8.encode("ascii") if self.converts else self._charset
        new: dict[str, bytes] = {}
        for change in self._edit.changes:
            if change.tag in self.changed:
                new[change.tag] = self._new_element(change, charset)
        if self.converts:
            new[_CHARSET] = element_bytes(_CHARSET, "CS", UTF8.encode("ascii"), self._encoding)
        if self.converts:
            self._look(everything=True)  # group lengths behind the last change count, too
        splices = [splice for tag, data in sorted(new.items()) for splice in self._put(tag, data)]
        if self.converts:
            skip = frozenset({*new, ORIGINAL})
            splices += TextConversion(self._places).splices(
                self._start, self._end, self._encoding, self._charset, skip=skip
            )
        splices += self._with_original()
        return [*splices, *self._group_lengths(splices)]

    # What is there

    def _look(self, *, everything: bool = False) -> None:
        """Find the elements up to the last one that can matter."""
        wanted = {change.tag for change in self._edit.changes} | {_CHARSET, ORIGINAL}
        last = "FFFFFFFF" if everything else max(wanted)
        self._found, self._order, self._behind = {}, [], self._start
        first = True
        for place in self._places.elements(self._start, self._end, self._encoding):
            if first:
                self._encoding, first = place.encoding, False
            if place.tag > last:
                self._behind = place.begin
                return
            self._order.append((place.tag, place.begin))
            self._behind = place.end  # of the last one: what fills the file up stays behind it
            if place.tag in wanted or place.tag[4:] == "0000":
                self._found.setdefault(place.tag, []).append(place)

    def _value(self, places: Sequence[Place]) -> bytes:
        return self._places.bytes_at(places[-1].start, places[-1].end) if places else b""

    def _element_of(self, change: Change) -> bytes | None:
        """The element as it stands in the file, with a header that is whole; None where there is none."""
        places = self._found.get(change.tag)
        if not places:
            return None
        place = places[-1]
        raw = self._places.bytes_at(place.begin, place.end)
        if not self._encoding.explicit or (raw[4:6].decode("latin-1") in ALL_VRS and place.encoding is self._encoding):
            return raw
        return element_bytes(change.tag, change.vr, self._value(places), self._encoding)

    def _differs(self, change: Change) -> bool:
        old = self._old[change.tag]
        if not change.values:
            return old is not None and not is_empty(self._read(change.tag, old, self._charset))
        charset = self._charset
        data = self._encoded(change, charset)
        if data is None or old is None:
            return True
        return self._read(change.tag, old, charset).get("Value") != self._read(change.tag, data, charset).get("Value")

    def _read(self, tag: str, element: bytes, charset: bytes) -> Mapping[str, Any]:
        """What the reader of data sets makes of an element: DICOM JSON."""
        data = element_bytes(_CHARSET, "CS", charset, self._encoding) + element
        reader = DataSetReader(Window(lambda start, length: data[start : start + length], len(data)), Notes())
        return reader.read(0, len(data), self._encoding).get(tag, {})

    # What it becomes

    def _encoded(self, change: Change, charset: bytes) -> bytes | None:
        """The new element, whose value is not empty; None where the character set does not have its characters."""
        return encoded_element(change.tag, {"vr": change.vr, "Value": change.values}, self._encoding, charset)

    def _new_element(self, change: Change, charset: bytes) -> bytes:
        if not change.values:
            return element_bytes(change.tag, change.vr, b"", self._encoding) if change.stays else b""
        return self._encoded(change, charset) or b""

    def _put(self, tag: str, data: bytes) -> Iterator[Splice]:
        places = self._found.get(tag)
        if not places:
            at = next((begin for other, begin in self._order if other > tag), self._behind)
            yield Splice(at, at, data)
            return
        for place in places[:-1]:
            yield Splice(place.begin, place.end, b"")
        yield Splice(places[-1].begin, places[-1].end, data)

    def _with_original(self) -> Iterator[Splice]:
        """The Original Attributes Sequence, with an item more."""
        places = self._found.get(ORIGINAL)
        if not places:
            item = self._item(self._encoding)
            yield from self._put(ORIGINAL, element_bytes(ORIGINAL, "SQ", item, self._encoding))
            return
        place = places[-1]
        own = place.items_encoding
        implicit = place.plan.kind == UNKNOWN and own.explicit and self._is_implicit_inside(place)
        item = self._item(IMPLICIT_LITTLE if implicit else own)
        nested: list[Splice] = []
        if self.converts:
            nested = TextConversion(self._places).items(place, self._charset)
        nested.append(Splice(place.items_end, place.items_end, item))
        yield from nested
        if not place.is_open:
            yield longer(place.length_at, place.end - place.start, nested, place.encoding)

    def _is_implicit_inside(self, place: Place) -> bool:
        for item in self._places.items(place):
            head = self._places.bytes_at(item.start, min(item.start + 8, item.end))
            return head[4:6].decode("latin-1") not in ALL_VRS
        return True

    def _item(self, encoding: Encoding) -> bytes:
        """What was there, when and why it was changed."""
        old = {}
        for change in self._edit.changes:
            if change.tag in self.changed:
                raw = self._old[change.tag]
                old[change.tag] = element_bytes(change.tag, change.vr, b"", self._encoding) if raw is None else raw
        if self.converts:  # what was there is in the character set that it was in
            old[_CHARSET] = element_bytes(_CHARSET, "CS", self._charset, self._encoding)
        data = b"".join(element for _, element in sorted(old.items()))
        if encoding is not self._encoding:
            data = rewrite(data, self._encoding, explicit=False)
        made_at = self._edit.made_at.strftime("%Y%m%d%H%M%S.%f%z")
        return item_bytes(
            element_bytes("04000550", "SQ", item_bytes(data, encoding), encoding)
            + element_bytes("04000562", "DT", made_at.encode("ascii"), encoding)
            + element_bytes("04000563", "LO", self._edit.system.encode("ascii"), encoding)
            + element_bytes("04000564", "LO", b"", encoding)
            + element_bytes("04000565", "CS", self._edit.code.encode("ascii"), encoding),
            encoding,
        )

    def _group_lengths(self, splices: Sequence[Splice]) -> Iterator[Splice]:
        """Group lengths (retired, PS3.5 7.2) that are no longer right."""
        for tag, places in self._found.items():
            if tag[4:] != "0000":
                continue
            end = next((begin for other, begin in self._order if other[:4] > tag[:4]), self._behind)
            yield from group_length(self._places, places[-1], end, splices)


def _copied(read: ReadAt, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        data = read(start, min(end - start, _COPY_BYTES))
        if not data:
            raise BadDicom("truncated: the file ended before its size")
        yield data
        start += len(data)
