"""The suite of `Storage.dump`, `load` and `loaded`. A backend subclasses `MovingSuite` and gives it two fixtures:
opened storages over different, empty places."""

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest, StorageUnavailable, VersionConflict
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinnedEntry,
    ChangeEntry,
    ChangeKind,
    DocumentEntry,
    DocumentTerm,
    InstanceEntry,
    OnDuplicate,
    ReplacedEntry,
    Restored,
    Scope,
    Stored,
    StoredInstance,
)
from dicomweb_server.testing import search_cases
from dicomweb_server.testing.datasets import JPEG, new_uid, record
from dicomweb_server.testing.steps import put, shown, study_hit

REPLACE = OnDuplicate.REPLACE


def fill(storage: Storage) -> None:
    """Everything that an archive can hold: instances, older versions, removals, documents with versions."""
    storage.store(records=search_cases.records(), on_duplicate=OnDuplicate.REJECT)
    study, series = new_uid(), new_uid()
    first = record(study, series, StudyDescription="first", layout=b"", layout_blob="layout-1")
    put(storage, first, record(study, series, StudyDescription="second", transfer_syntax_uid=JPEG))
    for content in (b"2", b"3", b"4"):
        put(storage, record(study, series, instance_uid=first.instance_uid, content=content), on_duplicate=REPLACE)
    moved = record(study, instance_uid=first.instance_uid, content=b"5", StudyDescription="moved")
    put(storage, moved, on_duplicate=REPLACE)
    oldest = storage.replaced(instance_uid=first.instance_uid)[-1]
    storage.restore(instance_uid=first.instance_uid, version=oldest.version)
    gone = record(study, series)
    put(storage, gone)
    storage.remove(scope=gone.scope)
    put(storage, gone)
    put(storage, record(study, series, ImageComments=os.urandom(600_000).hex()))
    for content in (b"1", b"22", b"333"):
        twice = record(study, series, instance_uid="1.2.3.4", content=content, layout_blob=f"layout-{content.decode()}")
        put(storage, twice)
        put(storage, record(study, instance_uid="1.2.3.4", content=content + b"+"), on_duplicate=REPLACE)
        storage.remove(scope=Scope(instance_uid="1.2.3.4"), keep=True)
    put(storage, record(study, series, instance_uid="1.2.3.4", content=b"4444"))
    for number in range(3):
        storage.put_document(kind="k", document_id="d", body={"number": number}, keys={"a": (str(number), "x")})
    storage.put_document(kind="k", document_id="dé/1", body=[None, 1.5, "\x00"], keys={})
    storage.delete_document(kind="k", document_id="dé/1")
    storage.put_document(kind="kind", document_id="d", body="text", keys={"a": ("x",)})


def move(source: Storage, target: Storage, *, at_once: int = 7) -> None:
    """Load all entries of one storage into another."""
    entries = [entry for _, entry in source.dump()]
    for start in range(0, len(entries), at_once):
        target.load(entries=entries[start : start + at_once], note=f"note {start}")


def content(storage: Storage) -> list[Any]:
    """All entries, with times as exact as every storage keeps them."""
    return [comparable(entry) for _, entry in storage.dump()]


def comparable(entry: ArchiveEntry) -> Any:
    """An entry with its times to the millisecond."""
    match entry:
        case InstanceEntry():
            return "instance", *_instance(entry.instance), entry.metadata
        case ReplacedEntry():
            return "replaced", entry.number, *_instance(entry.instance), entry.metadata, _ms(entry.replaced_at)
        case BinnedEntry():
            older = [comparable(each) for each in entry.older]
            return "binned", entry.number, *_instance(entry.instance), entry.metadata, _ms(entry.binned_at), older
        case ChangeEntry():
            place = (entry.study_uid, entry.series_uid, entry.instance_uid)
            return "change", entry.number, entry.kind, *place, _ms(entry.changed_at)
        case DocumentEntry():
            one = entry.document
            versions = (one.kind, one.document_id, one.version, one.deleted)
            return "document", *versions, one.body, dict(one.keys), _ms(one.changed_at)


def _instance(one: StoredInstance) -> tuple[Any, ...]:
    uids = (one.study_uid, one.series_uid, one.instance_uid, one.sop_class_uid, one.transfer_syntax_uid)
    return *uids, one.blob, one.layout, one.layout_blob, _ms(one.stored_at)


def _ms(time: datetime) -> datetime:
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def hits(storage: Storage) -> list[Any]:
    """What searches find, at all levels."""
    return [storage.search(query=Query(level=level, limit=1000)).hits for level in Level]


def feed(storage: Storage) -> dict[str, list[tuple[ChangeKind, str, str, datetime]]]:
    """The change feed by instance."""
    found: dict[str, list[tuple[ChangeKind, str, str, datetime]]] = {}
    for change in storage.changes(after=None, limit=10_000):
        entry = (change.kind, change.study_uid, change.series_uid, _ms(change.changed_at))
        found.setdefault(change.instance_uid, []).append(entry)
    return found


class MovingSuite:
    """Everything that `base.py` promises about moving."""

    @pytest.fixture
    def source(self) -> Iterator[Storage]:
        """An empty, opened storage."""
        raise NotImplementedError

    @pytest.fixture
    def target(self) -> Iterator[Storage]:
        """Another one."""
        raise NotImplementedError

    def test_an_empty_storage(self, source: Storage) -> None:
        assert list(source.dump()) == []
        assert source.loaded() is None

    def test_entries_are_what_is_stored(self, source: Storage) -> None:
        one, other = record(layout=b"abc"), record(layout=b"", layout_blob="beside")
        put(source, one, other)
        new = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"new")
        put(source, new, on_duplicate=REPLACE)
        document = source.put_document(kind="k", document_id="d", body={"a": 1}, keys={"n": ("v",)})
        entries = [entry for _, entry in source.dump()]
        instances = [entry for entry in entries if isinstance(entry, InstanceEntry)]
        assert [entry.instance for entry in instances] == [source.get(scope=each.scope) for each in (one, other)]
        assert [entry.metadata for entry in instances] == [new.metadata, other.metadata]
        (version,) = source.replaced(instance_uid=one.instance_uid)
        expected = ReplacedEntry(
            number=1, instance=version.instance, metadata=one.metadata, replaced_at=version.replaced_at
        )
        assert [entry for entry in entries if isinstance(entry, ReplacedEntry)] == [expected]
        changes = [entry for entry in entries if isinstance(entry, ChangeEntry)]
        assert [entry.number for entry in changes] == [1, 2, 3]
        assert {entry.instance_uid for entry in changes[:2]} == {one.instance_uid, other.instance_uid}
        assert (changes[2].kind, changes[2].instance_uid) == (ChangeKind.REPLACED, one.instance_uid)
        assert entries[-1] == DocumentEntry(document=document)
        kinds = [type(entry) for entry in entries]
        assert kinds == [InstanceEntry] * 2 + [ReplacedEntry] + [ChangeEntry] * 3 + [DocumentEntry]

    def test_everything_arrives(self, source: Storage, target: Storage) -> None:
        fill(source)
        move(source, target)
        assert content(target) == content(source)
        assert hits(target) == hits(source)
        assert feed(target) == feed(source)
        for one in source.instances(scope=Scope()):
            old, new = (storage.replaced(instance_uid=one.instance_uid) for storage in (source, target))
            assert [each.instance.blob for each in new] == [each.instance.blob for each in old]
        for kind, name in (("k", "d"), ("k", "dé/1"), ("kind", "d")):
            old_versions, new_versions = (s.document_history(kind=kind, document_id=name) for s in (source, target))
            assert [comparable(DocumentEntry(document=each)) for each in new_versions] == [
                comparable(DocumentEntry(document=each)) for each in old_versions
            ]
        found = [target.find_documents(kind="k", terms=[DocumentTerm(key="a", equal=v)]).documents for v in ("1", "2")]
        assert [len(documents) for documents in found] == [0, 1]

    def test_loading_again_changes_nothing(self, source: Storage, target: Storage) -> None:
        fill(source)
        entries = [entry for _, entry in source.dump()]
        for start in range(0, len(entries), 5):
            for size in (3, 5, 5):
                target.load(entries=entries[start : start + size], note="")
        assert content(target) == content(source)
        assert hits(target) == hits(source)
        assert feed(target) == feed(source)

    def test_a_dump_goes_on_behind_each_cursor(self, source: Storage) -> None:
        fill(source)
        given = list(source.dump())
        assert len({cursor for cursor, _ in given}) == len(given)
        for place in [*range(0, len(given), 11), len(given) - 1]:
            assert list(source.dump(after=given[place][0])) == given[place + 1 :]

    def test_a_dump_of_many(self, source: Storage, target: Storage) -> None:
        study, series = new_uid(), new_uid()
        put(source, *(record(study, series, InstanceNumber=number) for number in range(450)))
        move(source, target, at_once=150)
        assert content(target) == content(source)
        hit = study_hit(target, study)
        assert (hit.number_of_series, hit.number_of_instances) == (1, 450)

    @pytest.mark.parametrize("cursor", ["", "x", "[]", "{}", "[0,1,[]]", '[9,1,["a"]]', "[0,1,2]", "[0,0,[1,2,3,4]]"])
    def test_a_foreign_cursor_is_refused(self, source: Storage, cursor: str) -> None:
        with pytest.raises(BadRequest):
            source.dump(after=cursor)

    def test_the_note_is_the_last_one(self, source: Storage, target: Storage) -> None:
        put(source, record())
        entries = [entry for _, entry in source.dump()]
        target.load(entries=[], note="one")
        assert target.loaded() == "one"
        target.load(entries=entries, note='{"two": 2}')
        assert target.loaded() == '{"two": 2}'
        assert source.loaded() is None

    def test_the_order_of_storing_is_kept(self, source: Storage, target: Storage) -> None:
        """A study shows what the earliest instance has, also of those that come after the move."""
        study, series = new_uid(), new_uid()
        early, late = new_uid() + ".9", new_uid() + ".1"
        put(source, record(study, series, instance_uid=early, StudyDescription="early"))
        put(source, record(study, series, instance_uid=late, StudyDescription="late"))
        move(source, target, at_once=1)
        put(target, record(study, series, StudyDescription="new"))
        assert shown(study_hit(target, study), "00081030") == ["early"]
        target.remove(scope=Scope(study_uid=study, series_uid=series, instance_uid=early))
        assert shown(study_hit(target, study), "00081030") == ["late"]

    def test_life_goes_on(self, source: Storage, target: Storage) -> None:
        """What was moved can be replaced, restored and removed like anything else, and the feed goes on."""
        study, series, uid = new_uid(), new_uid(), new_uid()
        versions = [record(study, series, instance_uid=uid, content=bytes([number])) for number in range(5)]
        for one in versions[:3]:
            put(source, one, on_duplicate=REPLACE)
        source.put_document(kind="k", document_id="d", body=1, keys={})
        move(source, target)
        end = target.changes(after=None, limit=100)[-1].cursor
        assert put(target, versions[2]) == [Stored.SAME]
        assert put(target, versions[3], on_duplicate=REPLACE) == [Stored.REPLACED]
        older = target.replaced(instance_uid=uid)
        assert [each.instance.blob for each in older] == [one.blob for one in versions[2::-1]]
        target.restore(instance_uid=uid, version=older[-1].version)
        assert target.get(scope=versions[0].scope).blob == versions[0].blob
        kinds = [change.kind for change in target.changes(after=end, limit=100)]
        assert kinds == [ChangeKind.REPLACED, ChangeKind.RESTORED]
        version = target.version(scope=Scope(study_uid=study))
        put(target, record(study, series))
        assert target.version(scope=Scope(study_uid=study)) != version
        target.remove(scope=Scope(study_uid=study))
        assert set(target.released(limit=100)) >= {one.blob.key for one in versions[:4]}
        assert target.replaced(instance_uid=uid) == []
        assert [change.kind for change in target.changes(after=end, limit=100)][-1] is ChangeKind.REMOVED
        with pytest.raises(VersionConflict):
            target.put_document(kind="k", document_id="d", body=2, keys={}, expected_version=0)
        assert target.put_document(kind="k", document_id="d", body=2, keys={}, expected_version=1).version == 2

    def test_the_bin_is_moved(self, source: Storage, target: Storage) -> None:
        """What was in the bin can be restored, with its older versions, and purged."""
        one, other, stays = record(content=b"1", StudyDescription="one"), record(), record()
        put(source, one, other, stays)
        newest = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"2")
        put(source, newest, on_duplicate=REPLACE)
        for each in (one, other):
            source.remove(scope=each.scope, keep=True)
        move(source, target, at_once=2)
        assert target.known_blobs(keys=[one.blob.key, newest.blob.key]) == {one.blob.key, newest.blob.key}
        first, second = target.binned(scope=Scope()).entries
        assert target.restore_binned(entries=[first.entry]) == [Restored.RESTORED]
        assert target.get(scope=one.scope).blob == newest.blob
        (version,) = target.replaced(instance_uid=one.instance_uid)
        assert version.instance.blob == one.blob
        target.restore(instance_uid=one.instance_uid, version=version.version)
        assert shown(study_hit(target, one.study_uid), "00081030") == ["one"]
        assert target.purge_binned(scope=Scope(), limit=9) == 1
        assert list(target.released(limit=9)) == [second.instance.blob.key]

    def test_older_versions_of_the_same_moment_keep_their_order(self, source: Storage, target: Storage) -> None:
        uid, study, series = new_uid(), new_uid(), new_uid()
        versions = [record(study, series, instance_uid=uid, content=bytes([number])) for number in range(6)]
        source.store(records=versions, on_duplicate=REPLACE)
        move(source, target, at_once=2)
        assert [each.instance.blob for each in target.replaced(instance_uid=uid)] == [
            one.blob for one in versions[4::-1]
        ]
        assert [change.kind for change in target.changes(after=None, limit=10)] == [
            ChangeKind.STORED,
            *[ChangeKind.REPLACED] * 5,
        ]

    def test_closed_storages_are_unavailable(self, source: Storage) -> None:
        source.close()
        calls: Sequence[Any] = (
            lambda: list(source.dump()),
            lambda: source.load(entries=[], note=""),
            source.loaded,
        )
        for call in calls:
            with pytest.raises(StorageUnavailable):
                call()
