"""The collections and their indexes.

instances          _id is the SOP Instance UID. The only source of truth.
series, studies, patients   derived from the instances; _id is "study/series", the Study Instance UID, the patient key
work               what is being changed now: marks of stores, intents of removals
replaced           older versions of instances, also of those in the bin
binned             the bin; _id is the life of the instance (`binned`)
metadata           pieces of metadata too large for the document of their instance
released           keys of blobs to delete; _id is the key
changes, counters  the change feed, and the last number given
documents, document_versions   the current versions, and the older ones
archive            one document: the version of this schema, and a token

To spread them over shards, give every collection the shard key {_id: "hashed"}: it keeps `_id` unique and sends each
read of an instance to one shard. No index here but that of `_id` is unique, nothing joins collections on the server,
and no operation spans documents.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bson import ObjectId
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.keys import SORTED, TEXTS
from backends.mongodb.work import now_in_milliseconds
from dicomweb_server.dicom.attributes import clock_digits, patient_digest
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import ConfigError, StorageUnavailable
from dicomweb_server.storage.records import SchemaState

VERSION = 3
LEASE_SECONDS = 600
UPGRADE_SECONDS = 1800.0
"""So long a start waits for another server that upgrades the schema."""
_PAUSE_SECONDS = 0.2
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

COLLECTION = {
    Level.PATIENT: "patients",
    Level.STUDY: "studies",
    Level.SERIES: "series",
    Level.INSTANCE: "instances",
}

LIST_ORDER: Mapping[Level, tuple[tuple[str, int], ...]] = {
    Level.PATIENT: (("_id", 1),),
    Level.STUDY: (("desc.00080020", -1), ("desc.00080030", -1), ("_id", 1)),
    Level.SERIES: (("uid", 1), ("_id", 1)),
}
"""The order of the index "list" of each level, which also holds the texts of the level."""

_FEATURE_GONE = frozenset((85, 86))  # an index of this name or form exists with other options


def _list_index(level: Level) -> IndexModel:
    fields = [*LIST_ORDER[level], *((f"t.{tag}", 1) for tag in TEXTS[level])]
    return IndexModel(fields, name="list")


def _sort_indexes(level: Level) -> list[IndexModel]:
    """Up and down each by an index of its own: the two have the missing values at other ends."""
    last = LIST_ORDER[level][-1][0]
    found = []
    for tag in SORTED[level]:
        found.append(IndexModel([(f"asc.{tag}", 1), (last, 1)], name=f"up_{tag}"))
        found.append(IndexModel([(f"desc.{tag}", -1), (last, 1)], name=f"down_{tag}"))
    return found


_VALUES = IndexModel([("a", 1)], name="values")
_SEVERAL_DATES = IndexModel(
    [("several", 1), *LIST_ORDER[Level.STUDY]], name="several", partialFilterExpression={"several": {"$exists": True}}
)

INDEXES: Mapping[str, Sequence[IndexModel]] = {
    "instances": [
        _VALUES,
        IndexModel([("study", 1), ("series", 1), ("position", 1), ("_id", 1)], name="order"),
        IndexModel([("study", 1), ("series", 1), ("group", 1), ("place", 1), ("_id", 1), ("gone", 1)], name="derive"),
        IndexModel([("series", 1), ("position", 1), ("_id", 1)], name="series_order"),
        IndexModel([("place", 1), ("_id", 1)], name="place"),
        IndexModel([("blobs", 1)], name="blobs"),
        IndexModel([("blob.size_bytes", 1)], name="size"),
        IndexModel([("gone", 1)], name="gone", partialFilterExpression={"gone": {"$exists": True}}),
    ],
    "series": [
        _VALUES,
        _list_index(Level.SERIES),
        *_sort_indexes(Level.SERIES),
        IndexModel([("study", 1), ("uid", 1)], name="study"),
    ],
    "studies": [
        _VALUES,
        _list_index(Level.STUDY),
        *_sort_indexes(Level.STUDY),
        _SEVERAL_DATES,
        IndexModel([("patient", 1)], name="patient"),
        IndexModel([("digest", 1)], name="digest"),
        IndexModel([("changed_at", 1)], name="changed_at"),
        IndexModel([("modalities", 1)], name="modalities"),
        IndexModel([("sop_classes", 1)], name="sop_classes"),
    ],
    "patients": [
        _VALUES,
        _list_index(Level.PATIENT),
        *_sort_indexes(Level.PATIENT),
        IndexModel([("digest", 1)], name="digest"),
        IndexModel([("changed_at", 1)], name="changed_at"),
    ],
    "replaced": [
        IndexModel([("uid", 1), ("order", 1), ("_id", 1)], name="uid"),
        IndexModel([("blobs", 1)], name="blobs"),
        IndexModel([("blob.size_bytes", 1)], name="size"),
        IndexModel([("replaced_at", 1), ("_id", 1)], name="time"),
    ],
    "binned": [
        IndexModel([("binned_at", 1), ("_id", 1)], name="time"),
        IndexModel([("study", 1), ("series", 1), ("binned_at", 1), ("_id", 1)], name="study"),
        IndexModel([("series", 1), ("binned_at", 1), ("_id", 1)], name="series"),
        IndexModel([("uid", 1)], name="uid"),
        IndexModel([("blobs", 1)], name="blobs"),
        IndexModel([("blob.size_bytes", 1)], name="size"),
        IndexModel([("metadata_key", 1)], name="metadata", sparse=True),
        IndexModel([("purged_at", 1)], name="purged", partialFilterExpression={"purged_at": {"$exists": True}}),
    ],
    "metadata": [IndexModel([("key", 1), ("n", 1)], name="key"), IndexModel([("attempt", 1)], name="attempt")],
    "released": [IndexModel([("order", 1)], name="order")],
    "documents": [
        IndexModel([("kind", 1), ("keys", 1), ("id", 1)], name="keys"),
        IndexModel([("kind", 1), ("id", 1)], name="kind"),
    ],
    "document_versions": [IndexModel([("kind", 1), ("id", 1), ("version", -1)], name="kind")],
}


def prepare(connection: Connection) -> str:
    """Create or check everything; gives the token of this archive. Safe to run in many processes at once."""
    archive = connection.safe("archive")
    archive.update_one(
        {"_id": "archive"}, {"$setOnInsert": {"version": VERSION, "token": str(ObjectId())}}, upsert=True
    )
    known = archive.find_one({"_id": "archive"}) or {}
    if known.get("version", 0) > VERSION:
        raise ConfigError("The database was made by a newer version of this server.")
    for name, indexes in INDEXES.items():
        try:
            connection.safe(name).create_indexes(list(indexes))
        except OperationFailure as error:
            if error.code in _FEATURE_GONE:
                raise ConfigError(
                    f"The collection {name} of this database has other indexes than this server."
                ) from error
            raise
    if known.get("version", VERSION) < VERSION:
        _upgrade(connection)
    connection.safe("counters").update_one({"_id": "changes"}, {"$setOnInsert": {"n": 0}}, upsert=True)
    return str(known["token"])


def state(connection: Connection) -> SchemaState:
    """As `Storage.schema`."""
    known = connection.safe("archive").find_one({"_id": "archive"})
    return SchemaState(found=known["version"] if known else None, current=VERSION)


def _upgrade(connection: Connection) -> None:
    """Upgrade under a lease, or wait until who has it is done. Should its holder only be slow, and two upgrade, that
    does no harm."""
    archive = connection.safe("archive")
    older: Doc = {"_id": "archive", "version": {"$lt": VERSION}}
    lease = {"$lt": [{"$ifNull": ["$upgrading", _LONG_AGO]}, {"$subtract": ["$$NOW", LEASE_SECONDS * 1000]}]}
    deadline = time.monotonic() + UPGRADE_SECONDS
    while archive.find_one(older) is not None:
        if archive.find_one_and_update({**older, "$expr": lease}, [{"$set": {"upgrading": "$$NOW"}}]) is not None:
            _migrate(connection)
        elif time.monotonic() > deadline:
            raise StorageUnavailable("Another server upgrades the database.", retry_after_seconds=60)
        else:
            time.sleep(_PAUSE_SECONDS)


def _migrate(connection: Connection) -> None:
    """From version 1: patients and studies have the digest of the patient's key, and all above instances the time of
    their last change, which for what is there already is now. May be done twice."""
    now = clock_digits(now_in_milliseconds())
    for name, key in (("patients", "_id"), ("studies", "patient")):
        collection = connection.safe(name)
        for doc in collection.find({"digest": {"$exists": False}}, {key: 1}):
            collection.update_one({"_id": doc["_id"]}, {"$set": {"digest": patient_digest(doc[key])}})
    for name in ("patients", "studies", "series"):
        connection.safe(name).update_many({"changed_at": {"$exists": False}}, {"$set": {"changed_at": now}})
    connection.safe("archive").update_one(
        {"_id": "archive"}, {"$set": {"version": VERSION}, "$unset": {"upgrading": ""}}
    )
