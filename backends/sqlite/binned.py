"""The bin: removed instances as rows of their own, which nothing else reads."""
# ruff: noqa: S608 - conditions are constants of this module; values are bound

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from backends.sqlite.connections import Connection
from backends.sqlite.reading import microseconds_of, moment, stored_instance
from backends.sqlite.unit import Unit, scope_condition
from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.packing import record_of
from dicomweb_server.storage.records import Binned, BinPage, ChangeKind, Restored, Scope

COLUMNS = (
    "study_uid, series_uid, uid, sop_class, transfer_syntax, blob_key, size_bytes, sha256, layout, layout_blob, "
    "stored_at, metadata, binned_at, id"
)
_CURSOR = re.compile(r"([0-9]{1,18})-([0-9]{1,18})", re.ASCII)


def page(connection: Connection, scope: Scope, before: datetime | None, limit: int, cursor: str | None) -> BinPage:
    """As `Storage.binned`."""
    condition, values = _chosen(scope, before)
    if cursor is not None:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise BadRequest("The cursor of the bin is not one that this archive gave.")
        condition += " AND (binned_at, id) > (?, ?)"
        values += [int(found[1]), int(found[2])]
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM binned WHERE {condition} ORDER BY binned_at, id LIMIT ?", (*values, limit + 1)
    ).fetchall()
    entries = [_entry(row) for row in rows[:limit]]
    more = len(rows) > limit and limit
    return BinPage(entries=entries, cursor=f"{rows[limit - 1][12]}-{rows[limit - 1][13]}" if more else None)


def _entry(row: Sequence[Any]) -> Binned:
    return Binned(entry=str(row[13]), instance=stored_instance(row), metadata=row[11], binned_at=moment(row[12]))


def restore(unit: Unit, entry: str) -> Restored:
    """As `Storage.restore_binned`, for one entry."""
    row = None
    if entry.isascii() and entry.isdigit() and len(entry) < 19:
        row = unit.connection.execute(f"SELECT {COLUMNS} FROM binned WHERE id = ?", (int(entry),)).fetchone()
    if row is None:
        return Restored.MISSING
    found = _entry(row)
    record = record_of(found.instance, found.metadata)
    if unit.connection.execute("SELECT 1 FROM instance WHERE uid = ?", (record.instance_uid,)).fetchone():
        return Restored.CONFLICT
    unit.add(record, row[10], instance_id=int(entry))
    unit.connection.execute("UPDATE replaced SET binned = NULL WHERE binned = ?", (int(entry),))
    unit.connection.execute("DELETE FROM binned WHERE id = ?", (int(entry),))
    unit.note(ChangeKind.RESTORED, record.study_uid, record.series_uid, record.instance_uid)
    return Restored.RESTORED


def purge(unit: Unit, scope: Scope, before: datetime | None, limit: int) -> int:
    """As `Storage.purge_binned`."""
    condition, values = _chosen(scope, before)
    rows = unit.connection.execute(
        f"SELECT id, blob_key, layout_blob FROM binned WHERE {condition} ORDER BY binned_at, id LIMIT ?",
        (*values, limit),
    ).fetchall()
    for row in rows:
        older = unit.connection.execute("SELECT blob_key, layout_blob FROM replaced WHERE binned = ?", row[:1])
        unit.release([row[1:], *older])
        unit.connection.execute("DELETE FROM replaced WHERE binned = ?", row[:1])
        unit.connection.execute("DELETE FROM binned WHERE id = ?", row[:1])
    return len(rows)


def purge_replaced(unit: Unit, scope: Scope, before: datetime | None, limit: int) -> int:
    """As `Storage.purge_replaced`."""
    conditions: list[str] = ["binned IS NULL"]
    values: list[Any] = []
    if before is not None:
        conditions.append("replaced_at < ?")
        values.append(microseconds_of(before))
    order = "replaced_at"
    if scope.level is not None:
        inside, uids = scope_condition(scope)
        conditions.append(f"uid IN (SELECT i.uid FROM instance i WHERE {inside})")
        values += uids
        order = "+replaced_at"  # by the index of the UIDs, not through all versions in the order of time
    rows = unit.connection.execute(
        f"SELECT id, blob_key, layout_blob FROM replaced WHERE {' AND '.join(conditions)} ORDER BY {order}, id LIMIT ?",
        (*values, limit),
    ).fetchall()
    unit.release(row[1:] for row in rows)
    unit.connection.executemany("DELETE FROM replaced WHERE id = ?", [row[:1] for row in rows])
    return len(rows)


def _chosen(scope: Scope, before: datetime | None) -> tuple[str, list[Any]]:
    named = {
        "study_uid = ?": scope.study_uid,
        "series_uid = ?": scope.series_uid,
        "uid = ?": scope.instance_uid,
        "binned_at < ?": microseconds_of(before) if before is not None else None,
    }
    chosen = {text: value for text, value in named.items() if value is not None}
    return " AND ".join(chosen) or "TRUE", list(chosen.values())
