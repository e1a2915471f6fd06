"""`dicomweb-server rebuild`: the index again, from the files alone."""

import argparse
from contextlib import closing

from dicomweb_server.commands.progress import Pace, ProgressLine, bar
from dicomweb_server.opening import open_parts
from dicomweb_server.services.rebuild import Rebuild, Rebuilt
from dicomweb_server.settings import Settings
from dicomweb_server.storage.records import Stored

EXAMPLE = "rebuild --data /srv/dicom"
NOTES = """\
For when the index is lost or damaged beyond repair, and there is no backup of it: move what is left of it away (SQLite:
the files index.sqlite*; a database: name another one in the settings), stop all servers, and run this. Files are only
read. Instances that were removed shortly before come back if their files were still there. Lost are users and other
documents, the change feed, and the times when instances were stored. After an interruption run it again.

Into an index that is not empty it takes only files that are older than a day, and replaces nothing.

Exit status: 0 every file is in the index, 3 some files are no instances (they are listed), 1 it stopped, 2 wrong usage,
130 interrupted."""
LEFT_STATUS = 3


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"


def run(settings: Settings, _options: argparse.Namespace) -> int:
    """Rebuild; gives the exit status. Raises DicomwebError."""
    storage, blobs = open_parts(settings)
    with closing(storage), closing(blobs), ProgressLine() as line:
        pace = Pace()

        def words(done: int, total: int) -> str:
            return f"Read      {bar(done, total)} {done} of {total} files{pace.left(done, total)}"

        rebuilt = Rebuild(storage, blobs, told=lambda done, total: line.tell(lambda: words(done, total))).run()
    _print(rebuilt)
    return LEFT_STATUS if rebuilt.refused else 0


def _print(rebuilt: Rebuilt) -> None:
    for key, reason in rebuilt.refused:
        print(f"LEFT      {key}: {reason}")
    outcomes = rebuilt.outcomes
    print(
        f"Stored {outcomes[Stored.CREATED]} instances and {outcomes[Stored.REPLACED]} later versions; "
        f"{rebuilt.known} files were known, {outcomes[Stored.SAME] + outcomes[Stored.REFUSED]} are of instances that "
        f"are there, {rebuilt.layouts} are not needed any more, {len(rebuilt.refused)} are no instances."
    )
    if rebuilt.grace:
        print("The index was not empty: only files older than a day were read, and nothing was replaced.")
