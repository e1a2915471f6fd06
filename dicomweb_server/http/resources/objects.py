"""Whole studies, series and instances: retrieve (PS3.18 10.4) and delete."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import falcon

from dicomweb_server.dicom.media import AcceptRange, Offer
from dicomweb_server.errors import NotFound
from dicomweb_server.http.answers import PARTS_WITH_LENGTH, OutPart, not_modified, send_multipart, send_payload, tag
from dicomweb_server.http.params import accepted, entity_url, scope_of, truth
from dicomweb_server.services.archive import zip_archive
from dicomweb_server.services.remove import Remove
from dicomweb_server.services.retrieve import Payload, Retrieve
from dicomweb_server.services.transcode import CANNOT, Transcode, asks_beyond, choose_syntax, insists
from dicomweb_server.storage.records import Scope, StoredInstance

REJECTIONS = {
    "113001^DCM": "rejected for quality reasons",
    "113037^DCM": "rejected for patient safety reasons",
    "113038^DCM": "incorrect modality worklist entry",
    "113039^DCM": "data retention policy expired",
}
"""The reasons of IHE's Imaging Object Change Management (PS3.16 CID 7011)."""

DICOM, OCTETS, ZIP = "application/dicom", "application/octet-stream", "application/zip"


class ObjectsResource:
    """A study, a series or an instance as DICOM files."""

    def __init__(self, retrieve: Retrieve, remove: Remove, transcode: Transcode, *, cache: str) -> None:
        self._retrieve = retrieve
        self._transcode = transcode
        self._remove = remove
        self._cache = cache

    def on_get(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """All files as multipart, one instance also as a single part, anything as a zip (of the files as stored)."""
        scope = scope_of(**uids)
        ranges = accepted(req)
        found = self._retrieve.instances(scope=scope)
        # Every transfer syntax that occurs must be one that the client takes, or can be made into one.
        syntaxes = dict.fromkeys(item.transfer_syntax_uid for item in found)
        single = scope.instance_uid is not None
        chosen = {
            syntax: choose_syntax(ranges, self._offers(syntax, ranges, single=single), syntax) for syntax in syntaxes
        }
        offer = next(iter(chosen.values()))
        targets = {syntax: one.transfer_syntax or syntax for syntax, one in chosen.items()}
        converted = any(source != target for source, target in targets.items())
        identity = [item.blob.sha256 + item.instance_uid for item in found]
        etag = tag(*identity, offer.media, str(offer.multipart), *(targets.values() if converted else ()))
        if offer.media == ZIP:
            self._send_zip(req, resp, found, scope, etag)
        elif offer.multipart:
            files = self._files(found, targets, strict=insists(ranges))
            parts = _parts(files, offer.media, req.context.address.dicomweb)
            ahead = 1 if converted else PARTS_WITH_LENGTH
            send_multipart(req, resp, parts, media=offer.media, etag=etag, cache=self._cache, ahead=ahead)
        else:
            ((item, payload, syntax),) = self._files(found, targets, strict=insists(ranges))
            resp.set_header("Content-Disposition", f'attachment; filename="{item.instance_uid}.dcm"')
            content_type = f"{offer.media}; transfer-syntax={syntax}"
            send_payload(req, resp, payload, content_type=content_type, etag=etag, cache=self._cache)

    def on_delete(self, _req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Delete all of it: gone when this answers."""
        self._remove.remove(scope=scope_of(**uids))
        resp.status = 204

    def on_post_reject(self, req: falcon.Request, resp: falcon.Response, code: str, **uids: str) -> None:
        """Delete for a reason, which the audit trail tells: what dcm4chee has for viewers that cannot delete."""
        if code not in REJECTIONS:
            raise NotFound(f"there is no such reason to reject for; there are {', '.join(REJECTIONS)}")
        req.context.reason = REJECTIONS[code]
        self.on_delete(req, resp, **uids)

    def _offers(self, syntax: str, ranges: Sequence[AcceptRange], *, single: bool) -> list[Offer]:
        targets = self._transcode.file_targets(syntax, ranges) if asks_beyond(ranges, {syntax}) else []
        offers = _offers(syntax, single=single)
        return offers + [offer for uid in targets for offer in _offers(uid, single=single)[:-1]]

    def _files(
        self, found: Sequence[StoredInstance], targets: Mapping[str, str], *, strict: bool
    ) -> Iterator[tuple[StoredInstance, Payload, str]]:
        """Each file and its transfer syntax. Unless strict, one that cannot be converted is given as stored."""
        for item in found:
            target = targets[item.transfer_syntax_uid]
            if target != item.transfer_syntax_uid:
                try:
                    yield item, *self._transcode.file(item, target)
                    continue
                except CANNOT:
                    if strict:
                        raise
            yield item, self._retrieve.file(item), item.transfer_syntax_uid

    def _send_zip(
        self, req: falcon.Request, resp: falcon.Response, found: Sequence[StoredInstance], scope: Scope, etag: str
    ) -> None:
        with_directory = truth(req, "dicomdir")
        if not_modified(req, resp, etag=f'"{etag[1:-1]}{"d" if with_directory else ""}"', cache=self._cache):
            return
        name = scope.instance_uid or scope.series_uid or scope.study_uid
        resp.content_type = ZIP
        resp.set_header("Content-Disposition", f'attachment; filename="{name}.zip"')
        resp.stream = zip_archive(self._retrieve, found, with_directory=with_directory)


def _offers(syntax: str, *, single: bool) -> list[Offer]:
    several = [Offer(DICOM, syntax, multipart=True), Offer(OCTETS, syntax, multipart=True)]
    one = [Offer(DICOM, syntax), Offer(OCTETS, syntax)] if single else []
    # One object asked for as */* goes without multipart; several cannot.
    return [*one[:1], *several, *one[1:], Offer(ZIP)]


def _parts(files: Iterable[tuple[StoredInstance, Payload, str]], media: str, base: str) -> Iterator[OutPart]:
    for item, payload, syntax in files:
        content_type = f"{media}; transfer-syntax={syntax}"
        yield OutPart(content_type=content_type, payload=payload, location=entity_url(base, _scope(item)))


def _scope(item: StoredInstance) -> Scope:
    return Scope(study_uid=item.study_uid, series_uid=item.series_uid, instance_uid=item.instance_uid)
