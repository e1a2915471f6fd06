"""Colours: YBR to RGB, palettes, and samples of any depth brought to 8 bits."""

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dicomweb_server.codec.presentation import binary
from dicomweb_server.dicom.json_model import Attributes
from dicomweb_server.errors import BadPixels

MAX_TABLE_ENTRIES: Final = 1 << 16

_RED_OF_CR: Final = 1.402
_GREEN_OF_CB: Final = -0.114 * 1.772 / 0.587
_GREEN_OF_CR: Final = -0.299 * 1.402 / 0.587
_BLUE_OF_CB: Final = 1.772


def ybr_to_rgb(array: NDArray[Any], label: str, bits_stored: int) -> NDArray[Any]:
    """Colours of YBR_FULL, or of YBR_PARTIAL for the retired partial range, as RGB (PS3.3 C.7.6.3.1.2)."""
    if array.ndim != 3 or array.shape[2] != 3:
        raise BadPixels("YBR colours need three samples for each pixel")
    if label not in ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL", "YBR_PARTIAL_422"):
        return array
    if array.dtype == np.uint8 and label.startswith("YBR_FULL"):
        return _full_8_bit(array)
    values = array.astype(np.float64)
    scale = float(1 << max(bits_stored - 8, 0))
    luma = values[..., 0]
    blue, red = (values[..., index] - 128 * scale for index in (1, 2))
    if label.startswith("YBR_PARTIAL"):
        luma = (luma - 16 * scale) * 255 / 219
        blue, red = blue * 255 / 224, red * 255 / 224
    out = np.stack(
        (luma + _RED_OF_CR * red, luma + _GREEN_OF_CB * blue + _GREEN_OF_CR * red, luma + _BLUE_OF_CB * blue), axis=-1
    )
    return np.clip(np.floor(out + 0.5), 0, (1 << bits_stored) - 1).astype(array.dtype)


@lru_cache(maxsize=1)
def _chroma_tables() -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """What chrominance adds to the luminance, rounded: as the luminance is whole, this is exact."""
    centred = np.arange(256) - 128.0
    red = np.floor(_RED_OF_CR * centred + 0.5).astype(np.int16)
    blue = np.floor(_BLUE_OF_CB * centred + 0.5).astype(np.int16)
    both = _GREEN_OF_CB * centred[:, None] + _GREEN_OF_CR * centred[None, :]
    return red, np.floor(both + 0.5).astype(np.int16).reshape(-1), blue


def _full_8_bit(array: NDArray[Any]) -> NDArray[Any]:
    red, green, blue = _chroma_tables()
    out = np.empty_like(array, order="C")
    luma = array[..., 0].astype(np.int16)
    pair = array[..., 1].astype(np.uint16)
    pair <<= 8
    pair |= array[..., 2]
    for channel, added in enumerate((red[array[..., 2]], green[pair], blue[array[..., 1]])):
        np.clip(added + luma, 0, 255, out=out[..., channel], casting="unsafe")
    return out


def to_8_bit(array: NDArray[Any], bits_stored: int) -> NDArray[np.uint8]:
    """Unsigned samples with this many bits as 8-bit ones, full scale to full scale."""
    if array.dtype == np.uint8 and bits_stored == 8:
        return array
    if array.dtype.itemsize == 1:
        return _scale_table(bits_stored, 256).take(array.view(np.uint8))
    if array.dtype.itemsize == 2:
        return _scale_table(bits_stored, 65536).take(array.view(np.uint16))
    scaled = np.clip(array.astype(np.float64), 0, None) * (255.0 / ((1 << bits_stored) - 1))
    out: NDArray[np.uint8] = np.floor(np.minimum(scaled, 255) + 0.5).astype(np.uint8)
    return out


@lru_cache(maxsize=8)
def _scale_table(bits_stored: int, entries: int) -> NDArray[np.uint8]:
    top = (1 << bits_stored) - 1
    table: NDArray[np.uint8] = np.floor((np.arange(entries) & top) * (255.0 / top) + 0.5).astype(np.uint8)
    return table


def palette(attributes: Attributes) -> tuple[int, NDArray[np.uint8]]:
    """The palette of an instance (PS3.3 C.7.6.3.1.5 and, segmented, C.7.9.2): the stored value of its first entry, and
    the entries as 8-bit RGB."""
    columns = []
    first = 0
    for index in range(3):
        descriptor: list[Any] = attributes.get(f"0028110{index + 1}", {}).get("Value") or []
        if len(descriptor) != 3 or not all(isinstance(number, int) for number in descriptor):
            raise BadPixels("the palette is not described")
        entries, first, bits = descriptor[0] or MAX_TABLE_ENTRIES, descriptor[1], descriptor[2]
        data = binary(attributes.get(f"0028120{index + 1}"))
        if data:
            values = table_values(data, entries, bits)
        else:
            values = _segmented(binary(attributes.get(f"0028122{index + 1}")), entries, bits)
        columns.append(_palette_column(values, entries, bits))
    return first, np.stack(columns, axis=-1)


def table_values(data: bytes, entries: int, bits: int) -> NDArray[np.uint16]:
    """The entries of a look-up table. Those with 8 bits are packed two in a word, or not (PS3.3 C.7.6.3.1.5)."""
    if not 0 < entries <= MAX_TABLE_ENTRIES:
        raise BadPixels("a look-up table has no entries, or too many")
    if bits <= 8 and len(data) < 2 * entries:
        return np.frombuffer(data, np.uint8).astype(np.uint16)
    return np.frombuffer(data, "<u2", len(data) // 2).astype(np.uint16)


def _palette_column(values: NDArray[np.uint16], entries: int, bits: int) -> NDArray[np.uint8]:
    if not len(values):
        raise BadPixels("the palette has no data")
    values = values[:entries]
    if len(values) < entries:
        values = np.concatenate((values, np.full(entries - len(values), values[-1], np.uint16)))
    if bits > 8 and int(values.max()) > 255:
        return (values >> 8).astype(np.uint8)
    return values.astype(np.uint8)


def _segmented(data: bytes, entries: int, bits: int) -> NDArray[np.uint16]:
    if not data:
        raise BadPixels("the palette has no data")
    words = np.frombuffer(data, np.uint8) if bits <= 8 else np.frombuffer(data, "<u2", len(data) // 2)
    out: list[int] = []
    try:
        _expand(words.tolist(), 0, len(words), entries, wide=bits > 8, out=out, nested=False)
    except IndexError as exc:
        raise BadPixels("a segmented palette is damaged") from exc
    return np.array(out[:entries], np.uint16)


def _expand(
    words: list[int], place: int, segments: int, entries: int, *, wide: bool, out: list[int], nested: bool
) -> None:
    """PS3.3 C.7.9.2: discrete, linear and indirect segments, until the table is full."""
    while segments > 0 and place + 1 < len(words) and len(out) < entries:
        code, length = words[place], words[place + 1]
        place, segments = place + 2, segments - 1
        if code == 0:
            out.extend(words[place : place + length])
            place += length
        elif code == 1:
            start, end = out[-1], words[place]
            out.extend(int(value) for value in np.around(np.linspace(start, end, length + 1))[1:])
            place += 1
        elif code == 2 and not nested:
            used = 2 if wide else 4
            numbers = words[place : place + used]
            target = numbers[0] | numbers[1] << 16 if wide else int.from_bytes(bytes(numbers), "little")
            _expand(words, target, length, entries, wide=wide, out=out, nested=True)
            place += used
        else:
            raise BadPixels("a segmented palette is damaged")
