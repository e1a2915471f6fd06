"""JSON documents with all their versions.

The current version is one document, and writing it with its revision is what commits; the version before has been
copied to a document of its own just before that. A copy of a version that is still current (its writer lost, or died)
is passed over by readers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from backends.couchdb import keys
from backends.couchdb.database import AFTER_ID, Database, Json
from backends.couchdb.derive import attempts
from backends.couchdb.records import microseconds, moment
from dicomweb_server.errors import BadRequest, NotFound, VersionConflict
from dicomweb_server.storage.records import Document, DocumentPage, DocumentTerm

PAGE = 200
_CURSOR = re.compile(r"(?:[0-9a-f]{2})*")
_CURRENT, _OLDER = "current", "older"


class Documents:
    """The documents of one database."""

    def __init__(self, database: Database, clock: keys.Clock) -> None:
        self._database = database
        self._clock = clock

    def put(
        self, kind: str, document_id: str, body: Any, terms: Mapping[str, tuple[str, ...]], expected: int | None
    ) -> Document:
        """As `Storage.put_document`."""
        return self._write(kind, document_id, body, terms, expected, deleted=False)

    def delete(self, kind: str, document_id: str, expected: int | None) -> Document:
        """As `Storage.delete_document`."""
        return self._write(kind, document_id, None, {}, expected, deleted=True)

    def get(self, kind: str, document_id: str, version: int | None) -> Document:
        """As `Storage.get_document`."""
        current = self._database.get(_current_id(kind, document_id))
        if current is not None and version in (None, current["version"]):
            if version is not None or not current["deleted"]:
                return _document(current)
        elif current is not None and version is not None and 0 < version < current["version"]:
            older = self._database.get(_older_id(kind, document_id, version))
            if older is not None:
                return _document(older)
        raise NotFound("there is no such document")

    def get_many(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Document]:
        """As `Storage.documents_of`."""
        found = self._database.get_many([_current_id(*name) for name in dict.fromkeys(names)])
        documents = [_document(each) for each in found.values() if not each["deleted"]]
        return {(document.kind, document.document_id): document for document in documents}

    def forget_versions(self, kind: str, document_id: str, before: int) -> None:
        """As `Storage.forget_versions`; the current version is a document of another name."""
        older = self._database.with_prefix(_older_prefix(kind, document_id))
        self._database.delete([each for each in older if each["version"] < before])

    def history(self, kind: str, document_id: str) -> list[Document]:
        """As `Storage.document_history`."""
        current = self._database.get(_current_id(kind, document_id))
        if current is None:
            return []
        older = self._database.with_prefix(_older_prefix(kind, document_id))
        found = [current, *(each for each in older if each["version"] < current["version"])]
        return sorted(map(_document, found), key=lambda each: each.version, reverse=True)

    def find(self, kind: str, terms: Sequence[DocumentTerm], limit: int, cursor: str | None) -> DocumentPage:
        """As `Storage.find_documents`."""
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise BadRequest("This cursor is none that a search for documents gave.")
        found: list[Json] = []
        for page in self._candidates(kind, terms, cursor):
            found += [each for each in page if not each["deleted"] and all(_fits(each, term) for term in terms)]
            if len(found) > limit:
                break
        more = len(found) > limit
        shown = found[:limit]
        last = shown[-1]["sort"] if shown else cursor or ""
        return DocumentPage(documents=[_document(each) for each in shown], cursor=last if more else None)

    def purge(self, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        """As `Storage.purge_documents`. The older versions go first: a current one that is left is found again."""
        found: dict[str, Json] = {}
        for page in self._unordered(kind, terms):
            for each in page:
                if not each["deleted"] and all(_fits(each, term) for term in terms):
                    found[each["_id"]] = each
            if len(found) >= limit:
                break
        going = list(found.values())[:limit]
        for each in going:
            if each["version"] > 1:
                prefix = _older_prefix(str(keys.decode(each["kind"])), str(keys.decode(each["sort"])))
                self._database.delete(self._database.with_prefix(prefix))
        return sum(self._database.delete(going))

    def _unordered(self, kind: str, terms: Sequence[DocumentTerm]) -> Iterator[list[Json]]:
        """Documents that hold all that match, in whatever order; one with several values of a key comes as often."""
        if not terms or terms[0].equal is not None:
            yield from self._candidates(kind, terms, None)
            return
        span = _range(keys.encode(kind), terms[0])
        for rows in self._database.pages("documents/current", size=PAGE, include_docs=True, **span):
            yield [row["doc"] for row in rows if row.get("doc")]

    def _candidates(self, kind: str, terms: Sequence[DocumentTerm], cursor: str | None) -> Iterator[list[Json]]:
        """Documents behind the cursor, by id; they hold all that match."""
        name = keys.encode(kind)
        equal = next((term for term in terms if term.equal is not None), None)
        if equal is not None or not terms:
            place = [name, keys.encode(equal.key), keys.encode(equal.equal or "")] if equal is not None else [name, ""]
            # The key of the cursor itself is shorter than this one; those of later ids are larger.
            start = place if cursor is None else [*place, cursor, None]
            pages = self._database.pages(
                "documents/current", size=PAGE, startkey=start, endkey=[*place, keys.END], include_docs=True
            )
            for rows in pages:
                yield [row["doc"] for row in rows if row.get("doc")]
            return
        # The rows of a range come by value: its ids are sorted here, its documents fetched in pages.
        rows = self._database.view("documents/current", **_range(name, terms[0]))
        ids = sorted({(row["key"][3], row["id"]) for row in rows if cursor is None or row["key"][3] > cursor})
        for first in range(0, len(ids), PAGE):
            some = [document_id for _, document_id in ids[first : first + PAGE]]
            there = self._database.get_many(some)
            yield [there[document_id] for document_id in some if document_id in there]

    def _write(
        self,
        kind: str,
        document_id: str,
        body: Any,
        terms: Mapping[str, tuple[str, ...]],
        expected: int | None,
        *,
        deleted: bool,
    ) -> Document:
        attempt = keys.new_attempt()
        for _ in attempts():
            current = self._database.get(_current_id(kind, document_id))
            if current is not None and current["attempt"] == attempt:
                return _document(current)  # our own first try, whose answer was lost
            live = current is not None and not current["deleted"]
            if deleted and not live:
                raise NotFound("there is no such document")
            there = int(current["version"]) if current is not None and live else 0
            if expected is not None and expected != there:
                raise VersionConflict(f"The document has version {there}, not {expected}.")
            new = {
                "_id": _current_id(kind, document_id),
                "version": (int(current["version"]) if current is not None else 0) + 1,
                "attempt": attempt,
                "changed_at": self._clock.next(after=int(current["changed_at"]) if current is not None else 0),
                "deleted": deleted,
                **_content(kind, document_id, body, terms),
            }
            if self._succeed(current, new, kind, document_id):
                return _document(new)
        raise AssertionError("unreachable")

    def _succeed(self, current: Json | None, new: Json, kind: str, document_id: str) -> bool:
        """Write a version in the place of the current one; False when that one changed meanwhile."""
        if current is not None:
            self._database.put(_as_older(current, kind, document_id))
            new["_rev"] = current["_rev"]
        return self._database.put(new)

    # Moving an archive

    def dump(self, after: tuple[str, str, int] | None) -> Iterator[Document]:
        """Every version behind that one, by kind, document id and version."""
        start = _CURRENT + ":" if after is None else _current_id(after[0], after[1])
        while True:
            rows = self._database.view(
                "_all_docs", startkey=start, endkey=f"{_CURRENT}:{AFTER_ID}", include_docs=True, limit=PAGE + 1
            )
            for row in rows[:PAGE]:
                current = _document(row["doc"])
                versions = self.history(current.kind, current.document_id)[::-1] if current.version > 1 else [current]
                for each in versions:
                    if after is None or (each.kind, each.document_id, each.version) > after:
                        yield each
            if len(rows) <= PAGE:
                return
            start = rows[PAGE]["id"]

    def load(self, document: Document) -> None:
        """Write a version as it is, unless it is there."""
        for _ in attempts():
            current = self._database.get(_current_id(document.kind, document.document_id))
            if current is not None and current["version"] >= document.version:
                return
            new = {
                "_id": _current_id(document.kind, document.document_id),
                "version": document.version,
                "attempt": keys.new_attempt(),
                "changed_at": microseconds(document.changed_at),
                "deleted": document.deleted,
                **_content(document.kind, document.document_id, document.body, document.keys),
            }
            if self._succeed(current, new, document.kind, document.document_id):
                return


def _content(kind: str, document_id: str, body: Any, terms: Mapping[str, tuple[str, ...]]) -> Json:
    """What every version of a document holds besides its place in the history."""
    return {
        "type": _CURRENT,
        "kind": keys.encode(kind),
        "sort": keys.encode(document_id),
        "body": orjson.dumps(body).decode(),
        "keys": {name: list(values) for name, values in terms.items()},
        "terms": {
            keys.encode(name): [keys.encode(value) for value in dict.fromkeys(values)] for name, values in terms.items()
        },
    }


def _current_id(kind: str, document_id: str) -> str:
    return f"{_CURRENT}:{keys.encode(kind)}-{keys.encode(document_id)}"


def _older_prefix(kind: str, document_id: str) -> str:
    return f"{_OLDER}:{keys.encode(kind)}-{keys.encode(document_id)}-"


def _older_id(kind: str, document_id: str, version: int) -> str:
    return f"{_older_prefix(kind, document_id)}{version:012d}"


def _as_older(current: Json, kind: str, document_id: str) -> Json:
    kept = {name: value for name, value in current.items() if name not in ("_id", "_rev", "terms")}
    return {**kept, "_id": _older_id(kind, document_id, int(current["version"])), "type": _OLDER}


def _document(document: Json) -> Document:
    return Document(
        kind=str(keys.decode(document["kind"])),
        document_id=str(keys.decode(document["sort"])),
        version=int(document["version"]),
        body=orjson.loads(document["body"]),
        keys={name: tuple(values) for name, values in document["keys"].items()},
        changed_at=moment(document["changed_at"]),
        deleted=bool(document["deleted"]),
    )


def _range(kind: keys.Key, term: DocumentTerm) -> Json:
    start = [kind, keys.encode(term.key)]
    if term.prefix is not None:
        text = str(keys.encode(term.prefix))
        return {"startkey": [*start, text], "endkey": [*start, text + keys.AFTER_HEX]}
    low = keys.encode(term.low) if term.low is not None else ""
    end = [keys.encode(term.high), keys.END] if term.high is not None else [keys.END]
    return {"startkey": [*start, low], "endkey": [*start, *end]}


def _fits(document: Json, term: DocumentTerm) -> bool:
    values: list[str] = document["keys"].get(term.key, [])
    if term.equal is not None:
        return term.equal in values
    if term.prefix is not None:
        return any(value.startswith(term.prefix) for value in values)
    return any(
        (term.low is None or term.low <= value) and (term.high is None or value <= term.high) for value in values
    )
