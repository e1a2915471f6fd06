"""`dicomweb-server doctor`: ask a DICOMweb server what viewers and clients ask."""

import argparse
import json
from collections import Counter
from dataclasses import asdict

from dicomweb_server import serving
from dicomweb_server.doctor.checks import Result, run_checks
from dicomweb_server.doctor.client import Client
from dicomweb_server.doctor.samples import make_samples
from dicomweb_server.doctor.target import Target
from dicomweb_server.errors import BadRequest
from dicomweb_server.settings import Settings

EXAMPLE = "doctor http://localhost:5985/dicom-web --store"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.add_argument("url", nargs="?", metavar="URL", help="DICOMweb root (that of the settings)")
    command.add_argument("--store", action="store_true", help="store two small studies, ask about them, delete them")
    command.add_argument("--origin", default="", metavar="ORIGIN", help="ask also as a page of this origin would")
    command.add_argument("--wado", default="", metavar="URL", help="the WADO-URI service (/wado beside the root)")
    command.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="send this with each")
    command.add_argument("--json", action="store_true", help="print JSON")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Print a line for each check; gives 1 when any failed. Raises ConfigError for a URL that is none."""
    prefix = max(settings.http.prefixes, key=bool)
    root = (options.url or serving.root_url(settings, port=settings.server.port) + prefix).rstrip("/")
    client = Client(root, headers=_headers(options.header))
    target = Target(
        client=client,
        wado=options.wado or wado_of(root, settings.http.prefixes),
        origin=options.origin.rstrip("/"),
        samples=make_samples() if options.store else (),
    )
    results = []
    try:
        for result in run_checks(target):
            results.append(result)
            if not options.json:
                print(f"{result.outcome:<8} {result.name:<25} {result.sentence}", flush=True)
    finally:
        client.close()
    count = Counter(result.outcome for result in results)
    if options.json:
        print(json.dumps({"url": root, "checks": [asdict(result) for result in results]}, indent=2))
    else:
        print(f"{count['ok']} ok, {count['failed']} failed, {count['skipped']} skipped: {root}")
    return 1 if _any_failed(results) else 0


def _any_failed(results: list[Result]) -> bool:
    return not results or any(result.outcome == "failed" for result in results)


def wado_of(root: str, prefixes: tuple[str, ...]) -> str:
    """The WADO-URI service that goes with a DICOMweb root: beside it, as here and in Orthanc."""
    known = next((prefix for prefix in (*prefixes, "/dicom-web") if prefix and root.endswith(prefix)), "")
    return f"{root.removesuffix(known)}/wado"


def _headers(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition(":") for line in lines]
    if not all(separator and name.strip().isascii() for name, separator, _ in pairs):
        raise BadRequest("a header is written as NAME: VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}
