"""Which attributes can be edited, on which level, and the checks that a new value has to pass (PS3.5 6.2)."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VM, tag_for_keyword
from pydicom.valuerep import validate_value

from dicomweb_server.dicom.attributes import keyword_of, resolve, vr_of
from dicomweb_server.dicom.edited_file import Change
from dicomweb_server.dicom.element_writer import checked, encode_values, shown
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadDicom, BadRequest

MAX_VALUE_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 4

_KEYWORDS: Final = {
    Level.PATIENT: """
        PatientName PatientID IssuerOfPatientID TypeOfPatientID IssuerOfPatientIDQualifiersSequence PatientBirthDate
        PatientBirthTime PatientSex OtherPatientIDs OtherPatientIDsSequence OtherPatientNames PatientBirthName
        PatientMotherBirthName PatientAddress PatientTelephoneNumbers CountryOfResidence RegionOfResidence MilitaryRank
        BranchOfService MedicalRecordLocator EthnicGroup PatientComments PatientSpeciesDescription
        PatientBreedDescription ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization""",
    Level.STUDY: """
        StudyDate StudyTime StudyID AccessionNumber IssuerOfAccessionNumberSequence StudyDescription
        ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers ConsultingPhysicianName
        PhysiciansOfRecord NameOfPhysiciansReadingStudy RequestingPhysician RequestingService
        RequestedProcedureDescription AdmittingDiagnosesDescription PatientAge PatientSize PatientWeight MedicalAlerts
        Allergies SmokingStatus LastMenstrualDate PatientState Occupation AdditionalPatientHistory AdmissionID
        ServiceEpisodeID ServiceEpisodeDescription PatientSexNeutered ReasonForVisit InstitutionName
        TimezoneOffsetFromUTC""",
    Level.SERIES: """
        SeriesDescription SeriesNumber SeriesDate SeriesTime Laterality BodyPartExamined ProtocolName
        PerformingPhysicianName OperatorsName PatientPosition PerformedProcedureStepID PerformedProcedureStepStartDate
        PerformedProcedureStepStartTime PerformedProcedureStepEndDate PerformedProcedureStepEndTime
        PerformedProcedureStepDescription CommentsOnThePerformedProcedureStep InstitutionAddress
        InstitutionalDepartmentName StationName""",
}
_STAYS: Final = frozenset(
    f"{tag_for_keyword(keyword):08X}"
    for keyword in [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
        "ReferringPhysicianName",
        "SeriesNumber",
        "Laterality",
    ]
)
"""Those that must be there, if without a value (type 2 in PS3.3)."""

EDITABLE: Final[Mapping[str, Level]] = MappingProxyType(
    {f"{tag_for_keyword(keyword):08X}": level for level, words in _KEYWORDS.items() for keyword in words.split()}
)
"""The level of each attribute that can be edited."""

IDENTITY: Final = tuple(
    f"{tag_for_keyword(keyword):08X}"
    for keyword in [
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "TypeOfPatientID",
        "IssuerOfPatientIDQualifiersSequence",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientSex",
    ]
)
"""What tells whose a study is: what it takes over from the patient that it is given to."""

_TEXTS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}
)
_MANY_LINES: Final = frozenset({"LT", "ST", "UT"})
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROLS_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_MOMENTS: Final = {
    "DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
}


def accepted(level: Level) -> str:
    """What can be edited of a study or series, for a message."""
    return ", ".join(keyword_of(tag) for tag, own in EDITABLE.items() if own.depth <= level.depth)


def changes_of(attributes: Mapping[str, Any], level: Level) -> tuple[Change, ...]:
    """The changes that a client asks for: DICOM JSON, in which a keyword may stand for a tag and a text for its value.
    An attribute without value is emptied.

    Raises BadRequest that says what is wrong and what is accepted; it never repeats a value.
    """
    found: dict[str, Change] = {}
    for name, given in attributes.items():
        tag = _tag(name)
        if tag in found:
            raise BadRequest(f"{shown(tag)} is given twice")
        own = EDITABLE.get(tag)
        if own is None:
            what = "a UID" if vr_of(tag) == "UI" else "none of those that can be edited"
            raise BadRequest(f"{shown(tag)} is {what}; a {level.value} accepts {accepted(level)}")
        if own.depth > level.depth:
            raise BadRequest(f"{shown(tag)} is an attribute of a series: edit the series")
        if level is Level.SERIES and own is not Level.SERIES:
            raise BadRequest(
                f"{shown(tag)} is one of the whole study, which a series must not contradict: edit the study"
            )
        found[tag] = _change(tag, given)
    if not found:
        raise BadRequest(f"there is nothing to change; a {level.value} accepts {accepted(level)}")
    return tuple(change for _, change in sorted(found.items()))


def change_to(tag: str, element: Mapping[str, Any]) -> Change:
    """The change that gives an attribute the value that it has elsewhere, in DICOM JSON; none empties it."""
    return Change(tag=tag, vr=vr_of(tag), values=tuple(element.get("Value", ())), stays=tag in _STAYS)


def _tag(name: str) -> str:
    tag = resolve(name)
    if len(tag) != 1:
        raise BadRequest("an attribute inside of a sequence is edited with the whole sequence")
    return tag[0]


def _change(tag: str, given: Any) -> Change:
    vr = vr_of(tag)
    element = given if isinstance(given, Mapping) else {"Value": [] if given in (None, "") else [given]}
    if "InlineBinary" in element or "BulkDataURI" in element:
        raise BadRequest(f"{shown(tag)} has values under Value")
    if element.get("vr", vr) != vr:
        raise BadRequest(f"{shown(tag)} has vr {vr}")
    values = element.get("Value")
    if values is None:
        values = []
    if not isinstance(values, list | tuple):
        raise BadRequest(f"{shown(tag)} has a Value that is no list")
    if all(value in (None, "", {}) for value in values):
        values = []
    try:
        _check(tag, vr, values, 0)
    except BadDicom as exc:
        raise BadRequest(exc.message) from exc
    return Change(tag=tag, vr=vr, values=tuple(values), stays=tag in _STAYS)


def _check(tag: str, vr: str, values: Sequence[Any], depth: int) -> None:
    """Raises BadDicom."""
    if depth > MAX_DEPTH:
        raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
    if vr == "SQ":
        for item in values:
            for inner, element in checked(item):
                if (
                    int(inner[:4], 16) & 1
                    or inner[:4] <= "0002"
                    or inner[4:] == "0000"
                    or vr_of(inner) != element["vr"]
                ):
                    raise BadDicom(f"{shown(inner)} has no place in {shown(tag)}")
                _check(inner, element["vr"], element.get("Value") or [], depth + 1)
        return
    if vr not in _TEXTS:
        raise BadDicom(f"{shown(tag)} cannot be given")
    text = encode_values(tag, vr, values).decode()
    if len(text) > MAX_VALUE_BYTES // 4:
        raise BadDicom(f"{shown(tag)} has a value that is too long")
    most = dictionary_VM(int(tag, 16)).rpartition("-")[2]
    if most.isdigit() and len(values) > int(most):
        raise BadDicom(f"{shown(tag)} has at most {most} values")
    for value in values:
        _check_value(tag, vr, encode_values(tag, vr, [value]).decode())


def _check_value(tag: str, vr: str, text: str) -> None:
    wrong = BadDicom(f"{shown(tag)} has a value that does not fit vr {vr} (PS3.5 6.2)")
    if (_CONTROLS_BUT_LINES if vr in _MANY_LINES else _CONTROLS).search(text):
        raise wrong
    if "\\" in text and vr not in _MANY_LINES:
        raise BadDicom(f"{shown(tag)} has a backslash in a value: several values are several members of Value")
    if vr in _MOMENTS and text and not _MOMENTS[vr].fullmatch(text):
        raise wrong
    try:
        validate_value(vr, text, RAISE)
    except (ValueError, TypeError):
        raise wrong from None
