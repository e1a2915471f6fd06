"""The CouchDB storage and blob store pass the contract suites on a server over its wire protocol."""

import random
import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import orjson
import pytest

from backends.couchdb import CouchBlobStore, CouchStorage, entities, keys
from backends.couchdb.blobs import CHUNK_BYTES
from backends.couchdb.blobs import _get as get_chunk
from backends.couchdb.database import Server
from backends.couchdb.session import Address, Session
from backends.couchdb.settings import CouchSettings
from backends.couchdb.sources import NEWEST
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import (
    ConfigError,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import OnDuplicate, Scope, Stored
from dicomweb_server.testing.bin_suite import BinSuite
from dicomweb_server.testing.blob_suite import BlobSuite, staged
from dicomweb_server.testing.datasets import deflated, record
from dicomweb_server.testing.moving_suite import MovingSuite
from dicomweb_server.testing.search_cases import STUDY, terms
from dicomweb_server.testing.steps import put
from dicomweb_server.testing.storage_suite import StorageSuite
from tests.services import couchdb
from tests.services.databases import missing


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        with couchdb.named_or_own(tmp_path_factory.mktemp("couchdb")) as running:
            yield running
    except couchdb.Unavailable as exc:
        missing("couchdb", exc)


@pytest.fixture
def name(url: str) -> Iterator[str]:
    with couchdb.database(url) as database:
        yield database


def opened(url: str, name: str, **settings: object) -> CouchStorage:
    storage = CouchStorage.from_settings(settings={"url": url, "database": name, "wait_seconds": 5, **settings})
    storage.open()
    return storage


class TestCouchDB(StorageSuite):
    @pytest.fixture
    def storage(self, url: str, name: str) -> Iterator[Storage]:
        self.place = (url, name)
        storage = opened(url, name)
        yield storage
        storage.close()

    def reopen(self, storage: Storage) -> Storage:
        storage.close()
        return opened(*self.place)

    def spoil(self, storage: Storage, study_uid: str) -> None:
        server = Server(CouchSettings.parse({"url": self.place[0], "database": self.place[1]}))
        server.connect()
        archive = server.database("-archive")
        study = archive.get(f"study:{study_uid}")
        assert study is not None
        study["listed"] = []
        study["attributes"] = "{}"
        key = keys.encode("lonely")
        (patient, *_) = archive.with_prefix("patient:")
        lonely = {name: value for name, value in patient.items() if name != "_rev"}
        archive.write([study, {**lonely, "_id": entities.patient_id(str(key)), "uid": key}])
        server.close()


class TestBin(BinSuite):
    @pytest.fixture
    def storage(self, url: str, name: str) -> Iterator[Storage]:
        storage = opened(url, name)
        yield storage
        storage.close()


class TestMoving(MovingSuite):
    @pytest.fixture
    def source(self, url: str) -> Iterator[Storage]:
        yield from self.storages(url)

    @pytest.fixture
    def target(self, url: str) -> Iterator[Storage]:
        yield from self.storages(url)

    def storages(self, url: str) -> Iterator[Storage]:
        with couchdb.database(url) as name:
            storage = opened(url, name)
            yield storage
            storage.close()


def opened_blobs(url: str, name: str) -> CouchBlobStore:
    blobs = CouchBlobStore.from_settings(settings={"url": url, "database": name, "wait_seconds": 5})
    blobs.open()
    return blobs


class TestCouchDBBlobs(BlobSuite):
    @pytest.fixture
    def blobs(self, url: str, name: str) -> Iterator[BlobStore]:
        self.place = (url, name)
        blobs = opened_blobs(url, name)
        yield blobs
        blobs.close()

    def reopen(self, blobs: BlobStore) -> BlobStore:
        blobs.close()
        return opened_blobs(*self.place)


# Cost


class TestCost:
    """What a request costs, in round trips and in rows of views."""

    STUDIES = 150

    @pytest.fixture(scope="class")
    @classmethod
    def storage(cls, url: str) -> Iterator[CouchStorage]:
        with couchdb.database(url) as database:
            storage = opened(url, database)
            for start in range(0, cls.STUDIES, 50):
                records = [
                    record(
                        f"{STUDY}.{n}",
                        PatientID=f"P{n:04}",
                        PatientName=f"Name{n:04}^Given",
                        StudyDate=f"20{20 + n % 5}0{1 + n % 9}{10 + n % 18}",
                        StudyTime=f"{n % 24:02}0000",
                        AccessionNumber=f"A{n // 2:04}",
                        Modality="MR" if n % 2 else "CT",
                    )
                    for n in range(start, start + 50)
                ]
                storage.store(records=records, on_duplicate=OnDuplicate.REJECT)
            yield storage
            storage.close()

    @pytest.mark.parametrize(
        "text",
        [
            "PatientID=P0007",
            "AccessionNumber=A0007",
            "ModalitiesInStudy=CT",
            "PatientID=P0001\\P0002\\P0003",
            f"StudyInstanceUID={STUDY}.1,{STUDY}.2,{STUDY}.3,{STUDY}.4",
            "PatientID=P000*",
            "PatientName=name001*",
            "StudyDate=20210101-20220601",
            "StudyDate=-20211231",
            "StudyDate=20230413",
            "PatientID=",
        ],
    )
    def test_at_most_three_rows_are_read_for_a_hit(self, storage: CouchStorage, text: str) -> None:
        options = {"multiple": True} if "\\" in text else {}
        rows = storage.rows
        page = storage.search(query=Query(level=Level.STUDY, terms=terms(text, **options), order=NEWEST, limit=101))
        assert page.hits
        # The totals of a study are two rows and one for each series; they belong to the hit, not to finding it.
        found = storage.rows - rows - sum(1 + hit.number_of_series for hit in page.hits)
        assert found <= 3 * (len(page.hits) + 1)

    @pytest.mark.parametrize(
        ("text", "fuzzy"),
        [
            ("PatientID=P0007", False),
            ("PatientName=*ame0010^*", False),
            ("StudyInstanceUID=" + f"{STUDY}.7", False),
            ("PatientName=name0011", True),
        ],
    )
    def test_a_study_search_takes_at_most_three_round_trips(
        self, storage: CouchStorage, text: str, fuzzy: bool
    ) -> None:
        if (fuzzy or "*" in text) and not couchdb.is_couchdb():
            pytest.skip("PouchDB answers no `queries`: one more round trip there; name a CouchDB in COUCHDB_URL")
        requests = storage.requests
        page = storage.search(query=Query(level=Level.STUDY, terms=terms(text, fuzzy=fuzzy), order=NEWEST))
        assert len(page.hits) == 1
        assert storage.requests - requests <= 3

    def test_the_list_of_studies_takes_three_round_trips(self, storage: CouchStorage) -> None:
        requests = storage.requests
        assert len(storage.search(query=Query(level=Level.STUDY, order=NEWEST, limit=101)).hits) == 101
        assert storage.requests - requests == 4  # three in a row: rows, documents, and totals by two at once

    @pytest.mark.parametrize(
        ("text", "hits"),
        [
            ("PatientName=*ame0010^*", 1),
            ("PatientName=*E01?0^g*", 5),
            ("PatientName=*n", 150),
            ("AccessionNumber=*007?", 10),
            ("PatientID=*01*", 61),
            ("PatientID=*9999999999999999*", 0),
        ],
    )
    @pytest.mark.parametrize(("few", "most"), [(1000, 0), (3, 1000), (3, 30), (3, 3)])
    def test_text_within_a_value_is_found(
        self, storage: CouchStorage, monkeypatch: pytest.MonkeyPatch, text: str, hits: int, few: int, most: int
    ) -> None:
        """By the pieces of the values or, where too many have one, by looking through the values in pages."""
        monkeypatch.setattr("backends.couchdb.sources.FEW_ROWS", few)
        monkeypatch.setattr("backends.couchdb.sources.MOST_ROWS", most)
        monkeypatch.setattr("backends.couchdb.sources.FIRST_SCAN", 20)
        monkeypatch.setattr("backends.couchdb.sources.SCANNED_FOR_ONE", 0)
        query = Query(level=Level.STUDY, terms=terms(text), order=NEWEST)
        found = [hit.study_uid for hit in storage.search(query=query).hits]
        assert len(found) == hits == storage.count(query=query)
        if hits > 100:
            page = storage.search(query=replace(query, offset=40, limit=20))
            assert [hit.study_uid for hit in page.hits] == found[40:60]

    @pytest.mark.parametrize("word", ["given", "giv", "gifen", "gave"])
    @pytest.mark.parametrize("few", [3, 1000])
    def test_a_word_that_many_have_is_found_in_order(
        self, storage: CouchStorage, monkeypatch: pytest.MonkeyPatch, word: str, few: int
    ) -> None:
        """By the rows of the word and of its sound, which are merged; there are only longer words, or none."""
        monkeypatch.setattr("backends.couchdb.sources.FEW_ROWS", few)
        monkeypatch.setattr("backends.couchdb.sources.MOST_WALKED", 30)
        everything = [hit.study_uid for hit in storage.search(query=Query(level=Level.STUDY, order=NEWEST)).hits]
        query = Query(level=Level.STUDY, terms=terms(f"PatientName={word}", fuzzy=True), order=NEWEST)
        found = [hit.study_uid for hit in storage.search(query=query).hits]
        assert found == ([] if word == "gave" else everything)
        assert storage.count(query=query) == len(found)
        page = storage.search(query=replace(query, offset=40, limit=20))
        assert [hit.study_uid for hit in page.hits] == found[40:60]
        assert page.more is bool(found)

    def test_a_page_far_behind_is_that_of_the_whole_list(self, storage: CouchStorage) -> None:
        query = Query(level=Level.STUDY, order=NEWEST)
        everything = [hit.study_uid for hit in storage.search(query=query).hits]
        for offset, limit in ((130, 10), (140, 100)):
            page = storage.search(query=replace(query, offset=offset, limit=limit))
            assert [hit.study_uid for hit in page.hits] == everything[offset : offset + limit]
            assert page.more is (offset + limit < len(everything))

    def test_a_list_that_another_term_thins_out_is_right(self, storage: CouchStorage) -> None:
        thin = terms("StudyDate=20210101-") + terms("ModalitiesInStudy=CT") + terms("AccessionNumber=*3*")
        query = Query(level=Level.STUDY, terms=thin, order=NEWEST, limit=10, offset=5)
        whole = storage.search(query=Query(level=Level.STUDY, terms=thin, order=NEWEST)).hits
        page = storage.search(query=query)
        assert [hit.study_uid for hit in page.hits] == [hit.study_uid for hit in whole[5:15]]
        assert page.more is (len(whole) > 15)
        assert storage.count(query=query) == len(whole)

    def test_a_series_is_found_once_and_by_what_it_shows(self, storage: CouchStorage) -> None:
        """It is looked for by the values of its headers."""
        first = record(Modality="XX", SeriesDescription="shown")
        others = [
            record(first.study_uid, first.series_uid, Modality="XX", SeriesDescription=f"hidden {n}") for n in range(4)
        ]
        beside = record(first.study_uid, Modality="XX", SeriesDescription="shown too")
        for one in (first, *others, beside):
            storage.store(records=[one], on_duplicate=OnDuplicate.REJECT)

        def found(text: str, limit: int = 9) -> list[str | None]:
            query = Query(level=Level.SERIES, terms=terms(text), limit=limit)
            page = storage.search(query=query)
            assert page.more or len(page.hits) == storage.count(query=query)
            return [hit.series_uid for hit in page.hits]

        series = sorted([first.series_uid, beside.series_uid])
        assert found("Modality=XX") == series
        assert found("Modality=XX", limit=1) == series[:1]
        assert found("SeriesDescription=shown*") == series
        assert found("SeriesDescription=hidden 1") == found("SeriesDescription=hidden*") == []
        storage.remove(scope=Scope(study_uid=first.study_uid))

    def test_a_frame_takes_two_round_trips(self, storage: CouchStorage, url: str, name: str) -> None:
        blobs = opened_blobs(url, name)
        (key,) = blobs.keep(staged=[staged(blobs, bytes(CHUNK_BYTES) + b"frame")])
        one = record()
        storage.store(records=[replace(one, blob=replace(one.blob, key=key))], on_duplicate=OnDuplicate.REJECT)
        requests = storage.requests + blobs.requests
        found = storage.get(scope=one.scope)
        assert blobs.read(key=found.blob.key, start=CHUNK_BYTES, length=5) == b"frame"
        assert storage.requests + blobs.requests - requests == 2
        blobs.close()
        storage.remove(scope=one.scope)

    def test_storing_a_new_study_takes_eight_round_trips(self, storage: CouchStorage) -> None:
        requests = storage.requests
        first = record()
        storage.store(records=[first], on_duplicate=OnDuplicate.REJECT)
        # What this process writes to; the instance; what stands above: read, with the view, and written with its
        # headers; the same of the patient.
        assert storage.requests - requests == 8
        storage.remove(scope=Scope(study_uid=first.study_uid))

    def test_storing_more_of_a_series_writes_nothing_else(self, storage: CouchStorage) -> None:
        first = record()
        storage.store(records=[first], on_duplicate=OnDuplicate.REJECT)
        requests = storage.requests
        more = [record(first.study_uid, first.series_uid) for _ in range(20)]
        storage.store(records=more, on_duplicate=OnDuplicate.REJECT)
        # The instances; what stands above with the view that tells whether it is right; the same of the patient.
        assert storage.requests - requests == 5
        storage.remove(scope=Scope(study_uid=first.study_uid))


# The session


class Wire:
    """A server of raw bytes for one address: what a real one does only when it is broken or old."""

    def __init__(self, *answers: bytes | None) -> None:
        self.bodies: list[bytes] = []
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb") as incoming:
                length = 0
                while line := incoming.readline().strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                self.bodies.append(incoming.read(length if answer is not None else length // 2))
                if answer is None:  # a reset, in the middle of the body
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    connection.sendall(answer)

    def close(self) -> None:
        self._thread.join(timeout=10)
        self._socket.close()


def answer(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % len(body), b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"Content-Type: application/json", b"", body])


def session_to(wire: Wire) -> Session:
    return Session(Address.parse(wire.url), timeout_seconds=10)


class TestSession:
    def test_a_reset_upload_is_sent_again_whole(self) -> None:
        wire = Wire(None, answer("201 Created", b"{}"))
        data = random.Random(1).randbytes(3_000_000)
        session_to(wire).request("PUT", wire.url, body=data)
        wire.close()
        assert [len(body) for body in wire.bodies][1] == len(data)
        assert wire.bodies[1] == data

    def test_a_missed_quorum_is_no_acknowledgement(self) -> None:
        wire = Wire(answer("202 Accepted", b'[{"ok":true,"id":"a","rev":"1-0","accepted":true}]'))
        with pytest.raises(StorageUnavailable):
            Server(CouchSettings.parse({"url": wire.url})).database().put({"_id": "a"})
        wire.close()

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b'{"couchdb":"Welcome","version":"3.2.2"}', "version 3.2; 3.3 or newer"),
            (b'{"couchdb":"Welcome","version":"1.7.1"}', "version 1.7; 3.3 or newer"),
            (b'{"cluster_name":"elastic"}', "no CouchDB"),
            (b"[]", "no CouchDB"),
        ],
    )
    def test_what_is_no_usable_server_is_refused(self, body: bytes, words: str) -> None:
        wire = Wire(answer("200 OK", body))
        with pytest.raises(ConfigError, match=words):
            CouchStorage.from_settings(settings={"url": wire.url, "wait_seconds": 30}).open()
        wire.close()

    @pytest.mark.parametrize(
        ("status", "body", "error"),
        [
            ("401 Unauthorized", b"{}", StorageError),
            ("404 Not Found", b'{"error":"not_found","reason":"Database does not exist."}', StorageUnavailable),
            ("413 Too Large", b"{}", StorageError),
            ("500 Error", b'{"error":"enospc","reason":"no space"}', StorageFull),
            ("507 Insufficient Storage", b"{}", StorageFull),
            ("503 Unavailable", b"<html>", StorageUnavailable),
            ("200 OK", b"{broken", StorageUnavailable),
        ],
    )
    def test_errors_become_ours(self, status: str, body: bytes, error: type[Exception]) -> None:
        wire = Wire(answer(status, body))
        settings = CouchSettings.parse({"url": wire.url, "wait_seconds": 0})
        with pytest.raises(StorageError) as raised:
            Server(settings).database().get("x")
        wire.close()
        assert type(raised.value) is error

    def test_a_view_that_is_being_built_is_asked_again(self) -> None:
        late = answer("500 Timeout", b'{"error":"timeout","reason":"not in a reasonable amount of time"}')
        building, ready = (
            answer("200 OK", b'{"view_index":{"updater_running":%s}}' % each) for each in (b"true", b"false")
        )
        rows = answer("200 OK", b'{"total_rows":1,"offset":0,"rows":[{"id":"a","key":1,"value":null}]}')
        for answers, works in (
            ((late, building, late, building, late, ready, rows), True),
            ((late, ready, rows), True),
            ((late, ready, late, ready), False),
            ((late, answer("500 Error", b"{}")), False),
        ):
            wire = Wire(*answers)
            database = Server(CouchSettings.parse({"url": wire.url})).database()
            if works:
                assert [row["id"] for row in database.view("search/terms")] == ["a"]
            else:
                with pytest.raises(StorageUnavailable):
                    database.view("search/terms")
            wire.close()

    def test_a_range_is_checked(self) -> None:
        right = answer("206 Partial Content", b"23", b"Content-Range: bytes 2-3/10")
        wrong = answer("206 Partial Content", b"45", b"Content-Range: bytes 4-5/10")
        wire = Wire(right, answer("200 OK", b"0123456789"), wrong, answer("206 Partial Content", b"2"))
        blobs = Server(CouchSettings.parse({"url": wire.url})).database("-blobs")
        key = f"{0:011x}-{0:032x}-10-{CHUNK_BYTES}"
        assert get_chunk(blobs, key, 0, 2, 2) == b"23"
        assert get_chunk(blobs, key, 0, 2, 2) == b"23"
        for _ in range(2):
            with pytest.raises(StorageCorrupt):
                get_chunk(blobs, key, 0, 2, 2)
        wire.close()

    @pytest.mark.parametrize(
        "settings",
        [
            {"url": "mongodb://x"},
            {"url": "http://"},
            {"url": 5},
            {"url": "http://u:geheim@h:port"},
            {"url": "http://u:geheim@h/?x=1"},
            {"database": "Upper"},
            {"database": "_users"},
            {"timeout_seconds": 0},
            {"wait_seconds": "5"},
            {"databse": "x"},
        ],
    )
    @pytest.mark.parametrize("plugin", [CouchStorage, CouchBlobStore])
    def test_unusable_settings_are_refused(
        self, plugin: type[CouchStorage | CouchBlobStore], settings: dict[str, object]
    ) -> None:
        with pytest.raises(ConfigError) as error:
            plugin.from_settings(settings=settings)
        assert "geheim" not in str(error.value)

    def test_a_password_may_hold_anything(self) -> None:
        address = Address.parse("https://user:p%40s:s%2F@host:6984/couch/")
        assert address.url == "https://host:6984/couch"
        assert address.authorization == f"Basic {b64encode(b'user:p@s:s/').decode()}"
        assert "p@s" not in repr(address)


class TestLarge:
    def test_metadata_of_any_size(self, url: str, name: str) -> None:
        storage = opened(url, name)
        large = replace(
            record(),
            metadata=deflated(orjson.dumps({"00104000": {"vr": "LT"}}) + random.Random(1).randbytes(1_500_000)),
        )
        put(storage, large)
        (metadata,) = storage.metadata(scope=large.scope)
        assert metadata.deflated == large.metadata
        assert put(storage, large) == [Stored.SAME]
        storage.remove(scope=large.scope)
        left = storage._opened.records.with_prefix("part:")
        assert left == []
        storage.close()

    @pytest.mark.parametrize("chunk", [CHUNK_BYTES, CHUNK_BYTES // 4 - 1])
    def test_a_blob_of_several_chunks(self, url: str, name: str, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
        blobs = opened_blobs(url, name)
        data = random.Random(2).randbytes(2 * CHUNK_BYTES + 5)
        with monkeypatch.context() as patch:  # a release that cut them otherwise
            patch.setattr("backends.couchdb.blobs.CHUNK_BYTES", chunk)
            small, key = blobs.keep(staged=[staged(blobs, b"small"), staged(blobs, data)])
        blobs.delete(keys=[small])
        assert b"".join(blobs.stream(key=key)) == data
        for start, length in ((chunk - 3, chunk + 6), (chunk, 1), (len(data) - 2, 2), (0, len(data))):
            assert blobs.read(key=key, start=start, length=length) == data[start : start + length]
        assert list(blobs.keys(older_than_seconds=0)) == [key]
        blobs.delete(keys=[key])
        database = blobs._opened()
        assert [row for row in database.view("_all_docs") if not row["id"].startswith("_design")] == []
        blobs.close()


# Schema


def test_views_to_search_by_are_brought_up_to_date_while_much_is_stored(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not couchdb.is_couchdb():
        pytest.skip("PouchDB is not told to: it brings its views up to date on reading; name a CouchDB in COUCHDB_URL")
    monkeypatch.setattr("backends.couchdb.database.STEP_DOCUMENTS", 20)
    storage = opened(url, name)
    storage.store(records=[record() for _ in range(10)], on_duplicate=OnDuplicate.REJECT)
    deadline = time.monotonic() + 30
    while not storage._opened.archive.view("search/terms", update="false", limit=1):
        assert time.monotonic() < deadline
    storage.close()


def test_totals_on_one_node_are_read_from_one_shard(url: str, name: str) -> None:
    if not couchdb.is_couchdb():
        pytest.skip("PouchDB has no shards; name a CouchDB in COUCHDB_URL")
    server = Server(CouchSettings.parse({"url": url, "database": name}))
    server.connect()
    opened(url, name).close()
    for suffix in ("", "-documents"):
        _, _, found = server.database(suffix).resource("_shards").get_json()
        assert len(found["shards"]) == 1 or not server.is_alone()
    server.close()


def test_views_of_former_releases_are_deleted(url: str, name: str) -> None:
    opened(url, name).close()
    server = Server(CouchSettings.parse({"url": url, "database": name}))
    server.connect()
    archive = server.database("-archive")
    archive.put({"_id": "_design/scans", "views": {"scans": {"map": "function (doc) { emit(doc._id, null); }"}}})
    opened(url, name).close()
    assert not archive.get_many(["_design/scans"])
    server.close()


def test_a_newer_schema_is_refused(url: str, name: str) -> None:
    opened(url, name).close()
    server = Server(CouchSettings.parse({"url": url, "database": name}))
    server.connect()
    records = server.database()
    known = records.get("format")
    assert known is not None
    records.write([{**known, "version": 99}])
    server.close()
    with pytest.raises(ConfigError, match="it has schema 99"):
        opened(url, name)


def test_numbers_rise_also_where_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = keys.Clock()
    before = clock.next()
    now = time.time_ns()
    monkeypatch.setattr("backends.couchdb.keys.time.time_ns", lambda: now - 3600 * 10**9)
    assert clock.next() > before
    begun_later = keys.Clock()
    assert begun_later.next() < before, "it knows nothing else yet"
    begun_later.go_on_from(before)
    assert begun_later.next() > before
