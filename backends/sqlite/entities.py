"""The rows of patients, studies, series and headers inside a write transaction: loaded once, changed in memory, written
at the end."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson

from backends.sqlite import schema
from dicomweb_server.dicom.attributes import Attributes, patient_digest
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values
from dicomweb_server.dicom.names import sound, words

SETS = ("modalities", "sop_classes", "transfer_syntaxes")
NUMBERS = {
    Level.PATIENT: ("studies", "series", "instances"),
    Level.STUDY: ("series", "instances"),
    Level.SERIES: ("instances",),
}
PARENT = {Level.STUDY: "patient", Level.SERIES: "study"}

_SET_TAGS = {
    Level.PATIENT: {},
    Level.STUDY: {
        "modalities": schema.MODALITIES,
        "sop_classes": schema.SOP_CLASSES,
        "transfer_syntaxes": schema.TRANSFER_SYNTAXES,
    },
    Level.SERIES: {"transfer_syntaxes": schema.TRANSFER_SYNTAXES},
    Level.INSTANCE: {},
}


@dataclass(slots=True, eq=False)
class Entity:
    """A patient, a study or a series. `uid` of a patient is its key; `parent` is the id of the row above.

    new: not in the database yet. shown: what it shows or its sets differ from the database. stale: must be derived
    again from the headers. touched: a number or anything below changed.
    """

    level: Level
    id: int
    uid: str
    parent: int
    numbers: dict[str, int]
    sets: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in SETS})
    attributes: Attributes = field(default_factory=dict)
    changed: int = 0
    changed_at: str = ""
    new: bool = False
    shown: bool = False
    stale: bool = False
    touched: bool = False

    @classmethod
    def created(cls, level: Level, entity_id: int, uid: str, parent: int) -> "Entity":
        """A new one without anything below."""
        numbers = dict.fromkeys(NUMBERS[level], 0)
        return cls(level, entity_id, uid, parent, numbers, new=True, shown=True, touched=True)

    def count(self, **differences: int) -> None:
        """Add to the numbers; those that the level does not have are ignored."""
        for name, difference in differences.items():
            if name in self.numbers:
                self.numbers[name] += difference
        self.touched = True

    def include(self, *, modalities: Iterable[str], sop_class: str, transfer_syntax: str) -> None:
        """Add what a header brings to the sets."""
        for name, values in zip(SETS, (modalities, (sop_class,), (transfer_syntax,)), strict=True):
            if not self.sets[name].issuperset(values):
                self.sets[name].update(values)
                self.shown = True


@dataclass(slots=True, eq=False)
class Header:
    """What instances of a series have in common."""

    id: int
    series: Entity
    study: Entity
    digest: bytes
    sop_class: str
    transfer_syntax: str
    attributes: Attributes
    instances: int
    first: int
    stale: bool = False
    touched: bool = False


def load(connection: sqlite3.Connection, level: Level, where: str, *values: Any) -> Entity | None:
    """The entity of the condition, which is a constant of the caller."""
    numbers, parent = NUMBERS[level], PARENT.get(level, "0")
    row = connection.execute(
        f"SELECT id, uid, {parent}, changed, attributes, {', '.join((*numbers, *SETS))} "  # noqa: S608
        f"FROM {schema.TABLES[level]} WHERE {where}",
        values,
    ).fetchone()
    if row is None:
        return None
    rest = row[5:]
    return Entity(
        level=level,
        id=row[0],
        uid=row[1],
        parent=row[2],
        changed=row[3],
        attributes=orjson.loads(row[4]),
        numbers=dict(zip(numbers, rest, strict=False)),
        sets={name: set(orjson.loads(text)) for name, text in zip(SETS, rest[len(numbers) :], strict=True)},
    )


def save(connection: sqlite3.Connection, entity: Entity) -> None:
    """Write a new or changed entity; only its numbers when it shows the same as before."""
    table = schema.TABLES[entity.level]
    row: dict[str, Any] = {**entity.numbers, "changed": entity.changed, "changed_at": entity.changed_at}
    values: list[tuple[str, Any]] = []
    if entity.shown:
        row |= {name: _text(sorted(members)) for name, members in entity.sets.items()}
        shown, values = columns(entity.level, entity.attributes)
        row |= shown
        row["attributes"] = orjson.dumps(entity.attributes, default=dict)
        if entity.level in PARENT:
            row[PARENT[entity.level]] = entity.parent
    if entity.new:
        digest = {"digest": patient_digest(entity.uid)} if entity.level is Level.PATIENT else {}
        insert(connection, table, {"id": entity.id, "uid": entity.uid, **digest, **row})
    else:
        update(connection, table, entity.id, row)
    if entity.shown:
        write_values(connection, table, entity.id, values + set_values(entity), new=entity.new)
    entity.new = entity.shown = entity.touched = False


def set_values(entity: Entity) -> list[tuple[str, Any]]:
    """The members of the sets that an entity is found by."""
    return [(tag, value) for name, tag in _SET_TAGS[entity.level].items() for value in entity.sets[name]]


def insert_header(connection: sqlite3.Connection, header: Header) -> None:
    """Insert a header that is new. Done at once: an instance is found by way of it, also in its own batch."""
    shown, values = columns(Level.INSTANCE, header.attributes)
    row = {
        "id": header.id,
        "series": header.series.id,
        "study": header.study.id,
        "digest": header.digest,
        "study_uid": header.study.uid,
        "series_uid": header.series.uid,
        "sop_class": header.sop_class,
        "transfer_syntax": header.transfer_syntax,
        "instances": header.instances,
        "first": header.first,
        **shown,
        "attributes": orjson.dumps(header.attributes, default=dict),
    }
    insert(connection, "header", row)
    write_values(connection, "header", header.id, values, new=True)


def save_header(connection: sqlite3.Connection, header: Header) -> None:
    """Write the numbers of a header; an empty one is deleted."""
    header.touched = False
    if header.instances:
        update(connection, "header", header.id, {"instances": header.instances, "first": header.first})
        return
    connection.execute("DELETE FROM header WHERE id = ?", (header.id,))
    connection.execute("DELETE FROM header_value WHERE id = ?", (header.id,))


def columns(level: Level, attributes: Attributes) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """The columns of a row, each with the first value of its attribute, and the values behind the first by tag."""
    row: dict[str, Any] = {}
    further: list[tuple[str, Any]] = []
    for column in schema.columns_of(level):
        values = match_values(attributes, (column.tag,))
        row[column.name] = values[0] if values else None
        if column.words:
            row[column.words] = words_text([str(value) for value in values])
        further += [(column.tag, value) for value in values[1:]]
    return row, further


def words_text(names: list[str]) -> str | None:
    """The words of names and their sound codes as one text, in which a word begins after a blank."""
    found = dict.fromkeys(word for name in names for word in words(name))
    codes = dict.fromkeys(f"#{code}" for word in found if (code := sound(word)))
    return f" {' '.join((*found, *codes))} " if found else None


def write_values(
    connection: sqlite3.Connection, table: str, row_id: int, values: list[tuple[str, Any]], *, new: bool
) -> None:
    """Replace the further values of a row."""
    if not new:
        connection.execute(f"DELETE FROM {table}_value WHERE id = ?", (row_id,))  # noqa: S608
    if values:
        connection.executemany(
            f"INSERT OR IGNORE INTO {table}_value (tag, value, id) VALUES (?, ?, ?)",  # noqa: S608
            [(tag, value, row_id) for tag, value in values],
        )


def delete(connection: sqlite3.Connection, entity: Entity) -> None:
    """Delete the row of an entity that has nothing below any more."""
    if not entity.new:
        table = schema.TABLES[entity.level]
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (entity.id,))  # noqa: S608
        connection.execute(f"DELETE FROM {table}_value WHERE id = ?", (entity.id,))  # noqa: S608
    entity.touched = entity.stale = entity.shown = False


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    """Insert a row; names of columns are ours, never a caller's."""
    connection.execute(_insertion(table, tuple(row)), tuple(row.values()))


def update(connection: sqlite3.Connection, table: str, row_id: int, row: dict[str, Any]) -> None:
    """Update a row; names as in `insert`."""
    connection.execute(_updating(table, tuple(row)), (*row.values(), row_id))


@cache
def _insertion(table: str, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608


@cache
def _updating(table: str, names: tuple[str, ...]) -> str:
    # Where the clock was set back, what changed is not older than before.
    assigned = ("changed_at = max(changed_at, ?)" if name == "changed_at" else f"{name} = ?" for name in names)
    return f"UPDATE {table} SET {', '.join(assigned)} WHERE id = ?"  # noqa: S608


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
