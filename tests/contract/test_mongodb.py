"""The MongoDB storage and GridFS pass the contract suites on a real mongod; what only they have is tested here."""

import os
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

pytest.importorskip("pymongo", reason="pip install 'dicomweb-server[mongodb]'")

import bson
from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from backends.mongodb import GridFSBlobStore, MongoStorage, schema
from backends.mongodb.blobs import CHUNK_BYTES, WHOLE_BYTES
from backends.mongodb.query import Statement
from backends.mongodb.summing import document
from dicomweb_server.dicom.attributes import vr_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import ConfigError, StorageUnavailable
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import SchemaState, Scope
from dicomweb_server.testing.bin_suite import BinSuite
from dicomweb_server.testing.blob_suite import BlobSuite, staged
from dicomweb_server.testing.datasets import header, record
from dicomweb_server.testing.moving_suite import MovingSuite
from dicomweb_server.testing.search_cases import terms
from dicomweb_server.testing.steps import put
from dicomweb_server.testing.storage_suite import StorageSuite
from tests.services import mongodb
from tests.services.databases import missing


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with mongodb.named_or_own(tmp_path_factory.mktemp("mongodb")) as running:
            yield running
    except mongodb.Unavailable as exc:
        missing("mongodb", exc)


class ShardRules(CommandListener):
    """Notes every command that a collection with the shard key {_id: "hashed"} (the chunks: {files_id: 1, n: 1}) would
    refuse: a change of one document that is not chosen by its `_id`, a transaction, a join, an index that is unique."""

    UNSHARDED = ("work", "counters", "archive", "fs.staging")

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.seen: set[str] = set()

    def started(self, event: CommandStartedEvent) -> None:
        command, name = event.command, event.command_name
        collection = str(command.get(name))
        if "startTransaction" in command:
            self.broken.append(f"{name} in a transaction")
        if collection in self.UNSHARDED:
            return
        self.seen.add(name)
        chosen = [each["q"] for each in command.get("updates", ()) if not each.get("multi") or each.get("upsert")]
        chosen += [each["q"] for each in command.get("deletes", ()) if each["limit"]]
        chosen += [command["query"]] if name == "findAndModify" else []
        if any(isinstance(each.get("_id"), dict | None) for each in chosen):
            self.broken.append(f"{name} on {collection} of one document by {chosen}")
        stages = {stage for each in command.get("pipeline", ()) for stage in each}
        if stages - {"$match", "$group", "$sort", "$limit", "$skip", "$project", "$count", "$unwind", "$addFields"}:
            self.broken.append(f"{name} on {collection} with {stages}")
        for index in command.get("indexes", ()):
            if index.get("unique") and (collection, list(index["key"])) != ("fs.chunks", ["files_id", "n"]):
                self.broken.append(f"a unique index on {collection}")

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


@pytest.fixture(scope="module")
def shard_rules() -> Iterator[ShardRules]:
    rules = ShardRules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backends.mongodb.connection.MongoClient", partial(MongoClient, event_listeners=[rules]))
        yield rules


@pytest.fixture(autouse=True)
def nothing_that_a_sharded_collection_refuses(shard_rules: ShardRules) -> Iterator[None]:
    shard_rules.broken.clear()
    yield
    assert shard_rules.broken == []


@pytest.fixture(scope="module")
def database(url: str) -> Iterator[str]:
    with mongodb.database(url) as name:
        yield name


@pytest.fixture
def name(url: str, database: str) -> str:
    """The database, empty; its indexes stay, which saves most of the time."""
    mongodb.empty(url, database)
    return database


@pytest.fixture(scope="module")
def other_database(url: str) -> Iterator[str]:
    with mongodb.database(url) as name:
        yield name


@pytest.fixture
def other_name(url: str, other_database: str) -> str:
    """A second database, empty."""
    mongodb.empty(url, other_database)
    return other_database


def opened(url: str, name: str, **settings: object) -> MongoStorage:
    storage = MongoStorage.from_settings(settings={"url": url, "database": name, **settings})
    storage.open()
    return storage


def test_the_rules_of_shards_see_every_command(url: str, name: str, shard_rules: ShardRules) -> None:
    storage = opened(url, name)
    one = record()
    put(storage, one)
    put(storage, record(one.study_uid, one.series_uid, Modality="MR"))
    storage.close()
    assert shard_rules.seen >= {"insert", "find", "aggregate", "createIndexes"}
    with MongoClient[dict[str, Any]](url, event_listeners=[shard_rules]) as client:
        client[name]["instances"].update_one({"study": "1.2.3"}, {"$set": {"x": 1}})
    assert len(shard_rules.broken) == 1
    shard_rules.broken.clear()


class TestMongoDB(StorageSuite):
    @pytest.fixture
    def storage(self, url: str, name: str) -> Iterator[Storage]:
        self.url, self.name = url, name
        storage = opened(url, name)
        yield storage
        storage.close()

    def reopen(self, storage: Storage) -> Storage:
        storage.close()
        return opened(self.url, self.name)

    def spoil(self, storage: Storage, study_uid: str) -> None:
        with MongoClient[dict[str, Any]](self.url) as client:
            database = client[self.name]
            database["studies"].update_one({"_id": study_uid}, {"$set": {"n_series": 9, "attributes": b"{}"}})
            patient = database["patients"].find_one({})
            assert patient is not None
            database["patients"].insert_one({**patient, "_id": "lonely"})


class TestBin(BinSuite):
    @pytest.fixture
    def storage(self, url: str, name: str) -> Iterator[Storage]:
        storage = opened(url, name)
        yield storage
        storage.close()


class TestMoving(MovingSuite):
    @pytest.fixture
    def source(self, url: str, name: str) -> Iterator[Storage]:
        storage = opened(url, name)
        yield storage
        storage.close()

    @pytest.fixture
    def target(self, url: str, other_name: str) -> Iterator[Storage]:
        storage = opened(url, other_name)
        yield storage
        storage.close()


class TestGridFS(BlobSuite):
    @pytest.fixture
    def blobs(self, url: str, name: str) -> Iterator[BlobStore]:
        self.settings = {"url": url, "database": name}
        blobs = GridFSBlobStore.from_settings(settings=self.settings)
        blobs.open()
        yield blobs
        blobs.close()

    def reopen(self, blobs: BlobStore) -> BlobStore:
        blobs.close()
        again = GridFSBlobStore.from_settings(settings=self.settings)
        again.open()
        return again


# Settings and the start


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"url": ""},
        {"url": 5},
        {"url": "http://127.0.0.1"},
        {"url": "mongodb://user:se@cret@host/"},
        {"url": "mongodb://host", "database": "a/b"},
        {"url": "mongodb://host", "wait_seconds": "5"},
        {"url": "mongodb://host", "wait_seconds": -1},
        {"url": "mongodb://host", "databse": "x"},
    ],
)
@pytest.mark.parametrize("kind", [MongoStorage, GridFSBlobStore])
def test_unusable_settings_are_refused(
    kind: type[MongoStorage] | type[GridFSBlobStore], settings: dict[str, object]
) -> None:
    with pytest.raises(ConfigError) as caught:
        kind.from_settings(settings=settings)
    assert "cret" not in str(caught.value)


RIGHT = "right"


class TestStart:
    def test_a_wrong_password_is_told_and_not_shown(self, tmp_path: Path) -> None:
        with mongodb.running(tmp_path, "--auth") as server:
            with MongoClient[dict[str, Any]](server.url) as client:
                client.admin.command("createUser", "root", pwd=RIGHT, roles=["root"])
            address = f"127.0.0.1:{server.port}"
            for user in ("root:wrong@", "nobody:right@", ""):
                with pytest.raises(ConfigError, match="refuses") as caught:
                    opened(f"mongodb://{user}{address}", "archive", wait_seconds=0)
                assert "wrong" not in str(caught.value)
                assert "right" not in str(caught.value)
            storage = opened(f"mongodb://root:right@{address}", "archive")
            put(storage, record())
            storage.close()

    def test_a_server_that_is_too_old_is_told_in_one_sentence(self) -> None:
        with OldServer() as server, pytest.raises(ConfigError, match="too old"):
            opened(server.url, "archive", wait_seconds=5)

    def test_it_waits_for_a_server_that_comes_up_later(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        server = mongodb.Mongod(tmp_path)
        later = threading.Timer(1.5, lambda: server.start(wait=False))
        later.start()
        try:
            secret = server.url.replace("//", "//user:secret@")
            with pytest.raises(ConfigError):  # it came up, and knows no such user
                opened(secret, "archive", server_selection_timeout_seconds=0.5)
            storage = opened(server.url, "archive")
            assert storage.check().ready
            storage.close()
        finally:
            later.join()
            server.stop()
        assert f"Waiting for MongoDB at 127.0.0.1:{server.port}" in caplog.text
        assert "secret" not in caplog.text

    def test_a_server_that_never_comes_is_unavailable(self) -> None:
        with pytest.raises(StorageUnavailable):
            opened("mongodb://127.0.0.1:1", "archive", wait_seconds=0, server_selection_timeout_seconds=0.2)

    def test_a_newer_schema_is_refused(self, url: str, name: str) -> None:
        opened(url, name).close()
        with MongoClient[dict[str, Any]](url) as client:
            client[name].archive.update_one({}, {"$set": {"version": 99}})
        with pytest.raises(ConfigError, match="newer"):
            opened(url, name)

    def test_many_open_at_once(self, url: str) -> None:
        with mongodb.database(url) as fresh, ThreadPoolExecutor(6) as pool:
            storages = list(pool.map(lambda _: opened(url, fresh), range(6)))
            for storage in storages:
                storage.close()


class OldServer(socketserver.ThreadingTCPServer):
    """Speaks just enough of the wire protocol to say that it is MongoDB 4.2."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _OldConnection)
        self.url = f"mongodb://127.0.0.1:{self.server_address[1]}/?directConnection=true"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _OldConnection(socketserver.BaseRequestHandler):
    _HELLO: ClassVar[dict[str, Any]] = {"ok": 1, "ismaster": True, "maxWireVersion": 8, "minWireVersion": 0}
    _LIMITS: ClassVar[dict[str, Any]] = {"maxBsonObjectSize": 1 << 24, "maxMessageSizeBytes": 48_000_000}
    _BUILD: ClassVar[dict[str, Any]] = {"ok": 1, "version": "4.2.24", "versionArray": [4, 2, 24, 0]}
    _LIST: ClassVar[dict[str, Any]] = {"ok": 1, "cursor": {"id": 0, "ns": "a.b", "firstBatch": []}}

    def handle(self) -> None:
        stream = self.request.makefile("rb")
        while len(head := stream.read(16)) == 16:
            length, request_id, _, code = struct.unpack("<iiii", head)
            body = stream.read(length - 16)
            # OP_MSG: flags, a kind; OP_QUERY: flags, a name, two numbers
            command = bson.decode(body[5 if code == 2013 else body.index(b"\0", 4) + 9 :])
            doc = self._answer(next(iter(command)).lower())
            if code == 2013:
                data, code = struct.pack("<iB", 0, 0) + bson.encode(doc), 2013
            else:
                data, code = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(doc), 1
            self.request.sendall(struct.pack("<iiii", len(data) + 16, 1, request_id, code) + data)

    def _answer(self, command: str) -> dict[str, Any]:
        if command in ("hello", "ismaster"):
            return {**self._HELLO, **self._LIMITS, "maxWriteBatchSize": 100_000}
        return {"buildinfo": self._BUILD, "listcollections": self._LIST}.get(command, {"ok": 1})


def test_small_blobs_are_one_piece_and_blobs_of_before_are_read(url: str, name: str) -> None:
    blobs = GridFSBlobStore.from_settings(settings={"url": url, "database": name})
    blobs.open()
    with MongoClient[dict[str, Any]](url) as client:
        chunks, files = client[name]["fs.chunks"], client[name]["fs.files"]
        data = os.urandom(WHOLE_BYTES)
        whole, pieces = blobs.keep(staged=[staged(blobs, data), staged(blobs, data + b"x")])
        assert chunks.count_documents({"files_id": whole}) == 1
        assert chunks.count_documents({"files_id": pieces}) == 1 + WHOLE_BYTES // CHUNK_BYTES
        assert [blobs.read(key=key, start=CHUNK_BYTES - 1, length=2) for key in (whole, pieces)] == [
            data[CHUNK_BYTES - 1 : CHUNK_BYTES + 1]
        ] * 2
        old = "0" * 32
        chunks.insert_many([{"files_id": old, "n": n, "data": data[n * CHUNK_BYTES :][:CHUNK_BYTES]} for n in range(2)])
        files.insert_one(
            {"_id": old, "length": 2 * CHUNK_BYTES, "chunkSize": CHUNK_BYTES, "uploadDate": datetime.now(UTC)}
        )
        assert blobs.read(key=old, start=CHUNK_BYTES - 1, length=2) == data[CHUNK_BYTES - 1 : CHUNK_BYTES + 1]
        assert b"".join(blobs.stream(key=old)) == data[: 2 * CHUNK_BYTES]
    blobs.close()


def test_pieces_lie_in_a_collection_that_was_made_with_a_compression_of_its_own(url: str, name: str) -> None:
    with MongoClient[dict[str, Any]](url) as client:
        client[name].drop_collection("fs.chunks")
        options = {"wiredTiger": {"configString": "block_compressor=none"}}
        client[name].create_collection("fs.chunks", storageEngine=options)
        blobs = GridFSBlobStore.from_settings(settings={"url": url, "database": name})
        blobs.open()
        (key,) = blobs.keep(staged=[staged(blobs, b"piece")])
        assert blobs.read(key=key, start=1, length=3) == b"iec"
        assert client[name].command("listCollections", filter={"name": "fs.chunks"})["cursor"]["firstBatch"][0][
            "options"
        ] == {"storageEngine": options}
        blobs.close()
        client[name].drop_collection("fs.chunks")


# Plans and round trips


NEWEST = (Order("00080020", "DA", True), Order("00080030", "TM", True))
STUDIES = 20_000


@pytest.fixture(scope="module")
def many(url: str) -> Iterator[MongoStorage]:
    """An archive of many studies, of which only the derived documents are written."""
    with mongodb.database(url) as name:
        storage = opened(url, name)
        docs = []
        for number in range(STUDIES):
            day = f"2023{number % 12 + 1:02}{number % 28 + 1:02}"
            attributes = header(
                PatientID=f"ID{number:05}",
                PatientName=f"{'abcdefghij'[number % 10]}{number:05}^{('Anna', 'Bert', 'Carla')[number % 3]}",
                StudyDate=[day, "20200101"] if number % 500 == 499 else day,
                StudyTime=f"{number % 24:02}0000",
                AccessionNumber=f"ACC{number}",
                StudyDescription=f"Study of part {number % 50}",
            )
            part = {
                "attributes": attributes,
                "places": dict.fromkeys(attributes, number),
                "n_series": 1,
                "n_instances": 1,
                "modalities": [("CT", "MR")[number % 2]],
                "sop_classes": [],
                "transfer_syntaxes": [],
            }
            doc = document(Level.STUDY, f"1.2.3.{number}", [part])
            assert doc is not None
            docs.append({**doc, "patient": f"id\\\\ID{number:05}"})
        storage._connection.safe("studies").insert_many(docs)
        yield storage
        storage.close()


def examined(storage: MongoStorage, query: Query) -> tuple[int, int, int]:
    """How many documents a query returns, and how many keys and documents it looks at."""
    statement = Statement(storage._connection, query)
    command: dict[str, Any] = {"aggregate": "studies", "pipeline": statement.pipeline(), "cursor": {}}
    if statement.hint:
        command["hint"] = statement.hint
    plan = storage._connection.database.command("explain", command, verbosity="executionStats")
    stats = plan.get("executionStats") or plan["stages"][0]["$cursor"]["executionStats"]
    return len(statement.run()), stats["totalKeysExamined"], stats["totalDocsExamined"]


class TestPlans:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "PatientID=ID00500",
            "PatientName=a00500^carla",
            "PatientName=a005*",
            "AccessionNumber=ACC77",
            "AccessionNumber=ACC77*",
            "StudyDate=20230303",
            "StudyDate=20230301-20230310",
            "StudyDate=20230301-",
            "StudyInstanceUID=" + ",".join(f"1.2.3.{number}" for number in range(0, 100, 3)),
            "PatientID=ID00500\\ID00700\\ID00900",
            "StudyDescription=Study of part 7*",
        ],
    )
    @pytest.mark.parametrize("order", [NEWEST, ()], ids=["newest", "any"])
    def test_at_most_three_keys_for_each_hit(self, many: MongoStorage, text: str, order: tuple[Order, ...]) -> None:
        wanted = terms(text, multiple=True) if text else ()
        hits, keys, docs = examined(many, Query(level=Level.STUDY, terms=wanted, order=order, limit=1000))
        assert hits
        assert max(keys, docs) <= 3 * hits

    def test_the_default_list_comes_from_its_index(self, many: MongoStorage) -> None:
        hits, keys, docs = examined(many, Query(level=Level.STUDY, order=NEWEST, limit=101))
        assert (hits, keys, docs) == (102, 102, 102)

    def test_a_range_of_dates_stops_at_the_limit(self, many: MongoStorage) -> None:
        wanted = terms("StudyDate=20230101-20231231")
        hits, keys, docs = examined(many, Query(level=Level.STUDY, terms=wanted, order=NEWEST, limit=100))
        assert hits == 101
        assert max(keys, docs) <= 3 * hits

    @pytest.mark.parametrize("tag", ["00100010", "00100020", "00080020", "00080050", "00081030"])
    @pytest.mark.parametrize("descending", [False, True])
    def test_usual_orders_come_from_an_index(self, many: MongoStorage, tag: str, descending: bool) -> None:
        hits, keys, docs = examined(
            many, Query(level=Level.STUDY, order=(Order(tag, vr_of(tag), descending),), limit=50)
        )
        assert (hits, keys, docs) == (51, 51, 51)

    @pytest.mark.parametrize("text", ["PatientName=*500^*", "PatientID=*0077", "StudyDescription=*part 33"])
    def test_contained_text_reads_only_the_documents_it_returns(self, many: MongoStorage, text: str) -> None:
        hits, keys, docs = examined(many, Query(level=Level.STUDY, terms=terms(text), order=NEWEST, limit=1000))
        assert hits
        assert docs == hits
        assert keys <= STUDIES + 1

    def test_fuzzy_names_use_the_index_of_values(self, many: MongoStorage) -> None:
        wanted = terms("PatientName=a00500 carla", fuzzy=True)
        hits, keys, docs = examined(many, Query(level=Level.STUDY, terms=wanted, order=NEWEST, limit=1000))
        assert hits
        assert max(keys, docs) <= 3 * hits

    def test_two_dates_are_found_by_both(self, many: MongoStorage) -> None:
        query = Query(level=Level.STUDY, terms=terms("StudyDate=20200101"), order=NEWEST, limit=1000)
        assert len(many.search(query=query).hits) == STUDIES // 500


class Counter(CommandListener):
    """Counts the commands that are waited for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in ("hello", "isMaster", "ping", "endSessions"):
            self.names.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


def test_round_trips(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter()
    monkeypatch.setattr("backends.mongodb.connection.MongoClient", partial(MongoClient, event_listeners=[counter]))
    storage = opened(url, name)
    blobs = GridFSBlobStore.from_settings(settings={"url": url, "database": name})
    blobs.open()
    (key,) = blobs.keep(staged=[staged(blobs, os.urandom(2 << 20))])
    one = record()
    put(storage, replace(one, blob=replace(one.blob, key=key)))

    def trips(*calls: Callable[[], object]) -> int:
        counter.names.clear()
        for call in calls:
            call()
        return len(counter.names)

    storage._stopping.set()
    storage._sweeper.join()  # type: ignore[union-attr]
    frame = partial(blobs.read, key=key, start=300_000, length=524_288)
    assert trips(lambda: storage.get(scope=one.scope), frame) == 2
    assert trips(lambda: storage.search(query=Query(level=Level.STUDY, order=NEWEST, limit=1000))) <= 3
    for level in Level:
        query = Query(level=level, terms=terms("PatientID=P1") + terms("PatientName=*o*"), limit=1000)
        assert trips(partial(storage.search, query=query)) <= 3
    above = Query(level=Level.SERIES, terms=terms("ModalitiesInStudy=CT"))
    assert trips(lambda: storage.search(query=above)) <= 3
    storage.close()
    blobs.close()


# Schema


def test_an_older_schema_is_upgraded_by_one_while_others_wait(url: str, name: str, monkeypatch: Any) -> None:
    """A lease that somebody died with ends by itself."""
    storage = opened(url, name)
    put(storage, record("1.2.3"))
    storage.close()
    upgrades = []
    migrate = schema._migrate

    def counted(connection: Any) -> None:
        upgrades.append(1)
        migrate(connection)

    monkeypatch.setattr(schema, "_migrate", counted)
    with MongoClient[dict[str, Any]](url) as client:
        database = client[name]
        for collection in ("patients", "studies", "series"):
            database[collection].update_many({}, {"$unset": {"digest": "", "changed_at": ""}})
        database["archive"].update_one({}, [{"$set": {"version": 1, "upgrading": "$$NOW"}}])
        fresh = MongoStorage.from_settings(settings={"url": url, "database": name})
        assert fresh.schema() == SchemaState(found=1, current=schema.VERSION)
        with ThreadPoolExecutor(4) as pool:
            opening = [pool.submit(opened, url, name) for _ in range(4)]
            assert not wait(opening, 1.0).done
            assert not upgrades
            database["archive"].update_one({}, {"$set": {"upgrading": datetime(2020, 1, 1, tzinfo=UTC)}})
            storages = [each.result(60) for each in opening]
        assert len(upgrades) == 1
        assert database["archive"].find_one({}, {"_id": 0, "version": 1, "upgrading": 1}) == {"version": schema.VERSION}
    assert storages[0].is_exact(scope=Scope(study_uid="1.2.3"))
    for one in storages:
        one.close()


def test_a_newer_schema_is_refused(url: str, name: str) -> None:
    opened(url, name).close()
    with MongoClient[dict[str, Any]](url) as client:
        client[name]["archive"].update_one({}, {"$set": {"version": 99}})
        with pytest.raises(ConfigError, match="newer"):
            opened(url, name)
        client[name]["archive"].update_one({}, {"$set": {"version": schema.VERSION}})
