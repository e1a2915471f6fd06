"""Frames and bulk values: where they lie, how long they are, and their bytes."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import generate_frames

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
from dicomweb_server.dicom.layout import EncapsulatedFrames, Layout, NativeFrames
from dicomweb_server.dicom.part10 import Header, inflate, read_header
from dicomweb_server.errors import NotFound, StorageCorrupt
from tests.unit.dicom.files import encapsulated, explicit, header_of, identity, image, item, part10
from tests.unit.dicom.test_sample_files import FILES, read_complete

# pydicom itself fails on the number of frames.
UNREADABLE = {"badVR.dcm"}
NATIVE = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
JPEG = "1.2.840.10008.1.2.4.50"
Read = Callable[[int, int], bytes]


def reader(data: bytes) -> Read:
    """A byte source that refuses to read outside of the data."""

    def read(start: int, length: int) -> bytes:
        assert start >= 0
        assert start + length <= len(data)
        return data[start : start + length]

    return read


def forbidden(start: int, length: int) -> bytes:
    """A byte source for what must not read."""
    raise AssertionError("nothing is to be read here")


def frames_of(data: bytes) -> list[bytes]:
    """All frames of a file; their announced lengths are checked."""
    layout = Layout.unpack(read_header(io.BytesIO(data)).layout.pack())
    assert layout.frames is not None
    found = [read_region(frame_region(layout, index), reader(data)) for index in range(layout.frames.count)]
    for index, frame in enumerate(found):
        region = frame_region(layout, index)
        assert payload_length(region, reader(data)) == len(frame)
        assert b"".join(stream_region(region, reader(data))) == frame
    return found


def jpeg(*elements: bytes) -> bytes:
    """A file with encapsulated pixel data."""
    return part10(identity() + b"".join(elements), syntax=JPEG)


def header_syntax(ds: pydicom.FileDataset) -> str:
    """The transfer syntax; of a file without meta header the native one that matters here."""
    return str(ds.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2"))


def expected_frames(ds: pydicom.FileDataset) -> list[bytes]:
    """The stored frames as pydicom and numpy see them."""
    keyword = next(name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in ds)
    data, count = ds[keyword].value, int(ds.get("NumberOfFrames") or 1)
    if header_syntax(ds) not in NATIVE:
        return list(generate_frames(data, number_of_frames=count))
    samples = ds.Rows * ds.Columns * (2 if ds.PhotometricInterpretation == "YBR_FULL_422" else ds.SamplesPerPixel)
    if ds.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(data, "u1"), bitorder="little")
        return [np.packbits(bits[i * samples : (i + 1) * samples], bitorder="little").tobytes() for i in range(count)]
    size = samples * ds.BitsAllocated // 8
    return [data[i * size : (i + 1) * size] for i in range(count)]


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in UNREADABLE], ids=lambda path: path.name)
def test_the_frames_of_sample_files_equal_those_of_pydicom(path: Path) -> None:
    data, ds = read_complete(path)
    header = read_header(io.BytesIO(data))
    if header.layout.deflated:
        with inflate(io.BytesIO(data)) as inflated:
            data = inflated.read()
    if header.layout.pixel_tag is None or "Rows" not in ds:
        assert header.layout.frames is None
        return
    assert header.layout.frames is not None
    found = [
        read_region(frame_region(header.layout, index), reader(data)) for index in range(header.layout.frames.count)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found == expected_frames(ds)


class TestNative:
    @pytest.mark.parametrize(("bits", "samples"), [(8, 1), (8, 3), (16, 1), (32, 1), (64, 1)])
    def test_whole_bytes(self, bits: int, samples: int) -> None:
        size = 2 * 3 * bits // 8 * samples
        pixels = bytes(number % 251 for number in range(3 * size))
        data = part10(
            identity() + image(frames=3, bits=bits, samples=samples) + explicit(0x7FE00010, "OW", pixels + b"\0" * 4)
        )
        assert frames_of(data) == [pixels[:size], pixels[size : 2 * size], pixels[2 * size :]]

    @pytest.mark.parametrize(("tag", "vr", "bits"), [(0x7FE00008, "OF", 32), (0x7FE00009, "OD", 64)])
    def test_float_pixels(self, tag: int, vr: str, bits: int) -> None:
        size = 6 * bits // 8
        header = header_of(image(frames=2, bits=bits), explicit(tag, vr, bytes(2 * size)))
        assert header.layout.pixel_tag == f"{tag:08X}"
        assert header.layout.frames == NativeFrames(_offset(header), 8 * size, 2)

    @pytest.mark.parametrize(("interpretation", "bits"), [(b"YBR_FULL_422", 16), (b"YBR_PARTIAL_420 ", 12)])
    def test_fewer_chrominance_samples(self, interpretation: bytes, bits: int) -> None:
        header = header_of(
            explicit(0x00280004, "CS", interpretation),
            image(rows=2, columns=4, samples=3),
            explicit(0x7FE00010, "OB", bytes(24)),
        )
        assert isinstance(header.layout.frames, NativeFrames)
        assert header.layout.frames.frame_bits == 8 * bits

    @given(
        rows=st.integers(1, 9),
        columns=st.integers(1, 9),
        frames=st.integers(1, 9),
        bits=st.sampled_from([1, 12]),
        seed=st.binary(min_size=1, max_size=40),
    )
    @settings(derandomize=True, max_examples=80, deadline=None)
    def test_frames_inside_bytes(self, rows: int, columns: int, frames: int, bits: int, seed: bytes) -> None:
        total = rows * columns * frames * bits
        pixels = (seed * (total // 8 + 2))[: (total + 7) // 8]
        pixels += bytes(len(pixels) & 1)
        description = image(rows=rows, columns=columns, frames=frames, bits=bits)
        found = frames_of(part10(identity() + description + explicit(0x7FE00010, "OW", pixels)))
        unpacked = np.unpackbits(np.frombuffer(pixels, "u1"), bitorder="little")[:total].reshape(frames, -1)
        assert found == [np.packbits(frame, bitorder="little").tobytes() for frame in unpacked]

    def test_only_whole_frames_count(self) -> None:
        header = header_of(image(frames=3), explicit(0x7FE00010, "OB", bytes(14)))
        assert header.layout.frames is not None
        assert header.layout.frames.count == 2
        assert any("holds 2 whole ones" in warning for warning in header.warnings)
        assert header_of(image(), explicit(0x7FE00010, "OB", bytes(4))).layout.frames is None

    def test_pixel_data_without_a_description_has_no_frames(self) -> None:
        header = header_of(explicit(0x7FE00010, "OB", bytes(4)))
        assert header.layout.frames is None
        assert header.layout.pixel_tag == "7FE00010"

    def test_lengths_need_no_reading(self) -> None:
        header = header_of(image(), explicit(0x7FE00010, "OB", bytes(6)))
        assert payload_length(frame_region(header.layout, 0), forbidden) == 6

    def test_an_unknown_frame_is_not_found_and_the_number_is_named(self) -> None:
        layout = header_of(image(frames=2), explicit(0x7FE00010, "OB", bytes(12))).layout
        for index in (2, -1, 10**12):
            with pytest.raises(NotFound, match="this instance has 2"):
                frame_region(layout, index)
        with pytest.raises(NotFound, match="no frames"):
            frame_region(header_of().layout, 0)


def _offset(header: Header) -> int:
    assert header.layout.pixel_tag is not None
    bulk = header.layout.bulk_element(header.layout.pixel_tag)
    assert bulk is not None
    return bulk.offset


class TestEncapsulated:
    def test_one_fragment_each(self) -> None:
        data = jpeg(image(frames=3), encapsulated([b"abcd", b"ef", b""]))
        assert frames_of(data) == [b"abcd", b"ef", b""]
        layout = read_header(io.BytesIO(data)).layout
        assert payload_length(frame_region(layout, 0), forbidden) == 4

    def test_one_frame_of_several_fragments(self) -> None:
        assert frames_of(jpeg(image(), encapsulated([b"abcd", b"ef"]))) == [b"abcdef"]

    def test_the_basic_offset_table_tells_frames_apart(self) -> None:
        fragments = [b"abcd", b"ef", b"gh"]
        assert frames_of(jpeg(image(frames=2), encapsulated(fragments, offsets=[0, 12]))) == [b"abcd", b"efgh"]
        assert frames_of(jpeg(image(frames=2), encapsulated(fragments, offsets=[0, 22]))) == [b"abcdef", b"gh"]

    def test_the_extended_offset_table_goes_first(self) -> None:
        tables = explicit(0x7FE00001, "OV", struct.pack("<2Q", 0, 22)) + explicit(
            0x7FE00002, "OV", struct.pack("<2Q", 14, 2)
        )
        data = jpeg(image(frames=2), tables, encapsulated([b"abcd", b"ef", b"gh"], offsets=[0, 12]))
        assert frames_of(data) == [b"abcdef", b"gh"]

    @pytest.mark.parametrize("offsets", [[0, 11], [12, 0], [0, 0], [0, 4_000_000_000], [22, 12], [0], [0, 12, 22, 30]])
    def test_a_wrong_table_gives_way_to_the_ends_of_codestreams(self, offsets: list[int]) -> None:
        fragments = [b"\xff\xd8ab", b"\xff\xd9", b"\xff\xd8cd\xff\xd9\0\0"]
        data = jpeg(image(frames=2), encapsulated(fragments, offsets=offsets))
        assert frames_of(data) == [b"\xff\xd8ab\xff\xd9", b"\xff\xd8cd\xff\xd9\0\0"]

    def test_starts_of_codestreams_are_the_last_resort(self) -> None:
        fragments = [b"\xff\x4f\xff\x51", b"ab", b"\xff\x4f\xff\x51"]
        assert frames_of(jpeg(image(frames=2), encapsulated(fragments))) == [b"\xff\x4f\xff\x51ab", b"\xff\x4f\xff\x51"]

    def test_fewer_fragments_than_frames(self) -> None:
        data = jpeg(image(frames=5), encapsulated([b"ab", b"cd"]))
        assert frames_of(data) == [b"ab", b"cd"]
        assert any("has 2 fragments" in warning for warning in read_header(io.BytesIO(data)).warnings)

    def test_no_fragment_at_all(self) -> None:
        assert read_header(io.BytesIO(jpeg(image(), encapsulated([])))).layout.frames is None

    def test_video_has_no_frames_but_a_value(self) -> None:
        data = part10(identity() + image(frames=100) + encapsulated([b"abcd", b"ef"]), syntax="1.2.840.10008.1.2.4.102")
        layout = read_header(io.BytesIO(data)).layout
        assert layout.frames is None
        assert layout.pixel_tag == "7FE00010"
        (region,) = bulk_regions(layout, "7FE00010", reader(data))
        assert b"".join(stream_region(region, reader(data))) == b"abcdef"

    def test_many_frames_have_a_compact_table(self) -> None:
        count = 100_000
        fragments = b"".join(item(b"ab", defined=True) for _ in range(count + 1))
        frames = explicit(0x00280008, "IS", str(count).encode())
        data = jpeg(frames, explicit(0x7FE00010, "OB", fragments + b"\xfe\xff\xdd\xe0\0\0\0\0", length=0xFFFFFFFF))
        found = read_header(io.BytesIO(data)).layout.frames
        assert isinstance(found, EncapsulatedFrames)
        assert (found.count, len(found.table)) == (count, 16 * count)

    def test_a_file_that_changed_is_noticed(self) -> None:
        data = jpeg(image(), encapsulated([b"abcd", b"ef"]))
        layout = read_header(io.BytesIO(data)).layout
        with pytest.raises(StorageCorrupt):
            read_region(frame_region(layout, 0), reader(bytes(len(data))))


class TestLittleEndian:
    @pytest.mark.parametrize(
        ("vr", "bits", "stored", "expected"),
        [
            ("OW", 16, b"\0\1\0\2\0\3\0\4\0\5\0\6", [b"\1\0\2\0\3\0\4\0\5\0\6\0"]),
            ("OW", 8, b"\1\0\3\2\5\4", [bytes(range(6))]),
            ("OB", 8, bytes(range(6)), [bytes(range(6))]),
            ("OW", 32, bytes([0, 0, 0, 1] * 6), [bytes([1, 0, 0, 0] * 6)]),
        ],
    )
    def test_words_are_swapped(self, vr: str, bits: int, stored: bytes, expected: list[bytes]) -> None:
        assert self._frames(stored, vr=vr, bits=bits, columns=3) == expected

    def test_frames_of_odd_size_share_a_word(self) -> None:
        assert self._frames(b"\1\0\3\2\5\4", vr="OW", bits=8, rows=1, columns=3, frames=2) == [b"\0\1\2", b"\3\4\5"]

    def test_frames_of_single_bits(self) -> None:
        # Bits 0 to 4 and 5 to 9 of the word 0b11_0010_0001, whose bytes are swapped
        assert self._frames(b"\x03\x21", vr="OW", bits=1, rows=1, columns=5, frames=2) == [b"\x01", b"\x19"]

    @staticmethod
    def _frames(stored: bytes, *, vr: str, bits: int, rows: int = 2, columns: int = 3, frames: int = 1) -> list[bytes]:
        numbers = ((0x00280010, rows), (0x00280011, columns), (0x00280100, bits))
        data = part10(
            identity(order=">")
            + explicit(0x00280008, "IS", str(frames).encode().ljust(2), order=">")
            + b"".join(explicit(tag, "US", struct.pack(">H", number), order=">") for tag, number in numbers)
            + explicit(0x7FE00010, vr, stored, order=">"),
            syntax="1.2.840.10008.1.2.2",
        )
        layout = read_header(io.BytesIO(data)).layout
        assert bulk_word_bytes(layout, "7FE00010") == {"OW": 2, "OB": 1}[vr]
        return [read_frame_little_endian(layout, i, reader(data), bits_allocated=bits) for i in range(frames)]

    def test_little_endian_files_are_left_alone(self) -> None:
        data = part10(identity() + image(bits=16) + explicit(0x7FE00010, "OW", bytes(range(12))))
        layout = read_header(io.BytesIO(data)).layout
        assert read_frame_little_endian(layout, 0, reader(data), bits_allocated=16) == bytes(range(12))
        assert bulk_word_bytes(layout, "7FE00010") == 1


class TestBulk:
    def test_a_value_is_one_region(self) -> None:
        value = bytes(range(256)) * 5
        data = part10(identity() + explicit(0x00420011, "OB", value))
        layout = read_header(io.BytesIO(data)).layout
        (region,) = bulk_regions(layout, "00420011", forbidden)
        assert payload_length(region, forbidden) == len(value)
        assert read_region(region, reader(data)) == value

    def test_encapsulated_pixel_data_is_a_region_for_each_frame(self) -> None:
        data = jpeg(image(frames=2), encapsulated([b"ab", b"cd"]))
        layout = read_header(io.BytesIO(data)).layout
        regions = bulk_regions(layout, "7FE00010", reader(data))
        assert [read_region(region, reader(data)) for region in regions] == [b"ab", b"cd"]

    def test_encapsulated_pixel_data_inside_a_sequence(self) -> None:
        data = jpeg(explicit(0x00880200, "SQ", item(encapsulated([b"ab", b"cd"]))))
        layout = read_header(io.BytesIO(data)).layout
        (region,) = bulk_regions(layout, "00880200/1/7FE00010", reader(data))
        assert read_region(region, reader(data)) == b"abcd"

    def test_unknown_keys_are_not_found(self) -> None:
        with pytest.raises(NotFound):
            bulk_regions(header_of().layout, "7FE00010", forbidden)

    def test_large_regions_are_streamed_in_pieces(self) -> None:
        region = FrameRegion(0, 3_000_000, False, 0, 24_000_000)
        pieces = list(stream_region(region, lambda start, length: bytes(length)))
        assert [len(piece) for piece in pieces] == [1 << 20, 1 << 20, 3_000_000 - (2 << 20)]
