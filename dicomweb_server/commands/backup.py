"""`dicomweb-server backup`: a running archive into a folder."""

import argparse
from contextlib import closing
from pathlib import Path

from dicomweb_server.commands.progress import MEGABYTE, Pace, ProgressLine, bar, counted
from dicomweb_server.opening import open_existing
from dicomweb_server.services.backup import Backup, BackupProgress
from dicomweb_server.services.backup_folder import Folder
from dicomweb_server.settings import Settings

EXAMPLE = "backup /mnt/backup --keep 14 --data /srv/dicom"
NOTES = """\
Servers may run meanwhile. The first run copies everything, each further one into the same folder the index and the
files that are new; a file is there once, however many backups have it. Each is compared with its SHA-256 on the way.
After an interruption run it again. A folder belongs to one archive. It holds patient data and the hashes of passwords:
keep it as safe as the archive. Settings are not in it.

Exit status: 0 the backup is complete, 3 it is complete but for files that are damaged in the archive (they are listed;
see check --deep), 1 it could not be made, 2 wrong usage, 130 interrupted."""
DAMAGED_STATUS = 3


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("folder", type=Path, metavar="DIR", help="the folder of the backups")
    command.add_argument("--keep", type=_number, default=0, metavar="N", help="forget all but the newest N (0: none)")
    command.add_argument("--verify", action="store_true", help="also read what the folder has already, and compare")


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Back up; gives the exit status. Raises DicomwebError."""
    folder = Folder(options.folder)
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs), ProgressLine() as line:
        pace = Pace()
        backup = Backup(
            storage,
            blobs,
            folder,
            told=lambda progress: line.tell(lambda: _words(progress, pace)),
            verify=options.verify,
        )
        done = backup.run()
    for text in done.damaged:
        print(f"LEFT OUT  {text}")
    print(
        f"Backup {done.name}: {counted(done.instances, 'instance')}, {done.entries} entries; "
        f"{counted(done.copied_files, 'new file')}, {done.copied_bytes / MEGABYTE:.1f} MB."
    )
    if options.keep and not done.damaged:
        print(f"Deleted {counted(folder.prune(options.keep), 'file')} of older backups.")
    return DAMAGED_STATUS if done.damaged else 0


def _words(progress: BackupProgress, pace: Pace) -> str:
    return (
        f"Backed up {bar(progress.instances, progress.total)} {progress.instances} of {progress.total} instances, "
        f"{progress.copied_bytes / MEGABYTE:.1f} MB copied{pace.left(progress.instances, progress.total)}"
    )
