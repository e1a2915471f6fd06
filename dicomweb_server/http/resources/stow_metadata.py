"""The parts of a store request whose metadata is DICOM JSON or XML and whose bulk data stands apart (PS3.18 10.5.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import orjson

from dicomweb_server.dicom.media import parse_media_type
from dicomweb_server.dicom.multipart import Part
from dicomweb_server.dicom.native_xml_reader import from_native_xml
from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.base import BlobStore, StagedBlob
from dicomweb_server.storage.disk import disk_errors

_XML_TYPES = frozenset({"application/dicom+xml", "application/xml", "text/xml"})
METADATA_TYPES = _XML_TYPES | {"application/dicom+json", "application/json"}


@dataclass(frozen=True, slots=True)
class StagedPart:
    """One bulk data part, staged on disk."""

    media_type: str
    transfer_syntax_uid: str | None
    file: BinaryIO
    size: int


class DescribedInstances:
    """Collects the parts of one request: metadata in memory (bounded), bulk data on disk. Nothing stays after
    `with`."""

    def __init__(self, blobs: BlobStore, *, max_metadata_bytes: int) -> None:
        self._blobs = blobs
        self._left = max_metadata_bytes
        self._metadata: list[dict[str, Any]] = []
        self._staged: list[StagedBlob] = []
        self._bulk: dict[str, list[StagedPart]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for staged in self._staged:
            staged.discard()

    def take(self, part: Part) -> None:
        """Take one part: JSON and XML are metadata, all else is bulk data named by its Content-Location."""
        if part.content_location is None and part.media_type in METADATA_TYPES:
            self._take_metadata(part)
            return
        location = part.content_location
        if not location:
            raise BadRequest("a bulk data part has no Content-Location that a BulkDataURI could name")
        staged = self._blobs.stage()
        self._staged.append(staged)
        size = 0
        with disk_errors():
            for chunk in part.chunks():
                size += len(chunk)
                staged.file.write(chunk)
            staged.file.flush()
        media, parameters = parse_media_type(part.headers.get("content-type"))
        found = StagedPart(media, parameters.get("transfer-syntax"), staged.file, size)
        self._bulk.setdefault(location, []).append(found)

    def _take_metadata(self, part: Part) -> None:
        data = part.read(self._left)
        self._left -= len(data)
        if part.media_type in _XML_TYPES:
            self._metadata.append(from_native_xml(data))
            return
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise BadRequest("the metadata part is no JSON") from exc
        instances = found if isinstance(found, list) else [found]
        if not all(isinstance(item, dict) for item in instances):
            raise BadRequest("the metadata part is no list of DICOM JSON objects")
        self._metadata += instances

    def attributes(self) -> Iterator[dict[str, Any]]:
        """The DICOM JSON model of each instance, in the order in which they came."""
        if not self._metadata:
            raise BadRequest("the request has no part with metadata (application/dicom+json, application/dicom+xml)")
        return iter(self._metadata)

    def bulk(self, uri: str) -> Sequence[StagedPart]:
        """The parts that a BulkDataURI names, in order; by its last path step where a client made one relative."""
        found = self._bulk.get(uri)
        if found is None:
            tail = uri.rpartition("/")[2]
            candidates = [parts for location, parts in self._bulk.items() if location.rpartition("/")[2] == tail]
            found = candidates[0] if len(candidates) == 1 else []
        return found
