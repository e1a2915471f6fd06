"""MongoDB dies, is slow or full, changes its primary; writers die at every step: nothing acknowledged is lost, totals
stay exact."""

import contextlib
import multiprocessing
import os
import re
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymongo", reason="pip install 'dicomweb-server[mongodb]'")

from pymongo import MongoClient

from backends.mongodb import MongoStorage
from backends.mongodb.connection import Connection
from backends.mongodb.derived import Ascent
from backends.mongodb.feed import Entry
from backends.mongodb.schema import COLLECTION
from backends.mongodb.summing import Added, series_id
from backends.mongodb.writing import _Wave
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.records import Binned, ChangeKind, InstanceRecord, OnDuplicate, Restored, Scope
from dicomweb_server.testing.datasets import new_uid, record
from dicomweb_server.testing.steps import put, study_hit
from tests.contract.load import Load, check_totals, instances
from tests.contract.test_mongodb import opened
from tests.services import mongodb
from tests.services.databases import missing
from tests.services.proxy import BadProxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mongodb.Mongod]:
    try:
        with mongodb.running(tmp_path_factory.mktemp("mongodb")) as running:
            yield running
    except mongodb.Unavailable as exc:
        missing("mongodb", exc)


@pytest.fixture(scope="module")
def database(server: mongodb.Mongod) -> Iterator[str]:
    with mongodb.database(server.url) as name:
        yield name


@pytest.fixture
def name(server: mongodb.Mongod, database: str) -> str:
    mongodb.empty(server.url, database)
    return database


def check_everything(storage: MongoStorage, monkeypatch: pytest.MonkeyPatch) -> dict[str, InstanceRecord | None]:
    """That what is derived agrees with the instances, before and after the sweep; the instances by UID."""
    # As if the time after which marks are checked, and after which they are deleted, had passed.
    monkeypatch.setattr("backends.mongodb.removing.READ_AFTER_SECONDS", -60)
    check_totals(storage)
    for limit in ("LEASE_SECONDS", "TAGGING_SECONDS"):
        monkeypatch.setattr(f"backends.mongodb.removing.{limit}", -60)
    storage._remover.sweep()
    assert list(storage._connection.safe("work").find()) == []
    check_totals(storage)
    stored = instances(storage)
    told: dict[str, ChangeKind] = {}
    for change in storage.changes(after=None, limit=1_000_000):
        told[change.instance_uid] = change.kind
    assert {uid for uid, kind in told.items() if kind is not ChangeKind.REMOVED} == set(stored)
    for uid in stored:
        for version in storage.replaced(instance_uid=uid):
            assert version.instance.blob.key != stored[uid]
    return dict.fromkeys(stored)


class TestServer:
    def test_killed_and_restarted_under_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with mongodb.running(tmp_path) as server:
            storage = opened(server.url, "archive", server_selection_timeout_seconds=0.5)
            with Load(storage) as load:
                load.wait_for(20)
                server.kill()
                with pytest.raises(StorageUnavailable):
                    storage.get(scope=load.acknowledged[0].scope)
                assert not storage.check().ready
                server.start()
                load.wait_for(20)
            assert load.unavailable
            load.check(storage, check_everything(storage, monkeypatch))
            storage.close()

    def test_a_full_disk_loses_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with mongodb.running(tmp_path) as server:
            storage = opened(server.url, "archive", server_selection_timeout_seconds=0.3)
            with Load(storage, threads=2) as load:
                load.wait_for(10)
                largest = max(file.stat().st_size for file in tmp_path.rglob("*.wt"))
                resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest + 4096, resource.RLIM_INFINITY))
                with pytest.raises(StorageUnavailable):
                    _fill(storage, load)
                server.kill()
                server.start()
                load.wait_for(10)
            load.check(storage, check_everything(storage, monkeypatch))
            storage.close()

    def test_slow_and_with_cut_connections(
        self, server: mongodb.Mongod, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with BadProxy(server.port, delay_seconds=0.002) as proxy:
            url = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
            storage = opened(url, name, server_selection_timeout_seconds=2)
            proxy.pieces = 100
            with Load(storage) as load:
                load.wait_for(40)
            assert proxy.cuts
            storage.close()
        storage = opened(server.url, name)
        load.check(storage, check_everything(storage, monkeypatch))
        storage.close()

    def test_a_replica_set_whose_primary_is_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        replicas = mongodb.ReplicaSet(tmp_path)
        try:
            replicas.start()
            storage = opened(replicas.url, "archive", server_selection_timeout_seconds=15)
            with Load(storage) as load:
                load.wait_for(20)
                replicas.primary().kill()
                load.wait_for(40)
            load.check(storage, check_everything(storage, monkeypatch))
            storage.close()
        finally:
            replicas.stop()


def _fill(storage: MongoStorage, load: Load) -> None:
    """Store until nothing more fits."""
    for _ in range(500):
        large = record(load.study, layout=os.urandom(60_000))
        put(storage, large)
        load.acknowledged.append(large)


class Died(BaseException):
    """A process dies: no clean-up runs that asks the database for anything."""


class Mortal:
    """Lets a storage die instead of its write number `last`, and of all that follow."""

    WRITES = re.compile("(insert|update|replace|delete)_(one|many)|bulk_write|find_one_and_update")

    def __init__(self, connection: Connection, last: int) -> None:
        self._left = last
        self._lock = threading.Lock()
        for kind in ("safe", "unconfirmed"):
            setattr(connection, kind, self._dying(getattr(connection, kind)))

    @property
    def died(self) -> bool:
        """Whether it came to that."""
        return self._left < 0

    def _dying(self, collection_of: Callable[[str], Any]) -> Callable[[str], Any]:
        return lambda collection: _MortalCollection(collection_of(collection), self)

    def count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise Died


class _MortalCollection:
    def __init__(self, collection: Any, mortal: Mortal) -> None:
        self._collection = collection
        self._mortal = mortal

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._collection, attribute)
        if not Mortal.WRITES.fullmatch(attribute):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._mortal.count()
            return found(*arguments, **options)

        return call


ONE = record(PatientID="A")
BESIDE = record(ONE.study_uid, PatientID="A", Modality="MR")
SAME_SERIES = record(ONE.study_uid, ONE.series_uid, PatientID="A")
MOVED = record(instance_uid=ONE.instance_uid, PatientID="B", content=b"moved")
AGAIN = record(ONE.study_uid, ONE.series_uid, instance_uid=ONE.instance_uid, content=b"again")
LONE = record(PatientID="L")
RENAMED = record(LONE.study_uid, LONE.series_uid, instance_uid=LONE.instance_uid, PatientID="N")
STEPS: dict[str, Callable[[MongoStorage], object]] = {
    "store": lambda storage: put(storage, record(ONE.study_uid, ONE.series_uid), record(ONE.study_uid)),
    "begin": lambda storage: put(storage, record(PatientID="A"), record(PatientID="N"), record(ONE.study_uid)),
    "replace": lambda storage: put(storage, AGAIN, on_duplicate=OnDuplicate.REPLACE),
    "move": lambda storage: put(storage, MOVED, on_duplicate=OnDuplicate.REPLACE),
    "rename": lambda storage: put(storage, RENAMED, on_duplicate=OnDuplicate.REPLACE),
    "remove study": lambda storage: storage.remove(scope=Scope(study_uid=ONE.study_uid)),
    "remove instance": lambda storage: storage.remove(scope=ONE.scope),
    "restore": lambda storage: storage.restore(
        instance_uid=ONE.instance_uid, version=storage.replaced(instance_uid=ONE.instance_uid)[0].version
    ),
    "keep study": lambda storage: storage.remove(scope=Scope(study_uid=ONE.study_uid), keep=True),
    "bring back": lambda storage: storage.restore_binned(entries=[one.entry for one in in_the_bin(storage)]),
    "purge": lambda storage: storage.purge_binned(scope=Scope(), limit=9),
    "purge versions": lambda storage: storage.purge_replaced(scope=Scope(), limit=9),
}
WHOLE = ("remove study", "keep study")
KEPT = ("keep study", "bring back", "purge")


def in_the_bin(storage: MongoStorage) -> list[Binned]:
    return list(storage.binned(scope=Scope()).entries)


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_may_die_before_every_write(
    server: mongodb.Mongod, name: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    last = 0
    while True:
        with monkeypatch.context() as patch:
            mongodb.empty(server.url, name)
            storage = opened(server.url, name)
            put(storage, ONE, BESIDE, SAME_SERIES, LONE)
            if step in ("restore", "purge versions", *KEPT):
                put(storage, AGAIN, on_duplicate=OnDuplicate.REPLACE)
            if step in ("bring back", "purge"):
                storage.remove(scope=ONE.scope, keep=True)
            storage.close()
            mortal = _die(server, name, STEPS[step], last)
            storage = opened(server.url, name)
            left = check_everything(storage, patch)
            inside = {ONE.instance_uid, BESIDE.instance_uid, SAME_SERIES.instance_uid} & set(left)
            assert len(inside) in ((0, 3) if step in WHOLE else (2, 3))
            _check_blobs(storage)
            if step in KEPT:
                patch.setattr("backends.mongodb.claims.LEASE_SECONDS", -60)
                patch.setattr("backends.mongodb.binned.FORGOTTEN_SECONDS", -60)
                _check_bin(storage, left)
            storage.close()
        if not mortal.died:
            break
        last += 1
    assert last > 2


def _die(server: mongodb.Mongod, name: str, work: Callable[[MongoStorage], object], last: int) -> Mortal:
    storage = opened(server.url, name)
    storage._stopping.set()
    mortal = Mortal(storage._connection, last)
    with contextlib.suppress(Died):
        work(storage)
    storage.close()
    return mortal


def _check_blobs(storage: MongoStorage) -> None:
    """Every blob is known: as of an instance, an older version, or to be released."""
    keys = [one.blob.key for one in (ONE, BESIDE, SAME_SERIES)]
    assert storage.known_blobs(keys=keys) == set(keys)
    released = set(storage.released(limit=100))
    current = set(instances(storage).values())
    assert not released & current


def _check_bin(storage: MongoStorage, left: Mapping[str, object]) -> None:
    """What is in the bin is not stored, and can be brought back, with its older version; nothing is in two places."""
    storage._bin.sweep()
    binned = in_the_bin(storage)
    uids = {one.instance.instance_uid for one in binned}
    assert not uids & set(left)
    assert not {one.instance.blob.key for one in binned} & set(storage.released(limit=100))
    assert storage.restore_binned(entries=[one.entry for one in binned]) == [Restored.RESTORED] * len(binned)
    gone = {ONE.blob.key, AGAIN.blob.key} <= set(storage.released(limit=100))
    assert (storage.replaced(instance_uid=ONE.instance_uid) == []) is gone
    if not gone:
        assert storage.get(scope=ONE.scope).blob == AGAIN.blob
    storage.purge_binned(scope=Scope(), limit=9)
    assert gone or ONE.blob.key not in storage.released(limit=100)


class TestOvertaken:
    """What one does between two steps of another."""

    @pytest.fixture
    def storage(self, server: mongodb.Mongod, name: str) -> Iterator[MongoStorage]:
        storage = opened(server.url, name)
        put(storage, ONE)
        yield storage
        storage.close()

    def ascent(self, storage: MongoStorage) -> Ascent:
        return Ascent(storage._connection, storage._work, "nobody")

    def test_a_store_while_another_derives(self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        ascent = self.ascent(storage)
        for level, read in ((Level.SERIES, "_series"), (Level.STUDY, "_study"), (Level.PATIENT, "_patient")):
            derive, others = getattr(ascent, read), [record(ONE.study_uid, ONE.series_uid, PatientID="A")]

            def overtaken(
                identity: str, derive: Callable[[str], Any] = derive, others: list[InstanceRecord] = others
            ) -> Any:
                found = derive(identity)
                while others:
                    put(storage, others.pop())
                return found

            monkeypatch.setattr(ascent, read, overtaken)
            identity = {
                Level.SERIES: series_id(ONE.study_uid, ONE.series_uid),
                Level.STUDY: ONE.study_uid,
                Level.PATIENT: "id\\\\A",
            }[level]
            ascent.derive(level, identity)
        check_everything(storage, monkeypatch)
        assert study_hit(storage, ONE.study_uid).number_of_instances == 4

    @pytest.mark.parametrize("only_totals", [True, False])
    def test_another_derives_while_one_is_stored(
        self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch, only_totals: bool
    ) -> None:
        tell_above = _Wave._tell_above

        def overtaken(wave: _Wave, members: list[Added], entries: list[Entry]) -> None:
            self.ascent(storage).derive_study(ONE.study_uid)
            tell_above(wave, members, entries)

        monkeypatch.setattr(_Wave, "_tell_above", overtaken)
        series = ONE.series_uid if only_totals else None
        put(storage, record(ONE.study_uid, series, PatientID="A"))
        check_everything(storage, monkeypatch)
        assert study_hit(storage, ONE.study_uid).number_of_instances == 2

    def test_another_derives_between_two_increments(
        self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together, order = storage._connection.together, []

        def overtaken(*calls: Callable[[], Any]) -> list[Any]:
            if "_increment" not in repr(calls[0]):
                return together(*calls)
            results = []
            for call in calls:
                if repr(Level.SERIES) in repr(call):  # the patient and the study are incremented already
                    self.ascent(storage).derive(Level.STUDY, ONE.study_uid)
                    self.ascent(storage).derive(Level.PATIENT, "id\\\\A")
                    order.append(study_hit(storage, ONE.study_uid).number_of_instances)
                results.append(call())
            return results

        monkeypatch.setattr(storage._connection, "together", overtaken)
        put(storage, record(ONE.study_uid, ONE.series_uid, PatientID="A"))
        assert order == [1]
        check_everything(storage, monkeypatch)
        assert study_hit(storage, ONE.study_uid).number_of_instances == 2

    @pytest.mark.parametrize("patient", ["A", "N"])
    @pytest.mark.parametrize("other", ["same series", "same study", "other patient", "derives"])
    @pytest.mark.parametrize("before", [Level.SERIES, Level.STUDY, Level.PATIENT, None])
    def test_another_comes_between_while_a_study_begins(
        self,
        storage: MongoStorage,
        monkeypatch: pytest.MonkeyPatch,
        patient: str,
        other: str,
        before: Level | None,
    ) -> None:
        first = record(PatientID=patient)
        together, others = storage._connection.together, [1]

        def come_between() -> None:
            if others and others.pop():
                if other == "derives":
                    self.ascent(storage).derive_study(first.study_uid, [f"id\\\\{patient}"])
                else:
                    series = first.series_uid if other == "same series" else None
                    put(
                        storage, record(first.study_uid, series, PatientID="Q" if other == "other patient" else patient)
                    )

        def overtaken(*calls: Callable[[], Any]) -> list[Any]:
            if "_insert" not in repr(calls):
                return together(*calls)
            results = []
            for call in reversed(calls):  # the patient and the study are made before the series
                if before is not None and repr(before) in repr(call):
                    come_between()
                results.append(call())
            if before is None:
                come_between()
            return results[::-1]

        monkeypatch.setattr(storage._connection, "together", overtaken)
        put(storage, first)
        assert not others
        number = 1 if other == "derives" else 2
        assert study_hit(storage, first.study_uid).number_of_instances == number
        check_everything(storage, monkeypatch)
        assert study_hit(storage, first.study_uid).number_of_instances == number

    @pytest.mark.parametrize("before", [Level.SERIES, Level.STUDY, Level.PATIENT])
    def test_another_removes_while_a_study_begins(
        self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch, before: Level
    ) -> None:
        first = record(PatientID="N")

        def overtaken(*calls: Callable[[], Any]) -> list[Any]:
            results = []
            for call in reversed(calls) if "_insert" in repr(calls) else calls:
                if "_insert" in repr(call) and repr(before) in repr(call):
                    storage.remove(scope=Scope(study_uid=first.study_uid))
                results.append(call())
            return results[::-1] if "_insert" in repr(calls) else results

        monkeypatch.setattr(storage._connection, "together", overtaken)
        put(storage, first)
        check_everything(storage, monkeypatch)
        assert storage._connection.safe("studies").count_documents({}) == 1
        assert storage._connection.safe("patients").count_documents({}) == 1

    @pytest.mark.parametrize(
        ("level", "read"), [(Level.SERIES, "_series"), (Level.STUDY, "_study"), (Level.PATIENT, "_patient")]
    )
    def test_another_removes_while_a_document_is_derived_for_the_first_time(
        self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch, level: Level, read: str
    ) -> None:
        ascent, scopes = self.ascent(storage), [ONE.scope]
        derive, collection = getattr(ascent, read), storage._connection.safe(COLLECTION[level])
        identity = str(collection.find_one({})["_id"])  # type: ignore[index]
        collection.delete_one({"_id": identity})

        def overtaken(identity: str) -> Any:
            found = derive(identity)
            while scopes:
                storage.remove(scope=scopes.pop())
            return found

        monkeypatch.setattr(ascent, read, overtaken)
        assert ascent.derive(level, identity) == (None, None)
        assert collection.count_documents({}) == 0

    def test_a_removal_that_ends_while_it_is_read(self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        finish, removed, intents = storage._remover.finish, storage._work.removed, list[Any]()

        def overtaken(docs: list[Any]) -> set[str]:
            if intents:
                finish(intents.pop())
            return removed(docs)

        monkeypatch.setattr(storage._remover, "finish", intents.append)
        storage.remove(scope=ONE.scope)
        monkeypatch.setattr(storage._work, "removed", overtaken)
        with pytest.raises(NotFound):
            storage.get(scope=ONE.scope)
        assert not intents

    def test_another_removes_before_it_is_counted(self, storage: MongoStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        tell_above = _Wave._tell_above
        late = record(ONE.study_uid, ONE.series_uid, PatientID="A")

        def overtaken(wave: _Wave, members: list[Added], entries: list[Entry]) -> None:
            storage.remove(scope=late.scope)
            tell_above(wave, members, entries)

        monkeypatch.setattr(_Wave, "_tell_above", overtaken)
        put(storage, late)
        changes = [
            change for change in storage.changes(after=None, limit=9) if change.instance_uid == late.instance_uid
        ]
        assert changes[-1].kind is ChangeKind.REMOVED
        check_everything(storage, monkeypatch)
        assert study_hit(storage, ONE.study_uid).number_of_instances == 1


def _write(url: str, name: str, study: str, shared: str, number: int) -> None:
    storage = opened(url, name)
    for _ in range(5):
        put(storage, record(study, shared, Modality=f"M{number}", instance_uid=f"{new_uid()}.{number}"))
        put(storage, record(study, f"{shared}.{number}", instance_uid=f"{new_uid()}.{number}"))
    storage.close()


def _write_for_ever(url: str, name: str, study: str, shared: str, number: int) -> None:
    storage = opened(url, name)
    while True:
        put(storage, record(study, shared, Modality=f"M{number}", instance_uid=f"{new_uid()}.{number}"))


def test_eight_processes_on_one_study_leave_exact_totals(
    server: mongodb.Mongod, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, shared = new_uid(), new_uid()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(server.url, name, study, shared, n)) for n in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * 8
    storage = opened(server.url, name)
    hit = study_hit(storage, study)
    assert (hit.number_of_instances, hit.number_of_series) == (80, 9)
    assert hit.modalities == ("CT", *(f"M{number}" for number in range(8)))
    assert list(storage._connection.safe("work").find()) == []
    check_everything(storage, monkeypatch)
    storage.close()


def test_processes_that_are_killed_leave_exact_totals(
    server: mongodb.Mongod, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, shared = new_uid(), new_uid()
    context = multiprocessing.get_context("spawn")
    storage = opened(server.url, name)
    processes = [context.Process(target=_write_for_ever, args=(server.url, name, study, shared, n)) for n in range(3)]
    for process in processes:
        process.start()
    with MongoClient[dict[str, Any]](server.url) as client:
        for number, process in enumerate(processes):
            while client[name].instances.count_documents({}) < 30 * (number + 1):
                assert process.is_alive()
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
    check_everything(storage, monkeypatch)
    storage.close()
