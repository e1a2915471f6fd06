"""Values of each VR in the DICOM JSON model (PS3.18 Annex F)."""

import base64
import io
import struct
from typing import Any

import pytest

from dicomweb_server.dicom.json_model import swap_words
from dicomweb_server.dicom.part10 import read_header
from tests.unit.dicom.files import UNDEFINED, explicit, header_of, implicit, implicit_identity, item, part10


def element(vr: str, value: bytes, tag: int = 0x00101000) -> dict[str, Any]:
    """The JSON of one element with explicit VR."""
    return header_of(explicit(tag, vr, value)).attributes[f"{tag:08X}"]


@pytest.mark.parametrize(
    ("vr", "value", "expected"),
    [
        ("AE", b" STORE \\B ", ["STORE", "B"]),
        ("AS", b"040Y", ["040Y"]),
        ("AT", b"\x10\x00\x20\x00\x08\x00\x18\x00", ["00100020", "00080018"]),
        ("CS", b"ORIGINAL \\PRIMARY\\\\X ", ["ORIGINAL", "PRIMARY", None, "X"]),
        ("DA", b"20240102", ["20240102"]),
        ("DS", b"1.50", [1.5]),
        ("DS", b" -1e3\\+2\\.5\\ ", [-1000.0, 2.0, 0.5, None]),
        ("DS", b"1_0\\abc \\1,5", ["1_0", "abc", "1,5"]),
        ("DS", b"NaN\\-inf\\Infinity\\1e999", ["NaN", "-Infinity", "Infinity", "1e999"]),
        ("DT", b"20240102030405.678+0100 ", ["20240102030405.678+0100"]),
        ("FD", struct.pack("<2d", 0.1, float("nan")), [0.1, "NaN"]),
        ("FL", struct.pack("<f", 0.1), [struct.unpack("<f", struct.pack("<f", 0.1))[0]]),
        ("FL", struct.pack("<2f", float("inf"), -float("inf")), ["Infinity", "-Infinity"]),
        ("IS", b"+12 ", [12]),
        ("IS", b"-0\\007\\1.0\\\\1.5\\1_0\\x ", [0, 7, 1, None, 1.5, "1_0", "x"]),
        ("IS", b"99999999999999999999", ["99999999999999999999"]),
        ("IS", b"9" * 5000, ["9" * 5000]),
        ("LO", b" a \\b\0", [" a", "b"]),
        ("LT", b" a\\b\r\n ", [" a\\b\r\n"]),
        ("PN", b"A^B==P ", [{"Alphabetic": "A^B", "Phonetic": "P"}]),
        ("PN", b"=I\\\\A ", [{"Ideographic": "I"}, None, {"Alphabetic": "A"}]),
        ("SH", b"x ", ["x"]),
        ("SL", struct.pack("<i", -5), [-5]),
        ("SS", struct.pack("<2h", -5, 5), [-5, 5]),
        ("ST", b"a\\b ", ["a\\b"]),
        ("SV", struct.pack("<q", -(2**63)), [-(2**63)]),
        ("TM", b"120000.5", ["120000.5"]),
        ("UC", b"a\\b ", ["a", "b"]),
        ("UI", b"1.2\\1.3\0", ["1.2", "1.3"]),
        ("UL", struct.pack("<I", 2**32 - 1), [2**32 - 1]),
        ("UR", b"http://x/\\y ", ["http://x/\\y"]),
        ("US", struct.pack("<H", 65535), [65535]),
        ("UT", b"a\\b ", ["a\\b"]),
        ("UV", struct.pack("<Q", 2**64 - 1), [2**64 - 1]),
    ],
)
def test_values(vr: str, value: bytes, expected: list[Any]) -> None:
    assert element(vr, value) == {"vr": vr, "Value": expected}


EMPTY = {
    "AE": b"  ",
    "AT": b"",
    "CS": b" ",
    "DS": b"  ",
    "FD": b"",
    "IS": b" \0",
    "LO": b"\0\0",
    "LT": b" ",
    "OB": b"",
    "PN": b"==  ",
    "SQ": b"",
    "UI": b"\0\0",
    "UN": b"",
    "US": b"",
}


@pytest.mark.parametrize(("vr", "value"), EMPTY.items())
def test_an_empty_element_has_a_vr_only(vr: str, value: bytes) -> None:
    assert element(vr, value, 0x00991010) == {"vr": vr}


@pytest.mark.parametrize(("vr", "value"), [("US", b"abc"), ("FD", b"1234"), ("AT", b"12"), ("SL", b"1")])
def test_a_value_that_does_not_fit_its_vr_is_un(vr: str, value: bytes) -> None:
    header = header_of(explicit(0x00101000, vr, value))
    assert header.attributes["00101000"] == {"vr": "UN", "InlineBinary": base64.b64encode(value).decode()}
    assert any("does not fit" in warning for warning in header.warnings)


class TestBinary:
    @pytest.mark.parametrize("vr", ["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
    def test_up_to_1024_bytes_are_inline(self, vr: str) -> None:
        data = bytes(range(256)) * 4
        assert element(vr, data, 0x00991010) == {"vr": vr, "InlineBinary": base64.b64encode(data).decode()}
        assert "BulkDataURI" in element(vr, data + b"\0\0", 0x00991010)

    def test_pixel_data_is_never_inline(self) -> None:
        attributes = header_of(explicit(0x7FE00010, "OB", b"ab")).attributes
        assert attributes["7FE00010"]["BulkDataURI"].endswith("/1.2.3.4.5/bulkdata/7FE00010")
        icon = explicit(0x00880200, "SQ", item(explicit(0x7FE00010, "OB", b"ab")))
        assert (
            header_of(icon)
            .attributes["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"]
            .endswith("/bulkdata/00880200/1/7FE00010")
        )
        assert header_of(explicit(0x7FE00010, "OB", b"")).attributes["7FE00010"] == {"vr": "OB"}

    def test_long_text_stays_inline_up_to_a_mebibyte(self) -> None:
        text = b"x" * (1 << 20)
        assert header_of(explicit(0x00420012, "UT", text)).attributes["00420012"]["Value"] == [text.decode()]
        header = header_of(explicit(0x00420012, "UT", text + b"xx"))
        assert header.attributes["00420012"]["BulkDataURI"].endswith("/bulkdata/00420012")

    def test_paths_count_items_from_1(self) -> None:
        large = explicit(0x00420011, "OB", bytes(2000))
        inner = explicit(0x00081115, "SQ", item(b"") + item(large))
        header = header_of(explicit(0x00081111, "SQ", item(inner)))
        assert list(header.layout.bulk_keys()) == ["00081111/1/00081115/2/00420011"]

    def test_swapping_words(self) -> None:
        assert swap_words(b"12345", 2) == b"21435"
        assert swap_words(b"12345678", 4) == b"43218765"
        assert swap_words(b"12", 1) == b"12"


class TestUnknown:
    def test_a_known_public_tag_gets_its_vr(self) -> None:
        assert element("UN", b"20240102", 0x00080020) == {"vr": "DA", "Value": ["20240102"]}

    def test_unless_the_value_does_not_fit(self) -> None:
        assert element("UN", b"abc", 0x00280010)["vr"] == "UN"

    def test_a_long_text_that_was_written_as_un_comes_back(self) -> None:
        assert element("UN", b"1\\" * 40_000 + b"2 ", 0x00282000)["vr"] == "OB"
        found = element("UN", b"1\\" * 40_000 + b"2 ", 0x00200032)
        assert found["vr"] == "DS"
        assert len(found["Value"]) == 40_001

    def test_the_private_dictionary_is_asked_by_creator(self) -> None:
        creator = explicit(0x00090010, "LO", b"GEMS_IDEN_01")
        value = explicit(0x00091001, "UN", b"GE_GENESIS_FF ")
        assert header_of(creator, value).attributes["00091001"] == {"vr": "LO", "Value": ["GE_GENESIS_FF"]}
        assert header_of(value).attributes["00091001"]["vr"] == "UN"
        other = explicit(0x00090010, "LO", b"NOBODY KNOWS")
        assert header_of(other, value).attributes["00091001"]["vr"] == "UN"

    def test_a_private_creator_is_lo(self) -> None:
        assert element("UN", b"ACME", 0x00990010) == {"vr": "LO", "Value": ["ACME"]}

    def test_a_sequence_of_undefined_length_is_read_as_implicit_vr(self) -> None:
        content = item(implicit(0x00080100, b"CODE")) + b"\xfe\xff\xdd\xe0\0\0\0\0"
        header = header_of(explicit(0x00991001, "UN", content, length=UNDEFINED))
        assert header.attributes["00991001"] == {
            "vr": "SQ",
            "Value": [{"00080100": {"vr": "SH", "Value": ["CODE"]}}],
        }

    def test_a_known_sequence_of_defined_length(self) -> None:
        content = item(implicit(0x00080100, b"CODE"), defined=True)
        assert element("UN", content, 0x00081111)["Value"] == [{"00080100": {"vr": "SH", "Value": ["CODE"]}}]
        with_explicit_vr = item(explicit(0x00080100, "SH", b"CODE"), defined=True)
        assert element("UN", with_explicit_vr, 0x00081111)["Value"] == [{"00080100": {"vr": "SH", "Value": ["CODE"]}}]

    def test_a_sequence_that_is_none_stays_un_and_leaves_no_bulk_data(self) -> None:
        broken = item(implicit(0x00420011, bytes(2000)), defined=True) + b"no item "
        header = header_of(explicit(0x00081111, "UN", broken))
        assert header.attributes["00081111"]["vr"] == "UN"
        assert list(header.layout.bulk_keys()) == ["00081111"]


class TestAmbiguous:
    @staticmethod
    def _attributes(*elements: bytes) -> dict[str, Any]:
        data = part10(implicit_identity() + b"".join(elements), syntax="1.2.840.10008.1.2")
        return read_header(io.BytesIO(data)).attributes

    def test_us_or_ss_hangs_on_the_nearest_pixel_representation(self) -> None:
        smallest = implicit(0x00280106, b"\xff\xff")
        signed, unsigned = implicit(0x00280103, b"\1\0"), implicit(0x00280103, b"\0\0")
        assert self._attributes(smallest)["00280106"] == {"vr": "US", "Value": [65535]}
        assert self._attributes(signed, smallest)["00280106"] == {"vr": "SS", "Value": [-1]}
        nested = implicit(0x00081140, item(smallest, defined=True) + item(unsigned + smallest, defined=True))
        first, second = self._attributes(nested, signed)["00081140"]["Value"]
        assert first["00280106"] == {"vr": "SS", "Value": [-1]}
        assert second["00280106"] == {"vr": "US", "Value": [65535]}

    def test_the_number_of_entries_of_a_table_is_never_negative(self) -> None:
        signed = implicit(0x00280103, b"\1\0")
        descriptor = implicit(0x00283002, struct.pack("<3h", -2, -3, 16))
        assert self._attributes(signed, descriptor)["00283002"] == {"vr": "SS", "Value": [65534, -3, 16]}
        explicit_one = header_of(explicit(0x00283002, "SS", struct.pack("<3h", -2, -3, 16)))
        assert explicit_one.attributes["00283002"] == {"vr": "SS", "Value": [65534, -3, 16]}

    def test_lut_data_is_us_when_it_has_one_entry(self) -> None:
        data = implicit(0x00283006, b"\1\0")
        one = implicit(0x00283002, struct.pack("<3H", 1, 0, 16))
        two = implicit(0x00283002, struct.pack("<3H", 2, 0, 16))
        assert self._attributes(one, data)["00283006"] == {"vr": "US", "Value": [1]}
        assert self._attributes(two, data)["00283006"] == {"vr": "OW", "InlineBinary": "AQA="}

    def test_pixel_and_overlay_data_are_ow(self) -> None:
        attributes = self._attributes(implicit(0x60003000, b"\1\0"), implicit(0x7FE00010, b"\1\0"))
        assert attributes["60003000"]["vr"] == "OW"
        assert attributes["7FE00010"]["vr"] == "OW"
