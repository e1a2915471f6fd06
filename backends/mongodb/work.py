"""What is being changed now, and who finishes it when its process died.

Why series, studies and patients are right although MongoDB standalone has no transactions
------------------------------------------------------------------------------------------
Only the documents of instances say what is stored. A derived document says what is below it: a series of its
instances, a study of its series, a patient of its studies. It has two tokens: `v`, new with each write of it, and
`epoch`, new only when it was derived again. A writer

  1. writes a *mark* into `work` that names its studies, and waits until that is safe;
  2. reads the derived documents it may touch, with their epochs;
  3. changes instances (the commit point), and waits until that is safe;
  4. goes up level by level. Where the change can only add to totals, it increments them on condition that the epoch is
     that of step 2; otherwise, or when that fails, it *derives*: read `v`, read everything below, replace the document
     on condition that `v` is still the same, else again. What a replaced document had and has is the difference that
     the level above must be changed by;
  5. writes the change feed and deletes the mark.

Two writers A and B, and R that derives (either of them, a reader, or the sweeper):

* A and B both increment: each increment is atomic, both count.
* A increments after R read `v` and before R replaces: `v` differs, R starts again.
* A changed the level below before R read it, and increments after R replaced: R counted A's change; the epoch differs,
  A's increment fails, A derives. Nothing is counted twice.
* A changed the level below after R read it, and increments after R replaced: as before, A derives and counts itself.
* A derives a series and thereby counts an instance of B that has not incremented yet: the difference A carries up holds
  it; B's increment fails on the epoch, B derives, its difference is zero. So differences add up to the truth.
* Where all levels are only incremented, that happens at once, and the epochs are read again afterwards: had R derived a
  study between its increment and that of the series below, it would have lost A; then A derives all levels. An
  increment that R carries up from what it lost fails on the epoch of A, or comes before A derives.
* What was not there at step 2 is made of A's instances alone and inserted, at once with the increments. If B was
  faster, the insert fails and A derives all. If B derives the study while A's series is not inserted yet, the epoch is
  another one afterwards, as above. If R removed instances of A and found no document to derive, they are missing when A
  looks at them once more, after the inserts, and A derives all. The mark names the patients too: should A die, and the
  study be of another patient in the end, then the one that A inserted is derived, and thereby deleted.
* A bulk of increments of which one failed leaves it unknown which were made: all of them are derived, and so is every
  document above, instead of being given a difference.
* A study gets another patient: both are derived, and both are written into the mark before the study is, because the
  study alone no longer tells of the first.
* A process dies at any step, or an answer is lost: its mark is still there. Who reads first asks for marks older than
  `READ_AFTER_SECONDS` and derives everything below their studies, as does the sweeper, which alone may delete a mark of
  another, after `LEASE_SECONDS`. A writer that was stopped for longer than half of that between 1 and 3 starts again.
* The primary fails, or a server alone restarts: the next step may well find the new one, as if nothing had happened.
  So each step is confirmed by the majority, with its journal on disk, before the next one; only that a mark is deleted
  is not waited for.

Removing (`removing`) uses the same documents: an *intent* per study, so that two removals of a study follow each other.
Its instances are first only tagged (`gone`); that the intent becomes "committed" is the commit point, from then on who
meets a tagged document treats it as absent. Everything after is idempotent and can be done by anybody.
"""

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from bson import ObjectId
from pymongo import ReturnDocument

from backends.mongodb.connection import Connection, Doc

READ_AFTER_SECONDS = 1.0
"""A mark older than this may be of a process that died: readers derive its studies before they answer."""
LEASE_SECONDS = 120.0
"""A mark older than this is of a process that died, or that knows that it was stopped for too long."""
TAGGING_SECONDS = 30.0
"""A removal that is not committed after this time is given up by whoever meets it."""
MANY = 100

_PLACE_BITS = 20  # places within a millisecond of the database's clock


def new_token() -> str:
    """A text that nobody had before."""
    return str(ObjectId())


def now_in_milliseconds() -> datetime:
    """Now, as BSON keeps it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def older_than(seconds: float, field: str = "at") -> Doc:
    """The condition on the time of a document, by the clock of the database."""
    return {"$expr": {"$lt": [f"${field}", {"$subtract": ["$$NOW", int(seconds * 1000)]}]}}


class Mark:
    """The mark of one store, replacement or restoration. `at` is the time of the database; `token` is also the attempt
    by which an instance document is told to be of this mark."""

    def __init__(self, token: str, at: datetime) -> None:
        self.token = token
        self.at = at

    @property
    def place(self) -> int:
        """The first of the places in the order of storing that this mark may give."""
        return int(self.at.timestamp() * 1000) << _PLACE_BITS


class Work:
    """The collection `work`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._last_place = 0

    def mark(
        self,
        studies: Iterable[str],
        token: str = "",
        *,
        patients: Iterable[str] = (),
        silent: bool = False,
        tells: str = "",
    ) -> Mark:
        """Write a mark, safely, before anything below the studies changes. `patients`: as of `note_patients`. `silent`:
        the change feed is not told. `tells`: of which kind of change it is, where that is not plain from the
        instances."""
        token = token or new_token()
        fields: Doc = {
            "kind": "mark",
            "studies": {"$literal": sorted(studies)},
            "patients": {"$literal": sorted(patients)},
            "at": "$$NOW",
        }
        if silent:
            fields["silent"] = True
        if tells:
            fields["tells"] = tells
        found = self._connection.safe("work").find_one_and_update(
            {"_id": token}, [{"$set": fields}], upsert=True, return_document=ReturnDocument.AFTER
        )
        return Mark(token, found["at"] if found else datetime.now(UTC))

    def unmark(self, token: str) -> None:
        """Everything is finished. That this is not waited for costs a needless derivation at worst."""
        self._connection.unconfirmed("work").delete_one({"_id": token})

    def note_patients(self, token: str, patients: Iterable[str]) -> None:
        """Patients that are to be derived too, should the holder of this document die now."""
        listed = sorted(patients)
        work = self._connection.safe("work")
        result = work.update_one({"_id": token}, {"$addToSet": {"patients": {"$each": listed}}})
        if result.matched_count == 0:  # its holder is done already: this is work of its own now
            fields = {"kind": "mark", "studies": [], "patients": {"$literal": listed}, "at": "$$NOW"}
            work.update_one({"_id": new_token()}, [{"$set": fields}], upsert=True)

    def places(self, mark: Mark, number: int, *, after: int) -> int:
        """The first of so many places in the order of storing, behind `after` and behind all given in this process."""
        with self._lock:
            first = max(mark.place, after + 1, self._last_place + 1)
            self._last_place = first + number
            return first

    def open_marks(self, *, older_than_seconds: float, studies: Sequence[str] | None = None) -> list[Doc]:
        """Marks of that age that nobody has checked yet."""
        condition: Doc = {"kind": "mark", "checked": None, **older_than(older_than_seconds)}
        if studies is not None:
            condition["studies"] = {"$in": list(studies)}
        return list(self._connection.safe("work").find(condition).limit(MANY))

    def committed(self, study_uid: str) -> list[str]:
        """The tokens of removals in a study that have happened, but whose instances may still be there."""
        found = self._connection.safe("work").find_one({"_id": intent_id(study_uid), "state": "committed"})
        return [found["token"]] if found else []

    def removed(self, docs: Iterable[Doc]) -> set[str]:
        """The `_id` of those instances that a removal took although they are still there. The documents have the fields
        `gone` and `v`."""
        tagged = [doc for doc in docs if doc.get("gone")]
        if not tagged:
            return set()
        tokens = sorted({doc["gone"] for doc in tagged})
        found = self._connection.safe("work").find({"token": {"$in": tokens}}, {"token": 1, "state": 1})
        states = {each["token"]: each["state"] for each in found}
        unknown = {doc["_id"]: doc["v"] for doc in tagged if doc["gone"] not in states}
        if unknown:  # finished, or given up, since the instance was read: in the one case it is gone now
            condition = {"_id": {"$in": list(unknown)}}
            left = {doc["_id"]: doc["v"] for doc in self._connection.safe("instances").find(condition, {"v": 1})}
            unknown = {uid: version for uid, version in unknown.items() if left.get(uid) != version}
        return {doc["_id"] for doc in tagged if doc["_id"] in unknown or states.get(doc["gone"]) == "committed"}


def intent_id(study_uid: str) -> str:
    """The `_id` of the one removal that a study may have at a time."""
    return f"remove {study_uid}"
