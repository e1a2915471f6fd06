"""Overlay planes (PS3.3 C.9.2), from their own data or from unused bits of the pixels, drawn in white."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.presentation import OVERLAY_ROWS, binary
from dicomweb_server.dicom.json_model import Attributes, first_int


def burn_overlays(
    picture: NDArray[np.uint8], attributes: Attributes, decoded: Decoded, part: tuple[slice, slice]
) -> NDArray[np.uint8]:
    """The picture of that part of the frame with all overlays of the frame; a new one where there are any."""
    copied = False
    for group in sorted(rows[:4] for rows in OVERLAY_ROWS & attributes.keys()):
        mask = _plane(attributes, group, decoded)
        if mask is None:
            continue
        placed = _placed(mask, attributes, group, decoded)[part]
        if not placed.any():
            continue
        if not copied:
            picture, copied = picture.copy(), True
        picture[placed] = 255
    return picture


def _plane(attributes: Attributes, group: str, decoded: Decoded) -> NDArray[np.bool_] | None:
    rows, columns = (first_int(attributes, group + part) or 0 for part in ("0010", "0011"))
    if rows <= 0 or columns <= 0:
        return None
    data = binary(attributes.get(f"{group}3000"))
    if data:
        if len(data) * 8 < rows * columns:
            return None
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=rows * columns, bitorder="little")
        return bits.reshape(rows, columns).astype(bool)
    return _embedded(first_int(attributes, f"{group}0102") or 0, rows, columns, decoded)


def _embedded(position: int, rows: int, columns: int, decoded: Decoded) -> NDArray[np.bool_] | None:
    """Retired: a bit of each pixel cell that Bits Stored leaves free."""
    array, description = decoded
    lowest = description.high_bit + 1 - description.bits_stored
    free = not lowest <= position <= description.high_bit and 0 < position < description.bits_allocated
    if not free or description.floating or array.shape != (rows, columns):
        return None
    codes: NDArray[Any] = array.view(f"u{array.dtype.itemsize}")
    bit = codes >> np.array(position, codes.dtype) & np.array(1, codes.dtype)
    return np.asarray(bit, bool)


def _placed(mask: NDArray[np.bool_], attributes: Attributes, group: str, decoded: Decoded) -> NDArray[np.bool_]:
    """The plane on the grid of the image: Overlay Origin is the place of its first pixel, from 1."""
    rows, columns = decoded.description.rows, decoded.description.columns
    origin: list[Any] = attributes.get(f"{group}0050", {}).get("Value") or []
    top, left = (origin[0] - 1, origin[1] - 1) if len(origin) == 2 and all(map(_whole, origin)) else (0, 0)
    if (top, left) == (0, 0) and mask.shape == (rows, columns):
        return mask
    out = np.zeros((rows, columns), bool)
    inside = mask[max(0, -top) : max(0, rows - top), max(0, -left) : max(0, columns - left)]
    out[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    return out


def _whole(value: object) -> bool:
    return isinstance(value, int)
