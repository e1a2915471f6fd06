"""Moving an archive: all rows as entries, and entries as rows."""
# ruff: noqa: S608 - names of columns are constants of this package; values are bound

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from backends.dumping import Key, Part
from backends.sqlite import binned, documents
from backends.sqlite.connections import Connections
from backends.sqlite.reading import JOINED, STORED, microseconds_of, moment, stored_instance
from backends.sqlite.unit import Unit
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
_TABLE = "loaded"  # made by the first load: most archives have none

_INSTANCES = f"SELECT i.id, {STORED}, c.metadata {JOINED} WHERE i.id > ? ORDER BY i.id LIMIT {_PAGE}"
_REPLACED = (
    "SELECT id, study_uid, series_uid, uid, sop_class, transfer_syntax, blob_key, size_bytes, sha256, layout, "
    f"layout_blob, stored_at, metadata, replaced_at FROM replaced WHERE id > ? AND binned IS NULL "
    f"ORDER BY id LIMIT {_PAGE}"
)
_OLDER = (
    "SELECT study_uid, series_uid, uid, sop_class, transfer_syntax, blob_key, size_bytes, sha256, layout, "
    "layout_blob, stored_at, metadata, replaced_at FROM replaced WHERE binned = ? ORDER BY id"
)
_BINNED = (
    f"SELECT binned_at, id, {binned.COLUMNS} FROM binned WHERE (binned_at, id) > (?, ?) "
    f"ORDER BY binned_at, id LIMIT {_PAGE}"
)
_CHANGES = (
    "SELECT id, kind, study_uid, series_uid, instance_uid, changed_at FROM change "
    f"WHERE id > ? ORDER BY id LIMIT {_PAGE}"
)
_DOCUMENTS = (
    f"SELECT v.kind, v.id, v.version, {documents.COLUMNS} FROM document_version v "
    f"WHERE (v.kind, v.id, v.version) > (?, ?, ?) ORDER BY v.kind, v.id, v.version LIMIT {_PAGE}"
)


def parts(connections: Connections) -> list[Part]:
    """What `dump` gives."""
    numbered = (int,)
    return [
        Part(numbered, _part(connections, _INSTANCES, (0,), _instance)),
        Part(numbered, _part(connections, _REPLACED, (0,), _replaced)),
        Part((int, int), _part(connections, _BINNED, (0, 0), _binned(connections))),
        Part(numbered, _part(connections, _CHANGES, (0,), _change)),
        Part((str, str, int), _part(connections, _DOCUMENTS, ("", "", 0), _document)),
    ]


def _part(
    connections: Connections, statement: str, start: Key, made: Callable[[Sequence[Any], int], ArchiveEntry]
) -> Callable[[Key | None, int], Iterator[tuple[Key, ArchiveEntry]]]:
    def entries(after: Key | None, number: int) -> Iterator[tuple[Key, ArchiveEntry]]:
        key = start if after is None else after
        while True:
            with connections.reading() as connection:
                rows = connection.execute(statement, key).fetchall()
            for row in rows:
                number += 1
                key = row[: len(start)]
                yield key, made(row[len(start) :], number)
            if len(rows) < _PAGE:
                return

    return entries


def _instance(row: Sequence[Any], _number: int) -> InstanceEntry:
    return InstanceEntry(instance=stored_instance(row), metadata=row[11])


def _replaced(row: Sequence[Any], number: int) -> ReplacedEntry:
    return ReplacedEntry(number=number, instance=stored_instance(row), metadata=row[11], replaced_at=moment(row[12]))


def _binned(connections: Connections) -> Callable[[Sequence[Any], int], BinnedEntry]:
    def entry(row: Sequence[Any], number: int) -> BinnedEntry:
        with connections.reading() as connection:
            older = connection.execute(_OLDER, (row[13],)).fetchall()
        return BinnedEntry(
            number=number,
            instance=stored_instance(row),
            metadata=row[11],
            binned_at=moment(row[12]),
            older=tuple(_replaced(each, place) for place, each in enumerate(older, 1)),
        )

    return entry


def _change(row: Sequence[Any], number: int) -> ChangeEntry:
    return ChangeEntry(
        number=number,
        kind=ChangeKind(row[0]),
        study_uid=row[1],
        series_uid=row[2],
        instance_uid=row[3],
        changed_at=moment(row[4]),
    )


def _document(row: Sequence[Any], _number: int) -> DocumentEntry:
    return DocumentEntry(document=documents.document_of(row))


def loaded(connection: sqlite3.Connection) -> str | None:
    """As `Storage.loaded`."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (_TABLE,)).fetchone()
    row = connection.execute(f"SELECT note FROM {_TABLE}").fetchone() if known else None
    return row[0] if row else None


def load(unit: Unit, entries: Sequence[ArchiveEntry], note: str) -> None:
    """As `Storage.load`, in the transaction of the unit."""
    for entry in entries:
        match entry:
            case InstanceEntry():
                _load_instance(unit, entry)
            case ReplacedEntry():
                _load_replaced(unit, entry)
            case BinnedEntry():
                _load_binned(unit, entry)
            case ChangeEntry():
                _load_change(unit, entry)
            case DocumentEntry():
                _load_document(unit, entry)
    # New rows, whose numbers are taken from here, come behind those that were loaded.
    unit.connection.execute("UPDATE archive SET sequence = max(sequence, ?)", (unit.sequence,))
    unit.connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} (id INTEGER PRIMARY KEY, note TEXT NOT NULL)")
    unit.connection.execute(f"INSERT OR REPLACE INTO {_TABLE} (id, note) VALUES (1, ?)", (note,))


def _load_instance(unit: Unit, entry: InstanceEntry) -> None:
    uid = entry.instance.instance_uid
    if unit.connection.execute("SELECT 1 FROM instance WHERE uid = ?", (uid,)).fetchone() is None:
        unit.add(record_of(entry.instance, entry.metadata), microseconds_of(entry.instance.stored_at))


def _load_replaced(unit: Unit, entry: ReplacedEntry) -> None:
    unit.sequence = max(unit.sequence, entry.number)
    _insert_version(unit, "replaced", entry, {"id": entry.number, "replaced_at": microseconds_of(entry.replaced_at)})


def _load_binned(unit: Unit, entry: BinnedEntry) -> None:
    """Under an id behind all that came before, which is the place it will have when it is restored."""
    times = (entry.instance.instance_uid, microseconds_of(entry.instance.stored_at), microseconds_of(entry.binned_at))
    if unit.connection.execute(
        "SELECT 1 FROM binned WHERE uid = ? AND stored_at = ? AND binned_at = ?", times
    ).fetchone():
        return
    entry_id = unit.next_id()
    _insert_version(unit, "binned", entry, {"id": entry_id, "binned_at": times[2]})
    for older in entry.older:
        more = {"id": unit.next_id(), "replaced_at": microseconds_of(older.replaced_at), "binned": entry_id}
        _insert_version(unit, "replaced", older, more)


def _insert_version(unit: Unit, table: str, entry: ReplacedEntry | BinnedEntry, more: dict[str, int]) -> None:
    one = entry.instance
    row = {
        "uid": one.instance_uid,
        "study_uid": one.study_uid,
        "series_uid": one.series_uid,
        "sop_class": one.sop_class_uid,
        "transfer_syntax": one.transfer_syntax_uid,
        "stored_at": microseconds_of(one.stored_at),
        "blob_key": one.blob.key,
        "size_bytes": one.blob.size_bytes,
        "sha256": one.blob.sha256,
        "layout_blob": one.layout_blob,
        "layout": one.layout,
        "metadata": entry.metadata,
        **more,
    }
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    unit.connection.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))


def _load_change(unit: Unit, entry: ChangeEntry) -> None:
    unit.sequence = max(unit.sequence, entry.number)
    unit.connection.execute(
        "INSERT OR IGNORE INTO change (id, kind, study_uid, series_uid, instance_uid, changed_at) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            *(entry.number, entry.kind.value, entry.study_uid, entry.series_uid, entry.instance_uid),
            microseconds_of(entry.changed_at),
        ),
    )


def _load_document(unit: Unit, entry: DocumentEntry) -> None:
    one = entry.document
    row = unit.connection.execute(
        "SELECT version FROM document WHERE kind = ? AND id = ?", (one.kind, one.document_id)
    ).fetchone()
    if row is None or row[0] < one.version:
        new = (one.kind, one.document_id, one.version, one.deleted)
        changed_at = microseconds_of(one.changed_at)
        documents.write(unit.connection, new, changed_at=changed_at, keys=one.keys, body=one.body)
