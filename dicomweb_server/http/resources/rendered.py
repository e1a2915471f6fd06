"""Rendered resources (PS3.18 10.4.1.1.3): pictures, video, documents and reports as browsers show them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import falcon

from dicomweb_server import __version__
from dicomweb_server.dicom.media import Offer, choose
from dicomweb_server.errors import BadPixels, DicomwebError, MissingCodec, NotAcceptable
from dicomweb_server.http.answers import REVALIDATE, OutPart, not_modified, send_multipart, send_payload, tag, warn
from dicomweb_server.http.conditional import etag_matches
from dicomweb_server.http.params import accepted, entity_url, frame_numbers, query_parameters, scope_of
from dicomweb_server.http.resources.frames import BROKEN_PIXELS, check_frames
from dicomweb_server.services.picture_options import PictureOptions, rs_options
from dicomweb_server.services.pictures import Kind, Pictures, Shown
from dicomweb_server.services.retrieve import Instance, Payload, Retrieve

PICTURES_AHEAD = 2  # so many parts are made before the answer begins

# What comes out of objects is not trusted: no scripts, no forms, an origin of its own.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
_SANDBOXED = frozenset({"text/html", "text/xml", "application/xml", "image/svg+xml"})
_WITH_CHARSET = frozenset({"text/html", "text/plain"})


class RenderedResource:
    """A study, a series, an instance or some of its frames, rendered."""

    def __init__(self, retrieve: Retrieve, pictures: Pictures, *, cache: str) -> None:
        self._retrieve = retrieve
        self._pictures = pictures
        self._cache = cache

    def on_get(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """One picture as a single part, of a study or series that of its middle, or where that is damaged of a
        neighbour; every one as multipart."""
        scope = scope_of(**uids)
        options = rs_options(picture_parameters(req))
        instance = self._pictures.representative(scope)
        offer = self._chosen(req, instance)
        if scope.instance_uid is not None and self._pictures.kind(instance) is not Kind.PRESENTATION_STATE:
            self._send(req, resp, [instance], offer, options, identity=instance.stored.blob.sha256, cache=self._cache)
            return
        # More instances, or the images of a presentation state, can come.
        found = (self._retrieve.opened(item) for item in self._retrieve.instances(scope=scope))
        identity = f"{scope}/{self._pictures.version(replace(scope, series_uid=None, instance_uid=None))}"
        try:
            self._send(req, resp, found if offer.multipart else [instance], offer, options, identity=identity)
        except BadPixels:
            if offer.multipart or scope.instance_uid is not None:
                raise
            stand_in = self._pictures.rendered_stand_in(scope, offer.media, options, damaged=instance)
            if stand_in is None:
                raise
            etag = _etag(f"{identity}/{stand_in[0].stored.instance_uid}", offer, options)
            send_payload(req, resp, stand_in[1], content_type=_labelled(offer.media), etag=etag, cache=REVALIDATE)
            warn(resp, ["the image in the middle is damaged, another one is shown"])

    def on_get_frames(self, req: falcon.Request, resp: falcon.Response, numbers: str, **uids: str) -> None:
        """The frames of a list: the first or an animation as a single part, every one as multipart."""
        scope = scope_of(**uids)
        indexes = frame_numbers(numbers)
        options = rs_options(picture_parameters(req))
        instance = self._retrieve.instance(scope=scope)
        check_frames(instance, indexes)
        offer = self._chosen(req, instance)
        identity = f"{instance.stored.blob.sha256}/{indexes}"
        self._send(req, resp, [instance], offer, options, frames=indexes, identity=identity, cache=self._cache)

    def _chosen(self, req: falcon.Request, instance: Instance) -> Offer:
        types = self._pictures.media_types(instance)
        if instance.has_broken_pixels and not types:
            raise BadPixels(BROKEN_PIXELS)
        if not types:
            raise NotAcceptable("objects of this kind have no rendered form; they can be retrieved as they are")
        return choose(accepted(req), [Offer(media, multipart=several) for several in (False, True) for media in types])

    def _send(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        instances: Iterable[Instance],
        offer: Offer,
        options: PictureOptions,
        *,
        identity: str,
        frames: Sequence[int] = (),
        cache: str = REVALIDATE,
    ) -> None:
        etag = _etag(identity, offer, options)
        cache = cache if stays(offer.media, options) else REVALIDATE
        if offer.multipart:
            parts = self._parts(instances, offer.media, options, frames=frames, base=req.context.address.dicomweb)
            send_multipart(req, resp, parts, media=offer.media, etag=etag, cache=cache, ahead=PICTURES_AHEAD)
            return

        def make() -> Payload:
            shown = self._pictures.shown(next(iter(instances)), offer.media, frames)
            return self._pictures.made(shown, offer.media, options)

        send_rendered(req, resp, make, media=offer.media, etag=etag, cache=cache)

    def _parts(
        self, instances: Iterable[Instance], media: str, options: PictureOptions, *, frames: Sequence[int], base: str
    ) -> Iterator[OutPart]:
        """Every picture. One of many that cannot be made is left out, unless it was asked for by its number."""
        failure: DicomwebError = NotAcceptable(f"there is nothing here that can be given as {media}")
        some = False
        for instance in instances:
            for shown in self._pictures.every_one(instance, media, frames):
                try:
                    payload = self._pictures.made(shown, media, options)
                except (BadPixels, MissingCodec) as exc:
                    if frames:
                        raise
                    failure = exc
                else:
                    some = True
                    yield OutPart(content_type=_labelled(media), payload=payload, location=_location(shown, base))
        if not some:
            raise failure


def _etag(identity: str, offer: Offer, options: PictureOptions) -> str:
    return tag("rendered", __version__, identity, offer.media, str(offer.multipart), options.identity())


def stays(media: str, options: PictureOptions) -> bool:
    """Whether it shows pixels only. What shows text of the header is another one after an edit."""
    return media.startswith(("image/", "video/")) and not options.annotation


def send_rendered(
    req: falcon.Request, resp: falcon.Response, make: Callable[[], Payload], *, media: str, etag: str, cache: str
) -> None:
    """Answer with one rendered thing, made only where the client does not have it; what browsers run goes sandboxed."""
    if media in _SANDBOXED:
        resp.set_header("Content-Security-Policy", SANDBOX)
    if etag_matches(req.get_header("If-None-Match"), etag):
        not_modified(req, resp, etag=etag, cache=cache)
    else:
        send_payload(req, resp, make(), content_type=_labelled(media), etag=etag, cache=cache)


def picture_parameters(req: falcon.Request) -> dict[str, str]:
    """The query by names in lower case; of a repeated name the first counts."""
    found: dict[str, str] = {}
    for name, value in query_parameters(req):
        found.setdefault(name.lower(), value.strip())
    return found


def _labelled(media: str) -> str:
    return f"{media}; charset=utf-8" if media in _WITH_CHARSET else media


def _location(shown: Shown, base: str) -> str:
    url = entity_url(base, shown.instance.scope)
    if len(shown.frames) == 1 and shown.instance.number_of_frames > 1:
        url += f"/frames/{shown.frames[0] + 1}"
    return f"{url}/rendered"
