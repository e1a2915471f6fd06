"""How figures change while an archive on SQLite grows: many small instances through the storage contract, and at each
checkpoint some more by STOW, searches, the memory of a worker and the time of a start.

    python benchmarks/scale.py [--instances 200000 --json scale.json --plot docs/scale.svg]
    python benchmarks/scale.py --instances 1000000         # by hand: some minutes, some 5 GB

The plot needs matplotlib (pip install matplotlib), which nothing else here does. What is stored through the contract
has an index only, no files; what comes by STOW has both.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import servers
from dicomweb_server.plugins import storage_class
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate
from dicomweb_server.testing.datasets import new_uid, part10, record

IN_STUDY = 10
IN_SERIES = 5
BATCH = 100
CHECKPOINTS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
ASKED = 100
STOW_REQUESTS, IN_REQUEST = 40, 10
LARGE_STUDY = 20_000
LEAST_INSTANCES = 20_000
BOUNDARY = "scale"
TITLES = {
    "store": "store, contract (instances/s)",
    "cpu": "store, processor for an instance (µs)",
    "stow": "store, STOW (instances/s)",
    "study": "study search by PatientID (ms)",
    "list": "default list of 101 (ms)",
    "instance": "instance search by UID (ms)",
    "contains": "name search *x* (ms)",
    "memory": "memory of the worker (MB)",
    "start": "start until ready (s)",
}

_FAMILIES = (
    *("Garcia", "Novak", "Smith", "Müller", "Rossi", "Dubois", "Jansen", "Kowalski", "Silva", "Tanaka", "Chen"),
    *("Kumar", "Alvarez", "Nilsson", "Baxter"),
)
_GIVEN = (
    "Anna",
    "Jan",
    "Maria",
    "Peter",
    "Luca",
    "Sofia",
    "Emma",
    "Noah",
    "Liam",
    "Mia",
    "Paul",
    "Eva",
    "Karl",
    "Nina",
)
_NOISE = random.Random(8)  # noqa: S311  the same archive in each run


class Growing:
    """Studies of small instances, each with a patient of its own, about one in five hundred with an x in the name."""

    def __init__(self) -> None:
        self.patients: list[str] = []
        self.instances: list[str] = []

    def study(self, instances: int = IN_STUDY) -> list[InstanceRecord]:
        """The records of the next one."""
        number = len(self.patients)
        family = _FAMILIES[number % (len(_FAMILIES) - 1)] if number % 500 else _FAMILIES[-1]
        patient = f"P{number:07}"
        date = f"20{number % 25:02}{number % 12 + 1:02}{number % 28 + 1:02}"
        common: dict[str, Any] = {
            "PatientID": patient,
            "PatientName": f"{family}^{_GIVEN[number % len(_GIVEN)]}",
            "PatientBirthDate": f"19{number % 100:02}0614",
            "PatientSex": "FMO"[number % 3],
            "StudyDate": date,
            "StudyTime": f"{number % 24:02}{number % 60:02}00",
            "AccessionNumber": f"A{number:08}",
            "StudyID": str(number),
            "StudyDescription": f"Study of kind {number % 40}",
            "ReferringPhysicianName": f"Doe^Doctor{number % 50}",
            "InstitutionName": "Example Hospital",
            "Manufacturer": "Example",
            "Modality": ("CT", "MR", "US", "CR")[number % 4],
        }
        study_uid = new_uid()
        found = []
        for place in range(instances):
            if place % IN_SERIES == 0:
                series_uid = new_uid()
            found.append(
                record(
                    study_uid,
                    series_uid,
                    SeriesNumber=place // IN_SERIES + 1,
                    SeriesDescription=f"Series {place // IN_SERIES}",
                    InstanceNumber=place + 1,
                    Rows=64,
                    Columns=64,
                    ImageComments=f"{_NOISE.random():.12f}",
                    **common,
                )
            )
        self.patients.append(patient)
        self.instances += [one.instance_uid for one in found[:1]]
        return found


def main() -> int:
    """Fill the archive and print a table of what was measured at each checkpoint."""
    parser = argparse.ArgumentParser(description="How figures change while an archive on SQLite grows.")
    parser.add_argument("--instances", type=int, default=200_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them (SVG or PNG; needs matplotlib)")
    options = parser.parse_args()
    if options.instances < LEAST_INSTANCES:
        parser.error(f"at least {LEAST_INSTANCES} instances")
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        report = _grown(Path(folder), options.instances)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    _print(report)
    if options.plot:
        plot(report, options.plot)
    return 0


def _grown(folder: Path, instances: int) -> dict[str, Any]:
    settings = load(overrides={"storage.directory": str(folder)}, environ={})
    storage = storage_class("sqlite").from_settings(settings=settings.storage_section)
    storage.open()
    growing = Growing()
    points: list[dict[str, float]] = []
    stored = 0
    with _server(folder) as server:
        for share in CHECKPOINTS:
            rate, cpu, more = _fill(storage, growing, int(instances * share) - stored)
            stored += more
            by_stow, more = _stow(server, growing)
            stored += more
            point = {
                "instances": float(stored),
                "studies": float(len(growing.patients)),
                "store": rate,
                "cpu": cpu * 1e6,
                "stow": by_stow,
            }
            point |= _searches(server, growing)
            point["memory"] = _memory(server) / 1e6
            point["start"] = statistics.median(_start_seconds(folder) for _ in range(3))
            points.append(point)
            print(" ".join(f"{name}={value:.4g}" for name, value in point.items()), file=sys.stderr, flush=True)
        large = _large_study(storage, server, growing)
    storage.close()
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    return {"machine": machine, "points": points, "large_study": large}


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[servers.Server]:
    port = servers.free_port()
    command = f"{shlex.quote(sys.executable)} -m dicomweb_server serve --workers 1 --port {port} --data {folder}"
    with servers.running(shlex.split(command), Path.cwd(), f"http://127.0.0.1:{port}", "dicomweb-server") as server:
        yield server


def _fill(storage: Storage, growing: Growing, instances: int) -> tuple[float, float, int]:
    """Store so many through the contract; gives the rate, without the time to make them, the processor time of one,
    which says more on a machine that others use, and how many."""
    spent, used, done = 0.0, 0.0, 0
    while done < instances:
        batch = [one for _ in range(BATCH // IN_STUDY) for one in growing.study()]
        begin, began_with = time.perf_counter(), time.process_time()
        storage.store(records=batch, on_duplicate=OnDuplicate.REJECT)
        spent += time.perf_counter() - begin
        used += time.process_time() - began_with
        done += len(batch)
    return done / spent, used / done, done


def _stow(server: servers.Server, growing: Growing) -> tuple[float, int]:
    """Store some studies by STOW, one client; gives the rate and how many."""
    bodies = [_envelope([part10(one.attributes) for one in growing.study(IN_REQUEST)]) for _ in range(STOW_REQUESTS)]
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=60)
    headers = {"Content-Type": f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'}
    begin = time.perf_counter()
    for body in bodies:
        connection.request("POST", "/studies", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"STOW was answered with {answer.status}: {text[:200]!r}")
    seconds = time.perf_counter() - begin
    connection.close()
    return STOW_REQUESTS * IN_REQUEST / seconds, STOW_REQUESTS * IN_REQUEST


def _envelope(files: Sequence[bytes]) -> bytes:
    parts = [f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + file + b"\r\n" for file in files]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def _searches(server: servers.Server, growing: Growing) -> dict[str, float]:
    """Medians in milliseconds, over one connection."""
    patients, instances = (_NOISE.choices(some, k=ASKED) for some in (growing.patients, growing.instances))
    queries = {
        "study": [f"/studies?PatientID={patient}" for patient in patients],
        "list": ["/studies?limit=101"] * ASKED,
        "instance": [f"/instances?SOPInstanceUID={uid}" for uid in instances],
        "contains": ["/studies?PatientName=*x*&limit=25"] * ASKED,
    }
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=60)
    found = {}
    for name, paths in queries.items():
        times = []
        for path in paths:
            begin = time.perf_counter()
            connection.request("GET", path, headers={"Accept": "application/dicom+json"})
            answer = connection.getresponse()
            hits = json.loads(answer.read())
            times.append(time.perf_counter() - begin)
            if answer.status != 200 or not hits:
                raise RuntimeError(f"{path} was answered with {answer.status} and {len(hits)} hits")
        found[name] = statistics.median(times) * 1000
    connection.close()
    return found


def _memory(server: servers.Server) -> int:
    """What the worker has in memory of its own: the largest of the processes."""
    sizes = []
    for pid in servers.process_tree(server.pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            sizes += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")]
    return max(sizes)


def _start_seconds(folder: Path) -> float:
    begin = time.perf_counter()
    with _server(folder):
        return time.perf_counter() - begin


def _large_study(storage: Storage, server: servers.Server, growing: Growing) -> dict[str, float]:
    """A study with very many instances: its metadata, and how much the worker grows by that."""
    records = growing.study(LARGE_STUDY)
    for start in range(0, len(records), BATCH):
        storage.store(records=records[start : start + BATCH], on_duplicate=OnDuplicate.REJECT)
    before = servers.reset_peak_memory(server.pid)
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=600)
    begin = time.perf_counter()
    connection.request("GET", f"/studies/{records[0].study_uid}/metadata", headers={"Accept": "application/dicom+json"})
    answer = connection.getresponse()
    size = 0
    while piece := answer.read(1 << 20):
        size += len(piece)
    seconds = time.perf_counter() - begin
    connection.close()
    after = servers.peak_memory(server.pid)
    growth = max(after[pid] - before.get(pid, 0) for pid in after)
    return {"instances": len(records), "seconds": seconds, "megabytes": size / 1e6, "growth_megabytes": growth / 1e6}


def _print(report: dict[str, Any]) -> None:
    points = report["points"]
    print("| | " + " | ".join(f"{point['instances']:.0f}" for point in points) + " |")
    print("| --- |" + " ---: |" * len(points))
    for name, title in TITLES.items():
        print(f"| {title} | " + " | ".join(_figure(point[name]) for point in points) + " |")
    large = report["large_study"]
    print(
        f"\nMetadata of a study of {large['instances']:.0f} instances: {large['megabytes']:.1f} MB in "
        f"{large['seconds']:.2f} s, the worker grew by {large['growth_megabytes']:.1f} MB"
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def plot(report: dict[str, Any], path: Path) -> None:
    """A small chart of each figure over the number of instances."""
    import matplotlib as mpl  # noqa: PLC0415  only who draws needs it
    from matplotlib import pyplot as plt  # noqa: PLC0415

    mpl.use("svg" if path.suffix == ".svg" else "agg")
    mpl.rcParams.update({"svg.hashsalt": "scale", "font.size": 8})
    figure, axes = plt.subplots(3, 3, figsize=(10, 6), layout="constrained")
    numbers = [point["instances"] / 1000 for point in report["points"]]
    for place, (name, title) in zip(axes.flat, TITLES.items(), strict=True):
        values = [point[name] for point in report["points"]]
        place.plot(numbers, values, marker="o", markersize=3, linewidth=1.2, color="#0b5cad")
        place.set_title(title, fontsize=8)
        place.set_ylim(0, max(values) * 1.25)
        place.set_xlim(0)
        place.grid(alpha=0.3)
    for place in axes[-1]:
        place.set_xlabel("thousand instances")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    if path.suffix == ".svg":  # matplotlib leaves blanks at the ends of lines
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
