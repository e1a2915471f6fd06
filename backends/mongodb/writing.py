"""Storing, replacing and restoring instances; the order of the steps is explained in `work`."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, ConnectionFailure, WTimeoutError

from backends.mongodb.claims import claim, give_back
from backends.mongodb.connection import Connection, Doc
from backends.mongodb.derived import Ascent
from backends.mongodb.errors import is_duplicate
from backends.mongodb.feed import Entry, Feed
from backends.mongodb.instances import Composer, LargeMetadata, added, copy_of, stored_instance
from backends.mongodb.removing import Remover
from backends.mongodb.summing import Added, patients_of, series_id
from backends.mongodb.work import LEASE_SECONDS, Mark, Work, new_token
from dicomweb_server.dicom.attributes import Attributes, conflicts, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.packing import record_of
from dicomweb_server.storage.records import ChangeKind, InstanceRecord, OnDuplicate, Stored, StoreOutcome

_KNOWN = {"study": 1, "series": 1, "blob": 1, "gone": 1, "attempt": 1}
_TRIES = 30
_PAUSE_SECONDS = 0.05


class Writer:
    """Writes records of instances."""

    def __init__(
        self, connection: Connection, work: Work, feed: Feed, remover: Remover, large_metadata: LargeMetadata
    ) -> None:
        self._connection = connection
        self._work = work
        self._feed = feed
        self._remover = remover
        self._large_metadata = large_metadata

    def store(self, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        """As `Storage.store`. A UID that stands in the batch twice waits for the next wave; so does one that somebody
        else stores or removes at this moment."""
        outcomes: dict[int, StoreOutcome] = {}
        for _ in range(_TRIES + len(records)):
            left = [place for place in range(len(records)) if place not in outcomes]
            if not left:
                return [outcomes[place] for place in range(len(records))]
            wave: dict[str, int] = {}
            for place in left:
                wave.setdefault(records[place].instance_uid, place)
            places = list(wave.values())
            made = _Wave(self, [records[place] for place in places], on_duplicate).run()
            outcomes.update({places[index]: outcome for index, outcome in made.items()})
        raise StorageUnavailable("Others store the same instances at this moment.", retry_after_seconds=2)

    def restore(self, instance_uid: str, version: str) -> None:
        """As `Storage.restore`."""
        for _ in range(_TRIES):
            current = self._connection.safe("instances").find_one({"_id": instance_uid})
            if current is not None and current.get("gone"):
                self._remover.resolve(current["study"], current["gone"])
                continue
            claim_token = new_token()
            (copy,) = claim(self._connection, "replaced", [version], claim_token) or (None,)
            if copy is None and self._connection.safe("replaced").find_one({"_id": version, "purged_at": None}):
                time.sleep(_PAUSE_SECONDS)  # somebody else restores it at this moment
                continue
            try:
                if self._restored(current, copy, instance_uid):
                    return
            finally:
                give_back(self._connection, "replaced", [version], claim_token)
        raise StorageUnavailable("The instance is busy with other writers.", retry_after_seconds=2)

    def _restored(self, current: Doc | None, copy: Doc | None, instance_uid: str) -> bool:
        """Put a version that is claimed in the place of the instance; False when somebody else was faster."""
        if (
            current is None
            or copy is None
            or (copy["uid"], copy["life"]) != (instance_uid, current["life"])
            or copy["blob"]["key"] == current["blob"]["key"]
        ):
            raise NotFound("there is no such version of the instance")
        record = record_of(stored_instance(copy, instance_uid), self._large_metadata.of(copy))
        mark = self._work.mark({current["study"], copy["study"]}, tells=ChangeKind.RESTORED.value)
        done = self._take_place(mark, current, record, ChangeKind.RESTORED, stored_at=copy["stored_at"]) is not None
        if done:
            self._connection.safe("replaced").delete_one({"_id": copy["_id"]})
            self._large_metadata.delete([copy["metadata_key"]] if copy.get("metadata_key") else [])
        self._work.unmark(mark.token)
        return done

    def _take_place(
        self, mark: Mark, old: Doc, record: InstanceRecord, kind: ChangeKind, *, stored_at: Any = None
    ) -> Ascent | None:
        """Put a record into the place of an instance, which becomes a replaced version; None when somebody else was
        faster."""
        member = added(record)
        member.place = old["place"]
        new = Composer(mark.token).document(record, member, stored_at=stored_at or mark.at, life=old["life"])
        self._large_metadata.put_aside([new])
        copy = copy_of(old, order=self._work.places(mark, 1, after=0), replaced_at=mark.at)
        self._connection.safe("replaced").replace_one({"_id": copy["_id"]}, copy, upsert=True)
        if not self._swap(old, new):
            self._large_metadata.delete([new["metadata_key"]] if new.get("metadata_key") else [])
            self._forget_copy(copy)
            return None
        ascent = Ascent(self._connection, self._work, mark.token)
        touched: dict[str, set[str]] = {}
        for doc in (old, new):
            touched.setdefault(doc["study"], set()).add(doc["series"])
        for study_uid, series_uids in touched.items():
            ascent.derive_series(study_uid, series_uids)
        entries = [_entry(kind, new)]
        if (old["study"], old["series"]) != (new["study"], new["series"]):
            entries.insert(0, _entry(ChangeKind.REMOVED, old))
        self._feed.tell(entries, condition={"attempt": mark.token})
        return ascent

    def _swap(self, old: Doc, new: Doc) -> bool:
        instances = self._connection.safe("instances")
        same = {"_id": old["_id"], "v": old["v"], "gone": None}
        try:
            return instances.replace_one(same, new).matched_count == 1
        except (ConnectionFailure, WTimeoutError):
            found = instances.find_one({"_id": old["_id"]}, {"v": 1})
            if found is None or found["v"] != new["v"]:
                raise
            instances.update_one({"_id": old["_id"], "v": new["v"]}, {"$set": {"attempt": new["attempt"]}})
            return True

    def _forget_copy(self, copy: Doc) -> None:
        """A copy for a replacement that did not happen. Another replacement may have made it its own."""
        instances = self._connection.safe("instances")
        current = instances.find_one({"_id": copy["uid"]}, {"study": 1, "life": 1, "gone": 1})
        if current is not None and current.get("gone"):
            self._remover.resolve(current["study"], current["gone"])
            current = instances.find_one({"_id": copy["uid"]}, {"life": 1})
        if current is None or current["life"] != copy["life"]:
            self._connection.safe("replaced").delete_one({"_id": copy["_id"]})


class _Wave:
    """Records of different instances, stored together."""

    def __init__(self, writer: Writer, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> None:
        self._writer = writer
        self._connection = writer._connection
        self._work = writer._work
        self._records = records
        self._replaces = on_duplicate is OnDuplicate.REPLACE
        self._outcomes: dict[int, StoreOutcome] = {}

    def run(self) -> dict[int, StoreOutcome]:
        """The outcomes by place; those that are missing must be tried again."""
        self._prepare()
        new, other, same = [], [], []
        for index, record in enumerate(self._records):
            doc = self._known.get(record.instance_uid)
            if doc is None and record.replaces is not None:
                self._end(index, Stored.REFUSED)
            elif doc is None:
                new.append(index)
            elif doc.get("gone"):
                self._writer._remover.resolve(doc["study"], doc["gone"])
            elif _is_same(doc, record):
                same.append(index)
            elif self._replaces and _may_replace(doc, record):
                other.append(index)
            else:
                self._end(index, Stored.REFUSED)
        if new:
            self._create(new)
        self._work.unmark(self._mark.token)
        self._confirm(same)
        for index in other:
            self._replace(index)
        return self._outcomes

    def _prepare(self) -> None:
        """All that must be known, or be safe, before an instance is written: in the time of one round trip."""
        self._started = time.monotonic()
        token = new_token()
        self._ascent = Ascent(self._connection, self._work, token)
        self._members = [added(record) for record in self._records]
        studies = {record.study_uid for record in self._records}
        patients = patients_of(self._members)
        self._mark, self._known, *_ = self._connection.together(
            partial(self._work.mark, studies, token, patients=patients),
            self._find_known,
            *self._ascent.look(self._members, patients),
        )

    def _find_known(self) -> dict[str, Doc]:
        uids = [record.instance_uid for record in self._records]
        found = self._connection.safe("instances").find({"_id": {"$in": uids}}, _KNOWN)
        return {doc["_id"]: doc for doc in found}

    def _end(self, index: int, stored: Stored, found: tuple[str, ...] = ()) -> None:
        uid = self._records[index].instance_uid
        self._outcomes[index] = StoreOutcome(stored=stored, instance_uid=uid, conflicts=found)

    # What is there already

    def _confirm(self, same: Sequence[int]) -> None:
        """Another writer may have stored it a moment ago, and not be done: what is answered here must be safe, and
        counted."""
        if not same:
            return
        attempts = {self._known[self._records[index].instance_uid]["attempt"] for index in same}
        marks = self._connection.safe("work").find({"_id": {"$in": sorted(attempts)}, "kind": "mark"})
        for mark in list(marks):
            for study_uid in mark["studies"]:
                Ascent(self._connection, self._work, mark["_id"]).derive_study(study_uid, mark["patients"])
        # Changes nothing, but the answer waits until the majority has everything before it on disk.
        operations = [
            UpdateOne(
                {"_id": record.instance_uid, "blob.sha256": record.blob.sha256, "gone": None},
                {"$set": {"blob.sha256": record.blob.sha256}},
            )
            for record in (self._records[index] for index in same)
        ]
        result = self._connection.safe("instances").bulk_write(operations, ordered=False)
        if result.matched_count == len(same):  # else one was removed or replaced: all are looked at again
            for index in same:
                self._end(index, Stored.SAME)

    # New instances

    def _create(self, indexes: Sequence[int]) -> None:
        token = self._mark.token
        composer = Composer(token)
        members = [self._members[index] for index in indexes]
        first = self._work.places(self._mark, len(indexes), after=self._ascent.newest)
        docs = []
        for place, (index, member) in enumerate(zip(indexes, members, strict=True), first):
            member.place = place
            docs.append(composer.document(self._records[index], member, stored_at=self._mark.at))
        self._writer._large_metadata.put_aside(docs)
        if time.monotonic() - self._started > LEASE_SECONDS / 2:
            return
        ours = insert(self._connection, docs, token)
        if len(ours) < len(docs):
            self._writer._large_metadata.delete(
                [doc["metadata_key"] for place, doc in enumerate(docs) if place not in ours and doc.get("metadata_key")]
            )
        if not ours:
            return
        entries = [_entry(ChangeKind.STORED, docs[place]) for place in ours]
        self._tell_above([members[place] for place in ours], entries)
        found = _conflicts(self._ascent, [(docs[place], members[place].shown) for place in ours])
        for place, tags in zip(ours, found, strict=True):
            self._end(indexes[place], Stored.CREATED, tags)

    def _tell_above(self, members: list[Added], entries: list[Entry]) -> None:
        """Let the levels above and the change feed know of new instances; mostly in the time of three round trips."""
        feed, ascent, condition = self._writer._feed, self._ascent, {"attempt": self._mark.token}
        steps = ascent.steps(members)
        if not steps:
            ascent.add(members)
            feed.tell(entries, condition=condition)
            return
        *made, numbers = self._connection.together(*steps, partial(feed.take, len(entries)))
        settled, true = self._connection.together(
            partial(ascent.is_settled, made), partial(feed.still_true, entries, condition)
        )
        refused = feed.write(numbers, true)
        if not settled or (ascent.inserts and len(true) < len(entries)):
            ascent.derive_all(members)
        feed.tell(refused, condition=condition)

    # Replacing

    def _replace(self, index: int) -> None:
        record = self._records[index]
        old = self._connection.safe("instances").find_one({"_id": record.instance_uid})
        if old is None or old.get("gone") or _is_same(old, record):
            return
        if not _may_replace(old, record):
            self._end(index, Stored.REFUSED)
            return
        mark = self._work.mark({old["study"], record.study_uid})
        ascent = self._writer._take_place(mark, old, record, ChangeKind.REPLACED)
        if ascent is not None:
            doc = {"study": record.study_uid, "series": record.series_uid, "group": ""}
            (tags,) = _conflicts(ascent, [(doc, select(record.attributes, Level.SERIES))])
            self._end(index, Stored.REPLACED, tags)
        self._work.unmark(mark.token)


def insert(connection: Connection, docs: Sequence[Doc], token: str) -> list[int]:
    """Insert documents of instances; gives the places of those that are there now by this attempt."""
    instances = connection.safe("instances")
    left = list(range(len(docs)))
    for last in (False, True):
        try:
            instances.insert_many([docs[place] for place in left], ordered=False)
            return list(range(len(docs)))
        except BulkWriteError as error:
            if not is_duplicate(error):
                raise
            break
        except ConnectionFailure:
            # Whether it happened is read back, and what did not is sent once more: it cannot happen twice.
            if last:
                raise
            left = sorted(set(left) - set(_present(connection, docs, token)))
            if not left:
                break
    # By this write, too, everything before it is safe.
    instances.update_one({"_id": docs[0]["_id"], "attempt": token}, {"$set": {"attempt": token}})
    return _present(connection, docs, token)


def _present(connection: Connection, docs: Sequence[Doc], token: str) -> list[int]:
    uids = [doc["_id"] for doc in docs]
    found = connection.safe("instances").find({"_id": {"$in": uids}, "attempt": token}, {"_id": 1})
    present = {doc["_id"] for doc in found}
    return [place for place, uid in enumerate(uids) if uid in present]


def _is_same(doc: Doc, record: InstanceRecord) -> bool:
    known = (doc["blob"]["sha256"], doc["study"], doc["series"])
    return known == (record.blob.sha256, record.study_uid, record.series_uid)


def _may_replace(doc: Doc, record: InstanceRecord) -> bool:
    return record.replaces is None or record.replaces == doc["blob"]["key"]


def _entry(kind: ChangeKind, doc: Doc) -> Entry:
    return Entry(kind=kind, study_uid=doc["study"], series_uid=doc["series"], instance_uid=doc["_id"])


def _conflicts(ascent: Ascent, stored: Iterable[tuple[Doc, Attributes]]) -> list[tuple[str, ...]]:
    """Of attributes of patient and study with what the study shows, of the series' with what that shows."""
    known: dict[tuple[str, str, str], tuple[str, ...]] = {}
    found = []
    for doc, shown in stored:
        key = (doc["study"], doc["series"], doc["group"])
        if key not in known:
            own_study = select(shown, Level.STUDY)
            own_series = {tag: value for tag, value in shown.items() if tag not in own_study}
            by_study = conflicts(ascent.shown(Level.STUDY, doc["study"]), own_study)
            by_series = conflicts(ascent.shown(Level.SERIES, series_id(doc["study"], doc["series"])), own_series)
            known[key] = tuple(sorted(by_study + by_series))
        found.append(known[key])
    return found
