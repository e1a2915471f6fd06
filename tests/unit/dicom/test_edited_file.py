"""Files after an edit: pydicom reads the new values, and every other element is byte for byte what it was."""

import io
import struct
import tracemalloc
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicomweb_server.dicom.edited_file import Change, EditedFile, FileEdit, edit_file
from dicomweb_server.dicom.part10 import Header, data_set_start, inflate, read_header
from dicomweb_server.errors import BadDicom, Conflict
from tests.unit.dicom.files import (
    SEQUENCE_END,
    UNDEFINED,
    explicit,
    identity,
    image,
    implicit,
    implicit_identity,
    item,
    part10,
)
from tests.unit.dicom.test_sample_files import FILES, read_complete

DEFLATED, BIG_ENDIAN, IMPLICIT = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2"
NAME, ID, DESCRIPTION, COMMENTS = "00100010", "00100020", "00081030", "00104000"
CHARSET, ORIGINAL = "00080005", "04000561"
STORED = [path for path in FILES if not path.name.startswith("DICOMDIR")]  # those are no instances
PLAIN, FOREIGN = {"Alphabetic": "New^Name"}, {"Alphabetic": "Müller^Łukasz", "Ideographic": "山田^太郎"}


def name(value: Any = PLAIN) -> Change:
    return Change(tag=NAME, vr="PN", values=[value], stays=True)


def inflated_bytes(data: bytes) -> bytes:
    with inflate(io.BytesIO(data)) as file:
        return file.read()


def edited(data: bytes, *changes: Change) -> tuple[EditedFile, bytes]:
    def read(start: int, length: int) -> bytes:
        return data[start : start + length]

    header = read_header(io.BytesIO(data))
    start, encoding = data_set_start(read, len(data))
    inflated = None
    if header.layout.deflated:
        whole = inflated_bytes(data)
        inflated = (lambda at, length: whole[at : at + length], len(whole))
    edit = FileEdit(
        changes=changes, made_at=datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC), system="dicomweb-server", code="CORRECT"
    )
    found = edit_file(edit, read=read, size=len(data), start=start, encoding=encoding, inflated=inflated)
    return found, b"".join(found.chunks())


def header(data: bytes) -> Header:
    return read_header(io.BytesIO(data))


def original(data: bytes) -> dict[str, Any]:
    """The last item of what was there before."""
    found: dict[str, Any] = header(data).attributes[ORIGINAL]["Value"][-1]
    return found


def values(data: bytes, tag: str) -> Sequence[Any]:
    found: Sequence[Any] = header(data).attributes[tag].get("Value", [])
    return found


@pytest.mark.filterwarnings("ignore")  # pydicom's opinion on its own samples
@pytest.mark.parametrize("value", [PLAIN, FOREIGN], ids=["ascii", "foreign"])
@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_every_sample_file(path: Path, value: dict[str, str]) -> None:
    data, before = read_complete(path)
    changes = [
        name(value),
        Change(tag=DESCRIPTION, vr="LO", values=["Thorax"]),
        Change(tag=ID, vr="LO", values=["ID1"], stays=True),
        Change(tag=COMMENTS, vr="LT"),
    ]
    found, out = edited(data, *changes)
    known, new = dict(header(data).attributes), dict(header(out).attributes)
    if not header(data).layout.deflated:
        assert len(out) == found.size_bytes
    assert (new[NAME]["Value"], new[DESCRIPTION]["Value"], new[ID]["Value"]) == ([value], ["Thorax"], ["ID1"])
    assert COMMENTS not in new or "Value" not in new[COMMENTS]
    (was,) = original(out)["04000550"]["Value"]
    assert {tag: was[tag].get("Value") for tag in found.changed} == {
        tag: known.get(tag, {}).get("Value") for tag in found.changed
    }
    assert len(new[ORIGINAL]["Value"]) == len(known.get(ORIGINAL, {}).get("Value", [])) + 1
    ours = {NAME, ID, DESCRIPTION, COMMENTS, ORIGINAL, CHARSET}
    for tag in ours:
        known.pop(tag, None)
        new.pop(tag, None)
    assert new == known
    after = pydicom.dcmread(io.BytesIO(out), force=True)
    assert str(after.PatientName) == "=".join(value.values())
    for element in before:
        if f"{int(element.tag):08X}" not in ours and element.tag.element:
            assert after[element.tag] == element
    again, same = edited(out, *changes)
    assert (again.changed, same) == ((), out)


def explicit_file(*before: bytes, after: bytes = b"", syntax: str = "1.2.840.10008.1.2.1", order: str = "<") -> bytes:
    return part10(identity(order=order) + b"".join(before) + after, syntax=syntax)


class TestWhatStays:
    PRIVATE = explicit(0x00110010, "LO", b"ACME") + explicit(0x00111001, "OB", bytes(range(64)))

    @pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", DEFLATED])
    def test_only_the_element_and_the_history_differ(self, syntax: str) -> None:
        old = explicit(0x00100010, "PN", b"Old^Name")
        pixels = explicit(0x7FE00010, "OB", bytes(12))
        data = explicit_file(old, self.PRIVATE, image(rows=2, columns=6), pixels, syntax=syntax)
        _, out = edited(data, name())
        if syntax == DEFLATED:
            assert len(out) % 2 == 0
            data, out = inflated_bytes(data), inflated_bytes(out)
        begin = out.index(b"\0\4\x61\5SQ")
        item_end = begin + 12 + struct.unpack_from("<I", out, begin + 8)[0]
        history = out[begin:item_end]
        assert out.replace(history, b"").replace(explicit(0x00100010, "PN", b"New^Name"), old) == data
        assert old in history

    def test_big_endian_stays_big_endian(self) -> None:
        data = explicit_file(
            explicit(0x00100010, "PN", b"Old^Name", order=">"),
            explicit(0x00280010, "US", b"\0\2", order=">"),
            syntax=BIG_ENDIAN,
            order=">",
        )
        _, out = edited(data, name(), Change(tag=ID, vr="LO", values=["7"]))
        after = pydicom.dcmread(io.BytesIO(out))
        assert (after.PatientName, after.PatientID, after.Rows) == ("New^Name", "7", 2)
        assert after.original_encoding == (False, False)
        assert after[ORIGINAL][0][0x04000550][0].PatientName == "Old^Name"

    def test_implicit_stays_implicit(self) -> None:
        _, out = edited(part10(implicit_identity() + implicit(0x00100010, b"Old^Name"), syntax=IMPLICIT), name())
        after = pydicom.dcmread(io.BytesIO(out))
        assert after.original_encoding == (True, True)
        assert (after.PatientName, after[ORIGINAL][0][0x04000550][0].PatientName) == ("New^Name", "Old^Name")

    @pytest.mark.parametrize("head", [b"", b"DICM", bytes(128) + b"DICM"])
    def test_a_file_without_preamble_or_meta_header(self, head: bytes) -> None:
        data = head + identity() + explicit(0x00100010, "PN", b"Old^Name")
        _, out = edited(data, name())
        assert out.startswith(head + identity()[:60])
        assert values(out, NAME) == [PLAIN]

    @pytest.mark.parametrize("filling", [bytes(3), bytes(600), b"\r\n"])
    def test_what_fills_a_file_up_is_not_taken_for_elements(self, filling: bytes) -> None:
        odd = explicit(0x00080060, "??", b"CT") + explicit(0x00100010, "PN", b"Old^Name")
        _, data = edited(part10(identity() + odd) + filling, name())
        assert values(data, NAME) == [PLAIN]
        assert values(data, "00080060") == ["CT"]
        assert original(data)["04000550"]["Value"] == [{NAME: {"vr": "PN", "Value": [{"Alphabetic": "Old^Name"}]}}]

    def test_a_large_file_takes_no_memory(self) -> None:
        head = part10(identity() + explicit(0x00100010, "PN", b"Old^Name") + image(rows=30000, columns=30000))
        pixels, size = explicit(0x7FE00010, "OB", b"", length=900_000_000), 900_000_000

        def read(start: int, length: int) -> bytes:
            front = head + pixels
            length = min(length, len(front) + size - start)
            return front[start : start + length].ljust(length, b"\0")

        start, encoding = data_set_start(read, len(head) + len(pixels) + size)
        edit = FileEdit(changes=[name()], made_at=datetime.now(UTC), system="x", code="CORRECT")
        tracemalloc.start()
        try:
            found = edit_file(edit, read=read, size=len(head) + len(pixels) + size, start=start, encoding=encoding)
            written = sum(map(len, found.chunks()))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert written == found.size_bytes
        assert peak < 8 << 20


class TestWhatWasThere:
    def test_the_item(self) -> None:
        _, out = edited(
            explicit_file(explicit(0x00100010, "PN", b"Old^Name")), name(), Change(tag=ID, vr="LO", values=["7"])
        )
        found = original(out)
        assert found["04000550"]["Value"] == [
            {NAME: {"vr": "PN", "Value": [{"Alphabetic": "Old^Name"}]}, ID: {"vr": "LO"}}
        ]
        assert found["04000562"]["Value"] == ["20260504030201.000000+0000"]
        assert found["04000563"]["Value"] == ["dicomweb-server"]
        assert found["04000564"] == {"vr": "LO"}
        assert found["04000565"]["Value"] == ["CORRECT"]

    @pytest.mark.parametrize("form", ["defined", "open", "un", "empty"])
    def test_earlier_items_stay(self, form: str) -> None:
        inside = explicit(0x04000565, "CS", b"COERCE")
        sequence = {
            "defined": explicit(0x04000561, "SQ", item(inside, defined=True)),
            "open": explicit(0x04000561, "SQ", item(inside) + SEQUENCE_END, length=UNDEFINED),
            "un": explicit(0x04000561, "UN", item(implicit(0x04000565, b"COERCE"), defined=True)),
            "empty": explicit(0x04000561, "SQ", b""),
        }[form]
        data = explicit_file(explicit(0x00100010, "PN", b"Old^Name"), sequence)
        _, out = edited(data, name())
        items = header(out).attributes[ORIGINAL]["Value"]
        assert [one["04000565"]["Value"][0] for one in items] == ["COERCE", "CORRECT"][form == "empty" :]
        assert items[-1]["04000550"]["Value"][0][NAME]["Value"] == [{"Alphabetic": "Old^Name"}]
        reread = pydicom.dcmread(io.BytesIO(out))
        assert len(reread[ORIGINAL].value) == len(items)

    def test_a_sequence_is_replaced_whole(self) -> None:
        old = explicit(0x00101002, "SQ", item(explicit(0x00100020, "LO", b"A1")) + SEQUENCE_END, length=UNDEFINED)
        new = Change(tag="00101002", vr="SQ", values=[{ID: {"vr": "LO", "Value": ["B22"]}}])
        found, out = edited(explicit_file(old), new)
        assert found.changed == ("00101002",)
        assert values(out, "00101002") == [{ID: {"vr": "LO", "Value": ["B22"]}}]
        assert original(out)["04000550"]["Value"][0]["00101002"]["Value"] == [{ID: {"vr": "LO", "Value": ["A1"]}}]
        assert edited(out, new)[0].changed == ()


class TestEmptied:
    def test_what_must_be_there_stays_without_a_value(self) -> None:
        data = explicit_file(explicit(0x00100010, "PN", b"Old^Name"), explicit(0x00104000, "LT", b"text"))
        found, out = edited(data, Change(tag=NAME, vr="PN", stays=True), Change(tag=COMMENTS, vr="LT"))
        assert found.changed == (NAME, COMMENTS)
        assert header(out).attributes[NAME] == {"vr": "PN"}
        assert COMMENTS not in header(out).attributes

    def test_what_is_not_there_or_empty_is_unchanged(self) -> None:
        data = explicit_file(explicit(0x00104000, "LT", b""))
        found, out = edited(data, Change(tag=NAME, vr="PN", stays=True), Change(tag=COMMENTS, vr="LT"))
        assert (found.changed, out) == ((), data)


class TestCharacterSets:
    @pytest.mark.parametrize(
        ("charset", "text", "stays"),
        [
            (b"ISO_IR 100", "Müller^Jörg", True),
            (b"ISO_IR 192", "Müller^Łukasz", True),
            (b"\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎", True),
            (b"ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ", True),
            (b"GB18030 ", "Wang=王^小东", True),
            (b"ISO_IR 100", "Müller^Łukasz", False),
            (b"ISO_IR 13", "ﾔﾏﾀﾞ=山田", False),
            (b"", "Müller", False),
        ],
    )
    def test_it_is_changed_only_where_the_value_does_not_fit(self, charset: bytes, text: str, stays: bool) -> None:
        value = dict(zip(("Alphabetic", "Ideographic"), text.split("="), strict=False))
        data = part10(explicit(0x00080005, "CS", charset) + identity() + explicit(0x00100010, "PN", b"Old^Name"))
        found, out = edited(data, name(value))
        assert found.converted is not stays
        assert values(out, NAME) == [value]
        after = pydicom.dcmread(io.BytesIO(out))
        assert str(after.PatientName) == text
        assert after.SpecificCharacterSet == (
            "ISO_IR 192" if not stays else pydicom.dcmread(io.BytesIO(data))[CHARSET].value
        )

    def test_all_texts_are_converted_also_in_sequences_with_one_of_their_own(self) -> None:
        greek = explicit(0x00080005, "CS", b"ISO_IR 126") + explicit(0x00100010, "PN", "Διον".encode("iso8859_7"))
        latin = explicit(0x00081030, "LO", "Schädel".encode("latin-1") + b" ")
        nested = explicit(0x00081110, "SQ", item(latin + explicit(0x00081115, "SQ", item(greek)), defined=True))
        creator = explicit(0x00290010, "LO", b"ACME")
        private = explicit(0x00291001, "LO", "Größe".encode("latin-1") + b" ") + explicit(0x00291002, "UN", b"\xe4\xff")
        elements = [
            explicit(0x00080000, "UL", struct.pack("<I", 2000)),
            explicit(0x00080005, "CS", b"ISO_IR 100"),
            identity()[:0],
        ]
        data = part10(b"".join(elements) + identity()[: len(identity())] + nested + creator + private)
        found, out = edited(data, name(FOREIGN))
        assert found.converted
        assert values(out, "00081110") == values(data, "00081110")
        assert values(out, "00291001") == ["Größe"]
        assert header(out).attributes["00291002"] == header(data).attributes["00291002"]
        assert pydicom.dcmread(io.BytesIO(out))[0x00081110][0].StudyDescription == "Schädel"
        assert "Schädel".encode() in out
        assert "Διον".encode() in out

    def test_what_was_there_keeps_its_bytes_and_its_character_set(self) -> None:
        old = "Müller^Jörg".encode("latin-1") + b" "
        data = part10(explicit(0x00080005, "CS", b"ISO_IR 100") + identity() + explicit(0x00100010, "PN", old))
        _, out = edited(data, name(FOREIGN))
        assert explicit(0x00100010, "PN", old) in out
        (was,) = original(out)["04000550"]["Value"]
        assert was[NAME]["Value"] == [{"Alphabetic": "Müller^Jörg"}]
        item_of = pydicom.dcmread(io.BytesIO(out))[ORIGINAL][0][0x04000550][0]
        assert (item_of.SpecificCharacterSet, str(item_of.PatientName)) == ("ISO_IR 100", "Müller^Jörg")

    def test_a_text_that_cannot_be_read_is_not_lost(self) -> None:
        broken = explicit(0x00081030, "LO", b"\xff\xfe\xfd\xfc")
        data = part10(explicit(0x00080005, "CS", b"ISO_IR 13") + identity() + broken)
        with pytest.raises(Conflict, match=r"\(0008,1030\) cannot be read"):
            edited(data, name(FOREIGN))
        _, out = edited(data, name())
        assert broken in out


class TestGroupLengths:
    def test_they_are_right_again(self) -> None:
        group = explicit(0x00100010, "PN", b"Old^Name") + explicit(0x00100020, "LO", b"7 ")
        data = part10(
            identity()[:0]
            + explicit(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0")
            + explicit(0x00080018, "UI", b"1.2.3.4.5\0")
            + explicit(0x00100000, "UL", struct.pack("<I", len(group)))
            + group
            + explicit(0x00200000, "UL", struct.pack("<I", 28))
            + explicit(0x0020000D, "UI", b"1.2.3\0")
            + explicit(0x0020000E, "UI", b"1.2.34")
        )
        _, out = edited(
            data, name({"Alphabetic": "A^Longer^Name"}), Change(tag="00104000", vr="LT", values=["at the end"])
        )
        begin = out.index(b"\x10\0\0\0UL\4\0") + 8
        (length,) = struct.unpack_from("<I", out, begin)
        assert out[begin + 4 + length :].startswith(b"\x20\0\0\0UL\4\0" + struct.pack("<I", 28))


def test_a_damaged_file_is_refused() -> None:
    data = explicit_file(explicit(0x00100010, "PN", b"Old^Name"))
    with pytest.raises(BadDicom), warnings.catch_warnings():
        edited(data + explicit(0x00104000, "LT", b"x", length=500), name())
