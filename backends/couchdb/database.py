"""A CouchDB server and its databases: waiting for it, checking it, creating what is missing, and the requests that the
rest of this backend is made of."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import couchdb  # type: ignore[import-untyped]
import couchdb.http  # type: ignore[import-untyped]

from backends.couchdb import designs, quorum
from backends.couchdb.session import QuorumMissed, Session, TooSlow, driver_errors
from backends.couchdb.settings import CouchSettings
from dicomweb_server.errors import ConfigError, StorageCorrupt, StorageError, StorageUnavailable
from dicomweb_server.storage.records import StorageState

logger = logging.getLogger(__name__)

Json = dict[str, Any]

OLDEST = (3, 3)
BULK_DOCUMENTS = 500
BULK_BYTES = 8 * 1024 * 1024
IDS_AT_ONCE = 1000
AFTER_ID = "\ufff0"
CHECK_SECONDS = 3.0
STEP_DOCUMENTS = 2000
BUILDING_SECONDS = 300.0
FORMAT = 1
FORMAT_ID = "format"


class Database:
    """One database. Nothing here retries a conflict: who writes knows what it means."""

    def __init__(self, server: "Server", name: str) -> None:
        self.name = name
        self._server = server
        self._database = couchdb.Database(f"{server.url}/{name}", name, session=server.session)
        self.resource = self._database.resource
        self._copies = 1
        self._in_steps: list[str] = []
        self._written = 0

    def get(self, document_id: str, **options: str) -> Json | None:
        """The document, or a revision of it; None where there is none."""
        with driver_errors():
            try:
                _, _, found = self.resource(document_id).get_json(**options)
            except couchdb.http.ResourceNotFound as exc:
                # ("not_found", "missing" or "deleted"), but "Database does not exist." and the like for a database.
                if not any(word in str(exc).lower() for word in ("missing", "deleted")):
                    raise
                return None
        return dict(found)

    def get_many(self, ids: Sequence[str]) -> dict[str, Json]:
        """The documents by id; missing ones are left out."""
        found: dict[str, Json] = {}
        for start in range(0, len(ids), IDS_AT_ONCE):
            some = ids[start : start + IDS_AT_ONCE]
            if self._server.takes_queries:
                for document_id, leaves in self._bulk_get(some).items():
                    # Of several that conflict the one that CouchDB shows.
                    if there := [leaf for leaf in leaves if "_deleted" not in leaf]:
                        found[document_id] = max(there, key=quorum.standing)
            else:
                rows = self.view("_all_docs", keys=list(some), include_docs=True)
                found.update((row["id"], row["doc"]) for row in rows if row.get("doc"))
        return found

    def _bulk_get(self, ids: Sequence[str], **options: Any) -> dict[str, list[Json]]:
        """All revisions of documents that have no successor. It is half the work for CouchDB that `_all_docs` is."""
        with driver_errors():
            _, _, answer = self.resource.post_json(
                "_bulk_get", body={"docs": [{"id": each} for each in ids]}, **options
            )
        found: dict[str, list[Json]] = {}
        for result in answer["results"]:
            if any(each.get("error", {}).get("error", "not_found") != "not_found" for each in result["docs"]):
                raise StorageUnavailable("CouchDB did not give a document.")
            found[result["id"]] = [each["ok"] for each in result["docs"] if "ok" in each]
        return found

    def with_prefix(self, prefix: str, **options: Any) -> list[Json]:
        """The documents whose id begins so, by id."""
        rows = self.view("_all_docs", startkey=prefix, endkey=prefix + AFTER_ID, include_docs=True, **options)
        return [row["doc"] for row in rows if row.get("doc")]

    def view(self, name: str, **options: Any) -> list[Json]:
        """The rows of a view ("design/view") as they are now."""
        rows: list[Json] = self._patiently(name, lambda: self._database.view(name, wrapper=_as_it_is, **options).rows)
        self._server.rows += len(rows)
        return rows

    def ranges(self, name: str, ranges: Sequence[Mapping[str, Any]]) -> list[list[Json]]:
        """The rows of several ranges of a view, or of `_all_docs`: in one round trip on CouchDB, several on PouchDB."""
        if len(ranges) == 1 or not self._server.takes_queries:
            return [self.view(name, **options) for options in ranges]
        return [result["rows"] for result in self._queries(name, ranges)]

    def beginnings(
        self, name: str, ranges: Sequence[Mapping[str, Any]], limit: int
    ) -> list[tuple[list[Json], int | None]]:
        """The first rows of several ranges of a view, and how many each has; None where CouchDB does not tell. It knows
        how many rows lie before a key, without reading them."""
        limited = [{**each, "limit": limit} for each in ranges]
        if not self._server.takes_queries:
            return [(rows, None) for rows in self.ranges(name, limited)]
        behind = [{"startkey": each["endkey"], "limit": 0} for each in ranges]
        results = self._queries(name, [*limited, *behind])
        return [
            (first["rows"], _length(first, after))
            for first, after in zip(results[: len(ranges)], results[len(ranges) :], strict=True)
        ]

    def _queries(self, name: str, queries: Sequence[Mapping[str, Any]]) -> list[Json]:
        design, _, view = name.partition("/")
        resource = self.resource(*(("_design", design, "_view", view) if view else (name,)), "queries")
        found: list[Json] = []
        for start in range(0, len(queries), IDS_AT_ONCE):
            some = list(queries[start : start + IDS_AT_ONCE])
            _, _, answer = self._patiently(name, partial(resource.post_json, body={"queries": some}))
            found += answer["results"]
        self._server.rows += sum(len(result["rows"]) for result in found)
        return found

    def _patiently(self, view: str, ask: Callable[[], Any]) -> Any:
        """An answer of a view. CouchDB first brings it up to date, which after much was written takes longer than an
        answer may: then it is asked again as long as it works on that, but not for ever."""
        deadline = time.monotonic() + BUILDING_SECONDS
        again = True  # once also when it is not being built: it may just have been finished
        while True:
            try:
                with driver_errors():
                    return ask()
            except TooSlow as exc:
                building = self._is_being_built(view)
                if not (building or (again and building is not None)):
                    raise
                again = building
                if time.monotonic() > deadline:
                    raise StorageUnavailable("CouchDB is still building an index; try again later.") from exc
                logger.warning("CouchDB is still building the view %s of %s.", view, self.name)

    def _is_being_built(self, view: str) -> bool | None:
        """Whether CouchDB works on a view, asked over a connection of its own with a short timeout; None where it does
        not say."""
        design, _, name = view.partition("/")
        if not name:
            return None
        settings = self._server.settings
        session = Session(settings.address, timeout_seconds=CHECK_SECONDS)
        try:
            with driver_errors():
                database = couchdb.Database(f"{self._server.url}/{self.name}", session=session)
                _, _, found = database.resource("_design", design, "_info").get_json()
        except StorageError:
            return None
        finally:
            session.close()
        return bool(found["view_index"]["updater_running"])

    def pages(self, name: str, *, size: int, **options: Any) -> Iterator[list[Json]]:
        """The rows of a range in pages, each begun by the key where the one before ended."""
        while True:
            rows = self.view(name, limit=size + 1, reduce=False, **options)
            yield rows[:size]
            if len(rows) <= size:
                return
            options = {**options, "startkey": rows[size]["key"], "startkey_docid": rows[size]["id"]}

    def write(self, documents: Sequence[Json]) -> list[str | None]:
        """Write by `_bulk_docs`, each for itself, and set `_rev`; the new revisions in order, None for a conflict."""
        revisions: list[str | None] = []
        for some in _batches(documents):
            rows = self.post(some)
            if any(row.get("error", "conflict") != "conflict" for row in rows):
                raise StorageUnavailable("CouchDB did not take a document.")
            safe = quorum.settled(self, some, rows) if self._copies > 1 else [row.get("rev") for row in rows]
            for document, revision in zip(some, safe, strict=True):
                if revision is not None:
                    document["_rev"] = revision
            revisions += safe
        self._written += len(revisions)
        if self._written >= STEP_DOCUMENTS:
            self._written = 0
            self._catch_up()
        return revisions

    def post(self, documents: Sequence[Json], *, new_edits: bool = True) -> list[Json]:
        """What `_bulk_docs` says of each document."""
        options = {} if new_edits else {"new_edits": False}
        with driver_errors():
            try:
                _, _, rows = self.resource.post_json("_bulk_docs", body={"docs": documents, **options})
            except QuorumMissed as exc:
                if self._copies < 2 or not new_edits:
                    raise
                rows = exc.answer
        return list(rows)

    def leaves(self, ids: Sequence[str]) -> dict[str, list[Json]]:
        """All revisions that any copy has and that have no successor, deletions too, with their histories."""
        found: dict[str, list[Json]] = {}
        for start in range(0, len(ids), IDS_AT_ONCE):
            found |= self._bulk_get(ids[start : start + IDS_AT_ONCE], revs=True, r=self._copies)
        return found

    def assured(self, found: Mapping[str, Json]) -> dict[str, Json]:
        """Those of some documents that were read, by id, that are safe on most copies, which a single one may have been
        asked for. Where there is only one copy: all of them."""
        if self._copies < 2 or not found:
            return dict(found)
        leaves = [
            leaf
            for document_id, there in self.leaves(list(found)).items()
            for leaf in there
            if leaf["_rev"] == found[document_id]["_rev"]
        ]
        revisions = quorum.assured(self, leaves)
        return {
            leaf["_id"]: {**found[leaf["_id"]], "_rev": revision}
            for leaf, revision in zip(leaves, revisions, strict=True)
            if revision is not None
        }

    def _catch_up(self) -> None:
        """Let CouchDB begin to bring those views up to date that it does not by itself; nobody waits for that."""
        for view in self._in_steps if self._server.takes_queries else ():
            with contextlib.suppress(StorageError), driver_errors():
                design, name = view.split("/")
                self.resource("_design", design, "_view", name).get_json(update="lazy", limit=1)

    def put(self, document: Json) -> bool:
        """Write one document; False for a conflict."""
        return self.write([document])[0] is not None

    def delete(self, documents: Iterable[Json]) -> list[bool]:
        """Delete these revisions; False where another one is there, or none."""
        gone = [{"_id": item["_id"], "_rev": item["_rev"], "_deleted": True} for item in documents]
        return [revision is not None for revision in self.write(gone)] if gone else []

    def format(self) -> int | None:
        """The version of what is in it; None where there is no such database, or nothing in it."""
        with driver_errors():
            if self.name not in self._server.couch:
                return None
        found = self.get(FORMAT_ID)
        return int(found["version"]) if found else (1 if self.view("_all_docs", limit=1) else None)

    def check_format(self) -> None:
        """Raises ConfigError for one of a newer release."""
        found = self.format()
        if found is not None and found > FORMAT:
            raise ConfigError(
                f"The archive was written by a newer release: it has schema {found}, this one reads up to {FORMAT}."
            )

    def note_format(self) -> None:
        """Let later releases know what is in it. An older format has the views of this one by now, which is all."""
        known = self.get(FORMAT_ID)
        if known is None or known["version"] != FORMAT:
            self.put({**(known or {}), "_id": FORMAT_ID, "type": "format", "version": FORMAT})

    def create(self, design: Mapping[str, designs.Views], *, undivided: bool = False) -> None:
        """Create the database and its design documents; whoever else does the same at the same time does no harm.

        undivided: on a single node with one shard. It has two else: of these CouchDB builds an index sooner, but every
        key that is looked up in a view is asked of both.
        """
        with driver_errors(), contextlib.suppress(couchdb.http.PreconditionFailed):
            options = {"q": 1} if undivided and self._server.is_alone() else {}
            self._server.couch.resource.put_json(self.name, **options)
        with driver_errors():
            _, _, info = self.resource.get_json()
        self._copies = int(info.get("cluster", {}).get("n", 1))
        wanted = designs.design_documents(design)
        self._in_steps = [f"{name}/{next(iter(views))}" for name, views in design.items() if name in designs.IN_STEPS]
        known = self.get_many([document["_id"] for document in wanted])
        for document in wanted:
            old = known.get(document["_id"])
            if old is None:
                self.put(document)
            elif not designs.same(old, document):
                self.put({**document, "_rev": old["_rev"]})
        rows = self.view("_all_docs", startkey="_design/", endkey="_design/" + AFTER_ID)
        names = {document["_id"] for document in wanted}
        unused = [row for row in rows if row["id"] in designs.FORMER - names]
        self.delete({"_id": row["id"], "_rev": row["value"]["rev"]} for row in unused)


class Server:
    """The connection of one process. `rows` counts the rows that views gave, for those who want to know what a query
    costs; it is not exact among threads."""

    def __init__(self, settings: CouchSettings) -> None:
        self.settings = settings
        self.url = settings.address.url
        self.session = Session(settings.address, timeout_seconds=settings.timeout_seconds)
        self.couch = couchdb.Server(self.url, session=self.session)
        self.takes_queries = True
        self.rows = 0

    def connect(self) -> None:
        """Wait for the server, at most `wait_seconds`, and check what it is."""
        deadline = time.monotonic() + self.settings.wait_seconds
        delay = 0.2
        while True:
            try:
                self._check_version()
                return
            except StorageUnavailable as exc:
                if time.monotonic() + delay > deadline:
                    raise StorageUnavailable(f"There is no usable CouchDB at {self.url}: {exc.message}") from exc
                logger.warning("Waiting for CouchDB at %s, which does not answer yet: %s", self.url, exc.message)
            time.sleep(delay)
            delay = min(delay * 2, 5.0)

    def _check_version(self) -> None:
        with driver_errors():
            _, _, welcome = self.couch.resource.get_json()
        if not isinstance(welcome, dict):
            raise ConfigError("What answers at the url of couchdb is no CouchDB.")
        if "express-pouchdb" in welcome:  # PouchDB Server, for tests: it counts its versions otherwise
            self.takes_queries = False
            return
        found = re.match(r"(\d+)\.(\d+)", str(welcome.get("version", "")))
        if "couchdb" not in welcome or found is None:
            raise ConfigError("What answers at the url of couchdb is no CouchDB.")
        if (int(found[1]), int(found[2])) < OLDEST:
            raise ConfigError(f"The CouchDB server has version {found[0]}; {OLDEST[0]}.{OLDEST[1]} or newer is needed.")

    def is_alone(self) -> bool:
        """Whether it is surely no node of a cluster."""
        if not self.takes_queries:
            return False
        try:
            with driver_errors():
                _, _, found = self.couch.resource.get_json("_membership")
        except StorageError:
            return False
        return len(found["cluster_nodes"]) == 1

    def database(self, suffix: str = "") -> Database:
        """The database of the settings, or that with a suffix."""
        return Database(self, f"{self.settings.database}{suffix}")

    def close(self) -> None:
        """Close all connections."""
        self.session.close()


def check(settings: CouchSettings, suffix: str) -> StorageState:
    """Whether the database answers, asked over a connection of its own with a short timeout."""
    start = time.monotonic()
    session = Session(settings.address, timeout_seconds=CHECK_SECONDS)
    try:
        with driver_errors():
            couchdb.Database(f"{settings.address.url}/{settings.database}{suffix}", session=session).info()
    except StorageError as exc:
        return StorageState(ready=False, latency_seconds=time.monotonic() - start, detail=exc.message)
    finally:
        session.close()
    return StorageState(ready=True, latency_seconds=time.monotonic() - start, detail="CouchDB answers.")


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """While opening, what no retry mends is a fault of the settings."""
    try:
        yield
    except (StorageUnavailable, StorageCorrupt):
        raise
    except StorageError as exc:
        raise ConfigError(exc.message) from exc


def _length(first: Json, after: Json) -> int | None:
    """How many rows lie between the beginnings of two answers; None where they do not tell, or tell nonsense."""
    if first.get("offset") is None or after.get("offset") is None:
        return None
    length = int(after["offset"]) - int(first["offset"])
    return length if length >= len(first["rows"]) else None


def _as_it_is(row: Json) -> Json:
    return row


def _batches(documents: Sequence[Json]) -> Iterator[list[Json]]:
    """Runs of documents that together are no larger than a request should be."""
    batch: list[Json] = []
    size = 0
    for document in documents:
        weight = 1000 + sum(len(value) for value in document.values() if isinstance(value, str))
        if batch and (len(batch) >= BULK_DOCUMENTS or size + weight > BULK_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += weight
    if batch:
        yield batch
