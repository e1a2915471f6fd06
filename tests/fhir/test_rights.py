"""FHIR for who has to log in: permissions of each interaction, and only studies that exist for who asks."""

from typing import Any

import orjson
import pytest

from tests.fhir.conftest import BASE
from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, Headers, add_user, bearer, log_in
from tests.samples import instance

ORGANIZATION = {"resourceType": "Organization", "id": "o", "name": "Nord"}
JSON = {"Content-Type": "application/fhir+json"}


@pytest.fixture
def hospital(make_archive: Archive) -> Client:
    """One patient with a study in the North and one in the South; readers see the North."""
    archive = make_archive({**LOGIN_SETTINGS, "auth.access": ["role reader: InstitutionName=North"]})
    archive.authorization = ("Bearer", log_in(archive)["token"])
    for place, modality in (("North", "CT"), ("South", "MR")):
        archive.store(instance(PatientID="P1", PatientName="Doe^Jane", InstitutionName=place, Modality=modality))
    archive.authorization = None
    return archive


def send(archive: Client, method: str, path: str, body: Any, headers: Headers, **options: Any) -> Any:
    return archive.request(
        f"{BASE}/{path}", method=method, body=orjson.dumps(body), headers={**JSON, **headers}, **options
    )


def test_without_login_there_is_the_statement_only(hospital: Client) -> None:
    hospital.get(f"{BASE}/metadata")
    answer = hospital.get(f"{BASE}/Patient", status=401)
    assert answer.json["issue"][0]["code"] == "login"
    assert "WWW-Authenticate" in answer.headers


def test_each_interaction_needs_its_permission(hospital: Client) -> None:
    reader, boss = add_user(hospital, "rita", "reader"), bearer(log_in(hospital)["token"])
    hospital.get(f"{BASE}/Patient", headers=reader)
    refused = send(hospital, "PUT", "Organization/o", ORGANIZATION, reader, status=403)
    assert refused.json["issue"][0]["code"] == "forbidden"
    send(hospital, "PUT", "Organization/o", ORGANIZATION, boss, status=201)
    entries = [
        {"request": {"method": "GET", "url": "Patient"}},
        {"request": {"method": "PUT", "url": "Organization/o"}, "resource": ORGANIZATION},
        {"request": {"method": "DELETE", "url": "Organization/o"}},
    ]
    batch = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    for who, expected in ((reader, ["200", "403", "403"]), (boss, ["200", "200", "204"])):
        answer = send(hospital, "POST", "", batch, who).json
        assert [one["response"]["status"] for one in answer["entry"]] == expected
    send(hospital, "POST", "", {**batch, "type": "transaction"}, reader, status=403)


def test_what_cannot_be_seen_is_not_told_by_a_search(hospital: Client) -> None:
    reader, boss = add_user(hospital, "rita", "reader"), bearer(log_in(hospital)["token"])
    for query, all_of_them, seen in (
        ("ImagingStudy?patient.name=doe", 2, 1),
        ("ImagingStudy?modality=MR", 1, 0),
        ("Patient?_has:ImagingStudy:patient:modality=CT", 1, 1),
        ("Patient?_has:ImagingStudy:patient:modality=MR", 1, 0),
        ("Endpoint", 2, 1),
    ):
        assert hospital.get(f"{BASE}/{query}", headers=boss).json["total"] == all_of_them, query
        assert hospital.get(f"{BASE}/{query}", headers=reader).json["total"] == seen, query
    bundle = hospital.get(f"{BASE}/Patient?_revinclude=ImagingStudy:patient", headers=reader).json
    assert len(bundle["entry"]) == 2


def test_what_was_added_is_for_who_sees_the_study(hospital: Client) -> None:
    reader, boss = add_user(hospital, "rita", "reader"), bearer(log_in(hospital)["token"])
    (entry,) = hospital.get(f"{BASE}/ImagingStudy?modality=CT", headers=boss).json["entry"]
    study = {**entry["resource"], "note": [{"text": "seen"}]}
    send(hospital, "PUT", f"ImagingStudy/{study['id']}", study, boss, status=200)
    found = hospital.get(f"{BASE}/ImagingStudy/{study['id']}", headers=reader).json
    assert found["note"] == [{"text": "seen"}]
