"""Small pictures, quickly: what they do not show is not decoded where the codec allows that, and neighbours are
averaged before the window instead of behind it where that looks the same."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb_server.codec.decode import Decoded, decode_frame, values_alone
from dicomweb_server.codec.grey import GreyPipeline, Table, grey_pipeline
from dicomweb_server.codec.options import RenderOptions, Window
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import OVERLAY_ROWS
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
    smaller, pipeline = _thinned(decoded, side), None
    if smaller.array.ndim == 2 and full.photometric_interpretation != "PALETTE COLOR":
        pipeline = grey_pipeline(flat, smaller.description, window=None)
        if max(smaller.array.shape) >= 2 * side and _is_plain(flat, smaller.description, pipeline):
            smaller = _averaged(smaller, side)
    resized = (smaller.description.rows, smaller.description.columns) != (full.rows, full.columns)
    if resized and not OVERLAY_ROWS.isdisjoint(flat):
        # Overlays go with the full grid.
        flat = {tag: value for tag, value in flat.items() if not tag.startswith("60")}
    limit = min(side, max(full.rows, full.columns))
    image = render_frame(flat, smaller, options=RenderOptions(rows=limit, columns=limit), pipeline=pipeline)
    return to_bytes(image, "image/jpeg", quality=_QUALITY)


def _thinned(decoded: Decoded, side: int) -> Decoded:
    """Every n-th pixel of a large image: enough to be averaged."""
    step = max(decoded.array.shape[:2]) // (4 * side)
    return _resized(decoded, decoded.array[::step, ::step]) if step > 1 else decoded


def _averaged(decoded: Decoded, side: int) -> Decoded:
    """Grey pixels averaged two by two, while they are twice as many as are shown, or more than four times."""
    alone = values_alone(decoded)
    array = alone.array
    longest = max(array.shape)
    while longest in (2 * side, 4 * side) or longest > 4 * side:
        if array.shape[0] % 2 or array.shape[1] % 2:
            break
        array = _halved(array, decoded.description.bits_stored)
        longest //= 2
    return _resized(alone, array)


def _is_plain(flat: Attributes, description: PixelDescription, pipeline: GreyPipeline) -> bool:
    """Whether values in between mean something in between: a window, and no tables, labels, padding or overlays."""
    if description.bits_stored == 1 or description.bits_allocated > 16 or description.floating:
        return False
    return (
        OVERLAY_ROWS.isdisjoint(flat)
        and isinstance(pipeline.voi, Window)
        and not isinstance(pipeline.modality, Table)
        and pipeline.padding is None
        and pipeline.presentation is None
    )


def _halved(array: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    wide = np.dtype(f"{array.dtype.kind}{2 if bits_stored <= 14 else 4}")
    rows = np.add(array[::2], array[1::2], dtype=wide)
    total: NDArray[Any] = rows[:, ::2] + rows[:, 1::2]
    total += 2
    total >>= 2
    return total.astype(array.dtype, copy=False)


def _resized(decoded: Decoded, array: NDArray[Any]) -> Decoded:
    return Decoded(array, replace(decoded.description, rows=array.shape[0], columns=array.shape[1]))
