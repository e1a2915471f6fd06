"""`dicomweb-server audit`: who did what."""

import argparse
import socket

import orjson

from dicomweb_server.audit.record import AuditRecord, plain, to_audit_event, to_message
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.commands.auditing import COMMAND, operator
from dicomweb_server.commands.user import opened
from dicomweb_server.errors import BadRequest
from dicomweb_server.settings import Settings

EXAMPLE = "audit --patient 4711 --since 2026-05-01 --format json"
_CRITERIA = ("user", "study", "patient", "action", "outcome")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    for name in _CRITERIA:
        command.add_argument(f"--{name}", default="", help=f"only records with this {name}")
    command.add_argument("--since", default="", metavar="TIME", help="from this day or time (UTC) on: 2026-05-01")
    command.add_argument("--until", default="", metavar="TIME", help="up to this day or time (UTC)")
    command.add_argument(
        "--purge-before",
        default="",
        metavar="TIME",
        help="delete for good all records of before this day or time (UTC); that leaves a record itself",
    )
    command.add_argument("--limit", type=int, default=0, help="at most so many (0: all)")
    command.add_argument(
        "--format",
        choices=("text", "json", "fhir", "xml"),
        default="text",
        help="a line of text or of JSON each, FHIR AuditEvents or DICOM audit messages",
    )


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Print records, oldest first; gives the exit status. Raises DicomwebError."""
    if options.limit < 0:
        raise BadRequest("--limit is 0 or more")
    criteria = {name: getattr(options, name) for name in _CRITERIA if getattr(options, name)}
    if options.purge_before and (criteria or options.since or options.until or options.limit):
        raise BadRequest("--purge-before goes alone: all records of before that time are deleted")
    with opened(settings) as storage:
        if options.purge_before:
            purged = AuditTrail(storage).purge(before=options.purge_before, user=operator(), kind=COMMAND)
            print(f"purged {purged} records")
            return 0
        found = AuditTrail(storage).all(criteria, since=options.since, until=options.until)
        for number, (name, record) in enumerate(found, start=1):
            print(_line(options.format, name, record))
            if number == options.limit:
                break
    return 0


def _line(form: str, name: str, record: AuditRecord) -> str:
    if form == "json":
        return orjson.dumps(record.as_json()).decode()
    if form == "fhir":
        return orjson.dumps(to_audit_event(record, event_id=name[:64])).decode()
    if form == "xml":
        return to_message(record, host=socket.gethostname()).decode()
    record = plain(record)
    times = f" x{record.count}" if record.count > 1 else ""
    reason = f": {record.reason}" if record.reason else ""
    about = " ".join(filter(None, (record.patient_id, record.study_uid, record.object_id)))
    who = f"{record.user or '-'}@{record.address or '-'}"
    return f"{record.time} {record.outcome:<7} {record.action:<8} {who} {about} [{record.what}]{times}{reason}"
