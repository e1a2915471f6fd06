"""`dicomweb-server edit`: attributes of what is stored, two patients who are one, a series of another study."""

import argparse
from collections.abc import Sequence
from contextlib import closing

from dicomweb_server.audit.record import FAILED, SUCCESS, AuditRecord
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.authenticating import open_trail
from dicomweb_server.commands.auditing import COMMAND, operator
from dicomweb_server.commands.progress import counted
from dicomweb_server.errors import BadRequest
from dicomweb_server.opening import ingest_of, open_existing
from dicomweb_server.services.edit import CODES, Cause, Edit, PatientName
from dicomweb_server.services.edit_intents import Intent
from dicomweb_server.services.editor import Editor, EditReport
from dicomweb_server.services.export import chosen_scopes
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Scope

EXAMPLE = (
    "edit 1.2.840.113619.2.1.1 --set PatientName=Doe^Jane --remove AccessionNumber --reason 'wrong patient chosen'"
)
NOTES = """\
Three forms:
  edit UID --set NAME=VALUE --remove NAME ...   attributes of a study or series
  edit merge --source ID --target ID            the studies of the source become those of the target patient
  edit move SERIES_UID --to STUDY_UID           a series goes to another study, without --to to a new one

Each instance that changes becomes a new version; what was there stands in its Original Attributes Sequence, and the
version before is kept: restore UID --previous brings it back. The server may run meanwhile. The reason is kept in the
audit trail. --dry-run says what it would do. An edit that was interrupted is finished by the server, or with --resume.
A backslash separates several values of an attribute.

Exit status: 0 all is edited, 1 something is not and why, 2 wrong usage, 130 interrupted."""
MERGE, MOVE = "merge", "move"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("words", nargs="*", metavar="UID", help="a study or series; or merge; or move and a series")
    command.add_argument("--series", metavar="UID", help="only this series of the study")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a new value; repeatable")
    command.add_argument("--remove", action="append", default=[], metavar="NAME", help="a value to empty; repeatable")
    command.add_argument("--source", metavar="ID", help="merge: the patient who is not one")
    command.add_argument("--source-issuer", metavar="NAME", help="who issued that ID, where several have")
    command.add_argument("--target", metavar="ID", help="merge: the patient who it is")
    command.add_argument("--target-issuer", metavar="NAME", help="who issued that ID, where several have")
    command.add_argument("--to", metavar="UID", help="move: the study, also one that is not there yet")
    command.add_argument("--reason", default="", metavar="TEXT", help="why; required")
    command.add_argument("--code", choices=CODES, default=CODES[0], help="the kind of reason, for the files (CORRECT)")
    command.add_argument("--dry-run", action="store_true", help="only say how many instances it is")
    command.add_argument("--resume", action="store_true", help="finish what was interrupted")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Edit; gives the exit status. Raises DicomwebError."""
    _check_usage(options)
    storage, blobs = open_existing(settings)
    with closing(storage), closing(blobs):
        editor = Editor(storage, blobs, ingest_of(settings, storage, blobs, edits=True))
        if options.resume:
            print(f"Finished {counted(editor.resume(), 'edit')}")
            return 0
        edit = Edit(storage, editor)
        intent = _intent(edit, storage, options)
        if options.dry_run:
            found = edit.survey(intent)
            print(f"Would edit {counted(found.edited, 'instance')}; {found.unchanged} already so")
            return 0
        report = _audited(edit, intent, open_trail(settings, storage))
        print(f"Edited {counted(report.edited, 'instance')}; {report.unchanged} already so")
        if options.words[0] == MOVE:
            print(f"The series is in study {intent.task.study_uid_after(intent.task.scopes[0])}")
        for uid, reason in report.failed:
            print(f"left as it was: {uid}: {reason}")
    return 1 if report.failures else 0


def _check_usage(options: argparse.Namespace) -> None:
    form = options.words[0] if options.words else ""
    if options.resume:
        if options.words:
            options.wrong_usage("--resume takes no UID")
    elif form == MERGE:
        if len(options.words) > 1 or not options.source or not options.target:
            options.wrong_usage("merge takes --source ID and --target ID")
    elif len(options.words) != (2 if form == MOVE else 1):
        options.wrong_usage("name one study or series; or merge; or move and a series")
    elif form != MOVE and not (options.set or options.remove):
        options.wrong_usage("say what to change: --set NAME=VALUE, --remove NAME")
    if not options.resume and not options.reason:
        options.wrong_usage("--reason TEXT is required")


def _intent(edit: Edit, storage: Storage, options: argparse.Namespace) -> Intent:
    cause = Cause(reason=options.reason, code=options.code, user=operator())
    form, *more = options.words
    if form == MERGE:
        source = PatientName(patient_id=options.source, issuer=options.source_issuer)
        return edit.merge(source, PatientName(patient_id=options.target, issuer=options.target_issuer), cause)
    attributes = _attributes(options.set, options.remove)
    if form == MOVE:
        scope = _scope(storage, more[0])
        if scope.series_uid is None:
            raise BadRequest(f"{more[0]} is a study: name the series to move.")
        return edit.move(scope, options.to, attributes, cause)
    scope = Scope(study_uid=form, series_uid=options.series) if options.series else _scope(storage, form)
    return edit.attributes(scope, attributes, cause)


def _scope(storage: Storage, uid: str) -> Scope:
    (scope, *others) = chosen_scopes(storage, [uid])
    if others:
        raise BadRequest("This names several: edit one study or series at a time.")
    if scope.instance_uid is not None:
        raise BadRequest(f"{uid} is an instance: edit its series or study.")
    return scope


def _attributes(given: Sequence[str], removed: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise BadRequest("--set takes NAME=VALUE, as PatientName=Doe^Jane.")
        if name in found:
            raise BadRequest(f"{name} is given twice.")
        found[name] = {"Value": value.split("\\")} if "\\" in value else value
    for name in removed:
        if name in found:
            raise BadRequest(f"{name} is given twice.")
        found[name] = None
    return found


def _audited(edit: Edit, intent: Intent, trail: AuditTrail | None) -> EditReport:
    """Carry it out; what was tried stands in the audit trail."""
    if trail is None:
        return edit.run(intent)
    with closing(trail):
        patients = {uid: trail.patient_of(uid) for uid in intent.studies}
        outcome = FAILED
        try:
            report = edit.run(intent)
            outcome = SUCCESS
        finally:
            for uid, patient in patients.items():
                record = AuditRecord(
                    time=trail.now(),
                    action="edit",
                    user=intent.user,
                    kind=COMMAND,
                    address="",
                    outcome=outcome,
                    what=f"edit {intent.verb}",
                    study_uid=uid,
                    patient_id=patient,
                    reason=intent.reason,
                )
                trail.note(record)
    return report
