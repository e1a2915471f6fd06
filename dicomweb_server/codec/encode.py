"""One frame, from an array to the bytes that a transfer syntax stores; only permissive licences are used."""

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.colour import ybr_to_rgb
from dicomweb_server.codec.decode import Decoded, native_bytes, values_alone
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.syntaxes import encodable, require_encoder
from dicomweb_server.dicom.uids import is_encapsulated
from dicomweb_server.errors import NotAcceptable

__all__ = ["DEFAULT_QUALITY", "Encoded", "encodable", "encode_frame"]

DEFAULT_QUALITY: Final = 90


class Encoded(NamedTuple):
    """data: of one frame, without padding. description: what the attributes of an object with such frames say."""

    data: bytes
    description: PixelDescription


def encode_frame(decoded: Decoded, transfer_syntax_uid: str, *, quality: int = DEFAULT_QUALITY) -> Encoded:
    """Encode a decoded frame.

    quality: 1 to 100, of lossy syntaxes: the quality of JPEG; of JPEG 2000 a ratio of (105 - quality) / 2; of
    JPEG-LS a largest error of (100 - quality) / 5. Raises MissingCodec where there is no encoder for such pixels,
    NotAcceptable where it does not take these: CharLS none that become much larger, as noise of a few pixels does.
    """
    if not is_encapsulated(transfer_syntax_uid):
        return Encoded(native_bytes(decoded), decoded.description)
    require_encoder(transfer_syntax_uid, decoded.description)
    cleaned = values_alone(decoded)  # encoders refuse what else lies in the cells, such as old overlays
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _ENCODERS[transfer_syntax_uid](cleaned, transfer_syntax_uid, quality)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as exc:  # a panic of a plug-in in Rust is no Exception
        name = syntaxes.name_of(transfer_syntax_uid)
        raise NotAcceptable(f"these pixels cannot be encoded as {name}") from exc


def _by_pydicom(decoded: Decoded, transfer_syntax_uid: str, quality: int) -> Encoded:
    """By pydicom's plug-ins, save GDCM: its encoder of RLE ends the process on images of few pixels."""
    array, description = decoded
    options: dict[str, Any] = {
        "rows": description.rows,
        "columns": description.columns,
        "samples_per_pixel": description.samples,
        "number_of_frames": 1,
        "bits_allocated": description.bits_allocated,
        "bits_stored": description.bits_stored,
        "pixel_representation": int(description.signed),
        "photometric_interpretation": description.photometric_interpretation,
        "planar_configuration": 0,
    }
    if transfer_syntax_uid == syntaxes.JPEG_2000:
        options["j2k_cr"] = [_ratio(quality)]
    elif transfer_syntax_uid == syntaxes.JPEG_LS_NEAR:
        options["jls_error"] = max(1, (100 - quality) // 5)
    encoder = get_encoder(UID(transfer_syntax_uid))
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    plugins = [name for name in encoder.available_plugins if name != "gdcm"]
    failure: Exception | None = None
    for plugin in plugins:
        try:
            return Encoded(bytes(encoder.encode(native, encoding_plugin=plugin, **options)), description)
        except (RuntimeError, ValueError, NotImplementedError) as exc:
            failure = exc
    raise failure or RuntimeError("no plug-in is there")


def _ratio(quality: int) -> float:
    return (105 - quality) / 2


def _by_pillow(decoded: Decoded, transfer_syntax_uid: str, quality: int) -> Encoded:
    """JPEG with 8 bits. Colours are stored as YCbCr with half the chrominance (PS3.5 8.2.1)."""
    array, description = decoded
    if description.photometric_interpretation.startswith("YBR"):
        array = ybr_to_rgb(array, description.photometric_interpretation, description.bits_stored)
    image = Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling=1)
    label = description.photometric_interpretation if description.samples == 1 else "YBR_FULL_422"
    return Encoded(out.getvalue(), replace(description.interleaved(label), bits_allocated=8))


def _by_imagecodecs(decoded: Decoded, transfer_syntax_uid: str, quality: int) -> Encoded:
    encode: Callable[..., bytes] = import_module("imagecodecs").htj2k_encode
    array, description = decoded
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    rgb = description.photometric_interpretation == "RGB"
    rpcl = transfer_syntax_uid == syntaxes.HTJ2K_LOSSLESS_RPCL  # the order is always so; it needs tile-part lengths too
    data = encode(native, reversible=True, rgb=rgb, tlm=rpcl)
    label = "YBR_RCT" if rgb else description.photometric_interpretation
    return Encoded(bytes(data), description.interleaved(label))


_ENCODERS: Final[dict[str, Callable[[Decoded, str, int], Encoded]]] = {
    syntaxes.RLE: _by_pydicom,
    syntaxes.JPEG_BASELINE: _by_pillow,
    syntaxes.JPEG_LS: _by_pydicom,
    syntaxes.JPEG_LS_NEAR: _by_pydicom,
    syntaxes.JPEG_2000_LOSSLESS: _by_pydicom,
    syntaxes.JPEG_2000: _by_pydicom,
    syntaxes.HTJ2K_LOSSLESS: _by_imagecodecs,
    syntaxes.HTJ2K_LOSSLESS_RPCL: _by_imagecodecs,
}
