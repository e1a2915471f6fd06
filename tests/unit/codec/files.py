"""Sample objects with pixels, read by our own reader, and what pydicom makes of them."""

import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder

from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.dicom.frames import bulk_word_bytes, read_frame_little_endian
from dicomweb_server.dicom.json_model import swap_words
from dicomweb_server.dicom.part10 import Header, read_header
from dicomweb_server.dicom.source import read_at
from dicomweb_server.errors import BadDicom, BadPixels
from tests.samples import PYDICOM_FILES

BROKEN = {"MR_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}
"""Damaged on purpose."""


@dataclass(frozen=True)
class Sample:
    """An object with frames."""

    path: Path
    header: Header
    description: PixelDescription

    @property
    def transfer_syntax_uid(self) -> str:
        return self.header.transfer_syntax_uid

    def frame(self, index: int = 0) -> bytes:
        with self.path.open("rb") as file:
            return read_frame_little_endian(
                self.header.layout, index, read_at(file), bits_allocated=self.description.bits_allocated
            )

    def fetch_bulk(self, uri: str) -> bytes:
        key = uri.partition("/bulkdata/")[2]
        element = self.header.layout.bulk_element(key)
        assert element is not None
        with self.path.open("rb") as file:
            data = read_at(file)(element.offset, element.length)
        return swap_words(data, bulk_word_bytes(self.header.layout, key))

    def reference(self, index: int, *, raw: bool = True) -> NDArray[Any]:
        """Frame `index` as pydicom decodes it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decoder = get_decoder(pydicom.uid.UID(self.transfer_syntax_uid))
            return decoder.as_array(self.dataset, index=index, raw=raw)[0]

    @property
    def dataset(self) -> pydicom.Dataset:
        return _dataset(self.path)


@lru_cache(maxsize=4)
def _dataset(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in ds.file_meta:
            ds.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        return ds


@lru_cache(maxsize=1)
def samples() -> tuple[Sample, ...]:
    """All samples with frames, of pydicom's wheel and, with DICOM_CORPUS, of the corpus."""
    folders = [PYDICOM_FILES]
    if corpus := os.environ.get("DICOM_CORPUS"):
        folders.append(Path(corpus))
    found = []
    for path in sorted(p for folder in folders for p in folder.rglob("*.dcm")):
        if path.name in BROKEN:
            continue
        try:
            with path.open("rb") as file:
                header = read_header(file)
            if header.layout.frames is not None and not header.layout.deflated:
                description = PixelDescription.from_attributes(header.attributes, pixel_tag=header.layout.pixel_tag)
                found.append(Sample(path, header, description))
        except (BadDicom, BadPixels):
            continue
    return tuple(found)


def sample(name: str) -> Sample:
    """The sample of this file name in pydicom's wheel."""
    path = PYDICOM_FILES / name
    with path.open("rb") as file:
        header = read_header(file)
    return Sample(path, header, PixelDescription.from_attributes(header.attributes, pixel_tag=header.layout.pixel_tag))


def noise(shape: tuple[int, ...], dtype: str, *, low: int = 0, high: int = 256) -> NDArray[Any]:
    """Numbers without a pattern, the same each time."""
    return np.random.default_rng(7).integers(low, high, shape).astype(dtype)
