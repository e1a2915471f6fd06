"""What reading one header costs: ours beside pydicom's way to the same DICOM JSON, in milliseconds.

    python benchmarks/header.py [FILE or FOLDER ...]

Without arguments: a synthetic CT and the sample files of pydicom's wheel.
"""

import argparse
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.errors import BadDicom

CT_ELEMENTS = 180


def synthetic_ct() -> bytes:
    """A CT of 512 by 512 pixels with some 200 elements, a few of them in sequences."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    ds.SpecificCharacterSet, ds.Modality, ds.Manufacturer = "ISO_IR 100", "CT", "Bench & Sons"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240102"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000.123456"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Änne", "P-1", "19700101", "F"
    ds.StudyDescription, ds.SeriesDescription = "Thorax nativ", "Lunge 1.0 B60f"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-180.5, -200.25, 1.5], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness, ds.KVP, ds.XRayTubeCurrent = [0.7, 0.7], 1, 120, 200
    ds.WindowCenter, ds.WindowWidth, ds.RescaleIntercept, ds.RescaleSlope = [40, -600], [400, 1200], -1024, 1
    ds.Rows = ds.Columns = 512
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-D3000", "SRT", "Chest"
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, generate_uid()
    ds.AnatomicRegionSequence, ds.ProcedureCodeSequence = [code], [code]
    ds.ReferencedImageSequence = [reference] * 3
    for block in (0x19, 0x29):
        ds.add_new(block << 16 | 0x10, "LO", "BENCH HEADER")
    number = 0
    while _elements(ds) < CT_ELEMENTS:
        tag = (0x19 if number % 2 else 0x29) << 16 | 0x1000 + number
        ds.add_new(tag, *(("LO", "some text"), ("DS", [1.5, 2.5]), ("US", 7), ("CS", "YES"), ("FD", 0.1))[number % 5])
        number += 1
    ds.PixelData = bytes(512 * 512 * 2)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _elements(ds: Dataset) -> int:
    return sum(1 for _ in ds.iterall())


def _json_elements(attributes: dict[str, dict[str, Any]]) -> int:
    return sum(
        1 + sum(_json_elements(item) for item in element.get("Value", ())) if element["vr"] == "SQ" else 1
        for element in attributes.values()
    )


def _with_pydicom(file: io.BufferedIOBase) -> None:
    file.seek(0)
    pydicom.dcmread(file, defer_size=1024, stop_before_pixels=True, force=True).to_json_dict()


def _milliseconds(work: Callable[[], object], seconds: float) -> float:
    """The fastest of the runs that fit into the time: the one that was disturbed least."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best * 1000


def _inputs(paths: Iterable[Path]) -> Iterator[tuple[str, bytes]]:
    given = list(paths)
    if not given:
        yield "synthetic CT", synthetic_ct()
        given = [Path(pydicom.__file__).parent / "data" / "test_files"]
    for path in given:
        for file in sorted(path.rglob("*.dcm")) if path.is_dir() else [path]:
            yield file.name, file.read_bytes()


def main() -> None:
    """Print one line per file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders instead of the sample files")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each measurement (default 0.1)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"{'file':44} {'elements':>8} {'ours ms':>8} {'us each':>8} {'pydicom ms':>10} {'ratio':>6}")
    for name, data in _inputs(options.paths):
        file = io.BytesIO(data)
        try:
            count = _json_elements(read_header(file).attributes)
            theirs = _milliseconds(partial(_with_pydicom, file), options.seconds)
        except BadDicom as exc:
            print(f"{name:44} refused: {exc.message[:60]}")
            continue
        except (ValueError, AttributeError, TypeError, OSError) as exc:
            print(f"{name:44} pydicom fails: {type(exc).__name__}")
            continue
        ours = _milliseconds(partial(read_header, file), options.seconds)
        print(f"{name:44} {count:8} {ours:8.3f} {1000 * ours / count:8.2f} {theirs:10.3f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
