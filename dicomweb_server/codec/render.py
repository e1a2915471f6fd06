"""From a decoded frame to a picture, and from pictures to a file."""

import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dicomweb_server.codec.colour import palette, to_8_bit, ybr_to_rgb
from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.geometry import Geometry, plan
from dicomweb_server.codec.graphics import draw_graphics
from dicomweb_server.codec.grey import GreyPipeline, grey_pipeline, stored_values, to_grey
from dicomweb_server.codec.icc import apply_profile, of_colours
from dicomweb_server.codec.options import (
    MAX_ANNOTATION_CHARACTERS,
    MAX_ANNOTATION_LINES,
    RenderOptions,
    Window,
    check_media,
)
from dicomweb_server.codec.overlays import burn_overlays
from dicomweb_server.codec.presentation import binary
from dicomweb_server.dicom.json_model import Attributes, first_value
from dicomweb_server.errors import BadPixels, BadRequest

DEFAULT_QUALITY: Final = 90
MAX_ANIMATION_PIXELS: Final = 256 << 20

_WEBP_MAX_SIDE: Final = 16383
_PNG_LEVEL: Final = 3
_DEFAULT_FRAME_MILLISECONDS: Final = 100
_LEADING: Final = 3


def render_frame(
    flat: Attributes, decoded: Decoded, *, options: RenderOptions | None = None, pipeline: GreyPipeline | None = None
) -> Image.Image:
    """The picture of a frame: mode L for grey, RGB for colours; `info["icc_profile"]` where one was asked for.

    flat: what `frame_attributes` gives. pipeline: what `grey_pipeline` makes of it, where that is known already. Raises
    BadRequest for a part that the image does not have, BadPixels for tables that make no sense.
    """
    options = options or RenderOptions()
    geometry = plan(flat, decoded.description, options)
    pixels = _eight_bit(flat, decoded, geometry, options.window, pipeline)
    if options.overlays:
        pixels = burn_overlays(pixels, flat, decoded, geometry.part)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image = _scaled(image, geometry)
    if options.graphics:
        draw_graphics(image, geometry, options.graphics)
    image = _turned(image, options)
    profile: bytes | None = None
    if options.iccprofile != "no":
        image, profile = apply_profile(image, binary(flat.get("00282000")), options.iccprofile)
    _annotate(image, options)
    if profile is not None:
        image.info["icc_profile"] = profile
    return image


def to_bytes(image: Image.Image, media: str, *, quality: int | None = None) -> bytes:
    """The picture as a file of `image/jpeg`, `image/png`, `image/gif` or `image/webp`."""
    check_media(media)
    out = io.BytesIO()
    extra: dict[str, Any] = {}
    if "icc_profile" in image.info and media != "image/gif":
        extra["icc_profile"] = image.info["icc_profile"]
    if media == "image/jpeg":
        image.save(out, "JPEG", quality=quality or DEFAULT_QUALITY, **extra)
    elif media == "image/png":
        image.save(out, "PNG", compress_level=_PNG_LEVEL, **extra)
    elif media == "image/gif":
        image.save(out, "GIF")
    else:
        if max(image.size) > _WEBP_MAX_SIDE:
            raise BadRequest(f"a WebP image has at most {_WEBP_MAX_SIDE} pixels on a side")
        if extra and image.mode == "L":  # colours only
            extra["icc_profile"] = of_colours(extra["icc_profile"])
        image.save(out, "WEBP", quality=quality or DEFAULT_QUALITY, method=2, **extra)
    return out.getvalue()


def animation(images: Iterable[Image.Image], media: str = "image/gif", *, milliseconds: int = 0) -> bytes:
    """Several pictures of one size as an endless animated GIF or WebP. Raises BadRequest where they are too many."""
    kept: list[Image.Image] = []
    pixels = 0
    for image in images:
        pixels += image.width * image.height
        if pixels > MAX_ANIMATION_PIXELS:
            raise BadRequest("the animation would be too large: ask for a smaller viewport, or for single frames")
        kept.append(image)
    if media not in ("image/gif", "image/webp"):
        raise BadRequest("an animation is image/gif or image/webp")
    out = io.BytesIO()
    duration = milliseconds or _DEFAULT_FRAME_MILLISECONDS
    kept[0].save(
        out, media.removeprefix("image/").upper(), save_all=True, append_images=kept[1:], duration=duration, loop=0
    )
    return out.getvalue()


def frame_milliseconds(attributes: Attributes) -> int:
    """How long a frame is to be shown: Frame Time, Recommended Display Frame Rate or Cine Rate; else 100 ms."""
    time = first_value(attributes, "00181063")
    if isinstance(time, int | float) and time > 0:
        return int(min(max(time, 20), 10_000))
    for tag in ("00082144", "00180040"):
        rate = first_value(attributes, tag)
        if isinstance(rate, int | float) and rate > 0:
            return int(min(max(1000 / rate, 20), 10_000))
    return _DEFAULT_FRAME_MILLISECONDS


# The steps


def _eight_bit(
    attributes: Attributes,
    decoded: Decoded,
    geometry: Geometry,
    window: Window | None,
    pipeline: GreyPipeline | None,
) -> NDArray[np.uint8]:
    description = decoded.description
    if description.photometric_interpretation == "PALETTE COLOR" and decoded.array.ndim == 2:
        return _by_palette(attributes, decoded, geometry)
    if decoded.array.ndim == 2:
        pipeline = pipeline or grey_pipeline(attributes, description, window=window)
        return to_grey(decoded, pipeline, geometry.part)
    part = decoded.array[geometry.part]
    label = description.photometric_interpretation
    part = part.view(f"u{part.dtype.itemsize}") if part.dtype.kind == "i" else part
    if label.startswith("YBR"):
        part = ybr_to_rgb(part, label, description.bits_stored)
    colours = to_8_bit(part, description.bits_stored)
    return _three_samples(colours, label)


def _three_samples(colours: NDArray[np.uint8], label: str) -> NDArray[np.uint8]:
    """RGB from the retired ARGB and CMYK; the first three samples of anything else."""
    if colours.shape[2] == 3:
        return colours
    if label == "ARGB" and colours.shape[2] == 4:
        return colours[..., 1:]
    if label == "CMYK" and colours.shape[2] == 4:
        light = 255 - colours.astype(np.uint16)
        return (light[..., :3] * light[..., 3:] // 255).astype(np.uint8)
    if colours.shape[2] < 3:
        return np.repeat(colours[..., :1], 3, axis=2)
    return colours[..., :3]


def _by_palette(attributes: Attributes, decoded: Decoded, geometry: Geometry) -> NDArray[np.uint8]:
    description = decoded.description
    if description.floating or description.bits_allocated > 16:
        raise BadPixels("a palette goes with pixels of at most 16 bits")
    first, colours = palette(attributes)
    places = np.clip(stored_values(description) - first, 0, len(colours) - 1).astype(np.int64)
    codes = np.uint8 if decoded.array.dtype.itemsize == 1 else np.uint16
    return colours[places].take(decoded.array[geometry.part].view(codes), axis=0)


def _scaled(image: Image.Image, geometry: Geometry) -> Image.Image:
    if not geometry.scaled:
        return image
    times = image.width // geometry.width
    if times > 1 and image.size == (times * geometry.width, times * geometry.height):
        return image.reduce(times)  # the same averages, in a fifth of the time
    shrinks = geometry.width < image.width
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return image.resize((geometry.width, geometry.height), how, reducing_gap=2.0 if shrinks else None)


def _turned(image: Image.Image, options: RenderOptions) -> Image.Image:
    if options.rotation:
        turn = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}
        image = image.transpose(turn[options.rotation])
    view = options.viewport
    if options.flipped != bool(view and view.mirror_columns):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if view and view.mirror_rows:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image


# Text in the picture


def _annotate(image: Image.Image, options: RenderOptions) -> None:
    if not options.annotation and not options.technique:
        return
    size = min(max(image.height // 32, 9), 28)
    room = max(1, (image.height - size) // (size + _LEADING))  # on a small picture the last lines are left out
    top = options.annotation[: min(room, MAX_ANNOTATION_LINES)]
    _draw_lines(image, top, size, bottom=False)
    _draw_lines(image, options.technique[: min(room - len(top), MAX_ANNOTATION_LINES)], size, bottom=True)


def _draw_lines(image: Image.Image, lines: Sequence[str], size: int, *, bottom: bool) -> None:
    draw, font, margin = ImageDraw.Draw(image), _font(size), size // 2
    white, black = (255, 0) if image.mode == "L" else ((255, 255, 255), (0, 0, 0))
    pitch = size + _LEADING
    top = image.height - margin - pitch * len(lines) if bottom else margin
    for number, line in enumerate(lines):
        place = (margin, top + number * pitch)
        text = line[:MAX_ANNOTATION_CHARACTERS]
        draw.text(place, text, fill=white, font=font, stroke_width=1, stroke_fill=black)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
