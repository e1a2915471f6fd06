"""The tables, and which attributes have a column.

A *header* is what instances of a series have in common: the same SOP class, transfer syntax and attributes of patient,
study and series. Most series have one. What series, studies and patients show, and all their totals and sets, is
derived from the headers below them, so that nothing ever reads the instances again. `header.first` is the lowest
instance id, and an instance id is its place in the order of storing; a replaced instance keeps it.

Every attribute that is not in a column is matched on the JSON of its row, or on the metadata of the instance. Further
values of an attribute with a column (name groups, several values) and the sets of a level are in the `_value` tables.
"""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from dicomweb_server.dicom.attributes import clock_digits, patient_digest
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import ConfigError

VERSION = 3
APPLICATION_ID = 0x44494357
PAGE_SIZE_BYTES = 8192
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEVER_CHANGED = "19700101000000000000"

MODALITIES, SOP_CLASSES, TRANSFER_SYNTAXES = "00080061", "00080062", "00083002"


@dataclass(frozen=True, slots=True)
class Column:
    """The column of an attribute, or of a combined date-time. `words` is the second column of a name: " word word #code
    #code ", for fuzzy matching."""

    name: str
    tag: str
    level: Level
    type: str = "TEXT"
    words: str | None = None


COLUMNS = (
    Column("patient_id", "00100020", Level.PATIENT),
    Column("patient_name", "00100010", Level.PATIENT, words="patient_words"),
    Column("birth_date", "00100030", Level.PATIENT),
    Column("sex", "00100040", Level.PATIENT),
    Column("study_date", "00080020", Level.STUDY),
    Column("study_time", "00080030", Level.STUDY),
    Column("study_moment", "00080020+00080030", Level.STUDY),
    Column("accession_number", "00080050", Level.STUDY),
    Column("study_number", "00200010", Level.STUDY),
    Column("study_description", "00081030", Level.STUDY),
    Column("referring_name", "00080090", Level.STUDY, words="referring_words"),
    Column("modality", "00080060", Level.SERIES),
    Column("series_number", "00200011", Level.SERIES, type="REAL"),
    Column("series_date", "00080021", Level.SERIES),
    Column("series_description", "0008103E", Level.SERIES),
    Column("body_part", "00180015", Level.SERIES),
    Column("step_date", "00400244", Level.SERIES),
)
COLUMN_OF = {column.tag: column for column in COLUMNS}

TABLES = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.INSTANCE: "header"}
"""The table that holds the columns of each level: those of instances are their headers'."""

_INDEXED = {
    Level.PATIENT: "digest changed_at patient_id patient_name patient_words birth_date",
    Level.STUDY: """changed_at patient_id patient_name patient_words birth_date study_moment accession_number
        study_number study_description referring_name referring_words""",
    Level.SERIES: "patient_id patient_name study_date accession_number modality series_date step_date",
    Level.INSTANCE: "patient_id patient_name study_date accession_number modality sop_class",
}

_ENTITIES = """
CREATE TABLE archive (token TEXT NOT NULL, sequence INTEGER NOT NULL);

CREATE TABLE patient (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, digest TEXT NOT NULL DEFAULT '',
    studies INTEGER NOT NULL, series INTEGER NOT NULL, instances INTEGER NOT NULL, changed INTEGER NOT NULL,
    changed_at TEXT NOT NULL DEFAULT '{never}',
    modalities TEXT NOT NULL, sop_classes TEXT NOT NULL, transfer_syntaxes TEXT NOT NULL,
    {patient_columns}, attributes BLOB NOT NULL);

CREATE TABLE study (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, patient INTEGER NOT NULL,
    series INTEGER NOT NULL, instances INTEGER NOT NULL, changed INTEGER NOT NULL,
    changed_at TEXT NOT NULL DEFAULT '{never}',
    modalities TEXT NOT NULL, sop_classes TEXT NOT NULL, transfer_syntaxes TEXT NOT NULL,
    {study_columns}, attributes BLOB NOT NULL);
CREATE INDEX study_by_patient ON study (patient);
CREATE INDEX study_list ON study (study_date DESC, study_time DESC, uid);

CREATE TABLE series (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL, study INTEGER NOT NULL,
    instances INTEGER NOT NULL, changed INTEGER NOT NULL, changed_at TEXT NOT NULL DEFAULT '{never}',
    modalities TEXT NOT NULL, sop_classes TEXT NOT NULL, transfer_syntaxes TEXT NOT NULL,
    {series_columns}, attributes BLOB NOT NULL);
CREATE UNIQUE INDEX series_by_study ON series (study, uid);
CREATE INDEX series_by_uid ON series (uid);

CREATE TABLE header (
    id INTEGER PRIMARY KEY, series INTEGER NOT NULL, study INTEGER NOT NULL, digest BLOB NOT NULL,
    study_uid TEXT NOT NULL, series_uid TEXT NOT NULL, sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL,
    instances INTEGER NOT NULL, first INTEGER NOT NULL,
    {header_columns}, attributes BLOB NOT NULL);
CREATE UNIQUE INDEX header_by_series ON header (series, digest);
CREATE INDEX header_by_study ON header (study);

CREATE TABLE instance (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, series INTEGER NOT NULL, header INTEGER NOT NULL,
    position REAL NOT NULL, changed INTEGER NOT NULL, stored_at INTEGER NOT NULL,
    blob_key TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, layout_blob TEXT, summary BLOB NOT NULL);
CREATE INDEX instance_order ON instance (series, position, uid);
CREATE INDEX instance_by_header ON instance (header);
CREATE INDEX instance_by_blob ON instance (blob_key);
CREATE INDEX instance_by_layout ON instance (layout_blob) WHERE layout_blob IS NOT NULL;

CREATE TABLE content (id INTEGER PRIMARY KEY, layout BLOB NOT NULL, metadata BLOB NOT NULL);

CREATE TABLE replaced (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL,
    sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL, stored_at INTEGER NOT NULL, replaced_at INTEGER NOT NULL,
    blob_key TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, layout_blob TEXT,
    layout BLOB NOT NULL, metadata BLOB NOT NULL, binned INTEGER);
CREATE INDEX replaced_by_uid ON replaced (uid);
CREATE INDEX replaced_by_blob ON replaced (blob_key);
CREATE INDEX replaced_by_layout ON replaced (layout_blob) WHERE layout_blob IS NOT NULL;

{bin}
CREATE TABLE released (id INTEGER PRIMARY KEY AUTOINCREMENT, blob_key TEXT NOT NULL UNIQUE);

CREATE TABLE change (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL,
    instance_uid TEXT NOT NULL, changed_at INTEGER NOT NULL);

CREATE TABLE document (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, deleted INTEGER NOT NULL,
    PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE document_version (
    kind TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, deleted INTEGER NOT NULL,
    changed_at INTEGER NOT NULL, keys BLOB NOT NULL, body BLOB NOT NULL);
CREATE UNIQUE INDEX document_version_key ON document_version (kind, id, version);
CREATE TABLE document_key (
    kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (kind, name, value, id)) WITHOUT ROWID;
CREATE INDEX document_key_by_id ON document_key (kind, id);
"""

# Removed instances under the id that they had. `replaced.binned` is the id of the entry that an older version is in the
# bin with; NULL where the instance is stored.
_BIN = """
CREATE TABLE binned (
    id INTEGER PRIMARY KEY, uid TEXT NOT NULL, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL,
    sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL, stored_at INTEGER NOT NULL, binned_at INTEGER NOT NULL,
    blob_key TEXT NOT NULL, size_bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, layout_blob TEXT,
    layout BLOB NOT NULL, metadata BLOB NOT NULL);
CREATE INDEX binned_by_time ON binned (binned_at, id);
CREATE INDEX binned_by_study ON binned (study_uid, binned_at, id);
CREATE INDEX binned_by_series ON binned (series_uid, binned_at, id);
CREATE INDEX binned_by_uid ON binned (uid);
CREATE INDEX binned_by_blob ON binned (blob_key);
CREATE INDEX binned_by_layout ON binned (layout_blob) WHERE layout_blob IS NOT NULL;
CREATE INDEX replaced_by_time ON replaced (replaced_at) WHERE binned IS NULL;
CREATE INDEX replaced_by_bin ON replaced (binned) WHERE binned IS NOT NULL;
"""

_VALUES = """
CREATE TABLE {table}_value (tag TEXT NOT NULL, value, id INTEGER NOT NULL, PRIMARY KEY (tag, value, id)) WITHOUT ROWID;
CREATE INDEX {table}_value_by_id ON {table}_value (id);
"""


@cache
def columns_of(level: Level) -> tuple[Column, ...]:
    """The columns of a level's table: its own and those of the levels above."""
    return tuple(column for column in COLUMNS if column.level.depth <= level.depth)


def prepare(connection: sqlite3.Connection) -> None:
    """Create the schema in a new database, or check that of an old one; run in a write transaction.

    Raises ConfigError for a file that is not ours, or was written by a newer release.
    """
    version = version_of(connection)
    if version is None:
        for statement in _statements():
            connection.execute(statement)
        return
    if version < 2:
        _add_digests(connection)
    if version < 3:
        _add_bin(connection)
    if version > VERSION:
        raise ConfigError(
            f"The archive was written by a newer release: it has schema {version}, this one reads up to {VERSION}."
        )


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of the schema; None in a new file. Raises ConfigError for a file that is not ours."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and not tables:
        return None
    if application != APPLICATION_ID:
        raise ConfigError("The SQLite file of the settings exists, but is no archive of this server.")
    return int(version)


def is_older(connection: sqlite3.Connection) -> bool:
    """Whether there is an archive with a schema before this one."""
    return (version_of(connection) or VERSION) < VERSION


def _add_bin(connection: sqlite3.Connection) -> None:
    """From version 2: there is a bin."""
    connection.execute("ALTER TABLE replaced ADD COLUMN binned INTEGER")
    for statement in _split(_BIN):
        connection.execute(statement)
    connection.execute("PRAGMA user_version = 3")


def _split(text: str) -> list[str]:
    return [statement for part in text.split(";") if (statement := part.strip())]


def _add_digests(connection: sqlite3.Connection) -> None:
    """From version 1: patients have a digest, and what is above instances the time of its last change. What was stored
    before is as old as its newest instance."""
    connection.execute("ALTER TABLE patient ADD COLUMN digest TEXT NOT NULL DEFAULT ''")
    for table in ("patient", "study", "series"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN changed_at TEXT NOT NULL DEFAULT '{NEVER_CHANGED}'")
    for row_id, uid in connection.execute("SELECT id, uid FROM patient").fetchall():
        connection.execute("UPDATE patient SET digest = ? WHERE id = ?", (patient_digest(uid), row_id))
    latest = "SELECT s.id, max(i.stored_at) FROM series s JOIN instance i ON i.series = s.id GROUP BY s.id"
    for row_id, stored_at in connection.execute(latest).fetchall():
        connection.execute("UPDATE series SET changed_at = ? WHERE id = ?", (digits_of(stored_at), row_id))
    for table, below in (("study", "series"), ("patient", "study")):
        connection.execute(
            f"UPDATE {table} SET changed_at = coalesce((SELECT max(changed_at) FROM {below} b "  # noqa: S608
            f"WHERE b.{table} = {table}.id), '{NEVER_CHANGED}')"
        )
    for table, name in (("patient", "digest"), ("patient", "changed_at"), ("study", "changed_at")):
        connection.execute(f"CREATE INDEX {table}_{name} ON {table} ({name})")
    connection.execute("PRAGMA user_version = 2")


def digits_of(microseconds: int) -> str:
    """A time of the tables as the digits of `changed_at`."""
    return clock_digits(EPOCH + timedelta(microseconds=microseconds))


def _statements() -> list[str]:
    columns = {
        f"{TABLES[level]}_columns": ", ".join(
            f"{column.name} {column.type}" + (f", {column.words} TEXT" if column.words else "")
            for column in columns_of(level)
        )
        for level in Level
    }
    text = _ENTITIES.format(never=NEVER_CHANGED, bin=_BIN, **columns)
    text += "".join(_VALUES.format(table=table) for table in TABLES.values())
    for level, names in _INDEXED.items():
        table = TABLES[level]
        text += "".join(f"CREATE INDEX {table}_{name} ON {table} ({name});\n" for name in names.split())
    text += "INSERT INTO archive VALUES (lower(hex(randomblob(4))), 1);\n"
    text += f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {VERSION};\n"
    return _split(text)
