"""Objects that go with an image: a segmentation of it, a PDF, and a video."""

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG4HP41,
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
    VideoEndoscopicImageStorage,
    generate_uid,
)

from tests.browser import film

PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)
SEGMENT_LABEL = "Middle square"


def pdf(study_uid: str, name: str) -> bytes:
    """An encapsulated PDF in a study of its own."""
    ds = _begun(study_uid, name, "DOC", EncapsulatedPDFStorage)
    ds.DocumentTitle, ds.BurnedInAnnotation, ds.ConversionType = "Report", "YES", "WSD"
    ds.MIMETypeOfEncapsulatedDocument, ds.EncapsulatedDocument = "application/pdf", PDF + b"\n" * (len(PDF) % 2)
    return _written(ds)


def video(study_uid: str, name: str, *, fragments: int = 1) -> bytes:
    """An endoscopic video in a study of its own: the film of `film.py`, in so many fragments."""
    ds = _begun(study_uid, name, "ES", VideoEndoscopicImageStorage)
    ds.Rows, ds.Columns, ds.NumberOfFrames = film.ROWS, film.COLUMNS, film.FRAMES
    ds.FrameTime = str(1000 // film.FRAMES_PER_SECOND)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "YBR_PARTIAL_420", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.LossyImageCompression = 7, 0, "01"
    ds.PixelData = encapsulate([film.mp4()], fragments_per_frame=fragments, has_bot=False)
    ds["PixelData"].VR = "OB"
    return _written(ds, MPEG4HP41)


def segmentation(image: bytes) -> bytes:
    """A segmentation of the square in the middle of the image, in a series of its own."""
    source = pydicom.dcmread(io.BytesIO(image))
    ds = _begun(source.StudyInstanceUID, str(source.PatientName), "SEG", SegmentationStorage)
    ds.PatientID, ds.FrameOfReferenceUID = source.PatientID, source.FrameOfReferenceUID
    ds.ImageType, ds.ContentLabel, ds.SegmentationType = ["DERIVED", "PRIMARY"], "SEGMENTATION", "BINARY"
    ds.SeriesDescription, ds.ContentDescription, ds.ContentCreatorName = "Segmentation", "", ""
    ds.Rows, ds.Columns, ds.NumberOfFrames = source.Rows, source.Columns, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated = ds.BitsStored = 1
    ds.HighBit, ds.LossyImageCompression = 0, "00"
    ds.ReferencedSeriesSequence = [_referenced_series(source)]
    ds.SegmentSequence = [_segment()]
    ds.SharedFunctionalGroupsSequence = [_shared(source)]
    ds.PerFrameFunctionalGroupsSequence = [_frame(source)]
    ds.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=generate_uid())]
    mask = np.zeros((source.Rows, source.Columns), dtype=np.uint8)
    mask[source.Rows // 4 : -source.Rows // 4, source.Columns // 4 : -source.Columns // 4] = 1
    ds.PixelData = np.packbits(mask, bitorder="little").tobytes()
    return _written(ds)


def _item(**attributes: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, Sequence(value) if keyword.endswith("Sequence") else value)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _referenced_series(source: Dataset) -> Dataset:
    instance = _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    return _item(SeriesInstanceUID=source.SeriesInstanceUID, ReferencedInstanceSequence=[instance])


def _segment() -> Dataset:
    return _item(
        SegmentNumber=1,
        SegmentLabel=SEGMENT_LABEL,
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=[_code("123037004", "SCT", "Anatomical Structure")],
        SegmentedPropertyTypeCodeSequence=[_code("39607008", "SCT", "Lung")],
        RecommendedDisplayCIELabValue=[34885, 53485, 50171],
    )


def _shared(source: Dataset) -> Dataset:
    return _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=source.ImageOrientationPatient)],
        PixelMeasuresSequence=[_item(PixelSpacing=source.PixelSpacing, SliceThickness=source.SliceThickness)],
    )


def _frame(source: Dataset) -> Dataset:
    image = _item(
        ReferencedSOPClassUID=source.SOPClassUID,
        ReferencedSOPInstanceUID=source.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[_code("121322", "DCM", "Source image for image processing operation")],
    )
    derivation = _item(SourceImageSequence=[image], DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")])
    return _item(
        FrameContentSequence=[_item(DimensionIndexValues=[1, 1])],
        PlanePositionSequence=[_item(ImagePositionPatient=source.ImagePositionPatient)],
        DerivationImageSequence=[derivation],
        SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=1)],
    )


def _begun(study_uid: str, name: str, modality: str, sop_class: str) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = name, name.partition("^")[2], modality
    ds.StudyDate, ds.StudyTime, ds.SeriesNumber, ds.InstanceNumber = "20240102", "101500", 9, 1
    return ds


def _written(ds: Dataset, transfer_syntax_uid: UID = ExplicitVRLittleEndian) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = transfer_syntax_uid
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()
