"""Reading instances, hits and the change feed: rows to records."""
# ruff: noqa: S608 - names of tables and columns are constants of this package; values are bound

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import orjson

from backends.sqlite import schema
from backends.sqlite.connections import Connection, Connections
from backends.sqlite.entities import NUMBERS, SETS
from backends.sqlite.query import Statement
from backends.sqlite.unit import scope_condition
from dicomweb_server.dicom.attributes import clock_moment
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values
from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    Blob,
    Change,
    ChangeKind,
    Hit,
    Metadata,
    Page,
    ReplacedVersion,
    Scope,
    Share,
    StoredInstance,
    Usage,
)

T = TypeVar("T")

_CURSOR = re.compile(r"[0-9]{1,18}", re.ASCII)
_PAGE = 200

STORED = (
    "h.study_uid, h.series_uid, i.uid, h.sop_class, h.transfer_syntax, i.blob_key, i.size_bytes, i.sha256, c.layout, "
    "i.layout_blob, i.stored_at"
)
_METADATA = "h.study_uid, h.series_uid, i.uid, c.metadata"
JOINED = "FROM instance i JOIN header h ON h.id = i.header JOIN content c ON c.id = i.id"


def moment(microseconds: int) -> datetime:
    """A time of the tables."""
    return schema.EPOCH + timedelta(microseconds=microseconds)


def microseconds_of(time: datetime) -> int:
    """A time as it is kept in the tables."""
    return (time - schema.EPOCH) // timedelta(microseconds=1)


def get(connection: Connection, scope: Scope) -> StoredInstance:
    """As `Storage.get`."""
    row = connection.execute(f"SELECT {STORED} {JOINED} WHERE i.uid = ?", (scope.instance_uid,)).fetchone()
    if row is None or scope.study_uid not in (None, row[0]) or scope.series_uid not in (None, row[1]):
        raise scope.not_found()
    return stored_instance(row)


def instances(connections: Connections, scope: Scope) -> Iterator[StoredInstance]:
    """As `Storage.instances`."""
    return _paged(connections, scope, STORED, stored_instance)


def metadata(connections: Connections, scope: Scope) -> Iterator[Metadata]:
    """As `Storage.metadata`."""
    return _paged(connections, scope, _METADATA, _metadata)


def metadata_of(connection: Connection, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
    """As `Storage.metadata_of`."""
    listed = orjson.dumps(list(instance_uids)).decode()
    rows = connection.execute(f"SELECT {_METADATA} {JOINED} WHERE i.uid IN (SELECT value FROM json_each(?))", (listed,))
    return {row[2]: _metadata(row) for row in rows}


def _paged(connections: Connections, scope: Scope, columns: str, made: Callable[[Sequence[Any]], T]) -> Iterator[T]:
    """The instances of a scope, series by series; each page is a transaction of its own."""
    if scope.instance_uid is not None:
        with connections.single() as connection:
            condition, values = scope_condition(scope)
            rows = connection.execute(f"SELECT {columns} {JOINED} WHERE {condition}", values).fetchall()
        if not rows:
            raise scope.not_found()
        return iter([made(row) for row in rows])
    with connections.reading() as connection:
        series = _series_in(connection, scope)
        first = _page(connection, columns, series[0], None) if series else []
    if not first:
        raise scope.not_found()
    return _pages(connections, columns, made, series, first)


def _pages(
    connections: Connections,
    columns: str,
    made: Callable[[Sequence[Any]], T],
    series: list[int],
    rows: list[Any],
) -> Iterator[T]:
    for place, series_id in enumerate(series):
        if place:
            with connections.reading() as connection:
                rows = _page(connection, columns, series_id, None)
        while rows:
            for row in rows:
                yield made(row[2:])
            if len(rows) < _PAGE:
                break
            with connections.reading() as connection:
                rows = _page(connection, columns, series_id, rows[-1][:2])


def _page(connection: Connection, columns: str, series_id: int, after: tuple[float, str] | None) -> list[Any]:
    behind = " AND (i.position, i.uid) > (?, ?)" if after else ""
    return connection.execute(
        f"SELECT i.position, i.uid, {columns} {JOINED} WHERE i.series = ?{behind} "
        f"ORDER BY i.position, i.uid LIMIT {_PAGE}",
        (series_id, *(after or ())),
    ).fetchall()


def _series_in(connection: Connection, scope: Scope) -> list[int]:
    if scope.study_uid is None:
        rows = connection.execute("SELECT id FROM series ORDER BY uid, id").fetchall()
        return [row[0] for row in rows]
    also = " AND uid = ?" if scope.series_uid is not None else ""
    values = (scope.study_uid, *([scope.series_uid] if scope.series_uid is not None else []))
    return [
        row[0]
        for row in connection.execute(
            f"SELECT id FROM series WHERE study = (SELECT id FROM study WHERE uid = ?){also} ORDER BY uid", values
        )
    ]


def stored_instance(row: Sequence[Any]) -> StoredInstance:
    """The record of a row with the columns `STORED`."""
    return StoredInstance(
        study_uid=row[0],
        series_uid=row[1],
        instance_uid=row[2],
        sop_class_uid=row[3],
        transfer_syntax_uid=row[4],
        blob=Blob(key=row[5], size_bytes=row[6], sha256=row[7]),
        layout=row[8],
        layout_blob=row[9],
        stored_at=moment(row[10]),
    )


def _metadata(row: Sequence[Any]) -> Metadata:
    return Metadata(study_uid=row[0], series_uid=row[1], instance_uid=row[2], deflated=row[3])


def replaced(connection: Connection, instance_uid: str) -> list[ReplacedVersion]:
    """As `Storage.replaced`."""
    rows = connection.execute(
        "SELECT study_uid, series_uid, uid, sop_class, transfer_syntax, blob_key, size_bytes, sha256, layout, "
        "layout_blob, stored_at, replaced_at, id FROM replaced "
        "WHERE uid = ? AND binned IS NULL ORDER BY id DESC",
        (instance_uid,),
    )
    return [
        ReplacedVersion(version=str(row[12]), instance=stored_instance(row), replaced_at=moment(row[11]))
        for row in rows
    ]


def version(connection: Connection, scope: Scope) -> str:
    """As `Storage.version`."""
    token, sequence = connection.execute("SELECT token, sequence FROM archive").fetchone()
    if scope.level is None:
        return f"{token}-{sequence}"
    if scope.level is Level.INSTANCE:
        condition, values = scope_condition(scope)
        row = connection.execute(f"SELECT i.changed FROM instance i WHERE {condition}", values).fetchone()
    elif scope.level is Level.SERIES:
        row = connection.execute(
            "SELECT changed FROM series WHERE study = (SELECT id FROM study WHERE uid = ?) AND uid = ?",
            (scope.study_uid, scope.series_uid),
        ).fetchone()
    else:
        row = connection.execute("SELECT changed FROM study WHERE uid = ?", (scope.study_uid,)).fetchone()
    if row is None:
        raise scope.not_found()
    return f"{token}-{row[0]}"


def changes(connection: Connection, after: str | None, limit: int) -> list[Change]:
    """As `Storage.changes`."""
    (newest,) = connection.execute("SELECT sequence FROM archive").fetchone()
    if after is not None and (not _CURSOR.fullmatch(after) or int(after) > newest):
        raise BadRequest("The cursor of the change feed is not one that this archive gave.")
    rows = connection.execute(
        "SELECT id, kind, study_uid, series_uid, instance_uid, changed_at FROM change WHERE id > ? ORDER BY id LIMIT ?",
        (int(after or 0), limit),
    )
    return [
        Change(
            cursor=str(row[0]),
            kind=ChangeKind(row[1]),
            study_uid=row[2],
            series_uid=row[3],
            instance_uid=row[4],
            changed_at=moment(row[5]),
        )
        for row in rows
    ]


def usage(connection: Connection, scope: Scope) -> Usage:
    """As `Storage.usage`."""
    chosen, values = [], []
    for name, uid in (("study_uid", scope.study_uid), ("series_uid", scope.series_uid)):
        if uid is not None:
            chosen.append(f"{{}}.{name} = ?")
            values.append(uid)
    # A header is found by the row of its study, which its UID names.
    by_study = "h.study = (SELECT id FROM study WHERE uid = ?)" if scope.study_uid is not None else "TRUE"
    conditions = " AND ".join([by_study, *(text.format("h") for text in chosen)])
    rows = connection.execute(
        "SELECT coalesce(h.modality, ''), h.transfer_syntax, count(*), sum(i.size_bytes) "
        f"FROM header h CROSS JOIN instance i ON i.header = h.id WHERE {conditions} GROUP BY 1, 2 ORDER BY 1, 2",
        ([scope.study_uid] if scope.study_uid is not None else []) + values,
    ).fetchall()
    if scope.level is not None and not rows:
        raise scope.not_found()
    conditions = " AND ".join(["TRUE", *(text.format("r") for text in chosen)])
    (replaced_instances, replaced_bytes), (binned_instances, binned_bytes) = (
        connection.execute(
            f"SELECT count(*), coalesce(sum(size_bytes), 0) FROM {table} r WHERE {conditions}", values
        ).fetchone()
        for table in ("replaced", "binned")
    )
    shares = [Share(modality=row[0], transfer_syntax_uid=row[1], instances=row[2], size_bytes=row[3]) for row in rows]
    return Usage(
        shares=shares,
        replaced_instances=replaced_instances,
        replaced_bytes=replaced_bytes,
        binned_instances=binned_instances,
        binned_bytes=binned_bytes,
    )


def stored_bytes(connection: Connection) -> int:
    """As `Storage.stored_bytes`. The rows of these tables are short."""
    (size,) = connection.execute(
        "SELECT (SELECT coalesce(sum(size_bytes), 0) FROM instance) + "
        "(SELECT coalesce(sum(size_bytes), 0) FROM replaced) + (SELECT coalesce(sum(size_bytes), 0) FROM binned)"
    ).fetchone()
    return int(size)


def newest_change(connection: Connection) -> str | None:
    """As `Storage.newest_change`."""
    (newest,) = connection.execute("SELECT max(id) FROM change").fetchone()
    return None if newest is None else str(newest)


# Search


def search(connection: Connection, query: Query) -> Page:
    """As `Storage.search`."""
    ids = Statement(connection, query).ids()
    page = ids[: query.limit]
    found = _instance_hits(connection, page) if query.level is Level.INSTANCE else _hits(connection, query, page)
    return Page(hits=[found[row_id] for row_id in page], more=len(ids) > query.limit)


_HIT_COLUMNS = {
    Level.PATIENT: "t.uid, NULL",
    Level.STUDY: "t.uid, NULL",
    Level.SERIES: "(SELECT uid FROM study WHERE id = t.study), t.uid",
}


def _hits(connection: Connection, query: Query, ids: list[int]) -> dict[int, Hit]:
    level = query.level
    numbers = NUMBERS[level]
    rows = connection.execute(
        f"SELECT t.id, t.attributes, {_HIT_COLUMNS[level]}, t.changed_at, "
        f"{', '.join(f't.{name}' for name in (*SETS, *numbers))} "
        f"FROM {schema.TABLES[level]} t WHERE t.id IN (SELECT value FROM json_each(?))",
        (orjson.dumps(ids).decode(),),
    )
    found = {}
    for row in rows:
        sets = dict(zip(SETS, row[5:8], strict=True))
        totals = dict(zip(numbers, row[8:], strict=True))
        found[row[0]] = Hit(
            level=level,
            attributes=orjson.loads(row[1]),
            study_uid=row[2] if level is not Level.PATIENT else None,
            series_uid=row[3],
            patient_key=row[2] if level is Level.PATIENT else None,
            number_of_studies=totals.get("studies", 0),
            number_of_series=totals.get("series", 0),
            number_of_instances=totals["instances"],
            modalities=tuple(orjson.loads(sets["modalities"])),
            sop_classes=tuple(orjson.loads(sets["sop_classes"])),
            transfer_syntaxes=tuple(orjson.loads(sets["transfer_syntaxes"])),
            changed_at=clock_moment(row[4]) if query.times else None,
        )
    return found


def _instance_hits(connection: Connection, ids: list[int]) -> dict[int, Hit]:
    listed = orjson.dumps(ids).decode()
    rows = connection.execute(
        "SELECT id, uid, header, summary FROM instance WHERE id IN (SELECT value FROM json_each(?))", (listed,)
    ).fetchall()
    headers = orjson.dumps(list({row[2] for row in rows})).decode()
    common: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}
    for row in connection.execute(
        "SELECT id, attributes, study_uid, series_uid, sop_class, transfer_syntax FROM header "
        "WHERE id IN (SELECT value FROM json_each(?))",
        (headers,),
    ):
        attributes = orjson.loads(row[1])
        modalities = tuple(sorted({str(value) for value in match_values(attributes, ("00080060",))}))
        common[row[0]] = (
            attributes,
            {
                "study_uid": row[2],
                "series_uid": row[3],
                "modalities": modalities,
                "sop_classes": (row[4],),
                "transfer_syntaxes": (row[5],),
            },
        )
    return {
        row_id: Hit(
            level=Level.INSTANCE,
            attributes={**common[header][0], **orjson.loads(summary)},
            instance_uid=uid,
            **common[header][1],
        )
        for row_id, uid, header, summary in rows
    }


def count(connection: Connection, query: Query) -> int:
    """As `Storage.count`."""
    return Statement(connection, query).count()
