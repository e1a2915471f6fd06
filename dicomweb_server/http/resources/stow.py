"""Store, STOW-RS (PS3.18 10.5): every envelope that clients send, one outcome per instance."""

from collections.abc import Callable, Iterator
from textwrap import wrap
from typing import Any, Final

import falcon
import orjson

from dicomweb_server.dicom.media import Offer, choose, parse_media_type
from dicomweb_server.dicom.multipart import MultipartLimits, MultipartReader
from dicomweb_server.dicom.native_xml import to_native_xml
from dicomweb_server.errors import BadRequest, UnsupportedMedia
from dicomweb_server.http.answers import JSON, XML, warn
from dicomweb_server.http.body import chunks, reader
from dicomweb_server.http.params import accepted, entity_url, scope_of
from dicomweb_server.http.resources.stow_metadata import METADATA_TYPES, DescribedInstances
from dicomweb_server.metrics import Metrics
from dicomweb_server.services.ingest import Ingest, IngestRequest
from dicomweb_server.services.report import Accepted, Refused, Report
from dicomweb_server.storage.base import BlobStore
from dicomweb_server.storage.records import Scope

Item = dict[str, Any]

_OFFERS = (Offer(JSON), Offer(XML))
_TAKEN = (
    "application/dicom, multipart/related of application/dicom, application/dicom+json or application/dicom+xml, "
    "multipart/form-data"
)
_COMMENT_CHARACTERS: Final = 64  # of a value with VR LO (PS3.5 6.2)
_FILE_TYPES = frozenset({"", "application/dicom", "application/octet-stream", "application/dicom+octet-stream"})


class StowResource:
    """The collection of studies, or one study, as a place to store to."""

    def __init__(
        self,
        ingest: Ingest,
        blobs: BlobStore,
        *,
        max_request_bytes: int,
        max_parts: int,
        max_metadata_bytes: int,
        metrics: Metrics,
    ) -> None:
        self._ingest = ingest
        self._blobs = blobs
        self._max_request_bytes = max_request_bytes
        self._limits = MultipartLimits(max_parts=max_parts)
        self._max_metadata_bytes = max_metadata_bytes
        self._metrics = metrics

    def on_post(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Store what the payload holds: 200 all of it, 202 some, 409 none; 4xx when the envelope is broken."""
        scope = scope_of(**uids)
        offer = choose(accepted(req), _OFFERS)
        take = self._taker(req)
        read = reader(req, max_bytes=self._max_request_bytes)
        request = self._ingest.begin(study_uid=scope.study_uid, expected_bytes=req.content_length or 0)
        try:
            take(read, request)
            report = request.finish()
        except BadRequest:
            # What earlier batches of a long request stored is acknowledged; the client learns that the rest is missing.
            if not request.report.accepted:
                raise
            request.abandon()
            request.refuse("the payload broke off or broke its envelope; what came after was not stored")
            report = request.report
        finally:
            request.abandon()
        self._count(report)
        req.context.studies = sorted({item.study_uid for item in report.accepted})
        if not report.accepted and not report.refused:
            raise BadRequest("the payload holds no instance")
        resp.status = 409 if not report.accepted else 202 if report.refused else 200
        warn(resp, report.notes)
        answer = _answer(report, req.context.address.dicomweb)
        resp.content_type = offer.media
        resp.data = (
            to_native_xml(answer) if offer.media in (XML, "application/xml", "text/xml") else orjson.dumps(answer)
        )

    def _count(self, report: Report) -> None:
        for item in report.accepted:
            self._metrics.stored(item.outcome.value)
        for refused in report.refused:
            self._metrics.stored("refused", refused.reason)

    def _taker(self, req: falcon.Request) -> Callable[[Callable[[int], bytes], IngestRequest], None]:
        """The function that takes the payload apart, chosen by its Content-Type."""
        content_type = req.get_header("Content-Type") or ""
        media, parameters = parse_media_type(content_type)
        if media in ("application/dicom", "application/octet-stream"):
            return lambda read, request: request.add(chunks(read))
        if media == "multipart/form-data":
            return lambda read, request: self._take_form(read, content_type, request)
        if media == "multipart/related":
            kind = parse_media_type(parameters.get("type", ""))[0]
            if kind in ("", "application/dicom", "application/octet-stream"):
                return lambda read, request: self._take_files(read, content_type, request)
            if kind in METADATA_TYPES:
                return lambda read, request: self._take_described(read, content_type, request)
        raise UnsupportedMedia(f"payloads of this Content-Type are not stored here; taken are {_TAKEN}")

    def _take_files(self, read: Callable[[int], bytes], content_type: str, request: IngestRequest) -> None:
        for part in MultipartReader(read, content_type, limits=self._limits):
            if part.media_type in _FILE_TYPES:
                _add(request, part.chunks)
            else:
                request.refuse(f"a part of the media type {part.media_type[:60]} is no DICOM file")

    def _take_form(self, read: Callable[[int], bytes], content_type: str, request: IngestRequest) -> None:
        for part in MultipartReader(read, content_type, limits=self._limits):
            if part.filename is not None:  # a browser sends a field without a chosen file with an empty name
                if part.filename:
                    _add(request, part.chunks, name=part.filename[-_COMMENT_CHARACTERS:])
            elif part.media_type in ("application/dicom", "application/octet-stream"):
                _add(request, part.chunks)

    def _take_described(self, read: Callable[[int], bytes], content_type: str, request: IngestRequest) -> None:
        parts = iter(MultipartReader(read, content_type, limits=self._limits))
        with DescribedInstances(self._blobs, max_metadata_bytes=self._max_metadata_bytes) as instances:
            for part in parts:
                instances.take(part)
            for attributes in instances.attributes():
                request.compose(attributes, instances.bulk)


def _add(request: IngestRequest, open_chunks: Callable[[], Iterator[memoryview]], *, name: str = "") -> None:
    try:
        payload = open_chunks()
    except UnsupportedMedia as exc:  # a transfer encoding that no DICOM client uses
        request.refuse(exc.message, name=name)
    else:
        request.add(payload, name=name)


def _answer(report: Report, base: str) -> Item:
    """The Store Instances Response Module (PS3.18 10.5.3, PS3.3 Table I-... of Annex I)."""
    answer: Item = {}
    studies = {item.study_uid for item in report.accepted}
    if len(studies) == 1:
        answer["00081190"] = {"vr": "UR", "Value": [entity_url(base, Scope(study_uid=studies.pop()))]}
    other = [item for item in report.refused if item.instance_uid is None]
    failed = [item for item in report.refused if item.instance_uid is not None]
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": [_failed(item) for item in failed]}
    if report.accepted:
        answer["00081199"] = {"vr": "SQ", "Value": [_stored(item, base) for item in report.accepted]}
    if other:
        answer["0008119A"] = {"vr": "SQ", "Value": [_failed(item) for item in other]}
    return dict(sorted(answer.items()))


def _failed(item: Refused) -> Item:
    found: Item = {}
    if item.instance_uid is not None:
        found["00081150"] = {"vr": "UI", "Value": [item.sop_class_uid]}
        found["00081155"] = {"vr": "UI", "Value": [item.instance_uid]}
    found["00081197"] = {"vr": "US", "Value": [item.reason]}
    found["00741048"] = _comments((f"{item.name}: {item.message}" if item.name else item.message,))
    return found


def _stored(item: Accepted, base: str) -> Item:
    scope = Scope(study_uid=item.study_uid, series_uid=item.series_uid, instance_uid=item.instance_uid)
    found: Item = {
        "00081150": {"vr": "UI", "Value": [item.sop_class_uid]},
        "00081155": {"vr": "UI", "Value": [item.instance_uid]},
        "00081190": {"vr": "UR", "Value": [entity_url(base, scope)]},
    }
    if item.warning is not None:
        found["00081196"] = {"vr": "US", "Value": [item.warning]}
        found["00741048"] = _comments(item.notes)
    return found


def _comments(texts: tuple[str, ...]) -> Item:
    """The reasons in words: Failed Attributes Sequence with an Error Comment each; one that is too long for LO goes on
    in the next item."""
    lines = [line for text in texts for line in wrap(text, _COMMENT_CHARACTERS)]
    return {"vr": "SQ", "Value": [{"00000902": {"vr": "LO", "Value": [line]}} for line in lines]}
