"""`dicomweb-server restore-backup`: a backup into an empty archive, and the proof of it."""

import argparse
from contextlib import closing
from pathlib import Path

from dicomweb_server.commands.progress import MEGABYTE, ProgressLine, bar
from dicomweb_server.opening import open_parts
from dicomweb_server.services.backup_folder import Folder
from dicomweb_server.services.backup_source import BackupSource
from dicomweb_server.services.copy import Archive, Copy, Progress
from dicomweb_server.settings import Settings

EXAMPLE = "restore-backup /mnt/backup --data /srv/restored"
NOTES = """\
The archive of the settings must be empty, or hold an interrupted restoring of the same backup, which is then continued;
it may be on another backend. No server may run on it. Every file is compared with its SHA-256, read again from the
archive in the end, and so are the counts and checksums of all entries.

Exit status: 0 all of it is there and equal, 1 it is not (what is done stays, run it again), 2 wrong usage,
130 interrupted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("folder", type=Path, metavar="DIR", help="the folder of the backups")
    command.add_argument("--name", metavar="NAME", help="which one (the newest)")
    command.add_argument("--list", action="store_true", help="list the backups in the folder, and end")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Restore; gives the exit status. Raises DicomwebError."""
    folder = Folder(options.folder)
    if options.list:
        folder.check()
        print("\n".join(folder.names()))
        return 0
    source = BackupSource(folder, options.name)
    storage, blobs = open_parts(settings)
    with closing(storage), closing(blobs), ProgressLine() as line:
        target = Archive(storage, blobs)
        copy = Copy(source, target, told=lambda progress: line.tell(lambda: _copied(progress)), read_back=True)
        tally, copied = copy.run()
    counts = ", ".join(f"{count} {name}" for name, count in tally.counts.items())
    print(f"Backup {source.name}: {counts}, files of {tally.size_bytes / MEGABYTE:.1f} MB.")
    print("Every file has its SHA-256; counts and checksums are equal." if copied else "Nothing was left to do.")
    return 0


def _copied(progress: Progress) -> str:
    word = "Verified" if progress.verifying else "Restored"
    return (
        f"{word:<9} {bar(progress.instances, progress.total)} {progress.instances} of {progress.total} instances, "
        f"{progress.size_bytes / MEGABYTE:.1f} MB"
    )
