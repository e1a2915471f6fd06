"""The part of `StorageSuite` on search: every backend finds what the oracle of `dicom/matching.py` finds."""

import time
from datetime import timedelta
from typing import Any

import orjson
import pytest

from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST, clock_digits
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Condition, Has, Not, Range, Term
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import OnDuplicate, Scope
from dicomweb_server.testing import search_cases
from dicomweb_server.testing.datasets import ROOT, record
from dicomweb_server.testing.steps import put, shown
from dicomweb_server.testing.storage_case import StorageCase

REJECT, REPLACE = OnDuplicate.REJECT, OnDuplicate.REPLACE


class SearchSuite(StorageCase):
    """Terms, conditions, order and pages."""

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
