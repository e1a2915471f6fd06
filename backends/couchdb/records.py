"""Instances as documents: made from a record, read back, and their metadata, which is cut in parts when it is large."""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from backends.couchdb import entities, keys
from backends.couchdb.database import Database, Json
from dicomweb_server.dicom.attributes import SUMMARY, Attributes
from dicomweb_server.dicom.matching import sort_key
from dicomweb_server.storage.records import Blob, ChangeKind, InstanceRecord, Metadata, Scope, StoredInstance

PART_BYTES = 512 * 1024
"""Metadata above this lies in documents of its own: CouchDB takes 8 MB in one (max_document_size)."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What makes a version of an instance; the rest of its document is its place and its history.
_VERSION = (
    *("uid", "study", "series", "sop_class", "transfer_syntax", "header", "position", "attempt", "stored_at"),
    *("blob", "layout", "layout_blob", "summary", "metadata", "parts"),
)

Entry = list[Any]
"""A change: its number, what happened, and in which study and series."""


def instance_id(instance_uid: str) -> str:
    """Of the instance that is there now."""
    return f"instance:{instance_uid}"


def replaced_id(instance_uid: str, attempt: str) -> str:
    """Of an older version; those of an instance lie together."""
    return f"replaced:{instance_uid}-{attempt}"


def binned_id(name: str) -> str:
    """Of an entry of the bin by its name."""
    return f"binned:{name}"


def entry_name(document: Json) -> str:
    """The name of an entry of the bin."""
    return f"{document['uid']}-{document['life']}"


def part_id(attempt: str, number: int) -> str:
    """Of a piece of large metadata."""
    return f"part:{attempt}-{number:05d}"


def instance_document(record: InstanceRecord, header: str, attempt: str, now: int) -> Json:
    """A new instance. Its parts, if it has any, are written before it."""
    summary = {tag: value for tag, value in record.attributes.items() if tag in SUMMARY}
    large = len(record.metadata) > PART_BYTES
    return {
        "_id": instance_id(record.instance_uid),
        "type": "instance",
        "uid": record.instance_uid,
        "study": record.study_uid,
        "series": record.series_uid,
        "sop_class": record.sop_class_uid,
        "transfer_syntax": record.transfer_syntax_uid,
        "header": header,
        "seq": now,
        "position": keys.ascending(sort_key(record.attributes, entities.POSITION)),
        "attempt": attempt,
        "stored_at": now,
        "blob": {"key": record.blob.key, "size": record.blob.size_bytes, "sha256": record.blob.sha256},
        "layout": b64encode(record.layout).decode(),
        "layout_blob": record.layout_blob,
        "summary": orjson.dumps(summary, default=dict).decode(),
        "metadata": "" if large else b64encode(record.metadata).decode(),
        "parts": -(-len(record.metadata) // PART_BYTES) if large else 0,
        "entries": [[now, ChangeKind.STORED.value, record.study_uid, record.series_uid]],
    }


def part_documents(record: InstanceRecord, attempt: str) -> Iterator[Json]:
    """The parts of large metadata."""
    if len(record.metadata) > PART_BYTES:
        for number, start in enumerate(range(0, len(record.metadata), PART_BYTES)):
            piece = b64encode(record.metadata[start : start + PART_BYTES]).decode()
            yield {"_id": part_id(attempt, number), "type": "part", "data": piece}


def part_ids(document: Json) -> list[str]:
    """The ids of the parts of an instance or an older version."""
    return [part_id(document["attempt"], number) for number in range(document["parts"])]


def replaced_document(current: Json, now: int) -> Json:
    """The current version as an older one. The history stays with the instance."""
    return {
        "_id": replaced_id(current["uid"], current["attempt"]),
        "type": "replaced",
        "replaced_at": now,
        "life": current["seq"],
        "entries": [],
        **{name: current[name] for name in _VERSION},
    }


def binned_document(current: Json, now: int) -> Json:
    """The current version as an entry of the bin."""
    name = f"{current['uid']}-{current['seq']}"
    return {
        "_id": binned_id(name),
        "type": "binned",
        "binned_at": now,
        "life": current["seq"],
        "entries": [],
        **{name: current[name] for name in _VERSION},
    }


def restored_document(entry: Json, now: int) -> Json:
    """The instance of an entry of the bin, at the place that it had. Its history before that is that of its removal."""
    return {
        "_id": instance_id(entry["uid"]),
        "type": "instance",
        "seq": entry["life"],
        "entries": [[now, ChangeKind.RESTORED.value, entry["study"], entry["series"]]],
        **{name: entry[name] for name in _VERSION},
    }


def successor(current: Json, version: Json, kind: ChangeKind, now: int) -> Json:
    """The instance with another version in its place: it keeps its place in the order of storing, and its history."""
    entries: list[Entry] = list(current["entries"])
    if (current["study"], current["series"]) != (version["study"], version["series"]):
        entries.append([now, ChangeKind.REMOVED.value, current["study"], current["series"]])
        now += 1
    entries.append([now, kind.value, version["study"], version["series"]])
    return {
        "_id": current["_id"],
        "_rev": current["_rev"],
        "type": "instance",
        "seq": current["seq"],
        "entries": entries,
        **{name: version[name] for name in _VERSION},
    }


def last_entry(document: Json) -> int:
    """The number of the latest change of an instance."""
    return max((entry[0] for entry in document["entries"]), default=0)


def stored_instance(document: Json) -> StoredInstance:
    """As the contract gives it."""
    return StoredInstance(
        study_uid=document["study"],
        series_uid=document["series"],
        instance_uid=document["uid"],
        sop_class_uid=document["sop_class"],
        transfer_syntax_uid=document["transfer_syntax"],
        blob=Blob(key=document["blob"]["key"], size_bytes=document["blob"]["size"], sha256=document["blob"]["sha256"]),
        layout=b64decode(document["layout"]),
        layout_blob=document["layout_blob"],
        stored_at=moment(document["stored_at"]),
    )


def moment(number: int) -> datetime:
    """A number of the clock as a time."""
    return _EPOCH + timedelta(microseconds=number)


def microseconds(time: datetime) -> int:
    """A time as a number of the clock."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def blob_keys(document: Json) -> list[str]:
    """The blobs that an instance or an older version refers to."""
    return [document["blob"]["key"], *([document["layout_blob"]] if document["layout_blob"] else [])]


def inside(document: Json, scope: Scope) -> bool:
    """Whether the instance lies in the study and series of the scope, if it names any."""
    return scope.study_uid in (None, document["study"]) and scope.series_uid in (None, document["series"])


def deflated(database: Database, documents: Iterable[Json]) -> Iterator[bytes]:
    """The metadata of instances or older versions, in their order."""
    for document in documents:
        if not document["parts"]:
            yield b64decode(document["metadata"])
        else:
            ids = part_ids(document)
            found = database.get_many(ids)
            yield b"".join(b64decode(found[part]["data"]) for part in ids if part in found)


def attributes_of(database: Database, document: Json) -> Attributes:
    """The whole header of an instance."""
    (packed,) = deflated(database, [document])
    parsed: Attributes = orjson.loads(zlib.decompress(packed, -zlib.MAX_WBITS))
    return parsed


def metadata(document: Json, packed: bytes) -> Metadata:
    """As the contract gives it."""
    return Metadata(
        study_uid=document["study"],
        series_uid=document["series"],
        instance_uid=document["uid"],
        deflated=packed,
    )
