"""`dicomweb-server export`: studies, series and instances into a folder or a zip with a DICOMDIR."""

import argparse
from contextlib import closing
from pathlib import Path

from dicomweb_server.commands.progress import MEGABYTE, Pace, ProgressLine, bar, counted
from dicomweb_server.opening import open_existing
from dicomweb_server.services.export import Export, ExportProgress
from dicomweb_server.settings import Settings

EXAMPLE = "export 'PatientID=4711&StudyDate=20240101-' --to /media/disc --data /srv/dicom"
NOTES = """\
A UID names a study, a series or an instance. A query is written as the parameters of a search in a URL; it means whole
studies, or, where it asks for attributes of those, series or instances. The server may run meanwhile.

The files have the names that media need (DICOM/D0000000/I0000000), and DICOMDIR lists them. Each is compared with its
SHA-256 on the way. After an error nothing is left of what was written: run the command again.

Exit status: 0 all is written, 1 it is not and why, 2 wrong usage, 130 interrupted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("words", nargs="+", metavar="UID|QUERY", help="what to export")
    command.add_argument("--to", type=Path, required=True, metavar="DIR|FILE.zip", help="an empty folder, or a new zip")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Export; gives the exit status. Raises DicomwebError."""
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs), ProgressLine() as line:
        pace = Pace()
        export = Export(storage, blobs, told=lambda progress: line.tell(lambda: _words(progress, pace)))
        found = export.choose(options.words)
        if options.to.suffix.lower() == ".zip":
            export.to_zip(found, options.to)
        else:
            export.to_folder(found, options.to)
    studies = len({item.study_uid for item in found})
    size_bytes = sum(item.blob.size_bytes for item in found)
    what = f"{counted(len(found), 'instance')} of {counted(studies, 'study', 'studies')}"
    print(f"Exported {what}, {size_bytes / MEGABYTE:.1f} MB, to {options.to}")
    return 0


def _words(progress: ExportProgress, pace: Pace) -> str:
    return (
        f"Exported  {bar(progress.size_bytes, progress.total_bytes)} {progress.instances} of "
        f"{progress.total_instances} instances, {progress.size_bytes / MEGABYTE:.1f} MB"
        f"{pace.left(progress.size_bytes, progress.total_bytes)}"
    )
