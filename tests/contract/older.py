"""Archives as older releases left them, made of those of today."""

import sqlite3
from contextlib import closing
from pathlib import Path


def to_schema_1(path: Path) -> None:
    """Take everything out of a closed SQLite index that came after schema 1."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in ("patient_digest", "patient_changed_at", "study_changed_at"):
            connection.execute(f"DROP INDEX {name}")
        connection.execute("ALTER TABLE patient DROP COLUMN digest")
        for table in ("patient", "study", "series"):
            connection.execute(f"ALTER TABLE {table} DROP COLUMN changed_at")
        connection.execute("DROP TABLE binned")
        for name in ("replaced_by_time", "replaced_by_bin"):
            connection.execute(f"DROP INDEX {name}")
        connection.execute("ALTER TABLE replaced DROP COLUMN binned")
        connection.execute("PRAGMA user_version = 1")
