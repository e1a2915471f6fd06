"""What commands leave in the audit trail: who changes rights on the command line is told like who does it over HTTP."""

import getpass

from dicomweb_server.audit.record import SUCCESS, AuditRecord
from dicomweb_server.authenticating import open_trail
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import Storage

COMMAND = "command"
"""The kind of who works on the command line."""


def operator() -> str:
    """Who works on the command line, by the name on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return "unknown"


def note_change(settings: Settings, storage: Storage, *, what: str, object_id: str) -> None:
    """Keep that rights were changed by a command."""
    trail = open_trail(settings, storage)
    if trail is None:
        return
    try:
        trail.note(
            AuditRecord(
                time=trail.now(),
                action="admin",
                user=operator(),
                kind=COMMAND,
                address="",
                outcome=SUCCESS,
                what=what,
                object_id=object_id[:128],
            )
        )
    finally:
        trail.close()
