"""`dicomweb-server backup` and `restore-backup`: a running archive into a folder, and back into an empty one."""

import argparse
from contextlib import closing
from pathlib import Path

from dicomweb_server.app import open_parts
from dicomweb_server.commands.progress import MEGABYTE, Pace, ProgressLine, bar
from dicomweb_server.services.backup import Backup, BackupProgress, BackupSource, Folder
from dicomweb_server.services.copy import Archive, Copy, Progress
from dicomweb_server.settings import Settings

EXAMPLE = "backup /mnt/backup --keep 14 --data /srv/dicom"
RESTORE_EXAMPLE = "restore-backup /mnt/backup --data /srv/restored"
NOTES = """\
Servers may run meanwhile. The first run copies everything, each further one into the same folder the index and the
files that are new; a file is there once, however many backups have it. Each is compared with its SHA-256 on the way.
After an interruption run it again. A folder belongs to one archive. It holds patient data and the hashes of passwords:
keep it as safe as the archive. Settings are not in it.

Exit status: 0 the backup is complete, 3 it is complete but for files that are damaged in the archive (they are listed;
see check --deep), 1 it could not be made, 2 wrong usage, 130 interrupted."""
RESTORE_NOTES = """\
The archive of the settings must be empty, or hold an interrupted restoring of the same backup, which is then continued;
it may be on another backend. No server may run on it. Every file is compared with its SHA-256, read again from the
archive in the end, and so are the counts and checksums of all entries.

Exit status: 0 all of it is there and equal, 1 it is not (what is done stays, run it again), 2 wrong usage,
130 interrupted."""
DAMAGED_STATUS = 3


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what backup takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("folder", type=Path, metavar="DIR", help="the folder of the backups")
    command.add_argument("--keep", type=_number, default=0, metavar="N", help="forget all but the newest N (0: none)")
    command.add_argument("--verify", action="store_true", help="also read what the folder has already, and compare")


def add_restore_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what restore-backup takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{RESTORE_NOTES}"
    command.add_argument("folder", type=Path, metavar="DIR", help="the folder of the backups")
    command.add_argument("--name", metavar="NAME", help="which one (the newest)")
    command.add_argument("--list", action="store_true", help="list the backups in the folder, and end")


def _number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must be 0 or more")
    return number


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Back up; gives the exit status. Raises DicomwebError."""
    folder = Folder(options.folder)
    storage, blobs = open_parts(settings)
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
        f"Backup {done.name}: {done.instances} instances, {done.entries} entries; {done.copied_files} files were new, "
        f"{done.copied_bytes / MEGABYTE:.1f} MB."
    )
    if options.keep and not done.damaged:
        print(f"{folder.prune(options.keep)} files of older backups are gone.")
    return DAMAGED_STATUS if done.damaged else 0


def run_restore(settings: Settings, options: argparse.Namespace) -> int:
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


def _words(progress: BackupProgress, pace: Pace) -> str:
    return (
        f"Backed up {bar(progress.instances, progress.total)} {progress.instances} of {progress.total} instances, "
        f"{progress.copied_bytes / MEGABYTE:.1f} MB copied{pace.left(progress.instances, progress.total)}"
    )


def _copied(progress: Progress) -> str:
    word = "Verified" if progress.verifying else "Restored"
    return (
        f"{word:<9} {bar(progress.instances, progress.total)} {progress.instances} of {progress.total} instances, "
        f"{progress.size_bytes / MEGABYTE:.1f} MB"
    )
