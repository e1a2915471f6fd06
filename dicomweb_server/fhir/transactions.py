"""Transactions: what would be written is gathered, seen by what follows in the transaction, and written at once."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dicomweb_server.errors import NotFound, Unprocessable, VersionConflict
from dicomweb_server.services.scoped import ScopedStorage
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document, DocumentWrite, Removed, Scope


class GatheringStorage(ScopedStorage):
    """A storage whose documents change in here only, until `commit`. Searches see what was there before."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._under = storage
        self._gathered: dict[tuple[str, str], DocumentWrite] = {}
        self._now = datetime.now(UTC)

    def commit(self) -> None:
        """Write everything, all or nothing. Raises VersionConflict when something changed meanwhile."""
        if self._gathered:
            self._under.write_documents(writes=list(self._gathered.values()))

    def put_document(
        self,
        *,
        kind: str,
        document_id: str,
        body: Any,
        keys: Mapping[str, tuple[str, ...]],
        expected_version: int | None = None,
    ) -> Document:
        """Gather a version."""
        return self._gather(kind, document_id, expected_version, body=body, keys=keys)

    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        """Gather a deletion."""
        self.get_document(kind=kind, document_id=document_id)
        return self._gather(kind, document_id, expected_version, deleted=True)

    def _gather(
        self,
        kind: str,
        document_id: str,
        expected_version: int | None,
        *,
        body: Any = None,
        keys: Mapping[str, tuple[str, ...]] | None = None,
        deleted: bool = False,
    ) -> Document:
        if (kind, document_id) in self._gathered:
            raise Unprocessable("a transaction changes a resource once only")
        history = self._under.document_history(kind=kind, document_id=document_id)
        there = history[0].version if history and not history[0].deleted else 0
        if expected_version not in (None, there):
            raise VersionConflict("the document changed since the version that was expected")
        write = DocumentWrite(
            kind=kind, document_id=document_id, expected_version=there, body=body, keys=keys or {}, deleted=deleted
        )
        self._gathered[kind, document_id] = write
        return self._made(write)

    def _made(self, write: DocumentWrite) -> Document:
        history = self._under.document_history(kind=write.kind, document_id=write.document_id)
        return Document(
            kind=write.kind,
            document_id=write.document_id,
            version=(history[0].version if history else 0) + 1,
            body=write.body,
            keys=write.keys,
            changed_at=self._now,
            deleted=write.deleted,
        )

    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        """As gathered, or as it is."""
        write = self._gathered.get((kind, document_id))
        if write is None or version is not None:
            return self._under.get_document(kind=kind, document_id=document_id, version=version)
        if write.deleted:
            raise NotFound("the document is deleted")
        return self._made(write)

    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        """As gathered, or as they are."""
        found = dict(self._under.documents_of(names=names))
        for name in names:
            if write := self._gathered.get(name):
                found.pop(name, None)
                if not write.deleted:
                    found[name] = self._made(write)
        return found

    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        """Images are no documents."""
        raise Unprocessable("a study cannot be deleted in a transaction: send that by itself")


def with_new_ids(value: Any, ids: Mapping[str, str]) -> Any:
    """A resource in which references to entries of the transaction are those to the resources they become."""
    if isinstance(value, list):
        return [with_new_ids(one, ids) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ids.get(one, one) if name == "reference" and isinstance(one, str) else with_new_ids(one, ids)
        for name, one in value.items()
    }
