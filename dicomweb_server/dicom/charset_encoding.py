"""From Unicode to the bytes of a text value in a Specific Character Set; the reverse of `charset`."""

from collections.abc import Sequence
from typing import Final

from pydicom.charset import encode_string, python_encoding

from dicomweb_server.dicom.charset import Charset, Notes, known_names
from dicomweb_server.dicom.json_model import decoders

TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""The VRs whose values are in the Specific Character Set (PS3.5 6.1.2.3)."""

_DECODERS: Final = decoders(big_endian=False)
_UTF8: Final = "ISO_IR 192"
_WHOLE: Final = {_UTF8: "utf-8", "GB18030": "gb18030", "GBK": "gbk"}
_DEFAULT: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})


def encoded_text(vr: str, text: str, charset: bytes) -> bytes | None:
    """The bytes of a value, several with backslashes between them; None where the character set has not all of its
    characters.

    charset: the bytes of (0008,0005), empty for the default repertoire.
    """
    if text.isascii():
        return text.encode("ascii")
    if vr not in TEXT_VRS:
        return None
    names = known_names(charset)
    if names[0] in _DEFAULT and len(names) == 1:
        return None
    try:
        if names[0] in _WHOLE:
            found = text.encode(_WHOLE[names[0]])
        else:
            codecs = [python_encoding[name] for name in names if name not in _WHOLE]
            if not all(any(_has(codec, character) for codec in codecs) for character in set(text)):
                return None
            found = b"\\".join(_extended(vr, value, codecs) for value in text.split("\\"))
    except (LookupError, UnicodeError, ValueError):
        return None
    # Whether it is what it should be, the reader knows best: escape sequences have their corners.
    notes = Notes()
    read = Charset(charset, notes)
    same = _DECODERS[vr](found, read) == _DECODERS[vr](text.encode(), Charset(_UTF8.encode("ascii"), notes))
    return found if same and not notes.warnings else None


def _has(codec: str, character: str) -> bool:
    try:
        # ISO-IR 13 is half of Shift JIS: the half with one byte a character.
        return len(character.encode(codec)) == 1 or codec != "shift_jis"
    except UnicodeError:
        return False


def _extended(vr: str, value: str, codecs: Sequence[str]) -> bytes:
    """With code extensions, which begin anew behind each delimiter (PS3.5 6.1.2.5.3)."""
    if vr != "PN":
        return encode_string(value, codecs)
    groups = ([encode_string(part, codecs) for part in group.split("^")] for group in value.split("="))
    return b"=".join(b"^".join(parts) for parts in groups)
