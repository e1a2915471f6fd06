"""The resources that clients write: documents of the storage, with all their versions, each with the keys by which a
search finds it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dicomweb_server.errors import TooCostly
from dicomweb_server.fhir.clauses import Clause, holds, key_term, keys_of
from dicomweb_server.fhir.values import Json, instant
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents
from dicomweb_server.storage.records import Document, DocumentTerm

MAX_COMPARED = 20_000
_PAGE = 500


def kind_of(kind: str) -> str:
    """The kind of the documents that hold resources of a type which stand for themselves."""
    return f"fhir-{kind}"


def resource_of(document: Document) -> Json:
    """The resource as it is answered: with its version and the time of that."""
    body: dict[str, Any] = dict(document.body or {})
    meta = {
        **{name: value for name, value in body.get("meta", {}).items() if name not in ("versionId", "lastUpdated")},
        "versionId": str(document.version),
        "lastUpdated": instant(document.changed_at),
    }
    return {"resourceType": body.get("resourceType"), "id": document.document_id, **body, "meta": meta}


class Documents:
    """Finds and writes the documents of resources."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def any_of(self, document_kind: str) -> bool:
        """Whether there is any document of this kind."""
        return bool(self._storage.find_documents(kind=document_kind, limit=1).documents)

    def matching(self, document_kind: str, clauses: Sequence[Clause], base: str) -> list[Document]:
        """The documents for which all clauses hold by themselves, by id. Raises TooCostly."""
        found = []
        for compared, document in enumerate(self.each(document_kind, self._terms(clauses))):
            if compared >= MAX_COMPARED:
                raise TooCostly(f"the search would look at more than {MAX_COMPARED} resources; narrow it")
            if all(holds(clause, resource_of(document), base) for clause in clauses):
                found.append(document)
        return found

    def each(self, document_kind: str, terms: Sequence[DocumentTerm] = ()) -> Iterator[Document]:
        """The documents of a kind, by id, page by page."""
        return all_documents(self._storage, kind=document_kind, terms=terms, at_once=_PAGE)

    def _terms(self, clauses: Sequence[Clause]) -> list[DocumentTerm]:
        terms = []
        for clause in clauses:
            if key := key_term(clause):
                name, text, is_prefix = key
                terms.append(DocumentTerm(key=name, prefix=text) if is_prefix else DocumentTerm(key=name, equal=text))
        return terms

    def of(self, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        """The documents with these kinds and ids, as far as they exist; one read."""
        wanted = list(dict.fromkeys(names))
        found: dict[tuple[str, str], Document] = {}
        for start in range(0, len(wanted), _PAGE):
            found |= self._storage.documents_of(names=wanted[start : start + _PAGE])
        return found

    def put(
        self, document_kind: str, kind: str, resource_id: str, body: Json, *, expected_version: int | None
    ) -> Document:
        """Write a version. Raises VersionConflict."""
        return self._storage.put_document(
            kind=document_kind,
            document_id=resource_id,
            body=body,
            keys={"_id": (resource_id,), **keys_of(body, kind)},
            expected_version=expected_version,
        )
