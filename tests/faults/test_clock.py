"""The clock of a live server is set back a day, ahead a day, and right again: everything goes on."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from dicomweb_server.app import open_parts
from dicomweb_server.errors import NotFound
from dicomweb_server.settings import load
from tests.faults import shim
from tests.http.identities import ADMIN, PASSWORD
from tests.live import ROOT, LiveServer, running, until
from tests.samples import RELATED, envelope, instance, part10
from tests.services.receiver import Receiver, receiving

DAY = 86_400.0
TIMEOUT_SECONDS = 60
SOON_SECONDS = 20.0


class Archive:
    """A running server, as somebody with a key that does not expire sees it."""

    def __init__(self, server: LiveServer, control: shim.Control, receiver: Receiver, data: Path) -> None:
        self.server = server
        self.control = control
        self.receiver = receiver
        self.data = data
        self.stored: list[str] = []
        self.after = ""
        self.told = 0
        self.session = requests.Session()
        made = subprocess.run(
            [sys.executable, "-m", "dicomweb_server", "key", "--data", str(data), "add", "script", "--role", "admin"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        self.session.headers["Authorization"] = f"Bearer {made.stdout.splitlines()[-1]}"

    def log_in(self) -> requests.Session:
        """A session of a user."""
        session = requests.Session()
        answer = session.post(
            f"{self.server.url}/login", json={"username": ADMIN, "password": PASSWORD}, timeout=TIMEOUT_SECONDS
        )
        session.cookies.clear()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def ask(self, method: str, path: str, status: int = 200, **options: Any) -> requests.Response:
        answer = self.session.request(method, f"{self.server.url}{path}", timeout=TIMEOUT_SECONDS, **options)
        assert answer.status_code == status, answer.text
        return answer

    def store(self) -> str:
        """An instance; gives its study."""
        ds = instance()
        self.ask("POST", "/studies", data=envelope([part10(ds)]), headers={"Content-Type": RELATED})
        self.stored.append(str(ds.SOPInstanceUID))
        return str(ds.StudyInstanceUID)

    def changes(self) -> list[dict[str, Any]]:
        """What has changed since the test began."""
        found: list[dict[str, Any]] = self.ask("GET", f"/changes?limit=1000{self.after}").json()["changes"]
        return found

    def newest(self) -> str:
        """A cursor behind all there is."""
        cursor: str = self.ask("GET", "/changes?limit=1000").json()["next"]
        return cursor


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Archive]:
    tmp_path = tmp_path_factory.mktemp("clock")
    control = shim.Control(tmp_path / "control")
    data = tmp_path / "data"
    with receiving() as receiver:
        environment = {
            **control.environment(library),
            "DICOMWEB__AUTH__METHOD": "jwt",
            "DICOMWEB__AUTH__FIRST_ADMIN_PASSWORD": PASSWORD,
            "DICOMWEB__HOOKS__ONE__URL": receiver.url,
            "DICOMWEB__HOOKS__ONE__SECRET": "a secret of some length",
        }
        arguments = ("serve", "--port", "0", "--data", str(data), "--workers", "2")
        with running(tmp_path / "server", *arguments, environment=environment) as server:
            until(lambda: _has_hook(data))
            yield Archive(server, control, receiver, data)


@pytest.fixture
def archive(served: Archive) -> Archive:
    """With the right clock, and nothing stored or told yet."""
    served.control.set_clock(0.0)
    if served.stored:
        total = len(served.ask("GET", "/changes?limit=1000").json()["changes"])
        until(lambda: served.told + len(served.receiver.uids()) == total)
        served.told = total
        served.after = f"&after={served.newest()}"
        served.stored.clear()
        served.receiver.got.clear()
    return served


def _has_hook(data: Path) -> bool:
    storage, blobs = open_parts(load(overrides={"storage.directory": str(data)}, environ={}))
    with closing(storage), closing(blobs):
        try:
            storage.get_document(kind="hook", document_id="one")
        except NotFound:
            return False
        return True


@contextmanager
def soon() -> Iterator[None]:
    """What is done inside does not wait for a clock."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_SECONDS


def _waiting(archive: Archive, seconds: int) -> tuple[threading.Thread, list[Any]]:
    """A client that waits for the next change."""
    got: list[Any] = []
    url = f"{archive.server.url}/changes?after={archive.newest()}&wait={seconds}"
    headers = dict(archive.session.headers)

    def wait() -> None:
        got.extend(requests.get(url, headers=headers, timeout=TIMEOUT_SECONDS).json()["changes"])

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, got


@pytest.mark.parametrize("jumps", [(-DAY, DAY, 0.0), (DAY, -DAY, 0.0)])
def test_changes_and_files(archive: Archive, jumps: tuple[float, ...]) -> None:
    study = archive.store()
    path = f"/studies/{study}/metadata"
    known = archive.ask("GET", path).headers
    removed: list[str] = []
    for jump in jumps:
        waiting, got = _waiting(archive, 50)
        archive.control.set_clock(jump)
        with soon():
            archive.store()
            waiting.join()
        assert [change["instance_uid"] for change in got] == archive.stored[-1:]
        archive.ask("GET", path, 304, headers={"If-None-Match": known["ETag"]})
        if modified := known.get("Last-Modified"):
            archive.ask("GET", path, 304, headers={"If-Modified-Since": modified})
        removed.append(archive.store())
        archive.ask("DELETE", f"/studies/{removed[-1]}", 204)
        # What was removed on any of these days is not a week old.
        assert set(removed) <= {entry["study_uid"] for entry in archive.ask("GET", "/bin").json()["entries"]}
    for one in removed:
        archive.ask("POST", "/bin/restore", json={"study_uid": one})
        archive.ask("GET", f"/studies/{one}/metadata")
    changes = archive.changes()
    assert [change["instance_uid"] for change in changes if change["kind"] == "stored"] == archive.stored
    assert len({change["cursor"] for change in changes}) == len(changes)
    until(lambda: len(archive.receiver.uids()) == len(changes), SOON_SECONDS)
    assert archive.receiver.uids() == [change["instance_uid"] for change in changes]
    audited = archive.ask("GET", "/audit?action=store&limit=100").json()["records"]
    stored = [change["study_uid"] for change in changes if change["kind"] == "stored"]
    assert set(stored) <= {record["study_uid"] for record in audited}


def test_files_are_released_and_nobody_waits(archive: Archive) -> None:
    def files() -> int:
        return sum(1 for path in (archive.data / "blobs").rglob("*") if path.is_file())

    before = files()
    for jump in (0.0, -DAY, 0.0):
        archive.control.set_clock(jump)
        study = archive.store()
        archive.ask("DELETE", f"/studies/{study}", 204)
        assert archive.ask("POST", "/bin/purge", json={"study_uid": study}).json() == {"purged": 1}
        until(lambda: files() == before, SOON_SECONDS)
    waiting, got = _waiting(archive, 2)
    archive.control.set_clock(-DAY)
    with soon():
        waiting.join()
    assert got == []


def test_who_logged_out_stays_out(archive: Archive) -> None:
    """Also in the worker that did not see it."""
    headers = dict(archive.log_in().headers)

    def status() -> int:  # over a connection of its own: any worker may take it
        return requests.get(f"{archive.server.url}/studies", headers=headers, timeout=TIMEOUT_SECONDS).status_code

    assert [status() for _ in range(12)] == [200] * 12  # each worker remembers
    archive.control.set_clock(-DAY)
    assert status() == 200
    answer = requests.post(f"{archive.server.url}/logout", headers=headers, timeout=TIMEOUT_SECONDS)
    assert answer.status_code == 200
    until(lambda: [status() for _ in range(12)] == [401] * 12, SOON_SECONDS)  # it may go unnoticed for two seconds
