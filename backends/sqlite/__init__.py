"""The index in one SQLite file."""

from backends.sqlite.storage import SQLiteStorage

__all__ = ["SQLiteStorage"]
