"""From the bytes of one value to the values of the DICOM JSON model (PS3.18 Annex F).

A decoder takes the bytes of a value and the character set of its data set, and gives the list that stands under
"Value", or None when the value is empty. It raises ValueError when the bytes do not fit the VR. Padding is no part of a
value: it is cut off every value, and a value that is empty among others is None (PS3.18 F.2.5).
"""

import binascii
import re
import struct
import sys
from collections.abc import Callable
from math import isfinite
from typing import Any, Final

from dicomweb_server.dicom.charset import ESCAPE, NAME_DELIMITERS, TEXT_DELIMITERS, Charset

Element = dict[str, Any]
Attributes = dict[str, Element]
Values = list[Any]
Decoder = Callable[[bytes, Charset], Values | None]

LONG_VRS: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
"""The VRs with a length of 32 bits in explicit encodings (PS3.5 7.1.2)."""

WORD_BYTES: Final = {"OB": 1, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "UN": 1}
"""The binary VRs with the size of the words that byte order applies to."""

NUMBER_FORMATS: Final = {
    "FD": ("d", 8),
    "FL": ("f", 4),
    "SL": ("i", 4),
    "SS": ("h", 2),
    "SV": ("q", 8),
    "UL": ("I", 4),
    "US": ("H", 2),
    "UV": ("Q", 8),
}
"""The VRs of binary numbers: the struct format and the size in bytes of one number."""

LUT_DESCRIPTORS: Final = frozenset({"00281101", "00281102", "00281103", "00283002"})
"""Their first value is a number of entries, never negative, also where the VR is SS (PS3.3 C.11.1.1.1)."""

UTF8: Final = "ISO_IR 192"

_PADDING: Final = " \0"
_INTEGER = re.compile(rb"[+-]?[0-9]+(?:\.0*)?")


def not_finite(number: float) -> str:
    """The text for a number that JSON has no literal for (PS3.18 F.2.3)."""
    if number != number:
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def inline_binary(data: bytes) -> str:
    """The data for "InlineBinary"."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def swap_words(data: bytes, word_bytes: int) -> bytes:
    """The data with the bytes of each word reversed. What does not fill a last word stays as it is."""
    if word_bytes == 1:
        return data
    whole = len(data) - len(data) % word_bytes
    swapped = bytearray(data)
    for place in range(word_bytes):
        swapped[place:whole:word_bytes] = data[word_bytes - 1 - place : whole : word_bytes]
    return bytes(swapped)


def _code(value: bytes, charset: Charset) -> Values | None:
    """AS CS DA DT TM UI: default repertoire, several values."""
    try:
        text = value.decode("ascii").rstrip(_PADDING)
    except UnicodeDecodeError:
        text = charset.decode_default(value).rstrip(_PADDING)
    if "\\" in text:
        return [part.rstrip(_PADDING) or None for part in text.split("\\")]
    return [text] if text else None


def _title(value: bytes, charset: Charset) -> Values | None:
    """AE: blanks at both ends mean nothing."""
    found = _code(value, charset)
    return found and [part and part.strip() for part in found]


def _link(value: bytes, charset: Charset) -> Values | None:
    """UR: one value."""
    try:
        text = value.decode("ascii").rstrip(_PADDING)
    except UnicodeDecodeError:
        text = charset.decode_default(value).rstrip(_PADDING)
    return [text] if text else None


def _strings(value: bytes, charset: Charset) -> Values | None:
    """LO SH UC: the character set of the data set, several values."""
    if value.isascii() and ESCAPE not in value:
        text = value.decode("ascii").rstrip(_PADDING)
    else:
        text = charset.decode(value, TEXT_DELIMITERS).rstrip(_PADDING)
    if "\\" in text:
        return [part.rstrip(_PADDING) or None for part in text.split("\\")]
    return [text] if text else None


def _text(value: bytes, charset: Charset) -> Values | None:
    """LT ST UT: the character set of the data set, one value in which a backslash is a backslash."""
    if value.isascii() and ESCAPE not in value:
        text = value.decode("ascii").rstrip(_PADDING)
    else:
        text = charset.decode(value, TEXT_DELIMITERS).rstrip(_PADDING)
    return [text] if text else None


def _names(value: bytes, charset: Charset) -> Values | None:
    """PN: up to three groups, an object each (PS3.18 F.2.2)."""
    if value.isascii() and ESCAPE not in value:
        text = value.decode("ascii").rstrip(_PADDING)
    else:
        text = charset.decode(value, NAME_DELIMITERS).rstrip(_PADDING)
    if "\\" in text:
        return [_name(part) for part in text.split("\\")]
    if "=" in text:
        name = _name(text)
        return [name] if name else None
    return [{"Alphabetic": text}] if text else None


def _name(text: str) -> dict[str, str] | None:
    groups = zip(("Alphabetic", "Ideographic", "Phonetic"), text.split("="), strict=False)
    return {key: stripped for key, group in groups if (stripped := group.rstrip(_PADDING))} or None


def _integers(value: bytes, charset: Charset) -> Values | None:
    """IS."""
    if value.isdigit() and len(value) < 19:
        return [int(value)]
    parts = [_integer(part, charset) for part in value.rstrip(b" \0").split(b"\\")]
    return None if parts == [None] else parts


def _integer(value: bytes, charset: Charset) -> int | float | str | None:
    plain = value.strip(b" \0")
    if not plain:
        return None
    if _INTEGER.fullmatch(plain) is not None:
        digits = plain.partition(b".")[0]
        number = int(digits) if len(digits) <= 21 else 2**64
        return number if -(2**63) <= number < 2**64 else digits.decode("ascii")
    return _decimal(value, charset)


def _decimals(value: bytes, charset: Charset) -> Values | None:
    """DS."""
    try:
        number = float(value)
        if isfinite(number) and b"_" not in value:
            return [number]
    except ValueError:
        pass
    parts = [_decimal(part, charset) for part in value.rstrip(b" \0").split(b"\\")]
    return None if parts == [None] else parts


def _decimal(value: bytes, charset: Charset) -> float | str | None:
    plain = value.strip(b" \0")
    if not plain:
        return None
    try:
        if b"_" not in plain:
            number = float(plain)
            if isfinite(number):
                return number
            if plain.strip(b"+-").isalpha():
                return not_finite(number)
    except ValueError:
        pass
    found = _link(plain, charset)
    return str(found[0]) if found else None


def unsigned_entries(key: str, values: Values) -> Values:
    """The values of an attribute with VR SS; of a LUT descriptor with its number of entries as it is meant."""
    if key in LUT_DESCRIPTORS and values and values[0] < 0:
        return [values[0] + 65536, *values[1:]]
    return values


def decoder_for(key: str, vr: str, decode: Decoder) -> Decoder:
    """The decoder for one attribute, from that of its VR."""
    if key not in LUT_DESCRIPTORS or vr != "SS":
        return decode

    def decode_descriptor(value: bytes, charset: Charset) -> Values | None:
        values = decode(value, charset)
        return values and unsigned_entries(key, values)

    return decode_descriptor


def _tags(order: str) -> Decoder:
    """AT."""

    def decode(value: bytes, charset: Charset) -> Values | None:
        if len(value) % 4:
            raise ValueError
        words = struct.unpack(f"{order}{len(value) // 2}H", value)
        pairs = zip(words[::2], words[1::2], strict=True)
        return [f"{group:04X}{element:04X}" for group, element in pairs] or None

    return decode


def _numbers(order: str, code: str, size: int) -> Decoder:
    """SL SS SV UL US UV."""
    one = struct.Struct(order + code).unpack

    def decode(value: bytes, charset: Charset) -> Values | None:
        if len(value) == size:
            return list(one(value))
        if len(value) % size:
            raise ValueError
        return list(struct.unpack(f"{order}{len(value) // size}{code}", value)) or None

    return decode


def _reals(order: str, code: str, size: int) -> Decoder:
    """FD FL."""

    def decode(value: bytes, charset: Charset) -> Values | None:
        if len(value) % size:
            raise ValueError
        numbers = struct.unpack(f"{order}{len(value) // size}{code}", value)
        return [number if isfinite(number) else not_finite(number) for number in numbers] or None

    return decode


_TEXT_DECODERS: Final[dict[str, Decoder]] = {
    "AE": _title,
    "AS": _code,
    "CS": _code,
    "DA": _code,
    "DS": _decimals,
    "DT": _code,
    "IS": _integers,
    "LO": _strings,
    "LT": _text,
    "PN": _names,
    "SH": _strings,
    "ST": _text,
    "TM": _code,
    "UC": _strings,
    "UI": _code,
    "UR": _link,
    "UT": _text,
}


def decoders(*, big_endian: bool) -> dict[str, Decoder]:
    """The decoder of each VR that has values: all but the binary ones and SQ."""
    order = ">" if big_endian else "<"
    table = dict(_TEXT_DECODERS)
    table["AT"] = _tags(order)
    for vr, (code, size) in NUMBER_FORMATS.items():
        table[vr] = (_reals if vr in ("FD", "FL") else _numbers)(order, code, size)
    return table


VALUE_VRS: Final = frozenset(sys.intern(vr) for vr in decoders(big_endian=False))
ALL_VRS: Final = VALUE_VRS | WORD_BYTES.keys() | {"SQ"}


def first_value(attributes: Attributes, tag: str) -> Any:
    """The first value of an attribute; None when it is absent or empty."""
    element = attributes.get(tag)
    if element is None:
        return None
    values = element.get("Value")
    return values[0] if values else None


def first_int(attributes: Attributes, tag: str) -> int | None:
    """The first value of an attribute where it is a whole number; else None."""
    value = first_value(attributes, tag)
    return value if isinstance(value, int) else None
