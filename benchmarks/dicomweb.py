"""Measures DICOMweb servers: any URL, Orthanc, or ours and Orthanc side by side in one run.

    python benchmarks/dicomweb.py run URL [--instances 200 --clients 4 --batch 25 --rounds 3 --pid PID --json out.json]
    python benchmarks/dicomweb.py orthanc
    python benchmarks/dicomweb.py both [--ours-command 'dicomweb-server serve --port {port} --data {data}']
    python benchmarks/dicomweb.py backends --mongodb mongodb://127.0.0.1 --couchdb http://admin:password@127.0.0.1:5984
    python benchmarks/dicomweb.py compare ours.json orthanc.json
    python benchmarks/dicomweb.py pictures [URL] [--instances 200 --clients 4 --rounds 3]
    python benchmarks/dicomweb.py large [URL --pid PID]

What is stored is new in each round and is left in the archive that `run`, `pictures` and `large` are pointed at.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import pictures, servers
from benchmarks.measures import MEASURES, Load, Measure, measure, measure_large, medians
from benchmarks.studies import large_instance

MEGABYTE = 1_000_000


def _report(label: str, version: str, load: Load, figures: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "label": label,
        "server": version,
        "machine": {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "load": {"instances": load.instances, "clients": load.clients, "batch": load.batch, "rounds": load.rounds},
        "medians": medians(figures),
        "rounds": figures,
    }


def _note(label: str, text: str) -> None:
    print(f"{label}: {text}", file=sys.stderr)


def _measured(url: str, label: str, version: str, load: Load) -> dict[str, Any]:
    figures = measure(url, load, note=partial(_note, label))
    return _report(label, version, load, figures)


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> None:
    """Prints Markdown: the first row is the head, the first column is left-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print(
                "| "
                + " | ".join("-" * (width - 1) + ("-" if not place else ":") for place, width in enumerate(widths))
                + " |"
            )


def _measures(report: dict[str, Any]) -> list[Measure]:
    """Those that the report has, in their order."""
    return [wanted for wanted in (*MEASURES, *pictures.MEASURES) if wanted.key in report["medians"]]


def _print_one(report: dict[str, Any]) -> None:
    rows = [["", report["label"], "rounds"]]
    for wanted in _measures(report):
        rounds = report["rounds"].get(wanted.key, [])
        value = _figure(report["medians"].get(wanted.key))
        rows.append([f"{wanted.title} ({wanted.unit})", value, " ".join(map(_figure, rounds))])
    print(f"{report['server']}, {_load_text(report)}")
    _table(rows)


def _load_text(report: dict[str, Any]) -> str:
    load, machine = report["load"], report["machine"]
    return (
        f"{load['instances']} CT of 0.5 MB, {load['clients']} clients, batches of {load['batch']}, medians of "
        f"{load['rounds']} rounds, {machine['cpus']} CPUs, Python {machine['python']}"
    )


def _times_better(wanted: Measure, ours: float | None, other: float | None) -> float | None:
    if not ours or not other:
        return None
    return ours / other if wanted.more_is_better else other / ours


def _print_comparison(first: dict[str, Any], second: dict[str, Any]) -> None:
    rows = [["", first["label"], second["label"], "times better", "goal"]]
    for wanted in _measures(first):
        one, two = (report["medians"].get(wanted.key) for report in (first, second))
        better = _times_better(wanted, one, two)
        goal = f"{wanted.goal:g}" if wanted.goal else ""
        mark = " missed" if better and wanted.goal and better < wanted.goal else ""
        rows.append([f"{wanted.title} ({wanted.unit})", _figure(one), _figure(two), _figure(better), goal + mark])
    print(f"{first['server']} against {second['server']}, {_load_text(first)}")
    _table(rows)


def _save(path: Path | None, report: Any) -> None:
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")


def _load(options: argparse.Namespace, pid: int | None) -> Load:
    return Load(options.instances, options.clients, options.batch, options.rounds, pid)


def _run(options: argparse.Namespace) -> None:
    report = _measured(options.url, options.label or options.url, options.url, _load(options, options.pid))
    _print_one(report)
    _save(options.json, report)


def _orthanc(options: argparse.Namespace) -> None:
    with servers.orthanc(options.folder) as server:
        report = _measured(server.url, "orthanc", server.version, _load(options, server.pid))
    _print_one(report)
    _save(options.json, report)


def _both_servers(options: argparse.Namespace) -> tuple[tuple[str, AbstractContextManager[servers.Server]], ...]:
    return (
        ("orthanc", servers.orthanc(options.folder)),
        ("ours", servers.ours(options.ours_command, options.folder)),
    )


def _both(options: argparse.Namespace) -> None:
    reports: list[dict[str, Any]] = []
    for label, starting in _both_servers(options):
        with starting as server:
            reports.insert(0, _measured(server.url, label, server.version, _load(options, server.pid)))
    _print_comparison(*reports)
    _save(options.json, reports)


def _backends(options: argparse.Namespace) -> None:
    """Ours on SQLite and on each database that is named, one after the other; a column for each."""
    places = {"sqlite": "", "mongodb": options.mongodb, "couchdb": options.couchdb}
    reports = []
    for backend, url in places.items():
        if backend == "sqlite" or url:
            with servers.ours_on(backend, url, options.folder) as server:
                reports.append(_measured(server.url, backend, server.version, _load(options, server.pid)))
    rows = [["", *(report["label"] for report in reports)]]
    for wanted in MEASURES:
        figures = [_figure(report["medians"].get(wanted.key)) for report in reports]
        rows.append([f"{wanted.title} ({wanted.unit})", *figures])
    print(_load_text(reports[0]))
    _table(rows)
    _save(options.json, reports)


def _pictures(options: argparse.Namespace) -> None:
    reports: list[dict[str, Any]] = []
    for label, starting in _both_servers(options) if not options.url else ((options.url, None),):
        with starting or contextlib.nullcontext(servers.Server(options.url, 0, options.url)) as server:
            load = _load(options, server.pid or None)
            figures = pictures.measure_pictures(server.url, load, note=partial(_note, label))
            reports.insert(0, _report(label, server.version, load, figures))
    if len(reports) > 1:
        _print_comparison(*reports)
    else:
        _print_one(reports[0])
    _save(options.json, reports)


def _compare(options: argparse.Namespace) -> None:
    _print_comparison(*(json.loads(path.read_text()) for path in (options.first, options.second)))


def _large(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as running:
        url, pid = options.url, options.pid
        if not url:
            starting = servers.orthanc(options.folder) if options.orthanc else None
            server = running.enter_context(starting or servers.ours(options.ours_command, options.folder))
            url, pid = server.url, server.pid
        figures = measure_large(url, large_instance(options.gigabytes * (1 << 30)), pid=pid)
    print(
        f"{figures.size / MEGABYTE:.0f} MB stored in {figures.store_seconds:.1f} s, "
        f"fetched in {figures.retrieve_seconds:.1f} s, equal by SHA-256"
    )
    for member, grown in (figures.grown or {}).items():
        print(f"process {member}: peak memory grew by {grown / MEGABYTE:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    load = argparse.ArgumentParser(add_help=False)
    load.add_argument("--instances", type=int, default=200, help="stored in each round (default 200)")
    load.add_argument("--clients", type=int, default=4, help="at once, for store and frames (default 4)")
    load.add_argument("--batch", type=int, default=25, help="instances in one request (default 25)")
    load.add_argument("--rounds", type=int, default=3, help="medians are taken over these (default 3)")
    load.add_argument("--json", type=Path, help="write the figures to this file")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--folder", type=Path, help="where the servers keep their data (default: the temporary folder)")
    command = argparse.ArgumentParser(add_help=False)
    command.add_argument("--ours-command", default=servers.OUR_COMMAND, help="starts our server: %(default)s")

    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", parents=[load], help="measure a running server")
    run.add_argument("url", help="the DICOMweb root, such as http://127.0.0.1:5985")
    run.add_argument("--label", help="name in tables")
    run.add_argument("--pid", type=int, help="first process of the server, to count its processor time")
    run.set_defaults(call=_run)
    commands.add_parser("orthanc", parents=[load, place], help="start and measure Orthanc").set_defaults(call=_orthanc)
    both = commands.add_parser("both", parents=[load, place, command], help="Orthanc, then ours, and the ratios")
    both.set_defaults(call=_both)
    backends = commands.add_parser("backends", parents=[load, place], help="ours on SQLite, MongoDB and CouchDB")
    backends.add_argument("--mongodb", help="the URL of a MongoDB; a new database is left there")
    backends.add_argument("--couchdb", help="the URL of a CouchDB; new databases are left there")
    backends.set_defaults(call=_backends)
    shown = commands.add_parser(
        "pictures", parents=[load, place, command], help="rendered images, thumbnails and decoded frames"
    )
    shown.add_argument("url", nargs="?", help="a running server; without it Orthanc, then ours, and the ratios")
    shown.set_defaults(call=_pictures)
    compare = commands.add_parser("compare", help="print the ratios of two files of figures")
    compare.add_argument("first", type=Path)
    compare.add_argument("second", type=Path)
    compare.set_defaults(call=_compare)
    large = commands.add_parser("large", parents=[place, command], help="store and fetch one 2 GB instance")
    large.add_argument("url", nargs="?", help="a running server; without it ours is started")
    large.add_argument("--pid", type=int, help="first process of that server, to watch its memory")
    large.add_argument("--orthanc", action="store_true", help="start Orthanc instead of ours")
    large.add_argument("--gigabytes", type=int, choices=(1, 2, 3), default=2)
    large.set_defaults(call=_large)
    return parser


def _end(number: int, _frame: object) -> None:
    """Ends by an exception, so that the servers started here are stopped and their folders removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _end)
    chosen = _parser().parse_args()
    chosen.call(chosen)
