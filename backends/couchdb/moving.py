"""Moving an archive: all documents as entries, and entries as documents.

An instance that was moved here carries no history: the changes that are moved have documents of their own, `moved:` and
their number. The feed is ordered by the first number of an entry, which must be larger than that of the entry before,
also where many things happened at the same time; the time itself stands behind.
"""

import hashlib
from collections.abc import Iterator, Sequence

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.binned import Bin
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
    BinnedEntry,
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
        bin: Bin,
        clock: keys.Clock,
    ) -> None:
        self._records = records
        self._archive = archive
        self._documents = others
        self._deriver = deriver
        self._inflight = inflight
        self._bin = bin
        self._clock = clock

    # Reading

    def parts(self) -> list[Part]:
        """What `dump` gives."""
        numbered = (int, str)
        return [
            Part(numbered, self._instances),
            Part(numbered, self._replaced),
            Part(numbered, self._binned),
            Part(numbered, self._changes),
            Part((str, str, int), self._all_documents),
        ]

    def _pages(self, view: str, after: Key | None, *, include_docs: bool) -> Iterator[list[Json]]:
        """The rows of a view behind a key."""
        start = [] if after is None else list(after)
        for rows in self._records.pages(view, size=PAGE, startkey=start, include_docs=include_docs):
            yield [row for row in rows if _key(row) != after]

    def _instances(self, after: Key | None, _number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("rest/stored", after, include_docs=True):
            found = [row["doc"] for row in rows if row.get("doc")]
            for document, packed in zip(found, documents.deflated(self._records, found), strict=True):
                entry = InstanceEntry(instance=documents.stored_instance(document), metadata=packed)
                yield (int(document["seq"]), document["uid"]), entry

    def _replaced(self, after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("rest/replaced", after, include_docs=True):
            found = self._bin.true_versions([row["doc"] for row in rows if row.get("doc")])
            for old, packed in zip(found, documents.deflated(self._records, found), strict=True):
                number += 1
                entry = ReplacedEntry(
                    number=number,
                    instance=documents.stored_instance(old),
                    metadata=packed,
                    replaced_at=documents.moment(old["replaced_at"]),
                )
                yield (int(old["replaced_at"]), old["_id"]), entry

    def _binned(self, after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        start = ["all", "", *(after or ())]
        pages = self._records.pages(
            "rest/binned", size=PAGE, startkey=start, endkey=["all", "", keys.END], include_docs=True
        )
        for rows in pages:
            found = self._bin.true_entries([row["doc"] for row in rows if row.get("doc") and row["key"] != start])
            for entry, packed in zip(found, documents.deflated(self._records, found), strict=True):
                number += 1
                made = BinnedEntry(
                    number=number,
                    instance=documents.stored_instance(entry),
                    metadata=packed,
                    binned_at=documents.moment(entry["binned_at"]),
                    older=self._older(entry),
                )
                yield (int(entry["binned_at"]), documents.entry_name(entry)), made

    def _older(self, entry: Json) -> list[ReplacedEntry]:
        found = [
            old
            for old in self._records.with_prefix(documents.replaced_id(entry["uid"], ""))
            if old["life"] == entry["life"] and old["attempt"] != entry["attempt"]
        ]
        found.sort(key=lambda old: (int(old["replaced_at"]), str(old["_id"])))
        return [
            ReplacedEntry(
                number=number,
                instance=documents.stored_instance(old),
                metadata=packed,
                replaced_at=documents.moment(old["replaced_at"]),
            )
            for number, (old, packed) in enumerate(zip(found, documents.deflated(self._records, found), strict=True), 1)
        ]

    def _changes(self, after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        for rows in self._pages("rest/feed", after, include_docs=False):
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
        self._load_binned([entry for entry in entries if isinstance(entry, BinnedEntry)])
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

    def _load_binned(self, entries: Sequence[BinnedEntry]) -> None:
        """An entry is told by its attempt: its life, which is the place that it will have, is a new one."""
        for entry in entries:
            record = record_of(entry.instance, entry.metadata)
            attempt = _binned_attempt(entry.number, 0)
            known = self._records.with_prefix(documents.binned_id(f"{record.instance_uid}-"))
            lives = [each["life"] for each in known if each.get("attempt") == attempt]
            life = lives[0] if lives else self._clock.next()
            document = documents.instance_document(record, _header(record).digest, attempt, life)
            document["stored_at"] = documents.microseconds(entry.instance.stored_at)
            parts = list(documents.part_documents(record, attempt))
            made = [documents.binned_document(document, documents.microseconds(entry.binned_at))]
            for older in entry.older:
                record = record_of(older.instance, older.metadata)
                attempt = _binned_attempt(entry.number, older.number)
                document = documents.instance_document(record, _header(record).digest, attempt, life)
                document["stored_at"] = documents.microseconds(older.instance.stored_at)
                made.append(documents.replaced_document(document, documents.microseconds(older.replaced_at)))
                parts += documents.part_documents(record, attempt)
            self._records.write(parts)
            for each in made:  # the entry first: its life is read from it when this is done again
                self._records.write([each])

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


def _header(record: InstanceRecord) -> Header:
    return Header.of(
        record.study_uid, record.series_uid, record.sop_class_uid, record.transfer_syntax_uid, record.attributes
    )


def _attempt(instance_uid: str) -> str:
    """A name that is the same when the same is loaded again."""
    return hashlib.sha256(instance_uid.encode()).hexdigest()[:32]


def _binned_attempt(number: int, older: int) -> str:
    """As `_attempt`, for an entry of the bin (0) and its older versions."""
    return f"b{number:015x}{older:016x}"


def _moved_id(number: int) -> str:
    return f"moved:{number:012d}"


def _end(entries: Sequence[ChangeEntry]) -> int:
    return entries[-1].number + 1
