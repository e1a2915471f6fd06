"""How to read an element, known from the first bytes of its header alone.

Tag and VR repeat in every file, so what they imply is computed once and looked up by those bytes, in bounded tables.
"""

import struct
from typing import Final, NamedTuple

from dicomweb_server.dicom import dictionary
from dicomweb_server.dicom.charset import Charset
from dicomweb_server.dicom.json_model import (
    ALL_VRS,
    LONG_VRS,
    VALUE_VRS,
    WORD_BYTES,
    Decoder,
    Element,
    Values,
    decoder_for,
    decoders,
)
from dicomweb_server.errors import BadDicom

UNDEFINED: Final = 0xFFFFFFFF
MAX_DEPTH: Final = 64
"""So deep sequences may be nested in one another, wherever they are read or written."""

# Kinds of elements: which way a reader takes.
VALUE: Final = 0
BINARY: Final = 1
SEQUENCE: Final = 2
UNKNOWN: Final = 3
"""VR UN, or a private element without VR: the dictionaries decide, then the value itself."""
AMBIGUOUS: Final = 4
"""No VR, and the dictionary leaves a choice that other attributes make."""
PIXELS: Final = 5
CHARSET: Final = 6
SKIPPED: Final = 7
DELIMITER: Final = 8

_PLANS_KEPT = 32768
_PIXEL_TAGS: Final = frozenset({"7FE00008", "7FE00009", "7FE00010"})


class Plan(NamedTuple):
    """key: the tag as in the JSON model; decode: of kind VALUE. length_at: where in the header a length of 32 bits
    stands, which ends the header; 0 where the length was read with the head, and the header has 8 bytes. memo: short
    ASCII values with the elements they gave before, for instances of a series repeat most of them; elements out of it
    are shared and never changed."""

    key: str
    vr: str
    kind: int
    decode: Decoder
    length_at: int
    memo: dict[bytes, Element]


class Run(NamedTuple):
    """Elements that stood one after the other in two files: their bytes, and what they gave."""

    raw: bytes
    elements: dict[str, Element]


def no_values(value: bytes, charset: Charset) -> Values | None:
    """Stands where nothing is to be decoded."""
    return None


def public_vr(tag: int) -> str:
    """The VR of the public dictionary, "UN" where it has none; private creators are LO (PS3.5 7.8.1)."""
    if tag & 0x10000:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    return dictionary.vr(tag) or "UN"


def kind_of(vr: str) -> int:
    """The kind of an element by its VR alone."""
    if vr in VALUE_VRS:
        return VALUE
    if vr == "UN":
        return UNKNOWN
    if vr in WORD_BYTES:
        return BINARY
    return SEQUENCE if vr == "SQ" else AMBIGUOUS


class Encoding:
    """One of the encodings of PS3.5 section 7.1: explicit or implicit VR, little or big endian."""

    __slots__ = (
        "big_endian",
        "decoders",
        "explicit",
        "item",
        "order",
        "plans",
        "previous",
        "runs",
        "sequence_end",
        "sequences",
        "u32",
        "unpack_head",
    )

    def __init__(self, *, explicit: bool, big_endian: bool) -> None:
        self.explicit = explicit
        self.big_endian = big_endian
        self.order = ">" if big_endian else "<"
        self.unpack_head = struct.Struct(self.order + ("6sH" if explicit else "4sI")).unpack_from
        self.plans: dict[bytes, Plan] = {}
        # What instances repeat: runs by the head of their first element, sequences by their value.
        self.runs: dict[bytes, Run] = {}
        self.sequences: dict[bytes, Element] = {}
        self.previous: dict[str, Element] = {}
        self.decoders = decoders(big_endian=big_endian)
        self.u32 = struct.Struct(self.order + "I").unpack_from
        self.item = struct.pack(self.order + "HH", 0xFFFE, 0xE000)
        self.sequence_end = struct.pack(self.order + "HH", 0xFFFE, 0xE0DD)

    def plan(self, head: bytes) -> Plan | None:
        """The plan for a head: tag and VR, or the tag alone where VRs are implicit. None when it holds no known VR."""
        plan = self.plans.get(head)
        if plan is None:
            plan = self._plan(head)
            if plan is not None:
                if len(self.plans) >= _PLANS_KEPT:
                    self.plans.clear()
                self.plans[head] = plan
        return plan

    def unknown(self, head: bytes, *, long: bool) -> Plan:
        """The plan for an element whose VR is two capital letters that no standard knows; read as UN."""
        return self._made(self._tag(head), "UN", 8 if long else 0)

    def switched(self, head: bytes) -> Plan:
        """The plan for an element with implicit VR in a data set with explicit VR."""
        tag = self._tag(head)
        return self._made(tag, public_vr(tag), 4)

    def _tag(self, head: bytes) -> int:
        group, element = struct.unpack_from(self.order + "HH", head)
        return int(group << 16 | element)

    def _plan(self, head: bytes) -> Plan | None:
        tag = self._tag(head)
        if tag >> 16 == 0xFFFE:
            return Plan(f"{tag:08X}", "", DELIMITER, no_values, 4 if self.explicit else 0, {})
        if not self.explicit:
            return self._made(tag, public_vr(tag), 0)
        vr = head[4:6].decode("latin-1")
        if vr not in ALL_VRS:
            return None
        return self._made(tag, vr, 8 if vr in LONG_VRS else 0)

    def _made(self, tag: int, vr: str, length_at: int) -> Plan:
        key, kind = f"{tag:08X}", kind_of(vr)
        if tag & 0xFFFF == 0 or tag >> 16 == 2 or tag == 0xFFFCFFFC:
            kind = SKIPPED
        elif key in _PIXEL_TAGS:
            kind = PIXELS
        elif tag == 0x00080005:
            kind = CHARSET
        elif vr == "UN":
            vr = public_vr(tag)
        decode = decoder_for(key, vr, self.decoders.get(vr, no_values))
        return Plan(key, vr, kind, decode, length_at, {})


EXPLICIT_LITTLE: Final = Encoding(explicit=True, big_endian=False)
IMPLICIT_LITTLE: Final = Encoding(explicit=False, big_endian=False)
EXPLICIT_BIG: Final = Encoding(explicit=True, big_endian=True)
_IMPLICIT_BIG: Final = Encoding(explicit=False, big_endian=True)


def implicit_of(encoding: Encoding) -> Encoding:
    """The implicit VR encoding of the same byte order."""
    return _IMPLICIT_BIG if encoding.big_endian else IMPLICIT_LITTLE


def header_at(head: bytes, place: int, end: int, encoding: Encoding, *, first: bool) -> tuple[Plan, int, int, Encoding]:
    """Plan, start of the value, length, and the encoding, which may turn out to be implicit at the first element of a
    data set or item; as the reader in `elements` decides it.

    head: the twelve bytes from `place` on, zeros behind the end of the file. end: where the data set ends. Raises
    BadDicom where a header is cut short.
    """
    key, length = encoding.unpack_head(head)
    plan = encoding.plan(key)
    if plan is None:
        if head[4:6].isalpha() and head[4:6].isupper():
            fits = place + 12 + encoding.u32(head, 8)[0] <= end
            plan = encoding.unknown(head, long=fits and head[6:8] == b"\0\0")
        elif first:
            return header_at(head, place, end, implicit_of(encoding), first=False)
        else:
            plan = encoding.switched(head)
    if not plan.length_at:
        return plan, place + 8, int(length), encoding
    start, length = place + plan.length_at + 4, int(encoding.u32(head, plan.length_at)[0])
    if start > end:
        raise BadDicom("an element of the data set is cut short")
    if length != UNDEFINED and start + length > end:
        # Old writers gave 16 bits to lengths that have 32.
        short = int.from_bytes(head[6:8], "big" if encoding.big_endian else "little")
        if short and place + 8 + short <= end:
            return plan._replace(length_at=0), place + 8, short, encoding
    return plan, start, length, encoding


def is_filling(rest: bytes, *, pixels_seen: bool) -> bool:
    """Whether the last bytes of a file, too few for an element, mean nothing: zeros with which writers fill a block, or
    the line break of an envelope. One zero can also begin a group, but none is due behind the pixel data."""
    return rest in (b"\r\n", b"\n") or (not any(rest) and (len(rest) > 1 or pixels_seen))
