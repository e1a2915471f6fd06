"""Data sets in another encoding: what pydicom reads before and after is the same."""

import io
import struct
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicomweb_server.dicom.plans import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding
from dicomweb_server.dicom.rewrite import element_head, rewrite
from dicomweb_server.errors import BadDicom

ENCODINGS = {"explicit": EXPLICIT_LITTLE, "implicit": IMPLICIT_LITTLE, "big": EXPLICIT_BIG}


def written(ds: Dataset, encoding: Encoding) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = not encoding.explicit, not encoding.big_endian
    write_dataset(out, ds)
    return out.getvalue()


def read(data: bytes, *, explicit: bool) -> Dataset:
    ds = read_dataset(io.BytesIO(data), not explicit, True)
    ds.walk(lambda _, element: None)
    return ds


def sample() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID, ds.StudyDate = "Bäcker^Jörg", "4711", "20240102"
    ds.PixelRepresentation = 1
    ds.SmallestImagePixelValue = -5
    ds.PixelSpacing, ds.Rows, ds.FrameTime = [0.5, 0.25], 512, "33.3"
    ds.AcquisitionDateTime = ""
    ds.RealWorldValueMappingSequence = Sequence([Dataset(), Dataset()])
    ds.RealWorldValueMappingSequence[0].RealWorldValueSlope = 1.5
    ds.RealWorldValueMappingSequence[0].DoubleFloatRealWorldValueFirstValueMapped = -3.25
    ds.FrameIncrementPointer = 0x00181063
    ds.RedPaletteColorLookupTableData = bytes(range(16))
    block = ds.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", "private")
    block.add_new(2, "FD", 1.25)
    return ds


@pytest.mark.parametrize("source", ENCODINGS)
@pytest.mark.parametrize("explicit", [True, False], ids=["to-explicit", "to-implicit"])
def test_the_elements_stay_the_same(source: str, explicit: bool) -> None:
    ds = sample()
    if source == "big":
        del ds.RedPaletteColorLookupTableData  # pydicom leaves the byte order of OW to the caller
    found = read(
        rewrite(written(ds, ENCODINGS[source]), ENCODINGS[source], explicit=explicit, signed=True), explicit=explicit
    )
    public = [element for element in ds if not element.tag.is_private]
    assert [found[element.tag].value for element in public] == [element.value for element in public]
    assert {element.tag for element in found} == {element.tag for element in ds}
    if source != "implicit" and explicit:
        assert found == ds


def test_the_same_encoding_keeps_the_bytes() -> None:
    data = written(sample(), EXPLICIT_LITTLE)
    flat = data[: data.index(struct.pack("<HH", 0x0040, 0x9096))]
    assert rewrite(data, EXPLICIT_LITTLE, explicit=True).startswith(flat)


def test_patches_take_their_places() -> None:
    ds = Dataset()
    ds.PatientID, ds.Rows, ds.BitsAllocated = "1", 4, 16
    patches = {
        "00280100": ("US", b"\x08\0"),
        "00280010": None,
        "00280004": ("CS", b"RGB"),
        "00282110": ("CS", b"01"),
        "00080008": ("CS", b"ORIGINAL"),
    }
    found = read(rewrite(written(ds, EXPLICIT_LITTLE), EXPLICIT_LITTLE, explicit=True, patches=patches), explicit=True)
    assert [str(element.tag) for element in found] == [
        "(0008,0008)", "(0010,0020)", "(0028,0004)", "(0028,0100)", "(0028,2110)",
    ]  # fmt: skip
    assert (found.BitsAllocated, found.PhotometricInterpretation) == (8, "RGB")


def test_a_value_too_long_for_its_vr_becomes_un() -> None:
    data = element_head("00104000", "LT", 70_000, explicit=False) + b"a" * 70_000
    found = rewrite(data, IMPLICIT_LITTLE, explicit=True)
    assert found == element_head("00104000", "UN", 70_000, explicit=True) + b"a" * 70_000
    assert found[4:6] == b"UN"


def test_group_lengths_and_padding_are_left_out_and_unknown_vrs_are_un() -> None:
    data = (
        element_head("00080000", "UL", 4, explicit=True) + bytes(4)
        + b"\x10\x00\x20\x00ZZ\x02\x00ab"
        + element_head("FFFCFFFC", "OB", 2, explicit=True) + bytes(2)
    )  # fmt: skip
    assert rewrite(data, EXPLICIT_LITTLE, explicit=True) == element_head("00100020", "UN", 2, explicit=True) + b"ab"


def test_a_sequence_with_compressed_pixels_is_left_out() -> None:
    icon = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + element_head("7FE00010", "OB", 0xFFFFFFFF, explicit=True)
    icon += b"\xfe\xff\x00\xe0\0\0\0\0" + b"\xfe\xff\x00\xe0\2\0\0\0\xff\xd8" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    icon += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    behind = element_head("00880300", "SH", 2, explicit=True) + b"ok"
    data = element_head("00880200", "SQ", 0xFFFFFFFF, explicit=True) + icon + behind
    assert rewrite(data, EXPLICIT_LITTLE, explicit=True) == behind


@settings(derandomize=True, max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), source=st.sampled_from(sorted(ENCODINGS)), explicit=st.booleans())
def test_rubbish_is_refused_or_copied(data: bytes, source: str, explicit: bool) -> None:
    try:
        found = rewrite(data, ENCODINGS[source], explicit=explicit)
    except BadDicom:
        return
    assert len(found) <= 4 * len(data) + 64


@settings(derandomize=True, max_examples=100, deadline=None)
@given(cut=st.integers(0, 2000), at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_damage_is_refused_or_copied(cut: int, at: int, byte: int) -> None:
    data = bytearray(written(sample(), EXPLICIT_LITTLE)[: -1 - cut % 100])
    data[at % len(data)] = byte
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rewrite(bytes(data), EXPLICIT_LITTLE, explicit=False)
        except BadDicom:
            return


def test_lengths_of_16_bits_and_what_fills_a_file_up() -> None:
    odd = struct.pack("<HH2sH2s", 0x0008, 0x0060, b"CS", 2, b"CT") + struct.pack(
        "<HH2sH2s", 0x0010, 0x0020, b"??", 2, b"ID"
    )
    odd += struct.pack("<HH2sH", 0x0029, 0x1010, b"OB", 2)
    found = read(rewrite(odd + b"\1\2" + bytes(3), EXPLICIT_LITTLE, explicit=False), explicit=False)
    assert found.PatientID == "ID"
    assert found[0x00291010].value == b"\1\2"
    assert len(found) == 3


def test_an_empty_element_of_an_unknown_vr_is_read_as_the_reader_does() -> None:
    """Two zeros behind a VR that no standard knows are its length, where no length of 32 bits would fit."""
    odd = struct.pack("<HH2sH", 0x0009, 0x1001, b"QQ", 0)
    name = element_head("00100010", "PN", 4, explicit=True) + b"A^B "
    found = read(rewrite(odd + name, EXPLICIT_LITTLE, explicit=True), explicit=True)
    assert (found[0x00091001].value or b"", found.PatientName) == (b"", "A^B")
