"""What the attributes of a header are: their level, their names, and what patients, studies and series show of them."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

from dicomweb_server.dicom import dictionary
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest

Attributes = Mapping[str, Mapping[str, Any]]
Path = tuple[str, ...]

MAX_DEPTH = 16
"""Parts of the longest dotted path that is resolved."""

_TAG = re.compile(r"([0-9A-Fa-f]{8})")
_WRITTEN_TAG = re.compile(r"\(?([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)?")  # (0010,0020), as people and DCMTK write it
_LONGEST_KEYWORD = 80

# The modules of PS3.3 whose information entity is not the instance. TimezoneOffsetFromUTC is of the SOP Common module,
# but PS3.18 table 10.6.3-3 gives it back with studies and series.
_KEYWORDS = {
    Level.PATIENT: """
        PatientName PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence
        SourcePatientGroupIdentificationSequence GroupOfPatientsIdentificationSequence PatientBirthDate
        PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar
        PatientBirthTime PatientSex ReferencedPatientPhotoSequence QualityControlSubject
        ReferencedPatientSequence OtherPatientIDs OtherPatientNames
        OtherPatientIDsSequence PatientBirthName PatientMotherBirthName PatientAddress PatientTelephoneNumbers
        PatientTelecomInformation CountryOfResidence RegionOfResidence PatientReligiousPreference MilitaryRank
        BranchOfService PatientPrimaryLanguageCodeSequence PatientInsurancePlanCodeSequence MedicalRecordLocator
        ConfidentialityConstraintOnPatientDataDescription EthnicGroup PatientComments PatientSpeciesDescription
        PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence
        StrainDescription StrainNomenclature StrainCodeSequence StrainAdditionalInformation StrainStockSequence
        GeneticModificationsSequence ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization
        PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence ClinicalTrialSponsorName
        ClinicalTrialProtocolID ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName
        ClinicalTrialSubjectID ClinicalTrialSubjectReadingID ClinicalTrialProtocolEthicsCommitteeName
        ClinicalTrialProtocolEthicsCommitteeApprovalNumber NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries
        NumberOfPatientRelatedInstances""",
    Level.STUDY: """
        StudyInstanceUID StudyDate StudyTime TimezoneOffsetFromUTC ReferringPhysicianName ReferringPhysicianAddress
        ReferringPhysicianTelephoneNumbers ReferringPhysicianIdentificationSequence ConsultingPhysicianName
        ConsultingPhysicianIdentificationSequence StudyID AccessionNumber IssuerOfAccessionNumberSequence
        StudyDescription PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy
        PhysiciansReadingStudyIdentificationSequence RequestingPhysician RequestingService RequestingServiceCodeSequence
        RequestedProcedureDescription RequestedProcedureCodeSequence ReferencedStudySequence ProcedureCodeSequence
        ReasonForPerformedProcedureCodeSequence AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge
        PatientSize PatientWeight PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension
        PatientSizeCodeSequence MedicalAlerts Allergies SmokingStatus PregnancyStatus LastMenstrualDate PatientState
        Occupation AdditionalPatientHistory AdmissionID IssuerOfAdmissionID IssuerOfAdmissionIDSequence
        ServiceEpisodeID ServiceEpisodeDescription IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence
        PatientSexNeutered ReasonForVisit ReasonForVisitCodeSequence ClinicalTrialTimePointID
        ClinicalTrialTimePointDescription LongitudinalTemporalOffsetFromEvent LongitudinalTemporalEventType
        ClinicalTrialTimePointTypeCodeSequence ConsentForClinicalTrialUseSequence ModalitiesInStudy SOPClassesInStudy
        NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances InstitutionName""",
    Level.SERIES: """
        Modality SeriesInstanceUID SeriesNumber Laterality SeriesDate SeriesTime PerformingPhysicianName
        PerformingPhysicianIdentificationSequence ProtocolName SeriesDescription SeriesDescriptionCodeSequence
        OperatorsName OperatorIdentificationSequence ReferencedPerformedProcedureStepSequence RelatedSeriesSequence
        BodyPartExamined PatientPosition SmallestPixelValueInSeries LargestPixelValueInSeries RequestAttributesSequence
        PerformedProcedureStepID PerformedProcedureStepStartDate PerformedProcedureStepStartTime
        PerformedProcedureStepEndDate PerformedProcedureStepEndTime PerformedProcedureStepDescription
        PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep AnatomicalOrientationType TreatmentSessionUID
        ClinicalTrialCoordinatingCenterName ClinicalTrialSeriesID ClinicalTrialSeriesDescription FrameOfReferenceUID
        PositionReferenceIndicator Manufacturer InstitutionAddress InstitutionalDepartmentName
        InstitutionalDepartmentTypeCodeSequence StationName ManufacturerModelName ManufacturerDeviceClassUID
        DeviceSerialNumber SoftwareVersions GantryID UDISequence DeviceUID DateOfManufacture DateOfInstallation
        SpatialResolution DateOfLastCalibration TimeOfLastCalibration PresentationIntentType Units CountsSource
        SeriesType ReprojectionMethod NumberOfSlices NumberOfTimeSlices NumberOfRRIntervals NumberOfTimeSlots
        RandomsCorrectionMethod AttenuationCorrectionMethod ScatterCorrectionMethod DecayCorrection
        NumberOfSeriesRelatedInstances""",
}


def _tag(keyword: str) -> str:
    return f"{dictionary.TAGS[keyword]:08X}"


_LEVELS = {_tag(keyword): level for level, keywords in _KEYWORDS.items() for keyword in keywords.split()}

PATIENT_DIGEST, LAST_CHANGED = "0000FFF0", "0000FFF1"
"""What queries know of an entity besides attributes, under tags that no data set has: the digest of its patient's key,
and when it last changed, as the twenty digits of a date and time in UTC."""

COMPUTED = frozenset(
    [
        PATIENT_DIGEST,
        LAST_CHANGED,
        "00080054",
        "00080056",
        "00080061",
        "00080062",
        "00081190",
        "00083002",
        "00201200",
        "00201202",
        "00201204",
        "00201206",
        "00201208",
        "00201209",
    ]
)
"""Attributes of answers that the server computes; what a file says of them is never shown above the instance."""

_SELECTED = {
    level: frozenset(tag for tag, own in _LEVELS.items() if own.depth <= level.depth) - COMPUTED
    for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
}

_RETURNED = {
    Level.PATIENT: "00100010 00100020 00100021 00100030 00100040",
    Level.STUDY: """00080020 00080030 00080050 00080090 00080201 00081030 00100010 00100020 00100021 00100030 00100040
        0020000D 00200010""",
    Level.SERIES: """00080021 00080031 00080060 00080201 0008103E 00100010 00100020 00180015 0020000D 0020000E 00200011
        00400244 00400245 00400275""",
    Level.INSTANCE: """00080016 00080018 00080060 00080201 0020000D 0020000E 00200013 00280008 00280010 00280011
        00280100""",
}

RETURNED: Mapping[Level, tuple[str, ...]] = {level: tuple(tags.split()) for level, tags in _RETURNED.items()}
"""What a search always gives back, in tag order: PS3.18 tables 10.6.3-3 to -5 and what viewers need of the study and
series lists, without what is in `COMPUTED`. Series and instances also carry the identifiers of what they belong to."""

SUMMARY = frozenset(tag for tags in RETURNED.values() for tag in tags)
"""What a hit on an instance carries at least."""

DATE_TIME_PAIRS: Mapping[str, str] = {
    "00080012": "00080013",  # InstanceCreation
    "00080020": "00080030",  # Study
    "00080021": "00080031",  # Series
    "00080022": "00080032",  # Acquisition
    "00080023": "00080033",  # Content
    "00100030": "00100032",  # PatientBirth
    "00400244": "00400245",  # PerformedProcedureStepStart
}
"""Date attributes and the time attributes that belong to them, for combined matching (PS3.4 C.2.2.2.5)."""


def level_of(tag: str) -> Level:
    """The level that an attribute, or a combined date-time, describes: private and unknown ones the instance."""
    return _LEVELS.get(tag[:8], Level.INSTANCE)


def select(attributes: Attributes, level: Level) -> dict[str, Mapping[str, Any]]:
    """The attributes of the level and of those above it, in tag order, without computed ones; of an instance all."""
    if level is Level.INSTANCE:
        return dict(attributes)
    return {tag: attributes[tag] for tag in sorted(_SELECTED[level].intersection(attributes))}


def is_empty(attribute: Mapping[str, Any]) -> bool:
    """Whether an attribute is present without a value."""
    if "InlineBinary" in attribute or "BulkDataURI" in attribute:
        return False
    return not any(value is not None and value != "" for value in attribute.get("Value", ()))


def merge(header_sets: Iterable[Attributes]) -> dict[str, Mapping[str, Any]]:
    """What an entity shows of the headers below it, given earliest first: of each attribute the first value that is not
    empty; empty where all are."""
    merged: dict[str, Mapping[str, Any]] = {}
    for attributes in header_sets:
        for tag, attribute in attributes.items():
            known = merged.get(tag)
            if known is None or (is_empty(known) and not is_empty(attribute)):
                merged[tag] = attribute
    return merged


def conflicts(shown: Attributes, own: Attributes) -> tuple[str, ...]:
    """The tags, sorted, of which both have a value, but not the same. References to bulk data name the instance they
    came from, and clocks change with the season: neither is a conflict."""
    return tuple(
        sorted(
            tag
            for tag, attribute in own.items()
            if tag in shown
            and attribute != shown[tag]
            and tag != "00080201"
            and "BulkDataURI" not in attribute
            and not is_empty(attribute)
            and not is_empty(shown[tag])
        )
    )


def patient_key(attributes: Attributes, study_uid: str) -> str:
    """The identity of the patient: issuer and Patient ID. Without Patient ID every study has a patient of its own."""
    patient_id = _first_text(attributes, "00100020")
    if not patient_id:
        return f"study\\{study_uid}"
    return f"id\\{_first_text(attributes, '00100021')}\\{patient_id}"


def patient_digest(key: str) -> str:
    """A patient key as forty hex digits: of one length and one alphabet, for what cannot hold any text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass").hex().encode()).hexdigest()[:40]


def clock_digits(moment: datetime) -> str:
    """A moment as `LAST_CHANGED` has it: twenty digits, in UTC."""
    return f"{moment.astimezone(UTC):%Y%m%d%H%M%S%f}".zfill(20)


def clock_moment(digits: str) -> datetime:
    """The moment of such digits."""
    return datetime.strptime(digits, "%Y%m%d%H%M%S%f").replace(tzinfo=UTC)


def _first_text(attributes: Attributes, tag: str) -> str:
    for value in attributes.get(tag, {}).get("Value", ()):
        if value is not None and (text := str(value).strip(" \0")):
            return text
    return ""


@lru_cache(maxsize=4096)
def resolve(name: str) -> Path:
    """The path of a name in a query: a keyword, a tag of eight hex digits (private ones too; (0010,0020) is read as
    well), or several of them with dots from a sequence down to an attribute inside it (PS3.18 8.3.4.1).

    Raises BadRequest that names the part which is not known, and the nearest keyword.
    """
    parts = name.split(".")
    if len(parts) > MAX_DEPTH:
        raise BadRequest(f"An attribute path has at most {MAX_DEPTH} parts.")
    path = tuple(_resolve_part(part) for part in parts)
    for part, tag in zip(parts[:-1], path[:-1], strict=True):
        if vr_of(tag) not in ("SQ", "UN"):
            raise BadRequest(f"{_shown(part)} is not a sequence: nothing can be named inside it.")
    return path


def _resolve_part(part: str) -> str:
    if (tag := _TAG.fullmatch(part) or _WRITTEN_TAG.fullmatch(part)) is not None:
        return "".join(tag.groups()).upper()
    number = dictionary.TAGS.get(part)
    if number is not None:
        return f"{number:08X}"
    raise BadRequest(f"{_shown(part)} is no attribute: give a DICOM keyword or eight hex digits{_nearest(part)}")


def _shown(part: str) -> str:
    text = part if len(part) <= _LONGEST_KEYWORD else part[:_LONGEST_KEYWORD] + "..."
    return ascii(text)


def _nearest(part: str) -> str:
    if not 0 < len(part) <= _LONGEST_KEYWORD:
        return "."
    lower = _lower_keywords()
    if part.lower() in lower:
        return f"; the keyword is {lower[part.lower()]}."
    near = [keyword for keyword in lower if keyword[:1] == part[:1].lower() and abs(len(keyword) - len(part)) < 6]
    found = difflib.get_close_matches(part.lower(), near, n=1, cutoff=0.7)
    return f"; did you mean {lower[found[0]]}?" if found else "."


@cache
def _lower_keywords() -> dict[str, str]:
    return {keyword.lower(): keyword for keyword in dictionary.TAGS}


@lru_cache(maxsize=8192)
def vr_of(tag: str) -> str:
    """The value representation by the dictionary: the first one where it allows several, "UN" for private and unknown
    attributes, "DT" for a combined date-time."""
    if "+" in tag:
        return "DT"
    number = int(tag, 16)
    if number >> 16 & 1:
        return "UN"
    return (dictionary.vr(number) or "UN")[:2]


def with_creator(tag: str) -> tuple[str, ...]:
    """The tag, after that of the Private Creator which tells what it means, where it is a private one (PS3.5 7.8.1)."""
    is_private = int(tag[:4], 16) & 1 and tag[4:] >= "1000"
    return (f"{tag[:4]}00{tag[4:6]}", tag) if is_private else (tag,)


@lru_cache(maxsize=8192)
def keyword_of(tag: str) -> str:
    """The keyword by the dictionary; "" for private and unknown attributes."""
    return dictionary.keyword(int(tag, 16))
