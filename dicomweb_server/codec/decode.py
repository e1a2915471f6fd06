"""One frame, from its stored bytes to an array."""

import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from dicomweb_server.codec import syntaxes
from dicomweb_server.codec.codestream import MAX_WAVELET_SAMPLES, check_codestream
from dicomweb_server.codec.colour import ybr_to_rgb
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.syntaxes import decodable as available
from dicomweb_server.codec.syntaxes import missing, require_decoder
from dicomweb_server.dicom.uids import is_encapsulated
from dicomweb_server.errors import BadPixels, MissingCodec

__all__ = ["Decoded", "available", "decode_frame", "missing", "native_bytes", "sample_type", "values_alone"]

_YBR_OF_JPEG: Final = {"YBR_FULL_422": "YBR_FULL", "YBR_PARTIAL_422": "YBR_PARTIAL"}
_PREFERRED: Final = {
    syntaxes.JPEG_BASELINE: ("pillow", "gdcm"),
    syntaxes.JPEG_LS: ("pyjpegls", "gdcm"),
    syntaxes.JPEG_LS_NEAR: ("pyjpegls", "gdcm"),
    syntaxes.JPEG_2000_LOSSLESS: ("pylibjpeg", "gdcm", "pillow"),
    syntaxes.JPEG_2000: ("pylibjpeg", "gdcm", "pillow"),
}
"""pydicom's plug-ins in the order they are tried; by the time they take and how strict they are."""


class Decoded(NamedTuple):
    """array: (rows, columns) or (rows, columns, samples), of the type that `description` tells. description: of the
    array, with colours by pixel."""

    array: NDArray[Any]
    description: PixelDescription


def decode_frame(
    description: PixelDescription, transfer_syntax_uid: str, frame: bytes, *, rgb: bool = False
) -> Decoded:
    """Decode one frame from its bytes alone.

    frame: of a native transfer syntax as little endian and from a byte on, as `dicom.frames.read_frame_little_endian`
    gives it; of an encapsulated one the joined fragments. rgb: make YBR colours RGB; otherwise they stay as they are
    stored (with as many chrominance as luminance samples, which the description tells as YBR_FULL), except those that
    are part of a codestream (JPEG 2000). Bits of a native frame outside of Bits Stored are left as they are.

    Raises MissingCodec and BadPixels.
    """
    description.check()
    if is_encapsulated(transfer_syntax_uid):
        require_decoder(transfer_syntax_uid)
        decoded = _encapsulated(description, transfer_syntax_uid, frame)
    else:
        if transfer_syntax_uid == syntaxes.GE_BIG_ENDIAN_PIXELS and description.sample_bytes > 1:
            frame = (
                np.frombuffer(frame, f">u{description.sample_bytes}").astype(f"<u{description.sample_bytes}").tobytes()
            )
        decoded = _native(description, frame)
    if rgb and decoded.description.photometric_interpretation.startswith("YBR"):
        label = decoded.description.photometric_interpretation
        array = ybr_to_rgb(decoded.array, label, decoded.description.bits_stored)
        return Decoded(array, decoded.description.interleaved("RGB"))
    return decoded


def native_bytes(decoded: Decoded) -> bytes:
    """The frame as it stands in a file with a little endian transfer syntax, without padding to an even length."""
    array, description = decoded
    if description.bits_allocated == 1:
        return np.packbits(array.astype(bool), bitorder="little").tobytes()
    if array.dtype.itemsize > 1 and array.dtype.newbyteorder("<") != array.dtype:
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def values_alone(decoded: Decoded) -> Decoded:
    """The values at the low end of their cells, without what else lies in the bits that Bits Stored leaves free."""
    array, description = decoded
    free = description.bits_allocated - description.bits_stored
    if free <= 0 or description.floating or _is_alone(array, description):
        return decoded
    above = description.bits_allocated - 1 - description.high_bit
    codes: NDArray[Any] = array.view(f"{'i' if description.signed else 'u'}{array.dtype.itemsize}")
    moved = np.right_shift(np.left_shift(codes, above), free)
    return Decoded(moved, replace(description, high_bit=description.bits_stored - 1))


def _is_alone(array: NDArray[Any], description: PixelDescription) -> bool:
    """Whether nothing but values lies in the cells, at their low end: they are all in the range of Bits Stored."""
    if description.high_bit != description.bits_stored - 1 or not array.size:
        return False
    top = 1 << description.bits_stored
    if description.signed:
        return bool(array.max() < top >> 1 and array.min() >= -(top >> 1))
    return bool(array.max() < top)


def sample_type(description: PixelDescription) -> np.dtype[Any]:
    """The type of a decoded sample, little endian."""
    kind = "f" if description.floating else "ui"[description.signed]
    if description.bits_allocated == 1:
        kind = "u"
    return np.dtype(f"<{kind}{description.sample_bytes}")


def _native(description: PixelDescription, frame: bytes) -> Decoded:
    needed = description.stored_bytes
    if len(frame) < needed:
        raise BadPixels(f"a frame has {len(frame)} bytes of pixel data, {needed} are needed")
    shape = (description.rows, description.columns)
    if description.bits_allocated == 1:
        count = description.rows * description.columns * description.samples
        bits = np.unpackbits(np.frombuffer(frame, np.uint8, needed), count=count, bitorder="little")
        return Decoded(_shaped(bits, description), description.interleaved())
    flat = np.frombuffer(frame, sample_type(description), needed // description.sample_bytes)
    if needed != description.frame_bytes:
        label = _YBR_OF_JPEG[description.photometric_interpretation]
        if description.columns % 2:
            raise BadPixels("subsampled colours need an even number of columns")
        return Decoded(_upsampled(flat).reshape(*shape, 3), description.interleaved(label))
    return Decoded(_shaped(flat, description), description.interleaved())


def _shaped(flat: NDArray[Any], description: PixelDescription) -> NDArray[Any]:
    rows, columns, samples = description.rows, description.columns, description.samples
    if samples == 1:
        return flat.reshape(rows, columns)
    if description.planar_configuration == 0:
        return flat.reshape(rows, columns, samples)
    return np.ascontiguousarray(flat.reshape(samples, rows, columns).transpose(1, 2, 0))


def _upsampled(flat: NDArray[Any]) -> NDArray[Any]:
    """From Y1 Y2 Cb Cr to Y1 Cb Cr Y2 Cb Cr (PS3.3 C.7.6.3.1.2)."""
    groups = flat.reshape(-1, 4)
    return np.ascontiguousarray(groups[:, [0, 2, 3, 1, 2, 3]]).reshape(-1)


# Encapsulated


def _encapsulated(description: PixelDescription, transfer_syntax_uid: str, frame: bytes) -> Decoded:
    if not frame:
        raise BadPixels("a frame is empty")
    if transfer_syntax_uid == syntaxes.DEFLATED_FRAMES:
        return _native(description, _inflated(frame, description.stored_bytes))
    check_codestream(description, transfer_syntax_uid, frame)
    if transfer_syntax_uid == syntaxes.RLE and description.bits_allocated == 1:
        return _native(description, _rle_bits(frame, description.frame_bytes))
    if transfer_syntax_uid in syntaxes.JPEG_2000_SYNTAXES:
        description.check(max_samples=MAX_WAVELET_SAMPLES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _by_pydicom(description, transfer_syntax_uid, frame)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as exc:  # a panic of a plug-in in Rust is no Exception
        if isinstance(exc, MissingCodec | BadPixels):
            raise
        name = syntaxes.name_of(transfer_syntax_uid)
        if transfer_syntax_uid == syntaxes.JPEG_EXTENDED and description.bits_stored > 8:
            return _jpeg_12_bit(description, frame)
        raise BadPixels(f"the pixels cannot be decoded as {name}: the frame is damaged") from exc


def _inflated(frame: bytes, size: int) -> bytes:
    """PS3.5 A.4.13: each frame is deflated on its own (RFC 1951)."""
    try:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size + 1)
    except zlib.error as exc:
        raise BadPixels("a deflated frame is damaged") from exc
    return data


def _rle_bits(frame: bytes, size: int) -> bytes:
    """Packed single bits are one segment of bytes (PS3.5 Annex G); no plug-in decodes it."""
    if len(frame) < 64:
        raise BadPixels("an RLE frame has no header")
    count, first = struct.unpack_from("<LL", frame)
    if count != 1 or not 64 <= first <= len(frame):
        raise BadPixels("an RLE frame of single bits has a header that does not fit")
    out = bytearray()
    position, end = first, len(frame)
    while len(out) < size and position < end:
        control = frame[position]
        if control < 128:
            out += frame[position + 1 : position + 2 + control]
            position += 2 + control
        else:
            if control > 128:
                out += frame[position + 1 : position + 2] * (257 - control)
            position += 1 + (control > 128)
    if len(out) < size:
        raise BadPixels("an RLE frame ends too early")
    return bytes(out[:size])


def _by_pydicom(description: PixelDescription, transfer_syntax_uid: str, frame: bytes) -> Decoded:
    decoder = get_decoder(UID(transfer_syntax_uid))
    options: dict[str, Any] = {
        "rows": description.rows,
        "columns": description.columns,
        "samples_per_pixel": description.samples,
        "bits_allocated": max(8, description.bits_allocated),
        "bits_stored": description.bits_stored,
        "pixel_representation": int(description.signed),
        "photometric_interpretation": description.photometric_interpretation,
        "planar_configuration": description.planar_configuration,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "correct_unused_bits": False,
    }
    if transfer_syntax_uid != syntaxes.RLE:
        # A codestream holds values; RLE holds cells, in which they may lie anywhere.
        description = replace(description, high_bit=description.bits_stored - 1)
    plugins = [name for name in _PREFERRED.get(transfer_syntax_uid, ()) if name in decoder.available_plugins]
    value = _one_frame_value(frame)
    failure: BaseException | None = None
    for plugin in plugins or [""]:
        try:
            array, found = decoder.as_array(value, index=0, raw=True, decoding_plugin=plugin, **options)
        except (RuntimeError, ValueError, NotImplementedError) as exc:
            failure = exc
            continue
        label = str(found["photometric_interpretation"])
        return Decoded(array, description.interleaved(_YBR_OF_JPEG.get(label, label)))
    raise failure or BadPixels("the frame is damaged")


def _one_frame_value(frame: bytes) -> bytes:
    """The frame as the value of Pixel Data: an empty offset table, and one item."""
    padding = len(frame) & 1
    head = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame) + padding)
    return b"".join((head, frame, b"\0" * padding, b"\xfe\xff\xdd\xe0\0\0\0\0"))


def _jpeg_12_bit(description: PixelDescription, frame: bytes) -> Decoded:
    """JPEG with 12 bits, which no plug-in of pydicom under a permissive licence decodes."""
    try:
        decode: Callable[..., NDArray[Any]] = import_module("imagecodecs").jpeg_decode
    except ImportError as exc:
        name = syntaxes.name_of(syntaxes.JPEG_EXTENDED)
        raise MissingCodec(f"there is no decoder for 12-bit {name}: install imagecodecs") from exc
    try:
        array = decode(frame, bitspersample=12)
    except Exception as exc:
        raise BadPixels("the pixels cannot be decoded as 12-bit JPEG: the frame is damaged") from exc
    expected = (description.rows, description.columns) + ((description.samples,) if description.samples > 1 else ())
    if array.shape != expected:
        raise BadPixels("the size of a JPEG frame is not what Rows and Columns say")
    return Decoded(array.astype(sample_type(description)), replace(description, planar_configuration=0))
