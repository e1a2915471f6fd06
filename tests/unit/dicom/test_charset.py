"""Specific Character Set: the examples of PS3.5 annexes H to K, and what real files do wrong."""

import pytest

from dicomweb_server.dicom.charset import NAME_DELIMITERS, TEXT_DELIMITERS, Charset, Notes
from tests.unit.dicom.files import explicit, header_of, item


def _name(charset: bytes, value: bytes) -> str:
    notes = Notes()
    text = Charset(charset, notes).decode(value, NAME_DELIMITERS)
    assert notes.warnings == ()
    return text


@pytest.mark.parametrize(
    ("charset", "value", "text"),
    [
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 101", b"W\xb3ock", "Włock"),
        (b"ISO_IR 109", b"\xa6", "Ĥ"),
        (b"ISO_IR 110", b"\xa2", "ĸ"),
        (b"ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"),
        (b"ISO_IR 127", b"\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"),
        (b"ISO_IR 138", b"\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"),
        (b"ISO_IR 144", b"\xbb\xee\xdace\xdc\xd1yp\xd3", "Люкceмбypг"),
        (b"ISO_IR 148", b"\xd0", "Ğ"),
        (b"ISO_IR 166", b"\xa1", "ก"),
        (b"ISO_IR 203", b"\xa4", "€"),
        (b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小东=".encode(), "Wang^XiaoDong=王^小东="),
        (b"GB18030", "Wang^XiaoDong=王^小东=".encode("gb18030"), "Wang^XiaoDong=王^小东="),
        (b"GBK", "王^小东".encode("gbk"), "王^小东"),
        # H.3.1, H.3.2: Japanese with code extensions
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
        ),
        # I.2: Korean
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        # K.2: simplified Chinese
        (
            b"\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东=",
        ),
        # Several single-byte sets; after a delimiter the first one is in force again (PS3.5 6.1.2.5.3)
        (b"ISO 2022 IR 100\\ISO 2022 IR 126", b"\xe9^\x1b-F\xc4\xe9^\xe9", "é^Δι^é"),
        # None is named: most often Latin-1 is meant
        (b"", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
        # An escape sequence that is not repeated after a delimiter, where nothing else could be meant
        (b"\\ISO 2022 IR 149", b"\x1b$)C\xfb\xf3^\xd1\xce", "洪^吉"),
    ],
)
def test_character_sets(charset: bytes, value: bytes, text: str) -> None:
    assert _name(charset, value) == text


@pytest.mark.parametrize(
    ("charset", "value", "text", "warning"),
    [
        (b"ISO-IR 100", b"\xe9", "é", "misspelt"),
        (b"ISO IR 192", "é".encode(), "é", "misspelt"),
        (b"UTF-8", "é".encode(), "é", "misspelt"),
        (b"ISO_2022_IR_100", b"\xe9", "é", "misspelt"),
        (b"KLINGON", b"\xe9", "é", "unknown"),
        (b"", "王^小东é".encode(), "王^小东é", "is UTF-8"),
        (b"ISO_IR 6", "é".encode(), "é", "is UTF-8"),
        (b"ISO_IR 192", b"\xe9x", "\ufffdx", "does not fit"),
        (b"\\ISO 2022 IR 87", b"\x1b$B\xff\xff\x1b(Bx", "\ufffd\ufffdx", "does not fit"),
        (b"\\ISO 2022 IR 87", b"\x1b-Zx", "x", "unknown escape"),
    ],
)
def test_what_is_wrong_is_mended_with_a_warning(charset: bytes, value: bytes, text: str, warning: str) -> None:
    notes = Notes()
    assert Charset(charset, notes).decode(value, TEXT_DELIMITERS) == text
    assert any(warning in note for note in notes.warnings)


class TestInADataSet:
    def test_a_backslash_inside_a_character_splits_nothing(self) -> None:
        value = "表\\x".encode("gb18030")
        second = "乗".encode("gb18030")  # 81 5C
        assert b"\\" in second
        header = header_of(explicit(0x00080005, "CS", b"GB18030 "), explicit(0x00100020, "LO", second + b"\\" + value))
        assert header.attributes["00100020"] == {"vr": "LO", "Value": ["乗", "表", "x"]}

    def test_items_inherit_and_override(self) -> None:
        name = explicit(0x00100010, "PN", b"\xe9 ")
        nested = explicit(0x00081111, "SQ", item(name) + item(explicit(0x00080005, "CS", b"ISO_IR 126") + name))
        header = header_of(explicit(0x00080005, "CS", b"ISO_IR 101"), nested, explicit(0x00100020, "LO", b"\xb3 "))
        first, second = header.attributes["00081111"]["Value"]
        assert first == {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "é"}]}}
        assert second["00100010"]["Value"] == [{"Alphabetic": "ι"}]
        assert second["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
        assert header.attributes["00100020"]["Value"] == ["ł"]

    def test_the_json_names_utf8_where_a_set_was_named_or_is_needed(self) -> None:
        utf8 = {"vr": "CS", "Value": ["ISO_IR 192"]}
        assert header_of(explicit(0x00080005, "CS", b"ISO_IR 100")).attributes["00080005"] == utf8
        header = header_of(explicit(0x00100020, "LO", b"\xe9 "))
        assert header.attributes["00080005"] == utf8
        assert next(iter(header.attributes)) == "00080005"
        assert "00080005" not in header_of(explicit(0x00100020, "LO", b"e ")).attributes
