"""`dicomweb-server copy`: a whole archive into another one, whatever keeps either."""

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dicomweb_server.commands.progress import MEGABYTE, ProgressLine
from dicomweb_server.plugins import blob_store_class, storage_class
from dicomweb_server.services.copy import Archive, Copy, Progress, Tally
from dicomweb_server.settings import IN_DATABASE, SEPARATOR, VARIABLE_PREFIX, Settings, load

EXAMPLE = "copy --from config/default.toml --to config/mongodb.toml"
NOTES = """\
Both files are settings files as serve takes them; the archive of --to must be empty, or hold an interrupted copy of the
same source, which is then continued. Stop the servers of both, or let nobody store or delete: a source that changes
meanwhile is told, and the copy is not complete. The source is only read. Files are compared with their SHA-256 while
they are copied; in the end counts and checksums of all entries are. Of the environment the variables of the backends
in use count (DICOMWEB__STORAGE__MONGODB__URL).

Exit status: 0 the copy is complete and equal, 1 it is not (what is done stays, run it again), 2 wrong usage,
130 interrupted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("--from", dest="source", type=Path, required=True, metavar="A.toml", help="what to copy")
    command.add_argument("--to", dest="target", type=Path, required=True, metavar="B.toml", help="where to copy it")
    command.add_argument("--read-back", action="store_true", help="read every file from the target again in the end")


def run(_settings: Settings, options: argparse.Namespace) -> int:
    """Copy; gives the exit status. Raises DicomwebError."""
    source, target = settings_of(options.source, os.environ), settings_of(options.target, os.environ)
    with _opened(source) as one, _opened(target) as other, ProgressLine() as line:
        copying = Copy(one, other, told=lambda progress: _tell(line, progress), read_back=options.read_back)
        tally, copied = copying.run()
    print(f"{'Copied' if copied else 'Copied before:'} {_summary(tally)}")
    print("Counts and checksums are equal." if copied else "Nothing was left to do.")
    return 0


def settings_of(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings of a file, and of the environment only what belongs to the backends that the file names."""
    listens_nowhere = {"server.host": "127.0.0.1"}
    named = load(path, listens_nowhere, environ={})
    tables = [
        ("storage", named.storage.backend),
        ("blobs", IN_DATABASE if named.blobs_in_database else named.blob_store),
    ]
    prefixes = tuple(f"{VARIABLE_PREFIX}{SEPARATOR.join(table)}{SEPARATOR}".upper() for table in tables)
    return load(
        path, listens_nowhere, {name: value for name, value in environ.items() if name.upper().startswith(prefixes)}
    )


@contextmanager
def _opened(settings: Settings) -> Iterator[Archive]:
    storage = storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    blobs = blob_store_class(settings.blob_store).from_settings(settings=settings.blobs_section)
    try:
        blobs.open()
        storage.open()
        yield Archive(storage, blobs)
    finally:
        storage.close()
        blobs.close()


def _summary(tally: Tally) -> str:
    counts = [f"{count} {name}" for name, count in tally.counts.items()]
    return f"{', '.join(counts[:-1])} and {counts[-1]}, files of {tally.size_bytes / MEGABYTE:.1f} MB."


def _tell(line: ProgressLine, progress: Progress) -> None:
    line.tell(lambda: _words(progress))


def _words(progress: Progress) -> str:
    word = "Verified" if progress.verifying else "Copied"
    percent = 100 * progress.instances // progress.total if progress.total else 100
    text = f"{word:<9} {progress.instances} of {progress.total} instances ({percent} %)"
    return f"{text}, {progress.size_bytes / MEGABYTE:.1f} MB"
