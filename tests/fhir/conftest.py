"""An archive with a few studies, asked through FHIR."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from tests.http.conftest import Client, make_archive, opened
from tests.samples import instance

__all__ = ["make_archive"]

ROOT = "1.2.826.0.1.3680043.10.7777"
BASE = "/api/fhir"


def sequence(**attributes: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


def code(value: str, scheme: str, meaning: str) -> list[Dataset]:
    """A code sequence."""
    return sequence(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def instances() -> list[Dataset]:
    """Jane has two studies, Jürgen and 山田 one each, and one study is of nobody."""
    jane = {"PatientID": "J1", "PatientName": "Doe^Jane^Ann", "PatientSex": "F", "PatientBirthDate": "19800203"}
    made = [
        instance(f"{ROOT}.1", f"{ROOT}.1.{series}", f"{ROOT}.1.{series}.{number}", **jane, **more)
        for series, more in (
            (1, {"Modality": "CT", "SeriesNumber": 1, "BodyPartExamined": "CHEST", "SeriesDescription": "Axial"}),
            (2, {"Modality": "SR", "SeriesNumber": 2, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}),
        )
        for number in (1, 2)
    ]
    made += [
        instance(
            f"{ROOT}.2",
            f"{ROOT}.2.1",
            f"{ROOT}.2.1.1",
            **jane,
            Modality="MR",
            StudyDate="20240310",
            StudyTime="083000",
            AccessionNumber="A2",
            TimezoneOffsetFromUTC="+0100",
            ReferringPhysicianName="House^Gregory",
            BodyPartExamined="HEAD",
            StudyDescription="MR head",
            ReasonForPerformedProcedureCodeSequence=code("25064002", "SCT", "Headache"),
        ),
        instance(
            f"{ROOT}.3",
            f"{ROOT}.3.1",
            f"{ROOT}.3.1.1",
            PatientID="M9",
            PatientName="Müller^Jürgen",
            PatientSex="M",
            IssuerOfPatientID="1.2.840.99",
            PatientBirthDate="19551231",
            Modality="CT",
            StudyDate="20230601",
            AdmissionID="V7",
            AccessionNumber="A3",
            PatientTelephoneNumbers="555-7",
            PatientAddress="Hauptstraße 5, Köln",
            PerformingPhysicianName="Cuddy^Lisa",
        ),
        instance(
            f"{ROOT}.4",
            f"{ROOT}.4.1",
            f"{ROOT}.4.1.1",
            PatientID="Y1",
            PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
            PatientSex="O",
            Modality="US",
            StudyDate="20240102",
            StudyTime=None,
            AccessionNumber=None,
            StudyID=None,
        ),
        instance(
            f"{ROOT}.5",
            f"{ROOT}.5.1",
            f"{ROOT}.5.1.1",
            PatientID=None,
            PatientName=None,
            Modality="OT",
            StudyDate=None,
            StudyTime=None,
            AccessionNumber=None,
        ),
    ]
    return made


class Fhir:
    """What the tests do again and again."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def get(self, path: str, **options: Any) -> Any:
        """GET below the root; the JSON of the answer."""
        return self.client.get(f"{BASE}/{path}", **options).json

    def ids(self, path: str) -> list[str]:
        """The ids of the matches, without the root of the tests' UIDs."""
        entries = self.get(path).get("entry", [])
        found = [one["resource"]["id"] for one in entries if one["search"]["mode"] == "match"]
        return [one.removeprefix(f"{ROOT}.") for one in found]

    def names(self, path: str) -> set[str]:
        """The family names of the patients among the matches; "-" for one without name."""
        entries = self.get(path).get("entry", [])
        resources = [one["resource"] for one in entries if one["search"]["mode"] == "match"]
        return {one.get("name", [{}])[0].get("family", "-") for one in resources}

    def patient(self, family: str) -> str:
        """The id of a patient by the name."""
        (entry,) = self.get(f"Patient?family:exact={family}")["entry"]
        return str(entry["resource"]["id"])


@pytest.fixture
def fhir(tmp_path: Path) -> Iterator[Fhir]:
    """An archive of its own with the studies."""
    with opened(tmp_path / "data", {}) as client:
        client.store(*instances())
        yield Fhir(client)


@pytest.fixture(scope="module")
def shared_fhir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fhir]:
    """One archive with the studies for all tests of a module, which only read."""
    with opened(tmp_path_factory.mktemp("fhir"), {}) as client:
        client.store(*instances())
        yield Fhir(client)
