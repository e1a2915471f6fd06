"""Measures `dicomweb-server import` beside STOW, in one run, each into an archive of its own.

    python benchmarks/importing.py [--instances 600 --rounds 3 --jobs 2 --clients 4 --batch 25 --side 512]

The files of a round lie in a folder before; each round stores new ones by STOW, then others by import, then others by
import --link. The processor time is that of the server, or of the command with its start.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import servers
from benchmarks.measures import Load, store_all
from benchmarks.studies import Instance, StudyMaker


def _import(folder: Path, instances: list[Instance], jobs: int, *more: str) -> tuple[float, float]:
    """Instances per second, with the start of the command, and milliseconds of processor time an instance."""
    files, data = folder / "files", folder / "data"
    for place, instance in enumerate(instances):
        path = files / f"{place // 100:04d}" / f"{place % 100:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(instance.blob)
    os.sync()  # or the import would wait for the disk to take the files of the benchmark
    command = [
        sys.executable,
        "-m",
        "dicomweb_server",
        "import",
        str(files),
        "--data",
        str(data),
        "--jobs",
        str(jobs),
        *more,
    ]
    began, before = time.perf_counter(), _children_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    if not done.stdout.startswith(f"{len(instances)} stored"):
        raise RuntimeError(f"import did not store all:\n{done.stdout}")
    return len(instances) / seconds, 1000 * (_children_seconds() - before) / len(instances)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of the import")
    parser.add_argument("--clients", type=int, default=4, help="of STOW, at once")
    parser.add_argument("--batch", type=int, default=25, help="instances in one STOW request")
    parser.add_argument("--side", type=int, default=512, help="rows and columns of a slice: 256 is 0.13 MB, 8 a header")
    options = parser.parse_args()
    maker = StudyMaker(options.side)
    load = Load(clients=options.clients, batch=options.batch)
    spent: dict[str, list[float]] = {"STOW": [], "import": [], "link": []}
    figures: dict[str, list[float]] = {"STOW": [], "import": [], "link": []}
    # All of it is kept until the end: ext4 passes over the places of files that were deleted within the last minutes,
    # which costs who makes the next ones up to twice the time.
    with tempfile.TemporaryDirectory(prefix="importing-") as top:
        for number in range(options.rounds):
            command = servers.OUR_COMMAND.replace("{data}", f"{top}/{number}-stow")
            with servers.ours(command) as server:
                stored = store_all(server.url, maker.round(options.instances).instances, replace(load, pid=server.pid))
                figures["STOW"].append(stored["store_per_second"])
                spent["STOW"].append(5 * stored["cpu_seconds_per_200_stored"])
            for name, more in (("import", ()), ("link", ("--link",))):
                instances = maker.round(options.instances).instances
                rate, milliseconds = _import(Path(top) / f"{number}-{name}", instances, options.jobs, *more)
                figures[name].append(rate)
                spent[name].append(milliseconds)
    for name, values in figures.items():
        print(
            f"{name:<7} {statistics.median(values):8.0f} instances/s   ({', '.join(f'{v:.0f}' for v in values)})",
            end="",
        )
        print(f"   {statistics.median(spent[name]):.1f} ms of processor time each")
    for name in ("import", "link"):
        ratio = statistics.median(b / a for a, b in zip(figures["STOW"], figures[name], strict=True))
        print(f"{name} is {ratio:.1f} times as fast as STOW")


if __name__ == "__main__":
    _main()
