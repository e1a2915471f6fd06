"""Which transfer syntaxes can be decoded and encoded here, with what, and what to install for the others.

Only looks for installed packages; imports none of them.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Final

from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.dicom.uids import is_encapsulated
from dicomweb_server.errors import MissingCodec

RLE: Final = "1.2.840.10008.1.2.5"
JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS: Final = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1: Final = "1.2.840.10008.1.2.4.70"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR: Final = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS: Final = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL: Final = "1.2.840.10008.1.2.4.202"
HTJ2K: Final = "1.2.840.10008.1.2.4.203"
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"
GE_BIG_ENDIAN_PIXELS: Final = "1.2.840.113619.5.2"

HTJ2K_SYNTAXES: Final = frozenset({HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, HTJ2K})
JPEG_2000_SYNTAXES: Final = frozenset({JPEG_2000_LOSSLESS, JPEG_2000}) | HTJ2K_SYNTAXES
JPEG_SYNTAXES: Final = frozenset({JPEG_BASELINE, JPEG_EXTENDED, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1})
JPEG_LS_SYNTAXES: Final = frozenset({JPEG_LS, JPEG_LS_NEAR})
LOSSY: Final = frozenset({JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR, JPEG_2000, HTJ2K})

_MODULES: Final = {
    "gdcm": "python-gdcm",
    "PIL": "pillow",
    "jpeg_ls": "pyjpegls",
    "openjpeg": "pylibjpeg-openjpeg",
    "rle": "pylibjpeg-rle",
}
"""Modules whose package has another name."""

_OPENJPEG: Final = ("pylibjpeg", "openjpeg")
_HALVED_5_TIMES: Final = 1 << 5
"""OpenJPEG's encoder takes no image with fewer rows or columns."""


@dataclass(frozen=True, slots=True)
class _Syntax:
    """decoders, encoders: sets of modules, each of which is enough; the first is what to install. bits: the most Bits
    Stored that are encoded. side: the fewest rows and columns."""

    name: str
    decoders: tuple[tuple[str, ...], ...]
    encoders: tuple[tuple[str, ...], ...] = ()
    bits: int = 16
    signed: bool = True
    side: int = 1


_SYNTAXES: Final = {
    RLE: _Syntax("RLE Lossless", ((),), ((),)),
    JPEG_BASELINE: _Syntax("JPEG Baseline", (("PIL",), ("gdcm",)), (("PIL",),), bits=8, signed=False),
    JPEG_EXTENDED: _Syntax("JPEG Extended", (("gdcm",), ("PIL",), ("imagecodecs",))),
    JPEG_LOSSLESS: _Syntax("JPEG Lossless (Process 14)", (("gdcm",),)),
    JPEG_LOSSLESS_SV1: _Syntax("JPEG Lossless (Process 14, first-order prediction)", (("gdcm",),)),
    JPEG_LS: _Syntax("JPEG-LS Lossless", (("jpeg_ls",), ("gdcm",)), (("jpeg_ls",),)),
    JPEG_LS_NEAR: _Syntax("JPEG-LS Near-lossless", (("jpeg_ls",), ("gdcm",)), (("jpeg_ls",),), signed=False),
    JPEG_2000_LOSSLESS: _Syntax(
        "JPEG 2000 Lossless", (_OPENJPEG, ("gdcm",), ("PIL",)), (_OPENJPEG,), side=_HALVED_5_TIMES
    ),
    JPEG_2000: _Syntax("JPEG 2000", (_OPENJPEG, ("gdcm",), ("PIL",)), (_OPENJPEG,), side=_HALVED_5_TIMES),
    HTJ2K_LOSSLESS: _Syntax("HTJ2K Lossless", (_OPENJPEG, ("imagecodecs",)), (("imagecodecs",),)),
    HTJ2K_LOSSLESS_RPCL: _Syntax("HTJ2K Lossless RPCL", (_OPENJPEG, ("imagecodecs",)), (("imagecodecs",),)),
    HTJ2K: _Syntax("HTJ2K", (_OPENJPEG, ("imagecodecs",))),
    DEFLATED_FRAMES: _Syntax("Deflated Image Frame Compression", ((),)),
}


COMPRESSED: Final = tuple(_SYNTAXES)
"""The compressed transfer syntaxes of images that are known here, whether or not what decodes them is installed."""


def name_of(transfer_syntax_uid: str) -> str:
    """A readable name, with the UID."""
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    return f"{syntax.name} ({transfer_syntax_uid})" if syntax else transfer_syntax_uid


def decodable(transfer_syntax_uid: str) -> bool:
    """Whether frames of this transfer syntax can be decoded with what is installed; native ones always can be."""
    if not is_encapsulated(transfer_syntax_uid):
        return True
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    return syntax is not None and any(all(map(_installed, modules)) for modules in syntax.decoders)


def encodable(transfer_syntax_uid: str, description: PixelDescription | None = None) -> bool:
    """Whether frames can be brought into this transfer syntax; with a description, whether such frames can be."""
    if not is_encapsulated(transfer_syntax_uid):
        return True
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    if syntax is None or not any(all(map(_installed, modules)) for modules in syntax.encoders):
        return False
    if description is None:
        return True
    return (
        not description.floating
        and description.bits_allocated in (8, 16)
        and description.bits_stored <= syntax.bits
        and (syntax.signed or not description.signed)
        and description.samples in (1, 3)
        and min(description.rows, description.columns) >= syntax.side
        and (transfer_syntax_uid not in LOSSY or description.photometric_interpretation != "PALETTE COLOR")
    )


def missing(transfer_syntax_uid: str, *, encoder: bool = False) -> str:
    """A sentence: what is missing to decode (or encode) this transfer syntax, and which package to install."""
    what = "encoder" if encoder else "decoder"
    syntax = _SYNTAXES.get(transfer_syntax_uid)
    ways = (syntax.encoders if encoder else syntax.decoders) if syntax else ()
    if not ways:
        return f"there is no {what} for {name_of(transfer_syntax_uid)}"
    packages = " and ".join(_MODULES.get(module, module) for module in ways[0])
    return f"there is no {what} for {name_of(transfer_syntax_uid)}: install {packages}"


def require_decoder(transfer_syntax_uid: str) -> None:
    """Raise MissingCodec where nothing installed decodes this transfer syntax."""
    if not decodable(transfer_syntax_uid):
        raise MissingCodec(missing(transfer_syntax_uid))


def require_encoder(transfer_syntax_uid: str, description: PixelDescription) -> None:
    """Raise MissingCodec where such frames cannot be encoded with what is installed."""
    if not encodable(transfer_syntax_uid):
        raise MissingCodec(missing(transfer_syntax_uid, encoder=True))
    if not encodable(transfer_syntax_uid, description):
        raise MissingCodec(
            f"{description.columns} x {description.rows} {description.bits_stored}-bit "
            f"{description.photometric_interpretation} pixels of this kind cannot be encoded as "
            f"{name_of(transfer_syntax_uid)}"
        )


@lru_cache(maxsize=64)
def _installed(module: str) -> bool:
    return find_spec(module) is not None
