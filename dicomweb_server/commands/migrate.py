"""`dicomweb-server migrate`: the schema of an archive of an older release brought up to this one."""

import argparse
from contextlib import closing

from dicomweb_server.errors import ConfigError
from dicomweb_server.plugins import storage_class
from dicomweb_server.settings import Settings

EXAMPLE = "migrate --dry-run --data /srv/dicom"
NOTES = """\
serve and every other command upgrade by themselves; this does it at a time of your choice, and says beforehand whether
there is anything to do. Make a backup with the old release first: an older release does not read what a newer one has
upgraded. One process upgrades, others that start wait for it; one that is interrupted is begun again by the next.

Exit status: 0 the schema is that of this release, or (--dry-run) can be; 1 it cannot, and why; 2 wrong usage."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = f"{command.description}\n\n{NOTES}"
    command.add_argument("--dry-run", action="store_true", help="only say what would be done")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Upgrade; gives the exit status. Raises DicomwebError."""
    storage = storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    state = storage.schema()
    if state.found is None:
        print(f"There is no archive yet; it will have schema {state.current}.")
    elif state.found > state.current:
        raise ConfigError(
            f"The archive was written by a newer release: it has schema {state.found}, this one reads up to "
            f"{state.current}."
        )
    elif state.found == state.current:
        print(f"The archive has schema {state.current}, that of this release: nothing is to do.")
    elif options.dry_run:
        print(f"The archive would be upgraded from schema {state.found} to {state.current}.")
    else:
        with closing(storage):
            storage.open()
        print(f"The archive was upgraded from schema {state.found} to {state.current}.")
    return 0
