"""Headers of files in every encoding, and of those that are written oddly."""

import io
import struct

import pytest

from dicomweb_server.dicom.layout import NativeFrames
from dicomweb_server.dicom.part10 import inflate, read_header
from dicomweb_server.dicom.source import WINDOW_BYTES
from dicomweb_server.errors import BadDicom
from tests.unit.dicom.files import (
    BULK,
    INSTANCE,
    SEQUENCE_END,
    SERIES,
    SOP_CLASS,
    STUDY,
    UNDEFINED,
    even,
    explicit,
    header_of,
    identity,
    image,
    implicit,
    implicit_identity,
    item,
    part10,
)

ROWS = {"vr": "US", "Value": [2]}


def test_the_identity_and_the_attributes() -> None:
    header = header_of(explicit(0x00280010, "US", b"\2\0"))
    assert (header.study_uid, header.series_uid, header.instance_uid) == (STUDY, SERIES, INSTANCE)
    assert header.sop_class_uid == SOP_CLASS
    assert header.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert list(header.attributes) == ["00080016", "00080018", "0020000D", "0020000E", "00280010"]
    assert header.warnings == ()


class TestEncodings:
    def test_big_endian(self) -> None:
        elements = (
            explicit(0x00280010, "US", b"\0\2", order=">")
            + explicit(0x00281201, "OW", b"\1\2\3\4", order=">")
            + explicit(0x7FE00010, "OW", b"\0\1", order=">")
        )
        header = read_header(io.BytesIO(part10(identity(order=">") + elements, syntax="1.2.840.10008.1.2.2")))
        assert header.attributes["00280010"] == ROWS
        assert header.attributes["00281201"]["InlineBinary"] == "AgEEAw=="
        assert header.layout.big_endian

    def test_implicit(self) -> None:
        data = part10(implicit_identity() + implicit(0x00280010, b"\2\0"), syntax="1.2.840.10008.1.2")
        assert read_header(io.BytesIO(data)).attributes["00280010"] == ROWS

    def test_deflated(self) -> None:
        pixels = explicit(0x7FE00010, "OW", bytes(range(12)))
        data = part10(identity() + image(bits=16) + pixels, syntax="1.2.840.10008.1.2.1.99")
        header = read_header(io.BytesIO(data))
        assert header.layout.deflated
        assert isinstance(header.layout.frames, NativeFrames)
        with inflate(io.BytesIO(data)) as inflated:
            inflated.seek(header.layout.frames.offset)
            assert inflated.read() == bytes(range(12))

    def test_implicit_declared_as_explicit_and_the_reverse(self) -> None:
        header = read_header(io.BytesIO(part10(implicit_identity() + implicit(0x00280010, b"\2\0"))))
        assert header.attributes["00280010"] == ROWS
        assert header.warnings == ("explicit VR was declared, but the data set has implicit VR",)
        data = part10(identity() + explicit(0x00280010, "US", b"\2\0"), syntax="1.2.840.10008.1.2")
        header = read_header(io.BytesIO(data))
        assert header.attributes["00280010"] == ROWS
        assert header.warnings == ("implicit VR was declared, but the data set has explicit VR",)

    def test_an_unknown_transfer_syntax_is_read_as_explicit_little_endian(self) -> None:
        assert header_of(syntax="1.2.3.4.5.6").transfer_syntax_uid == "1.2.3.4.5.6"


class TestOddFiles:
    @pytest.mark.parametrize("lead", [b"", b"DICM"])
    def test_no_preamble(self, lead: bytes) -> None:
        data = lead + part10(identity())[132:]
        assert read_header(io.BytesIO(data)).instance_uid == INSTANCE

    def test_no_meta_header_explicit(self) -> None:
        header = read_header(io.BytesIO(identity()))
        assert header.transfer_syntax_uid == "1.2.840.10008.1.2.1"
        assert header.warnings == ("the file names no transfer syntax: taken as 1.2.840.10008.1.2.1",)

    def test_no_meta_header_implicit_and_big_endian(self) -> None:
        assert read_header(io.BytesIO(implicit_identity())).transfer_syntax_uid == "1.2.840.10008.1.2"
        assert read_header(io.BytesIO(identity(order=">"))).transfer_syntax_uid == "1.2.840.10008.1.2.2"

    def test_no_transfer_syntax(self) -> None:
        assert header_of(syntax=None).transfer_syntax_uid == "1.2.840.10008.1.2.1"

    def test_elements_out_of_order_are_sorted(self) -> None:
        attributes = header_of(explicit(0x00100020, "LO", b"ID"), explicit(0x00080020, "DA", b"20240102")).attributes
        assert list(attributes) == sorted(attributes)

    def test_what_json_must_not_have_is_left_out(self) -> None:
        attributes = header_of(
            explicit(0x00100000, "UL", b"\1\0\0\0"),
            explicit(0x00100020, "LO", b"ID"),
            explicit(0xFFFCFFFC, "OB", bytes(3000)),
        ).attributes
        assert "00100000" not in attributes
        assert "FFFCFFFC" not in attributes
        assert "00100020" in attributes

    def test_an_element_without_vr_among_others(self) -> None:
        header = header_of(implicit(0x00100020, b"ID"), explicit(0x00100030, "DA", b"20240102"))
        assert header.attributes["00100020"] == {"vr": "LO", "Value": ["ID"]}
        assert header.attributes["00100030"] == {"vr": "DA", "Value": ["20240102"]}

    @pytest.mark.parametrize("long", [False, True])
    def test_an_unknown_vr_is_read_as_un(self, long: bool) -> None:
        element = struct.pack("<HH2s", 0x0010, 0x0020, b"QQ") + struct.pack("<HI" if long else "<H", *([0] * long), 2)
        header = header_of(element + b"ID", explicit(0x00100030, "DA", b"20240102"))
        assert header.attributes["00100020"] == {"vr": "LO", "Value": ["ID"]}
        assert "00100030" in header.attributes

    def test_un_with_a_length_of_16_bits(self) -> None:
        element = struct.pack("<HH2sH", 0x0099, 0x1001, b"UN", 4) + b"\xff\xff\xff\x7f"
        header = header_of(element, explicit(0x00990020, "LO", b"ID"))
        assert header.attributes["00991001"] == {"vr": "UN", "InlineBinary": "////fw=="}
        assert "00990020" in header.attributes

    @pytest.mark.parametrize("vr", ["??", "  ", "\0\0"])
    def test_two_signs_that_are_no_vr_with_a_length_of_16_bits(self, vr: str) -> None:
        header = header_of(explicit(0x00100020, vr, b"ID"), explicit(0x00100030, "DA", b"20240102"))
        assert header.attributes["00100020"] == {"vr": "LO", "Value": ["ID"]}
        assert header.attributes["00100030"] == {"vr": "DA", "Value": ["20240102"]}

    def test_an_explicit_file_with_implicit_items(self) -> None:
        items = item(implicit(0x00080100, b"CODE"), defined=True) + item(explicit(0x00080100, "SH", b"CODE"))
        assert (
            header_of(explicit(0x00081111, "SQ", items)).attributes["00081111"]["Value"]
            == [{"00080100": {"vr": "SH", "Value": ["CODE"]}}] * 2
        )

    def test_sequences_of_all_lengths(self) -> None:
        content = explicit(0x00080100, "SH", b"CODE")
        for defined_item in (False, True):
            for defined in (False, True):
                items = item(content, defined=defined_item) + item(b"", defined=defined_item)
                if defined:
                    element = explicit(0x00081111, "SQ", items)
                else:
                    element = explicit(0x00081111, "SQ", items + SEQUENCE_END, length=UNDEFINED)
                header = header_of(element, explicit(0x00100020, "LO", b"ID"))
                assert header.attributes["00081111"] == {
                    "vr": "SQ",
                    "Value": [{"00080100": {"vr": "SH", "Value": ["CODE"]}}, {}],
                }
                assert "00100020" in header.attributes


class TestUids:
    @pytest.mark.parametrize("name", ["study", "series", "instance"])
    @pytest.mark.parametrize(
        "uid", ["../../../tmp/x", "abc", "1.2." + "3" * 70, "1.2\0003", "..", "1.2/../3", "1.2\\1.3"]
    )
    def test_malformed_ones_are_refused_by_name(self, name: str, uid: str) -> None:
        data = {
            "study": identity(study=uid),
            "series": identity(series=uid),
            "instance": identity(instance=uid),
        }[name]
        full = {"study": "Study Instance UID", "series": "Series Instance UID", "instance": "SOP Instance UID"}[name]
        with pytest.raises(BadDicom, match=full + r" \(....,....\) is no valid UID"):
            read_header(io.BytesIO(part10(data)))

    @pytest.mark.parametrize("tag", [0x0020000D, 0x0020000E, 0x00080018])
    def test_missing_and_empty_ones_are_refused(self, tag: int) -> None:
        empty = identity() + explicit(tag, "UI", b"")  # the later one counts
        with pytest.raises(BadDicom, match="is missing"):
            read_header(io.BytesIO(part10(empty)))

    def test_trailing_padding_is_no_part_of_a_uid(self) -> None:
        assert read_header(io.BytesIO(part10(identity(study="1.2.3 \0\0")))).study_uid == "1.2.3"

    def test_the_sop_class_may_come_from_the_meta_header(self) -> None:
        without = identity().partition(explicit(0x00080018, "UI", even(INSTANCE)))
        header = read_header(io.BytesIO(part10(without[1] + without[2])))
        assert header.sop_class_uid == SOP_CLASS
        assert header.warnings == ("SOP Class UID (0008,0016) is missing: taken from the file meta information",)
        with pytest.raises(BadDicom, match="SOP Class UID"):
            read_header(io.BytesIO(without[1] + without[2]))

    def test_the_data_set_wins_over_the_meta_header(self) -> None:
        header = read_header(io.BytesIO(part10(identity(), instance="1.9.9")))
        assert header.instance_uid == INSTANCE
        assert any("(0002,0003) differs" in warning for warning in header.warnings)


class TestWindows:
    """Values and headers at every place relative to the piece of the file that is in memory."""

    @pytest.mark.parametrize("distance", range(-30, 31))
    def test_elements_across_the_edge_of_the_window(self, distance: int) -> None:
        fill = WINDOW_BYTES - len(part10(identity())) - 12 + distance
        header = header_of(
            explicit(0x00420011, "OB", bytes(fill)),
            explicit(0x00420012, "LO", b"some text "),
            explicit(0x00480105, "SQ", item(explicit(0x00480106, "SH", b"code")) + item(b"")),
            explicit(0x00480108, "US", b"\2\0"),
        )
        attributes = header.attributes
        assert attributes["00420012"] == {"vr": "LO", "Value": ["some text"]}
        assert attributes["00480105"]["Value"] == [{"00480106": {"vr": "SH", "Value": ["code"]}}, {}]
        assert attributes["00480108"] == ROWS

    def test_many_windows(self) -> None:
        one = explicit(0x00080100, "SH", b"CODE") + explicit(0x00420011, "OB", bytes(1500))
        header = header_of(explicit(0x00081111, "SQ", item(one) * 500), explicit(0x00100020, "LO", b"ID"))
        items = header.attributes["00081111"]["Value"]
        assert [entry["00420011"]["BulkDataURI"] for entry in items] == [
            f"{BULK}00081111/{number}/00420011" for number in range(1, 501)
        ]
        assert header.attributes["00100020"] == {"vr": "LO", "Value": ["ID"]}
