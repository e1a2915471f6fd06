"""Small pictures, quickly: what they do not show is not decoded where the codec allows that, and neighbours are
averaged before the window instead of behind it where that looks the same."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb_server.codec.decode import Decoded, decode_frame, values_alone
from dicomweb_server.codec.grey import Table, grey_pipeline
from dicomweb_server.codec.options import RenderOptions, Window
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.reduced import decode_reduced
from dicomweb_server.codec.render import render_frame, to_bytes
from dicomweb_server.dicom.json_model import Attributes

THUMBNAIL_SIDE: Final = 256

_QUALITY: Final = 80


def thumbnail(flat: Attributes, transfer_syntax_uid: str, frame: bytes, *, side: int = THUMBNAIL_SIDE) -> bytes:
    """A JPEG of a frame that fits into a square of this many pixels, never larger than the image.

    flat: what `frame_attributes` gives. frame: as for `decode_frame`. Raises what that and `render_frame` do.
    """
    description = PixelDescription.from_attributes(flat)
    decoded = decode_reduced(description, transfer_syntax_uid, frame, side=side)
    if decoded is None:
        decoded = decode_frame(description, transfer_syntax_uid, frame)
    return small_picture(flat, decoded, full=description, side=side)


def small_picture(flat: Attributes, decoded: Decoded, *, full: PixelDescription, side: int = THUMBNAIL_SIDE) -> bytes:
    """The same of a decoded frame, which may have a fraction of the size that `full` tells."""
    smaller = _averaged(flat, _thinned(decoded, side), side)
    if (smaller.description.rows, smaller.description.columns) != (full.rows, full.columns):
        # Overlays go with the full grid.
        flat = {tag: value for tag, value in flat.items() if not tag.startswith("60")}
    limit = min(side, max(full.rows, full.columns))
    image = render_frame(flat, smaller, options=RenderOptions(rows=limit, columns=limit))
    return to_bytes(image, "image/jpeg", quality=_QUALITY)


def _thinned(decoded: Decoded, side: int) -> Decoded:
    """Every n-th pixel of a large image: enough to be averaged."""
    step = max(decoded.array.shape[:2]) // (4 * side)
    return _resized(decoded, decoded.array[::step, ::step]) if step > 1 else decoded


def _averaged(flat: Attributes, decoded: Decoded, side: int) -> Decoded:
    """Grey pixels averaged two by two, while they are twice as many as are shown, or more than four times."""
    longest = max(decoded.array.shape[:2])
    if longest < 2 * side or not _is_plain(flat, decoded):
        return decoded
    averaged = values_alone(decoded)
    while longest in (2 * side, 4 * side) or longest > 4 * side:
        if averaged.array.shape[0] % 2 or averaged.array.shape[1] % 2:
            break
        averaged = _resized(averaged, _halved(averaged.array, decoded.description.bits_stored))
        longest //= 2
    return averaged


def _is_plain(flat: Attributes, decoded: Decoded) -> bool:
    """Whether values in between mean something in between: a window, and no tables, labels, padding or overlays."""
    description = decoded.description
    if decoded.array.ndim != 2 or description.bits_stored == 1 or description.bits_allocated > 16:
        return False
    if description.photometric_interpretation == "PALETTE COLOR" or any(tag.startswith("60") for tag in flat):
        return False
    modality, voi, _, padding, presentation = grey_pipeline(flat, description, window=None)
    return isinstance(voi, Window) and not isinstance(modality, Table) and padding is None and presentation is None


def _halved(array: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    wide = np.dtype(f"{array.dtype.kind}{2 if bits_stored <= 14 else 4}")
    total = array[::2, ::2].astype(wide)
    for part in (array[1::2, ::2], array[::2, 1::2], array[1::2, 1::2], 2):
        total += part
    total >>= 2
    return total.astype(array.dtype, copy=False)


def _resized(decoded: Decoded, array: NDArray[Any]) -> Decoded:
    return Decoded(array, replace(decoded.description, rows=array.shape[0], columns=array.shape[1]))
