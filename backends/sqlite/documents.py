"""JSON documents with their versions. Inside a transaction of the caller."""
# ruff: noqa: S608 - the text of a condition is made of constants; values are bound

import base64
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from backends.sqlite.reading import moment
from backends.sqlite.unit import microseconds
from dicomweb_server.errors import BadRequest, NotFound, VersionConflict
from dicomweb_server.storage.records import Document, DocumentPage, DocumentTerm, DocumentWrite

COLUMNS = "v.kind, v.id, v.version, v.body, v.keys, v.changed_at, v.deleted"
_CURRENT = (
    "FROM document d JOIN document_version v ON v.kind = d.kind AND v.id = d.id AND v.version = d.version "
    "WHERE d.kind = ?"
)


def put(
    connection: sqlite3.Connection,
    *,
    kind: str,
    document_id: str,
    body: Any,
    keys: Mapping[str, tuple[str, ...]],
    expected_version: int | None,
    deleted: bool = False,
) -> Document:
    """As `Storage.put_document`; a deletion is a version without keys."""
    row = connection.execute(
        "SELECT version, d.deleted, v.changed_at FROM document d "
        "LEFT JOIN document_version v USING (kind, id, version) WHERE kind = ? AND id = ?",
        (kind, document_id),
    ).fetchone()
    version, gone, before = row or (0, True, 0)
    if deleted and gone:
        raise NotFound("there is no such document")
    if expected_version is not None and expected_version != (0 if gone else version):
        raise VersionConflict("The document changed since the version that was expected.")
    version += 1
    new = (kind, document_id, version, deleted)
    changed_at = max(microseconds(), (before or 0) + 1)  # also where the clock was set back
    write(connection, new, changed_at=changed_at, keys=keys, body=body)
    return get(connection, kind=kind, document_id=document_id, version=version)


def put_all(connection: sqlite3.Connection, writes: Sequence[DocumentWrite]) -> list[Document]:
    """As `Storage.write_documents`. The work of others may share the transaction: what was written before one of these
    failed is taken back."""
    connection.execute("SAVEPOINT documents")
    try:
        written = [
            put(
                connection,
                kind=one.kind,
                document_id=one.document_id,
                body=one.body,
                keys=one.keys,
                expected_version=one.expected_version,
                deleted=one.deleted,
            )
            for one in writes
        ]
    except BaseException:
        connection.execute("ROLLBACK TO documents")
        raise
    finally:
        connection.execute("RELEASE documents")
    return written


def write(
    connection: sqlite3.Connection,
    new: tuple[str, str, int, bool],
    *,
    changed_at: int,
    keys: Mapping[str, tuple[str, ...]],
    body: Any,
) -> None:
    """Write a version (kind, id, number, deleted) as the current one."""
    kind, document_id, _, _ = new
    connection.execute("INSERT OR REPLACE INTO document (kind, id, version, deleted) VALUES (?, ?, ?, ?)", new)
    connection.execute(
        "INSERT INTO document_version (kind, id, version, deleted, changed_at, keys, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*new, changed_at, orjson.dumps(dict(keys)), orjson.dumps(body, default=dict)),
    )
    connection.execute("DELETE FROM document_key WHERE kind = ? AND id = ?", (kind, document_id))
    connection.executemany(
        "INSERT OR IGNORE INTO document_key (kind, name, value, id) VALUES (?, ?, ?, ?)",
        [(kind, name, value, document_id) for name, values in keys.items() for value in values],
    )


def get(connection: sqlite3.Connection, *, kind: str, document_id: str, version: int | None) -> Document:
    """As `Storage.get_document`."""
    if version is None:
        row = connection.execute(
            f"SELECT {COLUMNS} {_CURRENT} AND d.id = ? AND NOT d.deleted", (kind, document_id)
        ).fetchone()
    else:
        row = connection.execute(
            f"SELECT {COLUMNS} FROM document_version v WHERE kind = ? AND id = ? AND version = ?",
            (kind, document_id, version),
        ).fetchone()
    if row is None:
        raise NotFound("there is no such document")
    return document_of(row)


def get_many(connection: sqlite3.Connection, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Document]:
    """As `Storage.documents_of`."""
    listed = orjson.dumps([list(name) for name in names]).decode()
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM json_each(?) asked "
        "JOIN document d ON d.kind = json_extract(asked.value, '$[0]') AND d.id = json_extract(asked.value, '$[1]') "
        "JOIN document_version v ON v.kind = d.kind AND v.id = d.id AND v.version = d.version WHERE NOT d.deleted",
        (listed,),
    )
    return {(row[0], row[1]): document_of(row) for row in rows}


def forget_versions(connection: sqlite3.Connection, *, kind: str, document_id: str, before: int) -> None:
    """As `Storage.forget_versions`."""
    connection.execute(
        "DELETE FROM document_version WHERE kind = ?1 AND id = ?2 AND version < ?3 "
        "AND version < (SELECT version FROM document WHERE kind = ?1 AND id = ?2)",
        (kind, document_id, before),
    )


def history(connection: sqlite3.Connection, *, kind: str, document_id: str) -> list[Document]:
    """As `Storage.document_history`."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM document_version v WHERE kind = ? AND id = ? ORDER BY version DESC",
        (kind, document_id),
    )
    return [document_of(row) for row in rows]


def find(
    connection: sqlite3.Connection, *, kind: str, terms: Sequence[DocumentTerm], limit: int, cursor: str | None
) -> DocumentPage:
    """As `Storage.find_documents`; the cursor is the last id."""
    conditions, values = _conditions(kind, terms)
    if cursor is not None:
        conditions.append("d.id > ?")
        values.append(_decoded(cursor))
    rows = connection.execute(
        f"SELECT {COLUMNS} {_CURRENT} AND {' AND '.join(conditions)} ORDER BY d.id LIMIT ?", (*values, limit + 1)
    ).fetchall()
    documents = [document_of(row) for row in rows[:limit]]
    more = len(rows) > limit and documents
    return DocumentPage(documents=documents, cursor=_encoded(documents[-1].document_id) if more else None)


def purge(connection: sqlite3.Connection, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
    """As `Storage.purge_documents`."""
    conditions, values = _conditions(kind, terms)
    rows = connection.execute(
        f"SELECT d.id FROM document d WHERE d.kind = ? AND {' AND '.join(conditions)} LIMIT ?", (*values, limit)
    ).fetchall()
    for table in ("document_key", "document_version", "document"):
        connection.executemany(f"DELETE FROM {table} WHERE kind = ? AND id = ?", [(kind, row[0]) for row in rows])
    return len(rows)


def _conditions(kind: str, terms: Sequence[DocumentTerm]) -> tuple[list[str], list[str]]:
    """On current documents `d` of the kind, which is the first value."""
    conditions, values = ["NOT d.deleted"], [kind]
    for term in terms:
        condition, bound = _condition(term)
        conditions.append(f"d.id IN (SELECT id FROM document_key WHERE kind = ? AND name = ? AND {condition})")
        values += [kind, term.key, *bound]
    return conditions, values


def _condition(term: DocumentTerm) -> tuple[str, list[str]]:
    if term.equal is not None:
        return "value = ?", [term.equal]
    if term.prefix is not None:
        return "value >= ? AND substr(value, 1, length(?)) = ?", [term.prefix] * 3
    ends = [("value >= ?", term.low), ("value <= ?", term.high)]
    given = [(text, end) for text, end in ends if end is not None]
    return " AND ".join(text for text, _ in given) or "1", [end for _, end in given]


def _encoded(document_id: str) -> str:
    return base64.urlsafe_b64encode(document_id.encode()).decode()


def _decoded(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii")).decode()
    except ValueError:
        raise BadRequest("The cursor is not one that this archive gave.") from None


def document_of(row: Sequence[Any]) -> Document:
    """The record of a row with the columns `COLUMNS`."""
    keys = {name: tuple(values) for name, values in orjson.loads(row[4]).items()}
    return Document(
        kind=row[0],
        document_id=row[1],
        version=row[2],
        body=orjson.loads(row[3]),
        keys=keys,
        changed_at=moment(row[5]),
        deleted=bool(row[6]),
    )
