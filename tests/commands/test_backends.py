"""The commands that keep an archive, on the databases and on S3: what comes in, is corrected, removed, checked, saved
and made again."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.dicom.levels import Level
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.release import Release, Retention
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Scope
from tests.commands.archives import in_bucket, in_database, opened, settings_file, store
from tests.live import ROOT
from tests.samples import instance, part10


@pytest.fixture(params=["mongodb", "couchdb", "s3"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An archive whose index and files lie in a database, or one on SQLite with its files in a bucket; and settings of
    the same files with an index that is empty."""
    with ExitStack() as stack:
        if request.param == "s3":
            text = other = stack.enter_context(in_bucket(tmp_path))
        else:
            text = stack.enter_context(in_database(request.param))
            other = stack.enter_context(in_database(request.param))
            other += re.sub(r'backend = "(\w+)"\n\[storage', r'[blobs]\nstore = "\1"\n[blobs', text)
        yield settings_file(tmp_path / "archive", text), settings_file(tmp_path / "again", other)


@pytest.fixture
def path(places: tuple[Path, Path]) -> Path:
    return places[0]


def run(path: Path, command: str, *arguments: object) -> int:
    return main([command, "--config", str(path), *map(str, arguments)])


def run_import(path: Path, *arguments: object) -> int:
    """In a process of its own: it forks, and this one has threads of S3 and of databases."""
    command = [sys.executable, "-m", "dicomweb_server", "import", "--config", str(path), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=60, check=False).returncode


def content(path: Path) -> Any:
    """What searches and metadata give, and where the bytes of every instance are."""
    with opened(path) as archive:
        hits = [
            archive.storage.search(query=Query(level=level, limit=100)).hits
            for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
        ]
        shown = [(hit.study_uid, hit.number_of_instances, hit.attributes) for some in hits for hit in some]
        blobs = {one.instance_uid: (one.blob, one.layout) for one in archive.storage.instances(scope=Scope())}
        metadata = {one.instance_uid: one.deflated for one in archive.storage.metadata(scope=Scope())}
    return shown, blobs, metadata


def keys(archive: Archive) -> set[str]:
    return set(archive.blobs.keys(older_than_seconds=0))


def test_check_backup_and_back(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as archive:
        store(archive, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 6)))
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", InstanceNumber=7))
        store(archive, instance("1.2.4", "1.2.4.1", "1.2.4.1.1"))
        archive.storage.remove(scope=Scope(study_uid="1.2.4"), keep=True)
    assert run(path, "migrate") == 0
    assert run(path, "check", "--deep") == 0
    assert run(path, "backup", tmp_path / "backup") == 0
    restored = settings_file(tmp_path / "restored")
    assert run(restored, "restore-backup", tmp_path / "backup") == 0
    assert run(restored, "check", "--deep") == 0
    assert content(restored)[0::2] == content(path)[0::2]
    with opened(path) as archive:
        (lost, *_) = archive.storage.instances(scope=Scope(instance_uid="1.2.3.1.2"))
        archive.blobs.delete(keys=[lost.blob.key])
    capsys.readouterr()
    assert run(path, "check", "--repair") == 0
    assert "repaired  missing file: 1.2.3/1.2.3.1/1.2.3.1.2: " in capsys.readouterr().out
    assert run(path, "check", "--deep") == 0


def test_in_out_and_made_again(places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, again = places
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(part10(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}")))
    assert run(path, "import", "--link", tmp_path / "in") == 1
    assert "Files can be linked only into an archive on sqlite and files" in capsys.readouterr().err
    assert run_import(path, "--jobs", 1, "--log", tmp_path / "journal", tmp_path / "in") == 0
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "x.dcm").write_bytes(part10(instance("1.2.4", "1.2.4.1", "1.2.4.1.1")))
    assert run(path, "watch", "--once", "--settle", 0, "--every", 0.1, tmp_path / "drop") == 0
    assert not (tmp_path / "drop" / "x.dcm").exists()
    assert run(path, "edit", "1.2.3", "--set", "PatientID=P9", "--reason", "wrong patient") == 0
    assert run(path, "export", "PatientID=P9", "--to", tmp_path / "out.zip") == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        assert sorted(name.rpartition("/")[2] for name in packed.namelist()) == [
            "DICOMDIR",
            "I0000000",
            "I0000001",
            "I0000002",
        ]
    assert run(path, "remove", "1.2.4") == 0
    assert run(path, "restore", "1.2.4") == 0
    assert run(path, "remove", "1.2.4") == 0
    assert run(path, "bin", "list") == 0
    assert " 1.2.4 " in capsys.readouterr().out.replace("\t", " ")
    with opened(path) as archive:
        assert Release(archive.storage, archive.blobs, Retention(bin_days=0, replaced_days=0)).step() == 1
    assert run(path, "bin", "purge", "--replaced", "--all") == 0
    with opened(path) as archive:
        assert keys(archive) == {one.blob.key for one in archive.storage.instances(scope=Scope())}
    assert run(path, "check", "--deep") == 0
    before = content(path)
    assert run(again, "rebuild") == 0
    assert content(again) == before
    assert run(again, "check", "--deep") == 0
