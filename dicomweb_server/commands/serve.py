"""`dicomweb-server serve`: the archive as a server."""

import argparse
import logging
from collections.abc import Mapping

from dicomweb_server import serving
from dicomweb_server.settings import Settings
from dicomweb_server.viewer import installed

EXAMPLE = "serve --port 8080 --data /srv/dicom"

_log = logging.getLogger(__name__)


def run(settings: Settings, _options: argparse.Namespace) -> None:
    """Serve until a signal stops it. Raises DicomwebError."""
    serving.serve(settings, announce=lambda url: announce(settings, url))


def announce(settings: Settings, url: str) -> None:
    """Tell where what answers: on standard output, or, where the log is JSON, as a line of it. A container has one
    stream for both, and a collector wants JSON in every line."""
    places = addresses(settings, url) | {"Data": _place(settings)}
    if settings.log.format == "json":
        _log.info("serving", extra={name.lower(): place for name, place in places.items()})
    else:
        print_places(places)


def addresses(settings: Settings, url: str) -> dict[str, str]:
    """Where what answers, below the root of the server, by name."""
    found = {"DICOMweb": "  ".join(url + prefix for prefix in settings.http.prefixes)}
    if settings.viewer.enabled and installed.find(settings.viewer_directory):
        found["Viewer"] = f"{url}{settings.viewer.path}/"
    return found | {"Health": f"{url}/health/ready"}


def print_places(places: Mapping[str, str]) -> None:
    """A line for each."""
    for name, place in places.items():
        print(f"{name:<9} {place}", flush=True)


def _place(settings: Settings) -> str:
    """Where the archive lies, without addresses."""
    if (settings.storage.backend, settings.blob_store) == ("sqlite", "files"):
        return str(settings.storage.directory.absolute())
    return f"index in {settings.storage.backend}, files in {settings.blob_store}"
