"""From DICOM to FHIR: pure code, no server."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from fhir.resources.imagingstudy import ImagingStudy as R5ImagingStudy
from fhir.resources.R4B.endpoint import Endpoint
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.patient import Patient

from dicomweb_server.dicom.attributes import Attributes
from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.errors import BadDicom
from dicomweb_server.fhir import mapping, values
from dicomweb_server.fhir.from_files import patient_of, studies_of
from dicomweb_server.fhir.mapping import Names
from dicomweb_server.testing.datasets import attribute
from tests.samples import instance, part10

NAMES = Names(patient=lambda key: "p1")


def header_of(**attributes: Any) -> Attributes:
    return read_header(io.BytesIO(part10(instance(**attributes)))).attributes


def study_of(*headers: Attributes, names: Names = NAMES) -> dict[str, Any]:
    (study,) = studies_of(headers)
    return mapping.imaging_study(study, names)


def sample_headers(folder: Path) -> Iterator[Attributes]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                try:
                    yield read_header(file).attributes
                except BadDicom:
                    continue


def check_all(headers: list[Attributes]) -> int:
    checked = 0
    for study in studies_of(headers):
        resource = mapping.imaging_study(study, NAMES)
        ImagingStudy.model_validate(orjson.loads(orjson.dumps(resource)))
        R5ImagingStudy.model_validate(mapping.to_r5(resource))
        Patient.model_validate(mapping.patient(patient_of(study), "p1"))
        place = mapping.endpoint(resource["id"], "http://localhost/dicom-web")
        Endpoint.model_validate(place)
        checked += 1
    return checked


def test_resources_of_every_sample_file_are_valid(sample_folder: Path) -> None:
    assert check_all(list(sample_headers(sample_folder))) > 20


def test_resources_of_every_corpus_file_are_valid(corpus: Path) -> None:
    assert check_all(list(sample_headers(corpus))) > 0


def test_identifiers_and_references() -> None:
    study = study_of(
        header_of(study_uid="1.2.3", IssuerOfPatientID="1.2.840.99", AdmissionID="V7", AccessionNumber="A1")
    )
    assert study["id"] == "1.2.3"
    assert study["identifier"] == [
        {"use": "official", "system": "urn:dicom:uid", "value": "urn:oid:1.2.3"},
        {
            "use": "usual",
            "type": {"coding": [{"system": values.IDENTIFIER_TYPE, "code": "ACSN"}]},
            "value": "A1",
        },
        {"use": "secondary", "value": "S1"},
    ]
    assert study["subject"]["reference"] == "Patient/p1"
    assert study["subject"]["identifier"]["system"] == "urn:oid:1.2.840.99"
    assert study["endpoint"] == [{"reference": "Endpoint/1.2.3", "type": "Endpoint"}]
    assert study["basedOn"][0]["identifier"]["value"] == "A1"
    assert study["encounter"]["identifier"]["value"] == "V7"
    assert study["status"] == "available"


def test_counts_are_those_of_what_is_there_not_of_the_file() -> None:
    one = header_of(study_uid="1.2.3", series_uid="1.2.3.1", NumberOfStudyRelatedInstances=77)
    two = header_of(study_uid="1.2.3", series_uid="1.2.3.2", Modality="MR")
    study = study_of(one, two)
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 2)
    assert [each["code"] for each in study["modality"]] == ["MR", "OT"]
    assert [series["numberOfInstances"] for series in study["series"]] == [1, 1]


@pytest.mark.parametrize(
    ("given", "zone", "expected"),
    [
        ({"TimezoneOffsetFromUTC": "+0200"}, None, "2024-01-02T10:15:00+02:00"),
        ({"TimezoneOffsetFromUTC": "-0330"}, "Europe/Berlin", "2024-01-02T10:15:00-03:30"),
        ({}, "Europe/Berlin", "2024-01-02T10:15:00+01:00"),
        ({}, None, "2024-01-02"),
        ({"StudyTime": None, "TimezoneOffsetFromUTC": "+0200"}, None, "2024-01-02"),
        ({"StudyTime": "101500.25", "TimezoneOffsetFromUTC": "+0000"}, None, "2024-01-02T10:15:00.25+00:00"),
        ({"StudyDate": "20240231"}, None, None),
        ({"StudyDate": None}, None, None),
    ],
)
def test_started(given: dict[str, Any], zone: str | None, expected: str | None) -> None:
    names = Names(patient=lambda key: "p1", zone=ZoneInfo(zone) if zone else None)
    assert study_of(header_of(**given), names=names).get("started") == expected


def test_names_in_their_groups_and_components() -> None:
    found = values.human_names(
        {"00100010": attribute("PatientName", "Yamada^Tarou^M^Dr^Jr=山田^太郎=やまだ^たろう")}, "00100010", "official"
    )
    assert [name["text"] for name in found] == ["Dr Tarou M Yamada, Jr", "太郎 山田", "たろう やまだ"]
    assert found[0]["family"] == "Yamada"
    assert found[0]["given"] == ["Tarou", "M"]
    assert (found[0]["prefix"], found[0]["suffix"]) == (["Dr"], ["Jr"])
    assert [name["extension"][0]["valueCode"] for name in found] == ["ABC", "IDE", "SYL"]


def test_patient_without_anything() -> None:
    (study,) = studies_of([header_of(PatientID=None, PatientName=None)])
    found = mapping.patient(patient_of(study), "p1")
    assert found == {"resourceType": "Patient", "id": "p1", "active": True, "gender": "unknown"}


@pytest.mark.parametrize(
    ("sex", "gender"), [("M", "male"), ("F", "female"), ("O", "other"), ("X", "unknown"), ("", "unknown")]
)
def test_gender(sex: str, gender: str) -> None:
    (study,) = studies_of([header_of(PatientSex=sex)])
    assert mapping.patient(patient_of(study), "p1")["gender"] == gender


def test_series_details() -> None:
    header = dict(
        header_of(
            SeriesNumber=3,
            BodyPartExamined="LSPINE",
            Laterality="L",
            OperatorsName="Tech^Ann",
            PerformingPhysicianName="House^Gregory",
            InstitutionName="General Hospital",
            SeriesDescription="Sagittal",
            ReferringPhysicianName="Grey^Meredith",
        )
    )
    header["00400560"] = {
        "vr": "SQ",
        "Value": [{"00400551": attribute("00400551", "B-7"), "00400600": attribute("00400600", "biopsy")}],
    }
    study = study_of(header)
    (series,) = study["series"]
    assert study["referrer"] == {"type": "Practitioner", "display": "Meredith Grey"}
    assert series["number"] == 3
    assert series["bodySite"]["code"] == "122496007"
    assert series["laterality"]["code"] == "7771000"
    assert series["specimen"] == [{"type": "Specimen", "identifier": {"value": "B-7"}, "display": "biopsy"}]
    assert [each["actor"]["display"] for each in series["performer"]] == [
        "Gregory House",
        "Ann Tech",
        "General Hospital",
    ]
    assert series["instance"][0]["sopClass"] == {
        "system": "urn:ietf:rfc:3986",
        "code": "urn:oid:1.2.840.10008.5.1.4.1.1.7",
    }


def test_codes_keep_their_system() -> None:
    item = {"00080100": attribute("00080100", "RPID2"), "00080102": attribute("00080102", "RADLEX")}
    own = {"00080100": attribute("00080100", "77"), "00080102": attribute("00080102", "99HOUSE")}
    header = dict(header_of()) | {"00081032": {"vr": "SQ", "Value": [item, own]}}
    header |= {"00401012": {"vr": "SQ", "Value": [{**own, "00080104": attribute("00080104", "Fall")}]}}
    study = study_of(header)
    assert study["procedureCode"] == [
        {"coding": [{"system": "http://radlex.org", "code": "RPID2"}]},
        {"coding": [{"code": "77"}]},
    ]
    assert study["reasonCode"] == [{"coding": [{"code": "77", "display": "Fall"}], "text": "Fall"}]


def test_documents_have_their_title() -> None:
    header = dict(header_of(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR"))
    header["0040A043"] = {"vr": "SQ", "Value": [{"00080104": attribute("00080104", "Chest CT Report")}]}
    assert study_of(header)["series"][0]["instance"][0]["title"] == "Chest CT Report"


def test_r5() -> None:
    study = study_of(header_of(BodyPartExamined="HEAD", NameOfPhysiciansReadingStudy="Reader^Rita"))
    found = mapping.to_r5(study)
    assert found["modality"] == [{"coding": [{"system": values.DCM, "code": "OT"}]}]
    assert found["series"][0]["bodySite"]["concept"]["coding"][0]["code"] == "69536005"
    assert found["series"][0]["performer"][-1]["actor"]["display"] == "Rita Reader"
    assert "interpreter" not in found
    R5ImagingStudy.model_validate(found)
