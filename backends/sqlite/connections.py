"""Connections to the database file: how they are opened, shared among threads, and what their errors mean."""

import os
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import orjson

from backends.sqlite import schema
from dicomweb_server.dicom.matching import Term, matches, sort_key
from dicomweb_server.errors import OutcomeUnknown, StorageCorrupt, StorageError, StorageFull, StorageUnavailable
from dicomweb_server.storage.records import SchemaState

_IDLE = 32
UPGRADE_SECONDS = 1800.0
"""So long a start waits for another process that upgrades the schema."""
_UNAVAILABLE = frozenset((
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
))  # fmt: skip
_CORRUPT = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB))


@contextmanager
def driver_errors() -> Iterator[None]:
    """Turn what SQLite raises into errors of ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error) from error
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise StorageCorrupt("A record of the index cannot be read back.") from error


def _translated(error: sqlite3.Error) -> StorageError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("No space is left for the index.", retry_after_seconds=60)
    if code in _CORRUPT:
        return StorageCorrupt("The index is damaged.")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageUnavailable("The index is busy with other writers.", retry_after_seconds=2)
    if code in _UNAVAILABLE:
        return StorageUnavailable("The index cannot be read or written now.")
    return StorageError("The index refused an operation.")


class Connection(sqlite3.Connection):
    """A connection with the functions that match what has no column. `matching` and `sorting` hold the terms and tags
    of the running query; statements name them by their place."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.matching: list[Term] = []
        self.sorting: list[str] = []
        functions: dict[str, Callable[[int, Any], Any]] = {
            "dicom_match": lambda place, json: matches(self.matching[place], orjson.loads(json)),
            "dicom_match_metadata": lambda place, data: matches(self.matching[place], _inflated(data)),
            "dicom_sort": lambda place, json: sort_key(orjson.loads(json), self.sorting[place]),
            "dicom_sort_metadata": lambda place, data: sort_key(_inflated(data), self.sorting[place]),
        }
        for name, function in functions.items():
            self.create_function(name, 2, function, deterministic=True)


def _inflated(data: bytes) -> Any:
    return orjson.loads(zlib.decompress(data, -15))


def _commit(connection: Connection) -> None:
    """When the disk fails here, the transaction may stand in the log as a whole. It is void once another one is written
    in its place; whoever opens the file before that finds it done."""
    try:
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR:
            raise OutcomeUnknown("The disk of the index failed during a write, which may be done or not.") from error
        raise


class Connections:
    """The connections of one process. Each is used by one thread at a time and kept for the next."""

    def __init__(self, path: str, *, busy_timeout_seconds: float, synchronous: str) -> None:
        self._path = path
        self._busy_timeout_seconds = busy_timeout_seconds
        self._synchronous = synchronous
        self._idle: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._open = False

    def schema(self) -> SchemaState:
        """The schema of the file, which is not made."""
        try:
            os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return SchemaState(found=None, current=schema.VERSION)
        except OSError as error:
            raise StorageUnavailable("The file of the index cannot be reached.") from error
        try:
            with driver_errors(), closing(self._connect()) as connection:
                return SchemaState(found=schema.version_of(connection), current=schema.VERSION)
        except StorageUnavailable:
            self._make_file()  # tells why, where the file is not to be written
            raise

    def open(self) -> None:
        """Create, upgrade or check the database file."""
        with driver_errors():
            self._make_file()
            connection = self._connect()
            try:
                self._make_wal(connection)
                self._begin(connection)
                schema.prepare(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        with self._lock:
            self._open = True
            self._idle.append(connection)

    def is_writable(self) -> bool:
        """Whether the file may be written: a disk that had an error can be mounted read-only."""
        return os.access(self._path, os.W_OK)

    def close(self) -> None:
        """Close all that are idle; those in use close when they are given back."""
        with self._lock:
            self._open = False
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of the database for all statements inside."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def single(self) -> Iterator[Connection]:
        """For one statement that reads: it needs no transaction to be consistent."""
        with self._transaction(None) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer interrupts; committed at the end, taken back on any error."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str | None) -> Iterator[Connection]:
        with driver_errors():
            connection = self._take()
            try:
                if begin is not None:
                    connection.execute(begin)
                yield connection
                if begin is not None:
                    _commit(connection)
            finally:
                if connection.in_transaction:
                    connection.rollback()
                self._give_back(connection)

    def _take(self) -> Connection:
        with self._lock:
            if not self._open:
                raise StorageUnavailable("The index is not open.")
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        connection.matching, connection.sorting = [], []
        with self._lock:
            if self._open and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _make_file(self) -> None:
        """Readable by the owner only, and so are the files that SQLite puts beside it."""
        try:
            os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StorageUnavailable("The file of the index cannot be opened for writing.") from error

    def _connect(self) -> Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_seconds,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=Connection,
        )
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE_BYTES}")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        return connection

    def _begin(self, connection: Connection) -> None:
        """Wait longer than usual for who upgrades the schema, and then as usual for those who waited too."""
        deadline = time.monotonic() + UPGRADE_SECONDS
        older_at: float | None = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or now > deadline:
                    raise
                if schema.is_older(connection):
                    older_at = now
                elif older_at is None or now > older_at + 2 * self._busy_timeout_seconds:
                    raise

    def _make_wal(self, connection: Connection) -> None:
        """SQLite does not wait by itself when two processes switch a new database at once."""
        deadline = time.monotonic() + self._busy_timeout_seconds
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
