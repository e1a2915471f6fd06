"""Which part of an image is shown, and how large: pixel aspect ratio, viewport, region, rows and columns."""

from math import ceil, floor
from typing import Any, Final, NamedTuple

from dicomweb_server.codec.options import RenderOptions
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.dicom.json_model import Attributes
from dicomweb_server.errors import BadRequest

_MAX_ASPECT: Final = 32.0
_SPACINGS: Final = ("00280034", "00280030", "00181164", "00182010")
"""Pixel Aspect Ratio, and the spacings that give it where it is absent (PS3.3 C.7.6.3.1.7)."""
_MAX_SIDE: Final = 65500


class Geometry(NamedTuple):
    """rows, columns: the part of the image; width, height: of the picture made from it."""

    rows: slice
    columns: slice
    width: int
    height: int

    @property
    def part(self) -> tuple[slice, slice]:
        """To take the part out of an array."""
        return self.rows, self.columns

    @property
    def scaled(self) -> bool:
        """Whether the picture has another size than the part."""
        return (self.width, self.height) != (self.columns.stop - self.columns.start, self.rows.stop - self.rows.start)


def plan(attributes: Attributes, description: PixelDescription, options: RenderOptions) -> Geometry:
    """The geometry for a frame. Raises BadRequest where a part was asked for that the image does not have."""
    left, top, width, height = _source(description, options)
    columns = slice(floor(left), min(description.columns, ceil(left + width)))
    rows = slice(floor(top), min(description.rows, ceil(top + height)))
    ratio = aspect_ratio(attributes)
    shown_width = (columns.stop - columns.start) * max(1.0, 1 / ratio)
    shown_height = (rows.stop - rows.start) * max(1.0, ratio)
    scale = _scale(shown_width, shown_height, options)
    if scale is None:
        scale = min(1.0, _MAX_SIDE / max(shown_width, shown_height))
    return Geometry(rows, columns, max(1, round(shown_width * scale)), max(1, round(shown_height * scale)))


def aspect_ratio(attributes: Attributes) -> float:
    """How much higher than wide a pixel is; 1 where nothing useful is said."""
    for tag in _SPACINGS:
        values: list[Any] = attributes.get(tag, {}).get("Value") or []
        if len(values) == 2 and all(isinstance(value, int | float) and value > 0 for value in values):
            ratio = float(values[0]) / float(values[1])
            # Spacings are rounded: a difference that no pixel shows is none.
            return 1.0 if abs(ratio - 1) < 0.001 or not 1 / _MAX_ASPECT < ratio < _MAX_ASPECT else ratio
    return 1.0


def _source(description: PixelDescription, options: RenderOptions) -> tuple[float, float, float, float]:
    """Left, top, width and height of the part, in pixels of the image."""
    columns, rows = description.columns, description.rows
    if options.viewport is not None:
        view = options.viewport
        if view.x >= columns or view.y >= rows:
            raise BadRequest("the source rectangle of the viewport lies outside of the image")
        width = view.source_width or columns - view.x
        height = view.source_height or rows - view.y
        if view.x + width > columns + 1e-6 or view.y + height > rows + 1e-6:
            raise BadRequest("the source rectangle of the viewport reaches beyond the image")
        return view.x, view.y, width, height
    if options.region is not None:
        left, top, right, bottom = options.region
        return left * columns, top * rows, (right - left) * columns, (bottom - top) * rows
    return 0.0, 0.0, float(columns), float(rows)


def _scale(width: float, height: float, options: RenderOptions) -> float | None:
    turned = options.rotation in (90, 270)
    box_width, box_height = options.columns, options.rows
    if options.viewport is not None:
        box_width, box_height = options.viewport.width, options.viewport.height
    if turned:
        box_width, box_height = box_height, box_width
    limits = [box / side for box, side in ((box_width, width), (box_height, height)) if box is not None]
    return min(limits) if limits else None
