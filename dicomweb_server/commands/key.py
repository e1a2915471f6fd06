"""`dicomweb-server key`: API keys for scripts."""

import argparse
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from dicomweb_server.auth.access import conditions
from dicomweb_server.auth.keys import ApiKeys
from dicomweb_server.auth.rights import Roles
from dicomweb_server.commands.auditing import note_change
from dicomweb_server.commands.user import opened
from dicomweb_server.errors import BadRequest
from dicomweb_server.permissions import Permission
from dicomweb_server.settings import Settings

EXAMPLE = "key add nightly-import --role writer --permission store --days 90"


def add_arguments(command: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    """Describe what the command takes; gives the parsers of its actions."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it, once")
    add.add_argument("name", help="what it is for")
    add.add_argument("--role", action="append", default=[], help="a role; may be given several times (reader)")
    add.add_argument("--permission", action="append", default=[], help="only this of what the roles allow")
    add.add_argument("--access", default="", metavar="CONDITIONS", help="only studies like 'InstitutionName=North'")
    add.add_argument("--days", type=int, default=0, help="how long it is good (0: until it is revoked)")
    actions.add_parser("list", help="list the keys")
    actions.add_parser("revoke", help="end a key").add_argument("id")
    return actions.choices.values()


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it; gives the exit status. Raises DicomwebError."""
    with opened(settings, anew=options.action == "add") as storage:
        keys = ApiKeys(storage)
        if options.action == "add":
            key_id = _add(keys, Roles(settings.auth.roles, settings.auth.role_map), options)
            note_change(settings, storage, what="key add", object_id=key_id)
        elif options.action == "revoke":
            keys.revoke(options.id)
            note_change(settings, storage, what="key revoke", object_id=options.id)
            print(f"Revoked {options.id}.")
        else:
            _list(keys)
    return 0


def _add(keys: ApiKeys, roles: Roles, options: argparse.Namespace) -> str:
    """Make it and print it; gives its id."""
    if options.days < 0:
        raise BadRequest("--days is 0 or more")
    try:
        permissions = tuple(str(Permission(word)) for word in options.permission)
    except ValueError:
        raise BadRequest(f"--permission is one of {', '.join(Permission)}") from None
    if options.access:
        conditions(options.access)
    key, text = keys.make(
        options.name,
        roles=roles.checked(options.role or ["reader"], "--role"),
        seconds=options.days * 86_400,
        permissions=permissions,
        access=options.access,
        created_by="command line",
    )
    print(f"Made the key {key.key_id} ({key.name}). It is shown this once; send it as `Authorization: Bearer KEY`:")
    print(text)
    return key.key_id


def _list(keys: ApiKeys) -> None:
    for key in keys.all():
        until = "no end"
        if key.expires:
            day = datetime.fromtimestamp(key.expires, UTC).date().isoformat()
            until = f"expired {day}" if key.expires < time.time() else f"until {day}"
        scope = ",".join(key.permissions) or "all"
        print(f"{key.key_id}  {key.name:<24} {','.join(key.roles):<16} {scope:<16} {until:<18} {key.access}".rstrip())
