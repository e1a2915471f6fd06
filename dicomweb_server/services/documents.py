"""What is shown of objects without pictures: encapsulated documents, structured reports, and video as it is stored."""

import base64
import binascii
import struct

from dicomweb_server.dicom.delimiters import ITEM_TAG
from dicomweb_server.dicom.json_model import Attributes, first_int, first_value
from dicomweb_server.dicom.media import OCTET_STREAM, SYNTAX_MEDIA
from dicomweb_server.dicom.sr_html import sr_to_html, sr_to_text
from dicomweb_server.errors import BadPixels, NotFound
from dicomweb_server.services.frame_cache import in_memory
from dicomweb_server.services.retrieve import Instance, Payload, joined, run_of
from dicomweb_server.storage.base import BlobStore

REPORT_TYPES = ("text/html", "text/plain")
MAX_FRAGMENTS = 100_000

_DOCUMENT, _MIME_TYPE, _DOCUMENT_LENGTH = "00420011", "00420012", "00420015"
_TYPES = {
    "application/pdf": ("application/pdf",),
    "text/xml": ("text/xml", "application/xml"),
    "application/xml": ("application/xml", "text/xml"),
}
_TYPE_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.104.1": "application/pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "text/xml",
}


def video_type(transfer_syntax_uid: str) -> str:
    """The media type of a stored video."""
    return SYNTAX_MEDIA.get(transfer_syntax_uid, OCTET_STREAM)


def video(instance: Instance, blobs: BlobStore) -> Payload:
    """The stream of a video, as it is stored, without the frame of DICOM around it. Ranges of it are read directly."""
    pixels = instance.layout.bulk_element(instance.layout.pixel_tag or "")
    if pixels is None or not pixels.encapsulated:
        raise BadPixels("this video is not stored as video is")
    place, end = pixels.offset, pixels.offset + pixels.length
    pieces: list[Payload] = []
    first = True  # the first item is the offset table
    while place + 8 <= end:
        tag, length = struct.unpack("<4sI", instance.read(place, 8))
        if tag != ITEM_TAG or length > end - place - 8 or len(pieces) >= MAX_FRAGMENTS:
            raise BadPixels("the fragments of this video are damaged")
        if not first:
            pieces.append(run_of(blobs, instance.stored.blob.key, place + 8, length))
        first = False
        place += 8 + length
    if not pieces:
        raise BadPixels("this video is empty")
    return joined(pieces)


def document_types(attributes: Attributes) -> tuple[str, ...]:
    """The media types of an encapsulated document; none where browsers are not to open it."""
    sop_class_uid = str(first_value(attributes, "00080016") or "")
    named = str(first_value(attributes, _MIME_TYPE) or _TYPE_OF_CLASS.get(sop_class_uid, ""))
    return _TYPES.get(named.partition(";")[0].strip().lower(), ())


def document(instance: Instance, attributes: Attributes) -> Payload:
    """An encapsulated document without what pads it to an even length. Raises NotFound."""
    payload = _stored_document(instance, attributes)
    length = first_int(attributes, _DOCUMENT_LENGTH)
    size = payload.size_bytes
    if length in (size, size - 1):
        size = length
    elif size and b"".join(payload.chunks(size - 1, 1)) == b"\0":
        size -= 1
    return Payload(size_bytes=size, chunks=payload.chunks, open_file=payload.open_file)


def _stored_document(instance: Instance, attributes: Attributes) -> Payload:
    if instance.layout.bulk_element(_DOCUMENT) is not None:
        return joined(instance.bulk(_DOCUMENT))
    try:
        data = base64.b64decode(attributes.get(_DOCUMENT, {}).get("InlineBinary", ""))
    except binascii.Error:
        data = b""
    if not data:
        raise NotFound("this object holds no document")
    return in_memory(data)


def report(attributes: Attributes, media: str) -> bytes:
    """A structured report as a page or as text, in UTF-8."""
    make = sr_to_html if media == REPORT_TYPES[0] else sr_to_text
    return make(attributes).encode("utf-8", "replace")
