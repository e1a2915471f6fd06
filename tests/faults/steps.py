"""What faults happen to: everything that changes an archive, as a client or an operator asks for it."""

import io
import os
import shutil
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pydicom
from webtest import TestApp

from dicomweb_server.__main__ import main
from dicomweb_server.app import create_app, open_parts
from dicomweb_server.errors import StorageError
from dicomweb_server.services import lease
from dicomweb_server.services.backup_folder import Folder
from dicomweb_server.services.backup_source import BackupSource
from dicomweb_server.services.copy import Archive, Copy
from dicomweb_server.services.release import Release, Retention
from dicomweb_server.services.remove import Remove
from dicomweb_server.storage.records import InstanceEntry, Scope
from tests.commands.archives import blob_file
from tests.contract.older import to_schema_1
from tests.faults.archive import (
    BINNED,
    IN_STUDY,
    KEPT,
    REMOVED,
    REPLACED,
    Content,
    digest,
    many_frames,
    patched,
    settings_of,
    small,
)
from tests.samples import RELATED, envelope

NEW = "1.2.7"
EDITED = "Edited^Name"
RELEASED_WITHIN_SECONDS = 2.0
Tell = Callable[[dict[str, str | None]], None]
"""Acknowledges what is stored now (its SHA-256), or (None) removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that is done to the archive in `folder/data`. `act` gives an exit status; what it tells is
    acknowledged. `again` is what a user does after a fault, until all is as if there had been none. `check` says what
    else must be true, with whether it is after `again`."""

    name: str
    act: Callable[[Path, Tell], int]
    prepare: Callable[[Path], None] = lambda _: None
    again: Callable[[Path], int] | None = None
    check: Callable[[Path, bool], None] = lambda _folder, _ended: None
    result: str = "data"
    """The archive that is looked at."""
    at_once: tuple[str, ...] = ()
    """Studies that change as a whole."""
    mends: bool = False
    """It finds a damaged archive, which is not right before it has ended."""
    has_feed: bool = True
    of_files: bool = False
    """It is one of archives in files only, or damages those."""
    edits: bool = False
    """The new versions tell when they were made: that they are new ones is all that can be compared."""
    goes_around: bool = False
    """What cannot be read is told, left out and put aside: the end is another one then."""


def _told_nothing(_: dict[str, str | None]) -> None:
    return


# Over HTTP


def _app(folder: Path, **more: Any) -> tuple[TestApp, Archive, Callable[[], None]]:
    settings = settings_of(folder / "data", codec__cache_bytes=0, **more)
    storage, blobs = open_parts(settings)
    app = create_app(settings, storage, blobs)

    def close() -> None:
        app.close()
        storage.close()
        blobs.close()

    return TestApp(app, extra_environ={"HTTP_HOST": "localhost"}), Archive(storage, blobs), close


def _requests() -> list[list[bytes]]:
    return [
        [small(NEW, number) for number in range(IN_STUDY)],
        [many_frames(NEW), small(NEW, IN_STUDY)],
        [small(KEPT, 0, StudyID="new"), small(KEPT, 1)],
    ]


def _uid(file: bytes) -> str:
    return str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(file), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def _store(folder: Path, tell: Tell) -> int:
    requests = [(envelope(files), {_uid(file): digest(file) for file in files}) for files in _requests()]
    app, _, close = _app(folder)
    with closing(_Closing(close)):
        for body, content in requests:
            answer = app.post("/studies", body, {"Content-Type": RELATED}, expect_errors=True)
            if answer.status_code != 200:
                _check_refusal(answer)
                return 1
            tell(dict(content))
    return 0


def _check_refusal(answer: Any) -> None:
    """503, or, where the disk could not read the index or a file, 500 that says so."""
    damaged = answer.status_code == 500 and ("damaged" in answer.text or "cannot be read" in answer.text)
    assert answer.status_code == 503 or damaged, answer.text


def _delete(folder: Path, tell: Tell) -> int:
    app, _, close = _app(folder)
    with closing(_Closing(close)):
        return _deleted(app, tell)


def _deleted(app: TestApp, tell: Tell) -> int:
    answer = app.delete(f"/studies/{REMOVED}", expect_errors=True)
    if answer.status_code == 404:
        return 0
    if answer.status_code != 204:
        _check_refusal(answer)
        return 1
    tell({f"{REMOVED}.0.{number}": None for number in range(IN_STUDY)})
    return 0


def _delete_for_good(folder: Path, tell: Tell) -> int:
    app, archive, close = _app(folder, remove__retention_days=0)
    with closing(_Closing(close)):
        status = _deleted(app, tell)
        deadline = time.monotonic() + RELEASED_WITHIN_SECONDS
        with suppress(StorageError):
            while archive.storage.released(limit=1) and time.monotonic() < deadline:
                time.sleep(0.005)  # a thread of the server does it
    return status


def _delete_for_good_again(folder: Path) -> int:
    status = _delete_for_good(folder, _told_nothing)
    with closing(opened(folder / "data")) as archive:
        Remove(archive.storage, archive.blobs).release()
    return status


def _released(archive: Archive) -> int:
    Release(archive.storage, archive.blobs, Retention(bin_days=0, replaced_days=0)).step()
    return 0


class _Closing:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


# Commands


def command(*words: str) -> Callable[[Path], int]:
    """A command on the archive in the folder; `{}` in its words is the folder."""

    def run(folder: Path) -> int:
        return main([*(word.replace("{}", str(folder)) for word in words), "--data", str(folder / "data")])

    return run


def _act(run: Callable[[Path], int]) -> Callable[[Path, Tell], int]:
    return lambda folder, _tell: run(folder)


def _queue(folder: Path) -> None:
    """Fill the release queue."""
    with closing(opened(folder / "data")) as archive:
        archive.storage.remove(scope=Scope(study_uid=REMOVED))
        archive.storage.remove(scope=Scope(study_uid=REPLACED))
        archive.storage.purge_binned(scope=Scope(), limit=100)


class _Opened(Archive):
    def close(self) -> None:
        self.storage.close()
        self.blobs.close()


def opened(data: Path) -> _Opened:
    return _Opened(*open_parts(settings_of(data)))


def _release(folder: Path, _tell: Tell) -> int:
    with closing(opened(folder / "data")) as archive:
        return _released(archive)


def _release_again(folder: Path) -> int:
    """Without waiting until the lease of the one that died is over."""
    with closing(opened(folder / "data")) as archive:
        Remove(archive.storage, archive.blobs).release()
    return 0


def _make_older(folder: Path) -> None:
    """An archive of schema 1, which had no bin."""
    with closing(opened(folder / "data")) as archive:
        archive.storage.purge_binned(scope=Scope(), limit=100)
        Remove(archive.storage, archive.blobs).release()
    to_schema_1(folder / "data" / "index.sqlite")


def _store_more(folder: Path) -> None:
    assert _store(folder, _told_nothing) == 0


def _begin_backups(folder: Path) -> None:
    assert command("backup", "{}/backup")(folder) == 0
    _store_more(folder)


def content_of(archive: Archive) -> Content:
    """The SHA-256 of all instances by UID."""
    return {
        entry.instance.instance_uid: entry.instance.blob.sha256
        for _, entry in archive.storage.dump()
        if isinstance(entry, InstanceEntry)
    }


def _check_backups(folder: Path, ended: bool) -> None:
    """Every backup that has a name can be restored, and is one of those that were made."""
    backups = Folder(folder / "backup")
    names = backups.names()
    assert names
    with closing(opened(folder / "data")) as archive:
        now = content_of(archive)
    for name in names:
        target = folder / f"proof-{name}-{ended}"
        with closing(opened(target)) as archive:
            Copy(BackupSource(backups, name), archive, told=lambda _: None, read_back=True).run()
            found = content_of(archive)
        shutil.rmtree(target)
        assert found == now or (name != names[-1] or (not ended and NEW not in str(found)))


def _make_files(folder: Path) -> None:
    """Files that no archive has yet, some in a zip."""
    (folder / "files" / "deep").mkdir(parents=True)
    files = [small(NEW, number) for number in range(8)]
    for number, file in enumerate(files[:6]):
        (folder / "files" / ("deep" if number % 2 else "") / f"{number}.dcm").write_bytes(file)
    (folder / "files" / "note.txt").write_text("no instance")
    (folder / "files" / "large.dcm").write_bytes(many_frames(NEW))
    with zipfile.ZipFile(folder / "files" / "some.zip", "w") as archive:
        for number, file in enumerate(files[6:]):
            archive.writestr(f"{number}.dcm", file)


def _make_plain_files(folder: Path) -> None:
    _make_files(folder)
    (folder / "files" / "some.zip").unlink()


def _queue_links(folder: Path) -> None:
    """Fill the release queue with links that were kept together."""
    _make_plain_files(folder)
    if command("import", "{}/files", "--link", "--jobs", "1")(folder):
        raise RuntimeError("the files were not linked")
    with closing(opened(folder / "data")) as archive:
        archive.storage.remove(scope=Scope(study_uid=NEW))


def _check_released_links(folder: Path, ended: bool) -> None:
    assert (folder / "files" / "0.dcm").read_bytes() == small(NEW, 0)
    assert not (ended and list((folder / "data" / "blobs").rglob("*.links")))


def _check_journal(folder: Path, _ended: bool) -> None:
    """What the journal calls stored is stored."""
    with closing(opened(folder / "data")) as archive:
        visible = content_of(archive)
    for journal in (folder / "data" / "imports").glob("*.jsonl"):
        for line in journal.read_bytes().splitlines():
            with suppress(ValueError):
                entry = orjson.loads(line)
                if entry.get("fate") == "stored":
                    assert entry["instance_uid"] in visible, entry


def _check_linked(folder: Path, ended: bool) -> None:
    _check_journal(folder, ended)
    assert (folder / "files" / "0.dcm").read_bytes() == small(NEW, 0)


def _check_watched(folder: Path, ended: bool) -> None:
    """A file is in the archive before it leaves the folder, and is somewhere."""
    with closing(opened(folder / "data")) as archive:
        visible = content_of(archive)
    for number in range(6):
        places = list((folder / "files").rglob(f"{number}.dcm"))
        assert places
        refused = any(".refused" in place.parts for place in places)  # it could not be read
        if (ended and not refused) or any(".stored" in place.parts for place in places):
            assert f"{NEW}.0.{number}" in visible


def _check_export(folder: Path, ended: bool) -> None:
    """A medium with a directory is whole; a zip under its name, too."""
    if (folder / "out" / "DICOMDIR").exists():
        listed = pydicom.dcmread(folder / "out" / "DICOMDIR")
        paths = [
            folder.joinpath("out", *item.ReferencedFileID)
            for item in listed.DirectoryRecordSequence
            if "ReferencedFileID" in item
        ]
        assert len(paths) == IN_STUDY + 1
        assert all(digest(path.read_bytes()) for path in paths)
    if (folder / "out.zip").exists():
        with zipfile.ZipFile(folder / "out.zip") as archive:
            assert archive.testzip() is None
            assert len(archive.namelist()) == IN_STUDY + 2
    if ended:
        assert (folder / "out" / "DICOMDIR").exists() or (folder / "out.zip").exists()


def _export_again(folder: Path) -> int:
    shutil.rmtree(folder / "out", ignore_errors=True)
    return command("export", KEPT, "--to", "{}/out")(folder)


def _export_zip_again(folder: Path) -> int:
    if (folder / "out.zip").exists():
        return 0
    return command("export", KEPT, "--to", "{}/out.zip")(folder)


def _check_edited(folder: Path, ended: bool) -> None:
    """Each instance is as it was, or new with its original kept; never new twice."""
    with closing(opened(folder / "data")) as archive:
        for one in archive.storage.instances(scope=Scope(study_uid=KEPT)):
            content = b"".join(archive.blobs.stream(key=one.blob.key))
            name = pydicom.dcmread(io.BytesIO(content), specific_tags=["PatientName"]).PatientName
            older = archive.storage.replaced(instance_uid=one.instance_uid)
            assert len(older) == (name == EDITED), one.instance_uid
            assert name == EDITED or not ended


def _lose_index(folder: Path) -> None:
    for path in (folder / "data").glob("index.sqlite*"):
        path.unlink()


def _damage(folder: Path) -> None:
    """A missing file, an orphan that is old enough, and wrong totals."""
    data = folder / "data"
    with closing(opened(data)) as archive:
        one = archive.storage.get(scope=Scope(instance_uid=f"{KEPT}.0.1"))
    blob_file(data / "blobs", one.blob.key).unlink()
    orphan = data / "blobs" / "20200101" / "0000" / ("0" * 32)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"orphan")
    for path in (data / "blobs").glob("*/*/*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    with closing(sqlite3.connect(data / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE study SET instances = 99 WHERE uid = ?", (REMOVED,))


def _steps() -> list[Step]:
    remove, purge = command("remove", REMOVED), command("bin", "purge", "--all")
    restore, previous = command("restore", BINNED), command("restore", REPLACED, "--previous")
    backup, rebuild, repair = (
        command("backup", "{}/backup", "--keep", "1"),
        command("rebuild"),
        command("check", "--repair"),
    )
    import_, link = command("import", "{}/files", "--jobs", "2"), command("import", "{}/files", "--link", "--jobs", "2")
    watch = command("watch", "{}/files", "--once", "--settle", "0", "--every", "0")
    migrate = command("migrate")

    edit = command("edit", KEPT, "--set", f"PatientName={EDITED}", "--reason", "the wrong name")

    def edited_again(folder: Path) -> int:
        with patched(lease, "LEASE_SECONDS", 0.0):  # as if the time of the one that died were over
            return edit(folder)

    def restored(folder: Path) -> int:
        return main(["restore-backup", str(folder / "backup"), "--data", str(folder / "restored")])

    def removed_again(folder: Path) -> int:
        return 0 if remove(folder) in (0, 1) else 1  # 1: nothing of it is there any more

    def restored_again(folder: Path) -> int:
        return 0 if restore(folder) in (0, 1) else 1

    return [
        Step(name="store", act=_store, again=lambda folder: _store(folder, _told_nothing)),
        Step(name="remove", act=_delete, again=lambda folder: _delete(folder, _told_nothing), at_once=(REMOVED,)),
        Step(
            name="remove for good",
            act=_delete_for_good,
            again=_delete_for_good_again,
            at_once=(REMOVED,),
        ),
        Step(name="release", prepare=_queue, act=_release, again=_release_again),
        Step(
            name="release of links",
            of_files=True,
            prepare=_queue_links,
            act=_release,
            again=_release_again,
            check=_check_released_links,
        ),
        Step(name="remove (command)", act=_act(remove), again=removed_again, at_once=(REMOVED,)),
        Step(name="bin purge", act=_act(purge), again=purge),
        Step(name="restore", act=_act(restore), again=restored_again, at_once=(BINNED,)),
        Step(name="restore --previous", act=_act(previous)),
        Step(name="edit", act=_act(edit), again=edited_again, check=_check_edited, edits=True),
        Step(name="migrate", of_files=True, prepare=_make_older, act=_act(migrate), again=migrate),
        Step(
            name="backup",
            prepare=_begin_backups,
            act=_act(backup),
            again=backup,
            check=_check_backups,
            goes_around=True,
        ),
        Step(
            name="restore-backup",
            of_files=True,
            prepare=_begin_backups,
            act=_act(restored),
            again=restored,
            result="restored",
            has_feed=False,
        ),
        Step(
            name="import",
            prepare=_make_files,
            act=_act(import_),
            again=command("import", "{}/files", "--jobs", "2", "--resume"),
            check=_check_journal,
        ),
        Step(
            name="import --link",
            of_files=True,
            prepare=_make_plain_files,
            act=_act(link),
            again=command("import", "{}/files", "--link", "--jobs", "2", "--resume"),
            check=_check_linked,
        ),
        Step(
            name="watch",
            prepare=_make_plain_files,
            act=_act(watch),
            again=watch,
            check=_check_watched,
            goes_around=True,
        ),
        Step(
            name="export", act=_act(command("export", KEPT, "--to", "{}/out")), again=_export_again, check=_check_export
        ),
        Step(
            name="export to a zip",
            act=_act(command("export", KEPT, "--to", "{}/out.zip")),
            again=_export_zip_again,
            check=_check_export,
        ),
        Step(name="rebuild", of_files=True, prepare=_lose_index, act=_act(rebuild), again=rebuild, goes_around=True),
        Step(name="check --repair", of_files=True, prepare=_damage, act=_act(repair), again=repair, mends=True),
    ]


STEPS = _steps()
