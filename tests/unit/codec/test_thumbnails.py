"""Thumbnails: they look as the whole picture made smaller does, however little of it is decoded."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.codestream import jpeg_2000_coding
from dicomweb_server.codec.decode import Decoded, decode_frame
from dicomweb_server.codec.encode import encode_frame
from dicomweb_server.codec.icons import icon
from dicomweb_server.codec.options import RenderOptions
from dicomweb_server.codec.presentation import frame_attributes
from dicomweb_server.codec.reduced import decode_reduced
from dicomweb_server.codec.render import render_frame
from dicomweb_server.codec.thumbnails import small_picture, thumbnail
from dicomweb_server.dicom.json_model import Attributes, inline_binary
from dicomweb_server.errors import BadPixels
from tests.unit.codec.files import sample, samples
from tests.unit.codec.test_render import grey, values

TABLE: Attributes = {"00283002": values("US", 2, 0, 8), "00283006": values("US", 0, 255)}
J2K = [item for item in samples() if item.transfer_syntax_uid in syntaxes.JPEG_2000_SYNTAXES]


def opened(data: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(data)), "i2")


def small(flat: Attributes, decoded: Decoded, side: int = 256) -> NDArray[Any]:
    return opened(small_picture(flat, decoded, full=decoded.description, side=side))


def scaled(flat: Attributes, decoded: Decoded, side: int = 256) -> NDArray[Any]:
    """The whole picture, scaled at the end."""
    picture = render_frame(flat, decoded, options=RenderOptions(rows=side, columns=side))
    return np.asarray(picture, "i2")


def window(center: float, width: float) -> Attributes:
    return {"00281050": values("DS", center), "00281051": values("DS", width)}


def test_fits_into_its_square() -> None:
    item = sample("examples_ybr_color.dcm")
    flat = frame_attributes(item.header.attributes, 0)
    assert Image.open(io.BytesIO(thumbnail(flat, item.transfer_syntax_uid, item.frame()))).size == (256, 192)


def test_a_small_image_is_not_enlarged() -> None:
    assert small({}, grey([[0, 1], [2, 3]])).shape == (2, 2)


def test_a_large_image_is_thinned_first_and_looks_the_same() -> None:
    y, x = np.mgrid[:3000, :2400]
    decoded = grey(x + y)
    assert small({}, decoded).shape == (256, 205)
    assert np.abs(small({}, decoded) - scaled({}, decoded)).mean() < 3


def blocks(array: NDArray[Any], size: int) -> NDArray[Any]:
    """Averages of squares of this size."""
    rows, columns = (side // size for side in array.shape[:2])
    squares = array[: rows * size, : columns * size].reshape(rows, size, columns, size, -1)
    found: NDArray[Any] = squares.mean(axis=(1, 3))
    return found


class TestAveraging:
    @pytest.mark.parametrize("shape", [(64, 64), (128, 96), (512, 256), (66, 130)])
    @pytest.mark.parametrize(
        ("bits", "signed", "low", "high"),
        [
            (8, False, 0, 255),
            (12, False, 0, 4095),
            (16, False, 0, 65535),
            (12, True, -2048, 2047),
            (16, True, -32768, 32767),
        ],
    )
    def test_before_the_window_it_is_the_same(
        self, shape: tuple[int, int], bits: int, signed: bool, low: int, high: int
    ) -> None:
        slope = np.linspace(low, high, shape[0] * shape[1]).round().reshape(shape)
        decoded = grey(slope, bits=bits, signed=signed)
        flat = window((low + high) / 2, (high - low) / 2)
        assert np.abs(small(flat, decoded, 32) - scaled(flat, decoded, 32)).mean() < 3

    def test_what_else_lies_in_the_cells_does_not_count(self) -> None:
        slope = np.tile(np.arange(64), (64, 1))
        clean, dirty = grey(slope, bits=12), grey(slope | 0xA000, bits=12)
        assert np.array_equal(small(window(32, 64), clean, 32), small(window(32, 64), dirty, 32))

    @pytest.mark.parametrize(
        "tables",
        [
            {"00280120": values("US", 7)},
            {
                "20500010": {
                    "vr": "SQ",
                    "Value": [{"00283002": values("US", 2, 0, 8), "00283006": values("US", 0, 255)}],
                }
            },
            {
                "60000010": values("US", 64),
                "60000011": values("US", 64),
                "60003000": {"vr": "OW", "InlineBinary": inline_binary(bytes(64) * 8)},
            },
        ],
        ids=["padding", "table", "overlay"],
    )
    def test_what_has_no_values_in_between_is_averaged_behind_the_window(self, tables: Attributes) -> None:
        noise = np.random.default_rng(1).choice([7, 100, 3000], (64, 64))
        flat = window(50, 100) | tables
        assert np.abs(small(flat, grey(noise), 32) - scaled(flat, grey(noise), 32)).mean() < 8
        assert np.abs(small(window(50, 100), grey(noise), 32) - scaled(flat, grey(noise), 32)).mean() > 20


class TestJpeg2000:
    @pytest.mark.parametrize("item", J2K, ids=lambda item: item.path.name)
    def test_a_fraction_of_the_frame_looks_like_the_whole(self, item: Any) -> None:
        description = item.description
        whole = decode_frame(description, item.transfer_syntax_uid, item.frame())
        found = decode_reduced(
            description, item.transfer_syntax_uid, item.frame(), side=max(description.rows, description.columns) // 2
        )
        if found is None:
            pytest.skip("decoded whole: single bits, or its codestream differs from what the object says")
        assert found.array.dtype == whole.array.dtype
        assert found.array.shape[:2] == (-(-description.rows // 2), -(-description.columns // 2))
        assert found.description.photometric_interpretation == whole.description.photometric_interpretation
        expected = blocks(whole.array, 16)
        coarse = blocks(found.array, 8)[: expected.shape[0], : expected.shape[1]]
        assert np.abs(coarse - expected).mean() < 0.02 * float(np.ptp(whole.array))

    def test_most_samples_are_decoded_so(self) -> None:
        names = {"examples_jpeg2k.dcm", "JPEG2000.dcm", "MR2_J2KR.dcm", "HTJ2K_08_RGB.dcm", "US1_J2KR.dcm"}
        taken = [item for item in J2K if item.path.name in names]
        assert taken
        for item in taken:
            assert decode_reduced(item.description, item.transfer_syntax_uid, item.frame(), side=64), item.path.name

    @pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (12, True), (16, True)])
    def test_values_keep_their_scale(self, bits: int, signed: bool) -> None:
        low = -(1 << bits - 1) if signed else 0
        slope = np.tile(np.linspace(low, low + (1 << bits) - 1, 256).round(), (256, 1))
        whole = grey(slope, bits=bits, signed=signed)
        made = encode_frame(whole, syntaxes.JPEG_2000_LOSSLESS)
        found = decode_reduced(made.description, syntaxes.JPEG_2000_LOSSLESS, made.data, side=128)
        assert found is not None
        assert np.abs(found.array.astype(float) - whole.array[::2, ::2]).max() <= (1 << bits) / 100

    def test_a_jpeg_of_it(self) -> None:
        y, x = np.mgrid[:512, :512]
        whole = grey(x + y, bits=12)
        made = encode_frame(whole, syntaxes.JPEG_2000_LOSSLESS)
        flat = window(512, 1024) | {
            "00280010": values("US", 512),
            "00280011": values("US", 512),
            "00280100": values("US", 16),
            "00280101": values("US", 12),
        }
        found = opened(thumbnail(flat, syntaxes.JPEG_2000_LOSSLESS, made.data, side=128))
        assert np.abs(found - scaled(flat, whole, 128)).mean() < 3

    def test_what_pillow_does_not_decode_is_decoded_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        item = sample("examples_jpeg2k.dcm")
        cut = item.frame()[:200]
        assert decode_reduced(item.description, item.transfer_syntax_uid, cut, side=64) is None
        with pytest.raises(BadPixels):
            thumbnail(frame_attributes(item.header.attributes, 0), item.transfer_syntax_uid, cut)
        monkeypatch.setattr(features, "check_codec", lambda name: False)
        assert decode_reduced(item.description, item.transfer_syntax_uid, item.frame(), side=64) is None

    def test_a_codestream_without_its_headers(self) -> None:
        frame = sample("examples_jpeg2k.dcm").frame()
        coding = jpeg_2000_coding(frame)
        assert coding is not None
        assert (coding.bits, coding.signed, coding.subsampled) == (8, False, False)
        assert jpeg_2000_coding(frame[:60]) is None
        assert jpeg_2000_coding(b"") is None


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.3", ""])
def test_objects_without_pixels_have_an_icon(uid: str) -> None:
    image = Image.open(io.BytesIO(icon(uid, "S<R")))
    assert image.size == (256, 256)
    assert len(np.unique(np.asarray(image))) > 2
