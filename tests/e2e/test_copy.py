"""`dicomweb-server copy`: around the circle of all backends, interrupted, killed, refused; every byte arrives."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit
from webtest import TestApp

from dicomweb_server.__main__ import main
from dicomweb_server.app import create_app, open_parts
from dicomweb_server.errors import Conflict, StorageCorrupt, StorageUnavailable
from dicomweb_server.services.copy import Archive, Copy, Progress
from dicomweb_server.services.ingest import Ingest, IngestLimits
from dicomweb_server.settings import Settings, load
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import ArchiveEntry, OnDuplicate, Scope
from dicomweb_server.testing.moving_suite import comparable
from tests.commands.archives import in_database, settings_file
from tests.live import ROOT
from tests.samples import instance, part10, sample_files
from tests.services import s3
from tests.services.databases import missing

REPLACE = IngestLimits(on_duplicate=OnDuplicate.REPLACE)
SAMPLES = 60


@contextmanager
def opened(path: Path) -> Iterator[tuple[Settings, Archive]]:
    settings = load(path, environ={})
    storage, blobs = open_parts(settings)
    try:
        yield settings, Archive(storage, blobs)
    finally:
        storage.close()
        blobs.close()


def store(archive: Archive, files: Sequence[bytes]) -> None:
    request = Ingest(archive.storage, archive.blobs, limits=REPLACE).begin()
    for file in files:
        request.add([file])
    assert not request.finish().refused


def fill(archive: Archive) -> None:
    """Real files of many kinds, a replaced one, a removed one, a layout in a blob of its own, documents."""
    files = [path.read_bytes() for path in sample_files()[:SAMPLES]]
    store(archive, files)
    uid = instance().SOPInstanceUID
    for number in range(3):
        store(archive, [part10(instance("1.2.3", "1.2.3.4", uid, InstanceNumber=number))])
    frames = [bytes(2 * (number * 7919 % 97 + 1)) for number in range(20_000)]
    many = instance("1.2.6", "1.2.6.1", NumberOfFrames=len(frames), PixelData=encapsulate(frames, has_bot=False))
    many["PixelData"].VR = "OB"
    store(archive, [part10(many, transfer_syntax_uid=JPEGBaseline8Bit)])
    (slides,) = archive.storage.instances(scope=Scope(study_uid="1.2.6"))
    assert slides.layout_blob is not None
    store(archive, [part10(instance("1.2.5", "1.2.5.1", "1.2.5.1.1"))])
    archive.storage.remove(scope=Scope(study_uid="1.2.5"))
    for number in range(2):
        archive.storage.put_document(kind="note", document_id="n", body={"n": number}, keys={"n": (str(number),)})


def content(archive: Archive) -> list[Any]:
    """All entries, with the SHA-256 of the bytes of every blob in the place of its key."""
    found = []
    for _, entry in archive.storage.dump():
        one = getattr(entry, "instance", None)
        if one is None:
            found.append(comparable(entry))
            continue
        sums = [sha256(archive.blobs, key) for key in (one.blob.key, one.layout_blob) if key]
        assert sums[0] == one.blob.sha256
        found.append((*(part for part in comparable(entry) if part not in (one.blob, one.layout_blob)), sums))
    return found


def sha256(blobs: BlobStore, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in blobs.stream(key=key):
        digest.update(chunk)
    return digest.hexdigest()


def answers(settings: Settings, archive: Archive) -> dict[str, Any]:
    """What a client gets: lists, metadata of every study, every file."""
    with closing(create_app(settings, archive.storage, archive.blobs)) as application:
        return _answers(TestApp(application, extra_environ={"HTTP_HOST": "localhost:80"}), archive)


def _answers(app: Any, archive: Archive) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in ("/patients", "/studies", "/series", "/instances", "/studies?includefield=all&PatientName=*a*"):
        found[path] = app.get(path).body
    for study in orjson.loads(found["/studies"]):
        path = f"/studies/{study['0020000D']['Value'][0]}"
        found[f"{path}/metadata"] = app.get(f"{path}/metadata").body
    for one in archive.storage.instances(scope=Scope()):
        path = f"/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.instance_uid}"
        answer = app.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"})
        assert hashlib.sha256(answer.body).hexdigest() == one.blob.sha256
        found[path] = answer.body
    return found


def everything(path: Path) -> tuple[list[Any], dict[str, Any]]:
    with opened(path) as (settings, archive):
        return content(archive), answers(settings, archive)


def copied(source: Path, target: Path, *more: str) -> int:
    return main(["copy", "--from", str(source), "--to", str(target), *more])


def keys(archive: Archive) -> set[str]:
    return set(archive.blobs.keys(older_than_seconds=0))


def blob_keys(archive: Archive) -> set[str]:
    instances = [getattr(entry, "instance", None) for _, entry in archive.storage.dump()]
    return {key for one in instances if one for key in (one.blob.key, one.layout_blob) if key}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = settings_file(tmp_path_factory.mktemp("source") / "archive")
    with opened(path) as (_, archive):
        fill(archive)
    return path


@pytest.fixture(scope="module")
def original(source: Path) -> tuple[list[Any], dict[str, Any]]:
    return everything(source)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return settings_file(tmp_path / "target")


class TestTheCommand:
    def test_everything_arrives_and_the_source_is_as_before(
        self, source: Path, original: object, target: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert copied(source, target, "--read-back") == 0
        assert capsys.readouterr().out.endswith("Counts and checksums are equal.\n")
        assert everything(target) == original
        assert everything(source) == original
        with opened(target) as (_, archive):
            assert keys(archive) == blob_keys(archive)

    def test_a_second_run_finds_nothing_to_do(
        self, source: Path, target: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copied(source, target)
        assert copied(source, target) == 0
        assert capsys.readouterr().out.endswith("Nothing was left to do.\n")

    def test_both_files_must_be_named(self, source: Path) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["copy", "--from", str(source)])
        assert caught.value.code == 2

    def test_variables_count_for_the_backends_in_use(
        self, source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of other backends are left alone, and one variable never moves both archives to one place."""
        monkeypatch.setenv("DICOMWEB__STORAGE__MONGODB__URL", "mongodb://nowhere:1")
        monkeypatch.setenv("DICOMWEB__STORAGE__DIRECTORY", str(tmp_path / "elsewhere"))
        assert copied(source, target) == 0
        assert not (tmp_path / "elsewhere").exists()


class TestRefusals:
    def test_a_target_with_something_else(self, source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with opened(target) as (_, archive):
            store(archive, [part10(instance())])
        assert copied(source, target) == 1
        assert "an archive is copied into an empty one only" in capsys.readouterr().err

    def test_a_place_with_files_of_another(self, source: Path, target: Path, tmp_path: Path) -> None:
        """The index alone may not move: both archives would think that the files are theirs."""
        index = settings_file(tmp_path / "index", f'[blobs.files]\ndirectory = "{source.with_suffix("")}"\n')
        assert copied(source, index) == 1

    def test_the_same_archive(self, source: Path) -> None:
        assert copied(source, source) == 1

    def test_an_empty_source(self, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert copied(settings_file(tmp_path / "none"), target) == 1
        assert "There is nothing in the source" in capsys.readouterr().err

    def test_a_copy_of_another_source(self, source: Path, target: Path, tmp_path: Path) -> None:
        other = settings_file(tmp_path / "other")
        with opened(other) as (_, archive):
            store(archive, [part10(instance())])
        assert copied(other, target) == 0
        assert copied(source, target) == 1

    def test_a_damaged_file(self, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = settings_file(tmp_path / "damaged")
        with opened(path) as (_, archive):
            store(archive, [part10(instance(instance_uid="1.2.3.4.5"))])
        (file,) = (path for path in (tmp_path / "damaged" / "blobs").rglob("*") if path.is_file())
        file.write_bytes(file.read_bytes()[:-1] + b"\xff")
        assert copied(path, target) == 1
        assert "The file of the instance 1.2.3.4.5 in the source is not what its record says" in capsys.readouterr().err
        with opened(target) as (_, archive):
            assert keys(archive) == set()


class TestInterruptions:
    def test_it_goes_on_after_every_failure(
        self, source: Path, original: object, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dicomweb_server.services.copy.BATCH_ENTRIES", 9)
        runs = 0
        with opened(source) as (_, one), opened(target) as (_, other):
            for runs in range(200):
                breaking = _breaking(type(other.storage), after=runs % 2 == 1)
                with monkeypatch.context() as patch:
                    patch.setattr(type(other.storage), "load", breaking)
                    try:
                        Copy(one, other, told=_nothing).run()
                        break
                    except StorageUnavailable:
                        continue
            assert keys(other) == blob_keys(other)
        assert runs > 5
        assert everything(target) == original

    def test_it_goes_on_after_a_kill(self, tmp_path: Path, target: Path) -> None:
        source = settings_file(tmp_path / "many")
        with opened(source) as (_, archive):
            store(archive, [part10(instance("1.2.3", "1.2.3.4", InstanceNumber=number)) for number in range(700)])
        command = [sys.executable, "-m", "dicomweb_server", "copy", "--from", str(source), "--to", str(target)]
        with opened(target) as (_, archive):
            process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
            deadline = time.monotonic() + 60
            while '"cursor":"' not in (archive.storage.loaded() or "") and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait(30) == -signal.SIGKILL
            begun = sum(1 for _ in archive.storage.dump())
            assert 0 < begun < 1400
        assert copied(source, target) == 0
        with opened(target) as (_, archive):
            assert keys(archive) == blob_keys(archive)
        assert everything(target) == everything(source)

    def test_a_source_that_changes_is_told(self, tmp_path: Path, target: Path) -> None:
        source = settings_file(tmp_path / "changing")
        with opened(source) as (_, one), opened(target) as (_, other):
            store(one, [part10(instance())])

            def change(_progress: Progress) -> None:
                store(one, [part10(instance())])

            with pytest.raises(Conflict, match="The source has changed"):
                Copy(one, other, told=change).run()
            with pytest.raises(Conflict, match="The source has changed"):
                Copy(one, other, told=_nothing).run()

    def test_a_target_that_lost_something_is_told(self, source: Path, target: Path) -> None:
        with opened(source) as (_, one), opened(target) as (_, other):

            def lose(progress: Progress) -> None:
                if progress.instances == progress.total and not progress.verifying:
                    uid = next(other.storage.instances(scope=Scope())).instance_uid
                    other.storage.remove(scope=Scope(instance_uid=uid))
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                Copy(one, other, told=lose).run()
            with pytest.raises(StorageCorrupt, match="The target has not as many instances"):
                Copy(one, other, told=_nothing).run()


def _nothing(_progress: Progress) -> None:
    return


def _breaking(storage: type[Storage], *, after: bool) -> Any:
    """`load` that works once, and then loses the connection: before it does anything, or before it answers."""
    calls = 0
    load_ = storage.load

    def load(self: Storage, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            return load_(self, entries=entries, note=note)
        if after:
            load_(self, entries=entries, note=note)
        raise StorageUnavailable("The connection is lost.")

    return load


def test_around_the_circle_of_all_backends(source: Path, original: object, target: Path, tmp_path: Path) -> None:
    with in_database("mongodb") as first, in_database("couchdb") as second:
        between = [settings_file(tmp_path / str(number), text) for number, text in enumerate((first, second))]
        for one, other in pairwise((source, *between, target)):
            assert copied(one, other, "--read-back") == 0
            assert everything(other) == original


def test_by_way_of_s3(source: Path, original: object, target: Path, tmp_path: Path) -> None:
    """The files into a bucket and out of it; the index may be any."""
    try:
        with s3.running(tmp_path / "server") as server:
            table = "".join(f"{key} = {orjson.dumps(value).decode()}\n" for key, value in server.settings.items())
            bucket = settings_file(tmp_path / "bucket", f'[blobs]\nstore = "s3"\n[blobs.s3]\n{table}')
            for one, other in pairwise((source, bucket, target)):
                assert copied(one, other, "--read-back") == 0
                assert everything(other) == original
    except s3.Unavailable as exc:
        missing("s3", exc)
