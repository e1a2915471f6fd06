"""What is encoded decodes to the same pixels, and says of itself what it is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.decode import Decoded, decode_frame
from dicomweb_server.codec.encode import encodable, encode_frame
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.errors import MissingCodec, NotAcceptable

ROWS, COLUMNS = 48, 64


def _described(array: NDArray[Any], **fields: Any) -> Decoded:
    bits = array.dtype.itemsize * 8
    defaults: Mapping[str, Any] = {"bits_allocated": bits, "bits_stored": bits, "signed": array.dtype.kind == "i"}
    given = {**defaults, **fields}
    given.setdefault("high_bit", given["bits_stored"] - 1)
    return Decoded(array, PixelDescription(ROWS, COLUMNS, **given))


def _frames() -> dict[str, Decoded]:
    y, x = np.mgrid[:ROWS, :COLUMNS]
    colours = np.stack([x * 4 % 256, y * 5 % 256, (x + y) % 256], axis=-1)
    rgb = {"samples": 3, "photometric_interpretation": "RGB"}
    return {
        "8 bit": _described((x * 3 % 256).astype("u1")),
        "12 bit": _described((x * y % 4096).astype("<u2"), bits_stored=12),
        "signed 12 bit": _described((x * y % 4096 - 2048).astype("<i2"), bits_stored=12),
        "signed 16 bit": _described((x * y * 10 - 9000).astype("<i2")),
        "rgb": _described(colours.astype("u1"), **rgb),
        "ybr": _described(colours.astype("u1"), samples=3, photometric_interpretation="YBR_FULL"),
        "16 bit rgb": _described((colours * 200).astype("<u2"), **rgb),
        "palette": _described((x % 256).astype("u1"), photometric_interpretation="PALETTE COLOR"),
    }


LOSSLESS = (
    syntaxes.RLE,
    syntaxes.JPEG_LS,
    syntaxes.JPEG_2000_LOSSLESS,
    syntaxes.HTJ2K_LOSSLESS,
    syntaxes.HTJ2K_LOSSLESS_RPCL,
)
LOSSY = {syntaxes.JPEG_BASELINE: 8, syntaxes.JPEG_LS_NEAR: 2, syntaxes.JPEG_2000: 8}
"""With the largest error that is expected of smooth pictures at the usual quality."""


@pytest.mark.parametrize("uid", LOSSLESS, ids=syntaxes.name_of)
@pytest.mark.parametrize("kind", _frames())
def test_lossless_syntaxes_keep_every_pixel(kind: str, uid: str) -> None:
    if uid in syntaxes.HTJ2K_SYNTAXES:
        pytest.importorskip("imagecodecs")
    frame = _frames()[kind]
    assert encodable(uid, frame.description)
    encoded = encode_frame(frame, uid)
    decoded = decode_frame(encoded.description, uid, encoded.data)
    assert np.array_equal(decoded.array, frame.array)
    assert decoded.array.dtype == frame.array.dtype
    assert decoded.description.photometric_interpretation == frame.description.photometric_interpretation


@pytest.mark.parametrize("uid", LOSSY, ids=syntaxes.name_of)
@pytest.mark.parametrize("kind", ["8 bit", "12 bit"])
def test_lossy_syntaxes_stay_near(kind: str, uid: str) -> None:
    frame = _frames()[kind]
    if uid == syntaxes.JPEG_BASELINE and kind == "12 bit":
        assert not encodable(uid, frame.description)
        return
    encoded = encode_frame(frame, uid)
    decoded = decode_frame(encoded.description, uid, encoded.data)
    assert np.abs(decoded.array.astype(int) - frame.array.astype(int)).max() <= LOSSY[uid]
    worse = encode_frame(frame, uid, quality=20)
    assert len(worse.data) < len(encoded.data) or uid == syntaxes.JPEG_2000


def test_colour_jpeg_is_labelled_as_it_is_stored() -> None:
    frame = _frames()["rgb"]
    encoded = encode_frame(frame, syntaxes.JPEG_BASELINE)
    assert encoded.description.photometric_interpretation == "YBR_FULL_422"
    back = decode_frame(encoded.description, syntaxes.JPEG_BASELINE, encoded.data, rgb=True)
    assert np.abs(back.array.astype(int) - frame.array.astype(int)).mean() < 3


def test_bits_that_are_no_pixels_are_left_out() -> None:
    values = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS) % 4096
    frame = _described(values | 0x8000, bits_stored=12)
    encoded = encode_frame(frame, syntaxes.JPEG_LS)
    assert np.array_equal(decode_frame(encoded.description, syntaxes.JPEG_LS, encoded.data).array, values)


def test_pixels_at_the_high_end_of_their_cells_are_moved_down() -> None:
    values = np.arange(ROWS * COLUMNS, dtype="<u2").reshape(ROWS, COLUMNS) % 4096
    encoded = encode_frame(_described(values << 4, bits_stored=12, high_bit=15), syntaxes.RLE)
    assert encoded.description.high_bit == 11
    assert np.array_equal(decode_frame(encoded.description, syntaxes.RLE, encoded.data).array, values)


@pytest.mark.parametrize(
    ("description", "uid"),
    [
        (PixelDescription(1, 1, bits_allocated=32, bits_stored=32, high_bit=31, floating=True), syntaxes.RLE),
        (PixelDescription(1, 1, bits_allocated=1, bits_stored=1, high_bit=0), syntaxes.JPEG_LS),
        (PixelDescription(1, 1, photometric_interpretation="PALETTE COLOR"), syntaxes.JPEG_2000),
        (PixelDescription(1, 1), syntaxes.JPEG_LOSSLESS_SV1),
        (PixelDescription(31, 64), syntaxes.JPEG_2000),
    ],
)
def test_what_cannot_be_encoded_is_said_so(description: PixelDescription, uid: str) -> None:
    assert not encodable(uid, description)
    with pytest.raises(MissingCodec):
        encode_frame(Decoded(np.zeros((1, 1), "u1"), description), uid)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (10, 10), (31, 40), (33, 32)])
@pytest.mark.parametrize("uid", [uid for uid in syntaxes.COMPRESSED if encodable(uid)])
def test_noise_of_any_size_is_encoded_or_refused(shape: tuple[int, int], uid: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, shape, dtype="u1")
    description = PixelDescription(*shape)
    try:
        encoded = encode_frame(Decoded(values, description), uid)
    except (MissingCodec, NotAcceptable):
        assert min(shape) < 32
        return
    back = decode_frame(encoded.description, uid, encoded.data)
    assert uid in syntaxes.LOSSY or np.array_equal(back.array, values)
