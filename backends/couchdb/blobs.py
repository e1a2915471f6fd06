"""Blobs as attachments of documents, one chunk each.

The key of a blob tells when it was kept and how long it is, so that a range is read with one request for each chunk it
touches and nothing is looked up before. The first chunk is written last: a blob exists when that is there. Chunks have
the content type application/dicom, which CouchDB does not compress; a compressed attachment has no ranges.

They are written by `_bulk_docs`, in base64. What is put as a body of its own CouchDB keeps in the pieces in which the
network gave it, of some kilobytes each, and every read gathers them again: that takes it four times as long.
"""

import contextlib
import os
import re
import tempfile
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, BinaryIO, Self, cast

import couchdb.http  # type: ignore[import-untyped]

from backends.couchdb import database, designs
from backends.couchdb.database import AFTER_ID, IDS_AT_ONCE, Database, Json, Server
from backends.couchdb.session import driver_errors
from backends.couchdb.settings import CouchSettings
from dicomweb_server.errors import StorageCorrupt, StorageError, StorageFull, StorageUnavailable
from dicomweb_server.storage.base import BlobStore, StagedBlob
from dicomweb_server.storage.records import StorageState

CHUNK_BYTES = 4 * 1024 * 1024
TOGETHER_BYTES = CHUNK_BYTES
"""So much travels in one request, beside others: each takes three times as much memory meanwhile."""

STREAM_BYTES = 1024 * 1024
SUFFIX = "-blobs"
PARALLEL = 4
_ATTACHMENT = "chunk"
_TYPE = "application/dicom"
_PARTIAL = 206
_KEY = re.compile(r"([0-9a-f]{11})-([0-9a-f]{32})-([0-9]{1,15})-([0-9]{1,9})", re.ASCII)
_FIRST, _OTHER = "blob:", "chunk:"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")

_Chunk = tuple[str, int]
"""The key of a blob, and the number of the chunk."""


class CouchStagedBlob(StagedBlob):
    """A nameless temporary file: it goes away with the process."""

    def __init__(self) -> None:
        try:
            self.file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - closed by discard
        except OSError as exc:
            raise StorageFull("There is no space for a file that is being received.") from exc

    def discard(self) -> None:
        self.file.close()


class CouchBlobStore(BlobStore):
    """Keeps blobs in the database `<database>-blobs`."""

    def __init__(self, settings: CouchSettings) -> None:
        self._settings = settings
        self._server: Server | None = None
        self._database: Database | None = None
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        return cls(CouchSettings.parse(settings))

    def open(self) -> None:
        server = Server(self._settings)
        try:
            with database.opening():
                server.connect()
                blobs = server.database(SUFFIX)
                blobs.create(designs.BLOBS)
        except BaseException:
            server.close()
            raise
        self._server, self._database = server, blobs
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="couchdb-blobs")

    def close(self) -> None:
        pool, server = self._pool, self._server
        self._pool = self._database = self._server = None
        if pool is not None:
            pool.shutdown()
        if server is not None:
            server.close()

    def check(self) -> StorageState:
        if self._database is None:
            return StorageState(ready=False, latency_seconds=0.0, detail="The blob store is not open.")
        return database.check(self._settings, SUFFIX)

    @property
    def requests(self) -> int:
        """The round trips so far."""
        return self._server.session.requests if self._server is not None else 0

    # Writing

    def free_bytes(self) -> int | None:
        return None

    def stage(self) -> StagedBlob:
        self._opened()
        return CouchStagedBlob()

    def keep(self, *, staged: Sequence[StagedBlob]) -> list[str]:
        blobs = self._opened()
        if any(each.file.closed for each in staged):
            raise StorageError("A blob that was given up cannot be kept.")
        files = {_new_key(each.file.seek(0, 2)): each.file for each in staged}
        counts = {key: len(_document_ids(key)) for key in files}
        most = [(key, number) for key, count in counts.items() for number in range(int(count > 1), count)]
        last = [(key, 0) for key, count in counts.items() if count > 1]
        try:
            for some in (most, last):
                self._run([partial(_put, blobs, files, together) for together in _together(some)])
        except BaseException:
            with contextlib.suppress(StorageError):
                self.delete(keys=files)
            raise
        for each in staged:
            each.discard()
        return list(files)

    def _run(self, works: Sequence[Callable[[], None]]) -> None:
        """Do all of it, several at a time; raises the first error when all have ended."""
        if len(works) < 2:
            for work in works:
                work()
            return
        pool = self._pool
        if pool is None:
            raise StorageUnavailable("The blob store is not open.")
        running = [pool.submit(work) for work in works]
        wait(running)
        for each in running:
            each.result()

    # Reading

    def read(self, *, key: str, start: int, length: int) -> bytes:
        self._opened()
        if start < 0 or length < 0 or start + length > _size(key):
            raise StorageCorrupt("A blob is shorter than what should be read of it.")
        if not length:
            self.size(key=key)
            return b""
        pieces = [_get(self._opened(), key, *place) for place in _places(key, start, length)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def stream(self, *, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        blobs = self._opened()
        length = _size(key) - start if length is None else length
        if start < 0 or length < 0 or start + length > _size(key):
            raise StorageCorrupt("A blob is shorter than what should be read of it.")
        places = _places(key, start, length)
        first = _get(blobs, key, *next(places)) if length else b""
        if not length:
            self.size(key=key)

        def pieces() -> Iterator[bytes]:
            yield from _slices(first)
            for place in places:
                yield from _slices(_get(blobs, key, *place))

        return pieces()

    def open_file(self, *, key: str) -> BinaryIO | None:
        self._opened()
        return None

    def size(self, *, key: str) -> int:
        size = _size(key)
        with driver_errors():
            try:
                self._opened().resource(_document_id(key, 0)).head()
            except couchdb.http.ResourceNotFound as exc:
                raise StorageCorrupt("A blob is missing.") from exc
        return size

    # Housekeeping

    def delete(self, *, keys: Iterable[str]) -> None:
        blobs = self._opened()
        known = [key for key in dict.fromkeys(keys) if _KEY.fullmatch(key)]
        for number in range(2):  # the chunk by which a blob exists goes first
            ids = [each for key in known for each in _document_ids(key)[slice(1) if not number else slice(1, None)]]
            for start in range(0, len(ids), IDS_AT_ONCE):
                rows = blobs.view("_all_docs", keys=ids[start : start + IDS_AT_ONCE])
                blobs.delete(
                    {"_id": row["id"], "_rev": row["value"]["rev"]}
                    for row in rows
                    if "id" in row and row["value"] and not row["value"].get("deleted")
                )

    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        last = max(int((time.time() - older_than_seconds) * 1000), 0)
        start, end = _FIRST, f"{_FIRST}{last:011x}-{AFTER_ID}"
        blobs = self._opened()
        while True:
            rows = blobs.view("_all_docs", startkey=start, endkey=end, limit=IDS_AT_ONCE + 1)
            for row in rows[:IDS_AT_ONCE]:
                yield row["id"].removeprefix(_FIRST)
            if len(rows) <= IDS_AT_ONCE:
                return
            start = rows[IDS_AT_ONCE]["id"]

    def _opened(self) -> Database:
        if self._database is None:
            raise StorageUnavailable("The blob store is not open.")
        return self._database


def _new_key(size: int) -> str:
    return f"{time.time_ns() // 1_000_000:011x}-{uuid.uuid4().hex}-{size}-{CHUNK_BYTES}"


def _size(key: str) -> int:
    return _parsed(key)[0]


def _parsed(key: str) -> tuple[int, int]:
    """The size of a blob and of its chunks."""
    found = _KEY.fullmatch(key)
    if found is None:
        raise StorageCorrupt("There is no blob with this key.")
    return int(found[3]), int(found[4])


def _document_id(key: str, number: int) -> str:
    return f"{_OTHER}{key}-{number:06d}" if number else f"{_FIRST}{key}"


def _document_ids(key: str) -> list[str]:
    size, chunk = _parsed(key)
    return [_document_id(key, number) for number in range(max(1, -(-size // chunk)))]


def _chunk_size(key: str, number: int) -> int:
    size, chunk = _parsed(key)
    return min(chunk, size - number * chunk)


def _places(key: str, start: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and length inside it, of each chunk that a range touches."""
    _, chunk = _parsed(key)
    end = start + length
    while start < end:
        number, inside = divmod(start, chunk)
        piece = min(chunk - inside, end - start)
        yield number, inside, piece
        start += piece


def _slices(data: bytes) -> Iterator[bytes]:
    if 0 < len(data) <= STREAM_BYTES:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), STREAM_BYTES):
        yield bytes(view[start : start + STREAM_BYTES])


def _get(blobs: Database, key: str, number: int, start: int, length: int) -> bytes:
    """A part of one chunk. A server without ranges sends all of it."""
    headers = {"Accept": "*/*"}
    if length < _chunk_size(key, number):
        headers["Range"] = f"bytes={start}-{start + length - 1}"
    with driver_errors():
        try:
            status, answered, body = blobs.resource(_document_id(key, number), _ATTACHMENT).get(headers=headers)
        except couchdb.http.ResourceNotFound as exc:
            raise StorageCorrupt("A blob is missing, or a part of it.") from exc
    data: bytes = body.read()
    if status == _PARTIAL:
        given = _CONTENT_RANGE.match(answered.get("content-range", ""))
        if given is None or int(given[1]) != start:
            raise StorageCorrupt("CouchDB gave another range than the one asked for.")
    else:
        data = data[start : start + length]
    if len(data) != length:
        raise StorageCorrupt("A part of a blob is shorter than it should be.")
    return data


def _together(chunks: Iterable[_Chunk]) -> Iterator[list[_Chunk]]:
    """Runs of chunks that travel in one request."""
    some: list[_Chunk] = []
    size = 0
    for chunk in chunks:
        if some and size + _chunk_size(*chunk) > TOGETHER_BYTES:
            yield some
            some, size = [], 0
        some.append(chunk)
        size += _chunk_size(*chunk)
    if some:
        yield some


def _put(blobs: Database, files: Mapping[str, BinaryIO], chunks: Sequence[_Chunk]) -> None:
    """Write some chunks. What is there already is of a first try whose answer was lost: no key is given twice."""
    made: list[Json] = []
    for key, number in chunks:
        size = _chunk_size(key, number)
        # Several threads may read one file.
        data = os.pread(files[key].fileno(), size, number * CHUNK_BYTES)
        if len(data) != size:
            raise StorageCorrupt("A staged file is shorter than it was.")
        attachment = {"content_type": _TYPE, "data": b64encode(data).decode()}
        made.append({"_id": _document_id(key, number), "_attachments": {_ATTACHMENT: attachment}})
    blobs.write(made)
