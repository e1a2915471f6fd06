"""A server on each backend, started from its settings file: equal answers, shared archives, a database that dies."""

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.uid import generate_uid

from tests.live import ROOT, LiveServer, running, until
from tests.samples import RELATED, envelope, instance, part10, sample_files, url
from tests.services import couchdb, mongodb
from tests.services.databases import fresh, missing

BACKENDS = ("sqlite", "mongodb", "couchdb")
SAMPLES = 40
TIMEOUT_SECONDS = 60
FILES = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@contextmanager
def started(folder: Path, backend: str, environment: Mapping[str, str]) -> Iterator[LiveServer]:
    """`serve` with two workers and the settings file of the backend that is in `config/`."""
    config = ROOT / "config" / ("default.toml" if backend == "sqlite" else f"{backend}.toml")
    arguments = ("--port", "0", "--workers", "2", "--data", str(folder / "data"))
    with running(folder, "serve", "--config", str(config), *arguments, environment=environment) as server:
        yield server


@contextmanager
def place(backend: str) -> Iterator[dict[str, str]]:
    """The variables that name a new archive on that backend. Skips where there is none."""
    if backend == "sqlite":
        yield {}
        return
    with fresh(backend) as (address, name):
        yield variables(backend, address, name)


def variables(backend: str, address: str, name: str) -> dict[str, str]:
    start = f"DICOMWEB__STORAGE__{backend.upper()}__"
    return {f"{start}URL": address, f"{start}DATABASE": name}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def archive(backend: str) -> Iterator[dict[str, str]]:
    with place(backend) as found:
        yield found


@pytest.fixture(scope="module")
def server(backend: str, archive: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with started(tmp_path_factory.mktemp("server"), backend, archive) as server:
        yield server


# Equal answers


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def stow(*files: bytes, path: str = "/studies") -> Exchange:
    return Exchange("POST", path, {"Content-Type": RELATED, "Accept": "application/dicom+json"}, envelope(files))


def exchanges() -> list[Exchange]:
    """What a client may ask, in an order that matters: the later ones see what the earlier ones did."""
    samples = [path.read_bytes() for path in sample_files()[:SAMPLES]]
    one = instance("1.2.3", "1.2.3.1", "1.2.3.1.1", PatientName="Müller^Jürgen")
    other = instance("1.2.3", "1.2.3.1", "1.2.3.1.1", PatientName="Müller^Jörg")
    slices = [instance("1.2.3", "1.2.3.2", f"1.2.3.2.{n}", InstanceNumber=n, StudyTime="101500") for n in range(12)]
    files = list(map(part10, slices))
    ct = (
        "/studies/1.3.6.1.4.1.5962.1.2.1.20040119072730.12322/series/1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"
        "/instances/1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    )
    slice_ = "/studies/1.2.3/series/1.2.3.2/instances/1.2.3.2.5"
    searches = [
        "/patients",
        "/patients?PatientName=*m*",
        "/studies",
        "/studies?limit=5&offset=3",
        "/studies?PatientName=muller*&limit=3",
        "/studies?PatientName=jane%20doe&fuzzymatching=true",
        "/studies?PatientName=*an*",
        "/studies?PatientID=P1",
        "/studies?StudyDate=20040101-20241231&includefield=all",
        "/studies?StudyDate=-20050101",
        "/studies?AccessionNumber=A1",
        "/studies?ModalitiesInStudy=CT",
        "/studies?StudyInstanceUID=1.2.3,1.2.840.1",
        "/studies?orderby=PatientName",
        "/studies?orderby=-StudyDate&limit=7",
        "/series?Modality=MR",
        "/series?includefield=00081030",
        "/instances?limit=9",
        "/instances?Rows=8",
        "/instances?InstanceNumber=3&includefield=all",
        "/studies/1.2.3/series",
        "/studies/1.2.3/instances",
        "/studies/1.2.3/series/1.2.3.2/instances?limit=4&offset=2",
        "/studies?NoSuchThing=1",
        "/studies?limit=-1",
        "/studies?StudyDate=yesterday",
        "/studies/1.2.99/series",
        "/studies?PatientName=nobody",
        "/studies?StudyDescription=*e*",
        "/studies?00100040=F",
        "/instances?SOPClassUID=1.2.840.10008.5.1.4.1.1.2",
        "/studies?IssuerOfPatientID=x",
    ]
    reads = [
        *[f"/studies/1.2.3{path}" for path in ("", "/metadata", "/rendered", "/series/1.2.3.2/metadata")],
        *[f"{slice_}{path}" for path in ("", "/metadata", "/frames/1", "/frames/2", "/rendered", "/thumbnail")],
        *[f"{ct}{path}" for path in ("", "/metadata", "/frames/1", "/rendered", "/bulkdata/7FE00010")],
        *["/studies/1.2.99", "/studies/1.2.3/series/1.2.99/metadata"],
    ]
    ask_json = {"Accept": "application/dicom+json"}
    return [
        Exchange("GET", "/studies", ask_json),
        Exchange("GET", "/studies/1.2.3/metadata"),
        *[stow(*samples[start : start + 10]) for start in range(0, len(samples), 10)],
        stow(part10(one)),
        stow(part10(one)),
        stow(part10(other)),
        stow(*files, part10(instance("1.2.4", "1.2.4.1", "1.2.4.1.1"))),
        stow(files[0], b"no DICOM", files[1][:300]),
        stow(*files[:2], path="/studies/1.2.4"),
        *[Exchange("GET", path, ask_json) for path in searches],
        *[Exchange("GET", path) for path in reads],
        Exchange("HEAD", slice_),
        Exchange("GET", slice_, {"Accept": FILES}),
        Exchange("GET", slice_, {"Range": "bytes=100-199", "Accept": "application/dicom"}),
        Exchange("GET", "/studies/1.2.3", {"Accept": FILES}),
        Exchange("GET", "/wado?requestType=WADO&studyUID=1.2.3&seriesUID=1.2.3.2&objectUID=1.2.3.2.5"),
        Exchange("DELETE", slice_),
        Exchange("DELETE", slice_),
        Exchange("GET", slice_),
        Exchange("GET", "/studies/1.2.3/instances", ask_json),
        Exchange("DELETE", "/studies/1.2.3/series/1.2.3.2"),
        Exchange("GET", "/studies/1.2.3/series", ask_json),
        stow(files[3]),
        Exchange("GET", "/studies?StudyInstanceUID=1.2.3", ask_json),
        Exchange("DELETE", "/studies/1.2.3"),
        Exchange("GET", "/studies?StudyInstanceUID=1.2.3", ask_json),
        Exchange("GET", "/patients", ask_json),
    ]


# What names a moment, a version of a resource or a connection.
OF_THE_MOMENT = frozenset(("date", "etag", "last-modified", "server", "connection", "keep-alive", "x-request-id"))
REQUEST_ID = re.compile(rb'"request_id":"[0-9a-f]+"')


def answer(server: LiveServer, exchange: Exchange) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; what differs between any two servers (port, boundary, request) is replaced."""
    got = requests.request(
        exchange.method,
        server.url + exchange.path,
        headers={"Accept-Encoding": "identity", **exchange.headers},
        data=exchange.body,
        timeout=TIMEOUT_SECONDS,
    )
    boundary = re.search(r'boundary="?([^";]+)', got.headers.get("Content-Type", ""))
    headers = {name.lower(): value for name, value in got.headers.items() if name.lower() not in OF_THE_MOMENT}
    body = REQUEST_ID.sub(b"REQUEST_ID", got.content).replace(server.url.encode(), b"http://SERVER")
    if boundary:
        body = body.replace(boundary[1].encode(), b"BOUNDARY")
        headers = {name: value.replace(boundary[1], "BOUNDARY") for name, value in headers.items()}
    return got.status_code, headers, body


def test_answers_are_equal_byte_for_byte(tmp_path: Path) -> None:
    with ExitStack() as stack:
        servers = {}
        for backend in BACKENDS:
            archive = stack.enter_context(place(backend))
            archive |= {"DICOMWEB__STOW__ON_DUPLICATE": "replace"}
            servers[backend] = stack.enter_context(started(tmp_path / f"{backend}-server", backend, archive))
        statuses = set()
        for exchange in exchanges():
            wanted, *others = [answer(server, exchange) for server in servers.values()]
            for backend, other in zip(BACKENDS[1:], others, strict=True):
                assert other == wanted, f"{backend} answers {exchange.method} {exchange.path} otherwise"
            statuses.add(wanted[0])
        assert statuses >= {200, 202, 204, 206, 400, 404, 409}


# One archive, several servers


def test_the_usual_client(server: LiveServer) -> None:
    client = DICOMwebClient(server.url)
    ds = pydicom.dcmread(io.BytesIO(part10(instance(PatientID="CLIENT"))))
    client.store_instances([ds])
    uids = (str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID))
    (hit,) = client.search_for_studies(search_filters={"PatientID": "CLIENT"})
    assert hit["00201208"]["Value"] == [1]
    assert client.search_for_series(*uids[:1])
    assert client.retrieve_instance_metadata(*uids)["00080018"]["Value"] == [uids[2]]
    assert client.retrieve_instance_frames(*uids, frame_numbers=[1]) == [ds.PixelData]
    assert client.retrieve_instance(*uids).PixelData == ds.PixelData
    client.delete_instance(*uids)
    assert client.search_for_studies(search_filters={"PatientID": "CLIENT"}) == []


def test_edits(server: LiveServer) -> None:
    """A study is corrected, a series moved, a patient merged into another: all of it, and only that, shows at once."""
    study, other, series = generate_uid(), generate_uid(), generate_uid()
    some = [instance(study, series, PatientID="EDIT"), instance(study, series, PatientID="EDIT"), instance(study)]
    some += [instance(other, PatientID="EDIT2", PatientName="Roe^Jane")]
    some[2].PatientID = "EDIT"
    headers = {"Content-Type": RELATED}
    files = envelope([part10(ds) for ds in some])
    assert requests.post(f"{server.url}/studies", data=files, headers=headers, timeout=TIMEOUT_SECONDS).ok

    def edit(method: str, path: str, **asked: Any) -> int:
        asked = {"reason": "wrong patient", **asked}
        got = requests.request(method, server.url + path, json=asked, timeout=TIMEOUT_SECONDS)
        assert got.ok, got.text
        return int(got.json()["edited"])

    def found(path: str) -> list[Any]:
        got = requests.get(server.url + path, headers={"Accept": "application/dicom+json"}, timeout=TIMEOUT_SECONDS)
        return list(got.json())

    assert edit("PATCH", f"/studies/{study}", attributes={"PatientName": "Müller^Anna"}) == 3
    assert edit("PATCH", f"/studies/{study}", attributes={"PatientName": "Müller^Anna"}) == 0
    (hit,) = found("/studies?PatientName=muller^anna&PatientID=EDIT")
    assert (hit["0020000D"]["Value"], hit["00201208"]["Value"]) == ([study], [3])
    new = pydicom.dcmread(io.BytesIO(fetched(server, url(some[0]))))
    assert (new.PatientName, new.PixelData) == ("Müller^Anna", some[0].PixelData)
    assert edit("POST", f"/studies/{study}/series/{series}/move", study_uid=other) == 2
    assert [len(found(f"/studies/{uid}/metadata")) for uid in (study, other)] == [1, 3]
    merged = {"source": {"patient_id": "EDIT"}, "target": {"patient_id": "EDIT2"}}
    assert edit("POST", "/patients/merge", **merged) == 1
    assert found("/patients?PatientID=EDIT") == []
    assert {item["00100010"]["Value"][0]["Alphabetic"] for item in found(f"/studies/{study}/metadata")} == {"Roe^Jane"}
    assert len(found("/studies?PatientID=EDIT2")) == 2
    done = requests.get(f"{server.url}/studies/{study}/edits", timeout=TIMEOUT_SECONDS).json()["edits"]
    assert {each["state"] for each in done} == {"done"}


@pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True, scope="module")
def test_two_servers_share_an_archive(
    backend: str, archive: dict[str, str], server: LiveServer, tmp_path: Path
) -> None:
    """What one has acknowledged the other finds and gives back at once; what one deletes is gone for both."""
    with started(tmp_path, backend, archive) as second:
        study = generate_uid()
        for number, (one, other) in enumerate([(server, second), (second, server)] * 5, start=1):
            ds = instance(study)
            file = part10(ds)
            stored = requests.post(
                f"{one.url}/studies", data=file, headers={"Content-Type": "application/dicom"}, timeout=TIMEOUT_SECONDS
            )
            assert stored.status_code == 200
            (hit,) = requests.get(f"{other.url}/studies?StudyInstanceUID={study}", timeout=TIMEOUT_SECONDS).json()
            assert hit["00201208"]["Value"] == [number]
            assert fetched(other, url(ds)) == file
        assert requests.delete(f"{second.url}/studies/{study}", timeout=TIMEOUT_SECONDS).ok
        assert requests.get(f"{server.url}/studies/{study}/metadata", timeout=TIMEOUT_SECONDS).status_code == 404
        assert not list((tmp_path / "data").rglob("*.dcm"))


def fetched(server: LiveServer, path: str) -> bytes:
    headers = {"Accept": "application/dicom; transfer-syntax=*"}
    return requests.get(server.url + path, headers=headers, timeout=TIMEOUT_SECONDS).content


# A database that dies


class Sender(threading.Thread):
    """Sends batches of one study until told to stop."""

    def __init__(self, server: LiveServer, study_uid: str, stop: threading.Event) -> None:
        super().__init__()
        self.acknowledged: dict[str, str] = {}
        self.wrong: list[str] = []
        self.unavailable = 0
        self._server, self._study_uid, self._stopping = server, study_uid, stop

    def run(self) -> None:
        while not self._stopping.is_set():
            batch = {
                url(ds): part10(ds) for ds in (instance(self._study_uid, PixelData=os.urandom(64)) for _ in range(3))
            }
            got = requests.post(
                f"{self._server.url}/studies",
                data=envelope(list(batch.values())),
                headers={"Content-Type": RELATED},
                timeout=TIMEOUT_SECONDS,
            )
            if got.status_code == 200:
                self.acknowledged |= {path: hashlib.sha256(file).hexdigest() for path, file in batch.items()}
            elif got.status_code == 503 and int(got.headers.get("Retry-After", "0")) > 0:
                self.unavailable += 1
                self._stopping.wait(0.1)
            else:
                self.wrong.append(f"{got.status_code} {got.text[:300]}")


@contextmanager
def mortal(folder: Path, backend: str) -> Iterator[tuple[Any, dict[str, str]]]:
    """A database of one's own that can be killed, with the variables that name it."""
    own: Any = mongodb.Mongod(folder) if backend == "mongodb" else couchdb.OwnServer(folder)
    try:
        own.start()
        found = variables(backend, own.url, "archive")
        if backend == "mongodb":
            found["DICOMWEB__STORAGE__MONGODB__SERVER_SELECTION_TIMEOUT_SECONDS"] = "1"
        yield own, found
    except (mongodb.Unavailable, couchdb.Unavailable) as exc:
        missing(backend, exc)
    finally:
        own.stop()


@pytest.mark.parametrize("mortal_backend", ["mongodb", "couchdb"])
def test_a_database_killed_under_load_is_a_503_and_loses_nothing(mortal_backend: str, tmp_path: Path) -> None:
    study, stop = generate_uid(), threading.Event()
    with (
        mortal(tmp_path / "database", mortal_backend) as (database, environment),
        started(tmp_path / "server", mortal_backend, environment) as server,
    ):
        senders = [Sender(server, study, stop) for _ in range(3)]
        for sender in senders:
            sender.start()
        try:
            until(lambda: all(len(sender.acknowledged) >= 6 for sender in senders))
            database.kill()
            until(lambda: all(sender.unavailable for sender in senders))
            health = requests.get(f"{server.url}/health/ready", timeout=TIMEOUT_SECONDS)
            assert health.status_code == 503
            assert health.json()["storage"]["ready"] is False
            before = [len(sender.acknowledged) for sender in senders]
            database.start()
            until(lambda: all(len(s.acknowledged) >= b + 6 for s, b in zip(senders, before, strict=True)))
        finally:
            stop.set()
            for sender in senders:
                sender.join()
        assert [text for sender in senders for text in sender.wrong] == []
        assert requests.get(f"{server.url}/health/ready", timeout=TIMEOUT_SECONDS).status_code == 200
        last = requests.post(
            f"{server.url}/studies",
            data=part10(instance(study)),
            headers={"Content-Type": "application/dicom"},
            timeout=TIMEOUT_SECONDS,
        )
        assert last.status_code == 200
        for sender in senders:
            for path, digest in sender.acknowledged.items():
                assert hashlib.sha256(fetched(server, path)).hexdigest() == digest
        (hit,) = requests.get(f"{server.url}/studies?StudyInstanceUID={study}", timeout=TIMEOUT_SECONDS).json()
        listed = requests.get(f"{server.url}/studies/{study}/metadata", timeout=TIMEOUT_SECONDS).json()
        assert hit["00201208"]["Value"] == [len(listed)]
        assert couchdb.PASSWORD not in server.log.read_text() + server.output.read_text()
