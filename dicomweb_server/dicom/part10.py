"""The header of a DICOM file (PS3.10 section 7): its attributes as DICOM JSON, and where frames and bulk values lie.

Lenient to how files are written (no preamble, no meta header, a wrong or missing transfer syntax), strict in what makes
an object unusable: no valid UIDs, a file that ends too early.
"""

import base64
import struct
import tempfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from dicomweb_server.dicom.charset import Notes
from dicomweb_server.dicom.elements import DataSetReader
from dicomweb_server.dicom.fragments import MAX_FRAGMENTS, frame_table
from dicomweb_server.dicom.json_model import ALL_VRS, LONG_VRS, UTF8, Attributes, first_int, first_value
from dicomweb_server.dicom.layout import EncapsulatedFrames, Layout, NativeFrames, bulk_index
from dicomweb_server.dicom.plans import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNDEFINED, Encoding
from dicomweb_server.dicom.source import ReadAt, Window, read_at, size_of
from dicomweb_server.dicom.uids import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_encapsulated,
    is_uid,
    is_video,
)
from dicomweb_server.errors import BadDicom, NotDicom

INFLATED_LIMIT_BYTES: Final = 4 << 30
"""How large a deflated data set may become."""

_IN_MEMORY_BYTES: Final = 8 << 20
_CHUNK_BYTES: Final = 1 << 18
_RATIO_LIMIT: Final = 1000
_RATIO_FREE_BYTES: Final = 64 << 20
_META_LIMIT_BYTES: Final = 1 << 20

_PIXEL_TAGS: Final = ("7FE00010", "7FE00008", "7FE00009")
_SAMPLES_IN_HALVES: Final = {"YBR_FULL_422": 4, "YBR_PARTIAL_422": 4, "YBR_PARTIAL_420": 3}
_EXPLICIT_HEADER: Final = struct.Struct("<HH2sH")


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an instance without its bulk data.

    attributes: the DICOM JSON model (PS3.18 Annex F), sorted by tag, without group 2, group lengths and trailing
        padding. BulkDataURI is a path from the DICOMweb root; pixel data is never inline.
    warnings: readable; about what was mended, guessed or left.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    attributes: dict[str, dict[str, Any]]
    layout: Layout
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Meta:
    """File meta information; the data set begins at `end`. marked: the file says that it is DICOM."""

    end: int
    marked: bool
    transfer_syntax_uid: str = ""
    sop_class_uid: str = ""
    instance_uid: str = ""


def read_header(file: BinaryIO, size: int | None = None, *, inflated_limit_bytes: int = INFLATED_LIMIT_BYTES) -> Header:
    """Read the header of a file that can seek. Neither pixel data nor any bulk value is loaded.

    size: the size of the file, where it is known. Raises BadDicom with the reason; NotDicom when the file does not even
    say that it is DICOM.
    """
    window = Window(read_at(file), size_of(file) if size is None else size)
    notes = Notes()
    meta = _read_meta(window)
    try:
        encoding, transfer_syntax_uid = _encoding(window, meta, notes)
        if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            with _inflated(window, meta.end, inflated_limit_bytes) as data_set:
                inside = Window(read_at(data_set), size_of(data_set))
                return _header(inside, 0, meta, encoding, transfer_syntax_uid, notes)
        return _header(window, meta.end, meta, encoding, transfer_syntax_uid, notes)
    except BadDicom as exc:
        if meta.marked:
            raise
        raise NotDicom(f"not a DICOM file: {exc.message}") from exc


def inflate(file: BinaryIO, *, limit_bytes: int = INFLATED_LIMIT_BYTES) -> BinaryIO:
    """The inflated data set of a file with a deflated transfer syntax, at its beginning: what the offsets of its layout
    count in. A temporary file where it is large; the caller closes it. Raises BadDicom."""
    return inflate_from(read_at(file), size_of(file), limit_bytes=limit_bytes)


def inflate_from(read: ReadAt, size: int, *, limit_bytes: int = INFLATED_LIMIT_BYTES) -> BinaryIO:
    """As `inflate`, of a file that is read by a function."""
    window = Window(read, size)
    return _inflated(window, _read_meta(window).end, limit_bytes)


def data_set_start(read: ReadAt, size: int) -> tuple[int, Encoding]:
    """Where the data set of a file begins, and how it is encoded. Raises BadDicom."""
    window = Window(read, size)
    meta = _read_meta(window)
    return meta.end, _encoding(window, meta, Notes())[0]


def _inflated(window: Window, position: int, limit_bytes: int) -> BinaryIO:
    out = cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES))  # noqa: SIM115
    try:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        taken = written = 0
        while not engine.eof:
            packed = engine.unconsumed_tail
            if not packed:
                packed = window.peek(position, min(_CHUNK_BYTES, window.size - position))
                position += len(packed)
                taken += len(packed)
                if not packed:
                    raise BadDicom("truncated: the deflated data set has no end")
            written += out.write(engine.decompress(packed, _CHUNK_BYTES))
            if written > limit_bytes:
                raise BadDicom(f"the data set inflates to more than {limit_bytes} bytes")
            if written > _RATIO_FREE_BYTES and written > _RATIO_LIMIT * taken:
                raise BadDicom(f"the data set inflates to more than {_RATIO_LIMIT} times its size")
        out.seek(0)
    except zlib.error as exc:
        out.close()
        raise BadDicom("the deflated data set is damaged") from exc
    except BaseException:
        out.close()
        raise
    return out


# Meta header and encoding


def _read_meta(window: Window) -> _Meta:
    """Group 2, which is explicit VR little endian (PS3.10 7.1)."""
    start = window.bytes_at(0, min(window.size, 132))
    if not start:
        raise NotDicom("the file is empty")
    if start[128:132] == b"DICM":
        position, marked = 132, True
    elif start[:4] == b"DICM":
        position, marked = 4, True
    else:
        position, marked = 0, start[:2] == b"\x02\x00"
    found: dict[str, str] = {}
    first = position
    while position + 8 <= window.size:
        header = window.bytes_at(position, min(12, window.size - position))
        group, number, vr, length = _EXPLICIT_HEADER.unpack_from(header)
        if group != 2:
            break
        position += 8
        name = vr.decode("latin-1")
        if name not in ALL_VRS:
            length = struct.unpack_from("<I", header, 4)[0]
        elif name in LONG_VRS and len(header) == 12:
            position += 4
            length = struct.unpack_from("<I", header, 8)[0]
        if length == UNDEFINED or position + length > min(window.size, first + _META_LIMIT_BYTES):
            raise BadDicom(f"truncated: (0002,{number:04X}) ends behind the file meta information")
        if length <= 128 and number in (0x0002, 0x0003, 0x0010):
            found[f"{number:04X}"] = window.bytes_at(position, length).decode("latin-1").rstrip(" \0")
        position += length
    return _Meta(position, marked, found.get("0010", ""), found.get("0002", ""), found.get("0003", ""))


def _encoding(window: Window, meta: _Meta, notes: Notes) -> tuple[Encoding, str]:
    """How the data set is encoded (PS3.5 section 10), and its transfer syntax, guessed where the file names none."""
    uid = meta.transfer_syntax_uid
    if uid == IMPLICIT_VR_LITTLE_ENDIAN:
        return IMPLICIT_LITTLE, uid
    if uid == EXPLICIT_VR_BIG_ENDIAN:
        return EXPLICIT_BIG, uid
    if is_uid(uid):
        return EXPLICIT_LITTLE, uid
    if meta.end + 8 > window.size:
        raise BadDicom("truncated: there is no data set")
    head = window.bytes_at(meta.end, 8)
    if head[4:6].decode("latin-1") not in ALL_VRS:
        encoding, uid = IMPLICIT_LITTLE, IMPLICIT_VR_LITTLE_ENDIAN
    elif head[0] == 0 and head[1]:  # the first group is below 0x0100
        encoding, uid = EXPLICIT_BIG, EXPLICIT_VR_BIG_ENDIAN
    else:
        encoding, uid = EXPLICIT_LITTLE, EXPLICIT_VR_LITTLE_ENDIAN
    notes.warn(f"the file names no transfer syntax: taken as {uid}")
    return encoding, uid


# From the data set to the header


def _header(
    window: Window, start: int, meta: _Meta, encoding: Encoding, transfer_syntax_uid: str, notes: Notes
) -> Header:
    reader = DataSetReader(window, notes)
    attributes = reader.read(start, window.size, encoding)
    study_uid = _required_uid(attributes, "0020000D", "Study Instance UID")
    series_uid = _required_uid(attributes, "0020000E", "Series Instance UID")
    instance_uid = _required_uid(attributes, "00080018", "SOP Instance UID")
    sop_class_uid = _sop_class_uid(attributes, meta, notes)
    if meta.instance_uid not in ("", instance_uid):
        notes.warn("Media Storage SOP Instance UID (0002,0003) differs from SOP Instance UID (0008,0018)")
    prefix = f"/studies/{study_uid}/series/{series_uid}/instances/{instance_uid}/bulkdata/"
    for element, key in reader.links:
        element["BulkDataURI"] = prefix + key
    if notes.foreign and "00080005" not in attributes:
        attributes["00080005"] = {"vr": "CS", "Value": [UTF8]}
        attributes = dict(sorted(attributes.items()))
    pixel_tag = next((tag for tag in _PIXEL_TAGS if tag in reader.bulk), None)
    layout = Layout(
        transfer_syntax_uid=transfer_syntax_uid,
        deflated=transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        big_endian=encoding.big_endian,
        frames=_frames(window, reader, attributes, pixel_tag, transfer_syntax_uid, notes),
        pixel_tag=pixel_tag,
        bulk=bulk_index(reader.bulk),
    )
    return Header(
        study_uid=study_uid,
        series_uid=series_uid,
        instance_uid=instance_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        attributes=attributes,
        layout=layout,
        warnings=notes.warnings,
    )


def _required_uid(attributes: Attributes, tag: str, name: str) -> str:
    values = attributes.get(tag, {}).get("Value")
    shown = f"{name} ({tag[:4]},{tag[4:]})"
    if not values:
        raise BadDicom(f"{shown} is missing")
    if len(values) != 1 or not isinstance(values[0], str) or not is_uid(values[0]):
        raise BadDicom(f"{shown} is no valid UID")
    return values[0]


def _sop_class_uid(attributes: Attributes, meta: _Meta, notes: Notes) -> str:
    if first_value(attributes, "00080016"):
        return _required_uid(attributes, "00080016", "SOP Class UID")
    if not is_uid(meta.sop_class_uid):
        raise BadDicom("SOP Class UID (0008,0016) is missing")
    notes.warn("SOP Class UID (0008,0016) is missing: taken from the file meta information")
    return meta.sop_class_uid


def _frames(
    window: Window,
    reader: DataSetReader,
    attributes: Attributes,
    pixel_tag: str | None,
    transfer_syntax_uid: str,
    notes: Notes,
) -> NativeFrames | EncapsulatedFrames | None:
    if pixel_tag is None:
        return None
    frames = max(first_int(attributes, "00280008") or 1, 1)
    pixels = reader.bulk[pixel_tag]
    if not pixels.encapsulated:
        if is_encapsulated(transfer_syntax_uid):
            notes.warn("the pixel data is not encapsulated, although the transfer syntax demands it")
            return None
        return _native_frames(attributes, pixels.offset, pixels.length, frames, notes)
    fragments = reader.fragments
    if fragments is None:
        return None
    if not fragments.closed:
        if fragments.count < frames:
            raise BadDicom("truncated: the pixel data has fewer fragments than frames, and no end")
        notes.warn("the pixel data has no sequence delimiter")
    if is_video(transfer_syntax_uid):
        return None
    offsets = _extended_offsets(window, reader, attributes)
    return frame_table(fragments, frames, extended_offsets=offsets, read=window.peek, notes=notes)


def _native_frames(attributes: Attributes, offset: int, length: int, frames: int, notes: Notes) -> NativeFrames | None:
    """PS3.5 8.1.1 and, for fewer chrominance samples, PS3.3 C.7.6.3.1.2."""
    halves = _SAMPLES_IN_HALVES.get(str(first_value(attributes, "00280004")))
    samples = 2 * (first_int(attributes, "00280002") or 1) if halves is None else halves
    numbers = [first_int(attributes, tag) or 0 for tag in ("00280010", "00280011", "00280100")]
    frame_bits = numbers[0] * numbers[1] * numbers[2] * samples // 2
    if frame_bits <= 0 or min(numbers) <= 0:
        notes.warn("the pixel data has no frames: its size is not described")
        return None
    count = min(frames, length * 8 // frame_bits)
    if count < frames:
        notes.warn(f"Number of Frames (0028,0008) is {frames}, but the pixel data holds {count} whole ones")
    return NativeFrames(offset, frame_bits, count) if count else None


def _extended_offsets(window: Window, reader: DataSetReader, attributes: Attributes) -> bytes:
    """The value of Extended Offset Table (PS3.3 C.7.6.3.1.8)."""
    bulk = reader.bulk.get("7FE00001")
    if bulk is not None:
        return window.peek(bulk.offset, bulk.length) if bulk.length <= 8 * MAX_FRAGMENTS else b""
    return base64.b64decode(attributes.get("7FE00001", {}).get("InlineBinary", ""))
