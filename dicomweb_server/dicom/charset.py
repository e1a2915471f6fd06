"""Specific Character Set (PS3.3 C.12.1.1.2): from the bytes of a text value to Unicode.

Never fails: what cannot be decoded becomes U+FFFD, and a note says so.
"""

import re
from typing import Final

ESCAPE: Final = b"\x1b"

TEXT_DELIMITERS: Final = re.compile(rb"[\\\r\n\f\t]")
NAME_DELIMITERS: Final = re.compile(rb"[\\^=\r\n\f\t]")

_DEFAULT: Final = "latin-1"  # the default repertoire is ASCII; what lies above is most often Latin-1
_CODECS: Final[dict[str, str]] = {
    **{
        f"{prefix} {number}": codec
        for prefix in ("ISO_IR", "ISO 2022 IR")
        for number, codec in (
            (6, _DEFAULT),
            (13, "shift_jis"),
            (100, _DEFAULT),
            (101, "iso8859_2"),
            (109, "iso8859_3"),
            (110, "iso8859_4"),
            (126, "iso8859_7"),
            (127, "iso8859_6"),
            (138, "iso8859_8"),
            (144, "iso8859_5"),
            (148, "iso8859_9"),
            (166, "tis_620"),
            (203, "iso8859_15"),
        )
    },
    "": _DEFAULT,
    "ISO 2022 IR 58": "gb2312",
    "ISO 2022 IR 87": "iso2022_jp",
    "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 159": "iso2022_jp_2",
    "ISO_IR 192": "utf-8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO 2022 GBK": "gbk",
    "ISO 2022 58": "gb2312",
}
CHARACTER_SETS: Final = tuple(sorted(name for name in _CODECS if re.match("ISO_IR|ISO 2022 IR|GB", name)))
"""The defined terms that are read."""
_MISSPELT: Final = {
    "UTF-8": "ISO_IR 192",
    "UTF8": "ISO_IR 192",
    "ISO 2022 IR 192": "ISO_IR 192",
    "GB2312": "GB18030",
    "ISO-8859-1": "ISO_IR 100",
    "ISO_8859-1": "ISO_IR 100",
    "ISO8859-1": "ISO_IR 100",
    "LATIN1": "ISO_IR 100",
    "LATIN-1": "ISO_IR 100",
    "ASCII": "ISO_IR 6",
    "US-ASCII": "ISO_IR 6",
}
_ISO_IR = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?([0-9]{1,3})")
_DEFAULT_NAMES: Final = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6"})
_STAND_ALONE: Final = frozenset({"ISO_IR 192", "GBK", "GB18030", "ISO 2022 GBK"})

# Escape sequences of PS3.3 Tables C.12-3 and C.12-4, without the ESC.
_SEQUENCE = re.compile(rb"\x1b(\$[()][A-Z]|\$[@AB]|[()\-][A-Za-z])")
_DOUBLE_BYTE_G0: Final = frozenset({b"$@", b"$B", b"$(D"})
_SINGLE_BYTE_G0: Final = frozenset({b"(B", b"(J"})
_G1: Final[dict[bytes, str]] = {
    b")I": "shift_jis",
    b"-A": "latin-1",
    b"-B": "iso8859_2",
    b"-C": "iso8859_3",
    b"-D": "iso8859_4",
    b"-F": "iso8859_7",
    b"-G": "iso8859_6",
    b"-H": "iso8859_8",
    b"-L": "iso8859_5",
    b"-M": "iso8859_9",
    b"-T": "iso8859_11",
    b"-b": "iso8859_15",
    b"$)A": "gb2312",
    b"$)C": "euc_kr",
}


class Notes:
    """What was noticed while a data set was read: `warnings` in order, each once; `told`: how often there was one;
    `foreign`: a text was not ASCII."""

    __slots__ = ("_warnings", "foreign", "told")

    def __init__(self) -> None:
        self.foreign = False
        self.told = 0
        self._warnings: dict[str, None] = {}

    def warn(self, text: str) -> None:
        """Add a warning; at most a hundred different ones are kept."""
        self.told += 1
        if len(self._warnings) < 100:
            self._warnings[text] = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings so far."""
        return tuple(self._warnings)


class Charset:
    """The character set of one data set, from the bytes of (0008,0005); empty bytes mean the default repertoire."""

    __slots__ = ("_extensible", "_first", "_is_default", "_notes")

    def __init__(self, value: bytes, notes: Notes) -> None:
        known = known_names(value, notes)
        self._notes = notes
        self._first = _CODECS[known[0]]
        self._is_default = known[0] in _DEFAULT_NAMES
        self._extensible = known[0] not in _STAND_ALONE

    def decode(self, value: bytes, delimiters: re.Pattern[bytes]) -> str:
        """The text of a value with the VR LO, LT, PN, SH, ST, UC or UT.

        The delimiters are the characters after which the character set is again the first one (PS3.5 6.1.2.5.3).
        """
        self._notes.foreign = True
        if self._extensible and ESCAPE in value:
            return self._extended(value, delimiters)
        if self._is_default and (text := _utf8(value)) is not None:
            if text != value.decode(_DEFAULT):
                self._notes.warn("a text is UTF-8, although Specific Character Set (0008,0005) does not say so")
            return text
        return self._run(value, self._first)

    def decode_default(self, value: bytes) -> str:
        """The text of a value whose VR knows the default repertoire only, although it holds other bytes."""
        self._notes.foreign = True
        return value.decode(_DEFAULT)

    def _extended(self, value: bytes, delimiters: re.Pattern[bytes]) -> str:
        parts = _SEQUENCE.split(value)
        high = self._first
        text, high = self._single(parts[0], high, delimiters)
        found = [text]
        for sequence, run in zip(parts[1::2], parts[2::2], strict=True):
            if sequence in _DOUBLE_BYTE_G0:
                found.append(self._run(ESCAPE + sequence + run, "iso2022_jp_2"))
                continue
            if sequence not in _SINGLE_BYTE_G0:
                if sequence not in _G1:
                    self._notes.warn("an unknown escape sequence in a text")
                high = _G1.get(sequence, high)
            text, high = self._single(run, high, delimiters)
            found.append(text)
        return "".join(found)

    def _single(self, run: bytes, high: str, delimiters: re.Pattern[bytes]) -> tuple[str, str]:
        """A run in which every byte below 128 is ASCII, and the set in force after it.

        Where the first set is the default repertoire, bytes above 127 mean nothing after a delimiter: writers that
        forgot to repeat the escape sequence mean the set that was in force.
        """
        delimiter = delimiters.search(run) if high != self._first and not self._is_default else None
        if delimiter is None:
            return self._run(run, high), high
        place = delimiter.start()
        return self._run(run[:place], high) + self._run(run[place:], self._first), self._first

    def _run(self, run: bytes, codec: str) -> str:
        try:
            return run.decode(codec)
        except UnicodeError:
            self._notes.warn("a text does not fit its Specific Character Set (0008,0005): replaced what cannot be read")
            return run.decode(codec, errors="replace")


def _utf8(value: bytes) -> str | None:
    """The text, where it can be read as UTF-8. A text of Latin-1 with a letter above ASCII hardly ever can."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def known_names(value: bytes, notes: Notes | None = None) -> list[str]:
    """The defined terms that the bytes of (0008,0005) stand for, at least one. Misspelt ones are mended; unknown ones,
    and the default repertoire, are empty."""
    names = [name.strip(" \0") for name in value.decode("latin-1").split("\\")]
    return [_known_name(name, notes or Notes()) for name in names]


def _known_name(name: str, notes: Notes) -> str:
    if name in _CODECS:
        return name
    plain = name.upper()
    if (match := _ISO_IR.fullmatch(plain)) is not None:
        plain = f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
    plain = _MISSPELT.get(plain, plain)
    if plain in _CODECS:
        notes.warn(f"Specific Character Set (0008,0005) is misspelt: taken as {plain}")
        return plain
    notes.warn("Specific Character Set (0008,0005) is unknown: taken as the default repertoire")
    return ""
