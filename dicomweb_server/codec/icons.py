"""Pictures for objects that have no pixels of their own."""

from functools import lru_cache
from math import sin
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from dicomweb_server.codec.render import to_bytes
from dicomweb_server.codec.thumbnails import THUMBNAIL_SIDE

_PAPER: Final = (232, 236, 240)
_INK: Final = (52, 64, 84)
_BACKGROUND: Final = (28, 32, 40)

_LABELS: Final = {
    "1.2.840.10008.5.1.4.1.1.104.1": ("PDF", "page"),
    "1.2.840.10008.5.1.4.1.1.104.2": ("CDA", "page"),
    "1.2.840.10008.5.1.4.1.1.104.3": ("STL", "page"),
    "1.2.840.10008.5.1.4.1.1.104.4": ("OBJ", "page"),
    "1.2.840.10008.5.1.4.1.1.66": ("RAW", "page"),
    "1.2.840.10008.5.1.4.1.1.66.4": ("SEG", "target"),
    "1.2.840.10008.5.1.4.1.1.88.59": ("KO", "page"),
}
_FAMILIES: Final = (
    ("1.2.840.10008.5.1.4.1.1.88.", "SR", "page"),
    ("1.2.840.10008.5.1.4.1.1.9.", "WAVE", "wave"),
    ("1.2.840.10008.5.1.4.1.1.11.", "PR", "target"),
    ("1.2.840.10008.5.1.4.1.1.481.", "RT", "target"),
    ("1.2.840.10008.5.1.4.1.1.66.", "REG", "target"),
    ("1.2.840.10008.5.1.4.1.1.77.1.1.1", "VIDEO", "play"),
    ("1.2.840.10008.5.1.4.1.1.77.1.2.1", "VIDEO", "play"),
    ("1.2.840.10008.5.1.4.1.1.77.1.4.1", "VIDEO", "play"),
)
_MODALITIES: Final = {"SR": "page", "DOC": "page", "ECG": "wave", "EPS": "wave", "HD": "wave", "RTSTRUCT": "target"}


def icon(sop_class_uid: str, modality: str = "", *, side: int = THUMBNAIL_SIDE, media: str = "image/jpeg") -> bytes:
    """A picture that says what kind of object this is: a sheet, a curve, a target, and the modality below."""
    label, drawing = _kind(sop_class_uid, modality)
    return _icon(label, drawing, min(max(side, 16), 1024), media)


def _kind(sop_class_uid: str, modality: str) -> tuple[str, str]:
    plain = "".join(character for character in modality[:16].upper() if character.isascii() and character.isalnum())
    if sop_class_uid in _LABELS:
        label, drawing = _LABELS[sop_class_uid]
        return label, drawing
    for prefix, label, drawing in _FAMILIES:
        if sop_class_uid.startswith(prefix):
            return plain or label, drawing
    return plain or "DICOM", _MODALITIES.get(plain, "page")


@lru_cache(maxsize=64)
def _icon(label: str, drawing: str, side: int, media: str) -> bytes:
    image = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    _DRAWINGS[drawing](draw, side)
    font = ImageFont.load_default(side * 0.15)
    draw.text((side / 2, side * 0.86), label, fill=_PAPER, font=font, anchor="mm")
    return to_bytes(image, media, quality=85)


def _page(draw: ImageDraw.ImageDraw, side: int) -> None:
    left, top, right, bottom = (side * part for part in (0.3, 0.12, 0.7, 0.72))
    draw.rounded_rectangle((left, top, right, bottom), radius=side * 0.02, fill=_PAPER)
    for line in range(5):
        height = top + side * (0.1 + 0.09 * line)
        end = right - side * (0.05 if line < 4 else 0.17)
        draw.line((left + side * 0.05, height, end, height), fill=_INK, width=max(1, side // 64))


def _wave(draw: ImageDraw.ImageDraw, side: int) -> None:
    points = []
    for step in range(65):
        beat = step % 16
        height = -0.22 if beat == 8 else 0.1 if beat == 9 else 0.02 * sin(beat)
        points.append((side * (0.14 + 0.72 * step / 64), side * (0.45 + height)))
    draw.line(points, fill=_PAPER, width=max(1, side // 64), joint="curve")


def _target(draw: ImageDraw.ImageDraw, side: int) -> None:
    middle, width = (side * 0.5, side * 0.42), max(1, side // 50)
    for part in (0.28, 0.18, 0.08):
        radius = side * part
        box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
        draw.ellipse(box, outline=_PAPER, width=width)


def _play(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.polygon([(side * x, side * y) for x, y in ((0.36, 0.18), (0.36, 0.66), (0.74, 0.42))], fill=_PAPER)


_DRAWINGS: Final = {"page": _page, "wave": _wave, "target": _target, "play": _play}
