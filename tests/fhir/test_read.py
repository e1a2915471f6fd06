"""Reading resources, versions, forms and errors."""

import subprocess
import sys
from pathlib import Path

import pytest
from fhir.resources.imagingstudy import ImagingStudy as R5ImagingStudy
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.imagingstudy import ImagingStudy
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.patient import Patient

from dicomweb_server.fhir.tables import PARAMETERS, TYPES
from tests.fhir.conftest import BASE, ROOT, Fhir
from tests.http.conftest import Archive
from tests.live import ROOT as ROOT_FOLDER
from tests.samples import instance


def test_a_study_its_patient_and_its_endpoint(shared_fhir: Fhir) -> None:
    study = shared_fhir.get(f"ImagingStudy/{ROOT}.1")
    ImagingStudy.model_validate(study)
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (2, 4)
    assert [one["numberOfInstances"] for one in study["series"]] == [2, 2]
    assert [[each["number"] for each in one["instance"]] for one in study["series"]] == [[1, 1], [1, 1]]
    patient = shared_fhir.get(study["subject"]["reference"])
    Patient.model_validate(patient)
    assert patient["name"][0]["given"] == ["Jane", "Ann"]
    assert "J1" not in study["subject"]["reference"]
    endpoint = shared_fhir.get(study["endpoint"][0]["reference"])
    assert endpoint["address"] == "http://localhost/dicom-web"
    path = endpoint["address"].removeprefix("http://localhost")
    found = shared_fhir.client.get(f"{path}/studies/{study['id']}/metadata").json
    assert len(found) == 4


def test_fresh_after_a_store_and_gone_after_a_delete(fhir: Fhir) -> None:
    before = fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.3")
    fhir.client.store(instance(f"{ROOT}.3", f"{ROOT}.3.2", PatientID="M9", IssuerOfPatientID="1.2.840.99"))
    after = fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.3")
    assert after.json["numberOfInstances"] == before.json["numberOfInstances"] + 1
    assert after.headers["ETag"] != before.headers["ETag"]
    assert after.json["meta"]["lastUpdated"] > before.json["meta"]["lastUpdated"]
    subject, endpoint = after.json["subject"]["reference"], after.json["endpoint"][0]["reference"]
    fhir.client.delete(f"/studies/{ROOT}.3")
    for gone in (f"ImagingStudy/{ROOT}.3", subject, endpoint):
        fhir.client.get(f"{BASE}/{gone}", status=404)
    assert fhir.names("Patient") == {"Doe", "Yamada", "-"}


def test_the_version_of_a_view(shared_fhir: Fhir) -> None:
    found = shared_fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.2")
    version = found.json["meta"]["versionId"]
    assert found.headers["ETag"] == f'W/"{version}"'
    again = shared_fhir.client.get(
        f"{BASE}/ImagingStudy/{ROOT}.2", headers={"If-None-Match": f'W/"{version}"'}, status=304
    )
    assert not again.body
    assert shared_fhir.get(f"ImagingStudy/{ROOT}.2/_history/{version}") == found.json
    shared_fhir.get(f"ImagingStudy/{ROOT}.2/_history/1", status=404)
    history = shared_fhir.get(f"ImagingStudy/{ROOT}.2/_history")
    assert [entry["resource"] for entry in history["entry"]] == [found.json]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("ImagingStudy/1.2.3", 404),
        ("Patient/nobody", 404),
        ("Endpoint/1.2.3", 404),
        ("Organization/none", 404),
        ("Observation/1", 404),
        ("Observation", 404),
        ("what/ever/this/is", 404),
        ("Patient?nonsense=1", 400),
        ("Patient?birthdate=tomorrow", 400),
        ("Patient?_sort=shoe", 400),
        ("ImagingStudy?_include=Observation:x", 400),
        ("Patient?name:fuzzy=x", 400),
        ("ImagingStudy?modality.name=x", 400),
        ("Patient?_count=many", 400),
    ],
)
def test_errors_are_outcomes(shared_fhir: Fhir, path: str, status: int) -> None:
    answer = shared_fhir.client.get(f"{BASE}/{path}", status=status)
    assert answer.content_type == "application/fhir+json"
    OperationOutcome.model_validate(answer.json)
    assert answer.json["issue"][0]["diagnostics"]


def test_a_method_that_is_none_is_an_outcome(shared_fhir: Fhir) -> None:
    answer = shared_fhir.client.request(f"{BASE}/metadata", method="DELETE", status=405)
    assert answer.json["issue"][0]["code"] == "not-supported"
    elsewhere = shared_fhir.client.get("/studies/x/metadata", status=400)
    assert elsewhere.json["status"] == 400


def test_xml(shared_fhir: Fhir) -> None:
    path = f"{BASE}/ImagingStudy/{ROOT}.1"
    answer = shared_fhir.client.get(path, headers={"Accept": "application/fhir+xml"})
    assert answer.content_type == "application/fhir+xml"
    made = ImagingStudy.model_validate_xml(answer.body)
    assert made.id == f"{ROOT}.1"
    by_format = shared_fhir.client.get(f"{path}?_format=xml", headers={"Accept": "application/json"})
    assert by_format.body == answer.body
    bundle = shared_fhir.client.get(f"{BASE}/Patient?_format=xml")
    assert bundle.body.count(b"<Patient>") == 4
    failed = shared_fhir.client.get(f"{BASE}/Patient/none", headers={"Accept": "application/fhir+xml"}, status=404)
    assert b"<OperationOutcome" in failed.body
    refused = shared_fhir.client.get(path, headers={"Accept": "image/png"}, status=406)
    assert refused.json["resourceType"] == "OperationOutcome"


def test_r5_by_the_version_parameter(shared_fhir: Fhir) -> None:
    accept = {"Accept": "application/fhir+json; fhirVersion=5.0"}
    answer = shared_fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.1", headers=accept)
    assert "fhirVersion=5.0" in answer.headers["Content-Type"]
    R5ImagingStudy.model_validate(answer.json)
    assert answer.json["series"][0]["modality"]["coding"][0]["code"] == "CT"
    bundle = shared_fhir.client.get(f"{BASE}/ImagingStudy?_id={ROOT}.1", headers=accept).json
    assert bundle["entry"][0]["resource"] == answer.json
    shared_fhir.client.get(f"{BASE}/Patient", headers=accept, status=406)
    shared_fhir.client.get(
        f"{BASE}/ImagingStudy", headers={"Accept": "application/fhir+json; fhirVersion=1.0"}, status=406
    )


def test_the_capability_statement_says_what_there_is(shared_fhir: Fhir) -> None:
    statement = shared_fhir.get("metadata")
    CapabilityStatement.model_validate(statement)
    assert statement["fhirVersion"] == "4.0.1"
    resources = {one["type"]: one for one in statement["rest"][0]["resource"]}
    assert set(resources) == set(TYPES)
    for kind, resource in resources.items():
        assert {one["name"] for one in resource["searchParam"]} == set(PARAMETERS[kind])
    assert "ImagingStudy:patient" in resources["ImagingStudy"]["searchInclude"]
    assert "ImagingStudy:patient" in resources["Patient"]["searchRevInclude"]


def test_the_base_and_the_zone_are_settings(make_archive: Archive) -> None:
    client = make_archive({"fhir.base": "/r4", "fhir.timezone": "Europe/Berlin"})
    client.store(instance("1.2.3"))
    assert client.get("/r4/ImagingStudy/1.2.3").json["started"] == "2024-01-02T10:15:00+01:00"
    client.get("/api/fhir/metadata", status=404)
    without = make_archive({"fhir.enabled": False})
    without.get("/api/fhir/metadata", status=404)


def test_parts_of_a_resource(shared_fhir: Fhir) -> None:
    found = shared_fhir.get(f"ImagingStudy/{ROOT}.1?_elements=started,modality")
    assert set(found) == {"resourceType", "id", "meta", "started", "modality", "status", "subject"}
    assert found["meta"]["tag"][0]["code"] == "SUBSETTED"
    summary = shared_fhir.get(f"ImagingStudy/{ROOT}.1?_summary=true")
    assert all("instance" not in series for series in summary["series"])


def test_the_models_are_not_loaded_to_read(tmp_path: Path) -> None:
    """They are slow to import: neither images nor FHIR as JSON wait for them."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.http.conftest import opened; from tests.samples import instance\n"
        "with opened(Path(sys.argv[1]), {}) as client:\n"
        "    client.store(instance('1.2.3'))\n"
        "    for path in ('ImagingStudy/1.2.3', 'Patient', 'metadata'): client.get(f'/api/fhir/{path}')\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'pydantic', 'fhir'}, loaded & {'pydantic', 'fhir'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT_FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
