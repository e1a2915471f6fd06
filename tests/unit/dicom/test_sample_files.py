"""The JSON of every sample file equals pydicom's, but for a list of differences where ours is right.

The files are those in pydicom's wheel; set DICOM_CORPUS to a folder to add those in it.
"""

import base64
import io
import os
import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import orjson
import pydicom
import pytest

from dicomweb_server.dicom.json_model import WORD_BYTES, swap_words
from dicomweb_server.dicom.part10 import Header, inflate, read_header
from dicomweb_server.errors import BadDicom
from tests.unit.dicom.files import INSTANCE, SERIES, SOP_CLASS, STUDY, even, explicit, implicit

WHEEL = Path(pydicom.__file__).parent / "data"
CORPUS = os.environ.get("DICOM_CORPUS")

# Cut in the middle of a value: pydicom gives what is there, or nothing.
CUT = {"MR_truncated.dcm", "rtplan_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}
# Malformed in a way that makes a comparison senseless: pydicom reads garbage (no_meta begins with a stray byte;
# DICOMDIR-nooffset has an item that leaves its sequence), or a UID is none.
MALFORMED = {"no_meta.dcm", "DICOMDIR-nooffset", "bad_sequence.dcm"}


def _files() -> list[Path]:
    folders = [WHEEL / "test_files", WHEEL / "charset_files", *([Path(CORPUS)] if CORPUS else [])]
    found = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if path.name not in CUT | MALFORMED and (path.suffix == ".dcm" or path.name.startswith("DICOMDIR"))
    ]


FILES = _files()


def read_complete(path: Path) -> tuple[bytes, pydicom.FileDataset]:
    """The file with the UIDs added that it lacks, and what pydicom makes of it."""
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        wanted = {0x00080016: SOP_CLASS, 0x00080018: INSTANCE, 0x0020000D: STUDY, 0x0020000E: SERIES}
        for tag, uid in wanted.items():
            if tag not in ds:
                is_implicit, is_little = ds.original_encoding
                order = "<" if is_little else ">"
                data += implicit(tag, even(uid)) if is_implicit else explicit(tag, "UI", even(uid), order=order)
        return data, pydicom.dcmread(io.BytesIO(data), force=True)


class Comparison:
    """Collects what differs between pydicom's JSON and ours."""

    def __init__(self, header: Header, data: bytes) -> None:
        self.header = header
        self.data = data
        self.differences: list[str] = []

    def data_sets(self, theirs: pydicom.Dataset, ours: dict[str, Any], path: str = "") -> None:
        """Compare one data set."""
        seen = set()
        for tag in list(theirs.keys()):
            key = f"{int(tag):08X}"
            # Ours leaves out group lengths, trailing padding and group 2, which PS3.18 F.2 does not want.
            if tag.element == 0 or tag.group == 2 or key == "FFFCFFFC":
                continue
            seen.add(key)
            self.element(theirs[tag], ours.get(key, {"vr": "absent"}), f"{path}{key}")
        # JSON is UTF-8, so (0008,0005) is that, also added where text needs it.
        self.expect(ours.keys() - seen <= {"00080005"}, f"{path}: added {ours.keys() - seen}")

    def element(self, theirs: pydicom.DataElement, ours: dict[str, Any], path: str) -> None:
        """Compare one element."""
        if path.endswith("00080005"):
            self.expect(ours == {"vr": "CS", "Value": ["ISO_IR 192"]}, f"{path}: {ours}")
            return
        self.expect(ours["vr"] == theirs.VR, f"{path}: vr {ours['vr']}, expected {theirs.VR}")
        if theirs.VR == "SQ":
            items = ours.get("Value", [])
            self.expect(len(items) == len(theirs.value), f"{path}: number of items")
            for number, (one, other) in enumerate(zip(theirs.value, items, strict=False), 1):
                self.data_sets(one, other, f"{path}/{number}/")
        elif theirs.VR in WORD_BYTES:
            self.binary(theirs, ours, path)
        else:
            expected = self.values(theirs)
            self.expect(ours.get("Value", []) == expected, f"{path}: {ours.get('Value')}, expected {expected}")

    def values(self, element: pydicom.DataElement) -> list[Any]:
        """The values that pydicom gives, with the differences that are wanted."""
        try:
            values = element.to_json_dict(None, 0).get("Value", [])
        except ValueError:
            # Text that is no number makes pydicom fail; ours gives the text.
            return [str(element.value)]
        if element.VR == "PN":
            # Only groups that are not empty.
            return [{group: text for group, text in value.items() if text} for value in values]
        if all(isinstance(value, str) for value in values):
            # Padding before a backslash is cut off as at the end; an empty value among others is null.
            return [value.rstrip(" \0") or None for value in values]
        return [None if value == "" else value for value in values]

    def binary(self, theirs: pydicom.DataElement, ours: dict[str, Any], path: str) -> None:
        """Compare inline or bulk bytes; large ones and pixel data are bulk data."""
        value = theirs.value or b""
        is_pixels = theirs.tag == 0x7FE00010
        if "BulkDataURI" in ours:
            header = self.header
            root = f"/studies/{header.study_uid}/series/{header.series_uid}/instances/{header.instance_uid}/bulkdata/"
            self.expect(ours["BulkDataURI"] == root + path, f"{path}: {ours}")
            self.expect(is_pixels or len(value) > 1024, f"{path}: {len(value)} bytes are bulk data")
            place = header.layout.bulk_element(path)
            assert place is not None
            found = self.data[place.offset : place.offset + place.length]
            self.expect(found == value and place.vr == theirs.VR, f"{path}: other bulk bytes")
            return
        self.expect(not (value and is_pixels) and len(value) <= 1024, f"{path}: {len(value)} bytes are inline")
        if self.header.layout.big_endian:
            # Inline binary is little endian (PS3.18 F.2.7); pydicom gives the bytes of the file.
            value = swap_words(value, WORD_BYTES[theirs.VR])
        self.expect(base64.b64decode(ours.get("InlineBinary", "")) == value, f"{path}: other inline bytes")

    def expect(self, holds: bool, text: str) -> None:
        """Note a difference."""
        if not holds:
            self.differences.append(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_json_equals_that_of_pydicom(path: Path) -> None:
    data, ds = read_complete(path)
    header = read_header(io.BytesIO(data))
    if header.layout.deflated:
        with inflate(io.BytesIO(data)) as inflated:
            data = inflated.read()
    comparison = Comparison(header, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison.data_sets(ds, header.attributes)
    assert comparison.differences == []
    assert orjson.loads(orjson.dumps(header.attributes)) == header.attributes


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "rtplan_truncated.dcm"])
def test_cut_sample_files_are_refused(name: str) -> None:
    with (WHEEL / "test_files" / name).open("rb") as file, pytest.raises(BadDicom, match="truncated"):
        read_header(file)


def test_a_real_file_and_bytes_in_memory_read_alike() -> None:
    path = WHEEL / "test_files" / "CT_small.dcm"
    with path.open("rb") as file:
        assert read_header(file) == read_header(io.BytesIO(path.read_bytes())) == read_header(file, path.stat().st_size)


def test_a_large_file_costs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.dcm"
    data = (WHEEL / "test_files" / "CT_small.dcm").read_bytes()
    ds_end = data.rindex(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    with path.open("wb") as file:
        file.write(data[:ds_end] + explicit(0x7FE00010, "OW", b"", length=2_000_000_000))
        file.truncate(file.tell() + 2_000_000_000)
    with path.open("rb") as file:
        read_header(file)
        tracemalloc.start()
        header = read_header(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert header.attributes["7FE00010"]["BulkDataURI"].endswith("/bulkdata/7FE00010")
    assert peak < 1_000_000
