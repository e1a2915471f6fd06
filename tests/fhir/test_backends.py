"""FHIR on every backend: the same searches, fresh after a store, gone after a delete, no write lost."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from dicomweb_server.app import create_app, open_parts
from dicomweb_server.settings import load
from tests.e2e.test_backends import BACKENDS, place
from tests.fhir.conftest import BASE, ROOT, Fhir, instances
from tests.fhir.searches import PATIENT_SEARCHES, STUDY_SEARCHES
from tests.http.conftest import Client
from tests.samples import instance


@pytest.fixture(scope="module", params=BACKENDS)
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fhir]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with place(request.param) as environment:
        overrides = {"storage.directory": str(folder / "data"), "storage.backend": request.param}
        settings = load(overrides=overrides, environ=environment)
        storage, blobs = open_parts(settings)
        app = create_app(settings, storage, blobs)
        try:
            client = Client(app, extra_environ={"HTTP_HOST": "localhost"})
            client.store(*instances())
            yield Fhir(client)
        finally:
            app.close()
            storage.close()
            blobs.close()


def test_searches_find_the_same(filled: Fhir) -> None:
    wrong = []
    for query, studies in STUDY_SEARCHES:
        found = sorted(filled.ids(f"ImagingStudy?{query}"))
        if found != studies:
            wrong.append((query, found))
    for query, names in PATIENT_SEARCHES:
        if names is not None and filled.names(f"Patient?{quote(query, safe='=&:|,.')}") != names:
            wrong.append((query, []))
    assert not wrong


def test_fresh_after_a_store_and_gone_after_a_delete(filled: Fhir) -> None:
    uid = f"{ROOT}.9"
    for number in (1, 2, 3):
        filled.client.store(instance(uid, f"{uid}.{number}", PatientID="N1", PatientName="New^Nora"))
        study = filled.get(f"ImagingStudy/{uid}")
        assert (study["numberOfSeries"], study["numberOfInstances"]) == (number, number)
        assert filled.ids("ImagingStudy?patient.name=nora") == ["9"]
        assert filled.get(study["subject"]["reference"])["name"][0]["given"] == ["Nora"]
    filled.client.delete(f"{BASE}/ImagingStudy/{uid}", status=204)
    for path in (f"ImagingStudy/{uid}", f"Endpoint/{uid}", study["subject"]["reference"]):
        filled.client.get(f"{BASE}/{path}", status=404)
    assert filled.ids("ImagingStudy?patient.name=nora") == []


def test_times_grow_with_every_change(filled: Fhir) -> None:
    uid = f"{ROOT}.8"
    filled.client.store(instance(uid, f"{uid}.1", PatientID="T1"))
    first = filled.get(f"ImagingStudy/{uid}")["meta"]["lastUpdated"]
    filled.client.store(instance(uid, f"{uid}.1", PatientID="T1"))
    second = filled.get(f"ImagingStudy/{uid}")["meta"]["lastUpdated"]
    assert second > first
    assert filled.ids(f"ImagingStudy?_lastUpdated=gt{second.replace('Z', '')}Z&_id={uid}") == []
    assert filled.ids(f"ImagingStudy?_lastUpdated=ge{first}&_id={uid}") == ["8"]
    filled.client.delete(f"/studies/{uid}")


def test_eight_writers_lose_nothing(filled: Fhir) -> None:
    headers = {"Content-Type": "application/fhir+json"}
    body = {"resourceType": "Organization", "id": "o", "name": "O", "extension": [{"url": "urn:0", "valueInteger": 0}]}
    filled.client.put(f"{BASE}/Organization/o", orjson.dumps(body), headers=headers)

    def write(number: int) -> list[int]:
        statuses = []
        patch = [{"op": "add", "path": "/extension/-", "value": {"url": f"urn:{number}", "valueInteger": number}}]
        for _ in range(200):
            etag = filled.client.get(f"{BASE}/Organization/o").headers["ETag"]
            wish = {"Content-Type": "application/json-patch+json", "If-Match": etag}
            answer = filled.client.patch(f"{BASE}/Organization/o", orjson.dumps(patch), headers=wish, status="*")
            statuses.append(answer.status_int)
            if answer.status_int == 200:
                break
        return statuses

    with ThreadPoolExecutor(8) as pool:
        statuses = [status for some in pool.map(write, range(1, 9)) for status in some]
    assert statuses.count(200) == 8
    assert set(statuses) <= {200, 409, 412}
    found = filled.get("Organization/o")
    assert {one["valueInteger"] for one in found["extension"]} == set(range(9))
    assert found["meta"]["versionId"] == "9"
    assert filled.get("Organization/o/_history")["total"] == 9
