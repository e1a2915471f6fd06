"""Replacements in the bytes of a data set, and the elements that they put there, in any of the encodings (PS3.5 section
7)."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from dicomweb_server.dicom.charset_encoding import encoded_text
from dicomweb_server.dicom.element_places import ElementPlaces, Place
from dicomweb_server.dicom.element_writer import checked, encode_values
from dicomweb_server.dicom.json_model import LONG_VRS, WORD_BYTES
from dicomweb_server.dicom.plans import Encoding

_MAX_SHORT: Final = 0xFFFF


class Splice(NamedTuple):
    """Other bytes in the place of those between two positions."""

    start: int
    end: int
    data: bytes

    @property
    def growth(self) -> int:
        """How much longer the data set gets."""
        return len(self.data) - (self.end - self.start)


def element_bytes(tag: str, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """An element with these bytes, padded; a value too long for its VR becomes UN (PS3.5 6.2.2)."""
    value += (b"\0" if vr == "UI" or vr in WORD_BYTES else b" ")[: len(value) & 1]
    place = struct.pack(encoding.order + "HH", int(tag[:4], 16), int(tag[4:], 16))
    if not encoding.explicit:
        return place + struct.pack(encoding.order + "I", len(value)) + value
    if vr not in LONG_VRS and len(value) <= _MAX_SHORT:
        return place + vr.encode("ascii") + struct.pack(encoding.order + "H", len(value)) + value
    name = vr if vr in LONG_VRS else "UN"
    return place + name.encode("ascii") + struct.pack(encoding.order + "HI", 0, len(value)) + value


def item_bytes(data: bytes, encoding: Encoding) -> bytes:
    """An item of these elements."""
    return encoding.item + struct.pack(encoding.order + "I", len(data)) + data


def encoded_element(tag: str, element: Mapping[str, Any], encoding: Encoding, charset: bytes) -> bytes | None:
    """An element of DICOM JSON, whose values are texts, or items with such; None where the character set does not have
    its characters."""
    vr, values = element["vr"], element.get("Value", ())
    if vr == "SQ":
        items = []
        for value in values:
            inside = [encoded_element(inner, one, encoding, charset) for inner, one in checked(value)]
            if None in inside:
                return None
            items.append(item_bytes(b"".join(one for one in inside if one is not None), encoding))
        return element_bytes(tag, vr, b"".join(items), encoding)
    data = encoded_text(vr, encode_values(tag, vr, values).decode(), charset)
    return None if data is None else element_bytes(tag, vr, data, encoding)


def longer(at: int, length: int, inside: Iterable[Splice], encoding: Encoding) -> Splice:
    """The length of what holds these replacements."""
    grown = length + sum(splice.growth for splice in inside)
    return Splice(at, at + 4, struct.pack(encoding.order + "I", grown))


def group_length(places: ElementPlaces, place: Place, end: int, splices: Iterable[Splice]) -> Iterator[Splice]:
    """The group length (retired, PS3.5 7.2) that stands in this place and is no longer right. `end`: of its group."""
    if place.end - place.start != 4:
        return
    group = place.encoding.order + "H"
    growth = sum(
        splice.growth
        for splice in splices
        if place.end <= splice.start
        and splice.end <= end
        # What is put between two groups begins with the one that it belongs to.
        and (splice.start < end or struct.unpack_from(group, splice.data)[0] == int(place.tag[:4], 16))
    )
    length = place.encoding.u32(places.bytes_at(place.start, place.end), 0)[0] + growth
    if growth and 0 <= length < 1 << 32:
        yield Splice(place.start, place.end, struct.pack(place.encoding.order + "I", length))
