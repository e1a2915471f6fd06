"""`Storage` on MongoDB, for any number of threads, processes and machines."""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from backends.mongodb import recompute, releasing, schema, usage
from backends.mongodb.binned import Bin
from backends.mongodb.connection import Connection, MongoSettings
from backends.mongodb.documents import Documents
from backends.mongodb.errors import driver_errors
from backends.mongodb.feed import Feed
from backends.mongodb.instances import LargeMetadata
from backends.mongodb.moving import Mover
from backends.mongodb.reading import Reader
from backends.mongodb.removing import Remover
from backends.mongodb.work import Work
from backends.mongodb.writing import Writer
from dicomweb_server.errors import StorageError, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinPage,
    Change,
    Document,
    DocumentPage,
    DocumentTerm,
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

SWEEP_SECONDS = 30.0
_STOP_SECONDS = 5.0

_log = logging.getLogger(__name__)


class MongoStorage(Storage):
    """Settings: `url` with the credentials (or `url_file`); `database` ("dicomweb"); `tls_ca_file`, `tls_cert_file`;
    `server_selection_timeout_seconds` (5), after which a request is answered that MongoDB is not there; `wait_seconds`
    (60) that a start waits for it."""

    def __init__(self, settings: MongoSettings) -> None:
        self._connection = Connection(settings)
        self._work = Work(self._connection)
        self._feed = Feed(self._connection, self._work)
        large_metadata = LargeMetadata(self._connection)
        self._remover = Remover(self._connection, self._work, self._feed, large_metadata)
        self._writer = Writer(self._connection, self._work, self._feed, self._remover, large_metadata)
        self._reader = Reader(self._connection, self._work, self._feed, self._remover, large_metadata)
        self._bin = Bin(self._connection, self._work, self._feed, self._remover, large_metadata)
        self._documents = Documents(self._connection)
        self._mover = Mover(
            self._connection, self._work, self._feed, self._remover, large_metadata, self._documents, self._bin
        )
        self._sweeper: threading.Thread | None = None
        self._stopping = threading.Event()

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        return cls(MongoSettings.read("mongodb", settings))

    # Life cycle

    def schema(self) -> SchemaState:
        connection = self._connection.another()
        connection.open()
        try:
            with driver_errors(opening=True):
                return schema.state(connection)
        finally:
            connection.close()

    def open(self) -> None:
        self._connection.open()
        try:
            with driver_errors(opening=True):
                self._reader.token = schema.prepare(self._connection)
        except BaseException:
            self._connection.close()
            raise
        if self._sweeper is None:
            self._stopping.clear()
            self._sweeper = threading.Thread(target=self._sweep, name="mongodb-sweeper", daemon=True)
            self._sweeper.start()

    def close(self) -> None:
        self._stopping.set()
        self._connection.close()
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is not None:
            sweeper.join(_STOP_SECONDS)

    def check(self) -> StorageState:
        return self._connection.check()

    def _sweep(self) -> None:
        """Every now and then finish what processes that died left behind."""
        while True:
            try:
                with driver_errors():
                    self._remover.sweep()
                    self._bin.sweep()
            except StorageUnavailable:  # the next time
                pass
            except StorageError:
                _log.exception("What another process left unfinished could not be finished; it is tried again.")
            if self._stopping.wait(SWEEP_SECONDS):
                return

    # Instances

    def store(self, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        with driver_errors():
            return self._writer.store(records, on_duplicate)

    def get(self, *, scope: Scope) -> StoredInstance:
        with driver_errors():
            return self._reader.get(scope)

    def instances(self, *, scope: Scope) -> Iterator[StoredInstance]:
        with driver_errors():
            return self._reader.instances(scope)

    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        with driver_errors():
            return self._reader.metadata(scope)

    def metadata_of(self, *, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        with driver_errors():
            return self._reader.metadata_of(instance_uids)

    def version(self, *, scope: Scope) -> str:
        with driver_errors():
            return self._reader.version(scope)

    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        with driver_errors():
            return self._remover.remove(scope, keep=keep)

    def replaced(self, *, instance_uid: str) -> Sequence[ReplacedVersion]:
        with driver_errors():
            return self._reader.replaced(instance_uid)

    def restore(self, *, instance_uid: str, version: str) -> None:
        with driver_errors():
            self._writer.restore(instance_uid, version)

    def purge_replaced(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        with driver_errors():
            return self._bin.purge_replaced(scope, before, limit)

    # Checking what is derived

    def is_exact(self, *, scope: Scope) -> bool:
        with driver_errors():
            self._remover.settle()
            return recompute.is_exact(self._connection, self._work, scope)

    def recompute(self, *, scope: Scope) -> None:
        with driver_errors():
            recompute.recompute(self._connection, self._work, scope)

    # The bin

    def binned(
        self, *, scope: Scope, before: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> BinPage:
        with driver_errors():
            return self._bin.page(scope, before, limit, cursor)

    def restore_binned(self, *, entries: Sequence[str]) -> list[Restored]:
        with driver_errors():
            return self._bin.restore(entries)

    def purge_binned(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        with driver_errors():
            return self._bin.purge(scope, before, limit)

    # Search

    def search(self, *, query: Query) -> Page:
        with driver_errors():
            return self._reader.search(query)

    def count(self, *, query: Query) -> int:
        with driver_errors():
            return self._reader.count(query)

    # Release queue

    def released(self, *, limit: int) -> Sequence[str]:
        with driver_errors():
            return releasing.released(self._connection, limit)

    def confirm_released(self, *, keys: Iterable[str]) -> None:
        with driver_errors():
            releasing.confirm(self._connection, keys)

    def known_blobs(self, *, keys: Sequence[str]) -> frozenset[str]:
        with driver_errors():
            return self._reader.known_blobs(keys)

    # Change feed

    def changes(self, *, after: str | None, limit: int) -> Sequence[Change]:
        with driver_errors():
            return self._feed.read(after, limit)

    def usage(self, *, scope: Scope) -> Usage:
        with driver_errors():
            self._remover.settle()
            return usage.usage(self._connection, scope)

    def stored_bytes(self) -> int:
        with driver_errors():
            return usage.stored_bytes(self._connection)

    def newest_change(self) -> str | None:
        with driver_errors():
            return str(self._feed.newest() or "") or None

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
        with driver_errors():
            return self._documents.put(
                kind=kind, document_id=document_id, body=body, keys=keys, expected_version=expected_version
            )

    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        with driver_errors():
            return self._documents.get(kind=kind, document_id=document_id, version=version)

    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        with driver_errors():
            return self._documents.get_many(names)

    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        with driver_errors():
            self._documents.forget_versions(kind=kind, document_id=document_id, before=before)

    def document_history(self, *, kind: str, document_id: str) -> Sequence[Document]:
        with driver_errors():
            return self._documents.history(kind=kind, document_id=document_id)

    def find_documents(
        self,
        *,
        kind: str,
        terms: Sequence[DocumentTerm] = (),
        limit: int = 100,
        cursor: str | None = None,
    ) -> DocumentPage:
        with driver_errors():
            return self._documents.find(kind=kind, terms=terms, limit=limit, cursor=cursor)

    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        with driver_errors():
            return self._documents.put(
                kind=kind,
                document_id=document_id,
                body=None,
                keys={},
                expected_version=expected_version,
                deleted=True,
            )

    def purge_documents(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        with driver_errors():
            return self._documents.purge(kind=kind, terms=terms, limit=limit)

    # Moving an archive

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        with driver_errors():
            return self._mover.dump(after)

    def load(self, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        with driver_errors():
            self._mover.load(entries, note)

    def loaded(self) -> str | None:
        with driver_errors():
            return self._mover.loaded()
