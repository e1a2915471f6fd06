"""Creating, updating, patching, deleting; versions; what clients add to views; batches."""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.imagingstudy import ImagingStudy

from tests.fhir.conftest import BASE, ROOT, Fhir
from tests.http.conftest import Archive
from tests.samples import instance

ORGANIZATION = {"resourceType": "Organization", "name": "Nordklinik", "identifier": [{"system": "urn:x", "value": "7"}]}
PATCH = "application/json-patch+json"


def send(fhir: Fhir, method: str, path: str, body: Any = None, **options: Any) -> Any:
    """A request with a JSON body."""
    options.setdefault("headers", {})
    options["headers"].setdefault("Content-Type", "application/fhir+json")
    data = b"" if body is None else orjson.dumps(body)
    return fhir.client.request(f"{BASE}/{path}", method=method, body=data, **options)


def patch(fhir: Fhir, path: str, *operations: dict[str, Any], **options: Any) -> Any:
    headers = {"Content-Type": PATCH, **options.pop("headers", {})}
    return send(fhir, "PATCH", path, list(operations), headers=headers, **options)


def test_the_life_of_a_resource(fhir: Fhir) -> None:
    created = send(fhir, "POST", "Organization", ORGANIZATION, status=201)
    path = f"Organization/{created.json['id']}"
    assert created.headers["Location"] == f"http://localhost{BASE}/{path}/_history/1"
    assert created.headers["ETag"] == 'W/"1"'
    assert fhir.get(path) == created.json
    changed = {**created.json, "name": "Südklinik"}
    updated = send(fhir, "PUT", path, changed, status=200)
    assert updated.json["meta"]["versionId"] == "2"
    assert fhir.get(f"{path}/_history/1")["name"] == "Nordklinik"
    patched = patch(fhir, path, {"op": "replace", "path": "/name", "value": "Westklinik"}, status=200)
    assert (patched.json["name"], patched.json["meta"]["versionId"]) == ("Westklinik", "3")
    send(fhir, "DELETE", path, status=204)
    fhir.client.get(f"{BASE}/{path}", status=410)
    fhir.client.get(f"{BASE}/{path}/_history/4", status=410)
    history = fhir.get(f"{path}/_history")
    Bundle.model_validate(history)
    assert [entry["request"]["method"] for entry in history["entry"]] == ["DELETE", "PUT", "PUT", "POST"]
    send(fhir, "PUT", path, changed, status=201)
    assert fhir.get(path)["meta"]["versionId"] == "5"
    send(fhir, "DELETE", "Organization/none", status=404)


def test_an_update_creates(fhir: Fhir) -> None:
    send(fhir, "PUT", "Organization/north", {**ORGANIZATION, "id": "north"}, status=201)
    send(fhir, "PUT", "Organization/north", {**ORGANIZATION, "id": "north"}, status=200)
    headers = {"If-None-Match": "*"}
    send(fhir, "PUT", "Organization/north", {**ORGANIZATION, "id": "north"}, headers=headers, status=412)
    wrong = send(fhir, "PUT", "Organization/south", {**ORGANIZATION, "id": "north"}, status=400)
    assert wrong.json["issue"][0]["expression"] == ["Organization.id"]
    send(fhir, "PUT", "Organization/a_b", {**ORGANIZATION, "id": "a_b"}, status=400)


def test_if_match(fhir: Fhir) -> None:
    path = "Organization/north"
    body = {**ORGANIZATION, "id": "north"}
    send(fhir, "PUT", path, body, headers={"If-Match": 'W/"1"'}, status=412)
    send(fhir, "PUT", path, body, status=201)
    send(fhir, "PUT", path, body, headers={"If-Match": 'W/"1"'}, status=200)
    conflict = send(fhir, "PUT", path, body, headers={"If-Match": 'W/"1"'}, status=412)
    assert conflict.json["issue"][0]["code"] == "conflict"
    patch(fhir, path, {"op": "remove", "path": "/name"}, headers={"If-Match": 'W/"1"'}, status=412)
    send(fhir, "DELETE", path, headers={"If-Match": 'W/"1"'}, status=412)
    send(fhir, "DELETE", path, headers={"If-Match": 'W/"2"'}, status=204)


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("Patient", {"resourceType": "Patient", "gender": "blue"}, "Patient.gender"),
        ("Patient", {"resourceType": "Patient", "birthDate": "tomorrow"}, "Patient.birthDate"),
        ("Patient", {"resourceType": "Patient", "name": [{"given": "x"}]}, "Patient.name[0].given"),
        ("Patient", {"resourceType": "Patient", "shoe": 44}, "Patient.shoe"),
        ("Patient", {"resourceType": "Organization"}, "Patient"),
        ("Endpoint", {"resourceType": "Endpoint", "status": "active"}, "Endpoint"),
    ],
)
def test_what_is_not_valid_is_told_with_its_path(fhir: Fhir, kind: str, body: Any, path: str) -> None:
    for target in (kind, f"{kind}/$validate"):
        answer = send(fhir, "POST", target, body, status=400)
        assert any(issue["expression"][0].startswith(path) for issue in answer.json["issue"])


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b'{"a":1}', b"null"])
def test_what_is_no_resource(fhir: Fhir, data: bytes) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    answer = fhir.client.request(f"{BASE}/Patient", method="POST", body=data, headers=headers, status=400)
    assert answer.json["resourceType"] == "OperationOutcome"
    fhir.client.request(f"{BASE}/Patient", method="POST", body=b"x", headers={"Content-Type": "text/plain"}, status=415)


def test_xml_comes_in(fhir: Fhir) -> None:
    body = b'<Organization xmlns="http://hl7.org/fhir"><name value="Ostklinik"/></Organization>'
    headers = {"Content-Type": "application/fhir+xml"}
    made = fhir.client.request(f"{BASE}/Organization", method="POST", body=body, headers=headers, status=201)
    assert made.json["name"] == "Ostklinik"
    for bad in (
        b'<!DOCTYPE x [<!ENTITY a "b">]><Organization xmlns="http://hl7.org/fhir"/>',
        b"<Organization",
        b"<Organization/>",
        b'<Nonsense xmlns="http://hl7.org/fhir"/>',
        b'<Organization xmlns="http://hl7.org/fhir"><shoe value="1"/></Organization>',
    ):
        fhir.client.request(f"{BASE}/Organization", method="POST", body=bad, headers=headers, status=400)


def test_conditional_interactions(fhir: Fhir) -> None:
    once = {"If-None-Exist": "identifier=urn:x|7"}
    first = send(fhir, "POST", "Organization", ORGANIZATION, headers=dict(once), status=201)
    again = send(fhir, "POST", "Organization", ORGANIZATION, headers=dict(once), status=200)
    assert again.json["id"] == first.json["id"]
    updated = send(fhir, "PUT", "Organization?identifier=urn:x|7", {**ORGANIZATION, "name": "Neu"}, status=200)
    assert updated.json["id"] == first.json["id"]
    send(fhir, "PUT", "Organization?identifier=urn:x|8", {**ORGANIZATION, "name": "Andere"}, status=201)
    send(fhir, "PUT", "Organization?identifier=urn:x|7", ORGANIZATION, status=412)
    send(fhir, "PUT", "Organization", ORGANIZATION, status=400)
    changed = send(
        fhir,
        "PATCH",
        "Organization?name=neu",
        [{"op": "replace", "path": "/name", "value": "Ganz neu"}],
        headers={"Content-Type": PATCH},
        status=200,
    )
    assert changed.json["name"] == "Ganz neu"
    send(fhir, "DELETE", "Organization?identifier=urn:x|7", status=412)
    send(fhir, "DELETE", "Organization?name=ganz", status=204)
    send(fhir, "DELETE", "Organization?name=ganz", status=204)
    assert fhir.get("Organization")["total"] == 1


class TestAdditions:
    def test_they_are_shown_found_and_hide_nothing(self, fhir: Fhir) -> None:
        send(fhir, "PUT", "Organization/north", {**ORGANIZATION, "id": "north"}, status=201)
        jane = fhir.patient("Doe")
        plain = fhir.get(f"Patient/{jane}")
        body = {
            "resourceType": "Patient",
            "id": jane,
            "name": [{"family": "Smith", "given": ["Jane"]}],
            "gender": "male",
            "birthDate": "1999-09-09",
            "telecom": [{"system": "email", "value": "jane@example.org"}],
            "managingOrganization": {"reference": "Organization/north"},
            "active": False,
        }
        written = send(fhir, "PUT", f"Patient/{jane}", body, status=200).json
        assert [name["family"] for name in written["name"]] == ["Doe", "Smith"]
        assert (written["gender"], written["birthDate"]) == ("female", "1980-02-03")
        assert written["active"] is False
        assert written["meta"]["versionId"] != plain["meta"]["versionId"]
        assert fhir.get(f"Patient/{jane}") == written
        for query, expected in (
            ("email=jane@example.org", {"Doe"}),
            ("name=smith", {"Doe"}),
            ("family=smith", {"Doe"}),
            ("family=doe", {"Doe"}),
            ("birthdate=1999", set()),
            ("birthdate=1980", {"Doe"}),
            ("gender=male", {"Müller"}),
            ("active=false", {"Doe"}),
            ("active=true", {"Müller", "Yamada", "-"}),
            ("active:not=false", {"Müller", "Yamada", "-"}),
            ("organization=Organization/north", {"Doe"}),
            ("organization.name=nord", {"Doe"}),
            ("organization:missing=false", {"Doe"}),
            ("organization:missing=true", {"Müller", "Yamada", "-"}),
            ("telecom:missing=false", {"Doe", "Müller"}),
            ("name:contains=mit", {"Doe"}),
            ("_has:ImagingStudy:patient:modality=CT", {"Doe", "Müller"}),
        ):
            assert fhir.names(f"Patient?{query}") == expected, query
        assert sorted(fhir.ids("ImagingStudy?patient.email=jane@example.org")) == ["1", "2"]
        assert sorted(fhir.ids("ImagingStudy?patient.organization.name=nord")) == ["1", "2"]
        bundle = fhir.get("Patient?family=doe&_include=Patient:organization&_revinclude=ImagingStudy:patient")
        kinds = sorted(entry["resource"]["resourceType"] for entry in bundle["entry"])
        assert kinds == ["ImagingStudy", "ImagingStudy", "Organization", "Patient"]
        iterated = fhir.get(
            f"ImagingStudy?_id={ROOT}.1&_include=ImagingStudy:patient&_include:iterate=Patient:organization"
        )
        assert {entry["resource"]["resourceType"] for entry in iterated["entry"]} == {
            "ImagingStudy",
            "Patient",
            "Organization",
        }
        assert fhir.names("Organization?name=x&_include=*") == set()
        back = fhir.get("Organization?_id=north&_revinclude=Patient:organization")
        assert [entry["resource"]["id"] for entry in back["entry"]] == ["north", jane]

    def test_what_the_archive_says_does_not_stay_in_them(self, fhir: Fhir) -> None:
        """A client sends back the whole resource; when the archive changes, nothing old is left."""
        study = fhir.get(f"ImagingStudy/{ROOT}.2")
        study["note"] = [{"text": "seen"}]
        send(fhir, "PUT", f"ImagingStudy/{ROOT}.2", study, status=200)
        fhir.client.delete(f"/studies/{ROOT}.2")
        fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.2", status=404)
        fhir.client.store(instance(f"{ROOT}.2", StudyDescription="other", AccessionNumber="B9", PatientID="J1"))
        again = fhir.get(f"ImagingStudy/{ROOT}.2")
        ImagingStudy.model_validate(again)
        assert again["description"] == "other"
        assert [one["value"] for one in again["identifier"]][1] == "B9"
        assert "A2" not in orjson.dumps(again["identifier"]).decode()
        assert again["note"] == [{"text": "seen"}]

    def test_if_match_on_a_view(self, fhir: Fhir) -> None:
        path = f"ImagingStudy/{ROOT}.2"
        first = fhir.client.get(f"{BASE}/{path}")
        note = {"op": "add", "path": "/note", "value": [{"text": "seen"}]}
        etag = first.headers["ETag"]
        done = patch(fhir, path, note, headers={"If-Match": etag}, status=200)
        assert done.json["note"] == [{"text": "seen"}]
        patch(fhir, path, note, headers={"If-Match": etag}, status=412)
        send(fhir, "DELETE", path, headers={"If-Match": etag}, status=412)

    def test_patches_that_do_not_fit(self, fhir: Fhir) -> None:
        path = f"ImagingStudy/{ROOT}.2"
        patch(fhir, path, {"op": "test", "path": "/status", "value": "x"}, status=422)
        patch(fhir, path, {"op": "remove", "path": "/nothing"}, status=422)
        patch(fhir, path, {"op": "fly", "path": "/note"}, status=400)
        patch(fhir, path, {"op": "replace", "path": "/status", "value": "blue"}, status=400)
        patch(fhir, "Patient/none", {"op": "remove", "path": "/x"}, status=404)
        send(fhir, "PATCH", path, {"a": 1}, headers={"Content-Type": PATCH}, status=400)
        send(fhir, "PATCH", path, [], headers={"Content-Type": "text/plain"}, status=415)
        bomb = [{"op": "add", "path": "/note", "value": [{"text": "x" * 1000}]}]
        bomb += [{"op": "copy", "from": "/note", "path": "/note/0"}] * 60
        send(fhir, "PATCH", path, bomb, headers={"Content-Type": PATCH}, status="4*")


class TestDeletingViews:
    def test_an_imaging_study_is_the_study(self, fhir: Fhir) -> None:
        send(fhir, "DELETE", f"ImagingStudy/{ROOT}.1", status=204)
        fhir.client.get(f"/studies/{ROOT}.1/metadata", status=404)
        fhir.client.get(f"{BASE}/ImagingStudy/{ROOT}.1", status=404)
        send(fhir, "DELETE", f"ImagingStudy/{ROOT}.1", status=404)

    def test_a_patient_or_endpoint_with_studies_stays(self, fhir: Fhir) -> None:
        for path in (f"Patient/{fhir.patient('Doe')}", f"Endpoint/{ROOT}.1"):
            answer = send(fhir, "DELETE", path, status=409)
            assert answer.json["issue"][0]["code"] == "conflict"
            fhir.get(path)

    def test_series_and_instances_by_the_older_paths(self, fhir: Fhir) -> None:
        study = f"ImagingStudy/{ROOT}.1"
        send(fhir, "DELETE", f"{study}/series/{ROOT}.1.1/instances/{ROOT}.1.1.1", status=204)
        assert fhir.get(study)["numberOfInstances"] == 3
        send(fhir, "DELETE", f"{study}/series/{ROOT}.1.2", status=204)
        assert (fhir.get(study)["numberOfSeries"], fhir.get(study)["numberOfInstances"]) == (1, 1)
        send(fhir, "DELETE", f"{study}/series/1.2.3", status=404)
        send(fhir, "DELETE", f"{study}/series/x", status=400)


class TestStudiesOfClients:
    def test_one_that_the_archive_lacks_is_refused(self, fhir: Fhir) -> None:
        study = fhir.get(f"ImagingStudy/{ROOT}.1")
        lacking = orjson.loads(orjson.dumps(study).replace(f"{ROOT}.1".encode(), b"1.2.3"))
        for method, path in (("POST", "ImagingStudy"), ("PUT", f"ImagingStudy/{lacking['id']}")):
            answer = send(fhir, method, path, lacking, status=422)
            assert "archive" in answer.json["issue"][0]["diagnostics"]
        without = {**study, "identifier": [{"value": "x"}]}
        send(fhir, "POST", "ImagingStudy", without, status=422)

    def test_one_that_it_has_is_added_to(self, fhir: Fhir) -> None:
        body = {
            "resourceType": "ImagingStudy",
            "status": "available",
            "subject": {"reference": "Patient/other"},
            "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{ROOT}.1"}],
            "note": [{"text": "from outside"}],
        }
        answer = send(fhir, "POST", "ImagingStudy", body, status=200).json
        assert answer["note"] == body["note"]
        assert answer["subject"]["reference"].startswith("Patient/")
        assert answer["subject"]["reference"] != "Patient/other"

    def test_merging_as_older_systems_do(self, fhir: Fhir) -> None:
        study = fhir.get(f"ImagingStudy/{ROOT}.1")
        for text in ("one", "two"):
            body = {**study, "note": [{"text": text}]}
            merged = send(fhir, "POST", f"ImagingStudy/convertFHIR/{ROOT}.1", body, status=200).json
        assert merged["note"] == [{"text": "one"}, {"text": "two"}]
        assert merged["series"] == study["series"]
        send(fhir, "POST", "ImagingStudy/convertFHIR/1.2.3", study, status=404)


def test_stored_patients_are_found_among_views(fhir: Fhir) -> None:
    for family in ("Adams", "Zorn"):
        body = {"resourceType": "Patient", "name": [{"family": family}], "gender": "male"}
        send(fhir, "POST", "Patient", body, status=201)
    assert fhir.names("Patient?gender=male") == {"Müller", "Adams", "Zorn"}
    entries = fhir.get("Patient?_sort=family")["entry"]
    names = [entry["resource"].get("name", [{}])[0].get("family") for entry in entries]
    assert names == ["Adams", "Doe", "Müller", "Yamada", "Zorn", None]
    for sort in ("", "&_sort=family"):
        seen = []
        for offset in range(0, 8, 2):
            bundle = fhir.get(f"Patient?_count=2&_offset={offset}{sort}")
            assert bundle["total"] == 6
            seen += [entry["resource"]["id"] for entry in bundle.get("entry", ())]
            assert ("next" in {link["relation"] for link in bundle["link"]}) is (offset < 4)
        assert len(seen) == len(set(seen)) == 6


def test_a_batch(fhir: Fhir) -> None:
    def entry(method: str, url: str, **more: Any) -> dict[str, Any]:
        return {"request": {"method": method, "url": url, **more.pop("request", {})}, **more}

    operations = base64.b64encode(orjson.dumps([{"op": "add", "path": "/alias", "value": ["N"]}])).decode()
    bundle = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            entry("PUT", "Organization/north", resource={**ORGANIZATION, "id": "north"}),
            entry("GET", "Organization/north"),
            entry("GET", "Patient?name=doe"),
            entry("POST", "Organization", resource=ORGANIZATION, request={"ifNoneExist": "identifier=7"}),
            entry("PATCH", "Organization/north", resource={"resourceType": "Binary", "data": operations}),
            entry("GET", "Observation/1"),
            entry("PUT", "Organization/north", resource={**ORGANIZATION, "id": "north"}, request={"ifMatch": 'W/"9"'}),
            entry("DELETE", "Organization/north"),
            {"resource": ORGANIZATION},
        ],
    }
    answer = send(fhir, "POST", "", bundle, status=200).json
    Bundle.model_validate(answer)
    statuses = [one["response"]["status"] for one in answer["entry"]]
    assert statuses == ["201", "200", "200", "200", "200", "404", "412", "204", "400"]
    assert answer["entry"][2]["resource"]["total"] == 1
    assert answer["entry"][4]["resource"]["alias"] == ["N"]
    for wrong, status in (({"resourceType": "Patient"}, 400), ({**bundle, "type": "history"}, 400)):
        send(fhir, "POST", "", wrong, status=status)


def test_what_is_preferred_as_answer(fhir: Fhir) -> None:
    minimal = send(fhir, "POST", "Organization", ORGANIZATION, headers={"Prefer": "return=minimal"}, status=201)
    assert not minimal.body
    told = send(fhir, "POST", "Organization", ORGANIZATION, headers={"Prefer": "return=OperationOutcome"}, status=201)
    assert told.json["issue"][0]["severity"] == "information"


@pytest.mark.parametrize("path", ["Organization/north", f"ImagingStudy/{ROOT}.2"])
def test_eight_writers_lose_nothing(fhir: Fhir, path: str) -> None:
    """Each adds an extension of its own, four with the version they read, four without."""
    if path.startswith("Organization"):
        send(fhir, "PUT", path, {**ORGANIZATION, "id": "north"}, status=201)
    patch(fhir, path, {"op": "add", "path": "/extension", "value": [{"url": "urn:0", "valueInteger": 0}]}, status=200)

    def write(number: int) -> list[int]:
        statuses = []
        operation = {"op": "add", "path": "/extension/-", "value": {"url": f"urn:{number}", "valueInteger": number}}
        for _ in range(100):
            headers = {}
            if number % 2:
                headers = {"If-Match": fhir.client.get(f"{BASE}/{path}").headers["ETag"]}
            answer = patch(fhir, path, operation, headers=headers, status="*")
            statuses.append(answer.status_int)
            if answer.status_int == 200:
                break
        return statuses

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for some in pool.map(write, range(1, 9)) for status in some]
    assert statuses.count(200) == 8
    assert set(statuses) <= {200, 409, 412}
    found = fhir.get(path)
    assert {one["valueInteger"] for one in found["extension"]} == set(range(9))


class TestTransactions:
    def bundle(self, *entries: tuple[str, str, Any]) -> dict[str, Any]:
        made = [
            {
                "request": {"method": method, "url": url},
                **({"resource": resource} if resource else {}),
                "fullUrl": f"urn:uuid:0000000{place}-0000-4000-8000-000000000000",
            }
            for place, (method, url, resource) in enumerate(entries)
        ]
        return {"resourceType": "Bundle", "type": "transaction", "entry": made}

    def test_all_is_written_and_refers_to_each_other(self, fhir: Fhir) -> None:
        patient = {
            "resourceType": "Patient",
            "name": [{"family": "Adams"}],
            "managingOrganization": {"reference": "urn:uuid:00000001-0000-4000-8000-000000000000"},
        }
        bundle = self.bundle(
            ("POST", "Patient", patient),
            ("POST", "Organization", ORGANIZATION),
            ("GET", "Organization?name=nord", None),
        )
        answer = send(fhir, "POST", "", bundle, status=200).json
        Bundle.model_validate(answer)
        assert answer["type"] == "transaction-response"
        assert [one["response"]["status"] for one in answer["entry"]] == ["201", "201", "200"]
        organization = answer["entry"][1]["resource"]["id"]
        assert answer["entry"][0]["resource"]["managingOrganization"]["reference"] == f"Organization/{organization}"
        assert answer["entry"][2]["resource"]["total"] == 1
        assert fhir.names("Patient?organization.name=nord") == {"Adams"}

    def test_nothing_is_written_when_one_fails(self, fhir: Fhir) -> None:
        for wrong, status in (
            (("PUT", "Patient/p", {"resourceType": "Patient", "id": "p", "gender": "blue"}), 400),
            (("DELETE", "Organization/none", None), 404),
            (("DELETE", f"ImagingStudy/{ROOT}.1", None), 422),
            (("GET", "Organization/none", None), 404),
        ):
            bundle = self.bundle(("POST", "Organization", ORGANIZATION), wrong)
            answer = send(fhir, "POST", "", bundle, status=status)
            assert answer.json["resourceType"] == "OperationOutcome"
            if wrong[0] != "GET":
                assert fhir.get("Organization")["total"] == 0
        fhir.get(f"ImagingStudy/{ROOT}.1")

    def test_a_resource_is_changed_once(self, fhir: Fhir) -> None:
        body = {**ORGANIZATION, "id": "o"}
        send(fhir, "POST", "", self.bundle(*[("PUT", "Organization/o", body)] * 2), status=422)
        fhir.client.get(f"{BASE}/Organization/o", status=404)

    def test_the_statement_says_so(self, fhir: Fhir) -> None:
        (rest,) = fhir.get("metadata")["rest"]
        assert {"code": "transaction"} in rest["interaction"]


def test_a_deleted_study_goes_into_the_bin_where_there_is_one(make_archive: Archive) -> None:
    client = make_archive({"remove.retention_days": 30})
    client.store(instance("1.2.3"))
    fhir = Fhir(client)
    send(fhir, "DELETE", "ImagingStudy/1.2.3", status=204)
    client.get(f"{BASE}/ImagingStudy/1.2.3", status=404)
    client.post_json("/bin/restore", {"study_uid": "1.2.3"}, status=200)
    assert fhir.get("ImagingStudy/1.2.3")["numberOfInstances"] == 1
