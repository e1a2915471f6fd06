"""The SQLite storage passes the contract suite, from several processes too, and its plans use indexes."""

import multiprocessing
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backends.sqlite import SQLiteStorage
from backends.sqlite.connections import Connection
from backends.sqlite.query import Statement
from backends.sqlite.unit import microseconds
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import ConfigError, StorageCorrupt, StorageError, StorageFull, StorageUnavailable
from dicomweb_server.services.recycle import RecycleBin
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import OnDuplicate, Scope
from dicomweb_server.testing.bin_suite import BinSuite
from dicomweb_server.testing.datasets import new_uid, record
from dicomweb_server.testing.moving_suite import MovingSuite
from dicomweb_server.testing.search_cases import digest_term, records, terms
from dicomweb_server.testing.steps import put, study_hit
from dicomweb_server.testing.storage_suite import StorageSuite
from tests.contract.older import to_schema_1


def opened(path: Path, **settings: object) -> SQLiteStorage:
    storage = SQLiteStorage.from_settings(settings={"path": str(path), **settings})
    storage.open()
    return storage


class TestSQLite(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[Storage]:
        self.path = tmp_path / "index" / "archive.sqlite"
        storage = opened(self.path, synchronous="NORMAL")
        yield storage
        storage.close()

    def reopen(self, storage: Storage) -> Storage:
        storage.close()
        return opened(self.path)

    def spoil(self, storage: Storage, study_uid: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                "UPDATE study SET instances = 9, study_description = 'x', attributes = '{}' WHERE uid = ?", (study_uid,)
            )
            names = [row[1] for row in connection.execute("PRAGMA table_info(patient)") if row[1] not in ("id", "uid")]
            columns = ", ".join(names)
            connection.execute(f"INSERT INTO patient SELECT 999, 'lonely', {columns} FROM patient LIMIT 1")  # noqa: S608


class TestBin(BinSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Iterator[Storage]:
        storage = opened(tmp_path / "archive.sqlite", synchronous="NORMAL")
        yield storage
        storage.close()


class TestMoving(MovingSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Storage]:
        storage = opened(tmp_path / "source.sqlite", synchronous="NORMAL")
        yield storage
        storage.close()

    @pytest.fixture
    def target(self, tmp_path: Path) -> Iterator[Storage]:
        storage = opened(tmp_path / "target.sqlite", synchronous="NORMAL")
        yield storage
        storage.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.sqlite"


class TestSettings:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"path": ""},
            {"path": 5},
            {"path": "a\0b"},
            {"path": "x", "paht": "y"},
            {"path": "x", "busy_timeout_seconds": "5"},
            {"path": "x", "busy_timeout_seconds": -1},
            {"path": "x", "synchronous": "OFF"},
        ],
    )
    def test_unusable_ones_are_refused(self, settings: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            SQLiteStorage.from_settings(settings=settings)

    def test_nothing_is_opened_by_them(self, path: Path) -> None:
        SQLiteStorage.from_settings(settings={"path": str(path)})
        assert not path.exists()


class TestFile:
    def test_only_the_owner_reads_it(self, path: Path) -> None:
        storage = opened(path)
        put(storage, record())
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        storage.close()

    def test_a_newer_schema_is_refused(self, path: Path) -> None:
        opened(path).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        with pytest.raises(ConfigError, match="newer"):
            opened(path)

    def test_an_archive_of_schema_1_is_brought_up_to_date(self, path: Path) -> None:
        storage = opened(path)
        put(storage, record(PatientID="P1"), record(PatientID="P2"))
        query = Query(level=Level.STUDY, terms=(digest_term("id\\\\P2"),), times=True)
        (before,) = storage.search(query=query).hits
        storage.close()
        to_schema_1(path)
        storage = opened(path)
        (after,) = storage.search(query=query).hits
        storage.remove(scope=Scope(study_uid=after.study_uid), keep=True)
        assert len(storage.binned(scope=Scope()).entries) == 1
        storage.close()
        assert after == before

    def test_a_foreign_database_is_refused(self, path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (a)")
        connection.close()
        with pytest.raises(ConfigError, match="no archive"):
            opened(path)

    def test_a_file_that_is_no_database_is_corrupt(self, path: Path) -> None:
        path.write_bytes(b"no database at all" * 1000)
        with pytest.raises(StorageCorrupt):
            opened(path)

    def test_a_place_that_cannot_be_is_unavailable(self, path: Path) -> None:
        path.write_bytes(b"")
        with pytest.raises(StorageUnavailable):
            opened(path / "below a file")

    def test_a_full_disk_is_told_and_nothing_is_half_stored(self, path: Path) -> None:
        storage = opened(path)
        put(storage, record())
        with storage._connections.reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
        with storage._connections.reading() as connection:
            connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(StorageFull):
            put(storage, *[record(layout=bytes(50_000)) for _ in range(20)])
        assert storage.count(query=Query(level=Level.INSTANCE)) == 1
        storage.close()

    def test_a_lock_that_stays_is_unavailable(self, path: Path) -> None:
        storage = opened(path, busy_timeout_seconds=0.05)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="busy"):
            put(storage, record())
        assert storage.count(query=Query(level=Level.STUDY)) == 0
        other.execute("ROLLBACK")
        other.close()
        put(storage, record())
        storage.close()

    def test_an_error_of_one_writer_is_not_that_of_another(self, path: Path) -> None:
        storage = opened(path)
        one = record()
        with pytest.raises(StorageError):
            put(storage, one, record(layout_blob=object()))  # type: ignore[arg-type]
        assert storage.count(query=Query(level=Level.INSTANCE)) == 0
        put(storage, one)
        storage.close()


def _write(path: Path, study: str, shared: str, number: int) -> None:
    storage = opened(path, synchronous="NORMAL")
    for _ in range(10):
        put(storage, *[record(study, shared, Modality=f"M{number}", instance_uid=f"{new_uid()}.{number}")])
        put(storage, record(study, f"{shared}.{number}", instance_uid=f"{new_uid()}.{number}"))
    storage.close()


def test_processes_that_write_at_once_leave_exact_totals(path: Path) -> None:
    study, shared = new_uid(), new_uid()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path, study, shared, number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    storage = opened(path)
    hit = study_hit(storage, study)
    assert (hit.number_of_instances, hit.number_of_series, hit.modalities) == (40, 3, ("CT", "M0", "M1"))
    storage.close()


NEWEST = (Order("00080020", "DA", True), Order("00080030", "TM", True))


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQLiteStorage]:
    storage = opened(tmp_path_factory.mktemp("plans") / "archive.sqlite")
    storage.store(records=records(), on_duplicate=OnDuplicate.REJECT)
    yield storage
    storage.close()


class TestPlans:
    def plan(self, planned: SQLiteStorage, query: Query) -> str:
        with planned._connections.reading() as connection:
            assert isinstance(connection, Connection)
            return "\n".join(Statement(connection, query).plan())

    @pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.INSTANCE])
    @pytest.mark.parametrize(
        "text",
        [
            "PatientID=A1",
            "PatientID=A*",
            "PatientName=muller^hans",
            "PatientName=mul*",
            "AccessionNumber=ACC001",
            "StudyInstanceUID=" + ",".join(f"1.{number}" for number in range(2000)),
        ],
    )
    def test_equality_prefix_and_lists_search_an_index(self, planned: SQLiteStorage, text: str, level: Level) -> None:
        plan = self.plan(planned, Query(level=level, terms=terms(text[:90_000]), order=NEWEST))
        assert "SEARCH" in plan
        assert not [line for line in plan.splitlines() if line.startswith("SCAN") and "json_each" not in line]

    def test_the_default_list_comes_from_its_index(self, planned: SQLiteStorage) -> None:
        for wanted in (
            (),
            terms("StudyDate=20230101-20231231"),
            terms("PatientName=*a*"),
            terms("ModalitiesInStudy=CT"),
        ):
            plan = self.plan(planned, Query(level=Level.STUDY, terms=wanted, order=NEWEST))
            assert "COVERING INDEX study_list" in plan
            assert "TEMP B-TREE" not in plan

    def test_a_date_range_searches_the_list(self, planned: SQLiteStorage) -> None:
        plan = self.plan(planned, Query(level=Level.SERIES, terms=terms("StudyDate=20230101-20231231")))
        assert "SEARCH" in plan

    def test_a_digest_searches_an_index(self, planned: SQLiteStorage) -> None:
        query = Query(level=Level.STUDY, terms=(digest_term("id\\\\A1"),))
        assert "patient_digest" in self.plan(planned, query)

    def test_contained_text_runs_on_a_narrow_index(self, planned: SQLiteStorage) -> None:
        plan = self.plan(planned, Query(level=Level.STUDY, terms=terms("PatientName=*a*"), order=NEWEST))
        assert "SCAN study USING COVERING INDEX study_patient_name" in plan

    def test_the_instances_of_a_series_come_in_order(self, planned: SQLiteStorage) -> None:
        scope = Scope(study_uid="1.2", series_uid="1.3")
        plan = self.plan(planned, Query(level=Level.INSTANCE, scope=scope, order=(Order("00200013", "IS"),)))
        assert "USING COVERING INDEX instance_order" in plan


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cursors go on, times of a document do not fall, and the last removal is the one that is restored."""
    storage = opened(tmp_path / "index.sqlite")
    first = record(PatientName="First")
    storage.store(records=[first], on_duplicate=OnDuplicate.REJECT)
    storage.put_document(kind="k", document_id="d", body=1, keys={})
    cursor = storage.newest_change()
    storage.remove(scope=first.scope, keep=True)
    past = microseconds() - 24 * 3600 * 1_000_000
    for name in ("unit", "documents"):
        monkeypatch.setattr(f"backends.sqlite.{name}.microseconds", lambda: past)
    second = record(first.study_uid, first.series_uid, instance_uid=first.instance_uid, PatientName="Second")
    storage.store(records=[second], on_duplicate=OnDuplicate.REJECT)
    assert [change.kind.value for change in storage.changes(after=cursor, limit=9)] == ["removed", "stored"]
    storage.remove(scope=first.scope, keep=True)
    assert RecycleBin(storage).restore(scope=first.scope).restored == 1
    assert storage.get(scope=first.scope).blob == second.blob
    storage.put_document(kind="k", document_id="d", body=2, keys={})
    newer, older = storage.document_history(kind="k", document_id="d")
    assert newer.changed_at > older.changed_at
    storage.close()
