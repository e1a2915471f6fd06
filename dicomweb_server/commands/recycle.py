"""`dicomweb-server bin`: what is in the recycle bin, and an end to it."""

import argparse
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

from dicomweb_server.commands.progress import MEGABYTE, counted
from dicomweb_server.commands.restore import scope_in_bin
from dicomweb_server.errors import BadRequest
from dicomweb_server.opening import open_existing
from dicomweb_server.services.export import chosen_scopes
from dicomweb_server.services.recycle import RecycleBin, moment_of, shown, text_of
from dicomweb_server.services.remove import Remove
from dicomweb_server.settings import Settings
from dicomweb_server.storage.records import Binned, Scope

EXAMPLE = "bin purge --before 2026-01-31 --data /srv/dicom"
NOTES = """\
list prints a line for each study with something in the bin: when it was removed last, instances, megabytes, Study
Instance UID, Patient ID, name, study date, description. purge deletes for good what a UID names, what was removed
before a day or time (UTC), or all. restore brings back. With --replaced, purge means the older versions of what is
stored (see: restore --versions): of a study, series or instance, those that were replaced before a day or time, or all.

Exit status: 0 done, 1 not and why, 2 wrong usage, 130 interrupted."""
COLUMNS = ("00100020", "00100010", "00080020", "00081030")


@dataclass(slots=True)
class _Study:
    removed_at: str
    instances: int
    size_bytes: int
    words: str


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("action", choices=("list", "purge"), help="what to do")
    command.add_argument("uids", nargs="*", metavar="UID", help="only of this study, series or instance")
    command.add_argument("--before", default="", metavar="DATE", help="only what was removed before this day or time")
    command.add_argument("--all", action="store_true", help="purge everything")
    command.add_argument("--replaced", action="store_true", help="purge older versions of what is stored")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """List or purge; gives the exit status. Raises DicomwebError."""
    before = moment_of(options.before)
    if options.action == "purge" and not (options.uids or before or options.all):
        raise BadRequest("Name a UID or --before to purge, or say --all.")
    if options.replaced and options.action == "list":
        raise BadRequest("Older versions are listed by: restore UID --versions.")
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs):
        recycle_bin = RecycleBin(storage)
        if options.replaced:
            stored = chosen_scopes(storage, options.uids) or [Scope()]
            number = sum(recycle_bin.purge_replaced(scope=scope, before=before) for scope in stored)
            files = Remove(storage, blobs).release()
            print(f"Deleted {counted(number, 'older version')} for good, {counted(files, 'file')}")
            return 0
        scopes = [scope_in_bin(storage, uid) for uid in options.uids] or [Scope()]
        if options.action == "list":
            _print(entry for scope in scopes for entry in recycle_bin.entries(scope=scope, before=before))
            return 0
        number = sum(recycle_bin.purge(scope=scope, before=before) for scope in scopes)
        files = Remove(storage, blobs).release()
    print(f"Deleted {counted(number, 'instance')} for good, {counted(files, 'file')}")
    return 0


def _print(entries: Iterable[Binned]) -> None:
    studies: dict[str, _Study] = {}
    for entry in entries:
        attributes = shown(entry)
        words = "\t".join(text_of(attributes, tag) for tag in COLUMNS)
        study = studies.setdefault(entry.instance.study_uid, _Study("", 0, 0, words))
        study.removed_at = entry.binned_at.isoformat(" ", timespec="seconds")
        study.instances += 1
        study.size_bytes += entry.instance.blob.size_bytes
    for uid, study in studies.items():
        size = f"{study.size_bytes / MEGABYTE:.1f}"
        print(f"{study.removed_at}\t{study.instances}\t{size}\t{uid}\t{study.words}")
