"""`dicomweb-server check`: whether files and index of a running archive are whole, and putting right what is not."""

import argparse
from collections import Counter
from contextlib import closing

import orjson

from dicomweb_server.commands.progress import ProgressLine, bar
from dicomweb_server.opening import open_existing
from dicomweb_server.services.check import ASIDE, Check, CheckProgress, Finding, Problem
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents

EXAMPLE = "check --repair --deep --data /srv/dicom"
NOTES = """\
Servers may run, store and delete meanwhile: what looks wrong is looked at twice. Nothing is changed without --repair.

  missing file          --repair takes the record out of the archive and keeps it aside (--aside lists those)
  broken link           a linked file was moved, deleted or changed: bring it back, or link or store it again
  file of another size, damaged file, unreadable record
                        remove the instance and store it again, from a backup or where it came from
  wrong totals          --repair derives them again from the instances
  orphan file           older than a day, and nothing refers to it: --repair deletes it, unless most files are orphans

Exit status: 0 nothing is wrong, or all of it was put right; 3 something is left; 1 the check could not be done;
2 wrong usage, 130 interrupted."""
LEFT_STATUS = 3


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("--repair", action="store_true", help="put right what can be")
    command.add_argument("--deep", action="store_true", help="read every file and compare its SHA-256")
    command.add_argument("--aside", action="store_true", help="list what was put aside, as lines of JSON, and end")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Check; gives the exit status. Raises DicomwebError."""
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs):
        if options.aside:
            _print_aside(storage)
            return 0
        found: Counter[Problem] = Counter()
        left = 0
        with ProgressLine() as line:
            check = Check(
                storage,
                blobs,
                deep=options.deep,
                repair=options.repair,
                told=lambda progress: line.tell(lambda: _progress(progress)),
            )
            for finding in check.run():
                line.end()
                print(_words(finding), flush=True)
                found[finding.problem] += 1
                left += not finding.repaired
    if not found:
        print("Nothing is wrong.")
        return 0
    print(f"Found {', '.join(f'{number} x {problem}' for problem, number in found.items())}; {left} left.")
    return LEFT_STATUS if left else 0


def _words(finding: Finding) -> str:
    state = "repaired" if finding.repaired else "FOUND"
    return f"{state:<9} {finding.problem}: {finding.what}" + (f": {finding.detail}" if finding.detail else "")


def _progress(progress: CheckProgress) -> str:
    of = (
        f"{bar(progress.done, progress.total)} {progress.done} of {progress.total}" if progress.total else progress.done
    )
    return f"Checked   {progress.step} {of}"


def _print_aside(storage: Storage) -> None:
    for document in all_documents(storage, kind=ASIDE):
        print(orjson.dumps(document.body).decode())
