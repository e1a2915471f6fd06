"""The commands; serve is also what runs without a name."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dicomweb_server import __version__, demo, serving
from dicomweb_server.commands import (
    audit,
    backup,
    check,
    conformance,
    copy,
    doctor,
    export,
    fhir,
    import_files,
    key,
    migrate,
    rebuild,
    recycle,
    remove,
    restore,
    user,
    viewer,
    watch,
)
from dicomweb_server.errors import DicomwebError
from dicomweb_server.settings import Settings, load
from dicomweb_server.viewer import installed

PROGRAM = "dicomweb-server"

# The options of the command line, and the settings that they are.
_SETTING_OF_OPTION = {
    "host": "server.host",
    "port": "server.port",
    "workers": "server.workers",
    "data": "storage.directory",
}

# What commands take besides.
_MORE_ARGUMENTS = {
    "backup": backup.add_arguments,
    "restore-backup": backup.add_restore_arguments,
    "migrate": migrate.add_arguments,
    "check": check.add_arguments,
    "export": export.add_arguments,
    "rebuild": rebuild.add_arguments,
    "import": import_files.add_arguments,
    "watch": watch.add_arguments,
    "remove": remove.add_arguments,
    "restore": restore.add_arguments,
    "bin": recycle.add_arguments,
    "viewer": viewer.add_arguments,
    "user": user.add_arguments,
    "key": key.add_arguments,
    "audit": audit.add_arguments,
    "doctor": doctor.add_arguments,
    "copy": copy.add_arguments,
    "fhir": fhir.add_arguments,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit status: 0, 1 when it cannot be done, 2 when it was asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    options = _parser().parse_args(words)
    try:
        # A command without --config names its settings itself.
        settings = load(config=options.config, overrides=_overrides(options)) if "config" in options else Settings()
        return int(options.run(settings, options) or 0)
    except DicomwebError as exc:
        print(f"{PROGRAM}: {exc.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A medical image archive that speaks DICOMweb.",
        epilog=f"{PROGRAM} COMMAND --help tells more; without a command it is serve.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table = (
        (
            "serve",
            _serve,
            "start the archive",
            "serve --port 8080 --data /srv/dicom",
            ("host", "port", "workers", "data"),
        ),
        (
            "demo",
            _demo,
            "start an archive with sample studies, in a temporary folder",
            "demo",
            ("host", "port", "workers"),
        ),
        ("backup", backup.run, "copy what is new of a running archive into a folder", backup.EXAMPLE, ("data",)),
        (
            "restore-backup",
            backup.run_restore,
            "bring a backup back into an empty archive, and prove it",
            backup.RESTORE_EXAMPLE,
            ("data",),
        ),
        ("migrate", migrate.run, "upgrade an archive of an older release", migrate.EXAMPLE, ("data",)),
        ("check", check.run, "find, and with --repair mend, what is not whole", check.EXAMPLE, ("data",)),
        ("rebuild", rebuild.run, "make the index again, from the files alone", rebuild.EXAMPLE, ("data",)),
        ("export", export.run, "write studies to a folder or a zip, with a DICOMDIR", export.EXAMPLE, ("data",)),
        ("import", import_files.run, "store the DICOM files of folders and zips", import_files.EXAMPLE, ("data",)),
        ("watch", watch.run, "store the files that others put into a folder", watch.EXAMPLE, ("data",)),
        ("remove", remove.run, "put studies, series or instances into the recycle bin", remove.EXAMPLE, ("data",)),
        ("restore", restore.run, "bring back what was removed", restore.EXAMPLE, ("data",)),
        ("bin", recycle.run, "list what was removed, or delete it for good", recycle.EXAMPLE, ("data",)),
        (
            "viewer",
            viewer.run,
            "show, install or remove the OHIF viewer that serve hosts",
            "viewer install --data /srv/dicom",
            ("data",),
        ),
        ("user", user.run, "add, list, change and remove users", user.EXAMPLE, ("data",)),
        ("audit", audit.run, "print who did what", audit.EXAMPLE, ("data",)),
        ("key", key.run, "make, list and revoke API keys for scripts", key.EXAMPLE, ("data",)),
        (
            "doctor",
            doctor.run,
            "ask a DICOMweb server what viewers and clients ask, and explain what it answers wrongly",
            "doctor http://localhost:5985/dicom-web --store",
            (),
        ),
        ("copy", copy.run, "copy a whole archive from one backend to another", copy.EXAMPLE, ()),
        ("fhir", fhir.run, "print studies as FHIR resources, from files or an archive", fhir.EXAMPLE, ("data",)),
        ("conformance", conformance.run, "print the DICOM conformance statement", conformance.EXAMPLE, ()),
        ("config", _config, "print every setting and where it comes from", "config --config site.toml", ()),
    )
    for name, run, words, example, own in table:
        command = commands.add_parser(
            name, help=words, description=f"{words[0].upper()}{words[1:]}.", epilog=f"Example: {PROGRAM} {example}"
        )
        command.set_defaults(run=run)
        if name != "copy":
            _add_options(command, tuple(_SETTING_OF_OPTION) if name == "config" else own)
        if name in _MORE_ARGUMENTS:
            _MORE_ARGUMENTS[name](command)
    return parser


def _add_options(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="settings file (TOML); also DICOMWEB_CONFIG")
    details: Mapping[str, Mapping[str, Any]] = {
        "host": {"metavar": "HOST", "help": "address to listen on (127.0.0.1)"},
        "port": {"type": int, "metavar": "PORT", "help": "port to listen on (5985); 0 takes a free one"},
        "workers": {"type": int, "metavar": "N", "help": "worker processes (one per processor, at most 4)"},
        "data": {"type": Path, "metavar": "DIR", "help": "folder of the data (./dicomweb-data)"},
    }
    for name in names:
        command.add_argument(f"--{name}", **details[name])


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    given = {setting: getattr(options, name, None) for name, setting in _SETTING_OF_OPTION.items()}
    return {setting: value for setting, value in given.items() if value is not None}


def _serve(settings: Settings, _options: argparse.Namespace) -> None:
    def announce(url: str) -> None:
        _print_addresses(settings, url)
        print(f"Data      {_place(settings)}", flush=True)

    serving.serve(settings, announce=announce)


def _place(settings: Settings) -> str:
    """Where the archive lies, without addresses."""
    if (settings.storage.backend, settings.blob_store) == ("sqlite", "files"):
        return str(settings.storage.directory.absolute())
    return f"index in {settings.storage.backend}, files in {settings.blob_store}"


def _demo(settings: Settings, _options: argparse.Namespace) -> None:
    def announce(url: str, directory: Path) -> None:
        _print_addresses(settings, url)
        root = url + settings.http.prefixes[0]
        print(f"Data      {directory} (deleted at the end)")
        print(f"Samples   {len(demo.SAMPLES)} studies")
        print("Try")
        print(f"  curl '{root}/studies?ModalitiesInStudy=CT'")
        print(f"  dicomweb_client --url {root} search studies")
        print("Ctrl-C stops.", flush=True)

    demo.serve_samples(settings, announce=announce)


def _print_addresses(settings: Settings, url: str) -> None:
    print(f"DICOMweb  {'  '.join(url + prefix for prefix in settings.http.prefixes)}")
    if settings.viewer.enabled and installed.find(settings.viewer_directory):
        print(f"Viewer    {url}{settings.viewer.path}/")
    print(f"Health    {url}/health/ready")


def _config(settings: Settings, _options: argparse.Namespace) -> None:
    """As TOML, so that the output can be kept as a settings file."""
    lines: list[tuple[str, str]] = []
    table = ""
    for name, value, source in settings.items():
        section, _, key = name.rpartition(".")
        if section != table:
            table = section
            lines += [("", ""), (f"[{section}]", "")]
        lines.append((f"{key} = {_toml(value)}", source))
    width = max(len(text) for text, source in lines if source)
    for text, source in lines[1:]:
        print(f"{text:<{width}}  # {source}" if source else text)


def _toml(value: Any) -> str:
    """A value in TOML: its booleans, numbers, texts and lists are written as in JSON."""
    return orjson.dumps(str(value) if isinstance(value, Path) else value).decode()


if __name__ == "__main__":
    sys.exit(main())
