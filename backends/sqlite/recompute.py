"""Checking what is derived against the instances, and deriving it again."""
# ruff: noqa: S608 - names of tables and columns are constants of this package; values are bound

import sqlite3
from typing import Any

import orjson

from backends.sqlite import entities, schema
from backends.sqlite.entities import NUMBERS, SETS, Entity
from backends.sqlite.unit import Unit, derived
from dicomweb_server.dicom.attributes import patient_key
from dicomweb_server.dicom.levels import Level
from dicomweb_server.storage.records import Scope

_LONELY = "FROM patient WHERE NOT EXISTS (SELECT 1 FROM study WHERE study.patient = patient.id)"
_BELOW = {
    Level.SERIES: "series = ?",
    Level.STUDY: "study = ?",
    Level.PATIENT: "study IN (SELECT id FROM study WHERE patient = ?)",
}


def is_exact(connection: sqlite3.Connection, scope: Scope) -> bool:
    """As `Storage.is_exact`."""
    if scope.study_uid is None:
        return connection.execute(f"SELECT 1 {_LONELY} LIMIT 1").fetchone() is None
    study = entities.load(connection, Level.STUDY, "uid = ?", scope.study_uid)
    if study is None:
        return True
    wrong = connection.execute(
        "SELECT 1 FROM header WHERE study = ? AND (instances, first) IS NOT "
        "(SELECT count(*), min(id) FROM instance WHERE instance.header = header.id) LIMIT 1",
        (study.id,),
    ).fetchone()
    patient = entities.load(connection, Level.PATIENT, "id = ?", study.parent)
    if wrong or patient is None or patient.uid != patient_key(study.attributes, study.uid):
        return False
    series = connection.execute("SELECT id FROM series WHERE study = ?", (study.id,)).fetchall()
    levels = [(Level.SERIES, row[0]) for row in series]
    return all(_same(connection, level, row) for level, row in (*levels, (Level.STUDY, study.id))) and _same(
        connection, Level.PATIENT, patient.id
    )


def _same(connection: sqlite3.Connection, level: Level, row_id: int) -> bool:
    """Whether the row of an entity is the one that the headers below it make."""
    made = Entity.created(level, row_id, "", 0)
    if not derived(connection, made, _BELOW[level], row_id):
        return False
    columns, values = entities.columns(level, made.attributes)
    values += entities.set_values(made)
    wanted = {**made.numbers, **columns, **{name: sorted(made.sets[name]) for name in SETS}}
    names = [*NUMBERS[level], *columns, *SETS, "attributes"]
    table = schema.TABLES[level]
    found: dict[str, Any] = dict(
        zip(
            names,
            connection.execute(f"SELECT {', '.join(names)} FROM {table} WHERE id = ?", (row_id,)).fetchone(),
            strict=True,
        )
    )
    found |= {name: orjson.loads(found[name]) for name in (*SETS, "attributes")}
    wanted["attributes"] = orjson.loads(orjson.dumps(made.attributes, default=dict))
    known = connection.execute(f"SELECT tag, value FROM {table}_value WHERE id = ?", (row_id,)).fetchall()
    return found == wanted and set(known) == set(values)


def recompute(unit: Unit, scope: Scope) -> None:
    """As `Storage.recompute`."""
    connection = unit.connection
    if scope.study_uid is None:
        connection.execute(f"DELETE FROM patient_value WHERE id IN (SELECT id {_LONELY})")
        connection.execute(f"DELETE {_LONELY}")
        return
    connection.execute(  # a patient that is gone is made again
        "UPDATE study SET patient = 0 WHERE uid = ? AND patient NOT IN (SELECT id FROM patient)", (scope.study_uid,)
    )
    row = connection.execute("SELECT id FROM study WHERE uid = ?", (scope.study_uid,)).fetchone()
    if row is None:
        return
    unit.study_by_id(row[0]).stale = True
    for (series_id,) in connection.execute("SELECT id FROM series WHERE study = ?", row).fetchall():
        unit.series_by_id(series_id).stale = True
    for (header_id,) in connection.execute("SELECT id FROM header WHERE study = ?", row).fetchall():
        header = unit.header_by_id(header_id)
        (header.instances,) = connection.execute(
            "SELECT count(*) FROM instance WHERE header = ?", (header_id,)
        ).fetchone()
        header.stale = header.touched = True
    unit.flush()
