"""Unique identifiers (PS3.5 section 9) and what a transfer syntax UID tells about the encoding (PS3.5 Annex A)."""

import re
import uuid

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"

_NATIVE = frozenset(
    {
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        "1.2.840.113619.5.2",  # GE private: implicit VR little endian with big endian pixels
    }
)
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-8](?:\.1)?")


def is_uid(text: str) -> bool:
    """Whether the text can name a study, series or instance: digits and single dots, at most 64 characters.

    A leading zero in a component is taken, although PS3.5 section 9.1 forbids it: too many files have one.
    """
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def new_uid() -> str:
    """A new UID below 2.25 (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def is_encapsulated(transfer_syntax_uid: str) -> bool:
    """Whether pixel data of this transfer syntax stands in items: true for all but the known native ones."""
    return transfer_syntax_uid not in _NATIVE


def is_video(transfer_syntax_uid: str) -> bool:
    """Whether the pixel data is one MPEG-2, MPEG-4 or HEVC stream, in which frames have no place of their own."""
    return _VIDEO.fullmatch(transfer_syntax_uid) is not None
