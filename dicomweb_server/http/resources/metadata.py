"""Metadata of a study, series or instance (PS3.18 10.4.1.1.2): ready-made at store, sent as it is."""

from collections.abc import Iterable, Iterator

import falcon
import orjson

from dicomweb_server.dicom.attributes import resolve
from dicomweb_server.dicom.matching import Path
from dicomweb_server.dicom.media import Offer, choose
from dicomweb_server.dicom.native_xml import to_native_xml
from dicomweb_server.errors import BadRequest
from dicomweb_server.http.answers import (
    JSON,
    REVALIDATE,
    XML,
    not_modified,
    send_json_list,
    send_xml_parts,
    tag,
    takes_gzip,
)
from dicomweb_server.http.params import accepted, query_parameters, scope_of
from dicomweb_server.services.retrieve import Retrieve
from dicomweb_server.services.search import narrowed
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.records import Metadata

_OFFERS = (Offer(JSON), Offer(XML, multipart=True))
_ALWAYS = (("00080016",), ("00080018",), ("0020000D",), ("0020000E",))
"""Without these an item cannot be told from another."""
# Unescaped quotes: inside a JSON string this run of bytes cannot stand.
_STORED_URI = b'"BulkDataURI":"/'


class MetadataResource:
    """The headers of all instances below a URL."""

    def __init__(self, retrieve: Retrieve, *, absolute_uris: bool) -> None:
        self._retrieve = retrieve
        self._absolute_uris = absolute_uris

    def on_get(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """JSON, or XML by Accept; `includefield` leaves out all other attributes (an extension)."""
        scope = scope_of(**uids)
        offer = choose(accepted(req), _OFFERS)
        fields = _fields(req)
        base = req.context.address.dicomweb if self._absolute_uris else _path(req.context.address.dicomweb)
        version = self._retrieve.version(scope=scope)
        coding = "gzip" if takes_gzip(req) else "identity"
        etag = tag(version, base, offer.media, coding, ",".join(".".join(path) for path in fields))
        if not_modified(req, resp, etag=etag, cache=REVALIDATE):
            return
        found = self._retrieve.metadata(scope=scope)
        if offer.media == XML:
            send_xml_parts(resp, (to_native_xml(orjson.loads(item)) for item in _items(found, base, fields)))
        else:
            send_json_list(req, resp, _items(found, base, fields), media=offer.media)


def metadata_tags(req: falcon.Request, version: str) -> list[str]:
    """The entity tags that whole metadata of this version can have, whatever form a client got it in."""
    address = req.context.address.dicomweb
    return [
        tag(version, base, offer.media, coding, "")
        for base in (address, _path(address))
        for offer in _OFFERS
        for coding in ("gzip", "identity")
    ]


def _items(found: Iterable[Metadata], base: str, fields: tuple[Path, ...]) -> Iterator[bytes]:
    replacement = b'"BulkDataURI":"' + base.encode() + b"/"
    for metadata in found:
        item = unpack_metadata(metadata.deflated).replace(_STORED_URI, replacement)
        yield item if not fields else orjson.dumps(narrowed(orjson.loads(item), fields))


def _fields(req: falcon.Request) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for name, value in query_parameters(req) if req.query_string else ():
        if name.lower() != "includefield":
            continue
        for field in filter(None, (piece.strip() for piece in value.split(","))):
            if field.lower() == "all":
                return ()
            try:
                found[resolve(field)] = None
            except BadRequest as exc:
                raise BadRequest(f"includefield: {exc.message}") from exc
    return (*found, *_ALWAYS) if found else ()


def _path(url: str) -> str:
    """A URL without scheme and host."""
    rest = url.partition("://")[2]
    return rest[rest.index("/") :] if "/" in rest else ""
