"""What a client can ask of a rendered image (PS3.18 8.3.5.1 and, for WADO-URI, 9.1.2.2), read and bounded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Final, NamedTuple

from dicomweb_server.errors import BadRequest, NotAcceptable

MAX_VIEWPORT: Final = 8192
"""The largest side of a viewport, in pixels."""
MAX_ANNOTATION_LINES: Final = 20
MAX_ANNOTATION_CHARACTERS: Final = 120

ICC_PROFILES: Final = ("no", "yes", "srgb", "adobergb", "rommrgb", "displayp3")
IMAGE_TYPES: Final = ("image/jpeg", "image/png", "image/gif", "image/webp")


class WindowFunction(StrEnum):
    """VOI LUT Function (PS3.3 C.11.2.1.2)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


class Window(NamedTuple):
    """center, width: in the units behind the modality LUT, Hounsfield units for example."""

    center: float
    width: float
    function: WindowFunction = WindowFunction.LINEAR


class Viewport(NamedTuple):
    """The picture fits into width x height. The source rectangle is in pixels of the image; without a size it reaches
    to the border. mirror_columns exchanges left and right, mirror_rows top and bottom."""

    width: int
    height: int
    x: float = 0.0
    y: float = 0.0
    source_width: float | None = None
    source_height: float | None = None
    mirror_columns: bool = False
    mirror_rows: bool = False


class Graphic(NamedTuple):
    """A drawing in pixels of the image, the centre of the first one being 1, 1. shape: of PS3.3 C.10.5.1.2, or TEXT."""

    shape: str
    points: tuple[tuple[float, float], ...]
    filled: bool = False
    text: str = ""


class Region(NamedTuple):
    """A part of the image, in fractions of its size from the top left corner."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """How a frame is shown.

    rows, columns: a box that the picture fits into. quality: 1 to 100, None for the usual. annotation: lines at the top
    left; technique: lines at the bottom left. overlays: draw those of the object, white. rotation: 0, 90, 180 or 270
    degrees clockwise, then mirrored from left to right if `flipped`. graphics: drawn in white.
    """

    window: Window | None = None
    viewport: Viewport | None = None
    region: Region | None = None
    rows: int | None = None
    columns: int | None = None
    quality: int | None = None
    annotation: tuple[str, ...] = ()
    technique: tuple[str, ...] = ()
    iccprofile: str = "no"
    overlays: bool = True
    rotation: int = 0
    flipped: bool = False
    graphics: tuple[Graphic, ...] = ()

    def __post_init__(self) -> None:
        for side in (self.rows, self.columns):
            if side is not None and not 0 < side <= MAX_VIEWPORT:
                raise BadRequest(f"rows and columns are whole numbers from 1 to {MAX_VIEWPORT}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise BadRequest("quality is a whole number from 1 to 100")
        if self.iccprofile not in ICC_PROFILES:
            raise BadRequest(f"iccprofile is one of {', '.join(ICC_PROFILES)}")
        if self.rotation not in (0, 90, 180, 270):
            raise BadRequest("a picture can be rotated by 0, 90, 180 or 270 degrees")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RenderOptions":
        """The inverse of `to_dict`, also after a way through JSON."""
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        options = cls(**plain)
        window, viewport, region = options.window, options.viewport, options.region
        return replace(
            options,
            window=window and Window(window[0], window[1], WindowFunction(window[2])),
            viewport=viewport and Viewport(*viewport),
            region=region and Region(*region),
            graphics=tuple(_graphic(graphic) for graphic in options.graphics),
        )


def parse_window(text: str) -> Window:
    """`center,width,function` (PS3.18 8.3.5.1.4); the function may be left out and has any case."""
    pieces = [piece.strip() for piece in text.split(",")]
    if len(pieces) not in (2, 3):
        raise BadRequest("window is center,width,function")
    name = (pieces[2] if len(pieces) == 3 and pieces[2] else "LINEAR").upper().replace("-", "_")
    if name not in set(WindowFunction):
        raise BadRequest("the function of a window is linear, linear-exact or sigmoid")
    return make_window(pieces[0], pieces[1], WindowFunction(name))


def make_window(center: str, width: str, function: WindowFunction = WindowFunction.LINEAR) -> Window:
    """A window from its numbers as text. Raises BadRequest for widths that the function does not have."""
    center_number, width_number = _number(center, "the center of a window"), _number(width, "the width of a window")
    if width_number <= 0 or (function is WindowFunction.LINEAR and width_number < 1):
        raise BadRequest("the width of a window is at least 1 if it is linear, and above 0 otherwise")
    return Window(center_number, width_number, function)


def parse_viewport(text: str) -> Viewport:
    """`vw,vh` or `vw,vh,sx,sy,sw,sh` (PS3.18 8.3.5.1.3); an empty piece of the source rectangle has its default, and a
    negative width or height mirrors."""
    pieces = [piece.strip() for piece in text.split(",")]
    if len(pieces) not in (2, 4, 6):
        raise BadRequest("viewport is vw,vh or vw,vh,sx,sy,sw,sh")
    width, height = (_side(piece) for piece in pieces[:2])
    numbers = [_number(piece, "a number of the viewport") if piece else None for piece in pieces[2:]]
    numbers += [None] * (4 - len(numbers))
    x, y, source_width, source_height = numbers
    if source_width == 0 or source_height == 0:
        raise BadRequest("the source rectangle of a viewport is empty")
    return Viewport(
        width,
        height,
        abs(x or 0.0),
        abs(y or 0.0),
        abs(source_width) if source_width else None,
        abs(source_height) if source_height else None,
        mirror_columns=bool(source_width and source_width < 0),
        mirror_rows=bool(source_height and source_height < 0),
    )


def parse_region(text: str) -> Region:
    """`xmin,ymin,xmax,ymax`, from 0 to 1 (PS3.18 9.1.2.2.3)."""
    pieces = text.split(",")
    if len(pieces) != 4:
        raise BadRequest("region is xmin,ymin,xmax,ymax")
    left, top, right, bottom = (_number(piece, "a number of the region") for piece in pieces)
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise BadRequest("region is a rectangle of fractions from 0 to 1")
    return Region(left, top, right, bottom)


def parse_side(text: str) -> int:
    """A number of rows or columns."""
    return _side(text)


def parse_quality(text: str) -> int:
    """`quality`, 1 to 100 (PS3.18 8.3.5.1.2)."""
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 100):
        raise BadRequest("quality is a whole number from 1 to 100")
    return int(text)


def check_media(media: str) -> str:
    """The media type of a picture that can be made here; NotAcceptable for others."""
    if media not in IMAGE_TYPES:
        raise NotAcceptable(f"images are rendered as {', '.join(IMAGE_TYPES)}", IMAGE_TYPES)
    return media


def _graphic(values: Any) -> Graphic:
    shape, points, filled, text = values
    return Graphic(shape, tuple((x, y) for x, y in points), filled, text)


def _side(text: str) -> int:
    plain = text.strip()
    if not (plain.isascii() and plain.isdigit() and len(plain) < 10 and 0 < int(plain) <= MAX_VIEWPORT):
        raise BadRequest(f"a picture has a size from 1 to {MAX_VIEWPORT} pixels")
    return int(plain)


def _number(text: str, what: str) -> float:
    plain = text.strip()
    try:
        number = float(plain) if plain.isascii() and len(plain) <= 40 and "_" not in plain else float("nan")
    except ValueError:
        number = float("nan")
    if not isfinite(number) or abs(number) > 1e30:
        raise BadRequest(f"{what} is a number")
    return number
