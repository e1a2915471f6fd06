"""`dicomweb-server backup` and `restore-backup`: beside writers, again and again, killed, damaged, and back."""

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.dicom.levels import Level
from dicomweb_server.services.backup import Backup
from dicomweb_server.services.backup_entries import packed, parsed
from dicomweb_server.services.backup_folder import Folder
from dicomweb_server.services.backup_source import BackupSource
from dicomweb_server.services.check import Check
from dicomweb_server.services.copy import Archive, Copy
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import BinnedEntry, InstanceEntry, ReplacedEntry, Scope
from tests.commands.archives import blob_file, opened, settings_file, store
from tests.live import ROOT
from tests.samples import instance, sample_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive with older versions, a removed study and documents."""
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, *(file.read_bytes() for file in sample_files()[:12]))
        for number in range(3):
            store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", InstanceNumber=number))
        store(archive, instance("1.2.4", "1.2.4.1", "1.2.4.1.1"))
        archive.storage.remove(scope=Scope(study_uid="1.2.4"))
        for number in range(2):
            store(archive, instance("1.2.6", "1.2.6.1", "1.2.6.1.1", InstanceNumber=number))
        archive.storage.remove(scope=Scope(study_uid="1.2.6"), keep=True)
        for number in range(2):
            archive.storage.put_document(kind="note", document_id="n", body={"n": number}, keys={"n": (str(number),)})
    return path


def backup(path: Path, folder: Path, *options: str) -> int:
    return main(["backup", "--config", str(path), str(folder), *options])


def restore(path: Path, folder: Path, *options: str) -> int:
    return main(["restore-backup", "--config", str(path), str(folder), *options])


def content(path: Path) -> list[Any]:
    """All entries but for the keys of blobs, which differ from archive to archive."""
    found: list[Any] = []
    with opened(path) as archive:
        for _, entry in archive.storage.dump():
            if not isinstance(entry, InstanceEntry | ReplacedEntry | BinnedEntry):
                found.append(entry)
                continue
            one = entry.instance
            data = b"".join(archive.blobs.stream(key=one.blob.key))
            found.append((type(entry), one.instance_uid, one.stored_at, one.layout, data, entry.metadata))
    return found


def blob_files(folder: Path) -> set[Path]:
    return set((folder / "blobs").glob("??/*"))


def test_there_and_back(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backup(path, tmp_path / "backup") == 0
    assert restore(settings_file(tmp_path / "restored"), tmp_path / "backup") == 0
    assert capsys.readouterr().out.endswith("Every file has its SHA-256; counts and checksums are equal.\n")
    assert content(tmp_path / "restored.toml") == content(path)
    assert restore(tmp_path / "restored.toml", tmp_path / "backup") == 0
    assert capsys.readouterr().out.endswith("Nothing was left to do.\n")
    assert all(each.stat().st_mode & 0o077 == 0 for each in (tmp_path / "backup" / "indexes").iterdir())


def test_a_further_one_copies_what_is_new(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    assert _named(monkeypatch, "20260101T000000Z", path, folder) == 0
    before = blob_files(folder)
    with opened(path) as archive:
        store(archive, instance("1.2.5", "1.2.5.1", "1.2.5.1.1"))
        archive.storage.remove(scope=Scope(study_uid="1.2.3"))
        assert archive.storage.count(query=Query(level=Level.STUDY))
    capsys.readouterr()
    assert _named(monkeypatch, "20260102T000000Z", path, folder) == 0
    assert "; 1 new file, " in capsys.readouterr().out
    assert len(blob_files(folder) - before) == 1
    assert restore(settings_file(tmp_path / "first"), folder, "--name", "20260101T000000Z") == 0
    assert restore(settings_file(tmp_path / "second"), folder) == 0
    assert content(tmp_path / "second.toml") == content(path)
    with opened(tmp_path / "first.toml") as archive:
        assert list(archive.storage.replaced(instance_uid="1.2.3.1.1"))
    assert _named(monkeypatch, "20260103T000000Z", path, folder, "--keep", "1") == 0
    assert len(before - blob_files(folder)) == 3
    capsys.readouterr()
    assert restore(path, folder, "--list") == 0
    assert capsys.readouterr().out == "20260103T000000Z\n"
    assert restore(settings_file(tmp_path / "third"), folder) == 0


def _named(patch: pytest.MonkeyPatch, name: str, path: Path, folder: Path, *options: str) -> int:
    """A backup that has this name: two of one second would have the same."""
    with patch.context() as one:
        one.setattr("dicomweb_server.services.backup._now", lambda: name)
        return backup(path, folder, *options)


def test_entries_come_back_equal(path: Path) -> None:
    with opened(path) as archive:
        entries = [entry for _, entry in archive.storage.dump()]
    assert [packed(parsed(packed(entry))) for entry in entries] == [packed(entry) for entry in entries]
    assert [type(parsed(packed(entry))) for entry in entries] == [type(entry) for entry in entries]
    assert len({type(entry) for entry in entries}) >= 5


def test_beside_writers_every_backup_can_be_restored(path: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    folder = Folder(tmp_path / "backup")
    with opened(path) as archive, opened(path) as other:
        before = {one.instance_uid for one in archive.storage.instances(scope=Scope())}
        writer = threading.Thread(target=_write, args=(other, stop))
        writer.start()
        try:
            done = Backup(archive.storage, archive.blobs, folder, told=lambda _: None).run()
        finally:
            stop.set()
            writer.join()
        assert done.damaged == []
    with opened(settings_file(tmp_path / "restored")) as target:
        Copy(BackupSource(folder), target, told=lambda _: None, read_back=True).run()
        assert before <= {one.instance_uid for one in target.storage.instances(scope=Scope())}
        run = Check(target.storage, target.blobs, deep=True, told=lambda _: None, grace_seconds=0)
        assert list(run.run()) == []


def _write(archive: Archive, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set() or number < 3:
        number += 1
        store(archive, *(instance("1.2.9", f"1.2.9.{one % 2}", f"1.2.9.0.{one}") for one in range(8)))
        store(archive, instance("1.2.9", "1.2.9.0", "1.2.9.0.1", InstanceNumber=number))
        archive.storage.remove(scope=Scope(study_uid="1.2.9"))
        keys = archive.storage.released(limit=100)
        archive.blobs.delete(keys=keys)
        archive.storage.confirm_released(keys=keys)


def test_a_killed_one_is_continued(path: Path, tmp_path: Path) -> None:
    with opened(path) as archive:
        store(archive, *(instance("1.2.8", "1.2.8.1", InstanceNumber=number) for number in range(400)))
    folder = tmp_path / "backup"
    command = [sys.executable, "-m", "dicomweb_server", "backup", "--config", str(path), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(blob_files(folder)) < 30 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert Folder(folder).names() == []
    assert backup(path, folder) == 0
    assert restore(settings_file(tmp_path / "restored"), folder) == 0
    assert content(tmp_path / "restored.toml") == content(path)


def test_a_damaged_file_of_the_archive_is_left_out(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(path) as archive:
        (one,) = archive.storage.instances(scope=Scope(instance_uid="1.2.3.1.1"))
    file = blob_file(tmp_path / "archive" / "blobs", one.blob.key)
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert backup(path, tmp_path / "backup") == 3
    assert "LEFT OUT  1.2.3.1.1: its SHA-256 is not that of its record." in capsys.readouterr().out
    assert restore(settings_file(tmp_path / "restored"), tmp_path / "backup") == 0


def test_damage_of_the_backup_is_told(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "backup"
    assert _named(monkeypatch, "20260101T000000Z", path, folder) == 0
    file = sorted(blob_files(folder), key=lambda each: each.stat().st_size)[-1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert restore(settings_file(tmp_path / "one"), folder) == 1
    assert "is not what its record says" in capsys.readouterr().err
    assert backup(path, folder, "--verify") == 0
    assert file.read_bytes() == whole
    (index, *_) = sorted((folder / "indexes").iterdir())[::-1]
    lines = gzip.decompress(index.read_bytes()).splitlines(keepends=True)
    index.write_bytes(gzip.compress(b"".join(lines[1:])))
    assert restore(settings_file(tmp_path / "two"), folder) == 1
    assert "The index in the backup is damaged" in capsys.readouterr().err


def test_other_folders_are_left_alone(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backup(path, tmp_path) == 1
    assert "is not empty, and no folder of backups" in capsys.readouterr().err
    assert restore(path, tmp_path) == 1
    assert "There is no backup in" in capsys.readouterr().err
    assert backup(path, tmp_path / "backup") == 0
    with Folder(tmp_path / "backup").locked():
        assert backup(path, tmp_path / "backup") == 1
    assert "Another backup into" in capsys.readouterr().err
    assert restore(path, tmp_path / "backup") == 1
    assert "an archive is copied into an empty one only" in capsys.readouterr().err
