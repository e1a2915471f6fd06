"""What the header of a codestream says of its size, so that no decoder is handed more than the object describes."""

import struct
from math import ceil
from typing import Final, NamedTuple

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.errors import BadPixels

_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_NO_FRAME_HEADER: Final = frozenset({0xC4, 0xC8, 0xCC})
_FRAME_HEADERS: Final = (frozenset(range(0xC0, 0xD0)) - _NO_FRAME_HEADER) | {0xF7}
_SIZ: Final = struct.Struct(">HHIIIIIIIIH")
_COD: Final = 0xFF52
_START_OF_TILE: Final = 0xFF90
_SEARCHED_BYTES: Final = 1 << 20
_END: Final = b"\xff\xd9"
_TRAILING_BYTES: Final = 64
_TILE_PART_BYTES: Final = 14

MAX_WAVELET_SAMPLES: Final = 256 << 20
"""Of a whole frame in JPEG 2000. No length of the codestream speaks against more (one value everywhere takes hardly a
byte), but an image of that size takes longer than a codec process may."""


class Size(NamedTuple):
    """Of an image in a codestream; no rows where a later marker tells them."""

    rows: int
    columns: int
    samples: int


class Coding(NamedTuple):
    """Of a JPEG 2000 codestream. start: its first byte. bits, signed: of the first component, and of all others where
    `subsampled` is false, which also tells that all have the full size. steps: how often it can be halved."""

    start: int
    bits: int
    signed: bool
    subsampled: bool
    steps: int


def check_codestream(description: PixelDescription, transfer_syntax_uid: str, frame: bytes) -> None:
    """Raise BadPixels where the codestream is none, has another size than the object says (PS3.5 8.2), or is shorter
    than any stream for so many pixels can be: decoders go on to the end, and make up what is not there."""
    if len(frame) < _least_bytes(description, transfer_syntax_uid, frame):
        raise BadPixels(
            f"the pixels cannot be decoded as {syntaxes.name_of(transfer_syntax_uid)}: {len(frame)} bytes cannot hold "
            f"{description.columns} x {description.rows} pixels"
        )
    if transfer_syntax_uid in syntaxes.JPEG_2000_SYNTAXES:
        size = jpeg_2000_size(frame)
    elif transfer_syntax_uid in syntaxes.JPEG_SYNTAXES | syntaxes.JPEG_LS_SYNTAXES:
        size = jpeg_size(frame)
    else:
        return
    if size is None:
        raise BadPixels(f"the pixels cannot be decoded as {syntaxes.name_of(transfer_syntax_uid)}: no header was found")
    if transfer_syntax_uid in syntaxes.JPEG_LS_SYNTAXES and frame.rfind(_END, -_TRAILING_BYTES) < 0:
        # CharLS may look for the end behind the buffer: a cut stream of 4 KB was seen to take it six seconds.
        raise BadPixels(
            f"the pixels cannot be decoded as {syntaxes.name_of(transfer_syntax_uid)}: the frame is cut short"
        )
    rows = size.rows or description.rows
    if (rows, size.columns, size.samples) != (description.rows, description.columns, description.samples):
        raise BadPixels(
            f"a frame holds {size.columns} x {size.rows} pixels of {size.samples} samples, where the object says "
            f"{description.columns} x {description.rows} of {description.samples}"
        )


def _least_bytes(description: PixelDescription, transfer_syntax_uid: str, frame: bytes) -> int:
    """What even an image of one value needs."""
    pixels = description.rows * description.columns
    if transfer_syntax_uid == syntaxes.RLE:
        return description.frame_bytes // 64  # two bytes for a run of 128 (PS3.5 G.3.1)
    if transfer_syntax_uid in (syntaxes.JPEG_BASELINE, syntaxes.JPEG_EXTENDED):
        return pixels // (64 * 8)  # a bit for the mean of 8 x 8 pixels (ISO 10918-1 F.1.2.1)
    if transfer_syntax_uid in syntaxes.JPEG_SYNTAXES:
        return pixels * description.samples // 8  # a bit for a sample (ISO 10918-1 H.1.2.2)
    if transfer_syntax_uid in syntaxes.JPEG_LS_SYNTAXES:
        return description.rows // 8  # a bit for a row (ISO 14495-1 A.7.1)
    if transfer_syntax_uid in syntaxes.JPEG_2000_SYNTAXES:
        return _TILE_PART_BYTES * _tiles(frame)  # ISO 15444-1 A.4.2, A.4.3
    return 0


def _tiles(frame: bytes) -> int:
    """How many tiles the SIZ marker segment divides the image into."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or start + 4 + _SIZ.size > len(frame):
        return 0
    right, bottom, _, _, width, height, left, top, _ = map(int, _SIZ.unpack_from(frame, start + 4)[2:])
    if not width or not height:
        return len(frame)
    return max(0, ceil((right - left) / width)) * max(0, ceil((bottom - top) / height))


def jpeg_size(frame: bytes) -> Size | None:
    """From the frame header of JPEG (ISO 10918-1 B.2.2) or JPEG-LS (ISO 14495-1 C.2.2)."""
    position = frame.find(b"\xff\xd8", 0, _SEARCHED_BYTES) + 2
    if position < 2:
        return None
    end = min(len(frame), _SEARCHED_BYTES)
    while position + 9 < end:
        if frame[position] != 0xFF:
            position += 1
            continue
        marker = frame[position + 1]
        if marker in (0xFF, 0x00) or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_HEADERS:
            rows, columns, samples = struct.unpack_from(">HHB", frame, position + 5)
            return Size(rows, columns, samples)
        position += 2 + int(struct.unpack_from(">H", frame, position + 2)[0])
    return None


def jpeg_2000_size(frame: bytes) -> Size | None:
    """From the SIZ marker segment, which follows the start of the codestream (ISO 15444-1 A.5.1)."""
    start = 0 if frame[:4] == b"\xff\x4f\xff\x51" else frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or start + 4 + _SIZ.size > len(frame):
        return None
    right, bottom, left, top, *_, samples = _SIZ.unpack_from(frame, start + 4)[2:]
    return Size(bottom - top, right - left, samples)


def jpeg_2000_coding(frame: bytes) -> Coding | None:
    """From the SIZ and COD marker segments (ISO 15444-1 A.5.1, A.6.1), without the boxes of a JP2 file around them."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or jpeg_2000_size(frame) is None:
        return None
    length, samples = (struct.unpack_from(">H", frame, start + 4 + at)[0] for at in (0, _SIZ.size - 2))
    components = frame[start + 4 + _SIZ.size : start + 4 + length]
    if not samples or len(components) != 3 * samples:
        return None
    same = components[:1] + b"\x01\x01"
    position = start + 4 + length
    while position + 10 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == _COD:
            bits = (same[0] & 0x7F) + 1
            return Coding(start, bits, same[0] > 0x7F, components != same * samples, frame[position + 9])
        if marker == _START_OF_TILE or length < 2:
            return None
        position += 2 + length
    return None
