"""`dicomweb-server rebuild`: an index that is lost comes back from the files."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from dicomweb_server.__main__ import main
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageUnavailable
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.rebuild import Rebuild
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Scope
from tests.commands.archives import opened, settings_file, store
from tests.samples import instance, part10, sample_files


def rebuild(path: Path) -> int:
    return main(["rebuild", "--config", str(path)])


def lose_index(path: Path) -> None:
    for each in path.with_suffix("").glob("index.sqlite*"):
        each.unlink()


def content(archive: Archive) -> Any:
    """What searches and metadata give, and the bytes and places of every instance."""
    hits = [
        archive.storage.search(query=Query(level=level, limit=1000)).hits
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES)
    ]
    shown = [(hit.study_uid, hit.number_of_instances, sorted(hit.transfer_syntaxes)) for some in hits for hit in some]
    instances = {
        one.instance_uid: (one.blob, one.layout, one.layout_blob is None, one.transfer_syntax_uid)
        for one in archive.storage.instances(scope=Scope())
    }
    metadata = {one.instance_uid: one.deflated for one in archive.storage.metadata(scope=Scope())}
    return shown, instances, metadata


def test_everything_that_files_tell_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, *(file.read_bytes() for file in sample_files()[:40]))
        frames = [bytes(2 * (number * 7919 % 97 + 1)) for number in range(6_000)]
        many = instance("1.2.4", "1.2.4.1", "1.2.4.1.1", NumberOfFrames=6_000, PixelData=encapsulate(frames))
        many["PixelData"].VR = "OB"
        store(archive, part10(many, transfer_syntax_uid=JPEGBaseline8Bit))
        before = content(archive)
    lose_index(path)
    (tmp_path / "archive" / "blobs" / "19990101" / "0000").mkdir(parents=True)
    (tmp_path / "archive" / "blobs" / "19990101" / "0000" / f"{'0' * 32}").write_bytes(b"rubbish")
    assert rebuild(path) == 3
    told = capsys.readouterr().out
    assert f"LEFT      19990101/0000/{'0' * 32}: " in told
    assert "1 are not needed any more, 1 are no instances." in told
    with opened(path) as archive:
        assert content(archive) == before
    assert rebuild(path) == 0
    assert "The index was not empty" in capsys.readouterr().out


def test_older_versions_stay_behind_newer_ones(tmp_path: Path) -> None:
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", InstanceNumber=1))
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", InstanceNumber=2))
        (newest,) = archive.storage.instances(scope=Scope())
        (older,) = archive.storage.replaced(instance_uid="1.2.3.1.1")
    lose_index(path)
    first, later = sorted((older.instance.blob.key, newest.blob.key))
    with opened(path) as archive:
        Rebuild(archive.storage, archive.blobs, told=lambda *_: None).run()
        (found,) = archive.storage.instances(scope=Scope())
        (before,) = archive.storage.replaced(instance_uid="1.2.3.1.1")
    assert (before.instance.blob.key, found.blob.key) == (first, later)


def test_it_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomweb_server.services.rebuild._BATCH", 3)
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 11)))
        before = content(archive)
    lose_index(path)

    def stop(done: int, _total: int) -> None:
        if done > 3:
            raise StorageUnavailable("The connection is lost.")

    with opened(path) as archive:
        with pytest.raises(StorageUnavailable):
            Rebuild(archive.storage, archive.blobs, told=stop).run()
        rebuilt = Rebuild(archive.storage, archive.blobs, told=lambda *_: None).run()
        assert (rebuilt.grace, rebuilt.known) == (False, 6)
        assert content(archive) == before


def test_an_index_in_use_takes_old_files_only(tmp_path: Path) -> None:
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1"), instance("1.2.3", "1.2.3.1", "1.2.3.1.2"))
        kept, lost = archive.storage.instances(scope=Scope())
    lose_index(path)
    with opened(path) as archive:
        file = tmp_path / "archive" / "blobs" / kept.blob.key
        store(archive, file.read_bytes())
        for days, expected in ((0.5, 1), (2, 2)):
            moment = time.time() - days * 24 * 3600
            os.utime(tmp_path / "archive" / "blobs" / lost.blob.key, (moment, moment))
            assert Rebuild(archive.storage, archive.blobs, told=lambda *_: None).run().grace
            assert archive.storage.count(query=Query(level=Level.INSTANCE)) == expected
