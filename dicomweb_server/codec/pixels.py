"""How the pixels of an instance are laid out (PS3.3 C.7.6.3, C.7.6.24, C.7.6.25), checked before any decoding."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

from dicomweb_server.dicom.json_model import Attributes, first_int, first_value
from dicomweb_server.errors import BadPixels

MAX_FRAME_SAMPLES: Final = 512 << 20
"""More samples than this in one frame are taken for a decompression bomb."""

PIXEL_TAGS: Final = ("7FE00010", "7FE00008", "7FE00009")

_FLOAT_BITS: Final = {"7FE00008": 32, "7FE00009": 64}
_BITS: Final = (1, 8, 16, 32, 64)
_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """One frame's pixels. Values that a file leaves out have their defaults.

    signed: Pixel Representation is 1. floating: Float or Double Float Pixel Data. frames: Number of Frames.
    """

    rows: int
    columns: int
    samples: int = 1
    bits_allocated: int = 8
    bits_stored: int = 8
    high_bit: int = 7
    signed: bool = False
    photometric_interpretation: str = "MONOCHROME2"
    planar_configuration: int = 0
    frames: int = 1
    floating: bool = False

    @classmethod
    def from_attributes(
        cls, attributes: Attributes, *, pixel_tag: str | None = None, max_samples: int = MAX_FRAME_SAMPLES
    ) -> Self:
        """The description in the DICOM JSON of an instance.

        pixel_tag: of the element that holds the pixels, where the attributes do not show it. Raises BadPixels where the
        pixels are not described, in contradiction, or more than `max_samples` in a frame.
        """
        tag = pixel_tag or next((tag for tag in PIXEL_TAGS if tag in attributes), PIXEL_TAGS[0])
        samples = first_int(attributes, "00280002") or 1
        bits_allocated = _FLOAT_BITS.get(tag) or _required(attributes, "00280100", "Bits Allocated")
        bits_stored = first_int(attributes, "00280101") or bits_allocated
        if tag in _FLOAT_BITS:
            bits_stored = bits_allocated
        photometric = first_value(attributes, "00280004")
        if not isinstance(photometric, str):
            photometric = "MONOCHROME2" if samples == 1 else "RGB"
        found = cls(
            rows=_required(attributes, "00280010", "Rows"),
            columns=_required(attributes, "00280011", "Columns"),
            samples=samples,
            bits_allocated=bits_allocated,
            bits_stored=bits_stored,
            high_bit=_high_bit(attributes, bits_allocated, bits_stored),
            signed=first_int(attributes, "00280103") == 1 and tag not in _FLOAT_BITS,
            photometric_interpretation=photometric.strip().upper(),
            planar_configuration=first_int(attributes, "00280006") or 0,
            frames=max(first_int(attributes, "00280008") or 1, 1),
            floating=tag in _FLOAT_BITS,
        )
        found.check(max_samples=max_samples)
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, plain values only."""
        return asdict(self)

    @property
    def grey(self) -> bool:
        """Whether a pixel is one number."""
        return self.samples == 1 or self.photometric_interpretation in _GREY

    @property
    def sample_bytes(self) -> int:
        """The size of a sample in a decoded array, 1 for a single bit."""
        return max(1, self.bits_allocated // 8)

    @property
    def frame_bytes(self) -> int:
        """The size of a decoded frame in the native encoding, without padding; single bits are packed."""
        bits = self.rows * self.columns * self.samples * self.bits_allocated
        return (bits + 7) // 8

    @property
    def stored_bytes(self) -> int:
        """The size of a native frame as it is stored: with fewer chrominance samples where the colours are so."""
        if self.photometric_interpretation in ("YBR_FULL_422", "YBR_PARTIAL_422") and self.samples == 3:
            return self.rows * self.columns * 2 * self.sample_bytes
        return self.frame_bytes

    def check(self, *, max_samples: int = MAX_FRAME_SAMPLES) -> None:
        """Raise BadPixels for what cannot be decoded."""
        if not (0 < self.rows <= 65535 and 0 < self.columns <= 65535):
            raise BadPixels("the image has no size: Rows and Columns are from 1 to 65535")
        if not 0 < self.samples <= 4:
            raise BadPixels(f"{self.samples} Samples per Pixel are not shown: 1, 3 or 4 are")
        if self.rows * self.columns * self.samples > max_samples:
            raise BadPixels(f"a frame of {self.columns} x {self.rows} pixels is larger than what is decoded here")
        if self.bits_allocated not in _BITS:
            raise BadPixels(f"Bits Allocated {self.bits_allocated} is not supported: 1, 8, 16, 32 and 64 are")
        if not 0 < self.bits_stored <= self.bits_allocated or not (
            self.bits_stored - 1 <= self.high_bit < self.bits_allocated
        ):
            raise BadPixels("Bits Stored and High Bit do not fit into Bits Allocated")
        if self.planar_configuration not in (0, 1):
            raise BadPixels("Planar Configuration is neither 0 nor 1")

    def interleaved(self, photometric_interpretation: str | None = None) -> "PixelDescription":
        """The same pixels by pixel instead of by plane, with another colour label where one is given."""
        label = photometric_interpretation or self.photometric_interpretation
        return replace(self, planar_configuration=0, photometric_interpretation=label)


def _high_bit(attributes: Attributes, bits_allocated: int, bits_stored: int) -> int:
    """High Bit where it is possible, else what PS3.5 8.1.1 demands: one less than Bits Stored."""
    found = first_int(attributes, "00280102")
    return found if found is not None and bits_stored - 1 <= found < bits_allocated else bits_stored - 1


def _required(attributes: Attributes, tag: str, name: str) -> int:
    value = first_int(attributes, tag)
    if value is None:
        raise BadPixels(f"{name} ({tag[:4]},{tag[4:]}) is missing: the pixels are not described")
    return value
