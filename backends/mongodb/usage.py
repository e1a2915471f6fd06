"""What is stored takes up how much."""

from typing import Any

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.keys import TEXT
from dicomweb_server.storage.records import Scope, Share, Usage

_MODALITY = "00080060"
# The first value of the attribute among those that the instance is found by.
_FIRST_MODALITY = {
    "$first": {"$filter": {"input": "$a", "cond": {"$eq": [{"$substrCP": ["$$this", 0, 8]}, _MODALITY]}}}
}
_TOTALS = {"n": {"$sum": 1}, "size": {"$sum": "$blob.size_bytes"}}


def usage(connection: Connection, scope: Scope) -> Usage:
    """As `Storage.usage`."""
    place: Doc = {}
    for name, uid in (("study", scope.study_uid), ("series", scope.series_uid)):
        if uid is not None:
            place[name] = uid
    groups = connection.safe("instances").aggregate(
        [
            {"$match": {**place, "gone": {"$exists": False}}},
            {"$project": {"transfer_syntax": 1, "blob.size_bytes": 1, "modality": _FIRST_MODALITY}},
            {"$group": {"_id": {"modality": "$modality", "syntax": "$transfer_syntax"}, **_TOTALS}},
        ],
        allowDiskUse=True,
    )
    shares = [
        Share(
            modality=(group["_id"].get("modality") or "").removeprefix(_MODALITY).removeprefix(TEXT),
            transfer_syntax_uid=group["_id"]["syntax"],
            instances=group["n"],
            size_bytes=group["size"],
        )
        for group in groups
    ]
    if scope.level is not None and not shares:
        raise scope.not_found()
    old = _totals(connection, "replaced", place)
    binned = _totals(connection, "binned", {**place, "purged_at": None})
    return Usage(
        shares=sorted(shares, key=lambda share: (share.modality, share.transfer_syntax_uid)),
        replaced_instances=old["n"],
        replaced_bytes=old["size"],
        binned_instances=binned["n"],
        binned_bytes=binned["size"],
    )


def stored_bytes(connection: Connection) -> int:
    """As `Storage.stored_bytes`; reads the index "size" of the collections alone."""
    names = ("instances", "replaced", "binned")
    return sum(int(_totals(connection, name, {}, hint="size")["size"]) for name in names)


def _totals(connection: Connection, name: str, place: Doc, **options: Any) -> Doc:
    pipeline = [
        {"$match": {**place, "blob.size_bytes": {"$gte": 0}} if options else place},
        {"$project": {"_id": 0, "blob.size_bytes": 1}},
        {"$group": {"_id": None, **_TOTALS}},
    ]
    found = list(connection.safe(name).aggregate(pipeline, **options))
    return found[0] if found else {"n": 0, "size": 0}
