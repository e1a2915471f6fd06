"""`dicomweb-server user`: who can log in, and what they may do."""

import argparse
import getpass
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from dicomweb_server.auth import passwords
from dicomweb_server.auth.access import conditions
from dicomweb_server.auth.rights import Roles
from dicomweb_server.auth.users import Users, new_user, user_name
from dicomweb_server.commands.auditing import note_change
from dicomweb_server.errors import BadRequest, Conflict
from dicomweb_server.opening import require_archive
from dicomweb_server.plugins import storage_class
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import Storage

EXAMPLE = "user add anna --role admin"
NOTES = """\
The first user is an administrator unless --role says otherwise. A password is asked for on a terminal, read from the
first line of standard input with --password-stdin, and made and printed once otherwise.

Roles: reader (search, retrieve), writer (also store), curator (also edit, delete, restore, share), admin (all), and
those of auth.roles. A changed password, role or state ends the sessions of the user within two seconds.

Exit status: 0 done, 1 it cannot be done, 2 wrong usage."""


def add_arguments(command: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
    """Describe what the command takes; gives the parsers of its actions."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="add a user")
    add.add_argument("name")
    add.add_argument("--role", action="append", default=[], help="a role; may be given several times (reader)")
    add.add_argument(
        "--access", default="", metavar="CONDITIONS", help="only studies like 'InstitutionName=North Hospital'"
    )
    add.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    actions.add_parser("list", help="list the users")
    password = actions.add_parser("password", help="set a new password")
    password.add_argument("name")
    password.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    role = actions.add_parser("role", help="set the roles")
    role.add_argument("name")
    role.add_argument("role", nargs="+")
    access = actions.add_parser("access", help="set which studies exist for them; '' for all")
    access.add_argument("name")
    access.add_argument("conditions")
    for name, words in (
        ("disable", "keep a user from logging in"),
        ("enable", "let a user log in again"),
        ("remove", "remove a user"),
    ):
        actions.add_parser(name, help=words).add_argument("name")
    return actions.choices.values()


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do it; gives the exit status. Raises DicomwebError."""
    roles = Roles(settings.auth.roles, settings.auth.role_map)
    with opened(settings, anew=options.action == "add") as storage:
        users = Users(storage)
        action = {"add": _add, "list": _list, "password": _password}.get(options.action, _change)
        action(users, roles, options)
        if options.action in ("role", "disable", "remove") and not users.has_admin():
            print(
                "Nobody is an administrator now: dicomweb-server user role NAME admin, or user add NAME --role admin."
            )
        if options.action != "list":
            note_change(settings, storage, what=f"user {options.action}", object_id=user_name(options.name))
    if settings.auth.method == "none" and options.action == "add":
        print('Nobody has to log in yet: set auth.method = "jwt" (docs/auth.md).')
    return 0


@contextmanager
def opened(settings: Settings, *, anew: bool = False) -> Iterator[Storage]:
    """The storage of the settings, until the block ends; `anew`: it is made where there is none."""
    if not anew:
        require_archive(settings)
    storage = storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    if settings.storage.backend == "sqlite":
        settings.storage.directory.mkdir(parents=True, exist_ok=True)
    try:
        storage.open()
        yield storage
    finally:
        storage.close()


def _add(users: Users, roles: Roles, options: argparse.Namespace) -> None:
    name = user_name(options.name)
    if users.find(name) is not None:
        raise Conflict(f"there is a user {name} already")
    first = not users.has_admin()
    chosen = roles.checked(options.role or (["admin"] if first else ["reader"]), "--role")
    if options.access:
        conditions(options.access)
    password, made = _new_password(name, stdin=options.password_stdin)
    users.add(new_user(name, password, roles=chosen, access=options.access))
    print(f"Added {name} ({', '.join(chosen)}).")
    if made:
        print(f"Password: {password}")


def _list(users: Users, _roles: Roles, _options: argparse.Namespace) -> None:
    for user in users.all():
        state = "disabled" if user.disabled else "active"
        print(f"{user.name:<24} {','.join(user.roles):<24} {state:<9} {user.access}".rstrip())


def _password(users: Users, _roles: Roles, options: argparse.Namespace) -> None:
    user = users.get(options.name)
    password, made = _new_password(user.name, stdin=options.password_stdin)
    users.set_password(user.name, password)
    print(f"The password of {user.name} is changed; its sessions end.")
    if made:
        print(f"Password: {password}")


def _change(users: Users, roles: Roles, options: argparse.Namespace) -> None:
    name = user_name(options.name)
    if options.action == "remove":
        users.remove(name)
        print(f"Removed {name}.")
        return
    if options.action == "role":
        chosen = roles.checked(options.role, "role")
        users.change(name, lambda user: replace(user, roles=chosen))
        print(f"{name} is now {', '.join(chosen)}.")
    elif options.action == "access":
        if options.conditions:
            conditions(options.conditions)
        users.change(name, lambda user: replace(user, access=options.conditions))
        print(f"Access of {name}: {options.conditions or 'all studies'}.")
    else:
        disabled = options.action == "disable"
        users.change(name, lambda user: replace(user, disabled=disabled))
        print(f"{name} is {'disabled' if disabled else 'enabled'}.")


def _new_password(name: str, *, stdin: bool) -> tuple[str, bool]:
    """A password for somebody, and whether it was made here."""
    if stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise BadRequest("the two passwords differ")
    else:
        return passwords.new_password(), True
    passwords.check_strength(password, user=name)
    return password, False
