"""`dicomweb-server check`: what it finds, what it puts right, and that it leaves alone what only looks wrong."""

import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from dicomweb_server.__main__ import main
from dicomweb_server.services.check import Check, Problem
from dicomweb_server.services.copy import Archive
from dicomweb_server.storage.records import Scope, StoredInstance
from tests.commands.archives import blob_file, opened, settings_file, store
from tests.samples import instance, part10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive of two studies; one instance has an older version, one a layout in a blob of its own."""
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 4)))
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.3", InstanceNumber=7))
        frames = [bytes(2 * (number * 7919 % 97 + 1)) for number in range(6_000)]
        many = instance("1.2.4", "1.2.4.1", "1.2.4.1.1", NumberOfFrames=6_000, PixelData=encapsulate(frames))
        many["PixelData"].VR = "OB"
        store(archive, part10(many, transfer_syntax_uid=JPEGBaseline8Bit))
    return path


def check(path: Path, *options: str) -> int:
    return main(["check", "--config", str(path), *options])


def stored(path: Path, uid: str) -> StoredInstance:
    with opened(path) as archive:
        (found,) = archive.storage.instances(scope=Scope(instance_uid=uid))
        return found


def file_of(path: Path, uid: str) -> Path:
    return blob_file(path.with_suffix("") / "blobs", stored(path, uid).blob.key)


def age(file: Path, days: float = 2) -> None:
    long_ago = time.time() - days * 24 * 3600
    os.utime(file, (long_ago, long_ago))


@pytest.mark.parametrize("options", [(), ("--deep",), ("--repair", "--deep")])
def test_a_whole_archive(path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    assert check(path, *options) == 0
    assert capsys.readouterr().out == "Nothing is wrong.\n"


def test_a_missing_file_is_put_aside(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_of(path, "1.2.3.1.1").unlink()
    assert check(path) == 3
    assert "FOUND     missing file: 1.2.3/1.2.3.1/1.2.3.1.1: " in capsys.readouterr().out
    assert check(path, "--repair") == 0
    assert "Its record was put aside." in capsys.readouterr().out
    assert check(path, "--deep") == 0
    capsys.readouterr()
    assert check(path, "--aside") == 0
    assert orjson.loads(capsys.readouterr().out)["instance_uid"] == "1.2.3.1.1"
    with opened(path) as archive:
        uids = [one.instance_uid for one in archive.storage.instances(scope=Scope(study_uid="1.2.3"))]
        assert uids == ["1.2.3.1.2", "1.2.3.1.3"]
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1"))


def test_a_disk_that_is_not_mounted_costs_no_record(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobs = path.with_suffix("") / "blobs"
    blobs.rename(path.with_suffix("") / "elsewhere")
    assert check(path, "--repair") == 3
    assert "is the place where they lie there?" in capsys.readouterr().out
    blobs.rmdir()
    (path.with_suffix("") / "elsewhere").rename(blobs)
    assert check(path, "--deep") == 0


def test_what_has_older_versions_is_left(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file_of(path, "1.2.3.1.3").unlink()
    assert check(path, "--repair") == 3
    assert "there are older versions to restore" in capsys.readouterr().out
    assert stored(path, "1.2.3.1.3")


def test_files_of_the_bin_are_looked_at(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(path, "1.2.3.1.1")
    with opened(path) as archive:
        archive.storage.remove(scope=Scope(study_uid="1.2.3"), keep=True)
    assert check(path, "--deep") == 0
    file.unlink()
    assert check(path, "--repair") == 3
    assert "1.2.3/1.2.3.1/1.2.3.1.1: " in (told := capsys.readouterr().out)
    assert "(in the bin)" in told


def test_a_linked_file_that_is_gone_costs_no_record(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "one.dcm").write_bytes(part10(instance("1.2.9", "1.2.9.1", "1.2.9.1.1")))
    assert main(["import", "--link", str(linked), "--config", str(path), "--jobs", "1"]) == 0
    assert check(path, "--deep") == 0
    (linked / "one.dcm").rename(linked / "other.dcm")
    capsys.readouterr()
    assert check(path, "--repair") == 3
    assert "FOUND     broken link: 1.2.9/1.2.9.1/1.2.9.1.1: " in capsys.readouterr().out
    (linked / "other.dcm").rename(linked / "one.dcm")
    assert check(path, "--deep") == 0


def test_a_missing_layout(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = stored(path, "1.2.4.1.1").layout_blob
    assert key is not None
    blob_file(path.with_suffix("") / "blobs", key).write_bytes(b"nonsense")
    assert check(path) == 0
    assert check(path, "--deep") == 3
    assert "unreadable record: 1.2.4/1.2.4.1/1.2.4.1.1" in capsys.readouterr().out
    blob_file(path.with_suffix("") / "blobs", key).unlink()
    assert check(path, "--repair") == 3
    assert stored(path, "1.2.4.1.1")


def test_damage_is_seen_by_reading(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(path, "1.2.3.1.2")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\xff")
    assert check(path) == 0
    assert check(path, "--deep", "--repair") == 3
    assert "FOUND     damaged file: 1.2.3/1.2.3.1/1.2.3.1.2: its SHA-256" in capsys.readouterr().out
    file.write_bytes(whole[:-1])
    assert check(path) == 3
    assert f"{len(whole) - 1} bytes instead of {len(whole)}" in capsys.readouterr().out


def test_orphans_are_files_that_were_unknown_for_a_day(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as archive:
        blob = archive.blobs.stage()
        blob.file.write(b"nobody's")
        (key,) = archive.blobs.keep(staged=[blob])
    file = blob_file(path.with_suffix("") / "blobs", key)
    assert check(path, "--repair") == 0
    assert file.exists()
    for each in (path.with_suffix("") / "blobs").rglob("*"):
        if each.is_file():
            age(each)
    assert check(path) == 3
    assert f"FOUND     orphan file: {key}" in capsys.readouterr().out
    assert check(path, "--repair") == 0
    assert not file.exists()
    assert check(path, "--deep") == 0


def test_a_lost_index_costs_no_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [each for each in (path.with_suffix("") / "blobs").rglob("*") if each.is_file()]
    for each in files:
        age(each)
    for each in path.with_suffix("").glob("index.sqlite*"):
        each.unlink()
    assert check(path, "--repair") == 1
    assert "rebuild makes it again" in capsys.readouterr().err
    with opened(path):  # a server was started meanwhile
        pass
    assert check(path, "--repair") == 3
    assert "is the index another one, or lost?" in capsys.readouterr().out
    assert all(each.exists() for each in files)


def test_wrong_totals_are_derived_again(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = path.with_suffix("") / "index.sqlite"
    with closing(sqlite3.connect(index)) as connection, connection:
        connection.execute("UPDATE study SET instances = 77, patient_name = 'nobody' WHERE uid = '1.2.3'")
        connection.execute("UPDATE header SET instances = 5 WHERE study_uid = '1.2.4'")
    assert check(path) == 3
    assert check(path, "--repair") == 0
    assert "repaired  wrong totals: 1.2.3\nrepaired  wrong totals: 1.2.4\n" in capsys.readouterr().out
    assert check(path) == 0


def test_it_can_run_beside_writers(path: Path) -> None:
    stop = threading.Event()
    with opened(path) as archive, opened(path) as other:

        def write() -> None:
            while not stop.is_set():
                _store_and_remove(other)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(12):
                run = Check(archive.storage, archive.blobs, deep=True, repair=True, told=lambda _: None)
                assert [found for found in run.run() if found.problem is not Problem.ORPHAN] == []
        finally:
            stop.set()
            writer.join()


def _store_and_remove(archive: Archive) -> None:
    store(archive, *(instance("1.2.5", f"1.2.5.{number % 2}", f"1.2.5.0.{number}") for number in range(6)))
    store(archive, instance("1.2.5", "1.2.5.0", "1.2.5.0.1", InstanceNumber=9))
    archive.storage.remove(scope=Scope(instance_uid="1.2.5.0.2"))
    archive.storage.remove(scope=Scope(study_uid="1.2.5"))
    keys = archive.storage.released(limit=100)
    archive.blobs.delete(keys=keys)
    archive.storage.confirm_released(keys=keys)
