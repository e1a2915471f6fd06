"""What nothing needs any more is deleted, by one process at a time, and no sooner than the settings say."""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from backends.files import FileBlobStore
from dicomweb_server.errors import StorageUnavailable, VersionConflict
from dicomweb_server.services.lease import LEASE_SECONDS
from dicomweb_server.services.release import Release, Retention
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import Blob, InstanceRecord, OnDuplicate, Scope
from dicomweb_server.testing.datasets import record

DAY = 24 * 3600.0


class Clock:
    """Now, and what was added to it."""

    def __init__(self) -> None:
        self.now = datetime.now().timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[BlobStore]:
    blobs = FileBlobStore.from_settings(settings={"directory": str(tmp_path)})
    blobs.open()
    yield blobs
    blobs.close()


def stored(storage: Storage, blobs: BlobStore, old: InstanceRecord | None = None) -> InstanceRecord:
    """An instance with a file, in the place of an old one if there is one."""
    staged = blobs.stage()
    staged.file.write(b"x" * 100)
    (key,) = blobs.keep(staged=[staged])
    made = (
        record(content=b"a")
        if old is None
        else record(old.study_uid, old.series_uid, instance_uid=old.instance_uid, content=b"b")
    )
    fields = {name: getattr(made, name) for name in made.__slots__}
    one = InstanceRecord(**{**fields, "blob": Blob(key=key, size_bytes=100, sha256=made.blob.sha256)})
    storage.store(records=[one], on_duplicate=OnDuplicate.REPLACE)
    return one


def release(storage: Storage, blobs: BlobStore, clock: Clock, *, bin_days: int = 7, replaced_days: int = 0) -> Release:
    retention = Retention(bin_days=bin_days, replaced_days=replaced_days)
    return Release(storage, blobs, retention, clock=clock, stopwatch=clock)


def files(blobs: BlobStore) -> set[str]:
    return set(blobs.keys(older_than_seconds=0))


def test_the_bin_is_emptied_when_the_time_is_over(storage: Storage, blobs: BlobStore, clock: Clock) -> None:
    one, stays = stored(storage, blobs), stored(storage, blobs)
    newer = stored(storage, blobs, one)
    storage.remove(scope=one.scope, keep=True)
    release_ = release(storage, blobs, clock)
    clock.now += 6 * DAY
    assert release_.step() == 0
    assert len(files(blobs)) == 3
    clock.now += 2 * DAY
    assert release_.step() == 2
    assert files(blobs) == {stays.blob.key}
    assert storage.known_blobs(keys=[one.blob.key, newer.blob.key]) == frozenset()
    assert release_.step() == 0


def test_without_retention_it_is_emptied_at_once(storage: Storage, blobs: BlobStore, clock: Clock) -> None:
    one = stored(storage, blobs)
    storage.remove(scope=one.scope, keep=True)
    clock.now += 1
    assert release(storage, blobs, clock, bin_days=0).step() == 1
    assert files(blobs) == set()


@pytest.mark.parametrize(("days", "left"), [(0, 2), (30, 1)])
def test_older_versions_are_kept_for_their_own_time(
    storage: Storage, blobs: BlobStore, clock: Clock, days: int, left: int
) -> None:
    one = stored(storage, blobs)
    current = stored(storage, blobs, one)
    release_ = release(storage, blobs, clock, replaced_days=days)
    clock.now += 29 * DAY
    release_.step()
    assert len(files(blobs)) == 2
    clock.now += 2 * DAY
    release_.step()
    assert len(files(blobs)) == left
    assert current.blob.key in files(blobs)


def test_what_another_process_releases_is_left_to_it(storage: Storage, blobs: BlobStore, clock: Clock) -> None:
    one = stored(storage, blobs)
    storage.remove(scope=one.scope)
    mine, other = release(storage, blobs, clock), release(storage, blobs, clock)
    document = other._lease.take(other._lease.read(dict))
    assert mine.step() == 0
    clock.now += LEASE_SECONDS + 1  # the other died
    assert mine.step() == 1
    with pytest.raises(VersionConflict):
        other._lease.give(document, {})
    assert files(blobs) == set()


def test_a_file_that_cannot_be_deleted_stays_in_the_queue(
    storage: Storage, blobs: BlobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stored(storage, blobs)
    storage.remove(scope=one.scope)

    def fails(**_: object) -> None:
        raise StorageUnavailable("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "delete", fails)
        with pytest.raises(StorageUnavailable):
            release(storage, blobs, clock).step()
    assert list(storage.released(limit=9)) == [one.blob.key]
    another = release(storage, blobs, clock)
    assert another.step() == 0
    clock.now += LEASE_SECONDS + 1
    assert another.step() == 1


def test_a_clock_that_is_set_neither_stops_the_release_nor_lets_two_run(
    storage: Storage, blobs: BlobStore, clock: Clock
) -> None:
    one = stored(storage, blobs)
    storage.remove(scope=one.scope)
    stopwatch = Clock()
    mine, other = (
        Release(storage, blobs, Retention(bin_days=7, replaced_days=0), clock=clock, stopwatch=stopwatch)
        for _ in range(2)
    )
    other._lease.take(other._lease.read(dict))
    for days in (5, -5, -500):
        clock.now += days * DAY
        assert mine.step() == 0, "the other may still be at it"
    stopwatch.now += LEASE_SECONDS / 2
    other._lease.prolong(other._lease.read(dict))
    stopwatch.now += LEASE_SECONDS - 1
    assert mine.step() == 0, "it has prolonged its lease"
    stopwatch.now += LEASE_SECONDS + 1
    assert mine.step() == 1, "it has not come back, whatever the clock says"


def test_the_thread_is_woken_and_ends(storage: Storage, blobs: BlobStore) -> None:
    one = stored(storage, blobs)
    storage.remove(scope=one.scope)
    thread = Release(storage, blobs, Retention(bin_days=7, replaced_days=0))
    thread.start()
    thread.wake()
    while storage.binned(scope=Scope(), limit=1).entries or storage.released(limit=1):
        assert thread._thread.is_alive()
    thread.close()
    assert not thread._thread.is_alive()
    assert files(blobs) == set()


def test_the_thread_finishes_what_was_interrupted(storage: Storage, blobs: BlobStore) -> None:
    resumed = threading.Event()
    thread = Release(storage, blobs, Retention(bin_days=7, replaced_days=0), resume=resumed.set)
    thread.start()
    thread.wake()
    assert resumed.wait(30)
    thread.close()
