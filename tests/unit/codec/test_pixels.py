"""Descriptions of pixels, taken from attributes and checked."""

from typing import Any

import pytest

from dicomweb_server.codec.codestream import jpeg_2000_size, jpeg_size
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.errors import BadPixels
from tests.unit.codec.files import sample


def _attributes(**changes: Any) -> dict[str, dict[str, Any]]:
    found = {"00280010": 4, "00280011": 6, "00280100": 16, "00280101": 12, "00280102": 11, "00280103": 1}
    found |= {"0028" + tag.removeprefix("t"): value for tag, value in changes.items()}
    return {tag: {"vr": "US", "Value": [value]} for tag, value in found.items() if value is not None}


def test_what_the_attributes_say() -> None:
    found = PixelDescription.from_attributes(_attributes(t0008=3))
    assert found == PixelDescription(4, 6, 1, 16, 12, 11, signed=True, frames=3)
    assert (found.frame_bytes, found.sample_bytes, found.grey) == (48, 2, True)
    assert PixelDescription.from_dict(found.to_dict()) == found


def test_what_is_left_out_has_its_usual_value() -> None:
    found = PixelDescription.from_attributes(_attributes(t0101=None, t0102=None, t0103=None, t0002=3))
    assert (found.bits_stored, found.high_bit, found.signed) == (16, 15, False)
    assert found.photometric_interpretation == "RGB"


@pytest.mark.parametrize("high_bit", [16, 5, None])
def test_an_impossible_high_bit_is_mended(high_bit: int | None) -> None:
    assert PixelDescription.from_attributes(_attributes(t0102=high_bit)).high_bit == 11


def test_floating_point_pixels() -> None:
    attributes = _attributes(t0100=None, t0101=None, t0102=None) | {"7FE00009": {"vr": "OD"}}
    found = PixelDescription.from_attributes(attributes)
    assert (found.floating, found.bits_allocated, found.signed) == (True, 64, False)
    single = PixelDescription.from_attributes(_attributes(), pixel_tag="7FE00008")
    assert (single.floating, single.bits_allocated) == (True, 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"t0010": None},
        {"t0010": 0},
        {"t0011": 65536},
        {"t0100": None},
        {"t0100": 12},
        {"t0101": 17},
        {"t0002": 5},
        {"t0006": 2, "t0002": 3},
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadPixels):
        PixelDescription.from_attributes(_attributes(**changes))


def test_a_frame_that_is_too_large_is_refused() -> None:
    large = _attributes(t0010=30000, t0011=30000)
    with pytest.raises(BadPixels, match="30000 x 30000"):
        PixelDescription.from_attributes(large)
    assert PixelDescription.from_attributes(large, max_samples=1 << 30).rows == 30000


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"])
def test_the_size_in_a_jpeg_header(name: str) -> None:
    item = sample(name)
    assert jpeg_size(item.frame()) == (item.description.rows, item.description.columns, item.description.samples)


@pytest.mark.parametrize("name", ["JPEG2000.dcm", "examples_jpeg2k.dcm"])
def test_the_size_in_a_jpeg_2000_header(name: str) -> None:
    item = sample(name)
    assert jpeg_2000_size(item.frame()) == (item.description.rows, item.description.columns, item.description.samples)


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xe0", b"\xff\xd8" + b"\xff" * 100])
def test_no_header_no_size(data: bytes) -> None:
    assert jpeg_size(data) is None
    assert jpeg_2000_size(data) is None
