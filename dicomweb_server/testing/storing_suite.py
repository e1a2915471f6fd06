"""The part of `StorageSuite` on the life of a storage and of the instances in it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import ChangeKind, InstanceRecord, OnDuplicate, Removed, Scope, Stored
from dicomweb_server.testing.datasets import CT_IMAGE, JPEG, new_uid, record
from dicomweb_server.testing.steps import at_once, put, shown, study_hit
from dicomweb_server.testing.storage_case import StorageCase

REJECT, REPLACE = OnDuplicate.REJECT, OnDuplicate.REPLACE


class StoringSuite(StorageCase):
    """Opening and closing; storing, replacing, restoring, removing."""

    # Life cycle

    def test_close_twice_and_before_open(self, storage: Storage) -> None:
        storage.close()
        storage.close()

    def test_schema(self, storage: Storage) -> None:
        state = storage.schema()
        assert state.found == state.current
        storage.close()
        assert storage.schema() == state

    def test_check(self, storage: Storage) -> None:
        assert storage.check().ready
        storage.close()
        assert not storage.check().ready

    @pytest.mark.parametrize(
        "call",
        [
            lambda s: s.get(scope=Scope(instance_uid="1.2")),
            lambda s: s.store(records=[record()], on_duplicate=REJECT),
            lambda s: s.instances(scope=Scope(study_uid="1.2")),
            lambda s: s.metadata(scope=Scope(study_uid="1.2")),
            lambda s: s.metadata_of(instance_uids=["1.2"]),
            lambda s: s.version(scope=Scope()),
            lambda s: s.remove(scope=Scope(study_uid="1.2")),
            lambda s: s.replaced(instance_uid="1.2"),
            lambda s: s.restore(instance_uid="1.2", version="1"),
            lambda s: s.search(query=Query(level=Level.STUDY)),
            lambda s: s.count(query=Query(level=Level.STUDY)),
            lambda s: s.released(limit=1),
            lambda s: s.confirm_released(keys=["k"]),
            lambda s: s.known_blobs(keys=["k"]),
            lambda s: s.changes(after=None, limit=1),
            lambda s: s.newest_change(),
            lambda s: s.usage(scope=Scope()),
            lambda s: s.stored_bytes(),
            lambda s: s.put_document(kind="k", document_id="d", body=1, keys={}),
            lambda s: s.get_document(kind="k", document_id="d"),
            lambda s: s.document_history(kind="k", document_id="d"),
            lambda s: s.forget_versions(kind="k", document_id="d", before=2),
            lambda s: s.find_documents(kind="k"),
            lambda s: s.delete_document(kind="k", document_id="d"),
            lambda s: s.purge_documents(kind="k", terms=(), limit=1),
        ],
    )
    def test_closed_storage_is_unavailable(self, storage: Storage, call: Callable[[Storage], Any]) -> None:
        storage.close()
        with pytest.raises(StorageUnavailable):
            call(storage)

    def test_reopening_keeps_everything(self, storage: Storage) -> None:
        one, other = record(), record()
        put(storage, one, other)
        storage.put_document(kind="k", document_id="d", body={"a": 1}, keys={})
        version = storage.version(scope=one.scope)
        storage.remove(scope=other.scope)
        again = self.reopen(storage)
        try:
            assert again.get(scope=one.scope).blob == one.blob
            assert again.version(scope=one.scope) == version
            assert list(again.released(limit=9)) == [other.blob.key]
            assert [change.kind for change in again.changes(after=None, limit=9)][-1] is ChangeKind.REMOVED
            assert again.get_document(kind="k", document_id="d").body == {"a": 1}
        finally:
            again.close()

    # Store and get

    def test_created_then_same_then_refused(self, storage: Storage) -> None:
        one = record()
        other = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"other")
        assert put(storage, one) == [Stored.CREATED]
        assert put(storage, one) == [Stored.SAME]
        assert put(storage, other) == [Stored.REFUSED]
        assert storage.get(scope=one.scope).blob == one.blob
        assert study_hit(storage, one.study_uid).number_of_instances == 1

    def test_same_bytes_in_another_series_are_not_the_same(self, storage: Storage) -> None:
        one = record(content=b"bytes")
        moved = record(one.study_uid, instance_uid=one.instance_uid, content=b"bytes")
        assert put(storage, one, moved) == [Stored.CREATED, Stored.REFUSED]
        assert put(storage, moved, on_duplicate=REPLACE) == [Stored.REPLACED]

    def test_a_record_replaces_only_the_version_that_it_was_made_of(self, storage: Storage) -> None:
        one, beside = record(content=b"one"), record(content=b"beside")
        put(storage, one, beside)

        def made_of(old: InstanceRecord, content: bytes, study_uid: str | None = None) -> InstanceRecord:
            place = (study_uid or old.study_uid, old.series_uid)
            new = record(*place, instance_uid=old.instance_uid, content=content)
            return replace(new, replaces=old.blob.key)

        two, late = made_of(one, b"two"), made_of(one, b"late")
        assert put(storage, two, made_of(beside, b"moved", new_uid()), on_duplicate=REPLACE) == [Stored.REPLACED] * 2
        assert put(storage, late, two, on_duplicate=REPLACE) == [Stored.REFUSED, Stored.SAME]
        assert put(storage, made_of(two, b"three")) == [Stored.REFUSED]  # what is there is not to be replaced
        assert storage.get(scope=one.scope).blob == two.blob
        assert len(storage.replaced(instance_uid=one.instance_uid)) == 1
        storage.remove(scope=one.scope)
        assert put(storage, made_of(two, b"three"), on_duplicate=REPLACE) == [Stored.REFUSED]
        with pytest.raises(NotFound):
            storage.get(scope=one.scope)

    def test_of_many_who_replace_one_version_one_succeeds(self, storage: Storage) -> None:
        one = record()
        put(storage, one)

        def edit(content: bytes) -> list[Stored]:
            new = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=content)
            return put(storage, replace(new, replaces=one.blob.key), on_duplicate=REPLACE)

        outcomes = at_once([partial(edit, b"%d" % number) for number in range(4)])
        assert sorted(stored for outcome in outcomes for stored in outcome) == [Stored.REFUSED] * 3 + [Stored.REPLACED]
        assert len(storage.replaced(instance_uid=one.instance_uid)) == 1

    def test_records_of_one_batch_act_in_sequence(self, storage: Storage) -> None:
        one = record()
        new = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"new", Modality="MR")
        outcomes = storage.store(records=[one, one, new, new, record()], on_duplicate=REPLACE)
        assert [outcome.stored for outcome in outcomes] == [
            Stored.CREATED,
            Stored.SAME,
            Stored.REPLACED,
            Stored.SAME,
            Stored.CREATED,
        ]
        assert [outcome.instance_uid for outcome in outcomes[:4]] == [one.instance_uid] * 4
        assert study_hit(storage, one.study_uid).modalities == ("MR",)

    def test_storing_nothing(self, storage: Storage) -> None:
        assert storage.store(records=[], on_duplicate=REJECT) == []

    def test_get_gives_what_was_stored(self, storage: Storage) -> None:
        one = record(transfer_syntax_uid=JPEG, layout=bytes(range(256)) * 50, layout_blob="layout-1")
        put(storage, one)
        got = storage.get(scope=one.scope)
        assert (got.study_uid, got.series_uid, got.instance_uid) == (one.study_uid, one.series_uid, one.instance_uid)
        assert (got.sop_class_uid, got.transfer_syntax_uid) == (CT_IMAGE, JPEG)
        assert (got.blob, got.layout, got.layout_blob) == (one.blob, one.layout, "layout-1")
        assert got.stored_at.tzinfo is not None

    def test_a_scope_is_exact(self, storage: Storage) -> None:
        one, other = record(), record()
        put(storage, one, other)
        for study, series in ((other.study_uid, one.series_uid), (one.study_uid, other.series_uid)):
            scope = Scope(study_uid=study, series_uid=series, instance_uid=one.instance_uid)
            for call in (storage.get, storage.instances, storage.metadata, storage.version, storage.remove):
                with pytest.raises(NotFound):
                    call(scope=scope)

    @pytest.mark.parametrize("name", ["get", "instances", "metadata", "version", "remove"])
    def test_a_miss_raises_on_the_call(self, storage: Storage, name: str) -> None:
        with pytest.raises(NotFound):
            getattr(storage, name)(scope=Scope(study_uid="1.2", series_uid="1.3", instance_uid="1.4"))
        if name != "get":
            for scope in (Scope(study_uid="1.2"), Scope(study_uid="1.2", series_uid="1.3")):
                with pytest.raises(NotFound):
                    getattr(storage, name)(scope=scope)

    def test_instances_are_ordered_by_series_number_and_uid(self, storage: Storage) -> None:
        study = new_uid()
        plan = [("1.9", 2, "1.5"), ("1.9", 10, "1.4"), ("1.9", None, "1.3"), ("1.9", 2, "1.2"), ("1.10", 1, "1.1")]
        for series, number, uid in plan:
            put(storage, record(study, series, instance_uid=uid, InstanceNumber=number))
        scope = Scope(study_uid=study)
        assert [one.instance_uid for one in storage.instances(scope=scope)] == ["1.1", "1.2", "1.5", "1.4", "1.3"]
        assert [one.instance_uid for one in storage.metadata(scope=scope)] == ["1.1", "1.2", "1.5", "1.4", "1.3"]
        inside = Scope(study_uid=study, series_uid="1.10")
        assert [one.instance_uid for one in storage.instances(scope=inside)] == ["1.1"]

    def test_order_over_a_thousand(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        stored = [record(study, series, InstanceNumber=number * 7 % 1009) for number in range(1009)]
        put(storage, *stored)
        expected = [one.instance_uid for one in sorted(stored, key=lambda one: one.attributes["00200013"]["Value"][0])]
        assert [one.instance_uid for one in storage.instances(scope=Scope(study_uid=study))] == expected
        query = Query(level=Level.INSTANCE, scope=Scope(study_uid=study), order=(Order("00200013", "IS"),), limit=2000)
        assert [hit.instance_uid for hit in storage.search(query=query).hits] == expected

    def test_an_iterator_may_be_left_early(self, storage: Storage) -> None:
        study = new_uid()
        put(storage, *[record(study) for _ in range(5)])
        iterator = storage.metadata(scope=Scope(study_uid=study))
        next(iterator)
        getattr(iterator, "close", lambda: None)()
        assert put(storage, record(study)) == [Stored.CREATED]

    def test_metadata_comes_back_as_it_was(self, storage: Storage) -> None:
        one, other = record(PatientName="Ünïcode^山田"), record()
        put(storage, one, other)
        (got,) = storage.metadata(scope=one.scope)
        assert (got.instance_uid, got.deflated) == (one.instance_uid, one.metadata)
        several = storage.metadata_of(instance_uids=[one.instance_uid, "1.2.3", other.instance_uid])
        assert {uid: each.deflated for uid, each in several.items()} == {
            one.instance_uid: one.metadata,
            other.instance_uid: other.metadata,
        }
        assert storage.metadata_of(instance_uids=[]) == {}

    def test_text_of_every_script_comes_back(self, storage: Storage) -> None:
        texts = ["Ünï", "山田", "𠮷野家", "ﷺ", "a'b\"c;--", "100% _", "\u200d👩‍⚕️", "é", "\t tab"]
        one = record(StudyDescription=texts[4], PatientComments=texts[5], OtherPatientIDs=texts)
        put(storage, one)
        hit = study_hit(storage, one.study_uid)
        assert shown(hit, "00101000") == texts
        assert shown(hit, "00081030") == [texts[4]]

    # Replace and restore

    def test_replace_keeps_the_old_version_and_restore_brings_it_back(self, storage: Storage) -> None:
        old = record(StudyID="old", layout=b"old layout")
        new = record(old.study_uid, old.series_uid, instance_uid=old.instance_uid, StudyID="new", layout_blob="l")
        put(storage, old)
        put(storage, new, on_duplicate=REPLACE)
        (version,) = storage.replaced(instance_uid=old.instance_uid)
        assert (version.instance.blob, version.instance.layout) == (old.blob, b"old layout")
        assert storage.known_blobs(keys=[old.blob.key, new.blob.key, "l"]) == {old.blob.key, new.blob.key, "l"}
        assert list(storage.released(limit=9)) == []
        storage.restore(instance_uid=old.instance_uid, version=version.version)
        assert storage.get(scope=old.scope).blob == old.blob
        assert shown(study_hit(storage, old.study_uid), "00200010") == ["old"]
        (metadata,) = storage.metadata(scope=old.scope)
        assert metadata.deflated == old.metadata
        (back,) = storage.replaced(instance_uid=old.instance_uid)
        assert (back.instance.blob, back.instance.layout_blob) == (new.blob, "l")
        assert back.version != version.version

    def test_replaced_versions_come_newest_first(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        for content in (b"1", b"2", b"3"):
            put(
                storage,
                record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=content),
                on_duplicate=REPLACE,
            )
        versions = storage.replaced(instance_uid=one.instance_uid)
        assert [version.instance.blob.size_bytes for version in versions] == [1, 1, one.blob.size_bytes]
        assert len({version.version for version in versions}) == 3
        assert storage.replaced(instance_uid="1.2.3") == []

    @pytest.mark.parametrize("version", ["", "0", "x", "9" * 30, "١", "-1", "1 OR 1"])
    def test_unknown_versions_are_not_found(self, storage: Storage, version: str) -> None:
        one = record()
        put(storage, one)
        with pytest.raises(NotFound):
            storage.restore(instance_uid=one.instance_uid, version=version)
        with pytest.raises(NotFound):
            storage.restore(instance_uid="1.2.3", version=version)

    def test_replacing_moves_an_instance_to_another_study(self, storage: Storage) -> None:
        old = record(PatientID="old")
        stays = record(old.study_uid, PatientID="old", Modality="MR")
        put(storage, old, stays)
        new = record(instance_uid=old.instance_uid, PatientID="new")
        put(storage, new, on_duplicate=REPLACE)
        assert storage.get(scope=new.scope).blob == new.blob
        with pytest.raises(NotFound):
            storage.get(scope=old.scope)
        hit = study_hit(storage, old.study_uid)
        assert (hit.number_of_instances, hit.number_of_series, hit.modalities) == (1, 1, ("MR",))
        assert study_hit(storage, new.study_uid).number_of_instances == 1
        (version,) = storage.replaced(instance_uid=old.instance_uid)
        storage.remove(scope=stays.scope)
        assert storage.count(query=Query(level=Level.STUDY)) == 1
        storage.restore(instance_uid=old.instance_uid, version=version.version)
        (hit,) = storage.search(query=Query(level=Level.STUDY)).hits
        assert hit.study_uid == old.study_uid
        (patient,) = storage.search(query=Query(level=Level.PATIENT)).hits
        assert shown(patient, "00100020") == ["old"]

    # Remove

    def test_remove_counts_and_releases(self, storage: Storage) -> None:
        study, a, b = new_uid(), new_uid(), new_uid()
        one, two, three = record(study, a, layout_blob="la"), record(study, a), record(study, b)
        put(storage, one, two, three)
        new = record(study, a, instance_uid=two.instance_uid, content=b"new")
        put(storage, new, on_duplicate=REPLACE)
        assert storage.remove(scope=one.scope) == Removed(studies=0, series=0, instances=1)
        assert set(storage.released(limit=9)) == {one.blob.key, "la"}
        assert storage.remove(scope=Scope(study_uid=study, series_uid=a)) == Removed(studies=0, series=1, instances=1)
        assert storage.remove(scope=Scope(study_uid=study)) == Removed(studies=1, series=1, instances=1)
        everything = {record_.blob.key for record_ in (one, two, three, new)} | {"la"}
        assert set(storage.released(limit=9)) == everything
        assert storage.released(limit=2) == storage.released(limit=9)[:2]
        assert storage.replaced(instance_uid=two.instance_uid) == []
        assert storage.count(query=Query(level=Level.PATIENT)) == 0
        with pytest.raises(NotFound):
            storage.remove(scope=Scope(study_uid=study))
        assert storage.known_blobs(keys=[*everything, "other"]) == everything
        storage.confirm_released(keys=[one.blob.key, "unknown"])
        assert one.blob.key not in storage.released(limit=9)
        assert storage.known_blobs(keys=[one.blob.key]) == frozenset()

    def test_removed_can_be_stored_again(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        storage.remove(scope=Scope(study_uid=one.study_uid))
        assert put(storage, record(one.study_uid, one.series_uid, instance_uid=one.instance_uid)) == [Stored.CREATED]

    def test_a_limit_of_zero_gives_and_does_nothing(self, storage: Storage) -> None:
        put(storage, record(), record())
        (one, two) = storage.search(query=Query(level=Level.STUDY)).hits
        storage.remove(scope=Scope(study_uid=one.study_uid))
        storage.remove(scope=Scope(study_uid=two.study_uid), keep=True)
        storage.put_document(kind="k", document_id="d", body=1, keys={})
        assert list(storage.released(limit=0)) == []
        assert list(storage.changes(after=None, limit=0)) == []
        assert list(storage.find_documents(kind="k", limit=0).documents) == []
        assert storage.purge_documents(kind="k", terms=[], limit=0) == 0
        assert storage.purge_binned(scope=Scope(), limit=0) == 0
        assert len(storage.binned(scope=Scope()).entries) == 1
        assert storage.get_document(kind="k", document_id="d").body == 1
