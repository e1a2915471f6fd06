"""What decoding a JPEG 2000 frame takes: each decoder that is installed here alone, then what our pool adds to its own.

    python benchmarks/jpeg2000.py [--frames 40]      # `pip install av` adds that of FFmpeg

512 x 512 with 12 bits, lossless, as `dicomweb.py pictures` has them. Processor time, the least and the median of all
frames; the decoders take turns, so that what disturbs the machine disturbs all of them.
"""

import argparse
import importlib
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.measures import expect
from benchmarks.pictures import jpeg_2000, slice_values
from benchmarks.servers import cpu_seconds
from benchmarks.studies import SIDE
from dicomweb_server.codec import decode
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.pool import CodecPool

SYNTAX = str(JPEG2000Lossless)
DESCRIPTION = PixelDescription(SIDE, SIDE, bits_allocated=16, bits_stored=12, high_bit=11)
Decode = Callable[[bytes], NDArray[Any]]


def decoders() -> Iterator[tuple[str, Decode]]:
    """Those that are here, by name."""
    known: tuple[tuple[str, str, Callable[[Any, bytes], NDArray[Any]]], ...] = (
        ("imagecodecs (OpenJPEG)", "imagecodecs", lambda module, frame: module.jpeg2k_decode(frame)),
        ("imagecodecs, 2 threads", "imagecodecs", lambda module, frame: module.jpeg2k_decode(frame, numthreads=2)),
        ("pylibjpeg-openjpeg", "openjpeg", lambda module, frame: module.decode(frame)),
        ("Pillow (OpenJPEG)", "PIL.Image", _by_pillow),
        ("PyAV (the decoder of FFmpeg itself)", "av", _by_av),
    )
    for name, package, by in known:
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        yield name, partial(by, module)
    yield "ours, in one process", lambda frame: decode.decode_frame(DESCRIPTION, SYNTAX, frame).array


def _by_pillow(module: Any, frame: bytes) -> NDArray[Any]:
    return np.asarray(module.open(io.BytesIO(frame))) >> 4  # it fills 16 bits


def _by_av(module: Any, frame: bytes) -> NDArray[Any]:
    context = module.CodecContext.create("jpeg2000", "r")
    context.thread_count = 1
    pictures = [*context.decode(module.Packet(frame)), *context.decode(None)]
    found: NDArray[Any] = pictures[0].to_ndarray() >> 4
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40, help="decoded by each (default 40)")
    count = parser.parse_args().frames
    noise = np.random.default_rng(3)
    values = [slice_values(number, noise) for number in range(8)]
    frames = [jpeg_2000(one) for one in values]
    ways = dict(decoders())
    for name, by in ways.items():
        expect(bool(np.array_equal(by(frames[0]), values[0])), f"{name} gives other pixels")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count):
        for name, by in ways.items():
            began = time.process_time()
            by(frames[number % len(frames)])
            taken[name].append((time.process_time() - began) * 1000)
    print(f"a frame has {len(frames[0]) / 1000:.0f} KB; processor time in ms, the least and the median of {count}")
    for name, times in taken.items():
        print(f"{name:36} {min(times):6.1f} {statistics.median(times):6.1f}")
    _pool(frames, count)


def _pool(frames: list[bytes], count: int) -> None:
    pool = CodecPool(processes=1)
    try:
        pool.warm_up()
        pid = pool.pids()[0]
        pool.transcode(DESCRIPTION, SYNTAX, frames[0])
        here, there = time.process_time(), cpu_seconds(pid)
        for number in range(count):
            pool.transcode(DESCRIPTION, SYNTAX, frames[number % len(frames)])
        here, there = time.process_time() - here, cpu_seconds(pid) - there
        print(f"by the pool: {there * 1000 / count:.1f} in its process, {here * 1000 / count:.1f} in that which asks")
    finally:
        pool.close()


if __name__ == "__main__":
    main()
