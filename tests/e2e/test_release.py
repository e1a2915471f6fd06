"""Workers are killed while they release: every file of what was deleted goes in the end, and no other."""

import os
import random
import signal
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from pydicom.uid import generate_uid

from backends.files import FileBlobStore
from dicomweb_server.__main__ import main
from dicomweb_server.app import open_parts
from dicomweb_server.settings import load
from dicomweb_server.storage.records import Scope
from tests.e2e.test_backends import BACKENDS, place, started
from tests.live import ROOT, LiveServer, serving
from tests.samples import RELATED, envelope, instance, part10

ROUNDS = int(os.environ.get("RELEASE_KILLS", "6"))
INSTANCES = 60
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
TIMEOUT_SECONDS = 30


def store(server: LiveServer, number: int) -> str:
    study_uid = str(generate_uid())
    body = envelope([part10(instance(study_uid)) for _ in range(number)])
    requests.post(
        f"{server.url}/studies", data=body, headers={"Content-Type": RELATED}, timeout=TIMEOUT_SECONDS
    ).raise_for_status()
    return study_uid


def delete(server: LiveServer, study_uid: str) -> None:
    """Until it is done: the worker that is asked may be the one that is killed."""
    while True:
        with suppress(requests.ConnectionError):
            if requests.delete(f"{server.url}/studies/{study_uid}", timeout=TIMEOUT_SECONDS).status_code in (204, 404):
                return


def files(data: Path) -> int:
    blobs = FileBlobStore.from_settings(settings={"directory": str(data)})
    blobs.open()
    with closing(blobs):
        return sum(1 for _ in blobs.keys(older_than_seconds=0))


def test_workers_killed_while_they_release_leave_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)
    with serving(tmp_path, "--workers", "2", environment={"DICOMWEB__REMOVE__RETENTION_DAYS": "0"}) as server:
        kept = store(server, 5)
        for _ in range(ROUNDS):
            delete(server, store(server, INSTANCES))
            time.sleep(chance.uniform(0, 0.05))  # anywhere in the release
            with suppress(ProcessLookupError):
                os.kill(chance.choice(server.all_workers()), signal.SIGKILL)
            server.all_workers()
        assert len(requests.get(f"{server.url}/studies/{kept}/metadata", timeout=TIMEOUT_SECONDS).json()) == 5
    # What the last ones left is released by whoever comes next.
    assert main(["bin", "purge", "--all", "--data", str(tmp_path / "data")]) == 0
    assert "Deleted 0 instances" in capsys.readouterr().out
    assert files(tmp_path / "data") == 5


def test_the_commands_of_the_bin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(tmp_path / "data")

    def run(*words: str) -> tuple[int, str]:
        status = main([*words, "--data", data])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    with serving(tmp_path) as server:
        study, other = store(server, 3), store(server, 2)
        assert run("remove", study, other, "--dry-run") == (0, "Would remove 5 instances\n")
        assert run("remove", f"StudyInstanceUID={study}")[1].startswith("Removed 3 instances; they can be restored")
        assert requests.get(f"{server.url}/studies/{study}", timeout=TIMEOUT_SECONDS).status_code == 404
        (line,) = run("bin", "list")[1].splitlines()
        assert (line.split("\t")[1], line.split("\t")[3]) == ("3", study)
        assert run("restore", study) == (0, "Restored 3 instances\n")
        assert run("restore", study)[0] == 1
        assert requests.get(f"{server.url}/studies/{study}/metadata", timeout=TIMEOUT_SECONDS).status_code == 200
        assert run("remove", other)[0] == 0
        assert run("bin", "purge")[0] == 1
        assert run("bin", "purge", "--before", "2001-01-01") == (0, "Deleted 0 instances for good, 0 files\n")
        assert run("bin", "purge", other) == (0, "Deleted 2 instances for good, 2 files\n")
        assert run("remove", study, "--for-good") == (0, "Removed 3 instances\n")
        assert run("bin", "list") == (0, "")
    assert files(tmp_path / "data") == 0


def test_the_version_before_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, first = tmp_path / "data", instance(PatientName="First^Name")
    second = instance(**{name: getattr(first, name) for name in UIDS}, PatientName="Second^Name")
    with serving(tmp_path, environment={"DICOMWEB__STOW__ON_DUPLICATE": "replace"}) as server:

        def names() -> str:
            return requests.get(f"{server.url}/studies", timeout=TIMEOUT_SECONDS).text

        command = ["restore", first.StudyInstanceUID, "--previous", "--data", str(data)]
        for ds in (first, second):
            body = envelope([part10(ds)])
            requests.post(
                f"{server.url}/studies", data=body, headers={"Content-Type": RELATED}, timeout=TIMEOUT_SECONDS
            ).raise_for_status()
        assert "Second^Name" in names()
        assert main(command) == 0
        assert "First^Name" in names()
        assert main(command) == 0
        assert "Second^Name" in names()
        assert capsys.readouterr().out == "Restored the version before of 1 instance\n" * 2
        assert main(["restore", store(server, 1), "--previous", "--data", str(data)]) == 1
        assert main(["restore", first.StudyInstanceUID, "--versions", "--data", str(data)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        version, _, _, uid = line.split("\t")
        assert uid == first.SOPInstanceUID
        assert main(["restore", uid, "--version", version, "--data", str(data)]) == 0
        assert "First^Name" in names()
        assert main(["restore", uid, "--version", "nothing", "--data", str(data)]) == 1
        assert "there is no such version" in capsys.readouterr().err
        assert main(["bin", "purge", "--replaced", "--data", str(data)]) == 1
        assert main(["bin", "purge", "--replaced", "--before", "2001-01-01", "--data", str(data)]) == 0
        assert main(["bin", "purge", "--replaced", "1.2.3", "--data", str(data)]) == 1
        assert "There is no study, series or instance 1.2.3." in capsys.readouterr().err
        assert main(["bin", "purge", "--replaced", uid, "--data", str(data)]) == 0
        assert capsys.readouterr().out.endswith("Deleted 1 older version for good, 1 file\n")
        assert main(["restore", uid, "--versions", "--data", str(data)]) == 0
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_space_is_freed_on_every_backend(backend: str, tmp_path: Path) -> None:
    with place(backend) as archive:
        environment = {**archive, "DICOMWEB__REMOVE__RETENTION_DAYS": "0"}
        with started(tmp_path / "server", backend, environment) as server:
            study, kept = store(server, 3), store(server, 1)
            config = ROOT / "config" / ("default.toml" if backend == "sqlite" else f"{backend}.toml")
            overrides = {"storage.directory": str(tmp_path / "server" / "data")}
            storage, blobs = open_parts(load(config=config, overrides=overrides, environ=archive))
            with closing(storage), closing(blobs):
                assert len(list(blobs.keys(older_than_seconds=0))) == 4
                delete(server, study)
                deadline = time.monotonic() + 60
                while storage.released(limit=1) or len(list(blobs.keys(older_than_seconds=0))) > 1:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                assert storage.stored_bytes() == storage.usage(scope=Scope(study_uid=kept)).size_bytes
