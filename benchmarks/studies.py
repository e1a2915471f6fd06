"""Synthetic CT studies: a header of about 180 elements made with pydicom, each instance with its own UIDs and noise."""

import io
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MultiFrameGrayscaleWordSecondaryCaptureImageStorage

SIDE = 512
FRAME_BYTES = SIDE * SIDE * 2

_HEADER = r"""
SpecificCharacterSet=ISO_IR 100|ImageType=ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SPI|InstanceCreationDate=20240311
InstanceCreationTime=101512.482000|StudyDate=20240311|SeriesDate=20240311|AcquisitionDate=20240311|ContentDate=20240311
AcquisitionDateTime=20240311101459.120000|StudyTime=100233.120000|SeriesTime=101433.800000|AcquisitionTime=101459.120000
ContentTime=101459.120000|AccessionNumber=A2024031177|Modality=CT|Manufacturer=Example Medical Systems
InstitutionName=Example University Hospital|InstitutionAddress=1 Example Street, Example Town
ReferringPhysicianName=Doe^Jane^^Dr|StationName=CT-EXAMPLE-2|StudyDescription=CT THORAX ABDOMEN
SeriesDescription=Thorax 1.0 B70f|ManufacturerModelName=Definition X
InstitutionalDepartmentName=Radiology|PhysiciansOfRecord=Roe^Richard|PerformingPhysicianName=Poe^Edgar|OperatorsName=Moe^M
NameOfPhysiciansReadingStudy=Low^Ada|AdmittingDiagnosesDescription=Follow-up|PatientBirthDate=19590214|PatientSex=F
PatientAge=065Y|PatientSize=1.68|PatientWeight=71.5|OtherPatientIDs=MRN-0099-17|EthnicGroup=unknown|Occupation=teacher
PatientComments=synthetic|PregnancyStatus=4|BodyPartExamined=CHEST|ContrastBolusAgent=Iodine 350|ScanOptions=SPIRAL MODE
SliceThickness=1.0|KVP=120|DataCollectionDiameter=500|DeviceSerialNumber=55101|SoftwareVersions=syngo CT 2012B
ProtocolName=ThoraxAbdomen|SpacingBetweenSlices=0.7|ContrastBolusVolume=90|ContrastBolusTotalDose=90|ContrastFlowRate=3.0
ReconstructionDiameter=378|DistanceSourceToDetector=1085.6|DistanceSourceToPatient=595|GantryDetectorTilt=0|TableHeight=155
RotationDirection=CW|ExposureTime=500|XRayTubeCurrent=255|Exposure=127|FilterType=FLAT|GeneratorPower=38
FocalSpots=1.2|DateOfLastCalibration=20240311|TimeOfLastCalibration=062233.000000|ConvolutionKernel=B70f
PatientPosition=FFS|SingleCollimationWidth=0.6|TotalCollimationWidth=38.4|TableSpeed=46|TableFeedPerRotation=23
SpiralPitchFactor=0.6|CTDIvol=8.42|ExposureModulationType=XYZ_EC|EstimatedDoseSaving=38|StudyID=1|SeriesNumber=4
AcquisitionNumber=5|ImageOrientationPatient=1\0\0\0\1\0|PositionReferenceIndicator=XY|Laterality=|ImageComments=synthetic
SamplesPerPixel=1|PhotometricInterpretation=MONOCHROME2|Rows=512|Columns=512|PixelSpacing=0.73828125\0.73828125
BitsAllocated=16|BitsStored=12|HighBit=11|PixelRepresentation=0|SmallestImagePixelValue=0|LargestImagePixelValue=4095
BurnedInAnnotation=NO|WindowCenter=-600\40|WindowWidth=1200\400|RescaleIntercept=-1024|RescaleSlope=1|RescaleType=HU
WindowCenterWidthExplanation=LUNG\ABDOMEN|LossyImageCompression=00|RequestingPhysician=Doe^Jane
RequestingService=Oncology|RequestedProcedureDescription=CT THORAX ABDOMEN
RequestedContrastAgent=Iodine|StudyComments=none|CurrentPatientLocation=W4
PerformedStationAETitle=CTEXAMPLE2|PerformedProcedureStepStartDate=20240311|PerformedProcedureStepStartTime=100233.120000
PerformedProcedureStepEndDate=20240311|PerformedProcedureStepEndTime=101900.000000|PerformedProcedureStepID=CT2024031177
PerformedProcedureStepDescription=CT THORAX ABDOMEN|CommentsOnThePerformedProcedureStep=none|RequestedProcedureID=RP77
ReasonForTheRequestedProcedure=Staging|PatientIdentityRemoved=NO|IssuerOfPatientID=EXAMPLE|TimezoneOffsetFromUTC=+0100
AcquisitionType=SPIRAL|ReconstructionTargetCenterPatient=-10.5\-180.2\-290.0|TableTopPitchAngle=0|RevolutionTime=0.5
CollimatorType=NONE|PatientOrientation=L\P|ReconstructionAlgorithm=FILTER_BACK_PROJ|VolumetricProperties=VOLUME
"""
_CODES = (
    ("ProcedureCodeSequence", "CTTHAB", "99EXAMPLE", "CT thorax and abdomen"),
    ("AnatomicRegionSequence", "T-D3000", "SRT", "Chest"),
    ("CTDIPhantomTypeCodeSequence", "113691", "DCM", "IEC Body Dosimetry Phantom"),
    ("RequestedProcedureCodeSequence", "CTTHAB", "99EXAMPLE", "CT thorax and abdomen"),
)

# Markers of the length of what stands there in an instance, so that a copy needs no encoder.
_STUDY, _SERIES, _INSTANCE = ("1.2.826.0.1." + digit * 40 for digit in "789")
_PATIENT, _NUMBER, _PLACE = "BENCH-MARKER0000", "987654", "-98765.4321"


@dataclass(frozen=True, slots=True)
class Instance:
    """A Part 10 file and where it stands."""

    study_uid: str
    series_uid: str
    instance_uid: str
    blob: bytes


@dataclass(frozen=True, slots=True)
class Round:
    """What one round stores. `series` holds the instances of the longest series; `patients` begins each PatientID."""

    instances: list[Instance]
    series: list[Instance]
    patients: str
    studies: int


def _uid(marker: str) -> str:
    """A fresh UID as long as its marker."""
    width = len(marker) - len("1.2.826.0.1.")
    return "1.2.826.0.1." + f"1{uuid.uuid4().int:039d}"[:width].ljust(width, "0")


def header() -> Dataset:
    """The attributes of a CT slice as a scanner sends them, with markers in place of what differs; no pixel data."""
    ds = Dataset()
    for line in _HEADER.split("\n"):
        for entry in filter(None, line.split("|")):
            keyword, _, value = entry.partition("=")
            vr = dictionary_VR(keyword)
            ds.add_new(keyword, vr.split(" ")[0], _typed(vr, value))
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = _STUDY, _SERIES, _INSTANCE
    ds.FrameOfReferenceUID = _SERIES
    ds.PatientID, ds.PatientName = _PATIENT, f"Bench^{_PATIENT}"
    ds.InstanceNumber, ds.SliceLocation, ds.ImagePositionPatient = _NUMBER, _PLACE, ["-199.5", "-378.1", _PLACE]
    for keyword, value, scheme, meaning in _CODES:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
        setattr(ds, keyword, Sequence([code]))
    request, scheduled = Dataset(), Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "RP77", "SPS77"
    request.ScheduledProcedureStepDescription = "CT thorax"
    ds.RequestAttributesSequence = Sequence([request])
    scheduled.ReferencedSOPClassUID, scheduled.ReferencedSOPInstanceUID = CTImageStorage, _STUDY
    ds.ReferencedStudySequence = Sequence([scheduled])
    for group, creator in ((0x0019, "EXAMPLE CT VA0 COAD"), (0x0021, "EXAMPLE MED"), (0x0051, "EXAMPLE CT VA0 RAW")):
        block = ds.private_block(group, creator, create=True)
        for offset in range(12):
            block.add_new(offset, ("LO", "DS", "US")[offset % 3], (f"PRIVATE {offset}", "1.5", offset)[offset % 3])
    return ds


def _typed(vr: str, value: str) -> str | int | list[float]:
    if vr.startswith(("US", "SS", "UL")):
        return int(value)
    return [float(number) for number in value.split("\\")] if vr in ("FD", "FL") else value


def _encoded(ds: Dataset) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


class StudyMaker:
    """Makes rounds of instances by replacing the markers of one encoded header; `side`: rows and columns of a slice."""

    def __init__(self, side: int = SIDE) -> None:
        ds = header()
        ds.Rows = ds.Columns = side
        self._frame_bytes = 2 * side * side
        ds.PixelData = bytes(self._frame_bytes)
        self._head = _encoded(ds)[: -self._frame_bytes]
        # Twelve bits of noise in each 16-bit sample.
        self._mask = int.from_bytes(b"\x0f\xff" * (self._frame_bytes // 2), "big")

    def round(self, instances: int) -> Round:
        """The first 100 (at most) are one series of its own study; the rest go to a second study in series of 50."""
        patients = f"BENCH-{uuid.uuid4().hex[:6].upper()}"
        first = min(100, instances)
        sizes = [first, *(min(50, instances - start) for start in range(first, instances, 50))]
        made: list[Instance] = []
        study_uids = (_uid(_STUDY), _uid(_STUDY))
        for number, size in enumerate(sizes):
            study = min(number, 1)
            series_uid = _uid(_SERIES)
            patient = f"{patients}{study:04d}"
            made += [self._instance(study_uids[study], series_uid, patient, slice_ + 1) for slice_ in range(size)]
        return Round(made, made[:first], patients, min(2, len(sizes)))

    def _instance(self, study_uid: str, series_uid: str, patient: str, number: int) -> Instance:
        instance_uid = _uid(_INSTANCE)
        head = self._head
        for marker, value in (
            # The UIDs come last: by chance one has the digits of another marker in it.
            (_NUMBER, f"{number:06d}"),
            (_PLACE, f"{number * 0.7 - 9000:.4f}".ljust(len(_PLACE), "0")),
            (_PATIENT, patient),
            (_STUDY, study_uid),
            (_SERIES, series_uid),
            (_INSTANCE, instance_uid),
        ):
            head = head.replace(marker.encode(), value.ljust(len(marker)).encode())
        size = self._frame_bytes
        noise = (int.from_bytes(os.urandom(size), "big") & self._mask).to_bytes(size, "little")
        return Instance(study_uid, series_uid, instance_uid, head + noise)


@dataclass(frozen=True, slots=True)
class LargeInstance:
    """A multi-frame instance that is never in memory as a whole: `head`, then `frames` times one frame."""

    study_uid: str
    series_uid: str
    instance_uid: str
    head: bytes
    frame: bytes
    frames: int

    @property
    def size(self) -> int:
        return len(self.head) + len(self.frame) * self.frames

    def chunks(self) -> Iterator[bytes]:
        """The file, two frames (1 MiB) at a time."""
        yield self.head
        for _ in range(self.frames // 2):
            yield self.frame * 2


def large_instance(size_bytes: int) -> LargeInstance:
    """About `size_bytes` (below 4 GiB) of native frames in one instance."""
    frames = size_bytes // FRAME_BYTES // 2 * 2
    study_uid, series_uid, instance_uid = (_uid(marker) for marker in (_STUDY, _SERIES, _INSTANCE))
    ds = header()
    ds.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study_uid, series_uid, instance_uid
    ds.PatientID, ds.PatientName, ds.InstanceNumber = "BENCH-LARGE", "Bench^Large", "1"
    ds.NumberOfFrames = str(frames)
    ds.PixelData = bytes(2)
    head = _encoded(ds)[:-6] + (frames * FRAME_BYTES).to_bytes(4, "little")
    return LargeInstance(study_uid, series_uid, instance_uid, head, os.urandom(FRAME_BYTES), frames)
