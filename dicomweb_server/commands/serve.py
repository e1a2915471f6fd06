"""`dicomweb-server serve`: the archive as a server."""

import argparse

from dicomweb_server import serving
from dicomweb_server.settings import Settings
from dicomweb_server.viewer import installed

EXAMPLE = "serve --port 8080 --data /srv/dicom"


def run(settings: Settings, _options: argparse.Namespace) -> None:
    """Serve until a signal stops it. Raises DicomwebError."""

    def announce(url: str) -> None:
        print_addresses(settings, url)
        print(f"Data      {_place(settings)}", flush=True)

    serving.serve(settings, announce=announce)


def print_addresses(settings: Settings, url: str) -> None:
    """Tell where what answers, below the root of the server."""
    print(f"DICOMweb  {'  '.join(url + prefix for prefix in settings.http.prefixes)}")
    if settings.viewer.enabled and installed.find(settings.viewer_directory):
        print(f"Viewer    {url}{settings.viewer.path}/")
    print(f"Health    {url}/health/ready")


def _place(settings: Settings) -> str:
    """Where the archive lies, without addresses."""
    if (settings.storage.backend, settings.blob_store) == ("sqlite", "files"):
        return str(settings.storage.directory.absolute())
    return f"index in {settings.storage.backend}, files in {settings.blob_store}"
