"""`dicomweb-server edit`, and what becomes of an edit whose process dies."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.dicom.levels import Level
from dicomweb_server.opening import ingest_of
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.edit import Cause, Edit
from dicomweb_server.services.editor import Editor
from dicomweb_server.services.lease import LEASE_SECONDS
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Scope
from tests.commands.archives import in_database, opened, settings_file, store
from tests.samples import instance

REASON = ["--reason", "wrong patient chosen"]
STUDY = Scope(study_uid="1.2.3")


@pytest.fixture(params=["sqlite", "mongodb", "couchdb"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An archive with two studies, on each backend."""
    with nullcontext("") if request.param == "sqlite" else in_database(request.param) as text:
        found = settings_file(tmp_path / "archive", text)
        with opened(found) as archive:
            store(archive, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 4)))
            store(archive, instance("1.2.4", "1.2.4.1", "1.2.4.1.1", PatientID="P9", PatientName="Roe^Jane"))
        yield found


def patients(storage: Storage) -> dict[str, int]:
    """The instances of each patient."""
    hits = storage.search(query=Query(level=Level.PATIENT)).hits
    return {str(hit.attributes["00100020"]["Value"][0]): hit.number_of_instances for hit in hits}


def test_edit_merge_move_and_back(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(*words: str) -> int:
        return main(["edit", *words, "--config", str(path)])

    change = ["--set", "PatientID=P2", "--remove", "AccessionNumber", *REASON]
    assert edit("1.2.3", *change, "--dry-run") == 0
    assert "Would edit 3 instances" in capsys.readouterr().out
    assert edit("1.2.3", *change) == 0
    assert edit("1.2.3", *change) == 0
    assert "Edited 0 instances; 3 already so" in capsys.readouterr().out
    with opened(path) as archive:
        assert patients(archive.storage) == {"P2": 3, "P9": 1}
        records = [record for _, record in AuditTrail(archive.storage).all({"action": "edit"})]
        assert (records[0].reason, records[0].patient_id) == (REASON[1], "P1")
    assert edit("merge", "--source", "P2", "--target", "P9", *REASON) == 0
    assert edit("move", "1.2.4.1", "--to", "1.2.3", *REASON) == 0
    with opened(path) as archive:
        assert patients(archive.storage) == {"P9": 4}
        assert len(list(archive.storage.instances(scope=STUDY))) == 4
    assert main(["restore", "1.2.4.1", "--previous", "--config", str(path)]) == 0
    assert main(["restore", "1.2.3", "--previous", "--config", str(path)]) == 0
    with opened(path) as archive:
        assert patients(archive.storage) == {"P2": 3, "P9": 1}
    assert main(["check", "--deep", "--config", str(path)]) == 0


def plan_and_write(archive: Archive, path: Path) -> None:
    """What a process leaves that dies after it wrote its intent."""
    ingest = ingest_of(load(path, environ={}), archive.storage, archive.blobs, edits=True)
    editor = Editor(archive.storage, archive.blobs, ingest)
    intent = Edit(archive.storage, editor).attributes(STUDY, {"PatientID": "P2"}, Cause(reason="why"))
    editor.intents.write(intent)


@pytest.mark.parametrize("path", ["sqlite"], indirect=True)
def test_what_was_interrupted_is_finished(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as archive:
        plan_and_write(archive, path)
    assert main(["edit", "--resume", "--config", str(path)]) == 0
    assert main(["edit", "--resume", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "Finished 1 edit\nFinished 0 edits\n"
    with opened(path) as archive:
        assert patients(archive.storage) == {"P2": 3, "P9": 1}
        plan_and_write(archive, path)
    # The next edit of the study finishes it first.
    assert main(["edit", "1.2.3", "--set", "StudyID=S2", *REASON, "--config", str(path)]) == 0
    assert main(["edit", "--resume", "--config", str(path)]) == 0
    assert capsys.readouterr().out.endswith("Finished 0 edits\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["1.2.3", "--set", "PatientID=P2"], 2),
        (["1.2.3", *REASON], 2),
        (["merge", "--source", "P1", *REASON], 2),
        (["move", *REASON], 2),
        (["--resume", "1.2.3"], 2),
        (["1.2.9", "--set", "PatientID=P2", *REASON], 1),
        (["1.2.3", "--set", "PatientID", *REASON], 1),
        (["1.2.3", "--set", "Rows=3", *REASON], 1),
        (["1.2.3.1.1", "--set", "SeriesNumber=3", *REASON], 1),
        (["move", "1.2.3", *REASON], 1),
    ],
)
def test_what_is_refused(words: list[str], status: int, tmp_path: Path) -> None:
    found = settings_file(tmp_path / "archive")
    with opened(found) as archive:
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1"))
    words = ["edit", *words, "--config", str(found)]
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    else:
        assert main(words) == 1


@pytest.mark.parametrize("files", [1, 150])
def test_killed(tmp_path: Path, files: int) -> None:
    """A process that is killed when it has written so many files leaves nothing that another does not finish."""
    folder, number = tmp_path / "archive", 200
    found = settings_file(folder)
    uids = [f"1.2.3.1.{one}" for one in range(1, number + 1)]
    with opened(found) as archive:
        store(archive, *(instance("1.2.3", "1.2.3.1", uid) for uid in uids))
        plan_and_write(archive, found)

    def written() -> int:
        return sum(1 for _ in folder.rglob("*"))

    before = written()
    command = [sys.executable, "-m", "dicomweb_server", "edit", "--resume", "--config", str(found)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and written() < before + files:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.005)
        process.kill()
    later = time.time() + 2 * LEASE_SECONDS
    with opened(found) as archive:
        ingest = ingest_of(load(found, environ={}), archive.storage, archive.blobs, edits=True)
        editor = Editor(archive.storage, archive.blobs, ingest, clock=lambda: later)
        editor.resume()
        assert editor.intents.open() == []
        assert patients(archive.storage) == {"P2": number}
        assert all(len(archive.storage.replaced(instance_uid=uid)) == 1 for uid in uids)
    assert main(["check", "--config", str(found)]) == 0
