"""The text that `annotation=patient,technique` burns into a picture (PS3.18 8.3.5.1.1)."""

from typing import Any, Final

from dicomweb_server.codec.options import MAX_ANNOTATION_CHARACTERS
from dicomweb_server.dicom.json_model import Attributes, first_value
from dicomweb_server.errors import BadRequest

KINDS: Final = ("patient", "technique")

_PATIENT: Final = (("", "00100010"), ("ID ", "00100020"), ("Born ", "00100030"), ("Sex ", "00100040"))
_TECHNIQUE: Final = (
    ("", "00080060"),
    ("", "00081030"),
    ("", "0008103E"),
    ("", "00080020"),
    ("Series ", "00200011"),
    ("Image ", "00200013"),
    ("Slice thickness ", "00180050"),
    ("Slice location ", "00201041"),
    ("kV ", "00180060"),
    ("mA ", "00181151"),
)


def parse_annotation(text: str) -> frozenset[str]:
    """A comma list of `patient` and `technique`; BadRequest for anything else."""
    kinds = frozenset(piece.strip().lower() for piece in text.split(",") if piece.strip())
    if not kinds or not kinds <= set(KINDS):
        raise BadRequest("annotation is a list of patient and technique")
    return kinds


def patient_lines(attributes: Attributes) -> tuple[str, ...]:
    """Name, identifier, birth date and sex."""
    return _lines(attributes, _PATIENT)


def technique_lines(attributes: Attributes) -> tuple[str, ...]:
    """How the image was made: modality, descriptions, date, numbers, thickness and exposure."""
    return _lines(attributes, _TECHNIQUE)


def _lines(attributes: Attributes, wanted: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    found = ((label, _text(first_value(attributes, tag))) for label, tag in wanted)
    return tuple((label + text)[:MAX_ANNOTATION_CHARACTERS] for label, text in found if text)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("Alphabetic") or next(iter(value.values()), "")
        value = str(value).replace("^", " ")
    if isinstance(value, float):
        value = f"{value:g}"
    return "" if value is None else " ".join(str(value).split())
