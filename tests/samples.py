"""Small DICOM files for tests, written by pydicom: an independent opinion on the format."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"


def instance(
    study_uid: str | None = None, series_uid: str | None = None, instance_uid: str | None = None, **attributes: Any
) -> Dataset:
    """A small secondary capture of 8 x 8 pixels; keywords set or (None) delete attributes."""
    ds = Dataset()
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.StudyInstanceUID = study_uid or generate_uid()
    ds.SeriesInstanceUID = series_uid or generate_uid()
    ds.SOPInstanceUID = instance_uid or generate_uid()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.Modality, ds.PatientID, ds.PatientName, ds.StudyDate = "OT", "P1", "Doe^Jane", "20240102"
    ds.StudyTime, ds.StudyID, ds.InstanceNumber, ds.AccessionNumber = "101500", "S1", 1, "A1"
    ds.Rows = ds.Columns = 8
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.SamplesPerPixel, ds.PixelRepresentation = 7, 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(range(64))
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def part10(ds: Dataset, *, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The data set as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(ds.get("SOPInstanceUID") or "1.2.3")
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def url(ds: Dataset) -> str:
    """The path of the instance below the DICOMweb root."""
    return f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"


def envelope(files: Sequence[bytes], *, boundary: str = "frontier", media: str = "application/dicom") -> bytes:
    """The files as multipart/related."""
    head = f"--{boundary}\r\nContent-Type: {media}\r\n\r\n".encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()


RELATED = 'multipart/related; type="application/dicom"; boundary=frontier'


def _uids(path: Path) -> list[str]:
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
    except Exception:  # the samples hold broken files on purpose
        return []
    return [str(ds.get(k, "")) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")]


def sample_files() -> list[Path]:
    """Every readable sample of pydicom's wheel and, with DICOM_CORPUS, of the corpus: the first of each UID."""
    folders = [PYDICOM_FILES]
    if corpus := os.environ.get("DICOM_CORPUS"):
        folders.append(Path(corpus))
    found: dict[str, Path] = {}
    for path in sorted(p for folder in folders for p in folder.rglob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's opinion on its samples
            uids = _uids(path)
        if uids and all(uid and set(uid) <= set("0123456789.") for uid in uids):
            found.setdefault(uids[2], path)
    return list(found.values())


needs_corpus = pytest.mark.skipif(
    "DICOM_CORPUS" not in os.environ, reason="set DICOM_CORPUS to a folder of DICOM files to run this"
)
