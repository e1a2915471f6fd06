"""Frames and pixel data of an instance (PS3.18 10.4.1.1.4 and 10.4.1.1.5), as stored or in another transfer syntax."""

from collections.abc import Iterator, Sequence

import falcon

from dicomweb_server.dicom.media import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    OCTET_STREAM,
    SYNTAX_MEDIA,
    AcceptRange,
    Offer,
    choose,
    part_type,
)
from dicomweb_server.dicom.uids import is_encapsulated
from dicomweb_server.errors import NotFound
from dicomweb_server.http.answers import PARTS_WITH_LENGTH, OutPart, send_multipart, send_payload, tag
from dicomweb_server.http.params import accepted, entity_url, frame_numbers, scope_of
from dicomweb_server.services.retrieve import Instance, Retrieve
from dicomweb_server.services.transcode import CANNOT, Transcode, asks_beyond, choose_syntax, insists

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
CONVERTED_AHEAD = 8  # so many compressed frames are made before the answer begins

BROKEN_PIXELS = (
    "the pixel data does not hold the frames that Rows, Columns, Bits Allocated and Number of Frames tell of; "
    "the whole instance and its bulk data can be retrieved"
)

_BOTH = (False, True)


class FramesResource:
    """The frames of one instance."""

    def __init__(self, retrieve: Retrieve, transcode: Transcode, *, cache: str) -> None:
        self._retrieve = retrieve
        self._transcode = transcode
        self._cache = cache

    def on_get_list(self, req: falcon.Request, resp: falcon.Response, numbers: str, **uids: str) -> None:
        """The frames of a list, in its order."""
        scope = scope_of(**uids)
        indexes = frame_numbers(numbers)
        self._answer(req, resp, self._retrieve.instance(scope=scope), indexes)

    def on_get_all(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Every frame."""
        instance = self._retrieve.instance(scope=scope_of(**uids))
        self._answer(req, resp, instance, range(instance.number_of_frames))

    def _answer(self, req: falcon.Request, resp: falcon.Response, instance: Instance, indexes: Sequence[int]) -> None:
        check_frames(instance, indexes)
        ranges = accepted(req)
        several = len(indexes) > 1  # which have no single form, also for who takes anything
        stored = [offer for offer in frame_offers(instance) if offer.multipart or not several]
        more = converted_offers(self._transcode, instance, ranges, stored)
        more = [offer for offer in more if offer.multipart or not several]
        offer = choose_syntax(ranges, stored + more, instance.stored.transfer_syntax_uid)
        converted = bool(more) and offer.transfer_syntax in {one.transfer_syntax for one in more}
        if converted and not insists(ranges):
            # What cannot be decoded goes out as it is stored.
            try:
                self._transcode.frame(instance, indexes[0], offer.transfer_syntax or "")
            except CANNOT:
                offer, converted = choose(ranges, stored), False
        self.send(req, resp, instance, indexes, offer, converted=converted)

    def send(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        instance: Instance,
        indexes: Sequence[int],
        offer: Offer,
        *,
        converted: bool,
    ) -> None:
        """Answer with frames in the representation that was chosen, which is one of `converted_offers` or not."""
        etag = tag(instance.stored.blob.sha256, ",".join(map(str, indexes)), part_type(offer), str(offer.multipart))
        syntax = offer.transfer_syntax or ""
        if offer.multipart:
            make = self._converted_parts if converted else frame_parts
            ahead = CONVERTED_AHEAD if converted and is_encapsulated(syntax) else PARTS_WITH_LENGTH
            parts = make(instance, indexes, offer, req.context.address.dicomweb)
            send_multipart(req, resp, parts, media=offer.media, etag=etag, cache=self._cache, ahead=ahead)
        else:
            if converted:
                payload = self._transcode.frame(instance, indexes[0], syntax)
            else:
                payload = instance.frame(indexes[0], little_endian=_wants_little_endian(offer))
            send_payload(req, resp, payload, content_type=part_type(offer), etag=etag, cache=self._cache)

    def _converted_parts(
        self, instance: Instance, indexes: Sequence[int], offer: Offer, base: str
    ) -> Iterator[OutPart]:
        url = entity_url(base, instance.scope)
        for index in indexes:
            yield OutPart(
                content_type=part_type(offer),
                payload=self._transcode.later_frame(instance, index, offer.transfer_syntax or ""),
                location=f"{url}/frames/{index + 1}",
            )


def converted_offers(
    transcode: Transcode, instance: Instance, ranges: Sequence[AcceptRange], stored: Sequence[Offer]
) -> list[Offer]:
    """What else the frames can be made into, where Accept may mean that; nothing is looked up otherwise."""
    have = {offer.transfer_syntax or "" for offer in stored}
    if not asks_beyond(ranges, have):
        return []
    targets = [uid for uid in transcode.frame_targets(instance, ranges) if uid not in have]
    return [Offer(SYNTAX_MEDIA.get(uid, OCTET_STREAM), uid, multipart=several) for uid in targets for several in _BOTH]


def frame_offers(instance: Instance) -> list[Offer]:
    """In which representations the frames can be had, those without any work first."""
    syntax = instance.stored.transfer_syntax_uid
    if syntax == EXPLICIT_VR_BIG_ENDIAN:
        syntaxes = [syntax, EXPLICIT_VR_LITTLE_ENDIAN]
    elif SYNTAX_MEDIA.get(syntax, OCTET_STREAM) == OCTET_STREAM and not instance.is_encapsulated:
        # The bytes of a native frame are the same in each little endian syntax.
        syntaxes = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, syntax]
    else:
        syntaxes = [syntax]
    offers = []
    for uid in dict.fromkeys(syntaxes):
        media = SYNTAX_MEDIA.get(uid, OCTET_STREAM)
        offers += [Offer(media, uid), Offer(media, uid, multipart=True)]
    return offers


def frame_parts(instance: Instance, indexes: Sequence[int], offer: Offer, base: str) -> Iterator[OutPart]:
    """The frames as parts, one after the other."""
    url = entity_url(base, instance.scope)
    for index in indexes:
        yield OutPart(
            content_type=part_type(offer),
            payload=instance.frame(index, little_endian=_wants_little_endian(offer)),
            location=f"{url}/frames/{index + 1}",
        )


def _wants_little_endian(offer: Offer) -> bool:
    return offer.transfer_syntax != EXPLICIT_VR_BIG_ENDIAN


def check_frames(instance: Instance, indexes: Sequence[int]) -> None:
    """Raise NotFound unless the instance has all these frames."""
    count = instance.number_of_frames
    if instance.has_broken_pixels:
        raise NotFound(BROKEN_PIXELS)
    if count == 0:
        raise NotFound(
            "the instance has no frames that can be retrieved one by one (no pixel data, or video); "
            "its bulk data and the whole instance can be"
        )
    if max(indexes) >= count:
        raise NotFound(f"there is no frame {max(indexes) + 1}: the instance has {count}")
