"""The document of an instance: made of a record, read back as a record."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any

import orjson

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.keys import search_fields
from backends.mongodb.summing import Added
from dicomweb_server.dicom.attributes import SUMMARY, Attributes, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values
from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.records import Blob, InstanceRecord, Metadata, StoredInstance

LARGE_METADATA_BYTES = 256 * 1024
"""Larger metadata is kept in pieces of its own: reading a frame reads the document of its instance."""
PIECE_BYTES = 8 * 1024 * 1024

STORED = {
    name: 1
    for name in (
        "study", "series", "sop_class", "transfer_syntax", "blob", "layout", "layout_blob", "stored_at", "gone", "v",
    )
}  # fmt: skip
METADATA = {"study": 1, "series": 1, "metadata": 1, "metadata_key": 1, "gone": 1, "v": 1}
_NOT_KEPT = ("a", "b", "asc", "desc", "several", "gone")
_SUMMARY = sorted(SUMMARY)
_NO_POSITION = float("inf")


class Composer:
    """Makes documents for the records of one attempt; what many headers have in common is worked out once."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._number = 0

    def document(self, record: InstanceRecord, member: Added, *, stored_at: datetime, life: str | None = None) -> Doc:
        """A document that is stored by this attempt, with its metadata, however large. `life` is kept when the instance
        is replaced; a new instance has a new one."""
        self._number += 1
        return {
            "_id": record.instance_uid,
            "study": record.study_uid,
            "series": record.series_uid,
            "v": f"{self._token}.{self._number}",
            "attempt": self._token,
            "life": life or f"{self._token}.{self._number}",
            "place": member.place,
            "group": member.group,
            "sop_class": record.sop_class_uid,
            "transfer_syntax": record.transfer_syntax_uid,
            "stored_at": stored_at,
            "blob": {
                "key": record.blob.key,
                "size_bytes": record.blob.size_bytes,
                "sha256": record.blob.sha256,
            },
            "blobs": [key for key in (record.blob.key, record.layout_blob) if key is not None],
            "layout": record.layout,
            "layout_blob": record.layout_blob,
            "metadata": record.metadata,
            **_fields_of_attributes(record.attributes, member.shown),
        }


def _fields_of_attributes(attributes: Attributes, common: Attributes) -> Doc:
    """What an instance is found, ordered and shown by. `common` is for the levels above, `summary` for hits."""
    summary = {tag: attributes[tag] for tag in _SUMMARY if tag in attributes}
    numbers = match_values(attributes, ("00200013",))
    return {
        "position": numbers[0] if numbers else _NO_POSITION,
        "common": orjson.dumps(common, default=dict),
        "summary": orjson.dumps(summary, default=dict),
        **search_fields(attributes, Level.INSTANCE),
    }


def added(record: InstanceRecord) -> Added:
    """What the levels above need of an instance. `group` is equal for all that show the same to them."""
    common = select(record.attributes, Level.SERIES)
    identity = (record.sop_class_uid, record.transfer_syntax_uid, common)
    digest = blake2b(orjson.dumps(identity, default=dict, option=orjson.OPT_SORT_KEYS), digest_size=16)
    return Added(
        study_uid=record.study_uid,
        series_uid=record.series_uid,
        shown=common,
        sop_class=record.sop_class_uid,
        transfer_syntax=record.transfer_syntax_uid,
        group=digest.hexdigest(),
    )


def copy_of(doc: Doc, *, order: int, replaced_at: datetime) -> Doc:
    """The older version that `replaced` keeps. Its `_id` is the version: writing it twice makes one."""
    kept = {name: value for name, value in doc.items() if name not in _NOT_KEPT}
    return {**kept, "_id": doc["v"], "uid": doc["_id"], "order": order, "replaced_at": replaced_at}


def bin_entry(doc: Doc, *, binned_at: datetime) -> Doc:
    """The entry of the bin for an instance that goes there with its life."""
    kept = {name: value for name, value in doc.items() if name not in _NOT_KEPT}
    return {**kept, "_id": doc["life"], "uid": doc["_id"], "binned_at": binned_at}


def stored_instance(doc: Doc, instance_uid: str) -> StoredInstance:
    """The record of a document with the fields `STORED`."""
    return StoredInstance(
        study_uid=doc["study"],
        series_uid=doc["series"],
        instance_uid=instance_uid,
        sop_class_uid=doc["sop_class"],
        transfer_syntax_uid=doc["transfer_syntax"],
        blob=Blob(**doc["blob"]),
        layout=doc["layout"],
        layout_blob=doc["layout_blob"],
        stored_at=doc["stored_at"],
    )


class LargeMetadata:
    """Metadata beside the documents. A piece has the key that the document names, and the attempt that wrote it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put_aside(self, docs: Sequence[Doc]) -> None:
        """Move what is large out of these documents, before they are written."""
        pieces = []
        for doc in docs:
            data = doc["metadata"]
            if len(data) <= LARGE_METADATA_BYTES:
                continue
            doc["metadata"], doc["metadata_key"] = None, doc["v"]
            pieces += [
                {
                    "_id": f"{doc['v']} {n}",
                    "key": doc["v"],
                    "n": n,
                    "attempt": doc["attempt"],
                    "data": data[at : at + PIECE_BYTES],
                }
                for n, at in enumerate(range(0, len(data), PIECE_BYTES))
            ]
        for piece in pieces:
            self._connection.safe("metadata").replace_one({"_id": piece["_id"]}, piece, upsert=True)

    def of(self, doc: Doc) -> bytes:
        """The metadata of a document with the fields `METADATA`."""
        if doc["metadata"] is not None:
            return bytes(doc["metadata"])
        found = self._connection.safe("metadata").find({"key": doc["metadata_key"]}).sort("n", 1)
        data = b"".join(piece["data"] for piece in found)
        if not data:
            raise StorageCorrupt("The metadata of an instance is missing.")
        return data

    def delete(self, keys: Sequence[str]) -> None:
        """Delete what belongs to documents that are going."""
        if keys:
            self._connection.safe("metadata").delete_many({"key": {"$in": list(keys)}})

    def sweep(self, attempt: str) -> None:
        """Delete what an attempt that died wrote for documents that never came."""
        keys: set[Any] = set(self._connection.safe("metadata").distinct("key", {"attempt": attempt}))
        for name in ("instances", "replaced", "binned") if keys else ():
            keys -= set(self._connection.safe(name).distinct("metadata_key", {"metadata_key": {"$in": sorted(keys)}}))
        self.delete(sorted(keys))


def metadata_record(doc: Doc, deflated: bytes) -> Metadata:
    """The metadata of an instance document."""
    return Metadata(study_uid=doc["study"], series_uid=doc["series"], instance_uid=doc["_id"], deflated=deflated)
