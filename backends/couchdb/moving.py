"""Moving an archive: all documents as entries, and entries as documents.

An instance that was moved here carries no history: the changes that are moved have documents of their own, `moved:` and
their number. The feed is ordered by the first number of an entry, which must be larger than that of the entry before,
also where many things happened at the same time; the time itself stands behind.
"""

import hashlib
from collections.abc import Iterator, Sequence

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from backends.couchdb.derive import Deriver, attempts
from backends.couchdb.documents import Documents
from backends.couchdb.entities import Header
from backends.couchdb.inflight import InFlight
from backends.dumping import Key, Part
from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.packing import record_of
from dicomweb_server.storage.records import (
    ArchiveEntry,
    ChangeEntry,
    ChangeKind,
    DocumentEntry,
    InstanceEntry,
    InstanceRecord,
    ReplacedEntry,
)

PAGE = 100
_NOTE = "moving"


class Moving:
    """Reads and writes everything."""

    def __init__(
        self,
        records: Database,
        archive: Database,
        others: Documents,
        deriver: Deriver,
        inflight: InFlight,
        clock: keys.Clock,
    ) -> None:
        self._records = records
        self._archive = archive
        self._documents = others
        self._deriver = deriver
        self._inflight = inflight
        self._clock = clock

    # Reading

    def parts(self) -> list[Part]:
        """What `dump` gives."""
        numbered = (int, str)
        return [
            Part(numbered, self._instances),
            Part(numbered, self._replaced),
            Part(numbered, self._changes),
            Part((str, str, int), self._all_documents),
        ]

    def _pages(self, view: str, after: Key | None, *, include_docs: bool) -> Iterator[list[Json]]:
        """The rows of a view behind a key."""
        start = [] if after is None else list(after)
        for rows in self._records.pages(view, size=PAGE, startkey=start, include_docs=include_docs):
            yield [row for row in rows if _key(row) != after]

    def _instances(self, after: Key | None, _number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("moving/instances", after, include_docs=True):
            found = [row["doc"] for row in rows if row.get("doc")]
            for document, packed in zip(found, documents.deflated(self._records, found), strict=True):
                entry = InstanceEntry(instance=documents.stored_instance(document), metadata=packed)
                yield (int(document["seq"]), document["uid"]), entry

    def _replaced(self, after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("moving/replaced", after, include_docs=True):
            found = [row["doc"] for row in rows if row.get("doc")]
            current = self._records.get_many(list({documents.instance_id(old["uid"]) for old in found}))
            found = [old for old in found if _is_older(old, current.get(documents.instance_id(old["uid"])))]
            for old, packed in zip(found, documents.deflated(self._records, found), strict=True):
                number += 1
                entry = ReplacedEntry(
                    number=number,
                    instance=documents.stored_instance(old),
                    metadata=packed,
                    replaced_at=documents.moment(old["replaced_at"]),
                )
                yield (int(old["replaced_at"]), old["_id"]), entry

    def _changes(self, after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("history/feed", after, include_docs=False):
            for row in rows:
                number += 1
                place, uid = _key(row)
                kind, study, series, *moved = row["value"]
                entry = ChangeEntry(
                    number=number,
                    kind=ChangeKind(kind),
                    study_uid=study,
                    series_uid=series,
                    instance_uid=uid,
                    changed_at=documents.moment(moved[0] if moved else place),
                )
                yield (place, uid), entry

    def _all_documents(self, after: Key | None, _number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        start = None if after is None else (after[0], after[1], after[2])
        for document in self._documents.dump(start):
            key = (document.kind, document.document_id, document.version)
            yield key, DocumentEntry(document=document)

    # Writing

    def load(self, entries: Sequence[ArchiveEntry], note: str) -> None:
        """As `Storage.load`. The note comes last: a batch without it is loaded again."""
        self._load_instances([entry for entry in entries if isinstance(entry, InstanceEntry)])
        self._load_replaced([entry for entry in entries if isinstance(entry, ReplacedEntry)])
        self._load_changes([entry for entry in entries if isinstance(entry, ChangeEntry)])
        for entry in entries:
            if isinstance(entry, DocumentEntry):
                self._documents.load(entry.document)
        for _ in attempts():
            there = self._records.get(_NOTE)
            revision = {} if there is None else {"_rev": there["_rev"]}
            if self._records.put({"_id": _NOTE, "type": _NOTE, "note": note, **revision}):
                return

    def loaded(self) -> str | None:
        """As `Storage.loaded`."""
        there = self._records.get(_NOTE)
        return None if there is None else str(there["note"])

    def _load_instances(self, entries: Sequence[InstanceEntry]) -> None:
        if not entries:
            return
        series: dict[str, set[str]] = {}
        for entry in entries:
            series.setdefault(entry.instance.study_uid, set()).add(entry.instance.series_uid)
        ids = [documents.instance_id(entry.instance.instance_uid) for entry in entries]
        there = self._records.get_many(ids)
        headers: dict[str, Header] = {}
        parts: list[Json] = []
        made: list[Json] = []
        for document_id, entry in zip(ids, entries, strict=True):
            if document_id in there:
                continue
            record = record_of(entry.instance, entry.metadata)
            header = _header(record)
            headers[header.digest] = header
            attempt = _attempt(record.instance_uid)
            document = documents.instance_document(record, header.digest, attempt, self._clock.next())
            stored_at = documents.microseconds(entry.instance.stored_at)
            made.append({**document, "stored_at": stored_at, "entries": []})
            parts += documents.part_documents(record, attempt)
        with self._inflight.writing(set(series)):
            self._archive.write([header.document() for header in headers.values()])
            self._records.write(parts)
            self._records.write(made)
            # Also those that were there: who loaded them may not have come so far.
            self._deriver.settle(series)

    def _load_replaced(self, entries: Sequence[ReplacedEntry]) -> None:
        if not entries:
            return
        current = self._records.get_many(
            list({documents.instance_id(entry.instance.instance_uid) for entry in entries})
        )
        parts: list[Json] = []
        made: list[Json] = []
        for entry in entries:
            instance = current.get(documents.instance_id(entry.instance.instance_uid))
            if instance is None:
                raise StorageCorrupt("An older version came without its instance.")
            record = record_of(entry.instance, entry.metadata)
            # Their order among those of the same moment is that of their names.
            attempt = f"{entry.number:032x}"
            document = documents.instance_document(record, _header(record).digest, attempt, int(instance["seq"]))
            document["stored_at"] = documents.microseconds(entry.instance.stored_at)
            made.append(documents.replaced_document(document, documents.microseconds(entry.replaced_at)))
            parts += documents.part_documents(record, attempt)
        self._records.write(parts)
        self._records.write(made)

    def _load_changes(self, entries: Sequence[ChangeEntry]) -> None:
        if not entries:
            return
        known = self._records.get_many([_moved_id(number) for number in range(entries[0].number - 1, _end(entries))])
        made: list[Json] = []
        for entry in entries:
            if _moved_id(entry.number) in known:
                continue
            before = known.get(_moved_id(entry.number - 1))
            time = documents.microseconds(entry.changed_at)
            place = max(time, before["entries"][0][0] + 1 if before is not None else 0)
            document: Json = {
                "_id": _moved_id(entry.number),
                "type": "moved",
                "uid": entry.instance_uid,
                "entries": [[place, entry.kind.value, entry.study_uid, entry.series_uid, time]],
            }
            known[document["_id"]] = document
            made.append(document)
        self._records.write(made)


def _key(row: Json) -> tuple[int, str]:
    return int(row["key"][0]), str(row["key"][1])


def _is_older(old: Json, current: Json | None) -> bool:
    """Whether the document is a version that readers see."""
    return current is not None and old["attempt"] != current["attempt"] and old["life"] == current["seq"]


def _header(record: InstanceRecord) -> Header:
    return Header.of(
        record.study_uid, record.series_uid, record.sop_class_uid, record.transfer_syntax_uid, record.attributes
    )


def _attempt(instance_uid: str) -> str:
    """A name that is the same when the same is loaded again."""
    return hashlib.sha256(instance_uid.encode()).hexdigest()[:32]


def _moved_id(number: int) -> str:
    return f"moved:{number:012d}"


def _end(entries: Sequence[ChangeEntry]) -> int:
    return entries[-1].number + 1
