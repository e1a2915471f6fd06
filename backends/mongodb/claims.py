"""Claims on documents of `binned` and `replaced`, so that nothing is purged while it is being restored.

Who restores has a claim for `LEASE_SECONDS`. Who purges takes what nobody claims, for good.
"""

from collections.abc import Sequence

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.work import LEASE_SECONDS, older_than


def _free(ids: Sequence[str]) -> Doc:
    """The condition on those of the documents that nobody has; no claim at all sorts before every time."""
    return {"_id": {"$in": list(ids)}, "purged_at": None, **older_than(LEASE_SECONDS, "claimed_at")}


def claim(connection: Connection, name: str, ids: Sequence[str], token: str) -> list[Doc]:
    """Claim those that are free; gives the documents."""
    collection = connection.safe(name)
    collection.update_many(_free(ids), [{"$set": {"claimed_at": "$$NOW", "claim": {"$literal": token}}}])
    return list(collection.find({"_id": {"$in": list(ids)}, "claim": token}))


def give_back(connection: Connection, name: str, ids: Sequence[str], token: str) -> None:
    """End one's own claims."""
    condition = {"_id": {"$in": list(ids)}, "claim": token}
    connection.safe(name).update_many(condition, {"$unset": {"claimed_at": "", "claim": ""}})


def take(connection: Connection, name: str, ids: Sequence[str], token: str) -> list[Doc]:
    """Take those that are free, to purge them; gives the documents."""
    collection = connection.safe(name)
    collection.update_many(_free(ids), [{"$set": {"purged_at": "$$NOW", "purge": {"$literal": token}}}])
    return list(collection.find({"_id": {"$in": list(ids)}, "purge": token}))
