"""Measures the index of a backend without HTTP: many studies of one CT header each, and what searches of them take.

    python benchmarks/index.py sqlite
    python benchmarks/index.py mongodb mongodb://127.0.0.1:27017
    python benchmarks/index.py couchdb http://admin:password@127.0.0.1:5984 --studies 20000

Makes a database of its own and deletes it afterwards.
"""

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import couchdb  # type: ignore[import-untyped]
import orjson
from pymongo import MongoClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.studies import header
from dicomweb_server import plugins
from dicomweb_server.dicom.attributes import resolve
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Term
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate, Scope
from dicomweb_server.testing.datasets import record

MANY_INSTANCES = 100
NEWEST = (Order("00080020", "DA", True), Order("00080030", "TM", True))
SURNAMES = ("Smith", "Muller", "Garcia", "Yamada", "Rossi", "Dubois", "Novak", "Jensen", "Kowalska", "Okafor")
GIVEN = ("Anna", "Bert", "Carla", "Dmitri", "Elena", "Femi", "Grace")


def study_uid(number: int) -> str:
    """The UID of one of the studies."""
    return f"1.2.826.0.1.3680043.10.9999.77.{number}"


def records(number: int, instances: int = 1) -> list[InstanceRecord]:
    """The instances of one study, in one series."""
    day = f"20{number % 24:02}{number % 12 + 1:02}{number % 28 + 1:02}"
    study = study_uid(number)
    return [
        record(
            study,
            f"{study}.1",
            instance_uid=f"{study}.1.{place}",
            more=_HEADER,
            PatientID=f"ID{number:06}",
            PatientName=f"{SURNAMES[number % 10]}{number // 100:04}^{GIVEN[number % 7]}",
            StudyDate=day,
            StudyTime=f"{number % 24:02}{number % 60:02}00",
            AccessionNumber=f"ACC{number:06}",
            InstanceNumber=place,
        )
        for place in range(instances)
    ]


def _header() -> dict[str, Any]:
    own = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "PatientName", "StudyDate"}
    own |= {"StudyTime", "AccessionNumber", "InstanceNumber", "Modality", "SOPClassUID"}
    left_out = {resolve(keyword)[0] for keyword in own}
    made: dict[str, Any] = orjson.loads(header().to_json())
    return {tag: value for tag, value in made.items() if tag not in left_out}


_HEADER = _header()


def term(keyword: str, text: str, *, fuzzy: bool = False) -> Term:
    """One condition of a search."""
    made = parse_term(resolve(keyword), text, fuzzy=fuzzy)
    if made is None:
        raise ValueError(f"{keyword}={text} matches everything")
    return made


def milliseconds(call: Callable[[], object], *, repeats: int = 15) -> float:
    """The median of some calls, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def fill(storage: Storage, studies: int, batch: int) -> float:
    """Stores the studies in batches; the milliseconds that an instance took."""
    started = time.perf_counter()
    for start in range(0, studies, batch):
        some = [one for number in range(start, min(start + batch, studies)) for one in records(number)]
        storage.store(records=some, on_duplicate=OnDuplicate.REJECT)
    return (time.perf_counter() - started) / studies * 1000


def measure(storage: Storage, studies: int) -> Iterator[tuple[str, float, str]]:
    """What was measured, how long it took in milliseconds, and how many were found."""

    def search(text: str, *terms: Term, offset: int = 0, limit: int = 101) -> tuple[str, float, str]:
        query = Query(level=Level.STUDY, terms=terms, order=NEWEST, offset=offset, limit=limit)
        hits = len(storage.search(query=query).hits)
        return text, milliseconds(lambda: storage.search(query=query)), f"{hits} hits"

    one = records(studies // 2)[0]
    yield "one instance by its UIDs", milliseconds(lambda: storage.get(scope=one.scope), repeats=200), ""
    patient = f"ID{studies // 2:06}"
    yield search("study search by PatientID", term("PatientID", patient))
    yield search("by AccessionNumber", term("AccessionNumber", f"ACC{studies // 3:06}"))
    yield search("by prefix of PatientName", term("PatientName", f"Smith{studies // 300:04}*"))
    yield search("by range of StudyDate", term("StudyDate", "20120101-20120120"))
    yield search("by *x* in PatientName", term("PatientName", f"*{studies // 200:04}^C*"))
    yield search("by *x* in PatientName, newest 101 of many", term("PatientName", "*ann*"))
    yield search("fuzzy name, two words", term("PatientName", f"garcia{studies // 150:04} carla", fuzzy=True))
    yield search("fuzzy name, one word of many", term("PatientName", "grace", fuzzy=True))
    yield search("default list, newest first")
    yield search(f"the same at offset {studies * 3 // 4}", offset=studies * 3 // 4)
    uids = ",".join(study_uid(number * 9) for number in range(min(2000, studies // 10)))
    yield search(f"list of {uids.count(',') + 1} UIDs", term("StudyInstanceUID", uids), limit=5000)
    many = records(studies, MANY_INSTANCES)
    storage.store(records=many, on_duplicate=OnDuplicate.REJECT)
    scope = Scope(study_uid=many[0].study_uid, series_uid=many[0].series_uid)
    query = Query(level=Level.INSTANCE, scope=scope, order=(Order("00200013", "IS"),), limit=1000)
    yield f"search of {MANY_INSTANCES} instances", milliseconds(lambda: storage.search(query=query)), ""
    yield f"metadata of {MANY_INSTANCES} instances", milliseconds(lambda: list(storage.metadata(scope=scope))), ""


@contextlib.contextmanager
def opened(backend: str, url: str) -> Iterator[Storage]:
    """A storage of a new database, which is deleted at the end."""
    name = f"benchmark-{uuid.uuid4().hex[:12]}"
    folder = Path(tempfile.mkdtemp(prefix="index-"))
    settings: dict[str, Any] = {"url": url, "database": name}
    if backend == "sqlite":
        settings = {"path": str(folder / "index.sqlite")}
    elif backend == "couchdb":
        settings["timeout_seconds"] = 600  # the first read of a view builds it
    storage = plugins.storage_class(backend).from_settings(settings=settings)
    storage.open()
    try:
        yield storage
    finally:
        storage.close()
        shutil.rmtree(folder)
        _delete(backend, url, name)


def _delete(backend: str, url: str, name: str) -> None:
    if backend == "mongodb":
        MongoClient[dict[str, Any]](url).drop_database(name)
    elif backend == "couchdb":
        for suffix in ("", "-archive", "-documents"):
            couchdb.Server(url).delete(f"{name}{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=("sqlite", "mongodb", "couchdb"))
    parser.add_argument("url", nargs="?", default="", help="of the database server")
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=25, help="studies stored at once (default 25)")
    options = parser.parse_args()
    with opened(options.backend, options.url) as storage:
        taken = fill(storage, options.studies, options.batch)
        print(f"| store in batches of {options.batch}, each instance a study of its own | {taken:.3g} ms an instance |")
        started = time.perf_counter()
        storage.search(query=Query(level=Level.STUDY, order=NEWEST))
        storage.search(query=Query(level=Level.STUDY, terms=(term("PatientName", "*x*"),)))
        print(f"| the first searches after that | {(time.perf_counter() - started) * 1000:.3g} ms |")
        for what, taken, found in measure(storage, options.studies):
            print(f"| {what}{', ' + found if found else ''} | {taken:.2g} ms |", flush=True)


if __name__ == "__main__":
    main()
