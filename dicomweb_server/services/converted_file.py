"""A whole instance in another transfer syntax: its elements rewritten, its frames converted one by one."""

import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.codec.syntaxes import (
    JPEG_2000,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LS_NEAR,
    encodable,
)
from dicomweb_server.dicom.compose import write_meta
from dicomweb_server.dicom.delimiters import ITEM_TAG, SEQUENCE_END
from dicomweb_server.dicom.json_model import Attributes, first_int, first_value
from dicomweb_server.dicom.layout import NativeFrames
from dicomweb_server.dicom.part10 import data_set_start
from dicomweb_server.dicom.plans import EXPLICIT_LITTLE, UNDEFINED
from dicomweb_server.dicom.rewrite import Patches, element_head, rewrite
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, is_encapsulated
from dicomweb_server.errors import BadDicom, BadPixels, NotAcceptable, TooLarge
from dicomweb_server.services.images import Images
from dicomweb_server.services.retrieve import BLOCK_BYTES, Instance

if TYPE_CHECKING:
    from dicomweb_server.codec.encode import Encoded

MAX_HEADER_BYTES = 256 << 20
"""Instances with more besides their pixels are not rewritten."""
MAX_PIXEL_BYTES = UNDEFINED - 1

_METHODS = {
    JPEG_BASELINE: "ISO_10918_1",
    JPEG_EXTENDED: "ISO_10918_1",
    JPEG_LS_NEAR: "ISO_14495_1",
    JPEG_2000: "ISO_15444_1",
}
"""Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)."""
_ALWAYS_LOSSY = frozenset({JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR})
_DROPPED: Patches = dict.fromkeys(("7FE00001", "7FE00002", "7FE00003", "4FFE0001", "FFFAFFFA"))
"""Offset tables and lengths of the old fragments, and signatures, which would no longer hold."""


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One instance on its way into another transfer syntax."""

    images: Images
    pool: CodecPool
    instance: Instance
    target: str

    def write(self, out: BinaryIO) -> None:
        """Write the whole file; frames are converted one by one."""
        layout, source = self.instance.layout, self.instance.stored.transfer_syntax_uid
        if layout.pixel_tag is None:
            self._begin(out, {})
        elif is_encapsulated(source) or is_encapsulated(self.target):
            if self.instance.number_of_frames == 0:
                raise BadPixels("the pixel data of this instance cannot be taken apart into frames")
            if is_encapsulated(self.target):
                self._compressed(out)
            else:
                self._decoded(out)
        else:
            self._native(out)

    # The data set around the pixels

    def _begin(self, out: BinaryIO, patches: Patches) -> bytes:
        """Write everything before the pixel data; gives what comes behind it."""
        stored, layout = self.instance.stored, self.instance.layout
        before, behind = self._around()
        start, encoding = 0, EXPLICIT_LITTLE
        if not layout.deflated:
            size = len(before)
            start, encoding = data_set_start(lambda place, length: before[place : min(place + length, size)], size)
        signed = first_int(self.images.attributes(self.instance), "00280103") == 1
        explicit = self.target != IMPLICIT_VR_LITTLE_ENDIAN
        write_meta(out, stored.sop_class_uid, stored.instance_uid, self.target)
        pixel_tag = layout.pixel_tag or "7FE00010"
        first = {tag: patch for tag, patch in patches.items() if tag < pixel_tag}
        last = {tag: patch for tag, patch in patches.items() if tag > pixel_tag}
        out.write(rewrite(before[start:], encoding, explicit=explicit, signed=signed, patches=first))
        return rewrite(behind, encoding, explicit=explicit, signed=signed, patches=last)

    def _around(self) -> tuple[bytes, bytes]:
        """The bytes before the element of the pixel data, and those behind it."""
        instance, layout = self.instance, self.instance.layout
        pixels = layout.bulk_element(layout.pixel_tag) if layout.pixel_tag else None
        if pixels is None:
            return self._from(0), b""
        tag = int(layout.pixel_tag or "", 16)
        place = struct.pack((">" if layout.big_endian else "<") + "HH", tag >> 16, tag & 0xFFFF)
        head = instance.read(pixels.offset - 12, 12)
        begin = next((pixels.offset - n for n in (12, 8) if head[12 - n : 16 - n] == place), None)
        if begin is None:
            raise BadDicom("the element of the pixel data cannot be found")
        if begin > MAX_HEADER_BYTES:
            raise _too_large()
        behind = self._from(pixels.offset + pixels.length)
        return instance.read(0, begin), behind.removeprefix(SEQUENCE_END) if pixels.encapsulated else behind

    def _from(self, start: int) -> bytes:
        """The rest of the data set. How long a deflated one is, its end tells."""
        stored = self.instance.stored
        length = MAX_HEADER_BYTES + 1 if self.instance.layout.deflated else stored.blob.size_bytes - start
        data = self.instance.read(start, length) if 0 < length <= MAX_HEADER_BYTES + 1 else b""
        if max(len(data), length if not self.instance.layout.deflated else 0) > MAX_HEADER_BYTES:
            raise _too_large()
        return data

    # The pixels

    def _native(self, out: BinaryIO) -> None:
        """From native to native: only the byte order can differ."""
        instance, layout = self.instance, self.instance.layout
        key = layout.pixel_tag or ""
        pixels = layout.bulk_element(key)
        if pixels is None:
            raise BadDicom("the pixel data cannot be found")
        behind = self._begin(out, {})
        if layout.big_endian and isinstance(layout.frames, NativeFrames):
            bits, count = layout.frames.frame_bits, layout.frames.count
            chunks = _joined((self.images.frame(instance, index) for index in range(count)), bits)
            size = (bits * count + 7) // 8
        else:
            (payload,) = instance.bulk(key)
            chunks, size = payload.whole(), payload.size_bytes
        self._pixels(out, pixels.vr, size, chunks)
        out.write(behind)

    def _decoded(self, out: BinaryIO) -> None:
        """From compressed to native."""
        made = self._converted()
        first = next(made)
        found = first.description
        bits = found.rows * found.columns * found.samples * found.bits_allocated
        size = (bits * self.instance.number_of_frames + 7) // 8
        behind = self._begin(out, self._patches(found, compressed_bytes=0))
        frames = (_of_size(frame.data, found.frame_bytes) for frame in chain((first,), made))
        self._pixels(out, "OW" if found.bits_allocated > 8 else "OB", size, _joined(frames, bits))
        out.write(behind)

    def _compressed(self, out: BinaryIO) -> None:
        """Into items, one for each frame, with a Basic Offset Table (PS3.5 A.4)."""
        offsets: list[int] = []
        with tempfile.TemporaryFile() as items:
            position, found = 0, None
            for frame in self._converted():
                found = found or frame.description
                offsets.append(position)
                padding = len(frame.data) & 1
                items.write(ITEM_TAG + struct.pack("<I", len(frame.data) + padding) + frame.data + b"\0"[:padding])
                position += 8 + len(frame.data) + padding
            if found is None or position > MAX_PIXEL_BYTES:
                raise TooLarge("the pixel data of this instance is too large to be converted")
            behind = self._begin(out, self._patches(found, compressed_bytes=position - 8 * len(offsets)))
            out.write(element_head("7FE00010", "OB", UNDEFINED, explicit=True))
            out.write(ITEM_TAG + struct.pack(f"<I{len(offsets)}I", 4 * len(offsets), *offsets))
            items.seek(0)
            shutil.copyfileobj(items, out, BLOCK_BYTES)
            out.write(SEQUENCE_END + behind)

    def _converted(self) -> "Iterator[Encoded]":
        """The frames in the new transfer syntax."""
        source = self.instance.stored.transfer_syntax_uid
        description = self.images.description(self.instance)
        if not encodable(self.target, description):
            raise NotAcceptable("pixels of this kind cannot be in the transfer syntax that Accept names")
        native = EXPLICIT_VR_LITTLE_ENDIAN
        target = self.target if is_encapsulated(self.target) else native
        for index in range(self.instance.number_of_frames):
            frame = self.images.frame(self.instance, index)
            yield self.pool.transcode(description, source, frame, target=target)

    def _pixels(self, out: BinaryIO, vr: str, size: int, chunks: Iterable[bytes]) -> None:
        if size > MAX_PIXEL_BYTES:
            raise TooLarge("the pixel data of this instance is too large to be given without compression")
        explicit = self.target != IMPLICIT_VR_LITTLE_ENDIAN
        out.write(element_head(self.instance.layout.pixel_tag or "", vr, size + (size & 1), explicit=explicit))
        written = sum(map(out.write, chunks))
        if written != size:
            raise BadPixels("the pixel data does not have the size that the attributes say")
        out.write(b"\0"[: size & 1])

    # What the attributes say of them

    def _patches(self, found: PixelDescription, *, compressed_bytes: int) -> Patches:
        """The elements that differ now (PS3.5 8.2, PS3.3 C.7.6.3)."""
        attributes = self.images.attributes(self.instance)
        patches = dict(_DROPPED)
        numbers = {
            "00280100": found.bits_allocated,
            "00280101": found.bits_stored,
            "00280102": found.high_bit,
            "00280103": int(found.signed),
        }
        if found.samples > 1:
            numbers["00280006"] = found.planar_configuration
        for tag, number in numbers.items():
            if first_int(attributes, tag) != number:
                patches[tag] = ("US", struct.pack("<H", number))
        if first_value(attributes, "00280004") != found.photometric_interpretation:
            patches["00280004"] = ("CS", found.photometric_interpretation.encode("ascii", "replace"))
        frames = self.instance.number_of_frames
        if first_int(attributes, "00280008") not in (None, frames):
            patches["00280008"] = ("IS", str(frames).encode("ascii"))
        return {**patches, **self._lossy(attributes, found, compressed_bytes)}

    def _lossy(self, attributes: Attributes, found: PixelDescription, compressed_bytes: int) -> Patches:
        """That information was lost, now or before (PS3.3 C.7.6.1.1.5): a ratio and a method for each time."""
        native_bytes = found.frame_bytes * self.instance.number_of_frames
        before = first_value(attributes, "00282110") == "01"
        source = self.instance.stored.transfer_syntax_uid
        steps: list[tuple[str, int]] = []
        if source in _ALWAYS_LOSSY and not before:
            frames = range(self.instance.number_of_frames)
            steps.append((source, sum(self.instance.frame(index).size_bytes for index in frames)))
        if self.target in _METHODS:
            steps.append((self.target, compressed_bytes))
        if not steps:
            return {}
        ratios = [f"{value:.6g}" for value in attributes.get("00282112", {}).get("Value") or [] if value]
        methods = [str(value) for value in attributes.get("00282114", {}).get("Value") or [] if value]
        ratios += [f"{native_bytes / max(size, 1):.2f}" for _, size in steps]
        methods += [_METHODS[uid] for uid, _ in steps]
        return {
            "00282110": ("CS", b"01"),
            "00282112": ("DS", "\\".join(ratios).encode("ascii")),
            "00282114": ("CS", "\\".join(methods).encode("ascii", "replace")),
        }


def _joined(frames: Iterable[bytes], frame_bits: int) -> Iterator[bytes]:
    """Frames one behind the other; those that end inside a byte share it with the next (PS3.5 8.1.1)."""
    if frame_bits % 8 == 0:
        yield from frames
        return
    number = bits = 0
    for frame in frames:
        number |= (int.from_bytes(frame, "little") & ((1 << frame_bits) - 1)) << bits
        bits += frame_bits
        whole = bits // 8
        yield (number & ((1 << 8 * whole) - 1)).to_bytes(whole, "little")
        number >>= 8 * whole
        bits -= 8 * whole
    if bits:
        yield number.to_bytes(1, "little")


def _of_size(frame: bytes, size: int) -> bytes:
    if len(frame) != size:
        raise BadPixels("the frames of this instance differ in size")
    return frame


def _too_large() -> TooLarge:
    return TooLarge(f"an instance with more than {MAX_HEADER_BYTES} bytes besides its pixels is not converted")
