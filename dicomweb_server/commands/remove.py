"""`dicomweb-server remove`: studies, series and instances out of the archive, into the recycle bin."""

import argparse
from contextlib import closing

from dicomweb_server.commands.progress import counted
from dicomweb_server.errors import NotFound
from dicomweb_server.opening import open_existing
from dicomweb_server.services.export import chosen_scopes
from dicomweb_server.services.remove import Remove
from dicomweb_server.settings import Settings

EXAMPLE = "remove 'PatientID=4711&StudyDate=-20191231' --data /srv/dicom"
NOTES = """\
A UID names a study, a series or an instance. A query is written as the parameters of a search in a URL; it means whole
studies, or, where it asks for attributes of those, series or instances. The server may run meanwhile.

What is removed stays in the recycle bin for remove.retention_days (see: restore, bin). With --for-good, or where that
setting is 0, it is gone. --dry-run says what it would be.

Exit status: 0 all is removed, 1 it is not and why, 2 wrong usage, 130 interrupted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("words", nargs="+", metavar="UID|QUERY", help="what to remove")
    command.add_argument("--for-good", action="store_true", help="not into the recycle bin")
    command.add_argument("--dry-run", action="store_true", help="only say how much it is")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Remove; gives the exit status. Raises DicomwebError."""
    keep = settings.remove.retention_days > 0 and not options.for_good
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs):
        scopes = chosen_scopes(storage, options.words)
        if options.dry_run:
            number = sum(1 for scope in scopes for _ in storage.instances(scope=scope))
            print(f"Would remove {counted(number, 'instance')}")
            return 0
        remove = Remove(storage, blobs, keep=keep)
        total = 0
        for scope in scopes:
            try:
                total += remove.remove(scope=scope).instances
            except NotFound:  # in a study that another word named, or removed by somebody else
                continue
    print(
        f"Removed {counted(total, 'instance')}"
        + (f"; they can be restored for {settings.remove.retention_days} days" if keep else "")
    )
    return 0
