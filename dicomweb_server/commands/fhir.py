"""`dicomweb-server fhir export`: studies as FHIR resources, from files or from an archive, without a server."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson

from dicomweb_server.dicom.attributes import Attributes, patient_key
from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadDicom, BadRequest, NotFound
from dicomweb_server.fhir import mapping, models
from dicomweb_server.fhir.documents import Documents
from dicomweb_server.fhir.from_files import patient_of, studies_of
from dicomweb_server.fhir.mapping import Names
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.search import Search
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import Address, Views
from dicomweb_server.opening import open_existing
from dicomweb_server.settings import Settings

EXAMPLE = "fhir export image.dcm"
NOTES = """\
Prints a Bundle with the ImagingStudy, Patient and Endpoint of every study. A source is a file, a folder of files, or
the Study Instance UID of a study in the archive of --data or --config. Files are only read, and need no archive; what
is no DICOM file in a folder is told on standard error and passed over. Ids of patients are those of the archive; of
files they are p1, p2 and so on.

Exit status: 0 all is printed, 1 something cannot be read, 2 wrong usage."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("action", choices=("export",), help="what to do")
    command.add_argument("sources", nargs="+", metavar="STUDY|FILE", help="a Study Instance UID, a file or a folder")
    command.add_argument("--r5", action="store_true", help="the ImagingStudy in the form of R5, not R4")
    command.add_argument("--xml", action="store_true", help="XML instead of JSON")
    command.add_argument(
        "--dicomweb",
        default="http://localhost:5985",
        metavar="URL",
        help="the DICOMweb root that Endpoints name (http://localhost:5985)",
    )


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Print the Bundle; gives the exit status. Raises DicomwebError."""
    paths = [Path(source) for source in options.sources if not is_uid(source) or Path(source).exists()]
    uids = [source for source in options.sources if is_uid(source) and not Path(source).exists()]
    failures: list[str] = []
    resources = list(_of_files(settings, paths, options.dicomweb, failures)) if paths else []
    if uids:
        resources += _of_archive(settings, uids, options.dicomweb)
    for failure in failures:
        print(failure, file=sys.stderr)
    if not resources:
        raise NotFound("there is no DICOM file among the sources")
    if options.r5:
        resources = [mapping.to_r5(one) if one["resourceType"] == "ImagingStudy" else one for one in resources]
    _print(resources, xml=options.xml, release="5.0" if options.r5 else "4.0")
    return 1 if any(Path(source).is_file() for source in options.sources) and failures else 0


def _print(resources: list[Json], *, xml: bool, release: str) -> None:
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in resources]}
    if xml:
        if release == "5.0":
            raise BadRequest("a Bundle of R4 and R5 has no XML: leave --r5 or --xml out")
        data = models.to_xml(bundle, release=release) + b"\n"
    else:
        data = orjson.dumps(bundle, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


# Files


def _of_files(settings: Settings, paths: list[Path], dicomweb: str, failures: list[str]) -> Iterator[Json]:
    headers = list(_headers(paths, failures))
    numbers: dict[str, str] = {}
    for study in studies_of(headers):
        key = patient_key(study.study.attributes, study.study.study_uid or "")
        is_new = key not in numbers
        patient_id = numbers.setdefault(key, f"p{len(numbers) + 1}")
        zone = ZoneInfo(settings.fhir.timezone) if settings.fhir.timezone else None
        yield mapping.imaging_study(study, Names(patient=lambda _, known=patient_id: known, zone=zone))
        if is_new:
            yield mapping.patient(patient_of(study), patient_id)
        yield mapping.endpoint(study.study.study_uid or "", dicomweb)


def _headers(paths: list[Path], failures: list[str]) -> Iterator[Attributes]:
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} is no file, no folder and no Study Instance UID")
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                with file.open("rb") as stream:
                    yield read_header(stream).attributes
            except BadDicom as exc:
                failures.append(f"{file}: {exc.message}")
            except OSError as exc:
                failures.append(f"{file}: {exc.strerror}")


# An archive


def _of_archive(settings: Settings, uids: list[str], dicomweb: str) -> list[Json]:
    storage, blobs = open_existing(settings)
    try:
        zone = ZoneInfo(settings.fhir.timezone) if settings.fhir.timezone else None
        views, documents = Views(storage, zone=zone), Documents(storage)
        reading = Reading(storage, views, documents, Search(storage, views, documents))
        address = Address(fhir="", dicomweb=dicomweb)
        found: dict[tuple[str, str], Json] = {}
        for uid in uids:
            try:
                study = reading.read("ImagingStudy", uid, address)
            except NotFound as exc:
                raise NotFound(f"{uid}: {exc.message}") from exc
            patient_id = study["subject"]["reference"].partition("/")[2]
            patient = reading.read("Patient", patient_id, address)
            endpoint = reading.read("Endpoint", uid, address)
            found |= {(one["resourceType"], one["id"]): one for one in (study, patient, endpoint)}
        return list(found.values())
    finally:
        storage.close()
        blobs.close()
