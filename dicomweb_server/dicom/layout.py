"""Where the frames and the bulk values of an instance lie in its file, and the compact form that is kept of it."""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dicomweb_server.errors import StorageCorrupt

_VERSION: Final = 1
_HEADER = struct.Struct("<BBBBII")  # version, flags, kind of frames, characters of the UID, bytes of table and of bulk
_NATIVE = struct.Struct("<QQI")
_DEFLATED: Final = 1
_BIG_ENDIAN: Final = 2
_NO_FRAMES: Final = 0
_NATIVE_FRAMES: Final = 1
_ENCAPSULATED_FRAMES: Final = 2
_PIXEL_TAGS: Final = (None, "7FE00010", "7FE00008", "7FE00009")

_BULK_KEY = re.compile(r"[0-9A-F]{8}(?:/[1-9][0-9]{0,8}/[0-9A-F]{8}){0,64}")


@dataclass(frozen=True, slots=True)
class NativeFrames:
    """Uncompressed frames: frame i, from 0, is the bits [i * frame_bits, (i + 1) * frame_bits) from byte `offset`."""

    offset: int
    frame_bits: int
    count: int


@dataclass(frozen=True, slots=True)
class EncapsulatedFrames:
    """Frames in items (PS3.5 A.4). The table has 16 bytes for each frame, two little endian numbers of 64 bits: the
    offset of the frame's first item tag, and the length of its items with their headers. The top bit of the length is
    set where these are several items."""

    count: int
    table: bytes | memoryview


@dataclass(frozen=True, slots=True)
class BulkElement:
    """The place of a value. An encapsulated one is all its items, the offset table included, without the delimiter."""

    offset: int
    length: int
    vr: str
    encapsulated: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in an instance. Offsets count in the file, of a deflated one in what `part10.inflate` gives.

    pixel_tag: "7FE00010", or "7FE00008" for float, "7FE00009" for double float pixel data.
    bulk: an index for `bulk_element` and `bulk_keys`; made by `bulk_index`.
    """

    transfer_syntax_uid: str
    deflated: bool
    big_endian: bool
    frames: NativeFrames | EncapsulatedFrames | None
    pixel_tag: str | None
    bulk: bytes

    def bulk_element(self, key: str) -> BulkElement | None:
        """The bulk value with this key, a path in the data set: "7FE00010", or "00480105/1/00282000" inside item 1 of a
        sequence. None for an unknown or malformed key."""
        if _BULK_KEY.fullmatch(key) is None:
            return None
        place = self.bulk.find(f"\n{key} ".encode("ascii"))
        if place < 0:
            return None
        line = self.bulk[place + 1 : self.bulk.index(b"\n", place + 1)]
        return _bulk_entry(line)[1]

    def bulk_keys(self) -> Iterator[str]:
        """The keys of all bulk values, in the order of the file."""
        return (_bulk_entry(line)[0] for line in self.bulk.split(b"\n") if line)

    def pack(self) -> bytes:
        """A compact form for `unpack`. It grows by 16 bytes with each encapsulated frame, not with native ones."""
        table: bytes | memoryview = b""
        kind = _NO_FRAMES
        if isinstance(self.frames, NativeFrames):
            kind = _NATIVE_FRAMES
            table = _NATIVE.pack(self.frames.offset, self.frames.frame_bits, self.frames.count)
        elif self.frames is not None:
            kind, table = _ENCAPSULATED_FRAMES, self.frames.table
        flags = self.deflated * _DEFLATED | self.big_endian * _BIG_ENDIAN | _PIXEL_TAGS.index(self.pixel_tag) << 4
        uid = self.transfer_syntax_uid.encode("ascii")
        header = _HEADER.pack(_VERSION, flags, kind, len(uid), len(table), len(self.bulk))
        return b"".join((header, uid, table, self.bulk))

    @classmethod
    def unpack(cls, data: bytes) -> "Layout":
        """The layout from its packed form. Copies no table. Raises StorageCorrupt when the data is no packed layout."""
        try:
            version, flags, kind, uid_length, table_length, bulk_length = _HEADER.unpack_from(data)
            table_start = _HEADER.size + uid_length
            bulk_start = table_start + table_length
            if version != _VERSION or bulk_start + bulk_length != len(data):
                raise StorageCorrupt("the layout of an instance was written by another version, or is damaged")
            frames: NativeFrames | EncapsulatedFrames | None = None
            if kind == _NATIVE_FRAMES:
                frames = NativeFrames(*_NATIVE.unpack_from(data, table_start))
            elif kind == _ENCAPSULATED_FRAMES:
                frames = EncapsulatedFrames(table_length // 16, memoryview(data)[table_start:bulk_start])
            return cls(
                data[_HEADER.size : table_start].decode("ascii"),
                flags & _DEFLATED != 0,
                flags & _BIG_ENDIAN != 0,
                frames,
                _PIXEL_TAGS[flags >> 4],
                data[bulk_start:],
            )
        except (struct.error, UnicodeDecodeError, IndexError) as exc:
            raise StorageCorrupt("the layout of an instance is damaged") from exc


def bulk_index(elements: Mapping[str, BulkElement] | Iterable[tuple[str, BulkElement]]) -> bytes:
    """The index of bulk values for a `Layout`: lines of text, so that a key is found without reading the others."""
    entries = dict(elements)
    if not entries:
        return b""
    lines = [
        f"{key} {element.vr} {element.offset} {element.length} {element.encapsulated:d}"
        for key, element in entries.items()
    ]
    return ("\n" + "\n".join(lines) + "\n").encode("ascii")


def _bulk_entry(line: bytes) -> tuple[str, BulkElement]:
    key, vr, offset, length, encapsulated = line.decode("ascii").split(" ")
    return key, BulkElement(int(offset), int(length), vr, encapsulated == "1")
