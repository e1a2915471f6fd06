"""`dicomweb-server watch`: complete files are stored and moved, others wait or are put aside; stops and restarts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from backends.sqlite import SQLiteStorage
from dicomweb_server.__main__ import main
from dicomweb_server.errors import StorageError, StorageUnavailable
from dicomweb_server.opening import ingest_of, open_parts
from dicomweb_server.services.imports import Importer
from dicomweb_server.services.watch import Places, Watch
from dicomweb_server.settings import load
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate, StoreOutcome
from tests.e2e.test_import import blob_files, new_files, stored, zipped
from tests.live import ROOT
from tests.samples import instance, part10

SETTLE = 10.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def watch(tmp_path: Path, inbox: Path, clock: Clock) -> Iterator[Watch]:
    settings = load(overrides={"storage.directory": str(tmp_path / "data")}, environ={})
    storage, blobs = open_parts(settings)
    places = Places(inbox=inbox, stored=inbox / ".stored", refused=tmp_path / "refused")
    with closing(storage), closing(blobs):
        yield Watch(Importer(ingest_of(settings, storage, blobs)), places, settle_seconds=SETTLE, clock=clock)


def look_twice(watch: Watch, clock: Clock) -> None:
    watch.look()
    clock.now += SETTLE
    watch.look()


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestWhatIsComplete:
    def test_stored_and_moved_with_its_path(self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path) -> None:
        one, two, three = new_files(3).values()
        (inbox / "a" / "b").mkdir(parents=True)
        (inbox / "a" / "b" / "1").write_bytes(one)
        (inbox / "2.zip").write_bytes(packed := zipped({"x": two, "notes": b"-", "inner.zip": zipped({"y": three})}))
        look_twice(watch, clock)
        assert stored(tmp_path / "data") == new_files(3)
        assert below(inbox) == {".stored/a/b/1": one, ".stored/2.zip": packed}
        assert watch.waiting == 0

    def test_a_file_that_grows_waits(self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path) -> None:
        (whole,) = new_files(1).values()
        (inbox / "1").write_bytes(whole[:300])
        watch.look()
        clock.now += SETTLE - 1
        (inbox / "1").write_bytes(whole[:400])
        watch.look()
        clock.now += SETTLE - 1
        (inbox / "1").write_bytes(whole)
        look_twice(watch, clock)
        assert stored(tmp_path / "data") == new_files(1)
        assert below(tmp_path / "refused") == {}

    def test_names_of_unfinished_transfers_and_links_are_left_alone(
        self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path
    ) -> None:
        (data,) = new_files(1).values()
        for name in (".1", "1.part", "1.TMP"):
            (inbox / name).write_bytes(data)
        (tmp_path / "secret").write_bytes(data)
        (inbox / "link").symlink_to(tmp_path / "secret")
        look_twice(watch, clock)
        assert blob_files(tmp_path / "data") == 0
        assert sorted(path.name for path in inbox.iterdir()) == [".1", "1.TMP", "1.part", "link"]

    def test_the_same_name_again(self, watch: Watch, clock: Clock, inbox: Path) -> None:
        for data in new_files(2).values():
            (inbox / "1.dcm").write_bytes(data)
            look_twice(watch, clock)
        assert set(below(inbox)) == {".stored/1.dcm", ".stored/1~2.dcm"}

    def test_a_file_that_changes_while_it_is_stored_stays(
        self, watch: Watch, clock: Clock, inbox: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (data,) = new_files(1).values()
        (inbox / "1").write_bytes(data)
        run = Importer.run

        def changed(self: Importer, batch: object) -> object:
            outcome = run(self, batch)  # type: ignore[arg-type]
            (inbox / "1").write_bytes(data + b"more")
            return outcome

        watch.look()
        clock.now += SETTLE
        monkeypatch.setattr(Importer, "run", changed)
        watch.look()
        assert below(inbox) == {"1": data + b"more"}


class TestWhatIsNot:
    def test_put_aside_with_the_reason(self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path) -> None:
        (good,) = new_files(1).values()
        bad = part10(instance(StudyInstanceUID=None))
        (inbox / "bad").mkdir()
        (inbox / "bad" / "1.dcm").write_bytes(bad)
        (inbox / "notes.txt").write_bytes(b"hello")
        (inbox / "2.zip").write_bytes(zipped({"good": good, "bad": bad}))
        look_twice(watch, clock)
        found = below(tmp_path / "refused")
        assert found["bad/1.dcm"] == bad
        assert found["bad/1.dcm.reason.txt"] == b"Study Instance UID (0020,000D) is missing\n"
        assert found["2.zip.reason.txt"] == b"bad: Study Instance UID (0020,000D) is missing\n"
        assert found["notes.txt.reason.txt"].startswith(b"not a DICOM file")
        assert set(found) == {name + end for name in ("bad/1.dcm", "2.zip", "notes.txt") for end in ("", ".reason.txt")}
        assert stored(tmp_path / "data") == new_files(1)
        assert below(inbox) == {}

    def test_while_the_archive_takes_nothing_files_stay(
        self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (data,) = new_files(1).values()
        (inbox / "1").write_bytes(data)
        watch.look()
        clock.now += SETTLE

        def away(*_arguments: object, **_more: object) -> None:
            raise StorageUnavailable("The database is away.")

        with monkeypatch.context() as patch:
            patch.setattr("backends.sqlite.SQLiteStorage.store", away)
            with pytest.raises(StorageUnavailable):
                watch.look()
        assert below(inbox) == {"1": data}
        watch.look()
        assert set(below(inbox)) == {".stored/1"}
        assert stored(tmp_path / "data") == new_files(1)

    def test_one_that_the_archive_cannot_take_keeps_no_other_out(
        self, watch: Watch, clock: Clock, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for uid, data in new_files(3).items():
            (inbox / uid).write_bytes(data)
        store = SQLiteStorage.store

        def picky(
            self: SQLiteStorage, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate
        ) -> list[StoreOutcome]:
            if any(record.instance_uid == "1.2.3.4.2" for record in records):
                raise StorageError("This record cannot be stored.")
            return store(self, records=records, on_duplicate=on_duplicate)

        with monkeypatch.context() as patch:
            patch.setattr("backends.sqlite.SQLiteStorage.store", picky)
            look_twice(watch, clock)
        assert set(stored(tmp_path / "data")) == {"1.2.3.4.1", "1.2.3.4.3"}
        assert {name for name in below(inbox) if not name.startswith(".")} == {"1.2.3.4.2"}


def started(data: Path, inbox: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "dicomweb_server", "watch", str(inbox), "--data", str(data), *more]
    return subprocess.Popen(
        command,
        cwd=data.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until_moved(inbox: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(list((inbox / ".stored").rglob("*"))) < number:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestTheCommand:
    def test_it_survives_a_kill_and_stops_when_asked(self, tmp_path: Path, inbox: Path) -> None:
        files = new_files(400)
        for uid, content in list(files.items())[:300]:
            (inbox / uid).write_bytes(content)
        quick = ("--every", "0.05", "--settle", "0")
        with started(tmp_path / "data", inbox, *quick) as process:
            wait_until_moved(inbox, 1, process)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        for uid, content in list(files.items())[300:]:
            (inbox / uid).write_bytes(content)
        with started(tmp_path / "data", inbox, *quick) as process:
            wait_until_moved(inbox, 400, process)
            assert main(["watch", str(inbox), "--data", str(tmp_path / "data")]) == 1  # one watches a folder
            process.send_signal(signal.SIGTERM)
            said, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert said.endswith("Stopped.\n")
        assert stored(tmp_path / "data") == files
        assert not list((inbox / ".refused").rglob("*"))

    def test_once_and_deleted(self, tmp_path: Path, inbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for uid, content in new_files(3).items():
            (inbox / uid).write_bytes(content)
        arguments = ["watch", str(inbox), "--data", str(tmp_path / "data"), "--every", "0", "--settle", "0"]
        assert main([*arguments, "--once", "--delete"]) == 0
        assert stored(tmp_path / "data") == new_files(3)
        assert list(inbox.iterdir()) == []
        assert "3 stored, 0 were there already, 0 refused.\n" in capsys.readouterr().out

    def test_what_it_cannot_watch(self, tmp_path: Path, inbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["watch", str(tmp_path / "nowhere")]) == 1
        assert main(["watch", str(inbox), "--stored", str(tmp_path)]) == 1
        assert "it holds the watched folder" in capsys.readouterr().err
