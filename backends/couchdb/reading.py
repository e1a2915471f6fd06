"""Reading instances and their ready-made metadata."""

from collections.abc import Iterator, Sequence

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from dicomweb_server.storage.records import Metadata, Scope, StoredInstance

INSTANCES_AT_ONCE = 200


class Reading:
    """Reads the database of the instances."""

    def __init__(self, records: Database) -> None:
        self._records = records

    def get(self, scope: Scope) -> StoredInstance:
        """As `Storage.get`."""
        return documents.stored_instance(self._one(scope))

    def instances(self, scope: Scope) -> Iterator[StoredInstance]:
        """As `Storage.instances`."""
        return (documents.stored_instance(document) for page in self._pages(scope) for document in page)

    def metadata(self, scope: Scope) -> Iterator[Metadata]:
        """As `Storage.metadata`."""
        return (each for page in self._pages(scope) for each in self._metadata(page))

    def metadata_of(self, instance_uids: Sequence[str]) -> dict[str, Metadata]:
        """As `Storage.metadata_of`."""
        found = self._records.get_many([documents.instance_id(uid) for uid in dict.fromkeys(instance_uids)])
        return {each.instance_uid: each for each in self._metadata(list(found.values()))}

    def _metadata(self, page: Sequence[Json]) -> Iterator[Metadata]:
        for document, packed in zip(page, documents.deflated(self._records, page), strict=True):
            yield documents.metadata(document, packed)

    def _one(self, scope: Scope) -> Json:
        document = self._records.get(documents.instance_id(scope.instance_uid or ""))
        if document is None or not documents.inside(document, scope):
            raise scope.not_found()
        return document

    def _pages(self, scope: Scope) -> Iterator[list[Json]]:
        """The instances in scope in pages, in order; the first page is read on the call itself."""
        if scope.instance_uid is not None:
            return iter([[self._one(scope)]])
        pages = self._listed(scope)
        first = next(pages, None)
        if first is None:
            raise scope.not_found()

        def rest() -> Iterator[list[Json]]:
            yield first
            yield from pages

        return rest()

    def _listed(self, scope: Scope) -> Iterator[list[Json]]:
        start = [uid for uid in (scope.study_uid, scope.series_uid) if uid is not None]
        hidden: set[tuple[str, str]] = set()
        pages = self._records.pages(
            "live/instances", size=INSTANCES_AT_ONCE, startkey=start, endkey=[*start, keys.END], include_docs=True
        )
        for rows in pages:
            found = []
            for row in rows:
                if row["key"][2] is None:
                    hidden.add((row["key"][3], row["value"]["attempt"]))
                elif row.get("doc") and (row["key"][3], row["doc"]["attempt"]) not in hidden:
                    found.append(row["doc"])
            if found:
                yield found
