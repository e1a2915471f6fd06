"""`dicomweb-server conformance`: the DICOM conformance statement of this installation, as Markdown."""

import argparse

from dicomweb_server.http.description.conformance import conformance
from dicomweb_server.settings import Settings

EXAMPLE = "conformance > conformance.md"


def run(settings: Settings, _options: argparse.Namespace) -> None:
    """Print it. Prefixes are those of the settings, decoders those that are installed."""
    print(conformance(prefixes=settings.http.prefixes), end="")
