"""What the codec needs of an instance: its attributes, its frames, and the values behind links in the attributes."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import orjson

from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import MAX_BULK_BYTES
from dicomweb_server.dicom.json_model import Attributes
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.errors import BadPixels, NotFound
from dicomweb_server.services.retrieve import Instance, Retrieve
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Scope, StoredInstance

MAX_FRAME_BYTES = 1 << 30
"""A larger frame, as it is stored, is not decoded."""

_SOP_INSTANCE_UID = "00080018"
_REMEMBERED_BYTES = 1 << 20  # of packed metadata; unpacked and parsed it takes some hundred times as much
_LEAST_BYTES = 8192


class Images:
    """Opens instances for decoding and rendering. Remembers the attributes of those that were opened last."""

    def __init__(self, retrieve: Retrieve, storage: Storage) -> None:
        self._retrieve = retrieve
        self._storage = storage
        self._lock = threading.Lock()
        self._remembered: OrderedDict[str, tuple[int, Attributes]] = OrderedDict()
        self._remembered_bytes = 0

    def find(self, *, instance_uid: str, study_uid: str | None = None, series_uid: str | None = None) -> StoredInstance:
        """The instance of a SOP Instance UID, in this series and study where they are named. Raises NotFound."""
        if study_uid is None or series_uid is None:
            term = parse_term((_SOP_INSTANCE_UID,), instance_uid)
            query = Query(level=Level.INSTANCE, terms=(term,) if term else (), limit=1)
            hits = self._storage.search(query=query).hits
            if not hits or study_uid not in (None, hits[0].study_uid) or series_uid not in (None, hits[0].series_uid):
                raise NotFound("there is no such instance")
            study_uid, series_uid = hits[0].study_uid, hits[0].series_uid
        return self._retrieve.stored(scope=Scope(study_uid=study_uid, series_uid=series_uid, instance_uid=instance_uid))

    def attributes(self, instance: Instance) -> Attributes:
        """The DICOM JSON of an instance; shared, not to be changed."""
        key = instance.stored.blob.key
        with self._lock:
            found = self._remembered.get(key)
            if found is not None:
                self._remembered.move_to_end(key)
                return found[1]
        packed = next(iter(self._retrieve.metadata(scope=instance.scope))).deflated
        attributes: Attributes = orjson.loads(unpack_metadata(packed))
        self._remember(key, max(len(packed), _LEAST_BYTES), attributes)
        return attributes

    def _remember(self, key: str, size: int, attributes: Attributes) -> None:
        with self._lock:
            if size > _REMEMBERED_BYTES or key in self._remembered:
                return
            self._remembered[key] = (size, attributes)
            self._remembered_bytes += size
            while self._remembered_bytes > _REMEMBERED_BYTES:
                _, (dropped, _) = self._remembered.popitem(last=False)
                self._remembered_bytes -= dropped

    def description(self, instance: Instance) -> PixelDescription:
        """How the pixels are laid out. Raises BadPixels where they cannot be decoded whatever the codec."""
        return PixelDescription.from_attributes(self.attributes(instance), pixel_tag=instance.layout.pixel_tag)

    def frame(self, instance: Instance, index: int) -> bytes:
        """Frame `index`, from 0, as decoders want it: native pixels in little endian."""
        payload = instance.frame(index, little_endian=True)
        if payload.size_bytes > MAX_FRAME_BYTES:
            raise BadPixels(f"frame {index + 1} has more bytes than are decoded here")
        chunks = list(payload.whole())
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def fetch_bulk(self, instance: Instance) -> Callable[[str], bytes]:
        """A function that gives the value that a BulkDataURI of the attributes names, b"" for none."""

        def fetch(uri: str) -> bytes:
            try:
                payloads = instance.bulk(uri.partition("/bulkdata/")[2])
            except NotFound:
                return b""
            if sum(payload.size_bytes for payload in payloads) > MAX_BULK_BYTES:
                return b""
            return b"".join(chunk for payload in payloads for chunk in payload.whole())

        return fetch
