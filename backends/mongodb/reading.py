"""Reading instances and hits: documents to records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from bson import MaxKey, MinKey

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.errors import driver_errors
from backends.mongodb.feed import Feed
from backends.mongodb.instances import METADATA, STORED, LargeMetadata, metadata_record, stored_instance
from backends.mongodb.query import Statement
from backends.mongodb.removing import Remover
from backends.mongodb.summing import modalities, series_id
from backends.mongodb.work import Work
from dicomweb_server.dicom.attributes import clock_moment
from dicomweb_server.dicom.levels import Level
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Hit, Metadata, Page, ReplacedVersion, Scope, StoredInstance

T = TypeVar("T")

_PAGE = 200
_ORDERS = {"order": ("study", "series", "position", "_id"), "series_order": ("series", "position", "_id")}


class Reader:
    """Reads what is stored."""

    def __init__(
        self, connection: Connection, work: Work, feed: Feed, remover: Remover, large_metadata: LargeMetadata
    ) -> None:
        self.token = ""
        self._connection = connection
        self._work = work
        self._feed = feed
        self._remover = remover
        self._large_metadata = large_metadata

    # Instances

    def get(self, scope: Scope) -> StoredInstance:
        """As `Storage.get`; one round trip."""
        return stored_instance(self._one(scope, STORED), scope.instance_uid or "")

    def _one(self, scope: Scope, fields: Doc) -> Doc:
        doc = self._connection.safe("instances").find_one({"_id": scope.instance_uid}, fields)
        if (
            doc is None
            or scope.study_uid not in (None, doc["study"])
            or scope.series_uid not in (None, doc["series"])
            or self._work.removed([doc])
        ):
            raise scope.not_found()
        return doc

    def instances(self, scope: Scope) -> Iterator[StoredInstance]:
        """As `Storage.instances`."""
        return self._listed(scope, STORED, lambda doc: stored_instance(doc, doc["_id"]))

    def metadata(self, scope: Scope) -> Iterator[Metadata]:
        """As `Storage.metadata`."""
        return self._listed(scope, METADATA, self._metadata)

    def metadata_of(self, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        """As `Storage.metadata_of`."""
        found = self._connection.safe("instances").find({"_id": {"$in": list(instance_uids)}}, METADATA)
        return {doc["_id"]: self._metadata(doc) for doc in self._present(list(found))}

    def _metadata(self, doc: Doc) -> Metadata:
        return metadata_record(doc, self._large_metadata.of(doc))

    def _listed(self, scope: Scope, fields: Doc, made: Callable[[Doc], T]) -> Iterator[T]:
        if scope.instance_uid is not None:
            return iter([made(self._one(scope, fields))])
        first, last = self._page(scope, fields, None)
        while not first and last is not None:
            first, last = self._page(scope, fields, last)
        if not first:
            raise scope.not_found()
        return self._pages(scope, fields, made, first, last)

    def _pages(
        self, scope: Scope, fields: Doc, made: Callable[[Doc], T], docs: list[Doc], last: Doc | None
    ) -> Iterator[T]:
        while True:
            for doc in docs:
                with driver_errors():
                    record = made(doc)
                yield record
            if last is None:
                return
            with driver_errors():
                docs, last = self._page(scope, fields, last)

    def _page(self, scope: Scope, fields: Doc, after: Doc | None) -> tuple[list[Doc], Doc | None]:
        """Some instances behind that one, as far as they exist, and the last one looked at; None at the end. No cursor
        stays open: what does not fit into one answer belongs to the next page."""
        name = "order" if scope.study_uid is not None else "series_order"
        keys = _ORDERS[name]
        named = {"study": scope.study_uid, "series": scope.series_uid}
        fixed = {key: uid for key, uid in named.items() if uid is not None}
        start: list[Any] = [(key, fixed.get(key, MinKey()) if after is None else after[key]) for key in keys]
        end: list[Any] = [(key, fixed.get(key, MaxKey())) for key in keys]
        found = (
            self._connection.safe("instances")
            .find({}, {**fields, "study": 1, "series": 1, "position": 1})
            .hint(name)
            .min(start)
            .max(end)
            .limit(-_PAGE)
            .batch_size(_PAGE)
        )
        docs = list(found)
        seen = docs[1:] if after is not None and docs and docs[0]["_id"] == after["_id"] else docs
        whole = len(docs) < _PAGE and sum(len(doc.get("metadata") or b"") for doc in docs) < 1 << 22
        return self._present(seen), None if whole or not seen else seen[-1]

    def _present(self, docs: list[Doc]) -> list[Doc]:
        """Without those that a removal took that is not done yet."""
        removed = self._work.removed(docs)
        return [doc for doc in docs if doc["_id"] not in removed] if removed else docs

    def version(self, scope: Scope) -> str:
        """As `Storage.version`."""
        if scope.level is None:
            return f"{self.token}-{self._feed.newest()}"
        if scope.level is Level.INSTANCE:
            return str(self._one(scope, {"study": 1, "series": 1, "v": 1, "gone": 1})["v"])
        self._remover.settle()
        if scope.level is Level.STUDY:
            found = self._connection.safe("studies").find_one({"_id": scope.study_uid}, {"v": 1})
        else:
            named = {"_id": series_id(scope.study_uid, scope.series_uid or "")} if scope.study_uid else {}
            found = self._connection.safe("series").find_one({**named, "uid": scope.series_uid}, {"v": 1})
        if found is None:
            raise scope.not_found()
        return str(found["v"])

    def replaced(self, instance_uid: str) -> list[ReplacedVersion]:
        """As `Storage.replaced`. A copy of what is current, of a replacement that did not happen, is none."""
        current = self._connection.safe("instances").find_one(
            {"_id": instance_uid}, {"life": 1, "blob": 1, "gone": 1, "v": 1}
        )
        if current is None or self._work.removed([current]):
            return []
        condition = {
            "uid": instance_uid,
            "life": current["life"],
            "blob.key": {"$ne": current["blob"]["key"]},
            "purged_at": None,
        }
        versions: dict[str, ReplacedVersion] = {}
        for doc in self._connection.safe("replaced").find(condition).sort("order", -1):
            version = ReplacedVersion(
                version=doc["_id"], instance=stored_instance(doc, instance_uid), replaced_at=doc["replaced_at"]
            )
            versions.setdefault(doc["blob"]["key"], version)
        return list(versions.values())

    def known_blobs(self, keys: Sequence[str]) -> frozenset[str]:
        """As `Storage.known_blobs`. A blob goes from the instance to its older versions or the bin and back, and is
        written to the new place before it leaves the old one: looking at instances twice misses none."""
        left = set(keys)
        for name in ("instances", "replaced", "binned", "instances"):
            if left:
                found = self._connection.safe(name).find({"blobs": {"$in": sorted(left)}}, {"blobs": 1})
                left -= {key for doc in found for key in doc["blobs"]}
        if left:
            found = self._connection.safe("released").find({"_id": {"$in": sorted(left)}}, {"_id": 1})
            left -= {doc["_id"] for doc in found}
        return frozenset(keys) - left

    # Search

    def search(self, query: Query) -> Page:
        """As `Storage.search`; two round trips, and one more for conditions on entities above."""
        gone = self._remover.settle()
        docs = Statement(self._connection, query, gone=gone).run()
        make = _instance_hit if query.level is Level.INSTANCE else _hit
        return Page(hits=[make(query.level, doc) for doc in docs[: query.limit]], more=len(docs) > query.limit)

    def count(self, query: Query) -> int:
        """As `Storage.count`."""
        gone = self._remover.settle()
        return Statement(self._connection, query, gone=gone).count()


def _hit(level: Level, doc: Doc) -> Hit:
    study = {Level.STUDY: doc["_id"], Level.SERIES: doc.get("study")}.get(level)
    return Hit(
        level=level,
        attributes=orjson.loads(doc["attributes"]),
        study_uid=study,
        series_uid=doc["uid"] if level is Level.SERIES else None,
        patient_key=doc["_id"] if level is Level.PATIENT else None,
        number_of_studies=doc.get("n_studies", 0),
        number_of_series=doc.get("n_series", 0),
        number_of_instances=doc["n_instances"],
        modalities=tuple(doc["modalities"]),
        sop_classes=tuple(doc["sop_classes"]),
        transfer_syntaxes=tuple(doc["transfer_syntaxes"]),
        changed_at=clock_moment(doc["changed_at"]) if "changed_at" in doc else None,
    )


def _instance_hit(level: Level, doc: Doc) -> Hit:
    attributes = orjson.loads(doc["summary"])
    return Hit(
        level=level,
        attributes=attributes,
        study_uid=doc["study"],
        series_uid=doc["series"],
        instance_uid=doc["_id"],
        modalities=tuple(sorted(set(modalities(attributes)))),
        sop_classes=(doc["sop_class"],),
        transfer_syntaxes=(doc["transfer_syntax"],),
    )
