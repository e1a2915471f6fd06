"""JSON documents with their versions.

The current version of a document is one MongoDB document, and replacing it, on condition that it still has the version
that was read, is the commit point. The version that goes is copied to `document_versions` before; a copy whose
replacement never happened is the current version still, and left out. Bodies are kept as JSON text: they may hold what
BSON cannot.
"""

import base64
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from pymongo.errors import ConnectionFailure, DuplicateKeyError, WTimeoutError

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.keys import behind
from backends.mongodb.work import new_token, now_in_milliseconds
from dicomweb_server.errors import BadRequest, NotFound, StorageUnavailable, TooLarge, VersionConflict
from dicomweb_server.storage.records import Document, DocumentPage, DocumentTerm

LARGEST_BODY_BYTES = 15_000_000
_SEPARATOR = "\x00"
_TRIES = 100
_PAGE = 50


class Documents:
    """The collections `documents` and `document_versions`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(
        self,
        *,
        kind: str,
        document_id: str,
        body: Any,
        keys: Mapping[str, tuple[str, ...]],
        expected_version: int | None,
        deleted: bool = False,
    ) -> Document:
        """As `Storage.put_document`; a deletion is a version without keys."""
        data = orjson.dumps(body, default=dict)
        if len(data) > LARGEST_BODY_BYTES:
            raise TooLarge(f"A document has at most {LARGEST_BODY_BYTES} bytes.")
        for attempt in range(_TRIES):
            old = self._current(kind, document_id)
            gone = old is None or old["deleted"]
            if deleted and gone:
                raise NotFound("there is no such document")
            if expected_version is not None and expected_version != (0 if gone or old is None else old["version"]):
                raise VersionConflict("The document changed since the version that was expected.")
            now = now_in_milliseconds()
            document = Document(
                kind=kind,
                document_id=document_id,
                version=(old["version"] if old else 0) + 1,
                body=None,
                keys=keys,
                changed_at=max(now, old["changed_at"]) if old else now,  # also where the clock was set back
                deleted=deleted,
            )
            new = _doc(document, data)
            if self._swap(old, new):
                return _document(new)
            time.sleep(random.uniform(0, 0.002) * min(attempt, 10))  # noqa: S311 - no secret
        raise StorageUnavailable("The document is busy with other writers.", retry_after_seconds=2)

    def _swap(self, old: Doc | None, new: Doc) -> bool:
        documents = self._connection.safe("documents")
        if old is not None:
            copy = {**old, "_id": f"{old['_id']}{_SEPARATOR}{old['version']}"}
            self._connection.safe("document_versions").replace_one({"_id": copy["_id"]}, copy, upsert=True)
        try:
            if old is None:
                documents.insert_one(new)
                return True
            return documents.replace_one({"_id": old["_id"], "version": old["version"]}, new).matched_count == 1
        except DuplicateKeyError:
            return False
        except (ConnectionFailure, WTimeoutError):
            same = {"_id": new["_id"], "attempt": new["attempt"]}
            # Changes nothing; waits until the majority has it, if it is there.
            if documents.update_one(same, {"$set": {"attempt": new["attempt"]}}).matched_count == 0:
                raise
            return True

    def get(self, *, kind: str, document_id: str, version: int | None) -> Document:
        """As `Storage.get_document`."""
        current = self._current(kind, document_id)
        if current is not None and version in (None, current["version"]):
            if version is None and current["deleted"]:
                current = None
        elif current is not None and version is not None and 0 < version < current["version"]:
            identity = f"{current['_id']}{_SEPARATOR}{version}"
            current = self._connection.safe("document_versions").find_one({"_id": identity})
        else:
            current = None
        if current is None:
            raise NotFound("there is no such document")
        return _document(current)

    def get_many(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Document]:
        """As `Storage.documents_of`."""
        wanted = {"_id": {"$in": [_identity(*name) for name in names]}, "deleted": False}
        found = map(_document, self._connection.safe("documents").find(wanted))
        return {(document.kind, document.document_id): document for document in found}

    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        """As `Storage.forget_versions`; the current version is elsewhere."""
        condition = {"kind": kind, "id": document_id, "version": {"$lt": before}}
        self._connection.safe("document_versions").delete_many(condition)

    def history(self, *, kind: str, document_id: str) -> list[Document]:
        """As `Storage.document_history`."""
        current = self._current(kind, document_id)
        if current is None:
            return []
        condition = {"kind": kind, "id": document_id, "version": {"$lt": current["version"]}}
        older = self._connection.safe("document_versions").find(condition).sort("version", -1)
        return [_document(current), *map(_document, older)]

    def find(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int, cursor: str | None) -> DocumentPage:
        """As `Storage.find_documents`; the cursor is the last id."""
        condition = _conditions(kind, terms)
        if cursor is not None:
            condition["id"] = {"$gt": _decoded(cursor)}
        found = list(self._connection.safe("documents").find(condition).sort("id", 1).limit(limit + 1))
        documents = [_document(doc) for doc in found[:limit]]
        more = len(found) > limit and documents
        return DocumentPage(documents=documents, cursor=_encoded(documents[-1].document_id) if more else None)

    def purge(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        """As `Storage.purge_documents`. The older versions go first: a current one that is left is found again."""
        if not limit:  # which is none to the server
            return 0
        fields = {"id": 1, "attempt": 1, "version": 1}
        found = list(self._connection.safe("documents").find(_conditions(kind, terms), fields).limit(limit))
        versioned = [doc["id"] for doc in found if doc["version"] > 1]
        if versioned:
            self._connection.safe("document_versions").delete_many({"kind": kind, "id": {"$in": versioned}})
        seen = {"_id": {"$in": [doc["_id"] for doc in found]}, "attempt": {"$in": [doc["attempt"] for doc in found]}}
        return self._connection.safe("documents").delete_many(seen).deleted_count if found else 0

    def all_versions(self, after: tuple[str, str, int]) -> Iterator[Document]:
        """Every version of every document, by kind, id and version, behind that one; for a time when nobody writes."""
        kind, document_id, version = after
        if version:
            yield from (one for one in self.history_forward(kind, document_id) if one.version > version)
        while True:
            behind_it = {"$or": [{"kind": {"$gt": kind}}, {"kind": kind, "id": {"$gt": document_id}}]}
            fields = {"kind": 1, "id": 1}
            page = list(
                self._connection.safe("documents").find(behind_it, fields).sort([("kind", 1), ("id", 1)]).limit(_PAGE)
            )
            if not page:
                return
            for doc in page:
                kind, document_id = doc["kind"], doc["id"]
                yield from self.history_forward(kind, document_id)

    def history_forward(self, kind: str, document_id: str) -> Iterator[Document]:
        """All versions of a document, oldest first, a few at a time."""
        current = self._current(kind, document_id)
        version = 0
        while current is not None:
            condition = {"kind": kind, "id": document_id, "version": {"$gt": version, "$lt": current["version"]}}
            page = list(self._connection.safe("document_versions").find(condition).sort("version", 1).limit(_PAGE))
            yield from map(_document, page)
            if len(page) < _PAGE:
                yield _document(current)
                return
            version = page[-1]["version"]

    def load(self, document: Document) -> None:
        """Take a version of another storage as it is."""
        new = _doc(document, orjson.dumps(document.body, default=dict))
        old = self._current(document.kind, document.document_id)
        if old is None or old["version"] < document.version:
            self._swap(old, new)
        elif old["version"] > document.version:
            new["_id"] = f"{new['_id']}{_SEPARATOR}{document.version}"
            self._connection.safe("document_versions").replace_one({"_id": new["_id"]}, new, upsert=True)

    def _current(self, kind: str, document_id: str) -> Doc | None:
        return self._connection.safe("documents").find_one({"_id": _identity(kind, document_id)})


def _identity(kind: str, document_id: str) -> str:
    return f"{kind}{_SEPARATOR}{document_id}"


def _conditions(kind: str, terms: Sequence[DocumentTerm]) -> Doc:
    """On current documents."""
    found: Doc = {"kind": kind, "deleted": False}
    return found | ({"$and": [_condition(term) for term in terms]} if terms else {})


def _condition(term: DocumentTerm) -> Doc:
    start = term.key + _SEPARATOR
    if term.equal is not None:
        return {"keys": start + term.equal}
    if term.prefix is not None:
        return {"keys": {"$elemMatch": {"$gte": start + term.prefix, "$lt": behind(start + term.prefix)}}}
    bounds = {"$gte": start + (term.low or "")}
    if term.high is None:
        bounds["$lt"] = behind(start)
    else:
        bounds["$lte"] = start + term.high
    return {"keys": {"$elemMatch": bounds}}


def _encoded(document_id: str) -> str:
    return base64.urlsafe_b64encode(document_id.encode()).decode()


def _decoded(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor.encode("ascii")).decode()
    except ValueError:
        raise BadRequest("The cursor is not one that this archive gave.") from None


def _doc(document: Document, body: bytes) -> Doc:
    keys = document.keys
    return {
        "_id": _identity(document.kind, document.document_id),
        "kind": document.kind,
        "id": document.document_id,
        "version": document.version,
        "deleted": document.deleted,
        "body": body,
        "named": orjson.dumps({name: list(values) for name, values in keys.items()}),
        "keys": sorted({name + _SEPARATOR + value for name, values in keys.items() for value in values}),
        "changed_at": document.changed_at,
        "attempt": new_token(),
    }


def _document(doc: Doc) -> Document:
    return Document(
        kind=doc["kind"],
        document_id=doc["id"],
        version=doc["version"],
        body=orjson.loads(doc["body"]),
        keys={name: tuple(values) for name, values in orjson.loads(doc["named"]).items()},
        changed_at=doc["changed_at"],
        deleted=doc["deleted"],
    )
