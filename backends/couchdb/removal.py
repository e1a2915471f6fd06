"""Removing, and the release queue.

A removal first writes down what it will remove (documents `intent`, at most so many instances each), then removes it.
From the intent on the lists of instances leave those out. Every step can be repeated: whoever opens the archive after
the process died finishes it. What was stored after the intent is not named in it and stays.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backends.couchdb import entities, keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from backends.couchdb.derive import Deriver, attempts
from backends.couchdb.inflight import InFlight
from dicomweb_server.storage.records import ChangeKind, Removed, Scope

INTENT = "intent:"
INSTANCES_AT_ONCE = 500
RESUMED_AFTER_SECONDS = 60
"""An intent that old belongs to a process that died, or may be carried out by two at once without harm."""


class Removal:
    """Removes instances and keeps the queue of blobs that nothing refers to any more."""

    def __init__(
        self, records: Database, archive: Database, deriver: Deriver, inflight: InFlight, clock: keys.Clock
    ) -> None:
        self._records = records
        self._archive = archive
        self._deriver = deriver
        self._inflight = inflight
        self._clock = clock

    def remove(self, scope: Scope, *, keep: bool) -> Removed:
        """As `Storage.remove`."""
        total, studies, series = 0, set[str](), set[tuple[str, str]]()
        for _ in attempts():
            current = self._inside(scope)
            if not current and not total:
                raise scope.not_found()
            removed = self._remove_these(current, whole=scope.instance_uid is None, keep=keep)
            total += len(removed)
            studies |= {item["study"] for item in removed}
            series |= {(item["study"], item["series"]) for item in removed}
            if len(removed) == len(current):
                break
            if not removed and not total and not self._inside(scope):
                raise scope.not_found()
        gone = self._archive.get_many(
            [*(entities.study_id(uid) for uid in studies), *(entities.series_id(*place) for place in series)]
        )
        return Removed(
            studies=sum(entities.study_id(uid) not in gone for uid in studies),
            series=sum(entities.series_id(*place) not in gone for place in series),
            instances=total,
        )

    def resume(self) -> None:
        """Finish the removals of processes that died."""
        for intent in self._records.with_prefix(INTENT):
            if abs(time.time() - intent["at"]) > RESUMED_AFTER_SECONDS:  # also of a clock that was ahead
                self._carry_out(intent)
                self._settle([intent])

    def finish(self, study_uid: str) -> None:
        """Finish the removals from a study that this process could not; to what another one is at it does no harm."""
        for intent in self._records.with_prefix(INTENT):
            if any(item["study"] == study_uid for item in intent["items"]):
                self._carry_out(intent)
                self._settle([intent])

    def _inside(self, scope: Scope) -> list[Json]:
        """What has to be known of the instances in scope."""
        if scope.instance_uid is not None:
            document = self._records.get(documents.instance_id(scope.instance_uid))
            found = [document] if document is not None and documents.inside(document, scope) else []
            return [_item(each) for each in found]
        start = [uid for uid in (scope.study_uid, scope.series_uid) if uid is not None]
        items: dict[str, Json] = {}
        pages = self._records.pages(
            "live/instances", size=INSTANCES_AT_ONCE, startkey=start, endkey=[*start, keys.END], include_docs=True
        )
        for rows in pages:
            for row in rows:
                if row["key"][2] is not None and row.get("doc"):
                    items[row["doc"]["uid"]] = _item(row["doc"])
        return list(items.values())

    def _remove_these(self, items: Sequence[Json], *, whole: bool, keep: bool) -> list[Json]:
        """Remove what is still as it was read; the items for which this process did it."""
        studies = {item["study"] for item in items}
        emptied = self._emptied(items) if whole else []
        intents: list[Json] = []
        for start in range(0, len(items), INSTANCES_AT_ONCE):
            some = list(items[start : start + INSTANCES_AT_ONCE])
            name = f"{INTENT}{self._clock.next():017d}-{keys.new_attempt()}"
            intents.append({"_id": name, "type": "intent", "at": int(time.time()), "items": some})
            if keep:
                intents[-1]["binned_at"] = self._clock.next()
            intents[-1]["patients"] = sorted({study["patient"] for study in emptied})
        removed: list[Json] = []
        with self._inflight.writing(studies):
            self._records.write(intents)
            # Studies disappear before their instances go one by one.
            self._archive.delete(emptied)
            for intent in intents:
                removed += self._carry_out(intent)
            self._settle(intents)
        return removed

    def _emptied(self, items: Sequence[Json]) -> list[Json]:
        """The studies that will have nothing left."""
        emptied = []
        for study in {item["study"] for item in items}:
            series = {item["series"] for item in items if item["study"] == study}
            rows = self._records.view("live/counts", startkey=[study], endkey=[study, keys.END], group_level=2)
            if {row["key"][1] for row in rows} <= series:
                emptied.append(entities.study_id(study))
        return list(self._archive.get_many(emptied).values())

    def _carry_out(self, intent: Json) -> list[Json]:
        """Do what an intent says, as far as it is not done; the items that it was first to claim.

        The record of a removal is the claim: of several who remove the same instance, one has written it, and a lost
        answer does not change whose name it bears.
        """
        items: list[Json] = intent["items"]
        uids = [item["uid"] for item in items]
        if "binned_at" in intent:
            self._put_in_bin(items, intent["binned_at"])
        self._records.write([self._claim(item, intent) for item in items])
        self._records.delete({"_id": documents.instance_id(item["uid"]), "_rev": item["rev"]} for item in items)
        there = self._records.get_many([documents.instance_id(uid) for uid in uids])
        # What is there with another place in the order was stored anew after the removal.
        lives = {document["uid"]: document["seq"] for document in there.values()}
        gone = [item for item in items if lives.get(item["uid"]) != item["seq"]]
        if "binned_at" in intent:
            self._drop_entries([item for item in items if lives.get(item["uid"]) == item["seq"]])
        else:
            self._drop_entries(gone)
            self._let_go(gone)
        claims = self._records.get_many([_claim_id(item) for item in items])
        self._contradict(items, there, claims)
        return [item for item in gone if claims.get(_claim_id(item), {}).get("by") == intent["_id"]]

    def _contradict(self, items: Sequence[Json], there: Mapping[str, Json], claims: Mapping[str, Json]) -> None:
        """What was replaced meanwhile was not removed. Where the feed would end with the removal, which readers may
        have seen, it goes on to say that the instance is there."""
        corrected: list[Json] = []
        for item in items:
            current, claim = there.get(documents.instance_id(item["uid"])), claims.get(_claim_id(item))
            if current is None or claim is None or current["seq"] != item["seq"] or current["_rev"] == item["rev"]:
                continue
            told = documents.last_entry(claim)
            if told <= documents.last_entry(current) or claim["entries"][-1][1] != ChangeKind.REMOVED.value:
                continue
            kind = max(current["entries"])[1] if current["entries"] else ChangeKind.STORED.value
            entry = [self._clock.next(after=told), kind, current["study"], current["series"]]
            corrected.append({**claim, "entries": [*claim["entries"], entry]})
        self._records.write(corrected)

    def _put_in_bin(self, items: Sequence[Json], now: int) -> None:
        """Write the entries of the bin for what is still as it was read. An entry that is there is of this removal, or
        of one before, after which the instance was restored; one that was purged is not made again."""
        for _ in attempts():
            found = self._records.get_many([documents.instance_id(item["uid"]) for item in items])
            revisions = {item["uid"]: item["rev"] for item in items}
            entries = [
                documents.binned_document(each, now)
                for each in found.values()
                if each["_rev"] == revisions[each["uid"]]
            ]
            there = self._records.get_many([entry["_id"] for entry in entries]) if entries else {}
            wanted = []
            for entry in entries:
                old = there.get(entry["_id"])
                if old is None:
                    wanted.append(entry)
                elif old["type"] == "binned" and old["binned_at"] != now:
                    wanted.append({**entry, "_rev": old["_rev"]})
            if not wanted or None not in self._records.write(wanted):
                return

    def _drop_entries(self, items: Sequence[Json]) -> None:
        """Delete what is left in the bin of instances that were restored, or not removed after all."""
        names = [documents.binned_id(f"{item['uid']}-{item['seq']}") for item in items]
        found = self._records.get_many(names) if names else {}
        self._records.delete(each for each in found.values() if each["type"] == "binned")

    def _let_go(self, gone: Sequence[Json]) -> None:
        """Queue the blobs of instances and of their older versions, and delete these."""
        older = [
            old
            for item in gone
            if item["replaced"]
            for old in self._records.with_prefix(documents.replaced_id(item["uid"], ""))
            if old["life"] == item["seq"]
        ]
        blobs = [key for item in gone for key in item["blobs"]]
        self.release(blobs + [key for old in older for key in documents.blob_keys(old)])
        self._records.delete(older)
        parts = [part for document in (*gone, *older) for part in documents.part_ids(document)]
        self._records.delete(self._records.get_many(parts).values() if parts else [])

    def _claim(self, item: Json, intent: Json) -> Json:
        """What the change feed keeps of a removed instance, and who removed it."""
        entries = item["entries"]
        last = max((entry[0] for entry in entries), default=0)
        removed = [max(self._clock.next(), last + 1), ChangeKind.REMOVED.value, item["study"], item["series"]]
        return {
            "_id": _claim_id(item),
            "type": "removed",
            "by": intent["_id"],
            "uid": item["uid"],
            "entries": [*entries, removed],
        }

    def _settle(self, intents: Iterable[Json]) -> None:
        series: dict[str, set[str]] = {}
        patients: set[str] = set()
        for intent in intents:
            patients |= set(intent["patients"])
            for item in intent["items"]:
                series.setdefault(item["study"], set()).add(item["series"])
        self._deriver.settle(series)
        self._deriver.settle_patients(patients)
        for study in series:
            self._deriver.drop_headers(study)
        self._records.delete(self._records.get_many([intent["_id"] for intent in intents]).values())

    # The release queue

    def release(self, blobs: Sequence[str]) -> None:
        """Queue the keys of blobs."""
        self._records.write(
            [
                {"_id": f"released:{key}", "type": "released", "blob": key, "seq": self._clock.next()}
                for key in dict.fromkeys(blobs)
            ]
        )

    def released(self, limit: int) -> list[str]:
        """As `Storage.released`."""
        return [row["key"][1] for row in self._records.view("rest/released", limit=limit)]

    def confirm(self, blobs: Iterable[str]) -> None:
        """As `Storage.confirm_released`."""
        found = self._records.get_many([f"released:{key}" for key in dict.fromkeys(blobs)])
        self._records.delete(found.values())

    def known(self, blobs: Sequence[str]) -> frozenset[str]:
        """As `Storage.known_blobs`."""
        found: set[str] = set()
        for start in range(0, len(blobs), INSTANCES_AT_ONCE):
            some = list(blobs[start : start + INSTANCES_AT_ONCE])
            found.update(row["key"] for row in self._records.view("rest/blobs", keys=some))
        return frozenset(found)


def _claim_id(item: Json) -> str:
    return f"removed:{item['uid']}-{item['attempt']}-{item['rev']}"


def _item(document: Json) -> dict[str, Any]:
    return {
        "uid": document["uid"],
        "study": document["study"],
        "series": document["series"],
        "rev": document["_rev"],
        "seq": document["seq"],
        "attempt": document["attempt"],
        "parts": document["parts"],
        "blobs": documents.blob_keys(document),
        "entries": document["entries"],
        # Of an instance that was moved here it is not known.
        "replaced": not document["entries"] or any(e[1] != ChangeKind.STORED.value for e in document["entries"]),
    }
