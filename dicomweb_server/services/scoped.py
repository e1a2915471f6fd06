"""The archive as the one who asks may see it.

`ScopedStorage` stands between the services and the storage. After `see_through` every study that does not match the
terms does not exist, whatever front end asks: searches, counts, retrieval, versions (and so 304), changes, deletion.
The bin is open only to who sees all studies: those in it are not there to be compared with the terms.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from dicomweb_server.dicom.attributes import Attributes
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AllOf, AnyOf, Condition, Has, Not, Term, matches
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.errors import BadRequest, Forbidden, NotFound
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
    Hit,
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
    Stored,
    StoredInstance,
    StoreOutcome,
    Usage,
)

Terms = tuple[Term, ...]

_NO_STUDY = "there is no such study"
_PATIENT_ID, _INSTANCE_UID = "00100020", "00080018"
_FHIR, _FHIR_KEY, _ADDITIONS = "fhir-", "fhir-key", "-additions"
REMEMBER_SECONDS = 2.0
MAX_REMEMBERED = 10_000
PATIENTS_AT_ONCE = 200

_terms: ContextVar[Terms] = ContextVar("terms", default=())


def see_through(terms: Terms) -> None:
    """From now on this thread sees only studies that match the terms; all of them where there are none. Set for each
    request anew, because the answer may be streamed after the request was handled."""
    _terms.set(terms)


def _all_only() -> None:
    if _terms.get():
        raise Forbidden("the bin is open only to those who may see every study")


class ScopedStorage(Storage):
    """A storage seen through the terms of the request: a method that says nothing else does what the other one does,
    for what exists. `clock` gives seconds that only grow."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._lock = threading.Lock()
        self._visible: OrderedDict[tuple[Terms, str], float] = OrderedDict()

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        """There is none without another storage."""
        raise TypeError("a scoped storage is made over another one")

    def schema(self) -> SchemaState:
        return self._storage.schema()

    def open(self) -> None:
        """The other storage is opened by whoever made it."""

    def close(self) -> None:
        """The other storage is closed by whoever made it."""

    def sees(self, study_uid: str) -> bool:
        """Whether the study exists for the one who asks."""
        terms = _terms.get()
        return not terms or self._matches(terms, study_uid)

    def would_see(self, attributes: Attributes, changed: Set[str]) -> bool:
        """Whether a study that they see would go on to exist for them with these attributes, of which some changed."""
        return all(term.path[0] not in changed or matches(term, attributes) for term in _terms.get())

    def _matches(self, terms: Terms, study_uid: str) -> bool:
        key, now = (terms, study_uid), self._clock()
        with self._lock:
            if self._visible.get(key, 0.0) > now:
                return True
        query = Query(level=Level.STUDY, scope=Scope(study_uid=study_uid), terms=terms)
        if not self._storage.count(query=query):
            return False
        with self._lock:
            self._visible[key] = now + REMEMBER_SECONDS
            self._visible.move_to_end(key)
            while len(self._visible) > MAX_REMEMBERED:
                self._visible.popitem(last=False)
        return True

    def _check(self, scope: Scope) -> None:
        if _terms.get():
            if scope.study_uid is None:
                raise NotFound("the whole archive is not open to you; name a study")
            if not self.sees(scope.study_uid):
                raise NotFound(_NO_STUDY)

    # Instances

    def store(self, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        """Refuses what would change a study, or an instance, that exists but not for the one who asks."""
        if not _terms.get():
            return self._storage.store(records=records, on_duplicate=on_duplicate)
        allowed = [record for record in records if self._may_store(record)]
        done = iter(self._storage.store(records=allowed, on_duplicate=on_duplicate))
        kept = {id(record) for record in allowed}
        return [
            next(done) if id(record) in kept else StoreOutcome(stored=Stored.REFUSED, instance_uid=record.instance_uid)
            for record in records
        ]

    def _may_store(self, record: InstanceRecord) -> bool:
        homes = {record.study_uid, *self._studies_of(record.instance_uid)}
        return all(self.sees(uid) or not self._exists(uid) for uid in homes)

    def _exists(self, study_uid: str) -> bool:
        return bool(self._storage.count(query=Query(level=Level.STUDY, scope=Scope(study_uid=study_uid))))

    def _studies_of(self, instance_uid: str) -> list[str]:
        term = parse_term((_INSTANCE_UID,), instance_uid)
        query = Query(level=Level.INSTANCE, terms=(term,) if term else (), limit=1)
        return [hit.study_uid for hit in self._storage.search(query=query).hits if hit.study_uid]

    def get(self, *, scope: Scope) -> StoredInstance:
        self._check(scope)
        return self._storage.get(scope=scope)

    def instances(self, *, scope: Scope) -> Iterator[StoredInstance]:
        self._check(scope)
        return self._storage.instances(scope=scope)

    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        self._check(scope)
        return self._storage.metadata(scope=scope)

    def metadata_of(self, *, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        """As the other storage; what does not exist is left out."""
        found = self._storage.metadata_of(instance_uids=instance_uids)
        if not _terms.get():
            return found
        return {uid: metadata for uid, metadata in found.items() if self.sees(metadata.study_uid)}

    def version(self, *, scope: Scope) -> str:
        self._check(scope)
        return self._storage.version(scope=scope)

    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        self._check(scope)
        return self._storage.remove(scope=scope, keep=keep)

    def replaced(self, *, instance_uid: str) -> Sequence[ReplacedVersion]:
        if _terms.get() and not all(map(self.sees, self._studies_of(instance_uid))):
            return ()
        return self._storage.replaced(instance_uid=instance_uid)

    def restore(self, *, instance_uid: str, version: str) -> None:
        if _terms.get() and not all(map(self.sees, self._studies_of(instance_uid))):
            raise NotFound("there is no such instance")
        self._storage.restore(instance_uid=instance_uid, version=version)

    def purge_replaced(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        _all_only()
        return self._storage.purge_replaced(scope=scope, before=before, limit=limit)

    # Checking what is derived

    def is_exact(self, *, scope: Scope) -> bool:
        """As the other storage: it is asked by commands only."""
        return self._storage.is_exact(scope=scope)

    def recompute(self, *, scope: Scope) -> None:
        self._storage.recompute(scope=scope)

    # The bin: whose studies are not there to be asked

    def binned(
        self, *, scope: Scope, before: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> BinPage:
        _all_only()
        return self._storage.binned(scope=scope, before=before, limit=limit, cursor=cursor)

    def restore_binned(self, *, entries: Sequence[str]) -> list[Restored]:
        _all_only()
        return self._storage.restore_binned(entries=entries)

    def purge_binned(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        _all_only()
        return self._storage.purge_binned(scope=scope, before=before, limit=limit)

    # Search

    def search(self, *, query: Query) -> Page:
        terms = _terms.get()
        if not terms:
            return self._storage.search(query=query)
        if query.level is Level.PATIENT:
            return self._patients(query, terms)
        if query.level is Level.STUDY:
            return self._storage.search(query=replace(query, terms=query.terms + terms))
        if query.scope.study_uid is not None:
            return self._storage.search(query=query) if self.sees(query.scope.study_uid) else Page(hits=(), more=False)
        # A series has the values of its own instances, which can differ from those that decide, of its study.
        page = self._storage.search(query=replace(query, terms=query.terms + terms))
        return replace(page, hits=[hit for hit in page.hits if hit.study_uid and self.sees(hit.study_uid)])

    def count(self, *, query: Query) -> int:
        terms = _terms.get()
        if not terms:
            return self._storage.count(query=query)
        if query.level is Level.PATIENT:
            return sum(1 for _ in self._all_patients(query, terms))
        if query.level is not Level.STUDY and query.scope.study_uid is not None:
            return self._storage.count(query=query) if self.sees(query.scope.study_uid) else 0
        return self._storage.count(query=replace(query, terms=query.terms + terms))

    def _patients(self, query: Query, terms: Terms) -> Page:
        """Patients are asked for their studies one by one: what decides belongs to studies."""
        hits: list[Hit] = []
        for number, hit in enumerate(self._all_patients(query, terms)):
            if number < query.offset:
                continue
            if len(hits) == query.limit:
                return Page(hits=hits, more=True)
            hits.append(hit)
        return Page(hits=hits, more=False)

    def _all_patients(self, query: Query, terms: Terms) -> Iterator[Hit]:
        # What is asked of the studies of a patient is asked of those that can be seen.
        query = replace(query, conditions=tuple(_narrowed(one, terms) for one in query.conditions))
        offset = 0
        while True:
            page = self._storage.search(query=replace(query, limit=PATIENTS_AT_ONCE, offset=offset))
            for hit in page.hits:
                if (seen := self._patient(hit, terms)) is not None:
                    yield seen
            if not page.more:
                return
            offset += len(page.hits)

    def _patient(self, hit: Hit, terms: Terms) -> Hit | None:
        """The patient with the numbers of what exists. One without an ID is nobody whose studies could be found."""
        values = hit.attributes.get(_PATIENT_ID, {}).get("Value") or [""]
        term = parse_term((_PATIENT_ID,), str(values[0]).replace("*", "?"))
        if term is None:
            return None
        studies = self._storage.search(query=Query(level=Level.STUDY, terms=(term, *terms))).hits
        if not studies:
            return None
        return replace(
            hit,
            number_of_studies=len(studies),
            number_of_series=sum(study.number_of_series for study in studies),
            number_of_instances=sum(study.number_of_instances for study in studies),
        )

    def usage(self, *, scope: Scope) -> Usage:
        """As the other storage; of the whole archive for who may see all."""
        self._check(scope)
        return self._storage.usage(scope=scope)

    def stored_bytes(self) -> int:
        """As the other storage: what is full is full for all."""
        return self._storage.stored_bytes()

    # Release queue

    def released(self, *, limit: int) -> Sequence[str]:
        return self._storage.released(limit=limit)

    def confirm_released(self, *, keys: Iterable[str]) -> None:
        self._storage.confirm_released(keys=keys)

    def known_blobs(self, *, keys: Sequence[str]) -> frozenset[str]:
        return self._storage.known_blobs(keys=keys)

    def check(self) -> StorageState:
        return self._storage.check()

    # Change feed

    def changes(self, *, after: str | None, limit: int) -> Sequence[Change]:
        """As the other storage, without the entries of studies that do not exist; of a study that is gone nobody can
        say any more whether it did."""
        if not _terms.get():
            return self._storage.changes(after=after, limit=limit)
        while True:
            entries = self._storage.changes(after=after, limit=limit)
            seen = [entry for entry in entries if self.sees(entry.study_uid)]
            if seen or not entries:
                return seen
            after = entries[-1].cursor

    def newest_change(self) -> str | None:
        """As the other storage: a cursor says nothing of what it stands behind."""
        return self._storage.newest_change()

    # Documents

    def _hidden(self, kind: str) -> bool:
        return bool(_terms.get()) and kind.startswith(_FHIR) and kind != _FHIR_KEY

    def put_document(
        self,
        *,
        kind: str,
        document_id: str,
        body: Any,
        keys: Mapping[str, tuple[str, ...]],
        expected_version: int | None = None,
    ) -> Document:
        return self._storage.put_document(
            kind=kind, document_id=document_id, body=body, keys=keys, expected_version=expected_version
        )

    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        """As the other storage; resources of FHIR that stand for themselves belong to no study, and so do not exist."""
        if self._hidden(kind):
            raise NotFound("there is no such document")
        return self._storage.get_document(kind=kind, document_id=document_id, version=version)

    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        """As the other storage, without what is hidden; what was added to a study or patient is for who sees that."""
        seen = [name for name in names if name[0].endswith(_ADDITIONS) or not self._hidden(name[0])]
        return self._storage.documents_of(names=seen)

    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        self._storage.forget_versions(kind=kind, document_id=document_id, before=before)

    def document_history(self, *, kind: str, document_id: str) -> Sequence[Document]:
        if self._hidden(kind):
            return ()
        return self._storage.document_history(kind=kind, document_id=document_id)

    @property
    def transacts(self) -> bool:
        return self._storage.transacts

    def write_documents(self, *, writes: Sequence[DocumentWrite]) -> list[Document]:
        return self._storage.write_documents(writes=writes)

    def find_documents(
        self,
        *,
        kind: str,
        terms: Sequence[DocumentTerm] = (),
        limit: int = 100,
        cursor: str | None = None,
    ) -> DocumentPage:
        if self._hidden(kind):
            return DocumentPage(documents=(), cursor=None)
        return self._storage.find_documents(kind=kind, terms=terms, limit=limit, cursor=cursor)

    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        return self._storage.delete_document(kind=kind, document_id=document_id, expected_version=expected_version)

    def purge_documents(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        """As the other storage; nothing of FHIR for who does not see it."""
        if self._hidden(kind):
            return 0
        return self._storage.purge_documents(kind=kind, terms=terms, limit=limit)

    # Moving an archive

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """As the other storage, for who may see all."""
        if _terms.get():
            raise BadRequest("only who may see every study can move an archive")
        return self._storage.dump(after=after)

    def load(self, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        self._storage.load(entries=entries, note=note)

    def loaded(self) -> str | None:
        return self._storage.loaded()


def _narrowed(condition: Condition, terms: Terms) -> Condition:
    """A condition on a patient in which studies below it match the terms as well."""
    match condition:
        case AllOf(parts):
            return AllOf(tuple(_narrowed(part, terms) for part in parts))
        case AnyOf(parts):
            return AnyOf(tuple(_narrowed(part, terms) for part in parts))
        case Not(part):
            return Not(_narrowed(part, terms))
        case Has(Level.STUDY, parts):
            return Has(Level.STUDY, (*parts, *terms))
        case _:
            return condition
