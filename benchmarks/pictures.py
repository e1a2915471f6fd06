"""What pictures cost: rendered images, thumbnails, JPEG 2000 frames decoded; each asked for once, then again.

Before the clock starts, a few other images are asked for in the same ways, so that no server is measured at loading its
codecs.
Servers that have no `/thumbnail` are asked for a rendered image with a viewport of 256 x 256 instead.
"""

import io
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from benchmarks.connection import Answer, Connection
from benchmarks.measures import Load, Measure, expect, parts, store_all, together
from benchmarks.servers import cpu_seconds
from benchmarks.studies import FRAME_BYTES, SIDE, Instance, header

JPEG = "image/jpeg"
DECODED = 'multipart/related; type="application/octet-stream"'
THUMBNAIL_SIDE = 256
WARM_UP_IMAGES = 40

MEASURES = (
    Measure("rendered_per_second", "rendered JPEG 512 x 512", "images/s", True, 2),
    Measure("rendered_again_per_second", "the same again", "images/s", True),
    Measure("rendered_cpu_ms", "server CPU for each, the first time", "ms"),
    Measure("thumbnails_per_second", "thumbnails", "images/s", True, 3),
    Measure("thumbnails_again_per_second", "the same again", "images/s", True),
    Measure("thumbnails_cpu_ms", "server CPU for each, the first time", "ms"),
    Measure("decoded_per_second", "JPEG 2000 frames as Explicit VR Little Endian", "frames/s", True, 2),
    Measure("decoded_again_per_second", "the same again", "frames/s", True),
    Measure("decoded_cpu_ms", "server CPU for each, the first time", "ms"),
)


@dataclass(frozen=True, slots=True)
class _Slices:
    """Stored slices, and the pixels of each."""

    instances: list[Instance]
    pixels: list[bytes]


def measure_pictures(url: str, load: Load, *, note: Callable[[str], None]) -> dict[str, list[float]]:
    """The figures by key, one for each round; every round stores images that the server has not seen before."""
    note("pictures, warming up")
    _round(url, replace(load, instances=WARM_UP_IMAGES))
    figures: dict[str, list[float]] = {}
    for number in range(load.rounds):
        note(f"pictures, round {number + 1} of {load.rounds}")
        for key, value in _round(url, load).items():
            figures.setdefault(key, []).append(value)
    return figures


def _round(url: str, load: Load) -> dict[str, float]:
    native, compressed = _slices(load.instances), _slices(load.instances, compressed=True)
    for slices in (native, compressed):
        store_all(url, slices.instances, load)
    return {**_pictures(url, native, load), **_decoded(url, compressed, load)}


def _pictures(url: str, slices: _Slices, load: Load) -> dict[str, float]:
    rendered = [f"{_path(instance)}/rendered" for instance in slices.instances]
    with Connection(url) as connection:
        status = connection.get(f"{_path(slices.instances[0])}/thumbnail", JPEG).status
    small = [path.replace("/rendered", "/thumbnail") for path in rendered]
    if status == 404:
        small = [f"{path}?viewport={THUMBNAIL_SIDE},{THUMBNAIL_SIDE}" for path in rendered]

    def is_picture(side: int) -> Callable[[Answer, int], None]:
        def check(answer: Answer, _place: int) -> None:
            expect(Image.open(io.BytesIO(answer.body)).size == (side, side), "the picture has another size")

        return check

    return {
        **_rates(url, rendered, JPEG, load, "rendered", is_picture(SIDE)),
        **_rates(url, small, JPEG, load, "thumbnails", is_picture(THUMBNAIL_SIDE)),
    }


def _decoded(url: str, slices: _Slices, load: Load) -> dict[str, float]:
    paths = [f"{_path(instance)}/frames/1" for instance in slices.instances]

    def check(answer: Answer, place: int) -> None:
        found = parts(answer.body, answer.headers.get("content-type", ""))
        expect(found == [slices.pixels[place]], "the frame is not the one stored")

    return _rates(url, paths, DECODED, load, "decoded", check)


def _rates(
    url: str, paths: Sequence[str], accept: str, load: Load, name: str, check: Callable[[Answer, int], None]
) -> dict[str, float]:
    """Answers per second: first each path is asked once, the clients sharing them; then again."""

    def client(number: int) -> None:
        with Connection(url) as connection:
            for place in range(number, len(paths), load.clients):
                answer = connection.get(paths[place], accept)
                expect(answer.status == 200, f"{name}: status {answer.status}")
                if place < load.clients:
                    check(answer, place)

    cpu_before = cpu_seconds(load.pid) if load.pid else 0.0
    figures = {f"{name}_per_second": len(paths) / together(load.clients, client)}
    if load.pid:
        figures[f"{name}_cpu_ms"] = (cpu_seconds(load.pid) - cpu_before) * 1000 / len(paths)
    figures[f"{name}_again_per_second"] = len(paths) / together(load.clients, client)
    return figures


def _path(instance: Instance) -> str:
    return f"/studies/{instance.study_uid}/series/{instance.series_uid}/instances/{instance.instance_uid}"


def _slices(count: int, *, compressed: bool = False) -> _Slices:
    """One series of CT slices: a body with organs, and as much noise as a scanner leaves."""
    study_uid, series_uid = generate_uid(), generate_uid()
    noise = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
    ds = header()
    ds.PatientID, ds.PatientName = f"BENCH-{uuid.uuid4().hex[:6].upper()}", "Bench^Pictures"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study_uid, series_uid, series_uid
    instances, pixels = [], []
    for number in range(count):
        ds.SOPInstanceUID = generate_uid()
        ds.InstanceNumber, ds.SliceLocation = number + 1, f"{number * 0.7:.1f}"
        ds.ImagePositionPatient = ["-199.5", "-378.1", f"{number * 0.7:.1f}"]
        values = slice_values(number, noise)
        pixels.append(values.tobytes())
        instances.append(Instance(study_uid, series_uid, str(ds.SOPInstanceUID), _file(ds, values, compressed)))
    return _Slices(instances, pixels)


def slice_values(number: int, noise: np.random.Generator) -> NDArray[np.uint16]:
    """Stored values of a slice, 12 bits."""
    return np.clip(_body(number) + noise.normal(0, 12, (SIDE, SIDE)), 0, 4095).astype("<u2")


def _body(number: int) -> NDArray[np.float64]:
    """Stored values (HU + 1024) of a slice: air, soft tissue, two lungs, a spine."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    image = np.full((SIDE, SIDE), 24.0)
    swing = 0.02 * np.sin(number / 7)
    image[(columns / 0.42) ** 2 + (rows / 0.3) ** 2 < 1] = 1064
    for side in (-1, 1):
        image[((columns - side * 0.19) / (0.14 + swing)) ** 2 + (rows / 0.2) ** 2 < 1] = 200
    image[(columns / 0.05) ** 2 + ((rows - 0.2) / 0.05) ** 2 < 1] = 1700
    return image


def jpeg_2000(values: NDArray[np.uint16]) -> bytes:
    """A slice as a lossless codestream."""
    return get_encoder(JPEG2000Lossless).encode(
        values,
        rows=SIDE,
        columns=SIDE,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=12,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


def _file(ds: Dataset, values: NDArray[np.uint16], compressed: bool) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless if compressed else ExplicitVRLittleEndian
    if compressed:
        ds.PixelData = encapsulate([jpeg_2000(values)])
        ds["PixelData"].VR = "OB"
    else:
        ds.PixelData = values.tobytes()
        ds["PixelData"].VR = "OW"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    expect(compressed or len(out.getvalue()) > FRAME_BYTES, "a slice without pixels")
    return out.getvalue()
