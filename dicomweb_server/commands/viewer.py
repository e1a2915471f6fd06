"""`dicomweb-server viewer`: what is installed, `install` and `remove`."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from dicomweb_server.errors import BadRequest, ConfigError
from dicomweb_server.settings import Settings
from dicomweb_server.viewer import installed, registry
from dicomweb_server.viewer.unpack import is_version

EXAMPLE = "viewer install --data /srv/dicom"
MEGABYTE = 1_000_000
TELL_EVERY_SECONDS = 0.2
TELL_EVERY_PERCENT = 20


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe what the command takes."""
    command.add_argument(
        "action", nargs="?", choices=("status", "install", "remove"), default="status", help="status when left out"
    )
    command.add_argument("--from", dest="package", type=Path, metavar="FILE.tgz", help="install this package, offline")
    command.add_argument(
        "--version",
        default=registry.DEFAULT_VERSION,
        metavar="VERSION",
        help=f"version of {registry.PACKAGE} to fetch ({registry.DEFAULT_VERSION})",
    )
    command.add_argument("--sha512", metavar="CHECKSUM", help="the checksum that the package must have")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Do what the action says; gives the exit status. Raises DicomwebError."""
    directory = settings.viewer_directory
    if options.action == "install":
        return _install(settings, options)
    if options.action == "remove":
        gone = installed.remove(directory)
        print(f"Removed OHIF {', '.join(gone)}" if gone else f"No viewer is installed in {directory}")
        return 0
    viewer = installed.find(directory)
    if viewer is None:
        print(f"No viewer is installed in {directory}. To fetch OHIF: dicomweb-server viewer install")
        return 0
    print(f"OHIF      {viewer.version}")
    print(f"Folder    {viewer.folder} ({viewer.size_bytes() / MEGABYTE:.0f} MB)")
    print(f"Served    {settings.viewer.path + '/' if settings.viewer.enabled else 'no (viewer.enabled is false)'}")
    return 0


def _install(settings: Settings, options: argparse.Namespace) -> int:
    wanted = registry.digest_of(options.sha512) if options.sha512 else None
    progress = _Progress()
    if options.package:
        viewer = _install_file(options.package, settings.viewer_directory, wanted, progress)
    else:
        if not is_version(options.version):
            raise BadRequest(f"{options.version} is no version; write it as {registry.DEFAULT_VERSION}")
        with tempfile.TemporaryDirectory(prefix="dicomweb-viewer-") as folder:
            file = Path(folder) / "package.tgz"
            package = registry.published(_registry(), options.version)
            registry.download(package.url, file, told=progress.stage("Fetched"))
            if registry.sha512_of(file) != package.sha512:
                raise ConfigError("what was fetched is not what the registry published (sha512 differs); try again")
            viewer = _install_file(file, settings.viewer_directory, wanted, progress)
    print(f"Installed OHIF {viewer.version} in {viewer.folder}")
    print(f"It is served at {settings.viewer.path}/ from the next start of the server on.")
    return 0


def _install_file(file: Path, directory: Path, wanted: bytes | None, progress: "_Progress") -> installed.Viewer:
    try:
        digest = registry.sha512_of(file)
    except OSError as exc:
        raise ConfigError(f"{file} cannot be read: {exc.strerror}") from exc
    if wanted not in (None, digest):
        raise ConfigError(f"{file} has another checksum: {registry.shown(digest)}")
    known = any(registry.digest_of(text) == digest for text in registry.PUBLISHED.values())
    print(f"Checksum  {registry.shown(digest)}{' (as published)' if known else ''}")
    return installed.install(file, directory, told=progress.stage("Unpacked"))


def _registry() -> str:
    """The registry that npm on this machine would ask; npm's own variables are the only ones read outside settings."""
    try:
        npmrc = (Path.home() / ".npmrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        npmrc = ""
    return registry.registry_url(os.environ, npmrc)


class _Progress:
    """One line that grows on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._word = ""
        self._last = 0.0
        self._percent = 0
        self._terminal = sys.stderr.isatty()

    def stage(self, word: str) -> "_Progress":
        """The same for the next stage."""
        self._word, self._last, self._percent = word, 0.0, 0
        return self

    def __call__(self, done: int, total: int) -> None:
        percent = min(100, 100 * done // total) if total else 0
        now = time.monotonic()
        text = f"{self._word:<9} {done / MEGABYTE:.0f} of {total / MEGABYTE:.0f} MB ({percent} %)"
        if self._terminal:
            if now - self._last > TELL_EVERY_SECONDS or (total and done >= total):
                print(f"\r{text} ", end="\n" if total and done >= total else "", file=sys.stderr, flush=True)
                self._last = now
        elif percent >= self._percent + TELL_EVERY_PERCENT:
            self._percent = percent - percent % TELL_EVERY_PERCENT
            print(text, file=sys.stderr, flush=True)
