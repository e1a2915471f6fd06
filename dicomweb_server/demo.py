"""An archive to try things on: sample studies that pydicom ships, in a folder that is gone when the server ends."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from dicomweb_server import serving
from dicomweb_server.errors import ConfigError
from dicomweb_server.opening import open_parts
from dicomweb_server.services.ingest import Ingest, IngestLimits
from dicomweb_server.settings import Settings

CHUNK_BYTES = 1024 * 1024

# No two are of the same study: several of pydicom's files are one object in different transfer syntaxes.
SAMPLES = (
    "CT_small.dcm",
    "MR_small.dcm",
    "JPEG2000.dcm",  # nuclear medicine
    "examples_ybr_color.dcm",  # ultrasound, 30 frames, JPEG
    "examples_palette.dcm",  # ultrasound, palette colour
    "SC_rgb_rle_2frame.dcm",  # secondary capture, colour, two frames
    "liver_1frame.dcm",  # segmentation, one bit
    "rtplan.dcm",
    "rtdose.dcm",
    "test-SR.dcm",  # structured report
    "waveform_ecg.dcm",
)


def serve_samples(settings: Settings, *, announce: Callable[[str, Path], None]) -> None:
    """Serve an archive that holds the samples, as `serving.serve` does; `announce` also gets the folder of the data.

    Whatever directory the settings name is left alone.
    """
    directory = Path(tempfile.mkdtemp(prefix="dicomweb-demo-"))
    owner = os.getpid()
    try:
        viewer = replace(settings.viewer, directory=str(settings.viewer_directory))
        settings = replace(settings, storage=replace(settings.storage, directory=directory), viewer=viewer)
        store_samples(settings)
        serving.serve(settings, announce=lambda url: announce(url, directory))
    finally:
        if os.getpid() == owner:  # the workers are forks and leave through here too
            shutil.rmtree(directory, ignore_errors=True)


def store_samples(settings: Settings) -> int:
    """Put the samples into the archive of the settings, which is open only meanwhile; gives how many it now holds."""
    storage, blobs = open_parts(settings)
    try:
        request = Ingest(storage, blobs, limits=IngestLimits()).begin()
        for name in SAMPLES:
            request.add(_chunks(name))
        report = request.finish()
    finally:
        storage.close()
        blobs.close()
    if report.refused:
        raise ConfigError(f"the samples cannot be stored: {report.refused[0].message}")
    return len(report.accepted)


def _chunks(name: str) -> Iterator[bytes]:
    with files("pydicom").joinpath("data", "test_files", name).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
