"""Writers that store while a database is killed, cut off or full; and what must hold afterwards on any storage."""

import threading
from collections.abc import Collection

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate, Scope
from dicomweb_server.testing.datasets import new_uid, record
from dicomweb_server.testing.steps import series_hits, study_hit


def instances(storage: Storage) -> dict[str, str]:
    """The blob keys of all instances, by UID."""
    try:
        return {one.instance_uid: one.blob.key for one in storage.instances(scope=Scope())}
    except NotFound:
        return {}


def check_totals(storage: Storage) -> None:
    """That the totals of every study, series and patient are those of the instances."""
    for hit in storage.search(query=Query(level=Level.STUDY)).hits:
        stored = list(storage.instances(scope=Scope(study_uid=hit.study_uid)))
        series = series_hits(storage, hit.study_uid or "")
        assert hit.number_of_instances == len(stored)
        assert hit.number_of_series == len(series) == len({one.series_uid for one in stored})
        for uid, one in series.items():
            assert one.number_of_instances == sum(each.series_uid == uid for each in stored)
    patients = storage.search(query=Query(level=Level.PATIENT)).hits
    studies = storage.search(query=Query(level=Level.STUDY)).hits
    assert sum(hit.number_of_instances for hit in patients) == len(instances(storage))
    assert sum(hit.number_of_studies for hit in patients) == len(studies)
    assert storage.count(query=Query(level=Level.INSTANCE)) == len(instances(storage))


class Load:
    """Threads that store into one study and tell what was acknowledged."""

    def __init__(self, storage: Storage, *, threads: int = 4) -> None:
        self.study, self._shared = new_uid(), new_uid()
        self._storage = storage
        self.acknowledged: list[InstanceRecord] = []
        self.unavailable = 0
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not self._errors, repr(self._errors[0].__cause__ or self._errors[0])

    def wait_for(self, more: int) -> None:
        """Until so many more are acknowledged."""
        wanted = len(self.acknowledged) + more
        for _ in range(6000):
            if len(self.acknowledged) >= wanted or self._errors:
                return
            self._stop.wait(0.01)
        raise AssertionError("nothing is acknowledged any more")

    def _work(self) -> None:
        own = new_uid()
        while not self._stop.is_set():
            batch = [record(self.study, self._shared), record(self.study, own)]
            try:
                self._storage.store(records=batch, on_duplicate=OnDuplicate.REJECT)
            except StorageUnavailable:
                self.unavailable += 1
                self._stop.wait(0.05)
            except BaseException as error:
                self._errors.append(error)
                return
            else:
                self.acknowledged += batch

    def check(self, storage: Storage, stored: Collection[str]) -> None:
        """Nothing that was acknowledged is lost; `stored` are the UIDs of the instances that are there."""
        assert {one.instance_uid for one in self.acknowledged} <= set(stored)
        assert study_hit(storage, self.study).number_of_instances == len(stored)
