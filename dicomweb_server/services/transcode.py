"""Frames and whole instances in another transfer syntax (PS3.18 8.7.3, PS3.5 section 8 and Annex A)."""

from collections.abc import Collection, Iterator, Sequence

from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.codec.syntaxes import (
    DEFLATED_FRAMES,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LS,
    JPEG_LS_NEAR,
    RLE,
    decodable,
    encodable,
    missing,
)
from dicomweb_server.dicom.media import SYNTAX_MEDIA, AcceptRange, Offer, choose
from dicomweb_server.dicom.uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    is_encapsulated,
    is_video,
)
from dicomweb_server.errors import BadDicom, BadPixels, MissingCodec, NotAcceptable, TooLarge
from dicomweb_server.services.converted_file import ConvertedFile
from dicomweb_server.services.frame_cache import ResultCache, cache_key, in_memory
from dicomweb_server.services.images import Images
from dicomweb_server.services.retrieve import Instance, Payload, Retrieve
from dicomweb_server.storage.records import StoredInstance

NATIVE = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
LOSSLESS = (JPEG_LS, JPEG_2000_LOSSLESS, HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, RLE)
LOSSY_BY_NAME = (JPEG_BASELINE, JPEG_LS_NEAR, JPEG_2000)

_BITS = tuple(bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256))

CANNOT = (BadDicom, BadPixels, MissingCodec, NotAcceptable, TooLarge)
"""What says that an instance cannot be given in the transfer syntax that was tried."""


def asks_beyond(ranges: Sequence[AcceptRange], have: Collection[str]) -> bool:
    """Whether Accept may mean another transfer syntax than those that are there without work."""
    media = {SYNTAX_MEDIA.get(uid) for uid in have}
    for wanted in ranges:
        named = [uid for uid in wanted.transfer_syntaxes if uid != "*"]
        if any(uid not in have for uid in named):
            return True
        if wanted.transfer_syntaxes or wanted.media == "*/*":
            continue
        if EXPLICIT_VR_LITTLE_ENDIAN not in have or (wanted.media.startswith("image/") and wanted.media not in media):
            return True
    return False


def insists(ranges: Sequence[AcceptRange]) -> bool:
    """Whether Accept names transfer syntaxes, and takes no other. Where it does not, what cannot be decoded goes out as
    it is stored."""
    named = [uid for wanted in ranges for uid in wanted.transfer_syntaxes]
    return bool(named) and "*" not in named


def choose_syntax(ranges: Sequence[AcceptRange], offers: Sequence[Offer], source: str) -> Offer:
    """As `choose`, for what is stored in the transfer syntax `source`; the refusal of one that Accept names tells which
    decoder or encoder is missing for it. Raises NotAcceptable."""
    try:
        return choose(ranges, offers)
    except NotAcceptable as refusal:
        named = [uid for wanted in ranges for uid in wanted.transfer_syntaxes if uid not in ("*", source)]
        lacking = [missing(uid, encoder=True) for uid in named if is_encapsulated(uid) and not encodable(uid)]
        if named and not decodable(source):
            lacking = [missing(source)]
        if not lacking:
            raise
        raise NotAcceptable(f"{lacking[0]}; {refusal.message}", refusal.offered) from refusal


class Transcode:
    """Gives frames and files in other transfer syntaxes than their own."""

    def __init__(self, retrieve: Retrieve, images: Images, pool: CodecPool, cache: ResultCache) -> None:
        self._retrieve = retrieve
        self._images = images
        self._pool = pool
        self._cache = cache

    # Frames

    def frame_targets(self, instance: Instance, ranges: Sequence[AcceptRange]) -> list[str]:
        """The transfer syntaxes that its frames can be brought into, the preferred one first; lossy ones only where
        Accept names them."""
        source = instance.stored.transfer_syntax_uid
        if not decodable(source):
            return []
        try:
            description = self._images.description(instance)
        except BadPixels:
            return []
        native = NATIVE if is_encapsulated(source) else ()
        return [*native, *(uid for uid in _encoded(ranges) if uid != source and encodable(uid, description))]

    def frame(self, instance: Instance, index: int, target: str) -> Payload:
        """Frame `index`, from 0, in a transfer syntax of `frame_targets`; it is made before this returns."""
        return in_memory(self._frame(instance, index, target))

    def later_frame(self, instance: Instance, index: int, target: str) -> Payload:
        """As `frame`, but made when it is read where its size is known beforehand, which is that of native pixels."""
        if is_encapsulated(target):
            return self.frame(instance, index, target)
        size = _native_bytes(self._images.description(instance), instance.stored.transfer_syntax_uid)

        def chunks(first: int, count: int) -> Iterator[bytes]:
            yield self._frame(instance, index, target)[first : first + count]

        return Payload(size_bytes=size, chunks=chunks, open_file=lambda: None)

    def _frame(self, instance: Instance, index: int, target: str) -> bytes:
        target = target if is_encapsulated(target) else EXPLICIT_VR_LITTLE_ENDIAN
        stored = instance.stored
        key = cache_key("frame", stored.blob.sha256, index, target)

        def make() -> bytes:
            description = self._images.description(instance)
            frame = self._images.frame(instance, index)
            source = stored.transfer_syntax_uid
            made = self._pool.transcode(description, source, frame, target=target).data
            if is_encapsulated(target):
                return made
            if _is_bits_of_codestream(description, source):
                made = b"".join(map(_BITS.__getitem__, made))[: _native_bytes(description, source)]
            if len(made) != _native_bytes(description, source):
                raise BadPixels(f"frame {index + 1} does not have the size that its attributes say")
            return made

        return self._cache.bytes_of(key, make)

    # Whole instances

    def file_targets(self, source: str, ranges: Sequence[AcceptRange]) -> list[str]:
        """The transfer syntaxes that files of `source` may be brought into, as far as that alone tells."""
        if is_video(source):
            return []
        native = NATIVE if not is_encapsulated(source) or decodable(source) else ()
        encoded = [uid for uid in _encoded(ranges) if encodable(uid)] if decodable(source) else []
        return [uid for uid in (*native, *encoded) if uid != source]

    def file(self, stored: StoredInstance, target: str) -> tuple[Payload, str]:
        """The file in another transfer syntax, and which one: an object without pixels is never in a compressed one.

        Raises one of CANNOT.
        """
        instance = self._retrieve.opened(stored)
        if instance.layout.pixel_tag is None and is_encapsulated(target):
            target = EXPLICIT_VR_LITTLE_ENDIAN
        if target == stored.transfer_syntax_uid:
            return self._retrieve.file(stored), target
        job = ConvertedFile(self._images, self._pool, instance, target)
        key = cache_key("file", stored.blob.sha256, target)
        return self._cache.file_of(key, job.write), target


def _is_bits_of_codestream(description: PixelDescription, source: str) -> bool:
    """Single bits that were compressed as an image: a decoded frame has a byte for each, as all decoders give it. Files
    have them packed, as native frames are."""
    return description.bits_allocated == 1 and source not in (RLE, DEFLATED_FRAMES)


def _native_bytes(description: PixelDescription, source: str) -> int:
    if _is_bits_of_codestream(description, source):
        return description.rows * description.columns * description.samples
    return description.frame_bytes


def _encoded(ranges: Sequence[AcceptRange]) -> list[str]:
    named = {uid for wanted in ranges for uid in wanted.transfer_syntaxes}
    return [*LOSSLESS, *(uid for uid in LOSSY_BY_NAME if uid in named)]
