"""Moving an archive: everything out, and everything in. Nobody else writes meanwhile."""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
from pymongo import ReplaceOne

from backends.mongodb.binned import EPOCH, Bin, behind
from backends.mongodb.connection import Connection, Doc
from backends.mongodb.derived import Ascent
from backends.mongodb.documents import Documents
from backends.mongodb.errors import driver_errors
from backends.mongodb.feed import Feed
from backends.mongodb.instances import Composer, LargeMetadata, added, bin_entry, copy_of, stored_instance
from backends.mongodb.removing import Remover
from backends.mongodb.summing import patients_of
from backends.mongodb.work import Work
from dicomweb_server.errors import BadRequest, StorageError
from dicomweb_server.storage.packing import record_of
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinnedEntry,
    ChangeEntry,
    ChangeKind,
    DocumentEntry,
    InstanceEntry,
    ReplacedEntry,
)

_PAGE = 100
_NOTE = "load"

Position = list[Any]
Entries = Iterator[tuple[Position, ArchiveEntry]]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "instances": (int, str),
    "replaced": (str, int, str, int),
    "binned": (int, str, int),
    "changes": (int, int),
    "documents": (str, str, int),
}
"""The parts in the order of `Storage.dump`, and what a position in them consists of."""


class Mover:
    """`Storage.dump`, `load` and `loaded`."""

    def __init__(
        self,
        connection: Connection,
        work: Work,
        feed: Feed,
        remover: Remover,
        large_metadata: LargeMetadata,
        documents: Documents,
        bin: Bin,
    ) -> None:
        self._connection = connection
        self._work = work
        self._feed = feed
        self._remover = remover
        self._large_metadata = large_metadata
        self._documents = documents
        self._bin = bin

    # Out

    def dump(self, after: str | None) -> Iterator[tuple[str, ArchiveEntry]]:
        """As `Storage.dump`."""
        self._connection.database  # noqa: B018 - raises when closed
        part, position = _decoded(after) if after is not None else ("instances", [])
        return self._entries(part, position)

    def _entries(self, first: str, position: Position) -> Iterator[tuple[str, ArchiveEntry]]:
        dumps: dict[str, Callable[[Position], Entries]] = {
            "instances": self._instances,
            "replaced": self._replaced,
            "binned": self._binned,
            "changes": self._changes,
            "documents": self._dump_documents,
        }
        parts = list(_TYPES)
        for part in parts[parts.index(first) :]:
            entries = dumps[part](position if part == first else [])
            while True:
                with driver_errors():
                    found = next(entries, None)
                if found is None:
                    break
                yield _encoded(part, found[0]), found[1]

    def _instances(self, position: Position) -> Entries:
        while True:
            condition = _behind(("place", "_id"), position)
            docs = list(
                self._connection.safe("instances").find(condition).sort([("place", 1), ("_id", 1)]).limit(_PAGE)
            )
            removed = self._work.removed(docs)
            for doc in docs:
                position = [doc["place"], doc["_id"]]
                if doc["_id"] not in removed:
                    instance = stored_instance(doc, doc["_id"])
                    yield position, InstanceEntry(instance=instance, metadata=self._large_metadata.of(doc))
            if len(docs) < _PAGE:
                return

    def _replaced(self, position: Position) -> Entries:
        after, number = position[:3], position[3] if position else 0
        fields = ("uid", "order", "_id")
        while True:
            found = self._connection.safe("replaced").find(_behind(fields, after)).sort([(name, 1) for name in fields])
            docs = list(found.limit(_PAGE))
            for doc in self._bin.true_versions(docs):
                number += 1
                yield (
                    [doc["uid"], doc["order"], doc["_id"], number],
                    ReplacedEntry(
                        number=number,
                        instance=stored_instance(doc, doc["uid"]),
                        metadata=self._large_metadata.of(doc),
                        replaced_at=doc["replaced_at"],
                    ),
                )
            if len(docs) < _PAGE:
                return
            after = [docs[-1][name] for name in fields]

    def _binned(self, position: Position) -> Entries:
        number = position[2] if position else 0
        condition: Doc = {"purged_at": None}
        if position:
            condition.update(behind(EPOCH + timedelta(milliseconds=position[0]), position[1]))
        while True:
            docs = list(
                self._connection.safe("binned").find(condition).sort([("binned_at", 1), ("_id", 1)]).limit(_PAGE)
            )
            for doc in self._bin.true_entries(docs):
                number += 1
                entry = BinnedEntry(
                    number=number,
                    instance=stored_instance(doc, doc["uid"]),
                    metadata=self._large_metadata.of(doc),
                    binned_at=doc["binned_at"],
                    older=self._older(doc),
                )
                yield [(doc["binned_at"] - EPOCH) // timedelta(milliseconds=1), doc["_id"], number], entry
            if len(docs) < _PAGE:
                return
            condition.update(behind(docs[-1]["binned_at"], docs[-1]["_id"]))

    def _older(self, entry: Doc) -> list[ReplacedEntry]:
        condition = {"uid": entry["uid"], "life": entry["_id"], "blob.key": {"$ne": entry["blob"]["key"]}}
        found = self._connection.safe("replaced").find(condition).sort([("order", 1), ("_id", 1)])
        return [
            ReplacedEntry(
                number=number,
                instance=stored_instance(doc, doc["uid"]),
                metadata=self._large_metadata.of(doc),
                replaced_at=doc["replaced_at"],
            )
            for number, doc in enumerate(found, 1)
        ]

    def _changes(self, position: Position) -> Entries:
        after, number = position or (0, 0)
        for doc in self._feed.pages(after):
            number += 1
            yield (
                [doc["_id"], number],
                ChangeEntry(
                    number=number,
                    kind=ChangeKind(doc["kind"]),
                    study_uid=doc["study"],
                    series_uid=doc["series"],
                    instance_uid=doc["instance"],
                    changed_at=doc["at"],
                ),
            )

    def _dump_documents(self, position: Position) -> Entries:
        kind, document_id, version = position or ("", "", 0)
        for document in self._documents.all_versions((kind, document_id, version)):
            yield [document.kind, document.document_id, document.version], DocumentEntry(document=document)

    # In

    def load(self, entries: Sequence[ArchiveEntry], note: str) -> None:
        """As `Storage.load`."""
        self._remover.finish_silent_marks()
        self._load_instances([entry for entry in entries if isinstance(entry, InstanceEntry)])
        self._load_replaced([entry for entry in entries if isinstance(entry, ReplacedEntry)])
        self._load_binned([entry for entry in entries if isinstance(entry, BinnedEntry)])
        changes = [entry for entry in entries if isinstance(entry, ChangeEntry)]
        if changes:
            self._feed.load(changes)
        for entry in entries:
            if isinstance(entry, DocumentEntry):
                self._documents.load(entry.document)
        self._connection.safe("archive").update_one({"_id": _NOTE}, {"$set": {"note": note}}, upsert=True)

    def loaded(self) -> str | None:
        """As `Storage.loaded`."""
        found = self._connection.safe("archive").find_one({"_id": _NOTE})
        return str(found["note"]) if found else None

    def _load_instances(self, entries: Sequence[InstanceEntry]) -> None:
        uids = [entry.instance.instance_uid for entry in entries]
        known = set(self._connection.safe("instances").distinct("_id", {"_id": {"$in": uids}})) if uids else set()
        wanted = {entry.instance.instance_uid: entry for entry in entries if entry.instance.instance_uid not in known}
        if not wanted:
            return
        mark = self._work.mark({entry.instance.study_uid for entry in wanted.values()}, silent=True)
        ascent, composer = Ascent(self._connection, self._work, mark.token), Composer(mark.token)
        records = [record_of(entry.instance, entry.metadata) for entry in wanted.values()]
        members = [added(record) for record in records]
        self._connection.together(*ascent.look(members, patients_of(members)))
        docs = []
        first = self._work.places(mark, len(members), after=ascent.newest)
        for place, (record, member, entry) in enumerate(zip(records, members, wanted.values(), strict=True), first):
            member.place = place
            docs.append(composer.document(record, member, stored_at=entry.instance.stored_at))
        self._large_metadata.put_aside(docs)
        # One after the other: should only some arrive, the rest comes behind them.
        self._connection.safe("instances").insert_many(docs, ordered=True)
        ascent.add(members)
        self._work.unmark(mark.token)

    def _load_replaced(self, entries: Sequence[ReplacedEntry]) -> None:
        if not entries:
            return
        uids = sorted({entry.instance.instance_uid for entry in entries})
        found = self._connection.safe("instances").find({"_id": {"$in": uids}}, {"life": 1, "place": 1})
        current = {doc["_id"]: doc for doc in found}
        docs = []
        for entry in entries:
            instance = entry.instance
            if instance.instance_uid not in current:
                raise StorageError("An older version of an instance came before the instance.")
            life = current[instance.instance_uid]["life"]
            version = f"loaded.{entry.number}"
            docs.append(copy_of(_version(entry, version, life), order=entry.number, replaced_at=entry.replaced_at))
        self._put("replaced", docs)

    def _load_binned(self, entries: Sequence[BinnedEntry]) -> None:
        older, docs = [], []
        for entry in entries:
            life = f"loaded-bin.{entry.number}"
            # Without a place: it gets the last one when it is restored.
            docs.append(bin_entry({**_version(entry, life, life), "place": None}, binned_at=entry.binned_at))
            for one in entry.older:
                doc = _version(one, f"{life}.{one.number}", life)
                older.append(copy_of(doc, order=one.number, replaced_at=one.replaced_at))
        self._put("replaced", older)
        self._put("binned", docs)

    def _put(self, name: str, docs: Sequence[Doc]) -> None:
        if docs:
            self._large_metadata.put_aside(docs)
            operations = [ReplaceOne({"_id": doc["_id"]}, doc, upsert=True) for doc in docs]
            self._connection.safe(name).bulk_write(operations, ordered=False)


def _version(entry: ReplacedEntry | BinnedEntry, version: str, life: str) -> Doc:
    """The document of an instance for a version that is not current."""
    record = record_of(entry.instance, entry.metadata)
    doc = Composer(version).document(record, added(record), stored_at=entry.instance.stored_at, life=life)
    return {**doc, "v": version}


def _behind(fields: Sequence[str], position: Position) -> Doc:
    """The condition on what comes behind a position in the order of the fields."""
    if not position:
        return {}
    ways = []
    for place, name in enumerate(fields):
        same = dict(zip(fields[:place], position, strict=False))
        ways.append({**same, name: {"$gt": position[place]}})
    return {"$or": ways}


def _encoded(part: str, position: Position) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([part, *position])).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[str, Position]:
    try:
        part, *position = orjson.loads(base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)))
        kinds = _TYPES[part]
    except (ValueError, KeyError, TypeError):
        kinds, position, part = (), [None], ""
    if len(position) != len(kinds) or any(type(one) is not kind for one, kind in zip(position, kinds, strict=True)):
        raise BadRequest("The cursor is not one that this archive gave.")
    return part, position
