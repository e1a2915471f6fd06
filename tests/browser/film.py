"""A short film in H.264, made by FFmpeg, that tells its time: a red part grows over a blue one from left to right."""

import shutil
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.browser.pictures import Pixels, middle

COLUMNS, ROWS, FRAMES, FRAMES_PER_SECOND = 320, 240, 100, 25
SECONDS = FRAMES / FRAMES_PER_SECOND
UNUSED_BYTES = 16 * 1024 * 1024  # more than players read ahead

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="install FFmpeg (Debian: apt install ffmpeg) to run this"
)


@cache
def mp4() -> bytes:
    """The film as cameras write it: the index, without which nothing can be shown, comes at the end, far away."""
    frames = b"".join(_frame(number).tobytes() for number in range(FRAMES))
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{COLUMNS}x{ROWS}", "-r", str(FRAMES_PER_SECOND), "-i", "-")
    coding = ("-c:v", "libx264", "-preset", "veryfast", "-profile:v", "high", "-level", "4.1", "-pix_fmt", "yuv420p")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        subprocess.run(["ffmpeg", "-loglevel", "error", *raw, *coding, str(file)], input=frames, check=True)
        made = file.read_bytes()
    index = made.rindex(b"moov") - 4
    return made[:index] + struct.pack(">I4s", UNUSED_BYTES, b"free") + bytes(UNUSED_BYTES - 8) + made[index:]


def picture_at(seconds: float) -> Pixels:
    """The middle of what the film shows at a time."""
    return middle(Image.fromarray(_frame(int(seconds * FRAMES_PER_SECOND + 0.01))))


def _frame(number: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    is_over = columns < COLUMNS * number / FRAMES
    colours = (np.where(is_over, 220, 20), rows * 255 // ROWS, np.where(is_over, 30, 200))
    return np.stack(colours, axis=-1).astype(np.uint8)
