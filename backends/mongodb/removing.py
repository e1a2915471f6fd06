"""Removing, all or nothing; and finishing what a process that died left behind."""

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError, PyMongoError, WTimeoutError

from backends.mongodb import releasing
from backends.mongodb.connection import Connection, Doc
from backends.mongodb.derived import Ascent
from backends.mongodb.errors import is_duplicate
from backends.mongodb.feed import Entry, Feed
from backends.mongodb.instances import LargeMetadata, bin_entry
from backends.mongodb.work import (
    LEASE_SECONDS,
    READ_AFTER_SECONDS,
    TAGGING_SECONDS,
    Work,
    intent_id,
    new_token,
    older_than,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageUnavailable
from dicomweb_server.storage.records import ChangeKind, Removed, Scope

_BATCH = 500
_KEPT_BATCH = 100
_WAIT_SECONDS = 20.0
_PAUSE_SECONDS = 0.01


class Remover:
    """Removals, and the open ends of others in the collection `work`."""

    def __init__(self, connection: Connection, work: Work, feed: Feed, large_metadata: LargeMetadata) -> None:
        self._connection = connection
        self._work = work
        self._feed = feed
        self._large_metadata = large_metadata

    # Removing

    def remove(self, scope: Scope, *, keep: bool) -> Removed:
        """As `Storage.remove`: a scope without a study means every study that has such a series or instance."""
        removed = [found for uid in self._studies(scope) if (found := self._remove_of(uid, scope, keep=keep))]
        if not removed:
            raise scope.not_found()
        return Removed(
            studies=sum(one.studies for one in removed),
            series=sum(one.series for one in removed),
            instances=sum(one.instances for one in removed),
        )

    def _studies(self, scope: Scope) -> list[str]:
        if scope.study_uid is not None:
            return [scope.study_uid]
        return sorted(self._connection.safe("instances").distinct("study", condition_of(scope)))

    def _remove_of(self, study_uid: str, scope: Scope, *, keep: bool) -> Removed | None:
        intent = self._begin(study_uid, keep=keep)
        token = intent["token"]
        try:
            series, number = self._tag({**condition_of(scope), "study": study_uid}, token)
            if number:
                self._commit(study_uid, token)
        except BaseException:
            with suppress(PyMongoError):
                self._withdraw(study_uid, token)
            raise
        if not number:
            self._withdraw(study_uid, token)
            return None
        self.finish(intent)
        left = self._connection.safe("series").count_documents({"study": study_uid, "uid": {"$in": series}})
        studies = 0 if self._connection.safe("studies").find_one({"_id": study_uid}, {"_id": 1}) else 1
        return Removed(studies=studies, series=len(series) - left, instances=number)

    def _tag(self, inside: Doc, token: str) -> tuple[list[str], int]:
        """Tag what is to go; gives its series and its number."""
        instances = self._connection.safe("instances")
        self._finish_marks([inside["study"]])
        tag = {"$set": {"gone": token}}
        instances.update_many({**inside, "gone": None}, tag)
        instances.update_many({**inside, "gone": {"$nin": [None, token]}}, tag)  # of removals that were given up
        return instances.distinct("series", {"gone": token}), instances.count_documents({"gone": token})

    def _withdraw(self, study_uid: str, token: str) -> None:
        """Take back a removal that is not committed."""
        condition = {"_id": intent_id(study_uid), "token": token, "state": "tagging"}
        if self._connection.safe("work").delete_one(condition).deleted_count:
            self._untag(token)

    def _begin(self, study_uid: str, *, keep: bool) -> Doc:
        """Write the intent; whoever removes in this study already comes first."""
        token = new_token()
        fields = {
            "kind": "removal",
            "study": {"$literal": study_uid},
            "token": token,
            "state": "tagging",
            "patients": [],
            "at": "$$NOW",
            "keep": keep,
        }
        while True:
            condition = {"_id": intent_id(study_uid), "token": token}
            try:
                intent = self._connection.safe("work").find_one_and_update(
                    condition, [{"$set": fields}], upsert=True, return_document=ReturnDocument.AFTER
                )
                return dict(intent or {})
            except DuplicateKeyError:
                other = self._connection.safe("work").find_one({"_id": intent_id(study_uid)})
                if other is not None:
                    self.resolve(study_uid, other["token"])

    def _commit(self, study_uid: str, token: str) -> None:
        condition = {"_id": intent_id(study_uid), "token": token}
        work = self._connection.safe("work")
        try:
            result = work.update_one({**condition, "state": "tagging"}, {"$set": {"state": "committed"}})
            committed = result.matched_count == 1
        except (ConnectionFailure, WTimeoutError):
            found = work.find_one(condition)
            if found is None or found["state"] != "committed":
                raise
            work.update_one(condition, {"$set": {"state": "committed"}})
            committed = True
        if not committed:  # this process was stopped for so long that another gave the removal up
            self._untag(token)
            raise StorageUnavailable("The removal took too long and was given up.", retry_after_seconds=1)

    def finish(self, intent: Doc) -> None:
        """Do what follows a committed removal. Safe to repeat, and to be done by several at once."""
        study_uid, token = intent["study"], intent["token"]
        self.derive(intent)
        instances = self._connection.safe("instances")
        keep = intent.get("keep", False)
        fields = None if keep else {"study": 1, "series": 1, "blobs": 1, "life": 1, "metadata_key": 1}
        while docs := list(instances.find({"gone": token}, fields).limit(_KEPT_BATCH if keep else _BATCH)):
            entries = [
                Entry(kind=ChangeKind.REMOVED, study_uid=study_uid, series_uid=doc["series"], instance_uid=doc["_id"])
                for doc in docs
            ]
            self._feed.tell(entries, condition={"gone": token}, gone=token)
            if keep:
                self._put_in_bin(docs, intent["at"])
            else:
                self._let_go(docs)
            instances.delete_many({"_id": {"$in": [doc["_id"] for doc in docs]}, "gone": token})
        self._connection.safe("work").delete_one({"_id": intent["_id"], "token": token})

    def derive(self, intent: Doc) -> None:
        """Let series, study and patients show that the removal happened."""
        ascent = Ascent(self._connection, self._work, intent["_id"])
        ascent.derive_study(intent["study"], intent.get("patients", ()))
        self._connection.safe("work").update_one(
            {"_id": intent["_id"], "token": intent["token"]}, {"$set": {"derived": True}}
        )

    def _put_in_bin(self, docs: list[Doc], at: datetime) -> None:
        """Entries of the bin; those that were purged since another process did this are not made again."""
        entries = [bin_entry(doc, binned_at=at) for doc in docs]
        operations = [
            # Not None: an upsert would write that down.
            UpdateOne({"_id": entry["_id"], "purged_at": {"$exists": False}}, {"$set": entry}, upsert=True)
            for entry in entries
        ]
        try:
            self._connection.safe("binned").bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            if not is_duplicate(error):
                raise

    def _let_go(self, docs: list[Doc]) -> None:
        """Queue the blobs of instances and of their older versions, and delete these."""
        lives = {doc["_id"]: doc["life"] for doc in docs}
        versions = [
            copy
            for copy in self._connection.safe("replaced").find(
                {"uid": {"$in": list(lives)}}, {"uid": 1, "blobs": 1, "life": 1, "metadata_key": 1}
            )
            if copy["life"] == lives[copy["uid"]]  # else of an instance that was stored after this removal
        ]
        releasing.queue(self._connection, (key for doc in (*docs, *versions) for key in doc["blobs"]))
        self._large_metadata.delete([doc["metadata_key"] for doc in (*docs, *versions) if doc.get("metadata_key")])
        self._connection.safe("replaced").delete_many({"_id": {"$in": [copy["_id"] for copy in versions]}})
        # What is left in the bin of instances that were restored.
        self._connection.safe("binned").delete_many({"_id": {"$in": list(lives.values())}, "purged_at": None})

    # Meeting the removal of another

    def resolve(self, study_uid: str, token: str) -> None:
        """Wait for a removal, finish it, or give it up; afterwards no instance has its tag any more."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            condition = {"_id": intent_id(study_uid), "token": token}
            intent = self._connection.safe("work").find_one(condition)
            if intent is None:
                self._untag(token)
                return
            if intent["state"] == "committed":
                self.finish(intent)
                return
            if self._give_up(intent):
                return
            time.sleep(_PAUSE_SECONDS)
        raise StorageUnavailable("The study is being removed.", retry_after_seconds=2)

    def _give_up(self, intent: Doc) -> bool:
        """End a removal that never was committed, and whose process must have died."""
        condition = {"_id": intent["_id"], "token": intent["token"], "state": "tagging", **older_than(TAGGING_SECONDS)}
        if self._connection.safe("work").delete_one(condition).deleted_count == 0:
            return False
        self._untag(intent["token"])
        return True

    def _untag(self, token: str) -> None:
        self._connection.safe("instances").update_many({"gone": token}, {"$unset": {"gone": ""}})

    # Open ends

    def settle(self) -> set[str]:
        """Before reading: let everything that happened be shown, also where the process that did it died. One round
        trip when there is nothing to do. Gives the tags of instances that are removed but still there."""
        old = {"kind": "mark", "checked": None, **older_than(READ_AFTER_SECONDS)}
        found = list(self._connection.safe("work").find({"$or": [{"state": "committed"}, old]}).limit(_BATCH))
        gone = set()
        for doc in found:
            if doc["kind"] == "mark":
                self._check(doc)
                continue
            gone.add(doc["token"])
            if not doc.get("derived"):
                self.derive(doc)
        return gone

    def sweep(self) -> None:
        """Finish what processes that died left."""
        work = self._connection.safe("work")
        for mark in list(work.find({"kind": "mark", **older_than(LEASE_SECONDS)}).limit(_BATCH)):
            self._check(mark)
            self._large_metadata.sweep(mark["_id"])
            self._work.unmark(mark["_id"])
        for intent in list(work.find({"kind": "removal", **older_than(READ_AFTER_SECONDS)}).limit(_BATCH)):
            if intent["state"] == "committed":
                self.finish(intent)
            else:
                self._give_up(intent)

    def finish_silent_marks(self) -> None:
        """What a load that was interrupted left; nobody else writes meanwhile."""
        for mark in list(self._connection.safe("work").find({"kind": "mark", "silent": True})):
            self._check(mark)
            self._work.unmark(mark["_id"])

    def _finish_marks(self, studies: list[str]) -> None:
        for mark in self._work.open_marks(older_than_seconds=READ_AFTER_SECONDS, studies=studies):
            self._check(mark)

    def _check(self, mark: Doc) -> None:
        """Derive what a mark stands for, and tell of what was stored under it."""
        ascent = Ascent(self._connection, self._work, mark["_id"])
        studies = mark.get("studies", ())
        for study_uid in studies:
            ascent.derive_study(study_uid)
        for patient in mark.get("patients", ()):
            ascent.derive(Level.PATIENT, patient)
        if not mark.get("silent"):
            entries = list(self._stored_under(mark["_id"], studies, mark.get("tells", "")))
            self._feed.tell(entries, condition={"attempt": mark["_id"]})
        self._connection.safe("work").update_one({"_id": mark["_id"]}, {"$set": {"checked": True}})

    def _stored_under(self, token: str, studies: Iterable[str], tells: str) -> Iterable[Entry]:
        found = self._connection.safe("instances").find(
            {"study": {"$in": list(studies)}, "attempt": token}, {"study": 1, "series": 1, "life": 1, "kind": 1}
        )
        for doc in found:
            created = doc["life"].startswith(f"{token}.")
            yield Entry(
                kind=ChangeKind(tells) if tells else ChangeKind.STORED if created else ChangeKind.REPLACED,
                study_uid=doc["study"],
                series_uid=doc["series"],
                instance_uid=doc["_id"],
            )


def condition_of(scope: Scope) -> Doc:
    """The condition on instances that a scope means."""
    named = {"study": scope.study_uid, "series": scope.series_uid, "_id": scope.instance_uid}
    return {name: uid for name, uid in named.items() if uid is not None}
