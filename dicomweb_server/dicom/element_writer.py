"""From the DICOM JSON model to elements in explicit VR little endian with UTF-8 text; the reverse of `elements`.

The JSON comes from a client: whatever is wrong with it is told as BadDicom, with the tag.
"""

import base64
import binascii
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Final, Protocol

from dicomweb_server.dicom.delimiters import ITEM_END, OPEN_ITEM, SEQUENCE_END
from dicomweb_server.dicom.json_model import ALL_VRS, LONG_VRS, LUT_DESCRIPTORS, NUMBER_FORMATS, UTF8, WORD_BYTES
from dicomweb_server.dicom.plans import MAX_DEPTH, UNDEFINED
from dicomweb_server.errors import BadDicom

MAX_LENGTH: Final = 0xFFFFFFFE

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_CHARSET_TAG: Final = "00080005"
_SINGLE_VALUED: Final = frozenset({"LT", "ST", "UR", "UT"})
_COPY_BYTES: Final = 1 << 20
_LONGEST_DECIMAL: Final = 16
_MOST_DIGITS: Final = 15  # that 16 characters can hold, with a point


class BulkPart(Protocol):
    """A bulk value, or a frame of one: `size` bytes from the beginning of `file`."""

    @property
    def media_type(self) -> str:
        """As the part's Content-Type has it; parameters are ignored."""

    @property
    def transfer_syntax_uid(self) -> str | None:
        """What the parameter transfer-syntax of the Content-Type names, if anything."""

    @property
    def file(self) -> BinaryIO:
        """Can seek."""

    @property
    def size(self) -> int:
        """In bytes."""


Bulk = Callable[[str], Sequence[BulkPart]]
"""Gives the parts that belong to a BulkDataURI, none where there are none."""


def shown(tag: str) -> str:
    """A tag as messages have it."""
    return f"({tag[:4]},{tag[4:]})" if _TAG.fullmatch(tag) else repr(tag[:20])


def checked(attributes: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The elements of one data set of JSON, sorted by tag, with tags in upper case. Raises BadDicom."""
    if not isinstance(attributes, Mapping):
        raise BadDicom("the metadata has something that is no data set: an object with tags is due")
    found: dict[str, Mapping[str, Any]] = {}
    for tag, element in attributes.items():
        if not isinstance(tag, str) or _TAG.fullmatch(tag) is None:
            raise BadDicom(f"{shown(str(tag))} is no tag: eight hexadecimal digits are due")
        if not isinstance(element, Mapping):
            raise BadDicom(f"{shown(tag)} is no object with a vr")
        vr = element.get("vr")
        if not isinstance(vr, str) or vr not in ALL_VRS:
            raise BadDicom(f"{shown(tag)} has no known vr")
        found[tag.upper()] = element
    return sorted(found.items())


def is_ascii(attributes: Any, depth: int = 0) -> bool:
    """Whether all text in JSON is ASCII."""
    if isinstance(attributes, str):
        return attributes.isascii()
    if depth > 4 * MAX_DEPTH:
        raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
    if isinstance(attributes, Mapping):
        return all(is_ascii(value, depth + 1) for key, value in attributes.items() if key != "InlineBinary")
    if isinstance(attributes, list | tuple):
        return all(is_ascii(value, depth + 1) for value in attributes)
    return True


class ElementWriter:
    """Writes elements to a file; bulk values are copied in pieces."""

    def __init__(self, out: BinaryIO, bulk: Bulk) -> None:
        self._out = out
        self._bulk = bulk

    def data_set(self, elements: Sequence[tuple[str, Mapping[str, Any]]], depth: int = 0) -> None:
        """Write the `checked` elements of a data set or an item."""
        for tag, element in elements:
            if tag[4:] != "0000":
                self.element(tag, element, depth)

    def element(self, tag: str, element: Mapping[str, Any], depth: int = 0) -> None:
        """Write one element."""
        vr = element["vr"]
        if vr == "SQ":
            self._sequence(tag, element, depth)
        elif "BulkDataURI" in element:
            self._bulk_value(tag, vr, self.parts(tag, element))
        elif tag == _CHARSET_TAG:
            self.value(tag, "CS", UTF8.encode("ascii"))
        elif vr in WORD_BYTES:
            self.value(tag, vr, inline_bytes(tag, element))
        else:
            if "InlineBinary" in element:
                raise BadDicom(f"{shown(tag)} has vr {vr}, which is never InlineBinary")
            self.value(tag, vr, encode_values(tag, vr, _values(tag, element)))

    def parts(self, tag: str, element: Mapping[str, Any]) -> Sequence[BulkPart]:
        """The parts of a bulk element, at least one."""
        uri = element.get("BulkDataURI")
        if not isinstance(uri, str):
            raise BadDicom(f"{shown(tag)} has a BulkDataURI that is no text")
        parts = self._bulk(uri)
        if not parts:
            raise BadDicom(f"{shown(tag)} has a BulkDataURI that no part of the message answers")
        return parts

    def value(self, tag: str, vr: str, value: bytes) -> None:
        """Write an element with these bytes, padded to an even length."""
        padding = b"\0" if vr == "UI" or vr in WORD_BYTES else b" "
        value += padding[: len(value) & 1]
        self.header(tag, vr, len(value))
        self._out.write(value)

    def header(self, tag: str, vr: str, length: int) -> None:
        """Write what comes before a value. Where a length does not fit the VR, it becomes UN (PS3.5 6.2.2)."""
        if length > MAX_LENGTH and length != UNDEFINED:
            raise BadDicom(f"{shown(tag)} is larger than 4 GiB")
        place = struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16))
        if vr not in LONG_VRS and length <= 0xFFFF:
            self._out.write(place + vr.encode("ascii") + struct.pack("<H", length))
        else:
            name = vr if vr in LONG_VRS else "UN"
            self._out.write(place + name.encode("ascii") + struct.pack("<HI", 0, length))

    def copy(self, part: BulkPart, start: int, length: int) -> None:
        """Copy bytes of a part."""
        part.file.seek(start)
        while length:
            chunk = part.file.read(min(length, _COPY_BYTES))
            if not chunk:
                raise BadDicom("a part of the message is shorter than it was")
            self._out.write(chunk)
            length -= len(chunk)

    def _bulk_value(self, tag: str, vr: str, parts: Sequence[BulkPart]) -> None:
        size = sum(part.size for part in parts)
        self.header(tag, vr, size + (size & 1))
        for part in parts:
            self.copy(part, 0, part.size)
        self._out.write((b"\0" if vr in WORD_BYTES else b" ")[: size & 1])

    def _sequence(self, tag: str, element: Mapping[str, Any], depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
        if "BulkDataURI" in element or "InlineBinary" in element:
            raise BadDicom(f"{shown(tag)} is a sequence: it has items under Value")
        items = _values(tag, element)
        if not items:
            self.header(tag, "SQ", 0)
            return
        self.header(tag, "SQ", UNDEFINED)
        for item in items:
            self._out.write(OPEN_ITEM)
            self.data_set(checked({} if item is None else item), depth + 1)
            self._out.write(ITEM_END)
        self._out.write(SEQUENCE_END)


def _values(tag: str, element: Mapping[str, Any]) -> Sequence[Any]:
    values = element.get("Value", ())
    if not isinstance(values, list | tuple):
        raise BadDicom(f"{shown(tag)} has a Value that is no list")
    return values


def inline_bytes(tag: str, element: Mapping[str, Any]) -> bytes:
    """The bytes of an element with InlineBinary, nothing where it is empty. Raises BadDicom."""
    if element.get("Value"):
        raise BadDicom(f"{shown(tag)} has vr {element['vr']}, which has InlineBinary or BulkDataURI, not Value")
    text = element.get("InlineBinary", "")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError) as exc:
        raise BadDicom(f"{shown(tag)} has an InlineBinary that is no base64") from exc


def encode_values(tag: str, vr: str, values: Sequence[Any]) -> bytes:
    """The bytes of the values of an element. Raises BadDicom."""
    try:
        if vr in NUMBER_FORMATS:
            return _pack(tag, vr, values)
        if vr == "AT":
            return b"".join(_attribute_tag(value) for value in values)
        if vr in _SINGLE_VALUED and len(values) > 1:
            raise BadDicom(f"{shown(tag)} has {len(values)} values: one is allowed")
        encode = _ENCODERS.get(vr, _text)
        return "\\".join("" if value is None else encode(value) for value in values).encode()
    except (TypeError, ValueError, OverflowError, struct.error) as exc:
        raise BadDicom(f"{shown(tag)} has a value that does not fit vr {vr}") from exc


def _pack(tag: str, vr: str, values: Sequence[Any]) -> bytes:
    code, _ = NUMBER_FORMATS[vr]
    convert: Callable[[Any], Any] = _real if vr in ("FD", "FL") else _whole
    numbers = [convert(value) for value in values]
    if vr == "SS" and tag in LUT_DESCRIPTORS and numbers and numbers[0] > 0x7FFF:
        numbers[0] -= 0x10000
    return struct.pack(f"<{len(numbers)}{code}", *numbers)


def _real(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    """A whole number, also as text (PS3.18 F.2.3 for the large ones) or written with a fraction of zero."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    return int(value)


def _attribute_tag(value: Any) -> bytes:
    if _TAG.fullmatch(value) is None:
        raise ValueError
    return struct.pack("<HH", int(value[:4], 16), int(value[4:], 16))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return str(value)


def _decimal_string(value: Any) -> str:
    """DS has at most 16 characters (PS3.5 Table 6.2-1)."""
    if isinstance(value, str):
        return value
    text = repr(_real(value)).removesuffix(".0")
    digits = _MOST_DIGITS
    while len(text) > _LONGEST_DECIMAL:
        text, digits = f"{value:.{digits}g}", digits - 1
    return text


def _integer_string(value: Any) -> str:
    return value if isinstance(value, str) else str(_whole(value))


def _person_name(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise TypeError
    groups = [value.get(group) or "" for group in ("Alphabetic", "Ideographic", "Phonetic")]
    return "=".join(groups).rstrip("=")


_ENCODERS: Final[dict[str, Callable[[Any], str]]] = {
    "DS": _decimal_string,
    "IS": _integer_string,
    "PN": _person_name,
}
