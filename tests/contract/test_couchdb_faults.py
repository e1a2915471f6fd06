"""CouchDB dies, is slow or full; writers die, or are many: nothing acknowledged is lost, totals stay exact."""

import contextlib
import multiprocessing
import random
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backends.couchdb import CouchStorage
from backends.couchdb.database import Database
from backends.couchdb.derive import Deriver
from backends.couchdb.removal import Removal
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import ConfigError, NotFound, StorageUnavailable
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Binned, ChangeKind, OnDuplicate, Restored, Scope, Stored
from dicomweb_server.testing.datasets import new_uid, record
from dicomweb_server.testing.search_cases import terms
from dicomweb_server.testing.steps import put, study_hit
from tests.contract.load import Load, check_totals, instances
from tests.contract.test_couchdb import name, opened, url
from tests.live import until
from tests.services import couchdb
from tests.services.proxy import BadProxy

__all__ = ["name", "url"]  # fixtures


@pytest.fixture
def server(tmp_path: Path) -> Iterator[couchdb.OwnServer]:
    server = couchdb.OwnServer(tmp_path)
    try:
        server.start()
        yield server
    except couchdb.Unavailable as exc:
        pytest.skip(str(exc))
    finally:
        server.stop()


def check_everything(storage: CouchStorage, load: Load) -> None:
    """Nobody stores to the study again: what was left half-way is finished by itself, or was by opening."""
    until(lambda: not storage._opened.inflight.left(), seconds=30)
    check_totals(storage)
    load.check(storage, instances(storage))


class TestServer:
    def test_killed_and_restarted_under_load(self, server: couchdb.OwnServer) -> None:
        storage = opened(server.url, "archive", timeout_seconds=5)
        with Load(storage, threads=3) as load:
            load.wait_for(20)
            server.kill()
            with pytest.raises(StorageUnavailable):
                storage.get(scope=load.acknowledged[0].scope)
            assert not storage.check().ready
            server.start()
            load.wait_for(20)
        assert load.unavailable
        assert storage.check().ready
        check_everything(storage, load)
        storage.close()

    def test_a_full_disk_loses_nothing(self, server: couchdb.OwnServer, tmp_path: Path) -> None:
        storage = opened(server.url, "archive", timeout_seconds=10)
        with Load(storage, threads=2) as load:
            load.wait_for(10)
            largest = max(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest + 4096, resource.RLIM_INFINITY))
            with pytest.raises(StorageUnavailable):
                _fill(storage, load)
            server.kill()
            server.start()
            load.wait_for(10)
        check_everything(storage, load)
        storage.close()

    def test_slow_and_with_cut_connections(self, server: couchdb.OwnServer) -> None:
        with BadProxy(server.port, delay_seconds=0.002) as proxy:
            through = server.url.replace(str(server.port), str(proxy.port))
            storage = opened(through, "archive", timeout_seconds=10)
            proxy.pieces = 40
            with Load(storage) as load:
                load.wait_for(40)
            assert proxy.cuts
            storage.close()
        storage = opened(server.url, "archive")
        check_everything(storage, load)
        storage.close()


def _fill(storage: CouchStorage, load: Load) -> None:
    """Store until nothing more fits."""
    for _ in range(500):
        large = record(load.study, layout=random.randbytes(60_000))
        put(storage, large)
        load.acknowledged.append(large)


class TestStart:
    def test_a_server_that_is_not_there(self, tmp_path: Path) -> None:
        server = couchdb.OwnServer(tmp_path)
        url = f"http://admin:geheim@127.0.0.1:{server.port}"
        storage = CouchStorage.from_settings(settings={"url": url, "wait_seconds": 0})
        with pytest.raises(
            StorageUnavailable, match=f"no usable CouchDB at .*:{server.port}: .* cannot be reached"
        ) as error:
            storage.open()
        assert "geheim" not in f"{error.value} {error.value.__cause__}"

    def test_the_start_waits_for_the_server(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        server = couchdb.OwnServer(tmp_path)
        storage = CouchStorage.from_settings(settings={"url": server.url, "wait_seconds": 60})
        opening = threading.Thread(target=storage.open)
        opening.start()
        until(lambda: f"Waiting for CouchDB at http://127.0.0.1:{server.port}" in caplog.text)
        try:
            server.start()
            opening.join(timeout=60)
            assert storage.check().ready
            storage.close()
        except couchdb.Unavailable as exc:
            pytest.skip(str(exc))
        finally:
            server.stop()

    def test_a_wrong_password(self, url: str) -> None:
        if not couchdb.is_couchdb():
            pytest.skip("the login of PouchDB Server does not work; name a CouchDB in COUCHDB_URL or COUCHDB_HOME")
        wrong = f"http://admin:geheim@{url.rpartition('@')[2].removeprefix('http://')}"
        with pytest.raises(ConfigError) as error:
            CouchStorage.from_settings(settings={"url": wrong, "wait_seconds": 0}).open()
        assert "geheim" not in str(error.value)


class Died(BaseException):
    """A process dies: no clean-up runs."""


ONE = record(PatientID="A", content=b"one")
AGAIN = record(ONE.study_uid, ONE.series_uid, instance_uid=ONE.instance_uid, PatientID="A", content=b"again")
BESIDE = record(ONE.study_uid, PatientID="A")
BIN_STEPS: dict[str, Callable[[CouchStorage], object]] = {
    "keep": lambda storage: storage.remove(scope=Scope(study_uid=ONE.study_uid), keep=True),
    "bring back": lambda storage: storage.restore_binned(entries=[one.entry for one in in_the_bin(storage)]),
    "purge": lambda storage: storage.purge_binned(scope=Scope(), limit=9),
}


def in_the_bin(storage: CouchStorage) -> list[Binned]:
    return list(storage.binned(scope=Scope()).entries)


@pytest.mark.parametrize("step", BIN_STEPS)
def test_a_process_may_die_before_every_write_to_the_bin(url: str, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    last = 0
    while True:
        with couchdb.database(url) as name, monkeypatch.context() as patch:
            storage = opened(url, name)
            put(storage, ONE, BESIDE)
            put(storage, AGAIN, on_duplicate=OnDuplicate.REPLACE)
            if step != "keep":
                storage.remove(scope=Scope(study_uid=ONE.study_uid), keep=True)
            with monkeypatch.context() as dying:
                left = _die_after(dying, last)
                with contextlib.suppress(Died):
                    BIN_STEPS[step](storage)
            died = left[0] < 0
            # As if the time had passed that others wait for this process.
            patch.setattr("backends.couchdb.removal.RESUMED_AFTER_SECONDS", -1)
            patch.setattr("backends.couchdb.binned.CLAIMED_SECONDS", -1)
            again = opened(url, name)
            _check_bin(again)
            again.close()
        if not died:
            break
        last += 1
    assert last > 2


def _die_after(dying: pytest.MonkeyPatch, writes: int) -> list[int]:
    left, write = [writes], Database.write

    def mortal(database: Database, documents: Sequence[dict[str, Any]]) -> list[str | None]:
        left[0] -= 1
        if left[0] < 0:
            raise Died
        return write(database, documents)

    dying.setattr(Database, "write", mortal)
    return left


def _check_bin(storage: CouchStorage) -> None:
    """Every instance is stored, in the bin, or released with all its files; never two of these. What is in the bin can
    be brought back with its older version."""
    check_totals(storage)
    keys = [each.blob.key for each in (ONE, AGAIN, BESIDE)]
    assert storage.known_blobs(keys=keys) == set(keys)
    stored = set(instances(storage))
    binned = {one.instance.instance_uid: one.entry for one in in_the_bin(storage)}
    released = set(storage.released(limit=9))
    assert not stored & set(binned)
    for uid, own in ((ONE.instance_uid, set(keys[:2])), (BESIDE.instance_uid, {keys[2]})):
        assert (uid in stored or uid in binned) is not (own <= released)
        assert own <= released or not own & released
    assert storage.restore_binned(entries=list(binned.values())) == [Restored.RESTORED] * len(binned)
    check_totals(storage)
    if keys[0] not in released:
        assert storage.get(scope=ONE.scope).blob == AGAIN.blob
        assert [each.instance.blob for each in storage.replaced(instance_uid=ONE.instance_uid)] == [ONE.blob]
    assert storage.purge_binned(scope=Scope(), limit=9) == 0
    assert set(storage.released(limit=9)) == released


def _die(*_: object) -> None:
    raise KeyboardInterrupt


class TestCutConnections:
    """Each request that holds some bytes is cut off, at first, by a proxy. Nobody stores to the study again, and nobody
    opens the archive."""

    @pytest.fixture
    def reader(self, url: str, name: str) -> Iterator[CouchStorage]:
        storage = opened(url, name)
        yield storage
        storage.close()

    @pytest.fixture
    def proxy(self, url: str) -> Iterator[BadProxy]:
        with BadProxy(urlsplit(url).port or 80) as proxy:
            yield proxy

    @pytest.fixture
    def storage(self, reader: CouchStorage, proxy: BadProxy, url: str, name: str) -> Iterator[CouchStorage]:
        storage = opened(url.replace(f":{urlsplit(url).port}", f":{proxy.port}"), name)
        yield storage
        storage.close()
        if not proxy.forbidden:
            assert not reader._opened.records.with_prefix("writer:"), "nothing is left to be done"

    def test_a_store_is_finished(self, storage: CouchStorage, reader: CouchStorage, proxy: BadProxy) -> None:
        one = record()
        proxy.forbidden = b"_view/headers"
        with pytest.raises(StorageUnavailable):
            put(storage, one)
        assert reader.count(query=Query(level=Level.INSTANCE)) == 1
        assert reader.count(query=Query(level=Level.STUDY)) == 0
        proxy.forbidden = b""
        until(lambda: not storage._opened.inflight.left(), seconds=15)
        assert study_hit(reader, one.study_uid).number_of_instances == 1
        check_totals(reader)

    def test_a_header_that_was_not_written_is_made_again(
        self, storage: CouchStorage, reader: CouchStorage, proxy: BadProxy
    ) -> None:
        """What stands above was written, its header was not: an instance is found by the values of its header."""
        one = record(Modality="XX")
        proxy.forbidden = b"_view/patients"
        with pytest.raises(StorageUnavailable):
            put(storage, one)
        archive = reader._opened.archive
        archive.delete(archive.with_prefix("header:"))
        query = Query(level=Level.INSTANCE, terms=terms("Modality=XX"))
        assert reader.count(query=query) == 0
        proxy.forbidden = b""
        until(lambda: not storage._opened.inflight.left(), seconds=15)
        assert reader.count(query=query) == 1

    def test_the_patient_that_a_study_had_before_is_finished(
        self, storage: CouchStorage, reader: CouchStorage, proxy: BadProxy
    ) -> None:
        put(storage, ONE)
        other = record(ONE.study_uid, ONE.series_uid, instance_uid=ONE.instance_uid, PatientID="B", content=b"other")
        proxy.forbidden = b"_view/patients"
        with pytest.raises(StorageUnavailable):
            put(storage, other, on_duplicate=OnDuplicate.REPLACE)
        proxy.forbidden = b""
        until(lambda: not storage._opened.inflight.left(), seconds=15)
        (patient,) = reader.search(query=Query(level=Level.PATIENT)).hits
        assert patient.attributes["00100020"]["Value"] == ["B"]
        assert reader.is_exact(scope=Scope())
        assert reader.is_exact(scope=Scope(study_uid=ONE.study_uid))

    def test_a_removal_is_finished(self, storage: CouchStorage, reader: CouchStorage, proxy: BadProxy) -> None:
        put(storage, ONE, BESIDE)
        proxy.forbidden = b'"type":"removed"'
        with pytest.raises(StorageUnavailable):
            storage.remove(scope=ONE.scope)
        proxy.forbidden = b""
        until(lambda: not storage._opened.inflight.left(), seconds=15)
        assert list(reader.released(limit=9)) == [ONE.blob.key]
        assert list(instances(reader)) == [BESIDE.instance_uid]
        check_totals(reader)

    def test_what_cannot_be_finished_is_named_for_the_next_start(
        self, storage: CouchStorage, reader: CouchStorage, proxy: BadProxy
    ) -> None:
        proxy.forbidden = b"_view/headers"
        with pytest.raises(StorageUnavailable):
            put(storage, ONE)
        proxy.forbidden = b'"type":"instance"'
        with pytest.raises(StorageUnavailable):
            put(storage, record())  # names another study as well
        proxy.forbidden = b"_view/headers"
        storage.close()
        (entry,) = reader._opened.records.with_prefix("writer:")
        assert ONE.study_uid in entry["studies"]


class TestWriters:
    def test_a_process_that_died_after_its_instance(self, url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = opened(url, name)
        one = record()

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Deriver, "settle", die)
            with pytest.raises(KeyboardInterrupt):
                put(storage, one)
        assert storage.count(query=Query(level=Level.STUDY)) == 0
        other = opened(url, name)
        assert study_hit(other, one.study_uid).number_of_instances == 1
        assert put(other, one) == [Stored.SAME]
        other.close()

    def test_a_store_that_failed_half_way_is_finished_by_the_next_start(
        self, url: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database could not be reached any more, and then again when the process ended."""
        storage = opened(url, name)
        one = record()

        def fail(*_: object) -> None:
            raise StorageUnavailable("CouchDB cannot be reached.")

        with monkeypatch.context() as patch:
            patch.setattr(Deriver, "settle", fail)
            with pytest.raises(StorageUnavailable):
                put(storage, one)
        storage.close()
        other = opened(url, name)
        assert study_hit(other, one.study_uid).number_of_instances == 1
        other.close()

    def test_a_process_that_died_while_removing(self, url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = opened(url, name)
        study, series = new_uid(), new_uid()
        records = [record(study, series) for _ in range(5)]
        put(storage, *records, record())

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Removal, "_carry_out", die)
            with pytest.raises(KeyboardInterrupt):
                storage.remove(scope=Scope(study_uid=study))
        with pytest.raises(NotFound):
            storage.instances(scope=Scope(study_uid=study))
        later = record(study, series)
        put(storage, later)
        monkeypatch.setattr("backends.couchdb.removal.RESUMED_AFTER_SECONDS", -1)
        other = opened(url, name)
        assert [each.instance_uid for each in other.instances(scope=Scope(study_uid=study))] == [later.instance_uid]
        assert study_hit(other, study).number_of_instances == 1
        assert set(other.released(limit=99)) == {each.blob.key for each in records}
        other.close()

    def test_what_was_replaced_while_it_was_removed_is_told_to_be_there(
        self, url: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one who removes dies after it has written what it will do; the instance is replaced before another goes
        on."""
        storage = opened(url, name)
        one = record(content=b"one")
        put(storage, one)
        with monkeypatch.context() as patch:
            patch.setattr(Removal, "_carry_out", _die)
            with pytest.raises(KeyboardInterrupt):
                storage.remove(scope=one.scope)
        again = record(one.study_uid, one.series_uid, instance_uid=one.instance_uid, content=b"again")
        assert storage.store(records=[again], on_duplicate=OnDuplicate.REPLACE)[0].stored is Stored.REPLACED
        monkeypatch.setattr("backends.couchdb.removal.RESUMED_AFTER_SECONDS", -1)
        other = opened(url, name)
        assert other.get(scope=one.scope).blob == again.blob
        assert other.changes(after=None, limit=99)[-1].kind is ChangeKind.REPLACED
        other.close()

    def test_two_winners_of_a_split_cluster(self, url: str, name: str) -> None:
        storage = opened(url, name)
        one = record(StudyID="1")
        put(storage, one)
        records = storage._opened.records
        current = records.get(f"instance:{one.instance_uid}")
        assert current is not None
        rival = {**current, "_rev": f"1-{'0' * 32}", "attempt": "0" * 32, "blob": {**current["blob"], "key": "rival"}}
        records.resource.post("_bulk_docs", body={"docs": [rival], "new_edits": False})
        storage.close()
        again = opened(url, name)
        (version,) = again.replaced(instance_uid=one.instance_uid)
        keys = {version.instance.blob.key, again.get(scope=one.scope).blob.key}
        assert keys == {"rival", one.blob.key}
        assert study_hit(again, one.study_uid).number_of_instances == 1
        again.restore(instance_uid=one.instance_uid, version=version.version)
        assert again.get(scope=one.scope).blob.key == version.instance.blob.key
        again.close()

    def test_eight_processes_on_one_study_leave_exact_totals(self, url: str, name: str) -> None:
        study, shared = new_uid(), new_uid()
        storage = opened(url, name)
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_write, args=(url, name, study, shared, number)) for number in range(8)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=180)
        assert [process.exitcode for process in processes] == [0] * 8
        hit = study_hit(storage, study)
        assert (hit.number_of_instances, hit.number_of_series) == (48, 9)
        assert hit.modalities == ("CT", *(f"M{number}" for number in range(8)))
        check_totals(storage)
        storage.close()


def _write(url: str, name: str, study: str, shared: str, number: int) -> None:
    storage = opened(url, name)
    for _ in range(3):
        put(storage, record(study, shared, Modality=f"M{number}", instance_uid=f"{new_uid()}.{number}"))
        put(storage, record(study, f"{shared}.{number}", instance_uid=f"{new_uid()}.{number}"))
    storage.close()
