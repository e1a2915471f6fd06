"""DICOM files put together byte by byte, so that a test can say exactly what stands in them."""

import io
import struct
import zlib
from collections.abc import Iterable

from dicomweb_server.dicom.part10 import Header, read_header
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN

STUDY, SERIES, INSTANCE, SOP_CLASS = "1.2.3", "1.2.3.4", "1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.7"
BULK = f"/studies/{STUDY}/series/{SERIES}/instances/{INSTANCE}/bulkdata/"

LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
UNDEFINED = 0xFFFFFFFF

ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def explicit(tag: int, vr: str, value: bytes, *, length: int | None = None, order: str = "<") -> bytes:
    """An element with explicit VR; `length` overrides what its header says."""
    size = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr.encode("latin-1")
    if vr in LONG:
        return head + struct.pack(order + "HI", 0, size) + value
    return head + struct.pack(order + "H", size) + value


def implicit(tag: int, value: bytes, *, length: int | None = None) -> bytes:
    """An element with implicit VR."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value) if length is None else length) + value


def item(content: bytes, *, defined: bool = False) -> bytes:
    """An item of undefined length, or of a defined one."""
    if defined:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
    return b"\xfe\xff\x00\xe0" + struct.pack("<I", UNDEFINED) + content + ITEM_END


def even(text: str) -> bytes:
    """Text with padding as UI has it."""
    value = text.encode("ascii")
    return value + bytes(len(value) & 1)


def identity(*, order: str = "<", study: str = STUDY, series: str = SERIES, instance: str = INSTANCE) -> bytes:
    """The elements that no object can do without, with explicit VR, as (first half, second half) in one piece."""
    return b"".join(
        (
            explicit(0x00080016, "UI", even(SOP_CLASS), order=order),
            explicit(0x00080018, "UI", even(instance), order=order),
            explicit(0x0020000D, "UI", even(study), order=order),
            explicit(0x0020000E, "UI", even(series), order=order),
        )
    )


def implicit_identity() -> bytes:
    """As `identity`, with implicit VR."""
    pairs = ((0x00080016, SOP_CLASS), (0x00080018, INSTANCE), (0x0020000D, STUDY), (0x0020000E, SERIES))
    return b"".join(implicit(tag, even(uid)) for tag, uid in pairs)


def part10(data_set: bytes, *, syntax: str | None = EXPLICIT_VR_LITTLE_ENDIAN, instance: str = INSTANCE) -> bytes:
    """A file with preamble and meta header; a deflated one where the transfer syntax says so."""
    meta = explicit(0x00020002, "UI", even(SOP_CLASS)) + explicit(0x00020003, "UI", even(instance))
    if syntax is not None:
        meta += explicit(0x00020010, "UI", even(syntax))
    if syntax == "1.2.840.10008.1.2.1.99":
        engine = zlib.compressobj(9, zlib.DEFLATED, -15)
        data_set = engine.compress(data_set) + engine.flush()
    length = explicit(0x00020000, "UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + data_set


def header_of(*elements: bytes, syntax: str | None = EXPLICIT_VR_LITTLE_ENDIAN) -> Header:
    """The header of a file with the identity and these elements."""
    return read_header(io.BytesIO(part10(identity() + b"".join(elements), syntax=syntax)))


def image(*, rows: int = 2, columns: int = 3, frames: int = 1, bits: int = 8, samples: int = 1) -> bytes:
    """The elements that describe pixel data."""
    return b"".join(
        (
            explicit(0x00280002, "US", struct.pack("<H", samples)),
            explicit(0x00280008, "IS", str(frames).encode().ljust(2)),
            explicit(0x00280010, "US", struct.pack("<H", rows)),
            explicit(0x00280011, "US", struct.pack("<H", columns)),
            explicit(0x00280100, "US", struct.pack("<H", bits)),
        )
    )


def encapsulated(fragments: Iterable[bytes], *, offsets: Iterable[int] = (), end: bytes = SEQUENCE_END) -> bytes:
    """Pixel data in items."""
    table = b"".join(struct.pack("<I", offset) for offset in offsets)
    items = b"".join(item(part, defined=True) for part in (table, *fragments))
    return explicit(0x7FE00010, "OB", items + end, length=UNDEFINED)
