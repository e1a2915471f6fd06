"""Figures for Prometheus: what is counted, over all processes, and that nothing identifies anybody."""

import logging
import re
from pathlib import Path

import pytest
import requests

from tests.http.conftest import Archive, Client
from tests.live import LiveServer
from tests.samples import instance, url

pytest.importorskip("prometheus_client", reason="pip install 'dicomweb-server[metrics]'")

STUDY_ROUTE = "/studies/{study_uid}"


def figures(text: str) -> dict[str, float]:
    """Value by name and labels, as they are written."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_requests_by_route_and_status(archive: Client) -> None:
    archive.get("/studies/1.2.3", status=404)
    archive.get("/studies/1.2.4", status=404)
    archive.get("/dicom-web/studies/1.2.4", status=404)
    archive.get("/nowhere", status=404)
    text = archive.get("/metrics").text
    found = figures(text)
    assert found[f'dicomweb_requests_total{{method="GET",route="{STUDY_ROUTE}",status="404"}}'] == 2
    assert found[f'dicomweb_requests_total{{method="GET",route="/dicom-web{STUDY_ROUTE}",status="404"}}'] == 1
    assert found['dicomweb_requests_total{method="GET",route="(no route)",status="404"}'] == 1
    assert found[f'dicomweb_request_seconds_count{{method="GET",route="{STUDY_ROUTE}"}}'] == 2
    assert "1.2.3" not in text
    assert "nowhere" not in text


def test_bytes_and_outcomes_of_store(archive: Client) -> None:
    ds = instance()
    archive.store(ds)
    archive.store(ds)
    ds.PatientID = "changed"
    archive.store(ds, status=409)
    body = archive.get("/studies?includefield=all").body
    packed = archive.get(f"{url(ds)}/metadata", headers={"Accept-Encoding": "gzip"})
    whole = archive.get(f"/studies/{ds.StudyInstanceUID}")
    text = archive.get("/metrics").text
    found = figures(text)
    assert found['dicomweb_store_instances_total{outcome="created",reason=""}'] == 1
    assert found['dicomweb_store_instances_total{outcome="same",reason=""}'] == 1
    assert found['dicomweb_store_instances_total{outcome="refused",reason="0111"}'] == 1
    assert found['dicomweb_received_bytes_total{route="/studies"}'] > 3 * 200
    assert found['dicomweb_sent_bytes_total{route="/studies"}'] >= len(body)
    assert found[f'dicomweb_sent_bytes_total{{route="{STUDY_ROUTE}"}}'] == len(whole.body)
    metadata_route = f"{STUDY_ROUTE}/series/{{series_uid}}/instances/{{instance_uid}}/metadata"
    assert found[f'dicomweb_sent_bytes_total{{route="{metadata_route}"}}'] > 0
    assert packed.status_int == 200
    assert str(ds.PatientName) not in text


def test_body_of_unknown_length_is_counted_when_it_is_sent(archive: Client) -> None:
    ds = instance()
    archive.store(ds)
    answer = archive.get(f"/studies/{ds.StudyInstanceUID}", headers={"Accept": "application/zip"})
    found = figures(archive.get("/metrics").text)
    assert found[f'dicomweb_sent_bytes_total{{route="{STUDY_ROUTE}"}}'] == len(answer.body)


def test_codec_tasks(archive: Client, sample_folder: Path) -> None:
    whole = (sample_folder / "JPEG2000.dcm").read_bytes()
    other = (sample_folder / "MR_small_jp2klossless.dcm").read_bytes()
    begin = other.index(b"\xff\x4f\xff\x51")  # of the JPEG 2000 codestream
    broken = other[:begin] + bytes(200) + other[begin + 200 :]
    for file in (whole, broken):
        archive.post("/studies", file, headers={"Content-Type": "application/dicom"})
    for hit in archive.search("/instances"):
        path = hit["00081190"]["Value"][0].removeprefix("http://localhost")
        archive.get(f"{path}/rendered", headers={"Accept": "image/png"}, status="*")
    found = figures(archive.get("/metrics").text)
    assert found["dicomweb_codec_tasks"] == 0
    outcomes = {
        name.partition('outcome="')[2].partition('"')[0]: value
        for name, value in found.items()
        if name.startswith("dicomweb_codec_task_seconds_count")
    }
    assert outcomes["ok"] >= 1
    assert set(outcomes) - {"ok"}, "a broken frame"


def test_state_of_the_parts_and_the_disk(archive: Client) -> None:
    found = figures(archive.get("/metrics").text)
    assert found['dicomweb_ready{part="storage"}'] == found['dicomweb_ready{part="blobs"}'] == 1
    assert found['dicomweb_queue{queue="release"}'] == 0
    assert 0 < found["dicomweb_disk_free_bytes"] <= found["dicomweb_disk_size_bytes"]


def test_openmetrics_for_who_asks(archive: Client) -> None:
    answer = archive.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type == "application/openmetrics-text"
    assert answer.text.endswith("# EOF\n")


def test_any_worker_answers_for_all(live_server: LiveServer) -> None:
    for _ in range(30):  # a connection each, so that both workers get some
        requests.get(f"{live_server.url}/studies?limit=1", timeout=30).raise_for_status()
    name = 'dicomweb_requests_total{method="GET",route="/studies",status="200"}'
    seen = [figures(requests.get(f"{live_server.url}/metrics", timeout=30).text)[name] for _ in range(8)]
    assert set(seen) == {30.0}


def test_without_the_library_nothing_is_counted(make_archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomweb_server.metrics.find_spec", lambda _name: None)
    archive = make_archive()
    archive.store(instance())
    assert "dicomweb-server[metrics]" in archive.get("/metrics", status=404).json["reason"]


def test_access_log_has_fields(archive: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dicomweb_server.access"):
        answer = archive.get("/studies?PatientName=Secret&limit=1")
    (record,) = caplog.records
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/studies", 200)
    assert fields["query_keys"] == "PatientName,limit"
    assert fields["sent_bytes"] == len(answer.body)
    assert fields["request_id"] == answer.headers["X-Request-Id"]
    assert fields["duration_ms"] > 0
    assert re.search(r"GET /studies\?PatientName,limit 200 [0-9.]+ ms 2 bytes", record.getMessage())
