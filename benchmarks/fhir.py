"""FHIR on an archive of many patients: reading a large study, searching for patients, what an include costs.

    python benchmarks/fhir.py [--patients 20000 --rounds 50]

Studies are stored through the storage contract into SQLite; the requests go over HTTP to a server of one worker.
"""

import argparse
import http.client
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import servers
from benchmarks.scale import Growing
from dicomweb_server.plugins import storage_class
from dicomweb_server.settings import load
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate
from dicomweb_server.testing.datasets import new_uid, record

BATCH = 100
LARGE, SERIES = 1000, 8


def main() -> int:
    """Fill an archive, ask it, print a table."""
    parser = argparse.ArgumentParser(description="FHIR reads and searches.")
    parser.add_argument("--patients", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fhir-") as folder:
        growing = Growing()
        study_uid = _fill(Path(folder), growing, options.patients)
        port = servers.free_port()
        command = f"{shlex.quote(sys.executable)} -m dicomweb_server serve --port {port} --workers 1 --data {folder}"
        root = Path(__file__).resolve().parent.parent
        with servers.running(shlex.split(command), root, f"http://127.0.0.1:{port}", "dicomweb-server") as server:
            _measure(server.url, server.pid, study_uid, options.rounds, options.patients)
    return 0


def _fill(folder: Path, growing: Growing, patients: int) -> str:
    settings = load(overrides={"storage.directory": str(folder)}, environ={})
    storage = storage_class("sqlite").from_settings(settings=settings.storage_section)
    storage.open()
    try:
        for start in range(0, patients, BATCH):
            records = [one for _ in range(min(BATCH, patients - start)) for one in growing.study(1)]
            storage.store(records=records, on_duplicate=OnDuplicate.REJECT)
        large = _large_study()
        for start in range(0, LARGE, BATCH):
            storage.store(records=large[start : start + BATCH], on_duplicate=OnDuplicate.REJECT)
    finally:
        storage.close()
    return large[0].study_uid


def _large_study() -> list[InstanceRecord]:
    study_uid, series = new_uid(), [new_uid() for _ in range(SERIES)]
    common: dict[str, Any] = {
        "PatientID": "LARGE",
        "PatientName": "Large^Study",
        "StudyDate": "20240102",
        "StudyTime": "101500",
    }
    return [
        record(
            study_uid,
            series[place % SERIES],
            SeriesNumber=place % SERIES + 1,
            SeriesDescription=f"Series {place % SERIES}",
            BodyPartExamined="CHEST",
            InstanceNumber=place // SERIES + 1,
            Rows=512,
            Columns=512,
            **common,
        )
        for place in range(LARGE)
    ]


def _measure(url: str, pid: int, study_uid: str, rounds: int, patients: int) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def get(path: str) -> Any:
        connection.request("GET", f"/api/fhir/{path}", headers={"Accept": "application/fhir+json"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:300]!r}")
        return json.loads(body)

    def timed(path: str, check: Callable[[Any], bool]) -> tuple[float, float, float]:
        times: list[float] = []
        before = servers.cpu_seconds(pid)
        for number in range(rounds + 2):
            started = time.perf_counter()
            found = get(path)
            times.append(time.perf_counter() - started)
            if not check(found):
                raise SystemExit(f"{path}: another answer than expected")
            if number < 2:  # the first ones load code
                times.clear()
                before = servers.cpu_seconds(pid)
        used = (servers.cpu_seconds(pid) - before) / len(times)
        return min(times) * 1000, statistics.median(times) * 1000, used * 1000

    def at_least(number: int) -> Callable[[Any], bool]:
        return lambda bundle: bool(bundle["total"] >= number)

    rows = [
        (
            f"ImagingStudy by id, {LARGE} instances in {SERIES} series",
            f"ImagingStudy/{study_uid}",
            lambda study: study["numberOfInstances"] == LARGE,
        ),
        ("Patient?name=baxter (1 in 500), first 20", "Patient?name=baxter&_count=20", at_least(patients // 500)),
        ("Patient?name=smith (1 in 14), first 20", "Patient?name=smith&_count=20", at_least(patients // 15)),
        ("Patient?name:contains=xte, first 20", "Patient?name:contains=xte&_count=20", at_least(patients // 500)),
        ("Patient?given=emma&family=baxter", "Patient?given=emma&family=baxter&_count=20", at_least(1)),
        ("Patient?identifier=P0000077", "Patient?identifier=P0000077", at_least(1)),
        (
            "ImagingStudy?patient.name=baxter, 20",
            "ImagingStudy?patient.name=baxter&_count=20",
            at_least(patients // 500),
        ),
        (
            "the same with _include=ImagingStudy:patient",
            "ImagingStudy?patient.name=baxter&_count=20&_include=ImagingStudy:patient",
            at_least(patients // 500),
        ),
        ("ImagingStudy, first 100 of all", "ImagingStudy?_count=100", at_least(patients)),
    ]
    print(f"| {patients} patients | best, ms | median, ms | CPU of the server, ms |\n| --- | ---: | ---: | ---: |")
    for title, path, check in rows:
        best, median, used = timed(path, check)
        print(f"| {title} | {best:.1f} | {median:.1f} | {used:.1f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
