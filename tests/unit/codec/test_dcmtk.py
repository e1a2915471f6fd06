"""Grey pictures against those of DCMTK, with windows of any place, width and function.

Two things are left out, because there we follow the standard where DCMTK does not:

- Padding is no part of the grey scale (PS3.3 C.7.5.1.1.2) and is drawn black; DCMTK puts it through the window.
- The output of the modality LUT is a number (PS3.3 C.11.1), of which DCMTK keeps the whole part: with a slope that is
  no integer a narrow window shows that. Here such values are cut for the comparison. Of 32 bits, DCMTK draws the lowest
  values white.
"""

import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicomweb_server.codec.decode import decode_frame
from dicomweb_server.codec.grey import Table, grey_pipeline, stored_values, windowed
from dicomweb_server.codec.options import RenderOptions, Window, WindowFunction
from dicomweb_server.codec.presentation import frame_attributes
from dicomweb_server.codec.render import render_frame
from dicomweb_server.dicom.uids import is_encapsulated
from dicomweb_server.errors import BadPixels
from tests.unit.codec.files import Sample, samples

PROGRAM = shutil.which("dcmj2pnm")
FUNCTIONS = {WindowFunction.LINEAR: "+Wfl", WindowFunction.SIGMOID: "+Wfs"}
GREY = [
    item
    for item in samples()
    if item.description.photometric_interpretation in ("MONOCHROME1", "MONOCHROME2")
    and 1 < item.description.bits_stored <= 16
    and not is_encapsulated(item.transfer_syntax_uid)
]


@pytest.mark.skipif(PROGRAM is None, reason="needs dcmj2pnm: apt-get install dcmtk")
@pytest.mark.parametrize("item", GREY, ids=lambda item: item.path.name)
def test_every_grey_value_is_within_one(item: Sample, tmp_path: Path) -> None:
    decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame())
    flat = frame_attributes(item.header.attributes, 0, fetch_bulk=item.fetch_bulk)
    try:
        modality, _, inverted, padding, _ = grey_pipeline(flat, decoded.description, window=None)
    except BadPixels:
        pytest.skip("its look-up table is damaged")
    codes = decoded.array.view(f"u{decoded.array.dtype.itemsize}")
    stored = stored_values(decoded.description)[codes]
    modal = modality(stored) if isinstance(modality, Table) else modality[0] * stored + modality[1]
    chance = random.Random(item.path.name)  # the same windows each time
    low, high = float(modal.min()), float(modal.max())
    for number, (function, option) in enumerate(FUNCTIONS.items()):
        center = round(chance.uniform(low, high), 1)
        width = round(2 + (high - low) * chance.random() ** 2, 1)
        out = tmp_path / f"{number}.pgm"
        command = [str(PROGRAM), "-q", "+Ww", str(center), str(width), option, str(item.path), str(out)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("DCMTK does not read it")
        expected = np.asarray(Image.open(out), int)
        window = Window(center, width, function)
        found = np.asarray(render_frame(flat, decoded, options=RenderOptions(window=window)), int)
        if np.any(modal % 1):
            whole = np.clip(windowed(np.trunc(modal), window), 0, 255)
            found = 255 - whole if inverted else whole
        difference = np.abs(found - expected)
        if padding is not None:
            difference[(stored >= padding.low) & (stored <= padding.high)] = 0
        assert difference.max() <= 1, (window, np.unravel_index(difference.argmax(), difference.shape))
