"""The release queue: keys of blobs that nothing references any more, in the collection `released`."""

import time
from collections.abc import Iterable

from pymongo import UpdateOne

from backends.mongodb.connection import Connection


def queue(connection: Connection, keys: Iterable[str]) -> None:
    """Append keys; those that wait already keep their place."""
    order = time.time_ns()
    operations = [
        UpdateOne({"_id": key}, {"$setOnInsert": {"order": order + place}}, upsert=True)
        for place, key in enumerate(dict.fromkeys(keys))
    ]
    if operations:
        connection.safe("released").bulk_write(operations, ordered=False)


def released(connection: Connection, limit: int) -> list[str]:
    """As `Storage.released`."""
    found = connection.safe("released").find({}, {"_id": 1}).sort("order", 1).limit(limit)
    return [doc["_id"] for doc in found] if limit else []


def confirm(connection: Connection, keys: Iterable[str]) -> None:
    """As `Storage.confirm_released`."""
    connection.safe("released").delete_many({"_id": {"$in": list(keys)}})
