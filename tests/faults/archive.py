"""The archive that faults happen to: some studies, older versions, a bin, documents; and what must be true of it."""

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from dicomweb_server.app import open_parts
from dicomweb_server.dicom.levels import Level
from dicomweb_server.services.check import Check, Problem
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.remove import Remove
from dicomweb_server.settings import Settings, load
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import ChangeKind, Scope
from tests.commands.archives import store
from tests.samples import instance, part10

KEPT, REMOVED, REPLACED, BINNED = "1.2.1", "1.2.2", "1.2.3", "1.2.4"
IN_STUDY = 4
Content = dict[str, str]
"""The SHA-256 of what is stored, by SOP Instance UID."""


def small(study_uid: str, number: int, **attributes: Any) -> bytes:
    """A file of a study, the same whenever it is asked for."""
    noise = random.Random(f"{study_uid} {number} {attributes}")
    ds = instance(
        study_uid,
        f"{study_uid}.{number % 2}",
        f"{study_uid}.0.{number}",
        InstanceNumber=number,
        PatientID=f"P{study_uid}",
        PixelData=noise.randbytes(64),
        **attributes,
    )
    return part10(ds)


def many_frames(study_uid: str) -> bytes:
    """A file whose places of frames are too many for its record."""
    ds = instance(study_uid, f"{study_uid}.9", f"{study_uid}.9.1", NumberOfFrames=9000, PatientID=f"P{study_uid}")
    ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9" + bytes(2 * (number % 3)) for number in range(9000)], has_bot=False)
    ds["PixelData"].is_undefined_length = True
    return part10(ds, transfer_syntax_uid=JPEGBaseline8Bit)


def digest(data: bytes) -> str:
    """The SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def settings_of(folder: Path, **more: Any) -> Settings:
    """Those of an archive in that folder (`data`: or in the database that the environment names); `more` are settings
    with __ for their dots."""
    overrides = {name.replace("__", "."): value for name, value in more.items()}
    environ = os.environ if folder.name == "data" else {}  # what is only compared with lies in files
    return load(
        overrides={"storage.directory": str(folder), "stow.on_duplicate": "replace", **overrides}, environ=environ
    )


def make(folder: Path) -> None:
    """An archive in that folder."""
    storage, blobs = open_parts(settings_of(folder))
    with closing(storage), closing(blobs):
        archive = Archive(storage, blobs)
        for study_uid in (KEPT, REMOVED, BINNED):
            store(archive, *(small(study_uid, number) for number in range(IN_STUDY)))
        store(archive, many_frames(KEPT))
        for version in range(3):
            store(archive, *(small(REPLACED, number, StudyID=str(version)) for number in range(2)))
        storage.remove(scope=Scope(study_uid=BINNED), keep=True)
        for version in range(2):
            storage.put_document(kind="note", document_id="n", body={"n": version}, keys={"n": (str(version),)})


@dataclass(frozen=True, slots=True)
class State:
    """What an archive holds: what is visible, what the feed says is there, and how often it tells of something."""

    visible: Mapping[str, str]
    fed: frozenset[str]
    changes: int


def state_of(archive: Archive) -> State:
    """Read all, also every byte of every file. Fails where a file is not what its record says."""
    visible: Content = {}
    is_any = archive.storage.count(query=Query(level=Level.INSTANCE))
    for one in archive.storage.instances(scope=Scope()) if is_any else ():
        found = hashlib.sha256()
        for chunk in archive.blobs.stream(key=one.blob.key):
            found.update(chunk)
        assert found.hexdigest() == one.blob.sha256, f"the file of {one.instance_uid} is not what was stored"
        visible[one.instance_uid] = one.blob.sha256
    there: dict[str, bool] = {}
    changes = 0
    cursor: str | None = None
    while page := archive.storage.changes(after=cursor, limit=500):
        for change in page:
            there[change.instance_uid] = change.kind is not ChangeKind.REMOVED
        changes += len(page)
        cursor = page[-1].cursor
    return State(visible, frozenset(uid for uid, is_there in there.items() if is_there), changes)


def judge(archive: Archive, *, has_feed: bool = True, feed_seconds: float = 0.0) -> State:
    """What must be true after any fault, without anything being done about it: all that is visible is whole, the feed
    ends with it, and a deep check finds nothing. What no record names is rubbish, which goes once it is a day old.
    `feed_seconds`: so long it takes whoever opened the archive to tell what a process that died had not told."""
    state = state_of(archive)
    if has_feed:
        deadline = time.monotonic() + feed_seconds
        while state.fed != frozenset(state.visible) and time.monotonic() < deadline:
            time.sleep(0.05)
            visible, state = state.visible, state_of(archive)
            assert visible == state.visible, "what is there changes although nothing is done"
        assert state.fed == frozenset(state.visible), "the change feed does not end with what is there"
    found = list(Check(archive.storage, archive.blobs, deep=True, told=lambda _: None).run())
    assert not found, found
    return state


def tidy(archive: Archive) -> None:
    """What the background does within a minute and a check within a day; then no file is there without a record."""
    Remove(archive.storage, archive.blobs).release()
    repair = Check(archive.storage, archive.blobs, deep=True, repair=True, told=lambda _: None, grace_seconds=0)
    found = list(repair.run())
    assert all(one.problem is Problem.ORPHAN for one in found), found
    again = Check(archive.storage, archive.blobs, deep=True, told=lambda _: None, grace_seconds=0)
    left = list(again.run())
    # Where there were more orphans than files, the check rather leaves them.
    assert not left or all("most files" in one.detail for one in found), left


@contextmanager
def patched(module: Any, name: str, value: object) -> Iterator[None]:
    """The module with another value of that name."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


def copied(template: Path, folder: Path) -> None:
    """The same archive in another folder."""
    shutil.copytree(template, folder)
