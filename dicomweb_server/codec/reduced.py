"""A frame decoded at a half, a quarter and so on of its size: JPEG 2000 holds an image in such steps (ISO 15444-1 B.5),
and the last of them is most of the work."""

import io
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Jpeg2KImagePlugin, features

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.codestream import Coding, check_codestream, jpeg_2000_coding
from dicomweb_server.codec.decode import Decoded, sample_type
from dicomweb_server.codec.pixels import PixelDescription

_TRANSFORMED: Final = frozenset({"YBR_RCT", "YBR_ICT"})


def decode_reduced(
    description: PixelDescription, transfer_syntax_uid: str, frame: bytes, *, side: int
) -> Decoded | None:
    """The frame with its longer side at least this long, and less than twice as long where the codestream can do that.

    None where that is no less work than the whole, or not known to give the same values: decode the whole then, which
    also tells what is wrong with a damaged frame. Raises BadPixels for a size that the object does not describe.
    """
    description.check()
    if transfer_syntax_uid not in syntaxes.JPEG_2000_SYNTAXES or not features.check_codec("jpg_2000"):
        return None
    check_codestream(description, transfer_syntax_uid, frame)
    coding = jpeg_2000_coding(frame)
    if coding is None or not _is_taken(description, coding):
        return None
    steps = min(coding.steps, (max(description.rows, description.columns) // side).bit_length() - 1)
    if steps < 1:
        return None
    try:
        with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(frame[coding.start :])) as image:
            image.reduce = steps
            found: NDArray[Any] = np.asarray(image)
    except Exception:
        return None
    array = _values(found, description, coding.bits)
    label = description.photometric_interpretation
    reduced = replace(
        description.interleaved("RGB" if label in _TRANSFORMED else label),
        rows=array.shape[0],
        columns=array.shape[1],
        high_bit=description.bits_stored - 1,
    )
    return Decoded(array, reduced)


def _is_taken(description: PixelDescription, coding: Coding) -> bool:
    """Whether Pillow gives the samples themselves: grey of any depth, or colours of 8 bits. Single bits are labels."""
    if coding.subsampled or coding.signed != description.signed or description.bits_stored == 1:
        return False
    if description.samples == 1:
        return description.bits_allocated <= 16 and coding.bits <= description.bits_allocated
    return description.samples == 3 and coding.bits == 8 and not coding.signed


def _values(found: NDArray[Any], description: PixelDescription, bits: int) -> NDArray[Any]:
    """Pillow fills 8 or 16 bits with what it decodes, and moves signed values up so that none is negative."""
    if description.samples != 1:
        return found
    values = found >> (8 * found.dtype.itemsize - bits)
    if description.signed:
        values = values.astype(np.int32) - (1 << bits - 1)
    return values.astype(sample_type(description), copy=False)
