"""Writes to a cluster that keeps several copies of each document.

A write counts when most copies took it. CouchDB says so (201), or that fewer took it (202), or that most had another
revision by then (409). After the last two a single copy may have taken it all the same: it hands it on to the others
later, where it stands beside what was acknowledged, or hides it. So whoever is told so looks at the revisions that all
copies have. If another's is there, his own is taken back, and he has lost: of two who do so one sees the other, as each
looks after he has written. If it is alone, it is given to all copies and then written once more, which tells whether
most are there: CouchDB does not tell that of revisions that are handed on.
"""

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from dicomweb_server.errors import StorageUnavailable

Json = dict[str, Any]

TRIES = 7
PAUSE_SECONDS = 0.01


class Copies(Protocol):
    """A database of a cluster."""

    def post(self, documents: Sequence[Json], *, new_edits: bool = True) -> list[Json]:
        """What `_bulk_docs` says of each document."""

    def leaves(self, ids: Sequence[str]) -> Mapping[str, list[Json]]:
        """All revisions that any copy has and that have no successor, deletions too, with their histories."""


def settled(database: Copies, documents: Sequence[Json], rows: Sequence[Json]) -> list[str | None]:
    """From what `_bulk_docs` says of some documents: for each the revision in which it is safe; None where another was
    first. Raises StorageUnavailable where too few copies can be reached."""
    revisions: list[str | None] = [row.get("rev") for row in rows]
    unsure = [place for place, row in enumerate(rows) if "accepted" in row or _may_be_there(documents[place], row)]
    if not unsure:
        return revisions
    if any("_attachments" in documents[place] for place in unsure):
        raise StorageUnavailable("CouchDB could not write to enough of its nodes.")
    leaves = database.leaves([documents[place]["_id"] for place in unsure])
    alone: dict[int, Json] = {}
    taken_back: list[Json] = []
    for place in unsure:
        there = leaves.get(documents[place]["_id"], [])
        own = [leaf for leaf in there if leaf["_rev"] == revisions[place] or _equal(leaf, documents[place])]
        revisions[place] = None
        if own and not any(leaf not in own and "_deleted" not in leaf for leaf in there):
            alone[place] = own.pop(own.index(max(own, key=standing)))
        taken_back += [leaf for leaf in own if "_deleted" not in leaf]
    if taken_back:
        database.post([_deletion(leaf) for leaf in taken_back], new_edits=False)
    for place, revision in zip(alone, assured(database, list(alone.values())), strict=True):
        revisions[place] = revision
    return revisions


def assured(database: Copies, leaves: Sequence[Json]) -> list[str | None]:
    """Let most copies take these revisions, given with their histories: the new revision of each; None for one that
    has a successor by now. Raises StorageUnavailable."""
    revisions: list[str | None] = [None] * len(leaves)
    waiting = dict(enumerate(leaves))
    for number in range(TRIES):
        if not waiting:
            return revisions
        if number:  # several who do this at once for one document get in each other's way
            time.sleep(random.uniform(0, PAUSE_SECONDS * 2**number))  # noqa: S311
        database.post(list(waiting.values()), new_edits=False)
        rows = database.post([_without_history(leaf) for leaf in waiting.values()])
        for (place, leaf), row in zip(list(waiting.items()), rows, strict=True):
            if "accepted" in row:
                waiting[place] = _successor(leaf, row["rev"])
            else:
                del waiting[place]
                revisions[place] = row.get("rev")
    if waiting:
        raise StorageUnavailable("CouchDB could not write to enough of its nodes.")
    return revisions


def standing(document: Json) -> tuple[int, str]:
    """Of several revisions of a document, CouchDB shows the one for which this is the largest."""
    generation, _, digest = document["_rev"].partition("-")
    return int(generation), digest


def _may_be_there(document: Json, row: Json) -> bool:
    # A deletion that stands beside a revision hides nothing.
    return "error" in row and "_deleted" not in document and "_attachments" not in document


def _equal(leaf: Json, document: Json) -> bool:
    if "_deleted" in leaf or "_deleted" in document:
        return False
    return _content(leaf) == _content(orjson.loads(orjson.dumps(document)))


def _content(document: Json) -> Json:
    return {name: value for name, value in document.items() if not name.startswith("_")}


def _without_history(leaf: Json) -> Json:
    return {name: value for name, value in leaf.items() if name != "_revisions"}


def _successor(leaf: Json, revision: str) -> Json:
    ids = [revision.partition("-")[2], *leaf["_revisions"]["ids"]]
    return {**leaf, "_rev": revision, "_revisions": {"start": leaf["_revisions"]["start"] + 1, "ids": ids}}


def _deletion(leaf: Json) -> Json:
    revision = f"{leaf['_revisions']['start'] + 1}-{uuid.uuid4().hex}"
    return {"_id": leaf["_id"], "_deleted": True, **_history(_successor(leaf, revision))}


def _history(leaf: Json) -> Json:
    return {name: leaf[name] for name in ("_rev", "_revisions")}
