"""`dicomweb-server restore`: what was removed comes back from the recycle bin."""

import argparse
from contextlib import closing

from dicomweb_server.commands.progress import counted
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.opening import open_existing
from dicomweb_server.services.export import chosen_scopes
from dicomweb_server.services.recycle import RecycleBin
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Scope

EXAMPLE = "restore 1.2.840.113619.2.1.1 --data /srv/dicom"
NOTES = """\
A UID names a study, a series or an instance in the recycle bin (see: bin). Of each instance what was removed last comes
back, with its older versions. What is stored again meanwhile stays as it is, and the removed one in the bin.

With --previous it names what is stored: each instance that was replaced gets its version before back; the current one
is kept in its stead, so that the same command undoes it. --versions lists the older versions that are kept: the
version, when it was replaced, its bytes and SOP Instance UID. --version brings the named one of an instance back.

Exit status: 0 all is back, 1 something is not and why, 2 wrong usage, 130 interrupted."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("uids", nargs="+", metavar="UID", help="what to restore")
    command.add_argument(
        "--previous", action="store_true", help="of what is stored and was replaced, the version before"
    )
    command.add_argument("--versions", action="store_true", help="list the older versions of what is stored, and end")
    command.add_argument("--version", metavar="VERSION", help="this older version of one stored instance")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Restore; gives the exit status. Raises DicomwebError."""
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs):
        recycle_bin = RecycleBin(storage)
        if options.previous:
            stored = chosen_scopes(storage, options.uids)
            number = sum(recycle_bin.restore_previous(scope=scope) for scope in stored)
            print(f"Restored the version before of {counted(number, 'instance')}")
            return 0
        if options.versions:
            for scope in chosen_scopes(storage, options.uids):
                _print_versions(storage, scope)
            return 0
        if options.version is not None:
            if len(options.uids) != 1:
                raise BadRequest("A version is that of one instance: name its UID only.")
            storage.restore(instance_uid=options.uids[0], version=options.version)
            print(f"Restored version {options.version} of 1 instance")
            return 0
        scopes = [scope_in_bin(storage, uid) for uid in options.uids]
        done = [recycle_bin.restore(scope=scope) for scope in scopes]
    conflicts = sum(one.conflicts for one in done)
    print(f"Restored {counted(sum(one.restored for one in done), 'instance')}")
    if conflicts:
        print(f"{conflicts} stored again meanwhile: left in the bin")
    return 1 if conflicts else 0


def _print_versions(storage: Storage, scope: Scope) -> None:
    """Of each instance, the newest version first."""
    for one in storage.instances(scope=scope):
        for old in storage.replaced(instance_uid=one.instance_uid):
            moment = old.replaced_at.isoformat(" ", timespec="seconds")
            print(f"{old.version}\t{moment}\t{old.instance.blob.size_bytes}\t{one.instance_uid}")


def scope_in_bin(storage: Storage, uid: str) -> Scope:
    """What a UID names in the bin. Raises NotFound, BadRequest."""
    if not is_uid(uid):
        raise BadRequest(f"{uid!r} is no UID.")
    for level in (Level.STUDY, Level.SERIES, Level.INSTANCE):
        scope = Scope(**{f"{level.value}_uid": uid})
        if storage.binned(scope=scope, limit=1).entries:
            return scope
    raise NotFound(f"There is no study, series or instance {uid} in the bin.")
