"""Bulk data: every BulkDataURI, and all of it below a study, series or instance (PS3.18 10.4.1.1.3 and 10.4.1.1.5)."""

import itertools
from collections.abc import Iterator

import falcon
import orjson

from dicomweb_server.dicom.media import OCTET_STREAM, Offer, choose, part_type
from dicomweb_server.errors import NotFound
from dicomweb_server.http.answers import OutPart, send_multipart, send_payload, tag
from dicomweb_server.http.params import accepted, entity_url, scope_of
from dicomweb_server.http.resources.frames import frame_offers, frame_parts
from dicomweb_server.services.retrieve import Instance, Retrieve, joined
from dicomweb_server.storage.packing import unpack_metadata

ENCAPSULATED_DOCUMENT, MIME_TYPE = "00420011", "00420012"


class BulkDataResource:
    """The large values of data sets."""

    def __init__(self, retrieve: Retrieve, *, cache: str) -> None:
        self._retrieve = retrieve
        self._cache = cache

    def on_get_element(self, req: falcon.Request, resp: falcon.Response, key: str, **uids: str) -> None:
        """One element, named by its path in the data set."""
        instance = self._retrieve.instance(scope=scope_of(**uids))
        payloads = instance.bulk(key.upper())
        offer = choose(accepted(req), self._offers(instance, key.upper()))
        etag = tag(instance.stored.blob.sha256, key, part_type(offer), str(offer.multipart))
        if offer.multipart:
            location = f"{entity_url(req.context.address.dicomweb, instance.scope)}/bulkdata/{key}"
            parts = [OutPart(content_type=part_type(offer), payload=p, location=location) for p in payloads]
            send_multipart(req, resp, parts, media=offer.media, etag=etag, cache=self._cache)
        else:
            send_payload(req, resp, joined(payloads), content_type=part_type(offer), etag=etag, cache=self._cache)

    def on_get_all(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """All bulk data of all instances, a part each."""
        self._send_all(req, resp, uids, pixels_only=False)

    def on_get_pixels(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """The pixel data of all instances: a part per frame."""
        self._send_all(req, resp, uids, pixels_only=True)

    def _send_all(self, req: falcon.Request, resp: falcon.Response, uids: dict[str, str], *, pixels_only: bool) -> None:
        found = self._retrieve.instances(scope=scope_of(**uids))
        ranges = accepted(req)
        opened = [self._retrieve.opened(stored) for stored in found[:1]]
        pictures = [offer for instance in opened for offer in frame_offers(instance) if offer.multipart]
        top = choose(ranges, [*pictures, Offer(OCTET_STREAM, multipart=True)])
        base = req.context.address.dicomweb

        def parts() -> Iterator[OutPart]:
            for stored in found:
                instance = self._retrieve.opened(stored)
                pixels = instance.layout.pixel_tag
                if pixels is not None and instance.number_of_frames:
                    offer = choose(ranges, [o for o in frame_offers(instance) if o.multipart])
                    yield from frame_parts(instance, range(instance.number_of_frames), offer, base)
                for key in () if pixels_only else instance.layout.bulk_keys():
                    if key != pixels or not instance.number_of_frames:
                        location = f"{entity_url(base, instance.scope)}/bulkdata/{key}"
                        for payload in instance.bulk(key):
                            yield OutPart(content_type=OCTET_STREAM, payload=payload, location=location)

        iterator = parts()
        first = next(iterator, None)
        if first is None:
            raise NotFound("there is no pixel data here" if pixels_only else "there is no bulk data here")
        etag = tag(*(item.blob.sha256 for item in found), top.media, str(pixels_only), repr(ranges))
        send_multipart(req, resp, itertools.chain([first], iterator), media=top.media, etag=etag, cache=self._cache)

    def _offers(self, instance: Instance, key: str) -> list[Offer]:
        if key == instance.layout.pixel_tag and instance.number_of_frames:
            return frame_offers(instance)
        octets = [Offer(OCTET_STREAM), Offer(OCTET_STREAM, multipart=True)]
        if key != ENCAPSULATED_DOCUMENT:
            return octets
        media = self._document_type(instance)
        return [Offer(media), Offer(media, multipart=True), *octets] if media else octets

    def _document_type(self, instance: Instance) -> str | None:
        """The media type that an encapsulated document says it has."""
        for metadata in self._retrieve.metadata(scope=instance.scope):
            values = orjson.loads(unpack_metadata(metadata.deflated)).get(MIME_TYPE, {}).get("Value") or [None]
            text = str(values[0] or "").lower()
            return text if text.count("/") == 1 and text.replace("/", "").replace("-", "").isalnum() else None
        return None
