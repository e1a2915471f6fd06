"""Retrieving what is stored: files, frames, bulk data and metadata, by ranges of bytes and never whole in memory.

Everything here sends bytes as stored. Conversion to another transfer syntax plugs in where a caller has chosen a
representation: between `Retrieve.frame` and the answer.
"""

import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import orjson

from dicomweb_server.dicom.frames import (
    FrameRegion,
    bulk_regions,
    bulk_word_bytes,
    frame_region,
    payload_length,
    read_frame_little_endian,
    read_region,
    stream_region,
)
from dicomweb_server.dicom.json_model import swap_words
from dicomweb_server.dicom.layout import EncapsulatedFrames, Layout
from dicomweb_server.dicom.part10 import inflate as inflate_file
from dicomweb_server.dicom.uids import is_video
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.records import Metadata, Scope, StoredInstance

BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """Bytes ready to send: `size_bytes` is exact. `open_file` gives a real file when the payload is a run of bytes of
    one (its start and size), so that a front end can let the kernel send it."""

    size_bytes: int
    chunks: Callable[[int, int], Iterator[bytes]]
    open_file: Callable[[], tuple[BinaryIO, int] | None]

    def whole(self) -> Iterator[bytes]:
        """All of it."""
        return self.chunks(0, self.size_bytes)


class Instance:
    """A stored instance with its layout and a way to read its data set."""

    def __init__(self, stored: StoredInstance, storage: Storage, blobs: BlobStore) -> None:
        self.stored = stored
        self._storage = storage
        self._blobs = blobs
        self._inflated: BinaryIO | None = None
        packed = stored.layout
        if stored.layout_blob is not None:
            size = blobs.size(key=stored.layout_blob)
            packed = blobs.read(key=stored.layout_blob, start=0, length=size)
        self.layout = Layout.unpack(packed)

    @property
    def number_of_frames(self) -> int:
        """How many frames can be retrieved; 0 without pixel data, and for video."""
        return self.layout.frames.count if self.layout.frames is not None else 0

    @property
    def has_broken_pixels(self) -> bool:
        """Whether there is pixel data that does not hold the frames that its attributes tell of."""
        video = is_video(self.stored.transfer_syntax_uid)
        return self.layout.pixel_tag is not None and self.layout.frames is None and not video

    def frame(self, index: int, *, little_endian: bool = False) -> Payload:
        """Frame `index` (from 0) as stored; a big-endian one by request in little endian. Raises NotFound."""
        if little_endian and self.layout.big_endian:
            bits = self._bits_allocated()
            return _in_memory(read_frame_little_endian(self.layout, index, self.read, bits_allocated=bits))
        return self._region(frame_region(self.layout, index))

    @property
    def scope(self) -> Scope:
        """Its place."""
        stored = self.stored
        return Scope(study_uid=stored.study_uid, series_uid=stored.series_uid, instance_uid=stored.instance_uid)

    @property
    def is_encapsulated(self) -> bool:
        """Whether frames are stored as fragments, in whatever codec."""
        return isinstance(self.layout.frames, EncapsulatedFrames)

    def bulk(self, key: str) -> list[Payload]:
        """The parts of a bulk data element: one, or one per frame of encapsulated pixel data. Raises NotFound.

        Big-endian values are given in little endian: bulk data always travels so (PS3.18 8.7.3.5.2).
        """
        regions = bulk_regions(self.layout, key, self.read)
        word_bytes = bulk_word_bytes(self.layout, key)
        if word_bytes > 1:
            return [_in_memory(swap_words(read_region(region, self.read), word_bytes)) for region in regions]
        return [self._region(region) for region in regions]

    def read(self, start: int, length: int) -> bytes:
        """Bytes of the data set at the offsets of the layout."""
        if not self.layout.deflated:
            return self._blobs.read(key=self.stored.blob.key, start=start, length=length)
        if self._inflated is None:
            self._inflated = self._inflate()
            weakref.finalize(self, self._inflated.close)  # the answer that streams it outlives the call
        self._inflated.seek(start)
        return self._inflated.read(length)

    def _inflate(self) -> BinaryIO:
        file = self._blobs.open_file(key=self.stored.blob.key)
        if file is None:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
            for chunk in self._blobs.stream(key=self.stored.blob.key):
                file.write(chunk)
            file.seek(0)
        with file:
            return inflate_file(file)

    def _region(self, region: FrameRegion) -> Payload:
        """A region as a payload: a run of the file where it is one, else read and put together."""
        aligned = not region.fragmented and not region.bit_shift and not region.bits & 7
        if not aligned:
            return _streamed(payload_length(region, self.read), lambda: stream_region(region, self.read))
        if self.layout.deflated:
            return _streamed(region.length, lambda: stream_region(region, self.read))
        return run_of(self._blobs, self.stored.blob.key, region.start, region.length)

    def _bits_allocated(self) -> int:
        found = self._storage.metadata_of(instance_uids=[self.stored.instance_uid])
        attributes = orjson.loads(unpack_metadata(found[self.stored.instance_uid].deflated)) if found else {}
        return int((attributes.get("00280100", {}).get("Value") or [16])[0])


class Retrieve:
    """Finds what a URL names. All of it raises NotFound for what is not there."""

    def __init__(self, storage: Storage, blobs: BlobStore) -> None:
        self._storage = storage
        self._blobs = blobs

    def instance(self, *, scope: Scope) -> Instance:
        """The instance that the complete scope names."""
        return self.opened(self._storage.get(scope=scope))

    def stored(self, *, scope: Scope) -> StoredInstance:
        """Its record alone."""
        return self._storage.get(scope=scope)

    def file(self, stored: StoredInstance) -> Payload:
        """The Part 10 file of a record, byte for byte; its layout is not looked at."""
        return run_of(self._blobs, stored.blob.key, 0, stored.blob.size_bytes)

    def opened(self, stored: StoredInstance) -> Instance:
        """An instance from its record."""
        return Instance(stored, self._storage, self._blobs)

    def instances(self, *, scope: Scope) -> Sequence[StoredInstance]:
        """The instances below a study or series, or the one that is named, in their order."""
        if scope.instance_uid is not None:
            return [self._storage.get(scope=scope)]
        return list(self._storage.instances(scope=scope))

    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        """The ready-made metadata of all instances in scope; NotFound comes from the call."""
        return self._storage.metadata(scope=scope)

    def version(self, *, scope: Scope) -> str:
        """An opaque text that changes whenever something in scope does."""
        return self._storage.version(scope=scope)


def run_of(blobs: BlobStore, key: str, start: int, length: int) -> Payload:
    """A run of bytes of a blob as a payload."""

    def chunks(first: int, count: int) -> Iterator[bytes]:
        if count <= BLOCK_BYTES:
            return iter((blobs.read(key=key, start=start + first, length=count),))
        return blobs.stream(key=key, start=start + first, length=count)

    def open_file() -> tuple[BinaryIO, int] | None:
        file = blobs.open_file(key=key)
        return None if file is None else (file, start)

    return Payload(size_bytes=length, chunks=chunks, open_file=open_file)


def joined(payloads: Sequence[Payload]) -> Payload:
    """Several payloads as one run of bytes."""
    if len(payloads) == 1:
        return payloads[0]

    def chunks(first: int, count: int) -> Iterator[bytes]:
        for payload in payloads:
            if count <= 0:
                return
            if first < payload.size_bytes:
                taken = min(count, payload.size_bytes - first)
                yield from payload.chunks(first, taken)
                first, count = 0, count - taken
            else:
                first -= payload.size_bytes

    return Payload(size_bytes=sum(p.size_bytes for p in payloads), chunks=chunks, open_file=lambda: None)


def _in_memory(data: bytes) -> Payload:
    def chunks(first: int, count: int) -> Iterator[bytes]:
        return iter((data[first : first + count],))

    return Payload(size_bytes=len(data), chunks=chunks, open_file=lambda: None)


def _streamed(size_bytes: int, stream: Callable[[], Iterator[bytes]]) -> Payload:
    """A payload that can only be read from its beginning; a range of it skips what comes before."""

    def chunks(first: int, count: int) -> Iterator[bytes]:
        for chunk in stream():
            if count <= 0:
                return
            piece = chunk[first : first + count]
            first = max(0, first - len(chunk))
            count -= len(piece)
            if piece:
                yield piece

    return Payload(size_bytes=size_bytes, chunks=chunks, open_file=lambda: None)
