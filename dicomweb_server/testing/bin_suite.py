"""The suite of the bin of a `Storage`: what `remove` keeps, and what becomes of it. A backend subclasses `BinSuite` and
gives it one fixture, as for `StorageSuite`."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest, NotFound, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    Binned,
    ChangeKind,
    InstanceRecord,
    OnDuplicate,
    Removed,
    Restored,
    Scope,
    Stored,
)
from dicomweb_server.testing.datasets import JPEG, new_uid, record
from dicomweb_server.testing.steps import at_once, put, shown, study_hit

REPLACE = OnDuplicate.REPLACE


def entries(storage: Storage, scope: Scope | None = None, **options: Any) -> list[Binned]:
    """The first page of the bin."""
    return list(storage.binned(scope=scope or Scope(), **options).entries)


def blobs(storage: Storage, scope: Scope | None = None) -> list[str]:
    """The keys of the files in the bin, in its order."""
    return [entry.instance.blob.key for entry in entries(storage, scope)]


def bring_back(storage: Storage, scope: Scope) -> list[Restored]:
    """Restore what is in the bin of a scope."""
    return storage.restore_binned(entries=[entry.entry for entry in entries(storage, scope)])


def newer(one: InstanceRecord, content: bytes, **more: Any) -> InstanceRecord:
    """Other bytes under the same UIDs."""
    return record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=content, **more)


class BinSuite:
    """Everything that `base.py` promises of the bin."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        """An empty, opened storage."""
        raise NotImplementedError

    # Keeping

    def test_nobody_sees_what_is_in_the_bin(self, storage: Storage) -> None:
        gone, stays = record(layout_blob="layout"), record()
        put(storage, gone, stays)
        assert storage.remove(scope=gone.scope, keep=True) == Removed(studies=1, series=1, instances=1)
        for call in (storage.get, storage.instances, storage.metadata, storage.version, storage.remove):
            with pytest.raises(NotFound):
                call(scope=gone.scope)
        assert storage.metadata_of(instance_uids=[gone.instance_uid]) == {}
        for level in Level:
            assert storage.count(query=Query(level=level)) == 1
            assert len(storage.search(query=Query(level=level)).hits) == 1
        assert [one.instance_uid for one in storage.instances(scope=Scope())] == [stays.instance_uid]
        assert storage.replaced(instance_uid=gone.instance_uid) == []
        assert [change.kind for change in storage.changes(after=None, limit=9)][-1] is ChangeKind.REMOVED

    def test_its_files_are_known_and_not_released(self, storage: Storage) -> None:
        one = record(layout_blob="layout", content=b"x" * 10)
        new = newer(one, b"y" * 30)
        put(storage, one)
        put(storage, new, on_duplicate=REPLACE)
        storage.remove(scope=one.scope, keep=True)
        keys = {one.blob.key, "layout", new.blob.key}
        assert storage.known_blobs(keys=[*keys, "other"]) == keys
        assert list(storage.released(limit=9)) == []
        usage = storage.usage(scope=Scope())
        assert (usage.instances, usage.binned_instances, usage.binned_bytes) == (0, 1, 30)
        assert (usage.replaced_instances, usage.replaced_bytes) == (1, 10)
        assert storage.stored_bytes() == 40

    def test_entries_tell_what_was_removed(self, storage: Storage) -> None:
        one = record(transfer_syntax_uid=JPEG, layout=b"abc", layout_blob="layout")
        put(storage, one)
        stored = storage.get(scope=one.scope)
        before = datetime.now(UTC) - timedelta(seconds=5)
        storage.remove(scope=one.scope, keep=True)
        (entry,) = entries(storage)
        assert (entry.instance, entry.metadata) == (stored, one.metadata)
        assert before < entry.binned_at < datetime.now(UTC) + timedelta(seconds=5)

    def test_a_removal_without_keeping_leaves_the_bin_alone(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        again = newer(one, b"again")
        put(storage, again)
        storage.remove(scope=one.scope)
        assert list(storage.released(limit=9)) == [again.blob.key]
        assert blobs(storage) == [one.blob.key]

    # Listing

    def test_scopes_of_the_bin(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        a, b, c, d = record(study, series), record(study, series), record(study), record()
        put(storage, a, b, c, d)
        for one in (d, c, b, a):
            storage.remove(scope=one.scope, keep=True)
        everything = [one.blob.key for one in (d, c, b, a)]
        assert blobs(storage) == everything
        assert blobs(storage, Scope(study_uid=study)) == everything[1:]
        assert blobs(storage, Scope(study_uid=study, series_uid=series)) == everything[2:]
        assert blobs(storage, Scope(series_uid=series)) == everything[2:]
        assert blobs(storage, a.scope) == blobs(storage, Scope(instance_uid=a.instance_uid)) == [a.blob.key]
        assert blobs(storage, Scope(study_uid=d.study_uid, series_uid=series)) == []
        assert blobs(storage, Scope(study_uid="1.2")) == []

    def test_pages_of_the_bin(self, storage: Storage) -> None:
        study = new_uid()
        some = [record(study) for _ in range(7)]
        put(storage, *some, record())
        storage.remove(scope=Scope(study_uid=study), keep=True)
        seen: list[str] = []
        cursor, pages = None, 0
        while pages < 9:
            page = storage.binned(scope=Scope(study_uid=study), limit=3, cursor=cursor)
            seen += [entry.instance.instance_uid for entry in page.entries]
            cursor, pages = page.cursor, pages + 1
            if cursor is None:
                break
        assert (sorted(seen), pages) == (sorted(one.instance_uid for one in some), 3)
        assert storage.binned(scope=Scope(), limit=7).cursor is None
        assert list(storage.binned(scope=Scope(), limit=0).entries) == []

    def test_time_chooses(self, storage: Storage) -> None:
        first, second = record(), record()
        put(storage, first, second)
        storage.remove(scope=first.scope, keep=True)
        (entry,) = entries(storage)
        middle = entry.binned_at + timedelta(milliseconds=20)
        while datetime.now(UTC) <= middle:
            storage.count(query=Query(level=Level.STUDY))
        storage.remove(scope=second.scope, keep=True)
        assert [one.instance.blob.key for one in entries(storage, before=middle)] == [first.blob.key]
        assert entries(storage, before=entry.binned_at) == []
        assert storage.purge_binned(scope=Scope(), before=middle, limit=9) == 1
        assert blobs(storage) == [second.blob.key]

    @pytest.mark.parametrize("cursor", ["", "x", "1", "1-x", "-", "9" * 40, "[]", "e30", "١-١"])
    def test_a_foreign_cursor_is_refused(self, storage: Storage, cursor: str) -> None:
        with pytest.raises(BadRequest):
            storage.binned(scope=Scope(), cursor=cursor)

    # Restoring

    def test_restoring_brings_everything_back(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        values: dict[str, Any] = {"PatientName": "Doe^Jane", "StudyDescription": "first"}
        one = record(study, series, layout=b"abc", transfer_syntax_uid=JPEG, **values)
        other = record(study, series, PatientName="Doe^Jane", StudyDescription="second", Modality="MR")
        put(storage, one, other)
        beside = record(PatientName="Doe^Jane")
        put(storage, beside)
        stored = storage.get(scope=one.scope)
        hits = [storage.search(query=Query(level=level)).hits for level in Level]
        versions = [storage.version(scope=scope) for scope in (Scope(), Scope(study_uid=study))]
        storage.remove(scope=Scope(study_uid=study), keep=True)
        begin = storage.newest_change()
        assert bring_back(storage, Scope(study_uid=study)) == [Restored.RESTORED] * 2
        assert storage.get(scope=one.scope) == stored
        assert [storage.search(query=Query(level=level)).hits for level in Level] == hits
        assert {each.instance_uid: each.deflated for each in storage.metadata(scope=Scope(study_uid=study))} == {
            each.instance_uid: each.metadata for each in (one, other)
        }
        changes = storage.changes(after=begin, limit=9)
        assert {(change.kind, change.instance_uid) for change in changes} == {
            (ChangeKind.RESTORED, one.instance_uid),
            (ChangeKind.RESTORED, other.instance_uid),
        }
        now = [storage.version(scope=scope) for scope in (Scope(), Scope(study_uid=study))]
        assert set(now).isdisjoint(versions)
        assert entries(storage) == []
        assert put(storage, one) == [Stored.SAME]

    def test_a_restored_instance_takes_its_place(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        first = record(study, series, StudyDescription="first")
        put(storage, first, record(study, series, StudyDescription="second"))
        storage.remove(scope=first.scope, keep=True)
        assert shown(study_hit(storage, study), "00081030") == ["second"]
        bring_back(storage, first.scope)
        assert shown(study_hit(storage, study), "00081030") == ["first"]
        assert study_hit(storage, study).number_of_instances == 2

    def test_older_versions_come_back_with_their_instance(self, storage: Storage) -> None:
        one = record(content=b"1")
        put(storage, one)
        for content in (b"2", b"3"):
            put(storage, newer(one, content), on_duplicate=REPLACE)
        older = [version.instance.blob for version in storage.replaced(instance_uid=one.instance_uid)]
        storage.remove(scope=one.scope, keep=True)
        put(storage, newer(one, b"4"))
        assert storage.replaced(instance_uid=one.instance_uid) == []
        storage.remove(scope=one.scope)
        assert bring_back(storage, one.scope) == [Restored.RESTORED]
        found = storage.replaced(instance_uid=one.instance_uid)
        assert [version.instance.blob for version in found] == older
        storage.restore(instance_uid=one.instance_uid, version=found[-1].version)
        assert storage.get(scope=one.scope).blob == one.blob

    def test_an_instance_that_is_stored_again_is_not_restored_over(self, storage: Storage) -> None:
        one = record(content=b"1")
        again = newer(one, b"2")
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        assert put(storage, again) == [Stored.CREATED]
        (entry,) = entries(storage)
        assert storage.restore_binned(entries=[entry.entry]) == [Restored.CONFLICT]
        assert storage.get(scope=one.scope).blob == again.blob
        assert blobs(storage) == [one.blob.key]
        storage.remove(scope=one.scope, keep=True)
        assert blobs(storage) == [one.blob.key, again.blob.key]
        both = [each.entry for each in entries(storage)]
        assert storage.restore_binned(entries=both[::-1]) == [Restored.RESTORED, Restored.CONFLICT]
        assert storage.get(scope=one.scope).blob == again.blob
        storage.remove(scope=one.scope)
        assert storage.restore_binned(entries=[entry.entry]) == [Restored.RESTORED]
        assert storage.get(scope=one.scope).blob == one.blob

    def test_removed_and_restored_again(self, storage: Storage) -> None:
        one = record(StudyDescription="old")
        put(storage, one)
        for content in (b"a", b"b", b"c"):
            put(storage, newer(one, content), on_duplicate=REPLACE)
            storage.remove(scope=one.scope, keep=True)
            assert len(entries(storage)) == 1
            assert bring_back(storage, one.scope) == [Restored.RESTORED]
            assert entries(storage) == []
            assert study_hit(storage, one.study_uid).number_of_instances == 1
        assert len(storage.replaced(instance_uid=one.instance_uid)) == 3
        storage.remove(scope=one.scope)
        assert len(storage.released(limit=9)) == 4

    @pytest.mark.parametrize("entry", ["", "0", "x", "9" * 30, "١", "1.2-3", "-"])
    def test_an_unknown_entry_is_missing(self, storage: Storage, entry: str) -> None:
        one = record()
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        known = entries(storage)[0].entry
        assert storage.restore_binned(entries=[entry, known, known]) == [
            Restored.MISSING,
            Restored.RESTORED,
            Restored.MISSING,
        ]
        assert storage.restore_binned(entries=[]) == []

    def test_large_metadata_comes_back(self, storage: Storage) -> None:
        one = record(ImageComments="".join(f"{number * 7919 % 1_000_003:x}" for number in range(300_000)))
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        assert entries(storage)[0].metadata == one.metadata
        bring_back(storage, one.scope)
        (metadata,) = storage.metadata(scope=one.scope)
        assert metadata.deflated == one.metadata
        storage.remove(scope=one.scope)
        assert list(storage.released(limit=9)) == [one.blob.key]

    def test_a_large_study_is_removed_and_restored(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        some = [record(study, series, InstanceNumber=number) for number in range(1, 610)]
        put(storage, *some)
        assert storage.remove(scope=Scope(study_uid=study), keep=True).instances == 609
        names = [entry.entry for entry in entries(storage, limit=1000)]
        assert storage.restore_binned(entries=names[:300]) == [Restored.RESTORED] * 300
        assert study_hit(storage, study).number_of_instances == 300
        assert storage.restore_binned(entries=names[300:]) == [Restored.RESTORED] * 309
        order = [one.instance_uid for one in storage.instances(scope=Scope(study_uid=study))]
        assert order == [one.instance_uid for one in some]

    # Purging

    def test_purging_releases_the_files(self, storage: Storage) -> None:
        one, other, third = record(layout_blob="layout"), record(), record()
        new = newer(one, b"new")
        put(storage, one, other, third)
        put(storage, new, on_duplicate=REPLACE)
        for each in (one, other, third):
            storage.remove(scope=each.scope, keep=True)
        keep = [entry.entry for entry in entries(storage, one.scope)]
        assert storage.purge_binned(scope=one.scope, limit=9) == 1
        keys = {one.blob.key, "layout", new.blob.key}
        assert set(storage.released(limit=9)) == keys
        assert storage.known_blobs(keys=list(keys)) == keys
        assert blobs(storage) == [other.blob.key, third.blob.key]
        assert storage.restore_binned(entries=keep) == [Restored.MISSING]
        assert storage.purge_binned(scope=one.scope, limit=9) == 0
        storage.confirm_released(keys=keys)
        assert storage.known_blobs(keys=list(keys)) == frozenset()
        assert storage.purge_binned(scope=Scope(), limit=1) == 1
        assert list(storage.released(limit=9)) == [other.blob.key]
        assert storage.purge_binned(scope=Scope(), limit=9) == 1
        assert entries(storage) == []
        assert storage.stored_bytes() == 0
        assert storage.usage(scope=Scope()).binned_instances == 0

    def test_purging_leaves_what_is_stored_under_the_same_uid(self, storage: Storage) -> None:
        one = record(content=b"1")
        put(storage, one)
        put(storage, newer(one, b"2"), on_duplicate=REPLACE)
        storage.remove(scope=one.scope, keep=True)
        last, current = newer(one, b"3"), newer(one, b"4")
        put(storage, last)
        put(storage, current, on_duplicate=REPLACE)
        assert storage.purge_binned(scope=Scope(study_uid=one.study_uid), limit=9) == 1
        assert storage.get(scope=one.scope).blob == current.blob
        (version,) = storage.replaced(instance_uid=one.instance_uid)
        assert version.instance.blob == last.blob
        assert len(storage.released(limit=9)) == 2

    def test_what_was_restored_is_not_purged(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        bring_back(storage, one.scope)
        assert storage.purge_binned(scope=Scope(), limit=9) == 0
        assert list(storage.released(limit=9)) == []

    def test_older_versions_are_purged_by_time(self, storage: Storage) -> None:
        one, binned = record(content=b"1"), record()
        put(storage, one, binned)
        for each in (one, binned):
            for content in (b"2", b"3"):
                put(storage, newer(each, content), on_duplicate=REPLACE)
        storage.remove(scope=binned.scope, keep=True)
        newest, oldest = storage.replaced(instance_uid=one.instance_uid)
        assert storage.purge_replaced(scope=Scope(), before=oldest.replaced_at, limit=9) == 0
        later = datetime.now(UTC) + timedelta(seconds=5)
        assert storage.purge_replaced(scope=Scope(), before=later, limit=1) == 1
        assert list(storage.released(limit=9)) == [oldest.instance.blob.key]
        assert [each.version for each in storage.replaced(instance_uid=one.instance_uid)] == [newest.version]
        with pytest.raises(NotFound):
            storage.restore(instance_uid=one.instance_uid, version=oldest.version)
        assert storage.purge_replaced(scope=Scope(), before=later, limit=9) == 1
        assert storage.purge_replaced(scope=Scope(), before=later, limit=9) == 0
        assert storage.replaced(instance_uid=one.instance_uid) == []
        assert len(storage.released(limit=9)) == 2
        assert bring_back(storage, binned.scope) == [Restored.RESTORED]
        assert len(storage.replaced(instance_uid=binned.instance_uid)) == 2

    def test_older_versions_are_purged_by_scope(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        first, second, third, other = record(study, series), record(study, series), record(study), record()
        binned = record(study, series)
        each = (first, second, third, other, binned)
        put(storage, *each)
        for content in (b"2", b"3"):
            put(storage, *(newer(one, content) for one in each), on_duplicate=REPLACE)
        storage.remove(scope=binned.scope, keep=True)

        def left() -> list[int]:
            return [len(storage.replaced(instance_uid=one.instance_uid)) for one in each[:4]]

        early = storage.replaced(instance_uid=first.instance_uid)[-1].replaced_at
        assert storage.purge_replaced(scope=Scope(study_uid=study), before=early - timedelta(seconds=5), limit=99) == 0
        assert storage.purge_replaced(scope=first.scope, limit=1) == 1
        assert left() == [1, 2, 2, 2]
        assert storage.purge_replaced(scope=first.scope, limit=99) == 1
        inside = Scope(study_uid=study, series_uid=series)
        assert storage.purge_replaced(scope=inside, limit=0) == 0
        assert storage.purge_replaced(scope=inside, limit=99) == 2
        assert left() == [0, 0, 2, 2]
        assert storage.purge_replaced(scope=Scope(study_uid=study), limit=99) == 2
        assert left() == [0, 0, 0, 2]
        for elsewhere in (Scope(study_uid="1.2"), Scope(study_uid=study, series_uid="1.2"), binned.scope):
            assert storage.purge_replaced(scope=elsewhere, limit=99) == 0
        assert len(storage.released(limit=99)) == 6
        assert bring_back(storage, binned.scope) == [Restored.RESTORED]
        assert len(storage.replaced(instance_uid=binned.instance_uid)) == 2

    def test_older_versions_go_by_where_the_instance_is_stored_now(self, storage: Storage) -> None:
        one = record(content=b"1")
        put(storage, one)
        moved = record(instance_uid=one.instance_uid, content=b"2")
        put(storage, moved, on_duplicate=REPLACE)
        assert storage.purge_replaced(scope=Scope(study_uid=one.study_uid), limit=9) == 0
        assert storage.purge_replaced(scope=Scope(study_uid=moved.study_uid), limit=9) == 1
        assert list(storage.released(limit=9)) == [one.blob.key]

    # At once

    def test_one_of_several_restores(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        storage.remove(scope=one.scope, keep=True)
        (entry,) = entries(storage)
        found = at_once([lambda: storage.restore_binned(entries=[entry.entry])] * 4)
        assert sorted(outcome for (outcome,) in found) == [Restored.MISSING] * 3 + [Restored.RESTORED]
        assert study_hit(storage, one.study_uid).number_of_instances == 1
        assert entries(storage) == []

    def test_a_purge_and_a_restore_at_once(self, storage: Storage) -> None:
        for _ in range(6):
            one = record()
            put(storage, one)
            storage.remove(scope=one.scope, keep=True)
            (entry,) = entries(storage, one.scope)
            (outcome,), purged = at_once(
                [
                    partial(storage.restore_binned, entries=[entry.entry]),
                    partial(storage.purge_binned, scope=one.scope, limit=9),
                ]
            )
            assert (outcome, purged) in ((Restored.RESTORED, 0), (Restored.MISSING, 1))
            assert (one.blob.key in storage.released(limit=99)) is (purged == 1)

    @pytest.mark.parametrize(
        "call",
        [
            lambda s: s.remove(scope=Scope(study_uid="1.2"), keep=True),
            lambda s: s.binned(scope=Scope()),
            lambda s: s.restore_binned(entries=["1"]),
            lambda s: s.purge_binned(scope=Scope(), limit=1),
            lambda s: s.purge_replaced(scope=Scope(), limit=1),
        ],
    )
    def test_closed_storage_is_unavailable(self, storage: Storage, call: Callable[[Storage], Any]) -> None:
        storage.close()
        with pytest.raises(StorageUnavailable):
            call(storage)
