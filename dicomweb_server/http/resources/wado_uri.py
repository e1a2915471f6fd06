"""WADO-URI (PS3.18 section 9): one instance, or a picture of it, named by query parameters, for older viewers."""

from collections.abc import Mapping
from dataclasses import replace

import falcon

from dicomweb_server import __version__
from dicomweb_server.dicom.media import AcceptRange, Offer, choose, parse_accept
from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest
from dicomweb_server.http.answers import REVALIDATE, send_payload, tag
from dicomweb_server.http.params import frame_numbers
from dicomweb_server.http.resources.frames import FramesResource, check_frames, converted_offers, frame_offers
from dicomweb_server.http.resources.rendered import picture_parameters, send_rendered, stays
from dicomweb_server.services.images import Images
from dicomweb_server.services.picture_options import URI_NAMES, uri_options
from dicomweb_server.services.pictures import Kind, Pictures
from dicomweb_server.services.retrieve import Instance, Payload, Retrieve
from dicomweb_server.services.transcode import CANNOT, Transcode, asks_beyond, choose_syntax, insists
from dicomweb_server.storage.records import StoredInstance

DICOM = "application/dicom"
_ANY_SYNTAX = "*"
_UIDS = {
    "studyuid": "studyUID",
    "seriesuid": "seriesUID",
    "objectuid": "objectUID",
    "presentationuid": "presentationUID",
    "presentationseriesuid": "presentationSeriesUID",
}


def is_wado_uri(req: falcon.Request) -> bool:
    """Whether a request at the root is meant for WADO-URI."""
    query = req.query_string.lower()
    return "requesttype=" in query or "objectuid=" in query


class WadoUriResource:
    """The one resource of WADO-URI. Parameters that are not known are ignored; names have any case."""

    def __init__(
        self,
        retrieve: Retrieve,
        images: Images,
        pictures: Pictures,
        transcode: Transcode,
        frames: FramesResource,
        *,
        cache: str,
    ) -> None:
        self._retrieve = retrieve
        self._images = images
        self._pictures = pictures
        self._transcode = transcode
        self._frames = frames
        self._cache = cache

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The DICOM file, a rendered form of it, or with `frame` (an extension) frames as they are stored."""
        # Older viewers send names that they have no value for; how a picture is to look has to be said.
        found = picture_parameters(req)
        parameters = {name: value for name, value in found.items() if value or name in URI_NAMES}
        _check(parameters)
        stored = self._images.find(
            instance_uid=parameters["objectuid"],
            study_uid=parameters.get("studyuid"),
            series_uid=parameters.get("seriesuid"),
        )
        req.context.studies = [stored.study_uid]  # for the audit trail: the URL need not name it
        ranges = _ranges(req, parameters)
        named = [wanted for wanted in ranges if wanted.media == DICOM]
        if "frame" in parameters and not ("contenttype" in parameters and named):
            self._send_frames(req, resp, self._retrieve.opened(stored), parameters)
            return
        instance = self._retrieve.opened(stored)
        rendered = [Offer(media) for media in self._pictures.media_types(instance)]
        offer = choose_syntax(ranges, rendered + self._files(stored, named), stored.transfer_syntax_uid)
        if offer.media == DICOM:
            self._send_file(req, resp, stored, offer, strict=insists(ranges))
        else:
            self._send_rendered(req, resp, instance, offer.media, parameters)

    # The file

    def _files(self, stored: StoredInstance, named: list[AcceptRange]) -> list[Offer]:
        source = stored.transfer_syntax_uid
        targets = self._transcode.file_targets(source, named) if asks_beyond(named, {source}) else []
        return [Offer(DICOM, uid) for uid in (source, *targets)]

    def _send_file(
        self, req: falcon.Request, resp: falcon.Response, stored: StoredInstance, offer: Offer, *, strict: bool
    ) -> None:
        payload, syntax = self._retrieve.file(stored), stored.transfer_syntax_uid
        if offer.transfer_syntax not in (None, syntax):
            try:
                payload, syntax = self._transcode.file(stored, offer.transfer_syntax or syntax)
            except CANNOT:
                if strict:
                    raise
        resp.set_header("Content-Disposition", f'attachment; filename="{stored.instance_uid}.dcm"')
        etag = tag(stored.blob.sha256, stored.instance_uid, syntax)
        send_payload(req, resp, payload, content_type=DICOM, etag=etag, cache=REVALIDATE)

    # Frames

    def _send_frames(
        self, req: falcon.Request, resp: falcon.Response, instance: Instance, parameters: Mapping[str, str]
    ) -> None:
        indexes = frame_numbers(parameters["frame"])
        check_frames(instance, indexes)
        syntax = parameters.get("transfersyntax", _ANY_SYNTAX)
        ranges = [AcceptRange("*/*", multipart=True, transfer_syntaxes=(syntax,))]
        stored = frame_offers(instance)
        more = converted_offers(self._transcode, instance, ranges, stored)
        offer = choose(ranges, stored + more)
        self._frames.send(req, resp, instance, indexes, offer, converted=offer in more)

    # Pictures

    def _send_rendered(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        instance: Instance,
        media: str,
        parameters: Mapping[str, str],
    ) -> None:
        options = uri_options(parameters)
        frames = _frame_number(parameters)
        if frames:
            check_frames(instance, frames)
        state = self._presentation_state(instance, parameters)
        identity = state.stored.blob.sha256 if state else ""
        stored = instance.stored

        def make() -> Payload:
            shown = self._pictures.shown(instance, media, frames)
            if state is not None:
                shown = self._pictures.with_state(shown, state)
            return self._pictures.made(shown, media, options)

        etag = tag("wado", __version__, stored.blob.sha256, identity, str(frames), media, options.identity())
        cache = self._cache if stays(media, options) else REVALIDATE
        send_rendered(req, resp, make, media=media, etag=etag, cache=cache)

    def _presentation_state(self, instance: Instance, parameters: Mapping[str, str]) -> Instance | None:
        """The presentation state to apply, which is in the study of the image (PS3.18 9.1.2.2)."""
        uid = parameters.get("presentationuid")
        if uid is None or self._pictures.kind(instance) is not Kind.IMAGE:
            return None
        stored = self._images.find(
            instance_uid=uid,
            study_uid=instance.stored.study_uid,
            series_uid=parameters.get("presentationseriesuid"),
        )
        return self._retrieve.opened(stored)


def _check(parameters: Mapping[str, str]) -> None:
    """Raise BadRequest for what every request has to have, and for what none can have."""
    if parameters.get("requesttype", "").upper() != "WADO":
        raise BadRequest("requestType=WADO is required")
    if "objectuid" not in parameters:
        raise BadRequest("objectUID is required: the SOP Instance UID of the object")
    for key, name in _UIDS.items():
        if key in parameters and not is_uid(parameters[key]):
            raise BadRequest(f"{name} is malformed: digits and dots, at most 64 characters")
    syntax = parameters.get("transfersyntax", _ANY_SYNTAX)
    if syntax != _ANY_SYNTAX and not is_uid(syntax):
        raise BadRequest("transferSyntax is a UID, or * for the one that the object is stored in")
    if parameters.get("anonymize", "no").lower() != "no":
        raise BadRequest("anonymize: this server does not remove identities yet; ask without it")


def _ranges(req: falcon.Request, parameters: Mapping[str, str]) -> list[AcceptRange]:
    """What the client takes: contentType goes before Accept. transferSyntax belongs to DICOM files."""
    ranges = parse_accept(parameters.get("contenttype") or req.get_header("Accept"))
    syntax = parameters.get("transfersyntax")
    if syntax is None:
        return ranges
    return [replace(r, transfer_syntaxes=(syntax,)) if r.media == DICOM else r for r in ranges]


def _frame_number(parameters: Mapping[str, str]) -> list[int]:
    """The frame to be shown, as an index from 0; none where none is named."""
    if "framenumber" not in parameters:
        return []
    found = frame_numbers(parameters["framenumber"])
    if len(found) != 1:
        raise BadRequest("frameNumber is one number from 1")
    return found
