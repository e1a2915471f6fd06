"""The index in one SQLite file: `Storage` for a single machine, with any number of threads and processes."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import orjson

from backends import dumping
from backends.sqlite import binned, documents, moving, reading, recompute
from backends.sqlite.connections import Connections
from backends.sqlite.writer import Writer
from dicomweb_server.errors import ConfigError, StorageError
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinPage,
    Change,
    Document,
    DocumentPage,
    DocumentTerm,
    DocumentWrite,
    InstanceRecord,
    Metadata,
    OnDuplicate,
    Page,
    Removed,
    ReplacedVersion,
    Restored,
    SchemaState,
    Scope,
    StorageState,
    StoredInstance,
    StoreOutcome,
    Usage,
)

_SETTINGS = ("path", "busy_timeout_seconds", "synchronous")
_SYNCHRONOUS = ("FULL", "EXTRA", "NORMAL")


class SQLiteStorage(Storage):
    """Settings: `path` of the file; `busy_timeout_seconds` (10) to wait for other processes; `synchronous` (FULL):
    NORMAL is faster, but may lose what was acknowledged last when the power fails."""

    def __init__(self, path: str, *, busy_timeout_seconds: float = 10.0, synchronous: str = "FULL") -> None:
        self._connections = Connections(path, busy_timeout_seconds=busy_timeout_seconds, synchronous=synchronous)
        self._writer = Writer(self._connections)

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise ConfigError(f"sqlite has no setting {unknown[0]!r}; it has {', '.join(_SETTINGS)}.")
        path = settings.get("path")
        if not path or not isinstance(path, str) or "\0" in path:
            raise ConfigError("sqlite.path must name the file of the index.")
        timeout = settings.get("busy_timeout_seconds", 10.0)
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout <= 600:
            raise ConfigError("sqlite.busy_timeout_seconds must be a number from 0 to 600.")
        synchronous = settings.get("synchronous", "FULL")
        if synchronous not in _SYNCHRONOUS:
            raise ConfigError(f"sqlite.synchronous must be one of {', '.join(_SYNCHRONOUS)}.")
        return cls(path, busy_timeout_seconds=float(timeout), synchronous=synchronous)

    def schema(self) -> SchemaState:
        return self._connections.schema()

    def open(self) -> None:
        self._connections.open()

    def close(self) -> None:
        self._connections.close()

    def check(self) -> StorageState:
        started = time.perf_counter()
        try:
            with self._connections.reading() as connection:
                connection.execute("SELECT sequence FROM archive").fetchone()
        except StorageError as error:
            return StorageState(ready=False, latency_seconds=time.perf_counter() - started, detail=error.message)
        ready = self._connections.is_writable()
        detail = f"The index {'answers' if ready else 'can be read, but not written'}."
        return StorageState(ready=ready, latency_seconds=time.perf_counter() - started, detail=detail)

    # Instances

    def store(self, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        return self._writer.run(lambda unit: [unit.store(record, on_duplicate) for record in records])

    def get(self, *, scope: Scope) -> StoredInstance:
        with self._connections.single() as connection:
            return reading.get(connection, scope)

    def instances(self, *, scope: Scope) -> Iterator[StoredInstance]:
        return reading.instances(self._connections, scope)

    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        return reading.metadata(self._connections, scope)

    def metadata_of(self, *, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        with self._connections.reading() as connection:
            return reading.metadata_of(connection, instance_uids)

    def version(self, *, scope: Scope) -> str:
        with self._connections.reading() as connection:
            return reading.version(connection, scope)

    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        return self._writer.run(lambda unit: unit.remove(scope, keep=keep))

    def replaced(self, *, instance_uid: str) -> Sequence[ReplacedVersion]:
        with self._connections.reading() as connection:
            return reading.replaced(connection, instance_uid)

    def restore(self, *, instance_uid: str, version: str) -> None:
        self._writer.run(lambda unit: unit.restore(instance_uid, version))

    def purge_replaced(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        return self._writer.run(lambda unit: binned.purge_replaced(unit, scope, before, limit))

    # Checking what is derived

    def is_exact(self, *, scope: Scope) -> bool:
        with self._connections.reading() as connection:
            return recompute.is_exact(connection, scope)

    def recompute(self, *, scope: Scope) -> None:
        self._writer.run(lambda unit: recompute.recompute(unit, scope))

    # The bin

    def binned(
        self, *, scope: Scope, before: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> BinPage:
        with self._connections.reading() as connection:
            return binned.page(connection, scope, before, limit, cursor)

    def restore_binned(self, *, entries: Sequence[str]) -> list[Restored]:
        return self._writer.run(lambda unit: [binned.restore(unit, entry) for entry in entries])

    def purge_binned(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        return self._writer.run(lambda unit: binned.purge(unit, scope, before, limit))

    # Search

    def search(self, *, query: Query) -> Page:
        with self._connections.reading() as connection:
            return reading.search(connection, query)

    def count(self, *, query: Query) -> int:
        with self._connections.reading() as connection:
            return reading.count(connection, query)

    # Release queue

    def released(self, *, limit: int) -> Sequence[str]:
        with self._connections.reading() as connection:
            rows = connection.execute("SELECT blob_key FROM released ORDER BY id LIMIT ?", (limit,))
            return [row[0] for row in rows]

    def confirm_released(self, *, keys: Iterable[str]) -> None:
        listed = [(key,) for key in keys]
        self._writer.run(lambda unit: unit.connection.executemany("DELETE FROM released WHERE blob_key = ?", listed))

    def known_blobs(self, *, keys: Sequence[str]) -> frozenset[str]:
        listed = orjson.dumps(list(keys)).decode()
        with self._connections.reading() as connection:
            rows = connection.execute(
                "WITH asked AS MATERIALIZED (SELECT value AS key FROM json_each(?)) SELECT key FROM asked WHERE "
                "EXISTS (SELECT 1 FROM instance WHERE blob_key = key) "
                "OR EXISTS (SELECT 1 FROM instance WHERE layout_blob = key) "
                "OR EXISTS (SELECT 1 FROM replaced WHERE blob_key = key) "
                "OR EXISTS (SELECT 1 FROM replaced WHERE layout_blob = key) "
                "OR EXISTS (SELECT 1 FROM binned WHERE blob_key = key) "
                "OR EXISTS (SELECT 1 FROM binned WHERE layout_blob = key) "
                "OR EXISTS (SELECT 1 FROM released WHERE blob_key = key)",
                (listed,),
            )
            return frozenset(row[0] for row in rows)

    # Change feed

    def changes(self, *, after: str | None, limit: int) -> Sequence[Change]:
        with self._connections.reading() as connection:
            return reading.changes(connection, after, limit)

    def usage(self, *, scope: Scope) -> Usage:
        with self._connections.reading() as connection:
            return reading.usage(connection, scope)

    def stored_bytes(self) -> int:
        with self._connections.reading() as connection:
            return reading.stored_bytes(connection)

    def newest_change(self) -> str | None:
        with self._connections.reading() as connection:
            return reading.newest_change(connection)

    # Documents

    def put_document(
        self,
        *,
        kind: str,
        document_id: str,
        body: Any,
        keys: Mapping[str, tuple[str, ...]],
        expected_version: int | None = None,
    ) -> Document:
        return self._writer.run(
            lambda unit: documents.put(
                unit.connection,
                kind=kind,
                document_id=document_id,
                body=body,
                keys=keys,
                expected_version=expected_version,
            )
        )

    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        with self._connections.reading() as connection:
            return documents.get(connection, kind=kind, document_id=document_id, version=version)

    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        with self._connections.reading() as connection:
            return documents.get_many(connection, names)

    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        self._writer.run(
            lambda unit: documents.forget_versions(unit.connection, kind=kind, document_id=document_id, before=before)
        )

    def document_history(self, *, kind: str, document_id: str) -> Sequence[Document]:
        with self._connections.reading() as connection:
            return documents.history(connection, kind=kind, document_id=document_id)

    def find_documents(
        self,
        *,
        kind: str,
        terms: Sequence[DocumentTerm] = (),
        limit: int = 100,
        cursor: str | None = None,
    ) -> DocumentPage:
        with self._connections.reading() as connection:
            return documents.find(connection, kind=kind, terms=terms, limit=limit, cursor=cursor)

    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        return self._writer.run(
            lambda unit: documents.put(
                unit.connection,
                kind=kind,
                document_id=document_id,
                body=None,
                keys={},
                expected_version=expected_version,
                deleted=True,
            )
        )

    def purge_documents(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        return self._writer.run(lambda unit: documents.purge(unit.connection, kind=kind, terms=terms, limit=limit))

    @property
    def transacts(self) -> bool:
        return True

    def write_documents(self, *, writes: Sequence[DocumentWrite]) -> list[Document]:
        return self._writer.run(lambda unit: documents.put_all(unit.connection, writes))

    # Moving an archive

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        return dumping.dump(moving.parts(self._connections), after)

    def load(self, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        self._writer.run(lambda unit: moving.load(unit, entries, note))

    def loaded(self) -> str | None:
        with self._connections.reading() as connection:
            return moving.loaded(connection)
