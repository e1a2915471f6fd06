"""Thumbnails of studies, series, instances and frames (PS3.18 10.4.1.1.4): never 406, whatever Accept says."""

import falcon

from dicomweb_server import __version__
from dicomweb_server.dicom.media import Offer, choose
from dicomweb_server.errors import BadPixels, BadRequest, NotAcceptable
from dicomweb_server.http.answers import REVALIDATE, send_payload, tag
from dicomweb_server.http.params import accepted, frame_numbers, scope_of
from dicomweb_server.http.resources.frames import check_frames
from dicomweb_server.http.resources.rendered import picture_parameters, send_rendered
from dicomweb_server.services.picture_options import PictureOptions, rs_options
from dicomweb_server.services.pictures import Pictures
from dicomweb_server.services.retrieve import Instance
from dicomweb_server.storage.records import Scope

_MEDIA = ("image/jpeg", "image/png", "image/gif", "image/webp")
_OFFERS = tuple(Offer(media) for media in _MEDIA)


class ThumbnailResource:
    """One small picture, as a single part."""

    def __init__(self, pictures: Pictures, *, cache: str) -> None:
        self._pictures = pictures
        self._cache = cache

    def on_get(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """The picture of a study, a series or an instance."""
        scope = scope_of(**uids)
        instance = self._pictures.representative(scope)
        if scope.instance_uid is not None:
            self._send(req, resp, instance, None, cache=self._cache)
            return
        # A study or series can get another middle.
        try:
            self._send(req, resp, instance, None, cache=REVALIDATE)
        except BadPixels:
            self._send_stand_in(req, resp, scope, instance)

    def on_get_frame(self, req: falcon.Request, resp: falcon.Response, numbers: str, **uids: str) -> None:
        """The picture of one frame."""
        indexes = frame_numbers(numbers)
        if len(indexes) != 1:
            raise BadRequest("a thumbnail shows one frame")
        instance = self._pictures.representative(scope_of(**uids))
        check_frames(instance, indexes)
        self._send(req, resp, instance, indexes[0], cache=self._cache)

    def _send(
        self, req: falcon.Request, resp: falcon.Response, instance: Instance, frame: int | None, *, cache: str
    ) -> None:
        options, media = rs_options(picture_parameters(req)), _media(req)
        etag = _etag(instance.stored.blob.sha256, frame, media, options)
        send_rendered(
            req,
            resp,
            lambda: self._pictures.thumbnail(instance, frame, media, options),
            media=media,
            etag=etag,
            cache=cache,
        )

    def _send_stand_in(self, req: falcon.Request, resp: falcon.Response, scope: Scope, damaged: Instance) -> None:
        """What is shown instead of a damaged image that nobody asked for by its name."""
        options, media = rs_options(picture_parameters(req)), _media(req)
        shown, payload = self._pictures.stand_in(scope, media, options, damaged=damaged)
        etag = _etag(shown.stored.blob.sha256 if shown else "icon", None, media, options)
        send_payload(req, resp, payload, content_type=media, etag=etag, cache=REVALIDATE)


def _etag(identity: str, frame: int | None, media: str, options: PictureOptions) -> str:
    return tag("thumbnail", __version__, identity, str(frame), media, options.identity())


def _media(req: falcon.Request) -> str:
    """What the client likes best of what there is; OHIF asks for application/octet-stream and wants a JPEG."""
    try:
        return choose(accepted(req), _OFFERS).media
    except NotAcceptable:
        return _MEDIA[0]
