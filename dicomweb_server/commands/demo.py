"""`dicomweb-server demo`: an archive to try things on."""

import argparse
from pathlib import Path

from dicomweb_server import demo
from dicomweb_server.commands.serve import addresses, print_places
from dicomweb_server.settings import Settings

EXAMPLE = "demo"


def run(settings: Settings, _options: argparse.Namespace) -> None:
    """Serve the samples until a signal stops it. Raises DicomwebError."""

    def announce(url: str, directory: Path) -> None:
        print_places(addresses(settings, url))
        root = url + settings.http.prefixes[0]
        print(f"Data      {directory} (deleted at the end)")
        print(f"Samples   {len(demo.SAMPLES)} studies")
        print("Try")
        print(f"  {url}/ in a browser")
        print(f"  curl '{root}/studies?ModalitiesInStudy=CT'")
        print(f"  dicomweb_client --url {root} search studies")
        print("Ctrl-C stops.", flush=True)

    demo.serve_samples(settings, announce=announce)
