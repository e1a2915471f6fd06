"""Two small studies to ask about, where the server may be written to."""

import io
import uuid
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

SIDE = 64
INSTANCES_OF_A_STUDY = 2
PATIENT_NAME, PATIENT_ID = "Doctor^Check", "DICOMWEB-DOCTOR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A study of one series: its UIDs, and its instances as files."""

    study_uid: str
    series_uid: str
    instance_uids: tuple[str, ...]
    files: tuple[bytes, ...]


def make_samples() -> tuple[Sample, Sample]:
    """A CT and an MR study with UIDs of their own."""
    return _study("CT", CTImageStorage), _study("MR", MRImageStorage)


def _new_uid() -> str:
    return f"2.25.{uuid.uuid4().int}"


def _study(modality: str, sop_class: UID) -> Sample:
    study_uid, series_uid = _new_uid(), _new_uid()
    instances = [_instance(modality, sop_class, number) for number in range(1, INSTANCES_OF_A_STUDY + 1)]
    for ds in instances:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
    return Sample(
        study_uid=study_uid,
        series_uid=series_uid,
        instance_uids=tuple(str(ds.SOPInstanceUID) for ds in instances),
        files=tuple(_part10(ds) for ds in instances),
    )


def _instance(modality: str, sop_class: UID, number: int) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, _new_uid()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = PATIENT_NAME, PATIENT_ID, "19700101", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101500", "1", "DOCTOR"
    ds.StudyDescription, ds.SeriesDescription, ds.Modality = "Check of a DICOMweb server", "Ramp", modality
    ds.SeriesNumber, ds.InstanceNumber, ds.FrameOfReferenceUID = 1, number, None
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.Rows = ds.Columns = SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel, ds.PixelRepresentation = 16, 12, 11, 1, 0
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    ds.RescaleIntercept, ds.RescaleSlope, ds.WindowCenter, ds.WindowWidth = 0, 1, 2048, 4096
    ds.PixelData = b"".join(((x + y) * 32 % 4096).to_bytes(2, "little") for y in range(SIDE) for x in range(SIDE))
    return ds


def _part10(ds: Dataset) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
