"""The suite of `Storage`. A backend subclasses `StorageSuite` and gives it one fixture.

    class TestMine(StorageSuite):
        @pytest.fixture
        def storage(self, tmp_path): ...   # opened; closed afterwards
        def reopen(self, storage): ...     # a second, opened storage over the same data

Everything is tested through the contract only.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import orjson
import pytest

from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST, clock_digits
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Condition, Has, Not, Range, Term
from dicomweb_server.errors import BadRequest, NotFound, StorageError, StorageUnavailable, VersionConflict
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import (
    Change,
    ChangeKind,
    DocumentTerm,
    DocumentWrite,
    Hit,
    InstanceRecord,
    OnDuplicate,
    Removed,
    Scope,
    Share,
    Stored,
)
from dicomweb_server.testing import search_cases
from dicomweb_server.testing.datasets import CT_IMAGE, EXPLICIT, JPEG, MR_IMAGE, ROOT, new_uid, record

REJECT, REPLACE = OnDuplicate.REJECT, OnDuplicate.REPLACE


def put(storage: Storage, *records: InstanceRecord, on_duplicate: OnDuplicate = REJECT) -> list[Stored]:
    """Store, and say what became of each."""
    return [outcome.stored for outcome in storage.store(records=records, on_duplicate=on_duplicate)]


def study_hit(storage: Storage, study_uid: str) -> Hit:
    """The one hit of a study."""
    (hit,) = storage.search(query=Query(level=Level.STUDY, scope=Scope(study_uid=study_uid))).hits
    return hit


def series_hits(storage: Storage, study_uid: str) -> dict[str | None, Hit]:
    """The series of a study by UID."""
    page = storage.search(query=Query(level=Level.SERIES, scope=Scope(study_uid=study_uid)))
    return {hit.series_uid: hit for hit in page.hits}


def shown(hit: Hit, tag: str) -> Any:
    """The value of an attribute of a hit; None where it is absent, [] where it is empty."""
    return hit.attributes[tag].get("Value", []) if tag in hit.attributes else None


class StorageSuite:
    """Everything that `base.py` and `records.py` promise."""

    @pytest.fixture
    def storage(self) -> Iterator[Storage]:
        """An empty, opened storage."""
        raise NotImplementedError

    def reopen(self, storage: Storage) -> Storage:
        """Close the storage and open the same data again."""
        raise NotImplementedError

    def spoil(self, storage: Storage, study_uid: str) -> None:
        """Behind the back of the storage: make the number of series of a study wrong, or of its instances, and let it
        show another description; and leave a patient without a study."""
        raise NotImplementedError

    @pytest.fixture
    def filled(self, storage: Storage) -> Storage:
        """With the data of the search table."""
        storage.store(records=search_cases.records(), on_duplicate=REJECT)
        return storage

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

    # What entities show

    def test_a_level_shows_its_own_attributes_and_those_above(self, storage: Storage) -> None:
        one = record(StudyDate="20230101", SeriesNumber=3, Rows=16, AccessionNumber=None)
        put(storage, one)
        study = study_hit(storage, one.study_uid)
        series = series_hits(storage, one.study_uid)[one.series_uid]
        (instance,) = storage.search(query=Query(level=Level.INSTANCE, scope=one.scope)).hits
        (patient,) = storage.search(query=Query(level=Level.PATIENT)).hits
        assert shown(study, "00080020") == ["20230101"]
        assert shown(study, "00080050") == []
        assert shown(study, "00200011") is None
        assert (shown(series, "00200011"), shown(series, "00080020"), shown(series, "00280010")) == (
            [3],
            ["20230101"],
            None,
        )
        assert (shown(instance, "00280010"), shown(instance, "00100020")) == ([16], ["P1"])
        assert (shown(patient, "00100020"), shown(patient, "00080020")) == (["P1"], None)
        assert instance.transfer_syntaxes == (EXPLICIT,)
        assert instance.sop_classes == (CT_IMAGE,)

    def test_the_earliest_value_is_shown_and_filled_before_empty(self, storage: Storage) -> None:
        study = new_uid()
        first = record(study, StudyDescription=None, StudyID="7")
        second = record(study, StudyDescription="second", StudyID="8")
        third = record(study, StudyDescription="third", AccessionNumber="A")
        put(storage, first)
        put(storage, second, third)
        hit = study_hit(storage, study)
        assert [shown(hit, tag) for tag in ("00081030", "00200010", "00080050")] == [["second"], ["7"], ["A"]]
        storage.remove(scope=second.scope)
        assert shown(study_hit(storage, study), "00081030") == ["third"]
        storage.remove(scope=first.scope)
        hit = study_hit(storage, study)
        assert (shown(hit, "00200010"), shown(hit, "00080050")) == (None, ["A"])

    def test_a_replaced_instance_keeps_its_place(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        first, second = record(study, series, StudyID="first"), record(study, series, StudyID="second")
        put(storage, first, second)
        new = record(study, series, instance_uid=first.instance_uid, StudyID="new")
        assert put(storage, new, on_duplicate=REPLACE) == [Stored.REPLACED]
        assert shown(study_hit(storage, study), "00200010") == ["new"]
        assert shown(series_hits(storage, study)[series], "00200010") == ["new"]

    def test_conflicts_name_what_differs_from_what_is_shown(self, storage: Storage) -> None:
        study, series = new_uid(), new_uid()
        values: dict[str, Any] = {
            "PatientName": "Doe^Jane",
            "StudyID": "1",
            "SeriesNumber": 1,
            "StudyDescription": None,
        }
        other = {**values, "PatientName": "Roe^Jane", "SeriesNumber": 2, "StudyDescription": "filled"}

        def conflicts(on_duplicate: OnDuplicate = REJECT, **more: Any) -> tuple[str, ...]:
            outcomes = storage.store(records=[record(study, series, **more)], on_duplicate=on_duplicate)
            return outcomes[0].conflicts

        assert conflicts(**values) == ()
        assert conflicts(**{**values, "StudyDescription": "filled"}) == ()
        assert conflicts(**other) == ("00100010", "00200011")
        assert conflicts(**other) == ("00100010", "00200011")
        assert conflicts(**{**values, "StudyDescription": "else"}) == ("00081030",)
        assert conflicts(**{**values, "PatientName": None}) == ()
        last = record(study, series, **values)
        put(storage, last)
        assert conflicts(REPLACE, instance_uid=last.instance_uid, **{**values, "StudyID": "2"}) == ("00200010",)

    def test_totals_and_sets(self, storage: Storage) -> None:
        study, a, b = new_uid(), new_uid(), new_uid()
        put(
            storage,
            record(study, a),
            record(study, a, transfer_syntax_uid=JPEG),
            record(study, b, Modality="MR", sop_class_uid=MR_IMAGE),
            record(study, b, Modality=None, sop_class_uid=MR_IMAGE),
        )
        hit, series = study_hit(storage, study), series_hits(storage, study)
        assert (hit.number_of_series, hit.number_of_instances) == (2, 4)
        assert (hit.modalities, hit.sop_classes) == (("CT", "MR"), (CT_IMAGE, MR_IMAGE))
        assert hit.transfer_syntaxes == (EXPLICIT, JPEG)
        assert (series[a].number_of_instances, series[a].modalities, series[a].transfer_syntaxes) == (
            2,
            ("CT",),
            (EXPLICIT, JPEG),
        )
        (patient,) = storage.search(query=Query(level=Level.PATIENT)).hits
        assert (patient.number_of_studies, patient.number_of_series, patient.number_of_instances) == (1, 2, 4)
        assert patient.modalities == ("CT", "MR")
        storage.remove(scope=Scope(study_uid=study, series_uid=b))
        hit = study_hit(storage, study)
        assert (hit.number_of_series, hit.number_of_instances, hit.modalities) == (1, 2, ("CT",))

    def test_one_series_uid_in_two_studies(self, storage: Storage) -> None:
        one = record()
        other = record(series_uid=one.series_uid)
        put(storage, one, other, record(one.study_uid, one.series_uid))
        assert study_hit(storage, one.study_uid).number_of_instances == 2
        storage.remove(scope=Scope(study_uid=one.study_uid, series_uid=one.series_uid))
        assert study_hit(storage, other.study_uid).number_of_instances == 1

    def test_patients_are_told_by_issuer_and_id(self, storage: Storage) -> None:
        put(storage, record(PatientID="1"), record(PatientID="1"), record(PatientID="1", IssuerOfPatientID="X"))
        put(storage, record(PatientID=None), record(PatientID=None))
        hits = storage.search(query=Query(level=Level.PATIENT)).hits
        assert sorted(hit.number_of_studies for hit in hits) == [1, 1, 1, 2]
        assert storage.count(query=Query(level=Level.PATIENT)) == 4

    def test_a_study_moves_to_the_patient_that_a_later_instance_names(self, storage: Storage) -> None:
        known, late = record(PatientID="P", PatientSex="F"), record(PatientID=None, PatientSex="M")
        put(storage, late, known)
        put(storage, record(late.study_uid, PatientID="P"))
        (patient,) = storage.search(query=Query(level=Level.PATIENT)).hits
        assert (patient.number_of_studies, patient.number_of_instances) == (2, 3)
        assert shown(patient, "00100040") == ["M"]
        storage.remove(scope=Scope(study_uid=late.study_uid))
        (patient,) = storage.search(query=Query(level=Level.PATIENT)).hits
        assert (patient.number_of_studies, shown(patient, "00100040")) == (1, ["F"])

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

    # Versions and changes

    def test_versions_change_with_what_is_below_and_never_come_back(self, storage: Storage) -> None:
        one = record()
        beside = record(one.study_uid)
        far = record()
        put(storage, one, beside, far)
        scopes = [Scope(), Scope(study_uid=one.study_uid), Scope(study_uid=one.study_uid, series_uid=one.series_uid)]
        scopes.append(one.scope)
        seen: list[set[str]] = [set() for _ in scopes]
        outside = [storage.version(scope=far.scope), storage.version(scope=Scope(study_uid=far.study_uid))]
        beside_version = storage.version(scope=Scope(study_uid=beside.study_uid, series_uid=beside.series_uid))

        def changed() -> None:
            for scope, versions in zip(scopes, seen, strict=True):
                version = storage.version(scope=scope)
                assert version not in versions
                assert version.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == ""
                versions.add(version)

        def again(content: bytes) -> InstanceRecord:
            return record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=content)

        changed()
        put(storage, again(b"1"), on_duplicate=REPLACE)
        changed()
        storage.restore(
            instance_uid=one.instance_uid, version=storage.replaced(instance_uid=one.instance_uid)[0].version
        )
        changed()
        storage.remove(scope=one.scope)
        put(storage, again(b"2"))
        changed()
        storage.remove(scope=Scope(study_uid=one.study_uid))
        put(storage, again(b"3"))
        changed()
        assert outside == [storage.version(scope=far.scope), storage.version(scope=Scope(study_uid=far.study_uid))]
        put(storage, beside)
        beside_scope = Scope(study_uid=beside.study_uid, series_uid=beside.series_uid)
        assert storage.version(scope=beside_scope) != beside_version

    def test_reading_and_same_bytes_change_no_version(self, storage: Storage) -> None:
        one = record()
        put(storage, one)
        versions = [storage.version(scope=scope) for scope in (Scope(study_uid=one.study_uid), one.scope)]
        put(storage, one)
        list(storage.metadata(scope=one.scope))
        assert versions == [storage.version(scope=scope) for scope in (Scope(study_uid=one.study_uid), one.scope)]

    def test_change_feed(self, storage: Storage) -> None:
        assert storage.changes(after=None, limit=5) == []
        one, other = record(), record()
        put(storage, one, other)
        put(
            storage,
            record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"1"),
            on_duplicate=REPLACE,
        )
        storage.restore(
            instance_uid=one.instance_uid, version=storage.replaced(instance_uid=one.instance_uid)[0].version
        )
        storage.remove(scope=one.scope)
        whole = storage.changes(after=None, limit=100)
        assert [change.kind for change in whole if change.instance_uid == one.instance_uid] == [
            ChangeKind.STORED,
            ChangeKind.REPLACED,
            ChangeKind.RESTORED,
            ChangeKind.REMOVED,
        ]
        assert {change.study_uid for change in whole} == {one.study_uid, other.study_uid}
        paged: list[Change] = []
        cursor: str | None = None
        while page := storage.changes(after=cursor, limit=2):
            assert len(page) <= 2
            paged += page
            cursor = page[-1].cursor
        assert paged == list(whole)

    # Figures

    def test_usage_by_modality_and_transfer_syntax(self, storage: Storage) -> None:
        assert (storage.usage(scope=Scope()).instances, storage.stored_bytes()) == (0, 0)
        first = record(content=b"x" * 10)
        same = record(first.study_uid, first.series_uid, content=b"x" * 20)
        jpeg = record(first.study_uid, content=b"x" * 40, transfer_syntax_uid=JPEG, Modality="MR")
        other = record(content=b"x" * 80, Modality=None)
        put(storage, first, same, jpeg, other)
        put(
            storage,
            record(first.study_uid, first.series_uid, instance_uid=first.instance_uid, content=b"x" * 15),
            on_duplicate=REPLACE,
        )
        ct = Share(modality="CT", transfer_syntax_uid=EXPLICIT, instances=2, size_bytes=35)
        mr = Share(modality="MR", transfer_syntax_uid=JPEG, instances=1, size_bytes=40)
        none = Share(modality="", transfer_syntax_uid=EXPLICIT, instances=1, size_bytes=80)
        whole = storage.usage(scope=Scope())
        assert list(whole.shares) == [none, ct, mr]
        assert (whole.replaced_instances, whole.replaced_bytes) == (1, 10)
        assert (whole.instances, whole.size_bytes) == (4, 155)
        assert storage.stored_bytes() == 165
        study = storage.usage(scope=Scope(study_uid=first.study_uid))
        assert (list(study.shares), study.replaced_bytes) == ([ct, mr], 10)
        series = storage.usage(scope=Scope(study_uid=jpeg.study_uid, series_uid=jpeg.series_uid))
        assert (list(series.shares), series.replaced_bytes) == ([mr], 0)
        storage.remove(scope=Scope(study_uid=first.study_uid))
        assert list(storage.usage(scope=Scope()).shares) == [none]
        for scope in (Scope(study_uid=first.study_uid), Scope(study_uid=other.study_uid, series_uid="1.2")):
            with pytest.raises(NotFound):
                storage.usage(scope=scope)

    def test_newest_change_is_where_new_ones_begin(self, storage: Storage) -> None:
        assert storage.newest_change() is None
        put(storage, *(record() for _ in range(3)))
        begin = storage.newest_change()
        assert begin is not None
        assert storage.changes(after=begin, limit=9) == []
        later = [record(), record()]
        put(storage, *later)
        found = storage.changes(after=begin, limit=9)
        assert {change.instance_uid for change in found} == {one.instance_uid for one in later}
        assert storage.changes(after=storage.newest_change(), limit=9) == []

    @pytest.mark.parametrize("cursor", ["", "x", "-1", "9" * 18, "9" * 40, "1.5", "١", "1;"])
    def test_a_foreign_cursor_is_refused(self, storage: Storage, cursor: str) -> None:
        put(storage, record())
        with pytest.raises(BadRequest):
            storage.changes(after=cursor, limit=1)

    # Checking what is derived

    def test_what_is_derived_is_exact_whatever_was_done(self, storage: Storage) -> None:
        put(storage, *search_cases.records())
        study = new_uid()
        one = record(study, content=b"a")
        put(storage, one, record(study, new_uid(), PatientID="", StudyDescription=""), record(study, Modality="MR"))
        put(storage, record(study, one.series_uid, instance_uid=one.instance_uid, content=b"b"), on_duplicate=REPLACE)
        storage.remove(scope=one.scope)
        assert storage.is_exact(scope=Scope())
        page = storage.search(query=Query(level=Level.STUDY))
        for hit in page.hits:
            assert storage.is_exact(scope=Scope(study_uid=hit.study_uid)), hit
        assert storage.is_exact(scope=Scope(study_uid=new_uid()))

    def test_what_is_wrong_is_seen_and_derived_again(self, storage: Storage) -> None:
        records = [record("1.2.3", PatientID="P1"), record("1.2.4", PatientID="P2"), record("1.2.3", PatientID="P1")]
        put(storage, *records)
        before = [study_hit(storage, uid) for uid in ("1.2.3", "1.2.4")]
        self.spoil(storage, "1.2.3")
        assert not storage.is_exact(scope=Scope(study_uid="1.2.3"))
        assert not storage.is_exact(scope=Scope())
        assert storage.is_exact(scope=Scope(study_uid="1.2.4"))
        for scope in (Scope(study_uid="1.2.3"), Scope()):
            storage.recompute(scope=scope)
            assert storage.is_exact(scope=scope)
        assert [study_hit(storage, uid) for uid in ("1.2.3", "1.2.4")] == before
        assert storage.count(query=Query(level=Level.PATIENT)) == 2
        storage.recompute(scope=Scope(study_uid=new_uid()))

    # Search

    def test_search_finds_what_the_oracle_finds(self, filled: Storage) -> None:
        oracle = search_cases.Oracle(search_cases.records())
        wrong, hits = [], 0
        for name, terms in search_cases.queries():
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                for scope in search_cases.SCOPES:
                    query = Query(level=level, terms=terms, scope=scope)
                    found = [search_cases.key_of(hit) for hit in filled.search(query=query).hits]
                    expected = oracle.find(query)
                    hits += len(expected)
                    if found != expected or filled.count(query=query) != len(expected):
                        wrong.append((name, level.value, scope, f"{len(found)} instead of {len(expected)}"))
        assert not wrong
        assert hits > 1000

    def test_conditions_find_what_the_oracle_finds(self, filled: Storage) -> None:
        oracle = search_cases.Oracle(search_cases.records())
        wrong, hits = [], 0
        terms = search_cases.terms("StudyTime=1015")
        for name, conditions in search_cases.conditions():
            for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
                for led in ((), terms):
                    query = Query(level=level, terms=led, conditions=conditions)
                    found = [search_cases.key_of(hit) for hit in filled.search(query=query).hits]
                    expected = oracle.find(query)
                    hits += len(expected)
                    if found != expected or filled.count(query=query) != len(expected):
                        wrong.append((name, level.value, bool(led), f"{len(found)} instead of {len(expected)}"))
        assert not wrong
        assert hits > 500

    def test_conditions_in_pages(self, filled: Storage) -> None:
        oracle = search_cases.Oracle(search_cases.records())
        order = (Order("00100020", "LO", True),)
        conditions = (Not(search_cases.one_term("PatientID=A1")),)
        expected = oracle.find(Query(level=Level.STUDY, conditions=conditions, order=order))
        pages: list[tuple[str, ...]] = []
        for offset in range(0, len(expected) + 3, 3):
            query = Query(level=Level.STUDY, conditions=conditions, order=order, limit=3, offset=offset)
            page = filled.search(query=query)
            pages += [search_cases.key_of(hit) for hit in page.hits]
            assert page.more is (offset + 3 < len(expected))
        assert pages == expected

    def test_patients_by_digest_and_by_what_they_have(self, filled: Storage) -> None:
        def ids(*conditions: Condition, terms: tuple[Term, ...] = ()) -> list[Any]:
            query = Query(level=Level.PATIENT, terms=terms, conditions=conditions)
            found = sorted(str(shown(hit, "00100020")) for hit in filled.search(query=query).hits)
            assert filled.count(query=query) == len(found)
            return found

        both = search_cases.digest_term("id\\\\A1", "id\\\\Z9", "id\\\\nobody")
        assert ids(terms=(both,)) == ["['A1']", "['Z9']"]
        found = filled.search(query=Query(level=Level.PATIENT, terms=(both,))).hits
        assert [hit.patient_key for hit in found] == ["id\\\\A1", "id\\\\Z9"]
        assert ids(both, terms=search_cases.terms("PatientID=A1")) == ["['A1']"]
        assert ids(Has(Level.STUDY, search_cases.terms("StudyDate=19970423"))) == ["['a1']"]
        assert ids(Has(Level.SERIES, search_cases.terms("SeriesNumber=8")), both) == ["['Z9']"]
        by_instance = ids(Has(Level.INSTANCE, search_cases.terms(f"SOPInstanceUID={ROOT}.102.0.0.0")))
        assert by_instance == ["['A1']"]
        assert len(ids(Not(both))) == 9
        studies = Query(level=Level.STUDY, terms=(search_cases.digest_term("id\\\\Z9"),))
        assert filled.count(query=studies) == 2
        assert len(filled.search(query=studies).hits) == 2

    def test_hits_tell_when_they_last_changed(self, storage: Storage) -> None:
        one, two = record(PatientID="P1"), record(PatientID="P2")
        put(storage, one)
        put(storage, two)

        def times(level: Level) -> list[Any]:
            page = storage.search(query=Query(level=level, times=True, order=(Order(LAST_CHANGED, "UN"),)))
            return [hit.changed_at for hit in page.hits]

        before = {level: times(level) for level in (Level.PATIENT, Level.STUDY, Level.SERIES)}
        assert all(len(found) == 2 and found == sorted(found) for found in before.values())
        time.sleep(0.002)  # the clock of MongoDB has milliseconds
        put(storage, record(one.study_uid, one.series_uid, PatientID="P1"))
        for level, (first, second) in before.items():
            still, later = times(level)
            assert still == second
            assert later > second >= first
        for level, (_, newest) in before.items():
            since = clock_digits(newest + timedelta(microseconds=1))
            query = Query(level=level, terms=(Term((LAST_CHANGED,), "UN", (Range(since, None),)),))
            assert storage.count(query=query) == 1
        (hit,) = storage.search(query=Query(level=Level.STUDY, scope=Scope(study_uid=two.study_uid))).hits
        assert hit.changed_at is None

    @pytest.mark.parametrize("order", search_cases.ORDERS, ids=str)
    def test_order(self, filled: Storage, order: tuple[Order, ...]) -> None:
        oracle = search_cases.Oracle(search_cases.records())
        for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
            for scope in search_cases.SCOPES:
                query = Query(level=level, scope=scope, order=order)
                expected = oracle.find(query)
                assert [search_cases.key_of(hit) for hit in filled.search(query=query).hits] == expected
                pages: list[tuple[str, ...]] = []
                for offset in range(0, len(expected) + 3, 3):
                    page = filled.search(query=Query(level=level, scope=scope, order=order, limit=3, offset=offset))
                    pages += [search_cases.key_of(hit) for hit in page.hits]
                    assert page.more is (offset + 3 < len(expected))
                assert pages == expected

    def test_hits_carry_what_the_oracle_shows(self, filled: Storage) -> None:
        oracle = search_cases.Oracle(search_cases.records())
        for level in (Level.STUDY, Level.SERIES):
            entities = oracle.entities(level)
            for hit in filled.search(query=Query(level=level)).hits:
                expected = entities[search_cases.key_of(hit)]
                own = {tag: value for tag, value in expected.items() if tag[:6] not in ("002012", "000800")}
                computed = ("00080061", "00080062", "00201206", "00201208", "00201209", PATIENT_DIGEST)
                assert {tag: hit.attributes.get(tag) for tag in own if tag not in computed} == {
                    tag: value for tag, value in own.items() if tag not in computed
                }

    def test_patients_are_found(self, filled: Storage) -> None:
        def ids(text: str, **options: bool) -> list[Any]:
            query = Query(level=Level.PATIENT, terms=search_cases.terms(text, **options))
            return sorted(str(shown(hit, "00100020")) for hit in filled.search(query=query).hits)

        assert ids("PatientID=A1") == ["['A1']"]
        assert ids("PatientName=*m*th*") == ["['B*1']", "['B?1']"]
        assert ids("PatientName=smith", fuzzy=True) == ["['B*1']", "['B?1']"]
        assert ids("NumberOfPatientRelatedStudies=2") == ["['Z9']"]
        assert ids('PatientID=""', empty=True) == ["[]"]
        assert ids("StudyDate=20230105") == []
        scoped = Query(level=Level.PATIENT, scope=Scope(study_uid=search_cases.STUDY))
        assert [shown(hit, "00100020") for hit in filled.search(query=scoped).hits] == [["A1"]]
        pages = [
            filled.search(query=Query(level=Level.PATIENT, limit=2, offset=offset)).hits for offset in range(0, 14, 2)
        ]
        assert len({orjson.dumps(dict(hit.attributes)) for page in pages for hit in page}) == 11

    def test_limits(self, filled: Storage) -> None:
        empty = filled.search(query=Query(level=Level.STUDY, limit=0))
        assert (list(empty.hits), empty.more) == ([], True)
        far = filled.search(query=Query(level=Level.STUDY, offset=10**9))
        assert (list(far.hits), far.more) == ([], False)

    def test_search_follows_replace_and_remove(self, storage: Storage) -> None:
        one = record(PatientName="Old^Name=古^名", StudyID=["1", "2"])
        put(storage, one)
        new = record(
            one.study_uid, one.series_uid, instance_uid=one.instance_uid, PatientName="New^Name", Modality="MR"
        )
        put(storage, new, on_duplicate=REPLACE)
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE):
            for text, number in (("PatientName=old*", 0), ("PatientName=*古*", 0), ("PatientName=*new*", 1)):
                assert storage.count(query=Query(level=level, terms=search_cases.terms(text))) == number
        for text, number in (("ModalitiesInStudy=CT", 0), ("ModalitiesInStudy=MR", 1), ("StudyID=2", 0)):
            assert storage.count(query=Query(level=Level.STUDY, terms=search_cases.terms(text))) == number
        storage.remove(scope=one.scope)
        for level in (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE):
            assert storage.count(query=Query(level=level)) == 0

    # Concurrency

    def test_one_uid_storedat_once_is_created_once(self, storage: Storage) -> None:
        study, series, uid = new_uid(), new_uid(), new_uid()
        rivals = [record(study, series, instance_uid=uid, content=bytes([number])) for number in range(8)]
        outcomes = at_once([partial(put, storage, one) for one in rivals])
        kinds = [kind for (kind,) in outcomes]
        assert sorted(kinds) == [Stored.CREATED] + [Stored.REFUSED] * 7
        assert storage.get(scope=rivals[0].scope).blob == rivals[kinds.index(Stored.CREATED)].blob

    def test_eight_writers_on_one_study_leave_exact_totals(self, storage: Storage) -> None:
        study, shared = new_uid(), new_uid()

        def work(number: int) -> None:
            own = new_uid()
            for batch in range(5):
                put(
                    storage,
                    *[record(study, shared, Modality=f"M{number}") for _ in range(3)],
                    *[record(study, own, StudyID=str(batch)) for _ in range(2)],
                )

        at_once([partial(work, number) for number in range(8)])
        hit, series = study_hit(storage, study), series_hits(storage, study)
        assert (hit.number_of_instances, hit.number_of_series) == (200, 9)
        assert hit.modalities == ("CT", *(f"M{number}" for number in range(8)))
        assert series[shared].number_of_instances == 120
        assert sum(one.number_of_instances for one in series.values()) == 200
        assert len(list(storage.instances(scope=Scope(study_uid=study)))) == 200

    def test_removing_while_storing_leaves_exact_totals(self, storage: Storage) -> None:
        study = new_uid()
        doomed = [record(study) for _ in range(20)]
        put(storage, *doomed)

        def remove() -> None:
            for one in doomed:
                storage.remove(scope=Scope(study_uid=study, series_uid=one.series_uid))

        def store() -> None:
            for _ in range(10):
                put(storage, record(study), record(study))

        def read() -> None:
            for _ in range(20):
                for hit in storage.search(query=Query(level=Level.STUDY)).hits:
                    assert hit.number_of_series == hit.number_of_instances

        at_once([remove, store, store, read])
        hit = study_hit(storage, study)
        assert (hit.number_of_instances, hit.number_of_series) == (40, 40)

    def test_one_removal_of_several_wins(self, storage: Storage) -> None:
        one = record()
        put(storage, one)

        def remove() -> bool:
            try:
                storage.remove(scope=one.scope)
            except NotFound:
                return False
            return True

        assert sorted(at_once([remove] * 4)) == [False, False, False, True]
        assert list(storage.released(limit=9)) == [one.blob.key]

    # Documents

    def test_a_document_and_its_versions(self, storage: Storage) -> None:
        body = {"ü": [1, 2.5, None, True, {"deep": "山"}]}
        first = storage.put_document(kind="k", document_id="d", body=body, keys={"name": ("a", "b")})
        assert (first.version, first.body, first.keys, first.deleted) == (1, body, {"name": ("a", "b")}, False)
        assert storage.get_document(kind="k", document_id="d") == first
        second = storage.put_document(kind="k", document_id="d", body=[2], keys={}, expected_version=1)
        assert storage.get_document(kind="k", document_id="d") == second
        assert storage.get_document(kind="k", document_id="d", version=1) == first
        gone = storage.delete_document(kind="k", document_id="d", expected_version=2)
        assert (gone.version, gone.deleted) == (3, True)
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d")
        assert storage.get_document(kind="k", document_id="d", version=3).deleted
        assert list(storage.document_history(kind="k", document_id="d")) == [gone, second, first]
        again = storage.put_document(kind="k", document_id="d", body=4, keys={}, expected_version=0)
        assert (again.version, again.deleted) == (4, False)

    def test_versions_can_be_forgotten(self, storage: Storage) -> None:
        for number in range(1, 6):
            storage.put_document(kind="k", document_id="d", body=number, keys={})
        storage.put_document(kind="k", document_id="other", body=0, keys={})
        storage.put_document(kind="k", document_id="other", body=1, keys={})
        storage.forget_versions(kind="k", document_id="d", before=4)
        assert [each.version for each in storage.document_history(kind="k", document_id="d")] == [5, 4]
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d", version=3)
        storage.forget_versions(kind="k", document_id="d", before=99)
        storage.forget_versions(kind="k", document_id="unknown", before=2)
        assert storage.get_document(kind="k", document_id="d").body == 5
        assert storage.put_document(kind="k", document_id="d", body=6, keys={}, expected_version=5).version == 6
        assert len(storage.document_history(kind="k", document_id="other")) == 2

    def test_documents_can_be_purged(self, storage: Storage) -> None:
        for number in range(1, 8):
            keys = {"day": (f"0{number}", f"0{number}x"), "user": ("anna" if number % 2 else "walt",)}
            for version in range(1 + number % 3):
                storage.put_document(kind="k", document_id=f"d{number}", body=version, keys=keys)
        storage.put_document(kind="other", document_id="d1", body=0, keys={"day": ("01",), "user": ("anna",)})
        terms = (DocumentTerm(key="day", high="05"), DocumentTerm(key="user", equal="anna"))
        gone = [storage.purge_documents(kind="k", terms=terms, limit=2) for _ in range(3)]
        assert gone == [2, 1, 0]
        left = [document.document_id for document in storage.find_documents(kind="k").documents]
        assert left == ["d2", "d4", "d6", "d7"]
        assert list(storage.document_history(kind="k", document_id="d5")) == []
        with pytest.raises(NotFound):
            storage.get_document(kind="k", document_id="d5", version=1)
        assert storage.put_document(kind="k", document_id="d5", body=9, keys={}, expected_version=0).version == 1
        walt = DocumentTerm(key="user", equal="walt")
        assert storage.purge_documents(kind="k", terms=[walt], limit=100) == 3
        assert len(storage.document_history(kind="k", document_id="d7")) == 2
        assert storage.get_document(kind="other", document_id="d1").body == 0

    def test_document_misses(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="d", body=1, keys={})
        for kind, document_id, version in (("k", "e", None), ("l", "d", None), ("k", "d", 2), ("k", "d", 0)):
            with pytest.raises(NotFound):
                storage.get_document(kind=kind, document_id=document_id, version=version)
        with pytest.raises(NotFound):
            storage.delete_document(kind="k", document_id="e")
        assert list(storage.document_history(kind="k", document_id="e")) == []

    def test_expected_versions(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="d", body=1, keys={}, expected_version=0)
        for expected in (0, 2):
            with pytest.raises(VersionConflict):
                storage.put_document(kind="k", document_id="d", body=2, keys={}, expected_version=expected)
        with pytest.raises(VersionConflict):
            storage.delete_document(kind="k", document_id="d", expected_version=2)
        with pytest.raises(VersionConflict):
            storage.put_document(kind="k", document_id="e", body=1, keys={}, expected_version=1)
        assert storage.get_document(kind="k", document_id="d").version == 1

    def test_one_of_several_writers_wins_a_version(self, storage: Storage) -> None:
        def write() -> bool:
            try:
                storage.put_document(kind="k", document_id="d", body=1, keys={}, expected_version=0)
            except VersionConflict:
                return False
            return True

        assert sorted(at_once([write] * 6)) == [False] * 5 + [True]

    @pytest.mark.parametrize(
        ("term", "expected"),
        [
            (DocumentTerm(key="name", equal="anna"), ["1", "3"]),
            (DocumentTerm(key="name", equal="ann"), []),
            (DocumentTerm(key="name", prefix="an"), ["1", "2", "3"]),
            (DocumentTerm(key="name", prefix=""), ["1", "2", "3", "4"]),
            (DocumentTerm(key="name", prefix="%"), []),
            (DocumentTerm(key="name", low="anne", high="bert"), ["2", "4"]),
            (DocumentTerm(key="name", low="b"), ["4"]),
            (DocumentTerm(key="name", high="anna"), ["1", "3"]),
            (DocumentTerm(key="other", equal="x"), ["4"]),
        ],
    )
    def test_find_documents(self, storage: Storage, term: DocumentTerm, expected: list[str]) -> None:
        names: Sequence[tuple[str, ...]] = (("anna",), ("anne", "anne"), ("zoe", "anna"), ("bert",))
        for number, values in enumerate(names, 1):
            keys = {"name": values, **({"other": ("x",)} if number == 4 else {})}
            storage.put_document(kind="k", document_id=str(number), body=number, keys=keys)
        storage.put_document(kind="other", document_id="9", body=9, keys={"name": ("anna", "anne", "bert")})
        storage.put_document(kind="k", document_id="5", body=5, keys={"name": ("anna", "anne", "bert", "zz")})
        storage.delete_document(kind="k", document_id="5")
        storage.put_document(kind="k", document_id="3", body=3, keys={"name": ("anna",)})
        found = storage.find_documents(kind="k", terms=[term])
        assert [document.document_id for document in found.documents] == expected
        assert found.cursor is None

    def test_several_documentsat_once(self, storage: Storage) -> None:
        for kind, document_id in (("k", "a"), ("k", "b"), ("l", "a"), ("k", "gone")):
            storage.put_document(kind=kind, document_id=document_id, body=[kind, document_id], keys={})
        storage.delete_document(kind="k", document_id="gone")
        newest = storage.put_document(kind="k", document_id="a", body="new", keys={"x": ("y",)})
        names = [("k", "a"), ("l", "a"), ("k", "gone"), ("k", "never"), ("k", "a")]
        found = storage.documents_of(names=names)
        assert set(found) == {("k", "a"), ("l", "a")}
        assert found["k", "a"] == newest
        assert found["l", "a"].body == ["l", "a"]
        assert storage.documents_of(names=[]) == {}

    def test_documents_are_written_together_where_that_can_be(self, storage: Storage) -> None:
        storage.put_document(kind="k", document_id="a", body=1, keys={})
        both = [
            DocumentWrite(kind="k", document_id="a", expected_version=1, deleted=True),
            DocumentWrite(kind="k", document_id="b", expected_version=0, body=2, keys={"n": ("x",)}),
        ]
        if not storage.transacts:
            with pytest.raises(StorageError):
                storage.write_documents(writes=both)
            return
        wrong = [*both, DocumentWrite(kind="k", document_id="c", expected_version=1, body=3)]
        with pytest.raises(VersionConflict):
            storage.write_documents(writes=wrong)
        assert storage.get_document(kind="k", document_id="a").version == 1
        assert not storage.document_history(kind="k", document_id="b")
        assert [(one.document_id, one.version, one.deleted) for one in storage.write_documents(writes=both)] == [
            ("a", 2, True),
            ("b", 1, False),
        ]
        found = storage.find_documents(kind="k", terms=[DocumentTerm(key="n", equal="x")]).documents
        assert [one.body for one in found] == [2]

    def test_documents_come_in_pages(self, storage: Storage) -> None:
        for number in range(7):
            storage.put_document(kind="k", document_id=f"ü{number}", body=number, keys={"n": (str(number % 2),)})
        seen, cursor = [], None
        while True:
            page = storage.find_documents(kind="k", terms=[DocumentTerm(key="n", equal="0")], limit=2, cursor=cursor)
            seen += [document.body for document in page.documents]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == [0, 2, 4, 6]


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all in threads that start together; the results in order, the first error raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        barrier.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, work) for work in works]]
