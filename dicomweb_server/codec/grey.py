"""Grey values: from stored values by the modality LUT, the VOI LUT and the presentation LUT shape to 8 bits.

PS3.3 C.11.1 (modality), C.11.2 (values of interest), C.11.6 and C.7.6.3.1.2 (inversion), C.7.5.1.1.2 (padding). Stored
values of up to 16 bits go through one table with an entry for each; the table takes the whole pipeline in.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dicomweb_server.codec.colour import table_values
from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.options import Window, WindowFunction
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import binary, items
from dicomweb_server.dicom.json_model import Attributes, first_value
from dicomweb_server.errors import BadPixels

Floats = NDArray[np.float64]

LARGEST: Final = 1e30
"""Of the numbers in attributes, as in options."""


class Table(NamedTuple):
    """A LUT (PS3.3 C.11.1.1): values below `first` get its first entry, those behind the end its last."""

    first: int
    entries: NDArray[np.uint16]
    bits: int

    def __call__(self, values: Floats) -> Floats:
        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1).astype(np.int64)
        found: Floats = self.entries[places].astype(np.float64)
        return found


class Padding(NamedTuple):
    """Stored values from `low` to `high` are no part of the image."""

    low: float
    high: float


class Line(NamedTuple):
    """A window as a multiplication and an addition, where that gives what the table gives, in half the time. low, high:
    the stored values that it was compared for."""

    slope: np.float32
    offset: np.float32
    inverted: bool
    low: int
    high: int

    def covers(self, array: NDArray[Any]) -> bool:
        """Whether all values are between the limits; they are not where bits lie beside the stored ones."""
        return int(array.max(initial=self.low)) <= self.high and int(array.min(initial=self.high)) >= self.low

    def __call__(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        shown = array.astype(np.float32)
        shown *= self.slope
        shown += self.offset
        np.clip(shown, 0, 255, out=shown)
        out = shown.astype(np.uint8)
        if self.inverted:
            np.subtract(255, out, out=out)
        return out


class GreyPipeline(NamedTuple):
    """modality: slope and intercept, or a table. voi: a window, a table, or None for the range of the pixels.
    presentation: a table from the output of the VOI LUT, full scale, to P-values."""

    modality: Table | tuple[float, float]
    voi: Table | Window | None
    inverted: bool
    padding: Padding | None
    presentation: Table | None


def grey_pipeline(attributes: Attributes, description: PixelDescription, *, window: Window | None) -> GreyPipeline:
    """What the flat attributes of a frame say; a `window` that was asked for goes before those of the instance."""
    shape = first_value(attributes, "20500020")
    return GreyPipeline(
        _modality(attributes),
        window or _values_of_interest(attributes),
        description.photometric_interpretation == "MONOCHROME1" or shape == "INVERSE",
        _padding(attributes, description),
        next(map(_read_table, items(attributes, "20500010")), None),
    )


def to_grey(decoded: Decoded, pipeline: GreyPipeline, part: tuple[slice, slice] | None = None) -> NDArray[np.uint8]:
    """The pixels, or that part of them, as 8-bit grey values with 0 for black.

    Without a window the darkest and the brightest pixel of the whole frame, padding left aside, are black and white.
    """
    array, description = decoded
    shown = array if part is None else array[part]
    if description.floating or description.bits_allocated > 16:
        return _computed(array, shown, description, pipeline)
    codes = np.uint8 if array.dtype.itemsize == 1 else np.uint16
    has_tables = isinstance(pipeline.modality, Table) or pipeline.presentation is not None
    if isinstance(pipeline.voi, Window) and not has_tables:
        kind = _kind(description)
        line = _kept_line(kind, pipeline)
        if line is not None and line.covers(shown):
            return line(shown)
        table = _kept_table(kind, pipeline)
    else:
        from_pixels = pipeline.voi is None and description.bits_stored > 1
        table = _table(description, pipeline, array.view(codes) if from_pixels else None)
    return table.take(shown.view(codes))


def stored_values(description: PixelDescription) -> Floats:
    """The value that each code of 8 or 16 allocated bits stands for: bits outside of Bits Stored do not count."""
    stored, high = description.bits_stored, description.high_bit
    return _stored_values(max(8, description.bits_allocated), stored, high, description.signed)


@lru_cache(maxsize=16)
def _stored_values(bits_allocated: int, bits_stored: int, high_bit: int, signed: bool) -> Floats:
    values = np.arange(1 << bits_allocated) >> max(high_bit + 1 - bits_stored, 0) & (1 << bits_stored) - 1
    if signed:
        values = np.where(values >> (bits_stored - 1), values - (1 << bits_stored), values)
    return values.astype(np.float64)


def _kind(description: PixelDescription) -> PixelDescription:
    """What decides about a table for a window and a slope, which is the same for all images of most series."""
    return PixelDescription(
        1,
        1,
        bits_allocated=description.bits_allocated,
        bits_stored=description.bits_stored,
        high_bit=description.high_bit,
        signed=description.signed,
    )


@lru_cache(maxsize=64)
def _kept_table(kind: PixelDescription, pipeline: GreyPipeline) -> NDArray[np.uint8]:
    return _table(kind, pipeline, None)


@lru_cache(maxsize=64)
def _kept_line(kind: PixelDescription, pipeline: GreyPipeline) -> Line | None:
    """The line that gives what `_kept_table` gives for every value; None where none does."""
    window, modality = pipeline.voi, pipeline.modality
    if (
        not isinstance(window, Window)
        or isinstance(modality, Table)
        or window.function not in (WindowFunction.LINEAR, WindowFunction.LINEAR_EXACT)
        or window.width <= 1
        or pipeline.padding is not None
        or kind.bits_allocated != 16
        or kind.high_bit != kind.bits_stored - 1
    ):
        return None
    ends = windowed(_by_modality(np.array([0.0, 1.0]), modality), window)
    top = 1 << kind.bits_stored
    low, high = (-(top >> 1), (top >> 1) - 1) if kind.signed else (0, top - 1)
    line = Line(np.float32(ends[1] - ends[0]), np.float32(ends[0] + 0.5), pipeline.inverted, low, high)
    values = np.arange(low, high + 1)
    same = np.array_equal(line(values), _kept_table(kind, pipeline).take(values & 0xFFFF))
    return line if same else None


def _table(description: PixelDescription, pipeline: GreyPipeline, whole: NDArray[Any] | None) -> NDArray[np.uint8]:
    values = stored_values(description)
    padded = _padded(values, pipeline.padding)
    modal = _by_modality(values, pipeline.modality)
    limits = (0.0, 1.0)
    if whole is not None:
        occurring = np.bincount(whole.reshape(-1), minlength=len(values)) > 0
        if padded is None:
            limits = _limits(modal[occurring])
        else:
            limits = _limits(modal[occurring & ~padded], beside_padding=bool((occurring & padded).any()))
    return _finished(modal, padded, pipeline, limits)


def _computed(
    array: NDArray[Any], shown: NDArray[Any], description: PixelDescription, pipeline: GreyPipeline
) -> NDArray[np.uint8]:
    """Without a table: 32 and 64 bits, and floating point numbers."""
    limits = (0.0, 1.0)
    if pipeline.voi is None:
        whole = array.astype(np.float64)
        padded = _padded(whole, pipeline.padding)
        usable = np.isfinite(whole) if padded is None else np.isfinite(whole) & ~padded
        limits = _limits(_by_modality(whole[usable], pipeline.modality), beside_padding=not usable.all())
    values = shown.astype(np.float64)
    odd = ~np.isfinite(values)
    padded = _padded(values, pipeline.padding)
    if odd.any():
        values[odd] = 0.0
        padded = odd if padded is None else odd | padded
    return _finished(_by_modality(values, pipeline.modality), padded, pipeline, limits)


def _limits(present: Floats, *, beside_padding: bool = False) -> tuple[float, float]:
    """The values for black and white. One value alone is black, but beside padding white: a label on its background."""
    if not present.size:
        return 0.0, 1.0
    low, high = float(present.min()), float(present.max())
    return (low - 1.0, high) if beside_padding and low == high else (low, high)


def _spread(modal: Floats, low: float, high: float) -> Floats:
    """From 0 for black to 255 for white."""
    if high <= low:
        return np.zeros_like(modal)
    if high - low > 1e300:  # pixels can be doubles: 255 times the difference must not overflow
        modal, low, high = modal / 1024, low / 1024, high / 1024
    return (modal - low) * 255.0 / (high - low)


def _finished(
    modal: Floats, padded: NDArray[np.bool_] | None, pipeline: GreyPipeline, limits: tuple[float, float]
) -> NDArray[np.uint8]:
    voi = pipeline.voi
    if isinstance(voi, Table):
        shown = voi(modal) * 255.0 / ((1 << voi.bits) - 1)
    elif voi is not None:
        shown = windowed(modal, voi)
    else:
        shown = _spread(modal, *limits)
    np.clip(shown, 0, 255, out=shown)
    if pipeline.presentation is not None:
        final = pipeline.presentation
        shown = final(shown * (len(final.entries) - 1) / 255.0 + final.first) * 255.0 / ((1 << final.bits) - 1)
    out = np.floor(shown + 0.5).astype(np.uint8)
    if pipeline.inverted:
        np.subtract(255, out, out=out)
    if padded is not None:
        out[padded] = 0
    return out


# The steps


def windowed(values: Floats, window: Window) -> Floats:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output from 0 to 255 that may lie outside."""
    return _FUNCTIONS[window.function](values, window.center, window.width)


def _linear(values: Floats, center: float, width: float) -> Floats:
    if width <= 1:
        return np.where(values <= center - 0.5, 0.0, 255.0)
    return (values - (center - 0.5)) * 255.0 / (width - 1) + 127.5


def _linear_exact(values: Floats, center: float, width: float) -> Floats:
    return (values - center) * 255.0 / width + 127.5


def _sigmoid(values: Floats, center: float, width: float) -> Floats:
    exponent = np.clip((values - center) * (-4.0 / width), -700, 700)
    return 255.0 / (1.0 + np.exp(exponent))


_FUNCTIONS: Final[dict[WindowFunction, Callable[[Floats, float, float], Floats]]] = {
    WindowFunction.LINEAR: _linear,
    WindowFunction.LINEAR_EXACT: _linear_exact,
    WindowFunction.SIGMOID: _sigmoid,
}


def _by_modality(values: Floats, modality: Table | tuple[float, float]) -> Floats:
    if isinstance(modality, Table):
        return modality(values)
    slope, intercept = modality
    return values * slope + intercept


def _padded(values: Floats, padding: Padding | None) -> NDArray[np.bool_] | None:
    if padding is None:
        return None
    return (values >= padding.low) & (values <= padding.high)


# From the attributes


def _modality(attributes: Attributes) -> Table | tuple[float, float]:
    for item in items(attributes, "00283000")[:1]:
        return _read_table(item)
    slope, intercept = _number(attributes, "00281053"), _number(attributes, "00281052")
    return slope or 1.0, intercept or 0.0


def _values_of_interest(attributes: Attributes) -> Table | Window | None:
    for item in items(attributes, "00283010")[:1]:
        return _read_table(item)
    center, width = _number(attributes, "00281050"), _number(attributes, "00281051")
    if center is None or width is None or width <= 0:
        return None
    name = first_value(attributes, "00281056")
    function = WindowFunction(name) if name in set(WindowFunction) else WindowFunction.LINEAR
    if function is WindowFunction.LINEAR and width < 1:
        function = WindowFunction.LINEAR_EXACT
    return Window(center, width, function)


def _padding(attributes: Attributes, description: PixelDescription) -> Padding | None:
    tags = ("00280120", "00280121")
    if description.floating:
        tags = ("00280122", "00280124") if description.bits_allocated == 32 else ("00280123", "00280125")
    value, limit = (_number(attributes, tag) for tag in tags)
    if value is None:
        return None
    ends = [_as_stored(end, description) for end in (value, value if limit is None else limit)]
    return Padding(min(ends), max(ends))


def _as_stored(value: float, description: PixelDescription) -> float:
    """A padding value written as unsigned although the pixels are signed, or the other way round."""
    top = 1 << description.bits_stored
    if description.floating:
        return value
    if description.signed and value >= top >> 1:
        return value - (1 << description.bits_allocated if value >= top else top)
    if not description.signed and value < 0:
        return value + (1 << description.bits_allocated)
    return value


def _read_table(item: Attributes) -> Table:
    """An item of Modality LUT or VOI LUT Sequence."""
    descriptor: list[Any] = item.get("00283002", {}).get("Value") or []
    if len(descriptor) != 3 or not all(isinstance(number, int) for number in descriptor):
        raise BadPixels("a look-up table is not described")
    entries, first, bits = descriptor
    values = table_values(binary(item.get("00283006")), entries or 65536, bits)[: entries or 65536]
    if not len(values) or not 0 < bits <= 16:
        raise BadPixels("a look-up table has no data")
    return Table(first, values, bits)


def _number(attributes: Attributes, tag: str) -> float | None:
    value = first_value(attributes, tag)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) <= LARGEST else None  # what is larger means nothing, and would overflow
