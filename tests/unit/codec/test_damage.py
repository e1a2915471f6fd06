"""Damaged frames of compressed transfer syntaxes, through the pool: a picture or BadPixels, whatever a decoder does.

DAMAGED_FRAMES says how many of each are tried; a handful by default, some hundred to look for what nobody has seen yet.
"""

import os
import random
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.encode import encode_frame
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.errors import BadPixels, MissingCodec
from tests.unit.codec.files import noise, sample

FRAMES = int(os.environ.get("DAMAGED_FRAMES", "8"))
SECONDS = 20.0
OF_SAMPLES = {
    syntaxes.JPEG_LOSSLESS_SV1: "SC_rgb_jpeg_gdcm.dcm",
    syntaxes.JPEG_EXTENDED: "JPEG-lossy.dcm",
}

OF_ENCODERS = (
    syntaxes.RLE,
    syntaxes.JPEG_BASELINE,
    syntaxes.JPEG_LS,
    syntaxes.JPEG_LS_NEAR,
    syntaxes.JPEG_2000_LOSSLESS,
    syntaxes.JPEG_2000,
    syntaxes.HTJ2K_LOSSLESS,
)


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    made = CodecPool(processes=1, timeout_seconds=SECONDS, memory_bytes=2 << 30)
    yield made
    made.close()


def _intact(uid: str) -> tuple[PixelDescription, bytes]:
    if uid in OF_SAMPLES:
        item = sample(OF_SAMPLES[uid])
        return item.description, item.frame()
    smooth = np.add.outer(np.arange(96), np.arange(128)) // 2 + noise((96, 128), "u1", high=6)
    encoded = encode_frame(Decoded(smooth.astype(np.uint8), PixelDescription(96, 128)), uid)
    return encoded.description, encoded.data


def _damaged(frame: bytes, rng: random.Random) -> bytes:
    data = bytearray(frame)
    kind, place = rng.randrange(5), rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.choice((1, 2, 5, 50))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # the headers
        for _ in range(rng.choice((1, 2, 5))):
            data[rng.randrange(min(len(data), 400))] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    elif kind == 2:
        length = rng.randrange(1, len(data) - place + 1)
        data[place : place + length] = bytes([rng.choice((0, 255, rng.randrange(256)))]) * length
    elif kind == 3:
        data[place:] = rng.randbytes(len(data) - place)
    else:
        del data[place:]
    return bytes(data)


@pytest.mark.parametrize("uid", [*OF_SAMPLES, *OF_ENCODERS])
def test_a_damaged_frame_is_a_picture_or_bad_pixels(pool: CodecPool, uid: str) -> None:
    try:
        description, frame = _intact(uid)
    except MissingCodec as exc:
        pytest.skip(str(exc))
    whole = pool.decode(description, uid, frame).array.shape
    rng = random.Random(uid)  # the same damages each time
    for _ in range(FRAMES):
        with suppress(BadPixels):
            assert pool.decode(description, uid, _damaged(frame, rng)).array.shape == whole
    assert pool.decode(description, uid, frame).array.shape == whole
