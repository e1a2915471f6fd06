"""Levels, names and merging of attributes."""

import pytest

from dicomweb_server.dicom.attributes import (
    COMPUTED,
    DATE_TIME_PAIRS,
    RETURNED,
    SUMMARY,
    conflicts,
    keyword_of,
    level_of,
    merge,
    patient_key,
    resolve,
    select,
    vr_of,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest
from dicomweb_server.testing.datasets import attribute, header


@pytest.mark.parametrize(
    ("level", "keywords"),
    [
        (Level.PATIENT, "PatientName PatientID PatientSex PatientBirthDate OtherPatientIDs ClinicalTrialSubjectID"),
        (Level.STUDY, "StudyInstanceUID StudyDate AccessionNumber StudyID ProcedureCodeSequence PatientAge"),
        (Level.STUDY, "ReferencedStudySequence ReferringPhysicianName StudyDescription ModalitiesInStudy"),
        (Level.SERIES, "SeriesInstanceUID Modality SeriesNumber PerformedProcedureStepStartDate BodyPartExamined"),
        (Level.SERIES, "RequestAttributesSequence ReferencedPerformedProcedureStepSequence SeriesDate Manufacturer"),
        (Level.INSTANCE, "SOPInstanceUID SOPClassUID InstanceNumber Rows ContentDate AcquisitionNumber ImageType"),
    ],
)
def test_levels(level: Level, keywords: str) -> None:
    assert {keyword: level_of(resolve(keyword)[0]) for keyword in keywords.split()} == dict.fromkeys(
        keywords.split(), level
    )


def test_levels_of_private_unknown_and_combined_ones() -> None:
    assert level_of("00091001") is Level.INSTANCE
    assert level_of("FFFF0001") is Level.INSTANCE
    assert level_of("00080020+00080030") is Level.STUDY


def test_select_takes_a_level_and_those_above() -> None:
    attributes = header(PatientID="1", StudyID="2", SeriesNumber=3, Rows=4, ModalitiesInStudy="CT")
    assert list(select(attributes, Level.PATIENT)) == ["00100020"]
    assert list(select(attributes, Level.STUDY)) == ["00100020", "00200010"]
    assert list(select(attributes, Level.SERIES)) == ["00100020", "00200010", "00200011"]
    assert select(attributes, Level.INSTANCE) == attributes


def test_merge_takes_the_earliest_that_is_not_empty() -> None:
    merged = merge([header(StudyID=None), header(StudyID="a", PatientID=""), header(StudyID="b", PatientID=None)])
    assert merged["00200010"]["Value"] == ["a"]
    assert merged["00100020"] == attribute("PatientID", "")
    assert merge([]) == {}


def test_merge_keeps_binary_and_empty_items_apart() -> None:
    binary = {"vr": "OB", "InlineBinary": "AA=="}
    item = {"vr": "SQ", "Value": [{}]}
    assert merge([{"00420011": {"vr": "OB"}, "00081032": {"vr": "SQ"}}, {"00420011": binary, "00081032": item}]) == {
        "00420011": binary,
        "00081032": item,
    }


def test_conflicts_are_values_that_differ() -> None:
    shown = header(PatientID="1", StudyID="2", PatientSex=None, PatientName="A=B", TimezoneOffsetFromUTC="+0100")
    own = header(PatientID="9", StudyID=None, PatientSex="F", PatientName="A=C", TimezoneOffsetFromUTC="+0200")
    assert conflicts(shown, own) == ("00100010", "00100020")
    bulk = {"00081111": {"vr": "OB", "BulkDataURI": "/a"}}
    assert conflicts(bulk, {"00081111": {"vr": "OB", "BulkDataURI": "/b"}}) == ()


def test_patient_key() -> None:
    keys = [
        patient_key(header(PatientID="1"), "s"),
        patient_key(header(PatientID="1", IssuerOfPatientID="X"), "s"),
        patient_key(header(PatientID=" "), "s"),
        patient_key({}, "t"),
        patient_key(header(PatientID="s"), "s"),
    ]
    assert len(set(keys)) == 5
    assert patient_key(header(PatientID=" 1 "), "other") == keys[0]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("PatientName", ("00100010",)),
        ("0020000d", ("0020000D",)),
        ("RequestAttributesSequence.00400009", ("00400275", "00400009")),
        ("(0010,001f)", ("0010001F",)),
        ("0040,0275.0040,0009", ("00400275", "00400009")),
        ("00091001", ("00091001",)),
        ("00091001.00080060", ("00091001", "00080060")),
    ],
)
def test_resolve(name: str, path: tuple[str, ...]) -> None:
    assert resolve(name) == path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PatientNam", "'PatientNam'.*PatientName"),
        ("patientname", "PatientName"),
        ("RequestAttributesSequence.Foo", "'Foo'"),
        ("PatientName.PatientID", "PatientName.*not a sequence"),
        ("", "''"),
        ("PatientName.", "''|sequence"),
        ("(0010,001)", "hex digits"),
        ("00100010 ", "hex digits"),
        ("x" * 100_000, "xxx"),
        ("a\nb", r"a\\nb"),
        (".".join(["00081140"] * 17), "at most 16"),
    ],
)
def test_resolve_names_the_part_that_is_not_known(name: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason) as caught:
        resolve(name)
    assert len(caught.value.message) < 300


def test_vr_and_keyword() -> None:
    assert [vr_of(tag) for tag in ("00100010", "00280106", "00091001", "FFFC0001", "60003000", "a+b")] == [
        "PN",
        "US",
        "UN",
        "UN",
        "OB",
        "DT",
    ]
    assert (keyword_of("00100010"), keyword_of("00091001")) == ("PatientName", "")


def test_what_a_search_returns_is_never_computed_and_of_the_level_or_above() -> None:
    for level, tags in RETURNED.items():
        assert list(tags) == sorted(set(tags))
        assert not COMPUTED & set(tags)
        assert {tag for tag in tags if level_of(tag).depth > level.depth} == set()
    assert {tag for tags in RETURNED.values() for tag in tags} == SUMMARY


def test_dates_and_times_belong_together() -> None:
    for date, time in DATE_TIME_PAIRS.items():
        assert (vr_of(date), vr_of(time)) == ("DA", "TM")
        assert keyword_of(date).removesuffix("Date") == keyword_of(time).removesuffix("Time")
