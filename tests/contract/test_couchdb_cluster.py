"""A CouchDB cluster of three nodes with three copies of everything: what was acknowledged is on most of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from backends.couchdb import CouchStorage
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate, Stored
from dicomweb_server.testing.datasets import new_uid, record
from dicomweb_server.testing.storage_suite import put
from tests.contract.test_couchdb import opened
from tests.live import until
from tests.services import couchdb

pytestmark = pytest.mark.skipif(
    couchdb.installed() is None,
    reason="needs an Apache CouchDB of which it can start three: name its folder in COUCHDB_HOME",
)
WRITERS = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[couchdb.Cluster]:
    cluster = couchdb.Cluster(copies=3)
    try:
        cluster.start(tmp_path_factory.mktemp("cluster"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def storages(cluster: couchdb.Cluster) -> Iterator[list[CouchStorage]]:
    """One through each node, of one archive."""
    with couchdb.database(cluster.nodes[0].url) as name:
        storages = [opened(node.url, name, timeout_seconds=20) for node in cluster.nodes]
        yield storages
        for storage in storages:
            storage.close()


def conflicts(storage: CouchStorage) -> list[str]:
    return [row["id"] for row in storage._opened.records.view("rest/conflicts")]


@pytest.mark.parametrize("same", [True, False])
def test_many_writers_of_one_new_instance(storages: list[CouchStorage], same: bool) -> None:
    """Each is told what holds; no revision of one who lost is left, to come up later."""
    for _ in range(3):
        study, series, uid = new_uid(), new_uid(), new_uid()
        wanted = [
            record(study, series, instance_uid=uid, content=b"one" if same else b"%d" % number)
            for number in range(WRITERS)
        ]

        def store(number: int, wanted: list[InstanceRecord] = wanted) -> Stored:
            (outcome,) = storages[number % 3].store(records=[wanted[number]], on_duplicate=OnDuplicate.REJECT)
            return outcome.stored

        with ThreadPoolExecutor(WRITERS) as pool:
            outcomes = list(pool.map(store, range(WRITERS)))
        others = Stored.SAME if same else Stored.REFUSED
        assert set(outcomes) <= {Stored.CREATED, others}
        winners = [one.blob.key for one, outcome in zip(wanted, outcomes, strict=True) if outcome is Stored.CREATED]
        assert winners if same else len(winners) == 1
        keys = {storage.get(scope=wanted[0].scope).blob.key for storage in storages}
        assert len(keys) == 1
        assert keys <= set(winners) or same
    until(lambda: not any(map(conflicts, storages)))


def test_nothing_is_acknowledged_by_one_node_alone(cluster: couchdb.Cluster, storages: list[CouchStorage]) -> None:
    first, *others = cluster.nodes
    one, before = record(), record()
    put(storages[0], before)
    others[0].kill()
    put(storages[0], record(before.study_uid))
    others[1].kill()
    for wanted in (one, one, before):  # the second time it is there, but on the first node only
        with pytest.raises(StorageUnavailable):
            put(storages[0], wanted)
    assert not is_lost(storages[0], before)
    for node in others:
        node.start()
    until(lambda: stored(storages[0], one) in ([Stored.SAME], [Stored.CREATED]))
    first.kill()
    try:
        assert storages[1].get(scope=one.scope).blob.key == one.blob.key
        assert storages[2].get(scope=before.scope).blob.key == before.blob.key
    finally:
        first.start()


def stored(storage: Storage, one: InstanceRecord) -> list[Stored]:
    with suppress(StorageUnavailable):
        return put(storage, one)
    return []


def is_lost(storage: Storage, one: InstanceRecord) -> bool:
    try:
        storage.get(scope=one.scope)
    except NotFound:
        return True
    return False
