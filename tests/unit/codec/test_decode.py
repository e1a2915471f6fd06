"""Decoded frames against pydicom, damaged frames, and what cannot be decoded."""

import logging
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pydicom.pixels.utils import pack_bits

from dicomweb_server.codec import decode, syntaxes
from dicomweb_server.codec.decode import Decoded, decode_frame, native_bytes
from dicomweb_server.codec.encode import encode_frame
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN as NATIVE
from dicomweb_server.errors import BadPixels, MissingCodec
from tests.samples import needs_corpus
from tests.unit.codec.files import Sample, noise, sample, samples

ONLY_OURS = (
    "JPEG-lossy.dcm",
    "JPGExtended.dcm",
    "liver_deflate.dcm",
    "liver_nonbyte_aligned_deflate.dcm",
    "liver_nonbyte_aligned_rle.dcm",
    "liver_rle.dcm",
)
"""Samples that pydicom has no decoder for."""
LOSSLESS = (syntaxes.RLE, syntaxes.JPEG_LS, syntaxes.JPEG_2000_LOSSLESS, syntaxes.HTJ2K_LOSSLESS)
BAD_VALUES = ("badVR.dcm",)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """pydicom logs each attempt of a plug-in that fails."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def psnr(one: np.ndarray, other: np.ndarray, top: int) -> float:
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return 99.0 if error == 0 else float(10 * np.log10(top**2 / error))


@pytest.mark.parametrize("item", samples(), ids=lambda item: item.path.name)
def test_decoded_frames_are_those_of_pydicom(item: Sample) -> None:
    if item.path.name in ONLY_OURS + BAD_VALUES:
        pytest.skip("pydicom does not decode it")
    frames = item.header.layout.frames
    assert frames is not None
    for index in sorted({0, frames.count // 2, frames.count - 1}):
        decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame(index))
        expected = item.reference(index)
        assert decoded.array.shape == expected.shape
        assert decoded.array.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert decoded.description.planar_configuration == 0
        if item.description.floating:
            assert np.array_equal(decoded.array, expected, equal_nan=True)
            continue
        mask = (1 << item.description.bits_stored) - 1
        ours, theirs = (array.astype(np.int64) & mask for array in (decoded.array, expected))
        if item.transfer_syntax_uid in syntaxes.LOSSY:
            assert psnr(ours, theirs, mask) > 45
        else:
            assert np.array_equal(ours, theirs)
        assert len(native_bytes(decoded)) == decoded.description.frame_bytes


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle.dcm", "examples_ybr_color.dcm", "JPEG2000.dcm"])
def test_rgb_form_is_that_of_pydicom(name: str) -> None:
    item = sample(name)
    decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame(), rgb=True)
    expected = item.reference(0, raw=False)
    if expected.ndim == 3:
        assert decoded.description.photometric_interpretation == "RGB"
    assert psnr(decoded.array, expected, 255) > 45


def test_a_lossless_ybr_frame_becomes_rgb_exactly_as_by_pydicom() -> None:
    item = sample("SC_rgb_dcmtk_+eb+cy+np.dcm")
    native = decode_frame(item.description, item.transfer_syntax_uid, item.frame())
    description = replace(native.description, photometric_interpretation="YBR_FULL")
    ours = decode_frame(description, NATIVE, native_bytes(native), rgb=True)
    from pydicom.pixels.processing import convert_color_space  # noqa: PLC0415 - the reference of this test only

    assert np.array_equal(ours.array, convert_color_space(native.array.copy(), "YBR_FULL", "RGB"))


class TestLabels:
    def test_colour_jpeg_is_full_ybr_when_native(self) -> None:
        item = sample("SC_rgb_jpeg_dcmtk.dcm")
        description = replace(item.description, photometric_interpretation="YBR_FULL_422")
        decoded = decode_frame(description, item.transfer_syntax_uid, item.frame())
        assert decoded.description.photometric_interpretation == "YBR_FULL"
        assert decoded.description.frame_bytes == len(native_bytes(decoded))

    def test_colour_transform_of_jpeg_2000_is_undone(self) -> None:
        item = sample("examples_jpeg2k.dcm")
        assert item.description.photometric_interpretation.startswith("YBR")
        decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame())
        assert decoded.description.photometric_interpretation == "RGB"


class TestNative:
    def test_planes_become_pixels(self) -> None:
        description = PixelDescription(2, 3, samples=3, photometric_interpretation="RGB", planar_configuration=1)
        decoded = decode_frame(description, NATIVE, bytes(range(18)))
        assert decoded.array[0, 1].tolist() == [1, 7, 13]
        assert decoded.description.planar_configuration == 0

    def test_subsampled_colours_are_spread(self) -> None:
        description = PixelDescription(1, 2, samples=3, photometric_interpretation="YBR_FULL_422")
        decoded = decode_frame(description, NATIVE, bytes([10, 20, 128, 130]))
        assert decoded.array.tolist() == [[[10, 128, 130], [20, 128, 130]]]
        assert decoded.description.photometric_interpretation == "YBR_FULL"

    def test_single_bits(self) -> None:
        bits = noise((5, 7), "u1", high=2)
        description = PixelDescription(5, 7, bits_allocated=1, bits_stored=1, high_bit=0)
        packed = pack_bits(bits.reshape(-1), pad=False)
        decoded = decode_frame(description, NATIVE, packed)
        assert np.array_equal(decoded.array, bits)
        assert native_bytes(decoded) == packed

    def test_bits_behind_the_stored_ones_stay(self) -> None:
        description = PixelDescription(1, 2, bits_allocated=16, bits_stored=12, high_bit=11)
        frame = bytes([0xFF, 0xFF, 0x01, 0x10])
        assert native_bytes(decode_frame(description, NATIVE, frame)) == frame

    def test_big_endian_pixels_of_ge(self) -> None:
        description = PixelDescription(1, 1, bits_allocated=16, bits_stored=16, high_bit=15)
        assert decode_frame(description, syntaxes.GE_BIG_ENDIAN_PIXELS, b"\x01\x02").array[0, 0] == 0x0102

    @pytest.mark.parametrize(("bits", "floating"), [(32, True), (64, True), (32, False), (64, False)])
    def test_wide_samples(self, bits: int, floating: bool) -> None:
        description = PixelDescription(
            2, 2, bits_allocated=bits, bits_stored=bits, high_bit=bits - 1, floating=floating
        )
        values = np.arange(4, dtype=f"<{'f' if floating else 'u'}{bits // 8}")
        decoded = decode_frame(description, NATIVE, values.tobytes())
        assert decoded.array.reshape(-1).tolist() == [0, 1, 2, 3]
        assert native_bytes(decoded) == values.tobytes()

    def test_a_short_frame_is_refused(self) -> None:
        with pytest.raises(BadPixels, match="3 bytes"):
            decode_frame(PixelDescription(2, 2), NATIVE, b"abc")


class TestDamage:
    NAMES = (
        "SC_rgb_jpeg_dcmtk.dcm",
        "JPEG2000.dcm",
        "examples_jpeg2k.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_RLE.dcm",
    )

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
    def test_a_cut_frame_is_refused(self, name: str, part: float) -> None:
        item = sample(name)
        frame = item.frame()
        with pytest.raises(BadPixels):
            decode_frame(item.description, item.transfer_syntax_uid, frame[: int(len(frame) * part)])

    @pytest.mark.parametrize("name", NAMES)
    def test_zeros_are_refused(self, name: str) -> None:
        item = sample(name)
        with pytest.raises(BadPixels):
            decode_frame(item.description, item.transfer_syntax_uid, bytes(len(item.frame())))

    @pytest.mark.parametrize("name", NAMES[:4])
    def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(self, name: str) -> None:
        item = sample(name)
        small = replace(item.description, rows=item.description.rows - 2)
        with pytest.raises(BadPixels, match="where the object says"):
            decode_frame(small, item.transfer_syntax_uid, item.frame())

    @pytest.mark.parametrize(
        ("name", "side"),
        [
            ("SC_rgb_jpeg_dcmtk.dcm", 20000),
            ("MR_small_jpeg_ls_lossless.dcm", 65535),
            ("MR_small_RLE.dcm", 20000),
        ],
    )
    def test_a_size_that_a_stream_cannot_hold_is_refused_before_it_is_decoded(self, name: str, side: int) -> None:
        item = sample(name)
        huge = replace(item.description, rows=side, columns=side if side < 65535 else 8000, samples=1)
        started = time.process_time()
        with pytest.raises(BadPixels, match=r"cannot hold|larger than"):
            decode_frame(huge, item.transfer_syntax_uid, item.frame()[:2000])
        assert time.process_time() - started < 1

    @pytest.mark.parametrize("uid", [syntaxes.JPEG_BASELINE, *LOSSLESS])
    def test_one_value_everywhere_is_no_bomb(self, uid: str) -> None:
        flat = Decoded(np.full((2048, 2048), 7, np.uint8), PixelDescription(2048, 2048))
        encoded = encode_frame(flat, uid)
        assert np.array_equal(decode_frame(encoded.description, uid, encoded.data).array, flat.array)

    @pytest.mark.parametrize(("side", "tile", "reason"), [(20000, 20000, "larger than"), (20000, 1, "cannot hold")])
    def test_jpeg_2000_that_claims_to_be_huge_is_refused_before_it_is_decoded(
        self, side: int, tile: int, reason: str
    ) -> None:
        item = sample("JPEG2000.dcm")
        frame = bytearray(item.frame())
        size = frame.find(b"\xff\x4f\xff\x51") + 8
        struct.pack_into(">6I", frame, size, side, side, 0, 0, tile, tile)
        huge = replace(item.description, rows=side, columns=side)
        with pytest.raises(BadPixels, match=reason):
            decode_frame(huge, item.transfer_syntax_uid, bytes(frame))

    def test_single_bits_in_rle_that_end_early_are_refused(self) -> None:
        description = PixelDescription(8, 8, bits_allocated=1, bits_stored=1, high_bit=0)
        head = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
        assert decode_frame(description, syntaxes.RLE, head + b"\xf9\xff").array.all()
        with pytest.raises(BadPixels, match="ends too early"):
            decode_frame(description, syntaxes.RLE, head + b"\xfa\xff")


class TestWhatIsMissing:
    def test_an_unknown_syntax_is_named(self) -> None:
        with pytest.raises(MissingCodec, match=r"1\.2\.3\.4"):
            decode_frame(PixelDescription(1, 1), "1.2.3.4", b"x")

    def test_the_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syntaxes, "_installed", lambda module: module == "numpy")
        assert not decode.available(syntaxes.JPEG_LS)
        with pytest.raises(MissingCodec, match=r"JPEG-LS Lossless \(1\.2\.840\.10008\.1\.2\.4\.80\): install pyjpegls"):
            decode_frame(PixelDescription(1, 1), syntaxes.JPEG_LS, b"x")

    def test_native_frames_need_no_codec(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syntaxes, "_installed", lambda module: module == "numpy")
        assert decode.available(NATIVE)


@needs_corpus
@pytest.mark.parametrize("name", [name for name in ONLY_OURS if name.startswith("liver")])
def test_segmentations_that_pydicom_cannot_decode_equal_their_native_twin(name: str) -> None:
    by_name = {item.path.name: item for item in samples()}
    item = by_name[name]
    twin = by_name[name.replace("_rle", "").replace("_deflate", "")]
    for index in range(3):
        ours = decode_frame(item.description, item.transfer_syntax_uid, item.frame(index))
        assert native_bytes(ours) == native_bytes(decode_frame(twin.description, NATIVE, twin.frame(index)))
