"""Measures the ways in for a folder of files, in one run, each into an archive of its own.

    python benchmarks/importing.py [--instances 600 --rounds 3 --jobs 2 --clients 4 --batch 25 --side 512]

Each round stores new files by each way: STOW by several clients at once, which have the requests ready in memory; STOW
by one client, which reads and posts one file after the other on one connection; STOW by `dicomweb_client`, for which
pydicom reads the files, in batches; `import`; and `import --link`. The processor time is that of the server, or of the
command with its start.
"""

import argparse
import contextlib
import http.client
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pydicom
from dicomweb_client import DICOMwebClient

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import servers
from benchmarks.measures import Load, expect, store_all
from benchmarks.studies import Instance, StudyMaker

Figures = tuple[float, float]
"""Instances per second, and milliseconds of processor time an instance."""


def _written(folder: Path, instances: Sequence[Instance]) -> list[Path]:
    """The files of the instances, on the disk: who comes next would have to wait for that."""
    paths = [folder / f"{place // 100:04d}" / f"{place % 100:04d}.dcm" for place in range(len(instances))]
    for path, instance in zip(paths, instances, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(instance.blob)
    os.sync()
    return paths


def _import(folder: Path, instances: Sequence[Instance], jobs: int, *more: str) -> Figures:
    """With the start of the command."""
    _written(folder / "files", instances)
    command = [sys.executable, "-m", "dicomweb_server", "import", str(folder / "files"), "--data", str(folder / "data")]
    began, before = time.perf_counter(), _children_seconds()
    done = subprocess.run([*command, "--jobs", str(jobs), *more], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    if not done.stdout.startswith(f"{len(instances)} stored"):
        raise RuntimeError(f"import did not store all:\n{done.stdout}")
    return len(instances) / seconds, 1000 * (_children_seconds() - before) / len(instances)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _stored(folder: Path, send: Callable[[servers.Server], float], instances: int) -> Figures:
    """By a server of its own; `send` gives the seconds that it took."""
    with servers.ours(servers.OUR_COMMAND.replace("{data}", str(folder / "data"))) as server:
        before = servers.cpu_seconds(server.pid)
        seconds = send(server)
        return instances / seconds, 1000 * (servers.cpu_seconds(server.pid) - before) / instances


def _by_several(load: Load, instances: Sequence[Instance]) -> Callable[[servers.Server], float]:
    def send(server: servers.Server) -> float:
        return len(instances) / store_all(server.url, instances, replace(load, pid=None))["store_per_second"]

    return send


def _one_by_one(paths: Sequence[Path]) -> Callable[[servers.Server], float]:
    def send(server: servers.Server) -> float:
        began = time.perf_counter()
        with contextlib.closing(http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=600)) as connection:
            for path in paths:
                connection.request("POST", "/studies", path.read_bytes(), {"Content-Type": "application/dicom"})
                answer = connection.getresponse()
                answer.read()
                expect(answer.status == 200, f"store: status {answer.status}")
        return time.perf_counter() - began

    return send


def _by_dicomweb_client(batch: int, paths: Sequence[Path]) -> Callable[[servers.Server], float]:
    def send(server: servers.Server) -> float:
        client = DICOMwebClient(server.url)
        began = time.perf_counter()
        for start in range(0, len(paths), batch):
            datasets = [pydicom.dcmread(path) for path in paths[start : start + batch]]
            answer = client.store_instances(datasets)
            expect(len(answer.ReferencedSOPSequence) == len(datasets), "store: not every instance is acknowledged")
        return time.perf_counter() - began

    return send


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of the import")
    parser.add_argument("--clients", type=int, default=4, help="of STOW, at once")
    parser.add_argument("--batch", type=int, default=25, help="instances in one STOW request")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice: 256 is 0.13 MB, 8 a header")
    return parser.parse_args()


def _main() -> None:
    options = _options()
    maker = StudyMaker(options.side)
    load = Load(clients=options.clients, batch=options.batch)
    several, single, library = f"{options.clients} STOW clients", "1 client, file by file", "dicomweb_client"
    figures: dict[str, list[Figures]] = {name: [] for name in (several, single, library, "import", "import --link")}
    # All of it is kept until the end: ext4 passes over the places of files that were deleted within the last minutes,
    # which costs who makes the next ones up to twice the time.
    with tempfile.TemporaryDirectory(prefix="importing-") as top:
        for number in range(options.rounds):
            for place, (name, found) in enumerate(figures.items()):
                instances = maker.round(options.instances).instances
                folder = Path(top) / f"{number}-{place}"
                if name.startswith("import"):
                    found.append(_import(folder, instances, options.jobs, *name.split()[1:]))
                    continue
                if name == several:
                    send = _by_several(load, instances)
                else:
                    paths = _written(folder / "files", instances)
                    send = _one_by_one(paths) if name == single else _by_dicomweb_client(options.batch, paths)
                found.append(_stored(folder, send, len(instances)))
    for name, found in figures.items():
        rates = [rate for rate, _ in found]
        shown = f"{statistics.median(rates):8.0f} instances/s   ({', '.join(f'{rate:.0f}' for rate in rates)})"
        print(f"{name:<22} {shown}   {statistics.median(spent for _, spent in found):.1f} ms of processor time each")
    for name in ("import", "import --link"):
        for other in (several, single, library):
            pairs = zip(figures[name], figures[other], strict=True)
            print(f"{name} is {statistics.median(a / b for (a, _), (b, _) in pairs):.1f} times as fast as {other}")


if __name__ == "__main__":
    _main()
