"""The commands; serve is also what runs without a name. Only the module of the one that is asked for is imported."""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomweb_server import __version__
from dicomweb_server.errors import DicomwebError, StorageCorrupt, StorageFull, StorageUnavailable
from dicomweb_server.settings import Settings, load

PROGRAM = "dicomweb-server"

# The options of the command line, and the settings that they are.
_SETTING_OF_OPTION = {
    "host": "server.host",
    "port": "server.port",
    "workers": "server.workers",
    "data": "storage.directory",
}
_SEVERAL = ("uids", "words", "paths", "sources")
"""What commands call their arguments of which there can be several."""
_SERVER = ("host", "port", "workers")
_DATA = ("data",)


_ADVICE: Mapping[type[DicomwebError], str] = {
    StorageFull: "Free some space there, or look at [disk] of the settings; then run it again.",
    StorageUnavailable: "Look whether the database runs and whether its files can be written (is the disk full, "
    "mounted read-only, whose are they?); then run it again.",
    StorageCorrupt: "check says what else is damaged, rebuild makes the index again from the files, and restore-backup "
    "brings a backup back.",
}
"""What to do about what went wrong in the storage; the first that fits."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command, by the name of its module in `dicomweb_server.commands`. `options` are those that stand for settings;
    None: not even a settings file."""

    name: str
    module: str
    summary: str
    options: Sequence[str] | None = _DATA


COMMANDS = (
    Command("serve", "serve", "start the archive", (*_SERVER, *_DATA)),
    Command("demo", "demo", "start an archive with sample studies, in a temporary folder", _SERVER),
    Command("backup", "backup", "copy what is new of a running archive into a folder"),
    Command("restore-backup", "restore_backup", "bring a backup back into an empty archive, and prove it"),
    Command("migrate", "migrate", "upgrade an archive of an older release"),
    Command("check", "check", "find, and with --repair mend, what is not whole"),
    Command("rebuild", "rebuild", "make the index again, from the files alone"),
    Command("export", "export", "write studies to a folder or a zip, with a DICOMDIR"),
    Command("import", "import_files", "store the DICOM files of folders and zips"),
    Command("watch", "watch", "store the files that others put into a folder"),
    Command("edit", "edit", "correct attributes, merge patients, move series; with a reason"),
    Command("remove", "remove", "put studies, series or instances into the recycle bin"),
    Command("restore", "restore", "bring back what was removed"),
    Command("bin", "recycle", "list what was removed, or delete it for good"),
    Command("viewer", "viewer", "show, install or remove the OHIF viewer that serve hosts"),
    Command("user", "user", "add, list, change and remove users"),
    Command("audit", "audit", "print who did what"),
    Command("key", "key", "make, list and revoke API keys for scripts"),
    Command(
        "doctor",
        "doctor",
        "ask a DICOMweb server what viewers and clients ask, and explain what it answers wrongly",
        (),
    ),
    Command("copy", "copy", "copy a whole archive from one backend to another", None),
    Command("fhir", "fhir", "print studies as FHIR resources, from files or an archive"),
    Command("conformance", "conformance", "print the DICOM conformance statement", ()),
    Command("config", "config", "print every setting and where it comes from", tuple(_SETTING_OF_OPTION)),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, 1 when it cannot be done, 2 when it was asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    options = _parsed(_parser(words[0]), words)
    try:
        # A command without --config names its settings itself.
        settings = load(config=options.config, overrides=_overrides(options)) if "config" in options else Settings()
        return int(options.run(settings, options) or 0)
    except DicomwebError as exc:
        print(f"{PROGRAM}: {exc.message}", file=sys.stderr)
        usual = next((text for kind, text in _ADVICE.items() if isinstance(exc, kind)), None)
        if advice := _permission(exc) or usual:
            print(advice, file=sys.stderr)
        return 1
    except OSError as exc:  # of files that a command names or writes beside the archive
        print(f"{PROGRAM}: {exc.strerror or exc}: {exc.filename or 'a file'}", file=sys.stderr)
        if advice := _permission(exc):
            print(advice, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _permission(exc: BaseException | None) -> str | None:
    """What to do where an error came of a file that this user may not open."""
    while exc is not None and not isinstance(exc, PermissionError):
        exc = exc.__cause__
    if exc is None or exc.filename is None:
        return None
    name = os.fsdecode(exc.filename)
    return f"This user may not use {name}: run it as the user whose files these are, or change their permissions."


def _parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options. What a command takes several of may also stand behind an option, where argparse leaves it over."""
    options, over = parser.parse_known_args(words)
    taken = next((value for name in _SEVERAL if (value := getattr(options, name, None)) is not None), None)
    if over and (taken is None or any(word.startswith("-") for word in over)):
        options.wrong_usage(f"unrecognized arguments: {' '.join(over)}")
    if taken is not None:
        taken.extend(Path(word) if taken is getattr(options, "paths", None) else word for word in over)
    return options


def _parser(wanted: str) -> argparse.ArgumentParser:
    """Knows all commands, and of the one that is wanted what it takes."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A medical image archive that speaks DICOMweb.",
        epilog=f"{PROGRAM} COMMAND --help tells more; without a command it is serve.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        found = commands.add_parser(command.name, help=command.summary)
        if command.name == wanted:
            _describe(found, command)
    return parser


def _describe(parser: argparse.ArgumentParser, command: Command) -> None:
    module = importlib.import_module(f"dicomweb_server.commands.{command.module}")
    parser.description = f"{command.summary[0].upper()}{command.summary[1:]}."
    parser.epilog = f"Example: {PROGRAM} {module.EXAMPLE}"
    parser.set_defaults(run=module.run, wrong_usage=parser.error)
    if command.options is not None:
        _add_options(parser, command.options)
    actions = module.add_arguments(parser) if hasattr(module, "add_arguments") else None
    for action in actions or ():
        _add_options(action, command.options or (), default=argparse.SUPPRESS)


def _add_options(command: argparse.ArgumentParser, names: Sequence[str], **more: Any) -> None:
    """--config and the others; of an action of a command they are as good behind it as before."""
    words = "settings file (TOML); also DICOMWEB_CONFIG"
    command.add_argument("--config", type=Path, metavar="FILE", help=words, **more)
    details: Mapping[str, Mapping[str, Any]] = {
        "host": {"metavar": "HOST", "help": "address to listen on (127.0.0.1)"},
        "port": {"type": int, "metavar": "PORT", "help": "port to listen on (5985); 0 takes a free one"},
        "workers": {"type": int, "metavar": "N", "help": "worker processes (one per processor, at most 4)"},
        "data": {"type": Path, "metavar": "DIR", "help": "folder of the data (./dicomweb-data)"},
    }
    for name in names:
        command.add_argument(f"--{name}", **details[name], **more)


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    given = {setting: getattr(options, name, None) for name, setting in _SETTING_OF_OPTION.items()}
    return {setting: value for setting, value in given.items() if value is not None}


if __name__ == "__main__":
    sys.exit(main())
