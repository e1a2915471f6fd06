"""The part of `StorageSuite` on what follows from the instances."""

from functools import partial
from typing import Any

import pytest

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Change, ChangeKind, InstanceRecord, OnDuplicate, Scope, Share, Stored
from dicomweb_server.testing import search_cases
from dicomweb_server.testing.datasets import CT_IMAGE, EXPLICIT, JPEG, MR_IMAGE, new_uid, record
from dicomweb_server.testing.steps import at_once, put, series_hits, shown, study_hit
from dicomweb_server.testing.storage_case import StorageCase

REJECT, REPLACE = OnDuplicate.REJECT, OnDuplicate.REPLACE


class DerivedSuite(StorageCase):
    """What entities show, versions, changes, figures, and that all of it is exact, also when many write at once."""

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

    # Concurrency

    def test_one_uid_stored_at_once_is_created_once(self, storage: Storage) -> None:
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
