"""The bin, and the end of what is kept no longer.

An entry (`binned:`) is named by the UID of the instance and its place in the order of storing (`life`), so that there
is one however often its removal is carried out. The older versions stay where they are: they name the life, and nobody
shows those of another life than the stored instance has. An entry whose instance is stored again with the same life is
none: its restoration was not finished.

Who restores claims the entry, who purges marks it for good; CouchDB lets only one of the two write. A purged entry
stays as an empty document: a removal that is carried out a second time finds it and does not make the entry again.
"""

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.database import AFTER_ID, Database, Json
from backends.couchdb.derive import Deriver, attempts
from backends.couchdb.inflight import InFlight
from backends.couchdb.reading import Reading
from backends.couchdb.removal import Removal
from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.storage.records import Binned, BinPage, Restored, Scope

CLAIMED_SECONDS = 60
PAGE = 200
TOMBSTONE_MICROSECONDS = 24 * 3600 * 1_000_000
_CURSOR = re.compile(r"([0-9]{1,17})-([0-9.]{1,64}-[0-9]{1,17})", re.ASCII)


class Bin:
    """Entries in the database of the instances."""

    def __init__(
        self,
        records: Database,
        reading: Reading,
        deriver: Deriver,
        inflight: InFlight,
        removal: Removal,
        clock: keys.Clock,
    ) -> None:
        self._records = records
        self._reading = reading
        self._deriver = deriver
        self._inflight = inflight
        self._removal = removal
        self._clock = clock

    # Listing

    def page(self, scope: Scope, before: datetime | None, limit: int, cursor: str | None) -> BinPage:
        """As `Storage.binned`."""
        after: list[Any] = []
        if cursor is not None:
            found = _CURSOR.fullmatch(cursor)
            if found is None:
                raise BadRequest("The cursor of the bin is not one that this archive gave.")
            after = [int(found[1]), found[2]]
        chosen = self._chosen(scope, before, after, limit + 1) if limit > 0 else []
        entries = [
            Binned(
                entry=documents.entry_name(document),
                instance=documents.stored_instance(document),
                metadata=packed,
                binned_at=documents.moment(document["binned_at"]),
            )
            for document, packed in zip(chosen[:limit], documents.deflated(self._records, chosen[:limit]), strict=True)
        ]
        last = chosen[limit - 1] if len(chosen) > limit else None
        return BinPage(
            entries=entries, cursor=f"{last['binned_at']}-{documents.entry_name(last)}" if last is not None else None
        )

    def _chosen(self, scope: Scope, before: datetime | None, after: list[Any], limit: int) -> list[Json]:
        """The first entries of a scope behind a place."""
        start = _start(scope)
        end: Any = documents.microseconds(before) if before is not None else keys.END
        pages = self._records.pages(
            "rest/binned", size=PAGE, startkey=[*start, *after], endkey=[*start, end], include_docs=True
        )
        chosen: list[Json] = []
        for rows in pages:
            some = [row["doc"] for row in rows if row.get("doc") and row["key"] != [*start, *after]]
            chosen += self.true_entries([each for each in some if documents.inside(each, scope)])
            if len(chosen) >= limit:
                break
        return chosen[:limit]

    def true_entries(self, entries: Sequence[Json]) -> list[Json]:
        """Those whose instance is not stored again."""
        lives = self._lives(entries)
        return [entry for entry in entries if lives.get(entry["uid"]) != entry["life"]]

    def _lives(self, entries: Sequence[Json]) -> dict[str, int]:
        ids = list({documents.instance_id(entry["uid"]) for entry in entries})
        return {each["uid"]: each["seq"] for each in self._records.get_many(ids).values()} if ids else {}

    # Restoring

    def restore(self, entries: Sequence[str]) -> list[Restored]:
        """As `Storage.restore_binned`. Of several entries of one instance the first comes back."""
        outcomes: list[Restored | None] = [None] * len(entries)
        tries = attempts()
        while None in outcomes:
            wave: dict[str, int] = {}
            for place, entry in enumerate(entries):
                if outcomes[place] is None:
                    wave.setdefault(entry.rpartition("-")[0], place)
            made = self._restore([entries[place] for place in wave.values()])
            for place in wave.values():
                outcomes[place] = made.get(entries[place])
            if not made:
                next(tries)
        return [outcome for outcome in outcomes if outcome is not None]

    def _restore(self, names: Sequence[str]) -> dict[str, Restored]:
        """Entries of different instances; those that somebody else is busy with have no outcome."""
        found = self._records.get_many([documents.binned_id(name) for name in names])
        there = {documents.entry_name(each): each for each in found.values() if is_entry(each)}
        outcomes = {name: Restored.MISSING for name in names if name not in there}
        now = int(time.time())
        claimed = [{**each, "claimed_at": now} for each in there.values() if not is_claimed(each)]
        revisions = self._records.write(claimed)
        claimed = [each for each, revision in zip(claimed, revisions, strict=True) if revision is not None]
        if not claimed:
            return outcomes
        lives = self._lives(claimed)
        with self._inflight.writing({each["study"] for each in claimed}):
            free = [each for each in claimed if each["uid"] not in lives]
            instances = [documents.restored_document(each, self._clock.next(after=each["binned_at"])) for each in free]
            self._records.write(instances)
            current = self._records.get_many([documents.instance_id(each["uid"]) for each in claimed])
            tried, restored = {each["uid"] for each in free}, list[Json]()
            series: dict[str, set[str]] = {}
            for each in claimed:
                instance = current.get(documents.instance_id(each["uid"]))
                if instance is None:
                    continue  # removed again by somebody else, or not written: the next round sees
                name = documents.entry_name(each)
                if instance["seq"] != each["life"]:
                    outcomes[name] = Restored.CONFLICT
                elif each["uid"] in tried:
                    outcomes[name] = Restored.RESTORED
                    restored.append(each)
                    series.setdefault(each["study"], set()).add(each["series"])
                else:
                    outcomes[name] = Restored.MISSING
            self._deriver.settle(series)
        self._records.delete(restored)
        back = {each["uid"] for each in restored}
        self._records.write([{**each, "claimed_at": 0} for each in claimed if each["uid"] not in back])
        return outcomes

    # Purging

    def purge(self, scope: Scope, before: datetime | None, limit: int) -> int:
        """As `Storage.purge_binned`."""
        self.finish()
        chosen = [each for each in self._chosen(scope, before, [], limit) if not is_claimed(each)] if limit else []
        taken = self._take(chosen)
        self._let_go(taken)
        return len(taken)

    def finish(self) -> None:
        """Finish what processes that died were purging."""
        rows = self._records.view("rest/purging", include_docs=True)
        found = [row["doc"] for row in rows if row.get("doc")]
        self._let_go([each for each in found if each["type"] == "binned"])
        self._forget([each for each in found if each["type"] == "replaced"])

    def sweep(self) -> None:
        """Forget entries that were purged long ago."""
        self.finish()
        end = self._clock.next() - TOMBSTONE_MICROSECONDS
        rows = self._records.view("rest/purged", endkey=end)
        self._records.delete({"_id": row["id"], "_rev": row["value"]} for row in rows)

    def _take(self, chosen: Sequence[Json]) -> list[Json]:
        """Mark for good; gives those for which nobody else was faster."""
        marked = [{**each, "purging": True} for each in chosen]
        revisions = self._records.write(marked) if marked else []
        return [each for each, revision in zip(marked, revisions, strict=True) if revision is not None]

    def _let_go(self, entries: Sequence[Json]) -> None:
        """Queue the blobs of entries that were taken and of their older versions, and empty the entries."""
        older = [
            old
            for entry in entries
            for old in self._records.with_prefix(documents.replaced_id(entry["uid"], ""))
            if old["life"] == entry["life"]
        ]
        self._forget(older)
        self._release(entries)
        now = self._clock.next()
        self._records.write(
            [{"_id": entry["_id"], "_rev": entry["_rev"], "type": "purged", "purged_at": now} for entry in entries]
        )

    def _forget(self, older: Sequence[Json]) -> None:
        self._release(older)
        self._records.delete(older)

    def _release(self, versions: Sequence[Json]) -> None:
        if versions:
            self._removal.release([key for each in versions for key in documents.blob_keys(each)])
            parts = [part for each in versions for part in documents.part_ids(each)]
            self._records.delete(self._records.get_many(parts).values() if parts else [])

    def purge_replaced(self, scope: Scope, before: datetime | None, limit: int) -> int:
        """As `Storage.purge_replaced`."""
        self.finish()
        chosen: list[Json] = []
        for older in self._older(scope, before):
            if len(chosen) >= limit:
                break
            chosen += [old for old in self.true_versions(older) if not is_claimed(old)]
        taken = self._take(chosen[:limit])
        self._forget(taken)
        return len(taken)

    def _older(self, scope: Scope, before: datetime | None) -> Iterator[list[Json]]:
        """What may be older versions of what is stored in the scope, in pages; of the whole archive oldest first."""
        end: Any = documents.microseconds(before) if before is not None else keys.END
        if scope.level is None:
            pages = self._records.pages("rest/replaced", size=PAGE, startkey=[], endkey=[end], include_docs=True)
            yield from ([row["doc"] for row in rows if row.get("doc")] for rows in pages)
            return
        for uids in self._stored_in(scope):
            prefixes = [documents.replaced_id(uid, "") for uid in uids]
            ranges = [{"startkey": prefix, "endkey": prefix + AFTER_ID, "include_docs": True} for prefix in prefixes]
            found = [row["doc"] for rows in self._records.ranges("_all_docs", ranges) for row in rows if row.get("doc")]
            yield [old for old in found if before is None or old["replaced_at"] < end]

    def _stored_in(self, scope: Scope) -> Iterator[list[str]]:
        """The SOP Instance UIDs of a scope in pages."""
        try:
            instances = self._reading.instances(scope)
        except NotFound:
            return
        while uids := [each.instance_uid for each in islice(instances, PAGE)]:
            yield uids

    def true_versions(self, older: Sequence[Json]) -> list[Json]:
        """The versions that readers see."""
        current = self._records.get_many(list({documents.instance_id(old["uid"]) for old in older})) if older else {}
        return [
            old
            for old in older
            if (instance := current.get(documents.instance_id(old["uid"])))
            and old["attempt"] != instance["attempt"]
            and old["life"] == instance["seq"]
            and not old.get("purging")
        ]


def is_entry(document: Json) -> bool:
    """Whether the document is an entry that was not purged."""
    return document["type"] == "binned" and not document.get("purging")


def is_claimed(document: Json) -> bool:
    """Whether somebody restores it at this moment."""
    # A claim from the time to come was made by a clock that has been set back since.
    return bool(abs(time.time() - document.get("claimed_at", 0)) < CLAIMED_SECONDS)


def _start(scope: Scope) -> list[Any]:
    """How the keys of the view begin for the deepest level that the scope names."""
    if scope.instance_uid is not None:
        return ["instance", scope.instance_uid]
    if scope.series_uid is not None:
        return ["series", scope.series_uid]
    return ["study", scope.study_uid] if scope.study_uid is not None else ["all", ""]
