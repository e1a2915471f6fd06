"""What is done with frames, in one call each: in this process, or in one of the pool."""

from collections.abc import Sequence

import numpy as np

from dicomweb_server.codec.decode import Decoded, decode_frame, native_bytes
from dicomweb_server.codec.encode import DEFAULT_QUALITY, Encoded, encode_frame
from dicomweb_server.codec.options import RenderOptions, check_media
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.render import animation, frame_milliseconds, render_frame, to_bytes
from dicomweb_server.codec.thumbnails import thumbnail
from dicomweb_server.dicom.json_model import Attributes
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from dicomweb_server.errors import BadRequest

__all__ = ["Decoded", "Encoded", "decode", "decoded_from_bytes", "rehearse", "render", "thumbnail", "transcode"]


def rehearse() -> None:
    """Make a picture of nothing: what the first one loads is loaded then."""
    description = {"00280010": 8, "00280011": 8, "00280100": 16, "00280101": 12, "00281050": 40, "00281051": 400}
    attributes: Attributes = {tag: {"vr": "US", "Value": [value]} for tag, value in description.items()}
    render([attributes], EXPLICIT_VR_LITTLE_ENDIAN, [bytes(128)], options=RenderOptions(), media="image/jpeg")


def decode(description: PixelDescription, transfer_syntax_uid: str, frame: bytes, *, rgb: bool) -> Decoded:
    """Decode a frame."""
    return decode_frame(description, transfer_syntax_uid, frame, rgb=rgb)


def decoded_from_bytes(description: PixelDescription, data: bytes, *, dtype: str, shape: Sequence[int]) -> Decoded:
    """What a process of the pool has decoded. The array cannot be written to."""
    return Decoded(np.frombuffer(data, dtype).reshape(shape), description)


def transcode(
    description: PixelDescription,
    transfer_syntax_uid: str,
    frame: bytes,
    *,
    target: str = EXPLICIT_VR_LITTLE_ENDIAN,
    quality: int = DEFAULT_QUALITY,
    rgb: bool = False,
) -> Encoded:
    """Bring a frame into another transfer syntax."""
    decoded = decode_frame(description, transfer_syntax_uid, frame, rgb=rgb)
    if target == EXPLICIT_VR_LITTLE_ENDIAN:
        return Encoded(native_bytes(decoded), decoded.description)
    return encode_frame(decoded, target, quality=quality)


def render(
    attributes: Sequence[Attributes],
    transfer_syntax_uid: str,
    frames: Sequence[bytes],
    *,
    options: RenderOptions,
    media: str,
) -> bytes:
    """One picture, or an animation of several.

    attributes: for each frame, what `frame_attributes` gives.
    """
    check_media(media)
    if not frames or len(frames) != len(attributes):
        raise BadRequest("there is no frame to be rendered")
    pictures = (
        render_frame(flat, _decoded(flat, transfer_syntax_uid, frame), options=options)
        for flat, frame in zip(attributes, frames, strict=True)
    )
    if len(frames) == 1:
        return to_bytes(next(pictures), media, quality=options.quality)
    return animation(pictures, media, milliseconds=frame_milliseconds(attributes[0]))


def _decoded(attributes: Attributes, transfer_syntax_uid: str, frame: bytes) -> Decoded:
    return decode_frame(PixelDescription.from_attributes(attributes), transfer_syntax_uid, frame)
