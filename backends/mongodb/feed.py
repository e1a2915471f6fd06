"""The change feed: numbered entries.

A number is taken after the change that it tells of, and the change is looked at once more after the number is taken:
who changes the same instance later takes a greater number, so that the entries of an instance are in order. Who wrote
a number but not yet its entry leaves a gap; a reader waits for it a moment, and then fills it with an entry of no
content, which refuses the number to the late writer: that one takes a new number. So no entry ever appears behind a
cursor.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.errors import is_duplicate
from backends.mongodb.work import Work, now_in_milliseconds
from dicomweb_server.errors import BadRequest, StorageUnavailable
from dicomweb_server.storage.records import Change, ChangeEntry, ChangeKind

_CURSOR = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_WAIT_SECONDS = 1.0
_PAUSE_SECONDS = 0.005
_TRIES = 20
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What happened to an instance."""

    kind: ChangeKind
    study_uid: str
    series_uid: str
    instance_uid: str


class Feed:
    """The collections `changes` and `counters`."""

    def __init__(self, connection: Connection, work: Work) -> None:
        self._connection = connection
        self._work = work

    def newest(self) -> int:
        """The last number given."""
        found = self._connection.settled("counters").find_one({"_id": "changes"})
        return int(found["n"]) if found else 0

    def tell(self, entries: Sequence[Entry], *, condition: Doc, gone: str | None = None) -> None:
        """Write entries, safely. Left out are those whose instance document does not fit the condition any more: it was
        changed again, by somebody who tells of it. `gone`: the entries are of the removal with this token."""
        left = list(entries)
        for _ in range(_TRIES):
            if not left:
                return
            taken = self.take(len(left))
            left = self.write(taken, self.still_true(left, condition, gone))
        raise StorageUnavailable("The change feed is busy with other writers.")

    def take(self, number: int) -> range:
        """So many numbers that nobody has."""
        found = self._connection.safe("counters").find_one_and_update(
            {"_id": "changes"}, {"$inc": {"n": number}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        last = int(found["n"]) if found else number
        return range(last - number + 1, last + 1)

    def still_true(self, entries: Sequence[Entry], condition: Doc, gone: str | None = None) -> list[Entry]:
        """The entries of which the instance document fits the condition."""
        uids = [entry.instance_uid for entry in entries]
        found = list(self._connection.safe("instances").find({"_id": {"$in": uids}, **condition}, {"gone": 1, "v": 1}))
        removed = set() if gone else self._work.removed(found)
        present = {doc["_id"] for doc in found} - removed
        return [entry for entry in entries if entry.instance_uid in present]

    def write(self, numbers: range, entries: Sequence[Entry]) -> list[Entry]:
        """Write entries under these numbers; gives those whose number a reader did not wait for. Numbers that are left
        over are filled, so that nobody waits for them."""
        now = now_in_milliseconds()
        docs: list[Doc] = [{"_id": number, "kind": ""} for number in numbers]
        for doc, entry in zip(docs, entries, strict=False):
            doc |= {
                "kind": entry.kind.value,
                "study": entry.study_uid,
                "series": entry.series_uid,
                "instance": entry.instance_uid,
                "at": now,
            }
        try:
            self._connection.safe("changes").insert_many(docs, ordered=False)
        except BulkWriteError as error:
            if not is_duplicate(error):
                raise
            refused = {docs[each["index"]]["_id"] for each in error.details["writeErrors"]}
            there = self._connection.safe("changes").find({"_id": {"$in": list(refused)}})
            ours = [doc for doc in there if doc in docs]  # the driver sent them twice
            missed = refused - {doc["_id"] for doc in ours}
            return [entry for number, entry in zip(numbers, entries, strict=False) if number in missed]
        return []

    def read(self, after: str | None, limit: int) -> list[Change]:
        """As `Storage.changes`."""
        position = 0
        if after is not None:
            if not _CURSOR.fullmatch(after) or int(after) > self.newest():
                raise BadRequest("The cursor of the change feed is not one that this archive gave.")
            position = int(after)
        found: list[Change] = []
        deadline = time.monotonic() + _WAIT_SECONDS
        while len(found) < limit:
            docs = self._page(position, limit)
            for doc in docs:
                if doc["_id"] != position + 1:
                    break
                position += 1
                if doc["kind"]:
                    found.append(_change(doc))
                if len(found) == limit:
                    return found
            else:
                if len(docs) < limit:
                    break
                continue
            if time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
            else:
                self._fill(position + 1)
        return found

    def pages(self, after: int) -> Iterator[Doc]:
        """The documents of all entries behind a number, for a time when nobody writes."""
        while docs := self._page(after, _PAGE):
            yield from (doc for doc in docs if doc["kind"])
            after = docs[-1]["_id"]

    def load(self, entries: Sequence[ChangeEntry]) -> None:
        """Take entries of another storage, with their numbers; known ones stay as they are."""
        changes = self._connection.safe("changes")
        operations = [
            UpdateOne(
                {"_id": entry.number},
                {
                    "$setOnInsert": {
                        "kind": entry.kind.value,
                        "study": entry.study_uid,
                        "series": entry.series_uid,
                        "instance": entry.instance_uid,
                        "at": entry.changed_at,
                    }
                },
                upsert=True,
            )
            for entry in entries
        ]
        changes.bulk_write(operations, ordered=False)
        last = max(entry.number for entry in entries)
        self._connection.safe("counters").update_one({"_id": "changes"}, {"$max": {"n": last}}, upsert=True)

    def _page(self, position: int, limit: int) -> list[Doc]:
        found = self._connection.settled("changes").find({"_id": {"$gt": position}}).sort("_id", 1)
        return list(found.limit(min(limit + 1, _PAGE)))

    def _fill(self, number: int) -> None:
        """Refuse a number to whoever took it. Where the entry is just there, the majority has it when this returns."""
        try:
            self._connection.safe("changes").insert_one({"_id": number, "kind": ""})
        except DuplicateKeyError:
            return


def _change(doc: Mapping[str, Any]) -> Change:
    return Change(
        cursor=str(doc["_id"]),
        kind=ChangeKind(doc["kind"]),
        study_uid=doc["study"],
        series_uid=doc["series"],
        instance_uid=doc["instance"],
        changed_at=doc["at"],
    )
