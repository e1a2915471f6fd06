"""`dicomweb-server watch`: a folder whose files go into the archive."""

import argparse
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dicomweb_server.commands.import_files import summary_words
from dicomweb_server.commands.interrupt import Interrupt
from dicomweb_server.errors import Conflict, StorageError
from dicomweb_server.opening import ingest_of, open_parts
from dicomweb_server.services.imports import Importer
from dicomweb_server.services.watch import Places, Watch
from dicomweb_server.settings import Settings

EXAMPLE = "watch /srv/inbox --data /srv/dicom"
NOTES = """\
Files that others put into the folder, at any depth, are stored once they are complete: their size and time did not
change for a while. Zips count as what is in them. Stored files are moved away; what cannot be stored is put aside,
beside it a text with the reason. Names that begin with a dot, or end in .part, .tmp and the like, are left alone until
they are renamed: the safest way to bring a file.

It can be stopped (SIGTERM, Ctrl-C) and started again at any time: what is in the folder is looked at again. While the
archive takes nothing the files stay, and it tries again.

Exit status: 0 it was stopped, or with --once nothing is left to do; 1 it cannot begin, or with --once the archive takes
nothing; 2 wrong usage."""
MAX_SECONDS = 86400.0
_SLICE_SECONDS = 0.1
_AFTER_FAILURE_SECONDS = 30.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("inbox", type=Path, metavar="DIR", help="the folder to watch")
    command.add_argument("--stored", type=Path, metavar="DIR", help="where stored files go (.stored in the folder)")
    command.add_argument("--delete", action="store_true", help="delete stored files")
    command.add_argument("--refused", type=Path, metavar="DIR", help="where refused files go (.refused in the folder)")
    command.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (2)")
    command.add_argument("--settle", type=_seconds, default=5.0, metavar="SECONDS", help="how long without change (5)")
    command.add_argument("--once", action="store_true", help="end when nothing is left in the folder")


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_SECONDS:.0f}")
    return number


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Watch; gives the exit status. Raises DicomwebError."""
    inbox = options.inbox.absolute()
    stored = None if options.delete else (options.stored or inbox / ".stored").absolute()
    places = Places(inbox=inbox, stored=stored, refused=(options.refused or inbox / ".refused").absolute())
    places.check()
    with _alone(inbox), Interrupt((signal.SIGINT, signal.SIGTERM)) as interrupt:
        storage, blobs = open_parts(settings)
        with closing(storage), closing(blobs):
            importer = Importer(ingest_of(settings, storage, blobs))
            watch = Watch(importer, places, settle_seconds=options.settle)
            print(f"Watching {inbox}", flush=True)
            try:
                _look(watch, interrupt, every_seconds=options.every, once=options.once)
            except KeyboardInterrupt:
                print("Stopped.", flush=True)
    return 0


def _look(watch: Watch, interrupt: Interrupt, *, every_seconds: float, once: bool) -> None:
    while True:
        began = time.monotonic()
        pause = every_seconds
        try:
            summary = watch.look(interrupt.check)
        except StorageError as exc:
            if once:
                raise
            pause = max(every_seconds, _AFTER_FAILURE_SECONDS)
            print(f"{exc.message}; the files stay, next try in {pause:.0f} s", file=sys.stderr, flush=True)
        else:
            if summary.sources:
                print(f"{summary_words(summary)}.", flush=True)
            if once and not watch.waiting:
                return
        # A folder that takes long to look at is looked at half of the time at most.
        _wait(interrupt, max(pause, time.monotonic() - began))


def _wait(interrupt: Interrupt, seconds: float) -> None:
    end = time.monotonic() + seconds
    interrupt.check()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLICE_SECONDS))
        interrupt.check()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that watch one folder would take the files from each other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Conflict(f"Another process watches {folder}.") from exc
        yield
    finally:
        os.close(descriptor)
