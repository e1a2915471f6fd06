"""The bytes of one frame, or of one bulk value, given its layout and a way to read from the file.

Frames are counted from 0 here; the URLs of DICOMweb count from 1.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from dicomweb_server.dicom.delimiters import ITEM_TAG
from dicomweb_server.dicom.json_model import WORD_BYTES, swap_words
from dicomweb_server.dicom.layout import BulkElement, EncapsulatedFrames, Layout, NativeFrames
from dicomweb_server.errors import NotFound, StorageCorrupt

CHUNK_BYTES: Final = 1 << 20

_ENTRY = struct.Struct("<QQ").unpack_from
_ITEM = struct.Struct("<4sI").unpack
_SEVERAL: Final = 1 << 63


class ByteSource(Protocol):
    """Gives exactly `length` bytes from `start` on, or raises."""

    def __call__(self, start: int, length: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FrameRegion:
    """A range of the file. fragmented: it holds items with their headers. Otherwise, of its first byte `bit_shift` bits
    belong to the frame before, and `bits` bits follow that are the frame's."""

    start: int
    length: int
    fragmented: bool
    bit_shift: int
    bits: int


def frame_region(layout: Layout, index: int) -> FrameRegion:
    """Where a frame lies. Raises NotFound, which names the number of frames."""
    frames = layout.frames
    if frames is None:
        raise NotFound("this instance has no frames")
    if not 0 <= index < frames.count:
        raise NotFound(f"there is no frame {index + 1}: this instance has {frames.count}")
    if isinstance(frames, NativeFrames):
        first = index * frames.frame_bits
        shift = first & 7
        length = (shift + frames.frame_bits + 7) >> 3
        return FrameRegion(frames.offset + (first >> 3), length, False, shift, frames.frame_bits)
    start, length = _ENTRY(frames.table, 16 * index)
    if length & _SEVERAL:
        return FrameRegion(start, length ^ _SEVERAL, True, 0, 0)
    return FrameRegion(start + 8, length - 8, False, 0, 8 * (length - 8))


def payload_length(region: FrameRegion, read: ByteSource) -> int:
    """The exact size in bytes of what `read_region` gives. Reads item headers where there are several, else nothing."""
    if region.fragmented:
        return sum(length for _, length in _fragments(region, read))
    return (region.bits + 7) >> 3


def read_region(region: FrameRegion, read: ByteSource) -> bytes:
    """The bytes of a region: fragments are joined, and a frame that begins or ends inside a byte is moved to the
    beginning of one and filled up with zeros. Padding of a fragment to an even length is kept."""
    if region.fragmented:
        return b"".join(read(start, length) for start, length in _fragments(region, read))
    data = read(region.start, region.length)
    if region.bit_shift or region.bits & 7:
        return _cut_bits(data, region.bit_shift, region.bits)
    return data


def stream_region(region: FrameRegion, read: ByteSource) -> Iterator[bytes]:
    """As `read_region`, in chunks of at most 1 MiB; only a frame with bits to move comes in one piece."""
    if not region.fragmented and (region.bit_shift or region.bits & 7):
        yield read_region(region, read)
        return
    parts = _fragments(region, read) if region.fragmented else ((region.start, region.length),)
    for start, length in parts:
        for place in range(start, start + length, CHUNK_BYTES):
            yield read(place, min(CHUNK_BYTES, start + length - place))


def read_frame_little_endian(layout: Layout, index: int, read: ByteSource, *, bits_allocated: int) -> bytes:
    """A frame of any uncompressed layout as little endian: a big endian one is swapped (PS3.5 7.3 and 8.1.1)."""
    region = frame_region(layout, index)
    word = _pixel_word_bytes(layout, bits_allocated)
    if word == 1 or region.fragmented:
        return read_region(region, read)
    # Words are swapped whole, also those that a frame of odd size shares with the next one.
    offset = layout.frames.offset if isinstance(layout.frames, NativeFrames) else region.start
    before = (region.start - offset) % word
    length = before + region.length
    length += -length % word
    data = swap_words(read(region.start - before, length), word)[before : before + region.length]
    return _cut_bits(data, region.bit_shift, region.bits) if region.bit_shift or region.bits & 7 else data


def bulk_regions(layout: Layout, key: str, read: ByteSource) -> Iterator[FrameRegion]:
    """The parts of a bulk value: the frames of encapsulated pixel data, one part otherwise.

    The bytes are as stored: of big endian files `bulk_word_bytes` says what `swap_words` needs to make them little
    endian. Raises NotFound on the call.
    """
    bulk = layout.bulk_element(key)
    if bulk is None:
        raise NotFound(f"there is no bulk data {key[:100]}")
    if bulk.encapsulated and key == layout.pixel_tag and layout.frames is not None:
        return (frame_region(layout, index) for index in range(layout.frames.count))
    return iter((_whole(bulk, read),))


def bulk_word_bytes(layout: Layout, key: str) -> int:
    """The size of the words to swap so that a bulk value is little endian; 1 where nothing is to be swapped."""
    bulk = layout.bulk_element(key)
    if bulk is None or bulk.encapsulated or not layout.big_endian:
        return 1
    return WORD_BYTES.get(bulk.vr, 1)


def _whole(bulk: BulkElement, read: ByteSource) -> FrameRegion:
    """A bulk value as one region; of items, those behind the offset table."""
    if not bulk.encapsulated:
        return FrameRegion(bulk.offset, bulk.length, False, 0, 8 * bulk.length)
    if bulk.length < 8:
        return FrameRegion(bulk.offset, 0, False, 0, 0)
    skipped = 8 + _item_length(read(bulk.offset, 8))
    return FrameRegion(bulk.offset + skipped, bulk.length - skipped, True, 0, 0)


def _fragments(region: FrameRegion, read: ByteSource) -> Iterator[tuple[int, int]]:
    """Offset and length of the payload of each item."""
    position, end = region.start, region.start + region.length
    while position < end:
        length = _item_length(read(position, 8))
        position += 8
        if position + length > end:
            raise StorageCorrupt("a fragment of pixel data is not where it was")
        yield position, length
        position += length


def _item_length(header: bytes) -> int:
    tag, length = _ITEM(header)
    if tag != ITEM_TAG:
        raise StorageCorrupt("a fragment of pixel data is not where it was")
    return int(length)


def _cut_bits(data: bytes, shift: int, bits: int) -> bytes:
    """The bits [shift, shift + bits), the least significant bit of a byte first (PS3.5 8.1.1)."""
    number = int.from_bytes(data, "little") >> shift & ((1 << bits) - 1)
    return number.to_bytes((bits + 7) >> 3, "little")


def _pixel_word_bytes(layout: Layout, bits_allocated: int) -> int:
    """The size of the words that pixel data was swapped in, 1 for none."""
    if not layout.big_endian or layout.pixel_tag is None or isinstance(layout.frames, EncapsulatedFrames):
        return 1
    bulk = layout.bulk_element(layout.pixel_tag)
    if bulk is None or bulk.vr in ("OB", "UN"):
        return 1
    return max(WORD_BYTES.get(bulk.vr, 1), bits_allocated // 8)
