"""ICC profiles: those of objects, and the colour spaces that PS3.18 8.3.5.1.5 names, made here by their definitions.

That section makes no exception for grey pictures. A grey file takes a profile for grey only (ICC.1 8.4.4), so they get
one with the curve of the space. A profile of the object is for colours (PS3.3 C.11.15.1.1), and grey values go through
none (PS3.4 N.2.2.1): they are taken as those of sRGB, as browsers show them.
"""

import io
import struct
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Point = tuple[float, float]

_D65: Final = (0.3127, 0.3290)
_D50: Final = (0.3457, 0.3585)
_PCS_WHITE: Final = (0.9642, 1.0, 0.8249)
_BRADFORD: Final = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


class _Space(NamedTuple):
    """gamma, a, b, c, d: of the parametric curve of ICC.1 10.18, type 3."""

    name: str
    red: Point
    green: Point
    blue: Point
    white: Point
    curve: tuple[float, float, float, float, float]


_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_SPACES: Final = {
    "srgb": _Space("sRGB", (0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65, _SRGB_CURVE),
    "adobergb": _Space(
        "Adobe RGB (1998)", (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65, (563 / 256, 1.0, 0.0, 0.0, 0.0)
    ),
    "rommrgb": _Space(
        "ROMM RGB", (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001), _D50, (1.8, 1.0, 0.0, 1 / 16, 0.03125)
    ),
    "displayp3": _Space("Display P3", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65, _SRGB_CURVE),
}


def apply_profile(image: Image.Image, stored: bytes, wanted: str) -> tuple[Image.Image, bytes | None]:
    """The image in the wanted space, and the profile to put into its file.

    stored: the profile of the object; without one its colours are taken as sRGB. A damaged one is left aside.
    """
    if wanted == "no":
        return image, None
    if image.mode != "RGB":
        name = "srgb" if wanted == "yes" else wanted
        return image.point(_grey_table(name)), grey_profile(name)
    source = _readable(stored)
    if wanted == "yes":
        return image, stored if source is not None else profile("srgb")
    target = profile(wanted)
    if source is None and wanted == "srgb":
        return image, target
    from_profile = source or ImageCms.ImageCmsProfile(io.BytesIO(profile("srgb")))
    to_profile = ImageCms.ImageCmsProfile(io.BytesIO(target))
    try:
        converted = ImageCms.profileToProfile(image, from_profile, to_profile, outputMode="RGB")
    except ImageCms.PyCMSError:
        return image, target
    return converted or image, target


@lru_cache(maxsize=8)
def profile(name: str) -> bytes:
    """An ICC profile, version 4, with three primaries and one curve (ICC.1 8.3)."""
    space = _SPACES[name]
    matrix = _to_pcs(space)
    return _file(
        b"RGB ",
        {
            **_common(space, space.name),
            **{tag: _xyz(tuple(matrix[:, index])) for index, tag in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
            **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(space)),
        },
    )


@lru_cache(maxsize=8)
def grey_profile(name: str) -> bytes:
    """The same for grey pictures: the curve alone (ICC.1 8.4.4)."""
    space = _SPACES[name]
    return _file(b"GRAY", {**_common(space, f"{space.name}, grey"), b"kTRC": _curve(space)})


def of_colours(grey: bytes) -> bytes:
    """The profile for colours of the same space, for files that know no grey."""
    return next(profile(name) for name in _SPACES if grey_profile(name) == grey)


@lru_cache(maxsize=8)
def _grey_table(name: str) -> list[int]:
    """From grey values of sRGB to those of the space that are as light."""
    values = np.arange(256) / 255
    power, scale, shift, slope, knee = _SRGB_CURVE
    light = np.where(values >= knee, (scale * values + shift) ** power, slope * values)
    power, scale, shift, slope, knee = _SPACES[name].curve
    lowest = slope * knee  # the light up to which the curve is a line
    line = light / slope if slope else light
    found = np.where(light >= lowest, (light ** (1 / power) - shift) / scale, line)
    table: list[int] = np.floor(np.clip(found, 0, 1) * 255 + 0.5).astype(int).tolist()
    return table


def _common(space: _Space, name: str) -> dict[bytes, bytes]:
    adaptation = _adaptation(space.white)
    return {
        b"desc": _text(name),
        b"cprt": _text("No copyright"),
        b"wtpt": _xyz(_PCS_WHITE),
        b"chad": b"sf32" + bytes(4) + b"".join(_fixed(float(number)) for number in adaptation.reshape(-1)),
    }


def _curve(space: _Space) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + b"".join(_fixed(number) for number in space.curve)


def _file(colours: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I4xI4s4s4s", size, 0x04200000, b"mntr", colours, b"XYZ ")
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += b"".join(_fixed(number) for number in _PCS_WHITE)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _readable(stored: bytes) -> "ImageCms.ImageCmsProfile | None":
    if not stored:
        return None
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(stored))
    except (OSError, ImageCms.PyCMSError, TypeError, ValueError):
        return None
    return found if found.profile.xcolor_space.strip() == "RGB" else None


def _white_xyz(white: Point) -> NDArray[np.float64]:
    x, y = white
    return np.array((x / y, 1.0, (1 - x - y) / y))


def _adaptation(white: Point) -> NDArray[np.float64]:
    """Bradford's matrix from this white to that of the profile connection space."""
    cone = np.array(_BRADFORD)
    gains = cone @ np.array(_PCS_WHITE) / (cone @ _white_xyz(white))
    found: NDArray[np.float64] = np.linalg.inv(cone) @ np.diag(gains) @ cone
    return found


def _to_pcs(space: _Space) -> NDArray[np.float64]:
    primaries = np.stack([_white_xyz(point) for point in (space.red, space.green, space.blue)], axis=1)
    weights = np.linalg.solve(primaries, _white_xyz(space.white))
    found: NDArray[np.float64] = _adaptation(space.white) @ (primaries * weights)
    return found


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(float(value)) for value in values)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data
