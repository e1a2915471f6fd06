"""`CouchStorage`, the contract over the parts of this package."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from backends import dumping
from backends.couchdb import database, designs, keys
from backends.couchdb import records as documents
from backends.couchdb.binned import Bin
from backends.couchdb.database import Json, Server
from backends.couchdb.derive import Deriver
from backends.couchdb.documents import Documents
from backends.couchdb.feed import Feed
from backends.couchdb.inflight import InFlight
from backends.couchdb.mending import Mending
from backends.couchdb.moving import Moving
from backends.couchdb.reading import Reading
from backends.couchdb.removal import Removal
from backends.couchdb.repair import Repair
from backends.couchdb.search import Search
from backends.couchdb.settings import CouchSettings
from backends.couchdb.storing import Storing
from backends.couchdb.usage import UsageViews
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

ARCHIVE, DOCUMENTS = "-archive", "-documents"


class _Parts:
    """What an open storage is made of."""

    def __init__(self, server: Server) -> None:
        self.clock = clock = keys.Clock()
        self.server = server
        self.records, self.archive = server.database(), server.database(ARCHIVE)
        others = server.database(DOCUMENTS)
        self.records.check_format()
        self.records.create(designs.RECORDS, undivided=True)
        self.records.note_format()
        self.archive.create(designs.ENTITIES)
        others.create(designs.DOCUMENTS, undivided=True)
        self.inflight = InFlight(self.records)
        self.deriver = deriver = Deriver(self.records, self.archive)
        self.reading = Reading(self.records)
        self.storing = Storing(self.records, self.archive, deriver, self.inflight, clock)
        self.removal = Removal(self.records, self.archive, deriver, self.inflight, clock)
        self.search = Search(self.records, self.archive)
        self.feed = Feed(self.records)
        self.usage = UsageViews(self.records)
        self.documents = Documents(others, clock)
        self.bin = Bin(self.records, self.reading, deriver, self.inflight, self.removal, clock)
        self.moving = Moving(self.records, self.archive, self.documents, deriver, self.inflight, self.bin, clock)
        self.repair = Repair(self.records, self.archive, deriver, self.inflight, self.removal, clock)
        self.mending = Mending(self.inflight, self.repair.finish)

    def close(self) -> None:
        """Withdraw the entry of this process, as far as the server still answers, and close the connections."""
        self.mending.close()
        with contextlib.suppress(StorageError):
            self.inflight.close()
        self.search.close()
        self.server.close()


class CouchStorage(Storage):
    """The index in the databases `<database>`, `<database>-archive` and `<database>-documents`."""

    def __init__(self, settings: CouchSettings) -> None:
        self._settings = settings
        self._parts: _Parts | None = None

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        return cls(CouchSettings.parse(settings))

    def schema(self) -> SchemaState:
        server = Server(self._settings)
        try:
            with database.opening():
                server.connect()
                return SchemaState(found=server.database().format(), current=database.FORMAT)
        finally:
            server.close()

    def open(self) -> None:
        server = Server(self._settings)
        try:
            with database.opening():
                server.connect()
                parts = _Parts(server)
                parts.clock.go_on_from(parts.feed.last_number())
                parts.repair.run()
                parts.bin.sweep()
        except BaseException:
            server.close()
            raise
        self._parts = parts

    def close(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            parts.close()

    def check(self) -> StorageState:
        if self._parts is None:
            return StorageState(ready=False, latency_seconds=0.0, detail="The storage is not open.")
        return database.check(self._settings, "")

    @property
    def requests(self) -> int:
        """The round trips so far."""
        return self._opened.server.session.requests

    @property
    def rows(self) -> int:
        """The rows of views read so far."""
        return self._opened.server.rows

    @property
    def _opened(self) -> _Parts:
        if self._parts is None:
            raise StorageUnavailable("The storage is not open.")
        return self._parts

    # Instances

    def store(self, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        return self._opened.storing.store(records, on_duplicate)

    def get(self, *, scope: Scope) -> StoredInstance:
        return self._opened.reading.get(scope)

    def instances(self, *, scope: Scope) -> Iterator[StoredInstance]:
        return self._opened.reading.instances(scope)

    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        return self._opened.reading.metadata(scope)

    def metadata_of(self, *, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        return self._opened.reading.metadata_of(instance_uids)

    def version(self, *, scope: Scope) -> str:
        return self._opened.feed.version(scope)

    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        return self._opened.removal.remove(scope, keep=keep)

    def replaced(self, *, instance_uid: str) -> Sequence[ReplacedVersion]:
        return [_replaced(old) for old in self._opened.storing.replaced(instance_uid)]

    def restore(self, *, instance_uid: str, version: str) -> None:
        self._opened.storing.restore(instance_uid, version)

    def purge_replaced(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        return self._opened.bin.purge_replaced(scope, before, limit)

    # Checking what is derived

    def is_exact(self, *, scope: Scope) -> bool:
        deriver = self._opened.deriver
        if scope.study_uid is None:
            return next(deriver.lonely_patients(), None) is None
        return not deriver.wrong(scope.study_uid)

    def recompute(self, *, scope: Scope) -> None:
        deriver = self._opened.deriver
        if scope.study_uid is None:
            deriver.settle_patients(list(deriver.lonely_patients()))
        else:
            deriver.recompute(scope.study_uid)

    # The bin

    def binned(
        self, *, scope: Scope, before: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> BinPage:
        return self._opened.bin.page(scope, before, limit, cursor)

    def restore_binned(self, *, entries: Sequence[str]) -> list[Restored]:
        return self._opened.bin.restore(entries)

    def purge_binned(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        return self._opened.bin.purge(scope, before, limit)

    # Search

    def search(self, *, query: Query) -> Page:
        return self._opened.search.search(query)

    def count(self, *, query: Query) -> int:
        return self._opened.search.count(query)

    # Release queue

    def released(self, *, limit: int) -> Sequence[str]:
        return self._opened.removal.released(limit)

    def confirm_released(self, *, keys: Iterable[str]) -> None:
        self._opened.removal.confirm(keys)

    def known_blobs(self, *, keys: Sequence[str]) -> frozenset[str]:
        return self._opened.removal.known(keys)

    # Change feed

    def changes(self, *, after: str | None, limit: int) -> Sequence[Change]:
        return self._opened.feed.changes(after, limit)

    def usage(self, *, scope: Scope) -> Usage:
        return self._opened.usage.usage(scope)

    def stored_bytes(self) -> int:
        return self._opened.usage.stored_bytes()

    def newest_change(self) -> str | None:
        return self._opened.feed.newest()

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
        return self._opened.documents.put(kind, document_id, body, keys, expected_version)

    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        return self._opened.documents.get(kind, document_id, version)

    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        return self._opened.documents.get_many(names)

    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        self._opened.documents.forget_versions(kind, document_id, before)

    def document_history(self, *, kind: str, document_id: str) -> Sequence[Document]:
        return self._opened.documents.history(kind, document_id)

    def find_documents(
        self, *, kind: str, terms: Sequence[DocumentTerm] = (), limit: int = 100, cursor: str | None = None
    ) -> DocumentPage:
        return self._opened.documents.find(kind, terms, limit, cursor)

    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        return self._opened.documents.delete(kind, document_id, expected_version)

    def purge_documents(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        return self._opened.documents.purge(kind, terms, limit)

    # Moving an archive

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        return dumping.dump(self._opened.moving.parts(), after)

    def load(self, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        self._opened.moving.load(entries, note)

    def loaded(self) -> str | None:
        return self._opened.moving.loaded()


def _replaced(document: Json) -> ReplacedVersion:
    return ReplacedVersion(
        version=document["attempt"],
        instance=documents.stored_instance(document),
        replaced_at=documents.moment(document["replaced_at"]),
    )
