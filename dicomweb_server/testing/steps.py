"""What the suites do and look at, through the contract only."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dicomweb_server.dicom.levels import Level
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Hit, InstanceRecord, OnDuplicate, Scope, Stored


def put(storage: Storage, *records: InstanceRecord, on_duplicate: OnDuplicate = OnDuplicate.REJECT) -> list[Stored]:
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


def at_once(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all in threads that start together; the results in order, the first error raised."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        barrier.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, work) for work in works]]
