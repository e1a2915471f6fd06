"""A DICOM file from metadata and bulk data (PS3.18 10.5: Store Instances with metadata in JSON)."""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from dicomweb_server.dicom.delimiters import ITEM_TAG, SEQUENCE_END
from dicomweb_server.dicom.element_writer import (
    MAX_LENGTH,
    Bulk,
    BulkPart,
    ElementWriter,
    checked,
    encode_values,
    inline_bytes,
    is_ascii,
    shown,
)
from dicomweb_server.dicom.json_model import UTF8
from dicomweb_server.dicom.plans import UNDEFINED
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, is_encapsulated, is_uid, is_video
from dicomweb_server.errors import BadDicom

IMPLEMENTATION_CLASS_UID: Final = "2.25.253252433307537036810317056115916888027"
IMPLEMENTATION_VERSION_NAME: Final = "DICOMWEB_SERVER"

_PIXEL_TAG: Final = "7FE00010"
_OFFSET_TABLES: Final = frozenset({"7FE00001", "7FE00002"})
_NOT_STORED: Final = frozenset({"00083002"})  # it speaks of the instance, not in it

_MEDIA_TYPES: Final = {
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.203",
    "image/jxl": "1.2.840.10008.1.2.4.112",
    "video/mpeg2": "1.2.840.10008.1.2.4.100",
    "video/mpeg": "1.2.840.10008.1.2.4.100",
    "video/mp4": "1.2.840.10008.1.2.4.102",
    "video/h265": "1.2.840.10008.1.2.4.107",
}
_JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
_JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
_JPEG_FIRST_ORDER: Final = "1.2.840.10008.1.2.4.70"
_JPEG_PROCESSES: Final = {0xC0: _JPEG_BASELINE, 0xC1: "1.2.840.10008.1.2.4.51", 0xC3: _JPEG_LOSSLESS}
_START_OF_SCAN: Final = 0xDA
_SNIFFED_BYTES: Final = 1 << 16

_LARGEST_BASIC_OFFSET = 0xFFFFFFFF


def compose(attributes: Mapping[str, Any], bulk: Bulk, out: BinaryIO) -> None:
    """Write a complete Part 10 file: explicit VR little endian, or encapsulated where the pixel data comes compressed.

    attributes: the metadata in the DICOM JSON model; a transfer syntax in it (0002,0010 or 0008,3002) is heeded.
    bulk: gives the parts for each BulkDataURI; several parts are the frames, in order. They are copied piece by piece.

    Text is written in UTF-8. Raises BadDicom with the tag of what cannot be written; `out` is then of no use.
    """
    elements = checked(attributes)
    top = dict(elements)
    writer = ElementWriter(out, bulk)
    parts = _pixel_parts(top, writer)
    transfer_syntax_uid = _transfer_syntax(top, parts)
    write_meta(out, _uid(top, "00080016"), _uid(top, "00080018"), transfer_syntax_uid)
    if "00080005" not in top and not is_ascii(attributes):
        top["00080005"] = {"vr": "CS", "Value": [UTF8]}
    kept = [item for item in sorted(top.items()) if not item[0].startswith("0002") and item[0] not in _NOT_STORED]
    if parts and is_encapsulated(transfer_syntax_uid):
        writer.data_set([item for item in kept if item[0] < _PIXEL_TAG and item[0] not in _OFFSET_TABLES])
        _encapsulate(writer, out, parts, _frames(top, transfer_syntax_uid, len(parts)))
        writer.data_set([item for item in kept if item[0] > _PIXEL_TAG])
    else:
        writer.data_set(kept)


@dataclass(frozen=True, slots=True)
class _InlinePart:
    """Pixel data that stands in the metadata itself."""

    file: BinaryIO
    size: int
    media_type: str = "application/octet-stream"
    transfer_syntax_uid: str | None = None


def _pixel_parts(top: Mapping[str, Mapping[str, Any]], writer: ElementWriter) -> Sequence[BulkPart]:
    element = top.get(_PIXEL_TAG)
    if element is None:
        return ()
    if "BulkDataURI" in element:
        return writer.parts(_PIXEL_TAG, element)
    data = inline_bytes(_PIXEL_TAG, element)
    return (_InlinePart(io.BytesIO(data), len(data)),) if data else ()


def _uid(top: Mapping[str, Mapping[str, Any]], tag: str) -> str:
    values = top.get(tag, {}).get("Value")
    if not isinstance(values, list | tuple) or len(values) != 1 or not isinstance(values[0], str):
        raise BadDicom(f"{shown(tag)} is missing, or has no single value")
    if not is_uid(values[0]):
        raise BadDicom(f"{shown(tag)} is no valid UID")
    return values[0]


# The transfer syntax


def _transfer_syntax(top: Mapping[str, Mapping[str, Any]], parts: Sequence[BulkPart]) -> str:
    """What the pixel data is in: the part says it best, then its media type, then the metadata."""
    if not parts:
        return EXPLICIT_VR_LITTLE_ENDIAN
    part = parts[0]
    media_type = part.media_type.partition(";")[0].strip().lower()
    uid = part.transfer_syntax_uid
    if uid is None or not is_uid(uid):
        uid = _jpeg_process(part) if media_type == "image/jpeg" else _MEDIA_TYPES.get(media_type)
    if uid is None:
        uid = _declared(top)
    return uid if is_encapsulated(uid) else EXPLICIT_VR_LITTLE_ENDIAN


def _declared(top: Mapping[str, Mapping[str, Any]]) -> str:
    for tag in ("00020010", "00083002"):
        if tag in top:
            return _uid(top, tag)
    return EXPLICIT_VR_LITTLE_ENDIAN


def _jpeg_process(part: BulkPart) -> str:
    """The transfer syntax of a JPEG file by its headers: one media type stands for several (PS3.18 8.7.3.3)."""
    part.file.seek(0)
    data = part.file.read(min(part.size, _SNIFFED_BYTES))
    found = _JPEG_BASELINE
    place = 2
    while place + 5 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _START_OF_SCAN:
            selection = data[place + 5 + 2 * data[place + 4] :][:1]
            return _JPEG_FIRST_ORDER if found == _JPEG_LOSSLESS and selection == b"\1" else found
        found = _JPEG_PROCESSES.get(marker, found)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return found


# What is written besides the elements of the metadata


def write_meta(out: BinaryIO, sop_class_uid: str, instance_uid: str, transfer_syntax_uid: str) -> None:
    """The beginning of a file: preamble and file meta information (PS3.10 7.1)."""
    group = io.BytesIO()
    writer = ElementWriter(group, lambda _: ())
    writer.value("00020001", "OB", b"\0\1")
    writer.value("00020002", "UI", sop_class_uid.encode("ascii"))
    writer.value("00020003", "UI", instance_uid.encode("ascii"))
    writer.value("00020010", "UI", transfer_syntax_uid.encode("ascii"))
    writer.value("00020012", "UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
    writer.value("00020013", "SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    out.write(bytes(128) + b"DICM")
    ElementWriter(out, lambda _: ()).value("00020000", "UL", struct.pack("<I", group.tell()))
    out.write(group.getvalue())


def _frames(top: Mapping[str, Mapping[str, Any]], transfer_syntax_uid: str, parts: int) -> int:
    """The number of parts, when it fits the metadata."""
    values = top.get("00280008", {}).get("Value") or [1]
    frames = encode_values("00280008", "IS", values if isinstance(values, list | tuple) else [values]).strip()
    if frames != str(parts).encode("ascii") and not (is_video(transfer_syntax_uid) and parts == 1):
        raise BadDicom(f"{shown(_PIXEL_TAG)} has {parts} parts, but {shown('00280008')} tells another number of frames")
    return parts


def _encapsulate(writer: ElementWriter, out: BinaryIO, parts: Sequence[BulkPart], frames: int) -> None:
    """Pixel data in items with an offset table (PS3.5 A.4); the extended one (PS3.3 C.7.6.3.1.8) where it is needed."""
    offsets, position = [], 0
    for part in parts:
        offsets.append(position)
        fragments = max(1, -(-part.size // MAX_LENGTH))
        position += part.size + (part.size & 1) + 8 * fragments
    basic = b""
    if offsets[-1] <= _LARGEST_BASIC_OFFSET:
        basic = struct.pack(f"<{frames}I", *offsets)
    elif all(part.size <= MAX_LENGTH for part in parts):
        writer.value("7FE00001", "OV", struct.pack(f"<{frames}Q", *offsets))
        writer.value("7FE00002", "OV", struct.pack(f"<{frames}Q", *(part.size + (part.size & 1) for part in parts)))
    writer.header(_PIXEL_TAG, "OB", UNDEFINED)
    out.write(ITEM_TAG + struct.pack("<I", len(basic)) + basic)
    for part in parts:
        for start in range(0, part.size or 1, MAX_LENGTH):
            length = min(MAX_LENGTH, part.size - start)
            out.write(ITEM_TAG + struct.pack("<I", length + (length & 1)))
            writer.copy(part, start, length)
            out.write(bytes(length & 1))
    out.write(SEQUENCE_END)
