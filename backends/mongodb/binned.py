"""The bin, and the end of what is kept no longer.

An entry of the bin has the `life` of its instance as `_id`, so that there is one however often its removal is carried
out; the older versions stay in `replaced`, where nobody shows those of another life than the stored instance has. An
entry whose instance is stored again with the same life is none: its restoration was not finished, or its removal
repeated after that. Nothing but its own document belongs to it.

Who restores claims an entry first (`claimed_at`, for `LEASE_SECONDS`), and who purges takes only what nobody claims
(`purged_at`, for good), so that no file is released that comes back. A purged entry stays for a while without its
content: a removal that is carried out a second time finds it and does not put the entry into the bin again.
"""

import base64
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

import orjson
from pymongo import ReplaceOne

from backends.mongodb import releasing
from backends.mongodb.claims import claim, give_back, take
from backends.mongodb.connection import Connection, Doc
from backends.mongodb.derived import Ascent
from backends.mongodb.feed import Entry, Feed
from backends.mongodb.instances import Composer, LargeMetadata, added, stored_instance
from backends.mongodb.removing import Remover, condition_of
from backends.mongodb.work import LEASE_SECONDS, Work, new_token, older_than
from backends.mongodb.writing import insert
from dicomweb_server.errors import BadRequest, StorageUnavailable
from dicomweb_server.storage.packing import record_of
from dicomweb_server.storage.records import Binned, BinPage, ChangeKind, Restored, Scope

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

FORGOTTEN_SECONDS = LEASE_SECONDS
"""A purge older than this is finished by the next sweep, and its empty entry deleted."""

_ORDER = (("binned_at", 1), ("_id", 1))
_BATCH = 500
_WAIT_SECONDS = 20.0
_PAUSE_SECONDS = 0.02


class Bin:
    """Entries of the collection `binned`."""

    def __init__(
        self, connection: Connection, work: Work, feed: Feed, remover: Remover, large_metadata: LargeMetadata
    ) -> None:
        self._connection = connection
        self._work = work
        self._feed = feed
        self._remover = remover
        self._large_metadata = large_metadata

    # Listing

    def page(self, scope: Scope, before: datetime | None, limit: int, cursor: str | None) -> BinPage:
        """As `Storage.binned`."""
        condition = _chosen(scope, before)
        if cursor is not None:
            condition.update(behind(*_decoded(cursor)))
        found = list(self._connection.safe("binned").find(condition).sort(list(_ORDER)).limit(limit + 1))
        docs = found[:limit]
        stale = self._stale(docs)
        entries = [
            Binned(
                entry=doc["_id"],
                instance=stored_instance(doc, doc["uid"]),
                metadata=self._large_metadata.of(doc),
                binned_at=doc["binned_at"],
            )
            for doc in docs
            if doc["_id"] not in stale
        ]
        return BinPage(entries=entries, cursor=_encoded(docs[-1]) if docs and len(found) > limit else None)

    def true_entries(self, docs: Sequence[Doc]) -> list[Doc]:
        """Those whose instance is not stored again."""
        stale = self._stale(docs)
        return [doc for doc in docs if doc["_id"] not in stale]

    def _stale(self, docs: Sequence[Doc]) -> set[str]:
        """The entries whose instance is stored again with the same life."""
        uids = sorted({doc["uid"] for doc in docs})
        condition = {"_id": {"$in": uids}}
        found = list(self._connection.safe("instances").find(condition, {"life": 1, "gone": 1, "v": 1}) if uids else ())
        removed = self._work.removed(found)
        return {doc["life"] for doc in found if doc["_id"] not in removed}

    # Restoring

    def restore(self, entries: Sequence[str]) -> list[Restored]:
        """As `Storage.restore_binned`."""
        outcomes: dict[str, Restored] = {}
        left = list(dict.fromkeys(entries))
        deadline = time.monotonic() + _WAIT_SECONDS
        while left:
            outcomes.update(self._restore(left))
            left = [entry for entry in left if entry not in outcomes]
            if left and time.monotonic() > deadline:
                raise StorageUnavailable("Others restore the same instances at this moment.", retry_after_seconds=5)
            if left:
                time.sleep(_PAUSE_SECONDS)
        places = {entry: place for place, entry in reversed(list(enumerate(entries)))}
        return [
            outcomes[entry] if places[entry] == place or outcomes[entry] is not Restored.RESTORED else Restored.MISSING
            for place, entry in enumerate(entries)
        ]

    def _restore(self, entries: Sequence[str]) -> dict[str, Restored]:
        """One round: the outcomes of what nobody else restores, each SOP Instance UID once."""
        started = time.monotonic()
        token = new_token()
        known = self._connection.safe("binned").find({"_id": {"$in": list(entries)}, "purged_at": None}, {"_id": 1})
        there = {doc["_id"] for doc in known}
        outcomes = {entry: Restored.MISSING for entry in entries if entry not in there}
        claimed = {doc["_id"]: doc for doc in claim(self._connection, "binned", sorted(there), token)}
        try:
            docs: dict[str, Doc] = {}
            for doc in (claimed[entry] for entry in entries if entry in claimed):
                docs.setdefault(doc["uid"], doc)
            docs = self._without_stored(docs, outcomes)
            if docs and time.monotonic() - started < LEASE_SECONDS / 2:
                self._bring_back(list(docs.values()), token, outcomes)
        finally:
            give_back(self._connection, "binned", sorted(claimed), token)
        return outcomes

    def _without_stored(self, docs: dict[str, Doc], outcomes: dict[str, Restored]) -> dict[str, Doc]:
        """Those whose UID is free; the outcomes of others are noted."""
        condition = {"_id": {"$in": sorted(docs)}}
        found = list(self._connection.safe("instances").find(condition, {"life": 1, "gone": 1, "study": 1}))
        left = dict(docs)
        for doc in found:
            entry = left.pop(doc["_id"])
            if doc.get("gone"):
                self._remover.resolve(doc["study"], doc["gone"])  # the next round sees what is left
            else:
                outcomes[entry["_id"]] = Restored.MISSING if doc["life"] == entry["_id"] else Restored.CONFLICT
        return left

    def _bring_back(self, entries: Sequence[Doc], token: str, outcomes: dict[str, Restored]) -> None:
        mark = self._work.mark({doc["study"] for doc in entries}, token, tells=ChangeKind.RESTORED.value)
        composer = Composer(token)
        behind_all = self._work.places(mark, len(entries), after=0)
        docs = []
        for number, entry in enumerate(entries):
            record = record_of(stored_instance(entry, entry["uid"]), self._large_metadata.of(entry))
            member = added(record)
            member.place = behind_all + number if entry["place"] is None else entry["place"]
            docs.append(composer.document(record, member, stored_at=entry["stored_at"], life=entry["_id"]))
        self._large_metadata.put_aside(docs)
        ours = insert(self._connection, docs, token)
        touched: dict[str, set[str]] = {}
        for place in ours:
            touched.setdefault(docs[place]["study"], set()).add(docs[place]["series"])
        ascent = Ascent(self._connection, self._work, token)
        for study_uid, series_uids in touched.items():
            ascent.derive_series(study_uid, series_uids)
        told = [
            Entry(
                kind=ChangeKind.RESTORED,
                study_uid=docs[place]["study"],
                series_uid=docs[place]["series"],
                instance_uid=docs[place]["_id"],
            )
            for place in ours
        ]
        self._feed.tell(told, condition={"attempt": token})
        restored = [entries[place] for place in ours]
        ids = [entry["_id"] for entry in restored]
        self._connection.safe("binned").delete_many({"_id": {"$in": ids}, "claim": token})
        pieces = [entry["metadata_key"] for entry in restored if entry.get("metadata_key")]
        others = [
            doc["metadata_key"] for place, doc in enumerate(docs) if place not in ours and doc.get("metadata_key")
        ]
        self._large_metadata.delete(pieces + others)
        self._work.unmark(token)
        outcomes.update(dict.fromkeys(ids, Restored.RESTORED))

    # Purging

    def purge(self, scope: Scope, before: datetime | None, limit: int) -> int:
        """As `Storage.purge_binned`."""
        done = 0
        binned = self._connection.safe("binned")
        while done < limit:
            found = binned.find(_chosen(scope, before), {"uid": 1, "v": 1}).sort(list(_ORDER))
            docs = list(found.limit(min(limit - done, _BATCH)))
            stale = self._stale(docs)
            for doc in docs:
                if doc["_id"] in stale:  # the `v`: unless it was removed once more
                    binned.delete_one({"_id": doc["_id"], "v": doc["v"]})
            taken = take(self._connection, "binned", [d["_id"] for d in docs if d["_id"] not in stale], new_token())
            self._let_go(taken)
            done += len(taken)
            if not taken and not stale:
                break
        return done

    def _let_go(self, entries: Sequence[Doc]) -> None:
        """Queue the blobs of entries that were taken and of their older versions, and empty the entries."""
        if not entries:
            return
        lives = sorted(entry["_id"] for entry in entries)
        replaced = self._connection.safe("replaced")
        older = list(
            replaced.find({"uid": {"$in": sorted({entry["uid"] for entry in entries})}, "life": {"$in": lives}})
        )
        self._forget([*entries, *older])
        replaced.delete_many({"_id": {"$in": [doc["_id"] for doc in older]}})
        self._connection.safe("binned").bulk_write(
            [ReplaceOne({"_id": entry["_id"]}, _emptied(entry)) for entry in entries], ordered=False
        )

    def _forget(self, docs: Sequence[Doc]) -> None:
        releasing.queue(self._connection, (key for doc in docs for key in doc["blobs"]))
        self._large_metadata.delete([doc["metadata_key"] for doc in docs if doc.get("metadata_key")])

    def purge_replaced(self, scope: Scope, before: datetime | None, limit: int) -> int:
        """As `Storage.purge_replaced`."""
        done = 0
        for docs in self._older(scope, before) if limit else ():
            true = self.true_versions(docs)[: limit - done]
            taken = take(self._connection, "replaced", [doc["_id"] for doc in true], new_token())
            self._forget(taken)
            self._connection.safe("replaced").delete_many({"_id": {"$in": [doc["_id"] for doc in taken]}})
            done += len(taken)
            if done >= limit:
                break
        return done

    def _older(self, scope: Scope, before: datetime | None) -> Iterator[list[Doc]]:
        """What may be older versions of what is stored in the scope, in batches; of the whole archive oldest first."""
        replaced = self._connection.safe("replaced")
        condition: Doc = {"purged_at": None, **({"replaced_at": {"$lt": before}} if before is not None else {})}
        fields = {"uid": 1, "life": 1, "blob": 1, "replaced_at": 1}
        order = [("replaced_at", 1), ("_id", 1)]
        if scope.level is not None:
            for uids in self._stored_in(scope):
                yield list(replaced.find({**condition, "uid": {"$in": uids}}, fields).sort(order))
            return
        while docs := list(replaced.find(condition, fields).sort(order).limit(_BATCH)):
            yield docs
            last = docs[-1]
            condition["$or"] = [
                {"replaced_at": {"$gt": last["replaced_at"]}},
                {"replaced_at": last["replaced_at"], "_id": {"$gt": last["_id"]}},
            ]

    def _stored_in(self, scope: Scope) -> Iterator[list[str]]:
        """The SOP Instance UIDs of a scope in batches."""
        found = self._connection.safe("instances").find(condition_of(scope), {"_id": 1}).batch_size(_BATCH)
        with found:
            while uids := [doc["_id"] for doc in islice(found, _BATCH)]:
                yield uids

    def true_versions(self, docs: Sequence[Doc]) -> list[Doc]:
        """Without copies for replacements that did not happen, and of instances that are gone."""
        uids = sorted({doc["uid"] for doc in docs})
        fields = {"life": 1, "blob.key": 1, "gone": 1, "v": 1}
        found = list(self._connection.safe("instances").find({"_id": {"$in": uids}}, fields))
        removed = self._work.removed(found)
        current = {doc["_id"]: (doc["life"], doc["blob"]["key"]) for doc in found if doc["_id"] not in removed}
        return [
            doc
            for doc in docs
            if (known := current.get(doc["uid"])) and known[0] == doc["life"] and known[1] != doc["blob"]["key"]
        ]

    def sweep(self) -> None:
        """Finish what processes that died were purging, and forget entries that were purged long ago."""
        old = {"purged_at": {"$type": "date"}, **older_than(FORGOTTEN_SECONDS, "purged_at")}
        binned, replaced = self._connection.safe("binned"), self._connection.safe("replaced")
        while entries := list(binned.find({**old, "blobs": {"$ne": []}}).limit(_BATCH)):
            self._let_go(entries)
        if binned.find_one(old, {"_id": 1}):
            binned.delete_many({**old, "blobs": []})
        while versions := list(replaced.find(old).limit(_BATCH)):
            self._forget(versions)
            replaced.delete_many({"_id": {"$in": [doc["_id"] for doc in versions]}})


def behind(at: datetime, entry: str) -> Doc:
    """The condition on what comes behind an entry in the order of the bin."""
    return {"$or": [{"binned_at": {"$gt": at}}, {"binned_at": at, "_id": {"$gt": entry}}]}


def _emptied(entry: Doc) -> Doc:
    return {"_id": entry["_id"], "purged_at": entry["purged_at"], "blobs": []}


def _chosen(scope: Scope, before: datetime | None) -> Doc:
    named = {"study": scope.study_uid, "series": scope.series_uid, "uid": scope.instance_uid}
    condition: Doc = {name: uid for name, uid in named.items() if uid is not None}
    condition["purged_at"] = None
    if before is not None:
        condition["binned_at"] = {"$lt": before}
    return condition


def _encoded(doc: Doc) -> str:
    position = [(doc["binned_at"] - EPOCH) // timedelta(milliseconds=1), doc["_id"]]
    return base64.urlsafe_b64encode(orjson.dumps(position)).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[datetime, str]:
    try:
        at, entry = orjson.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        if type(at) is int and type(entry) is str:
            return EPOCH + timedelta(milliseconds=at), entry
    except (ValueError, TypeError, OverflowError):
        pass
    raise BadRequest("The cursor of the bin is not one that this archive gave.")
