"""Files in MongoDB, in the form of GridFS: other tools can read them.

`fs.files` has one document per blob, written last: before it is there, nobody knows of the blob. `fs.chunks` has its
bytes by (files_id, n), so that a frame is one query: a blob of up to 1 MiB in one piece, which its key tells, others in
pieces of 255 KiB. Before the first piece of a batch is written,
`fs.staging` names its blobs; what is still named there after a day is of a process that died. To spread the pieces over
shards, give `fs.chunks` the shard key {files_id: 1, n: 1}.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Self

from bson import ObjectId
from pymongo import IndexModel
from pymongo.errors import PyMongoError

from backends.mongodb.connection import Connection, Doc, MongoSettings
from backends.mongodb.errors import driver_errors
from backends.staging import TemporaryBlob, file_errors, pending_files
from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.base import BlobStore, StagedBlob
from dicomweb_server.storage.records import StorageState

CHUNK_BYTES = 255 * 1024
WHOLE_BYTES = 1 << 20
"""A blob up to this size is one piece."""
_WHOLE = "w"
"""The end of the keys of such blobs."""
_PER_ANSWER = 48
"""Chunks in one answer: MongoDB sends at most 16 MB at a time."""
_INSERT_BYTES = 3 << 19
"""So much goes in one message, at least. The memory of small ones is used again; that of large ones the kernel gives
anew, page by page, for each."""
_UPLOADS = 3
_PER_PAGE = 16
_STREAM_BYTES = 1 << 20
_KEYS_PER_PAGE = 1000
_STALE_SECONDS = 24 * 3600
_KEY = re.compile(rf"[0-9a-f]{{32}}{_WHOLE}?", re.ASCII)
_INDEXES = {
    "fs.chunks": IndexModel([("files_id", 1), ("n", 1)], unique=True),
    "fs.files": IndexModel([("uploadDate", 1), ("_id", 1)]),
}


class GridFSBlobStore(BlobStore):
    """Settings as those of `MongoStorage`."""

    def __init__(self, settings: MongoSettings) -> None:
        self._connection = Connection(settings)

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        return cls(MongoSettings.read("mongodb", settings))

    def open(self) -> None:
        self._connection.open()
        try:
            with driver_errors(opening=True):
                for name, index in _INDEXES.items():
                    self._connection.safe(name).create_indexes([index])
                self._sweep()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def check(self) -> StorageState:
        return self._connection.check()

    def free_bytes(self) -> int | None:
        with driver_errors():
            state = self._connection.database.command("dbStats")
        size, used = state.get("fsTotalSize"), state.get("fsUsedSize")  # missing where there are shards
        return int(size - used) if size and used else None

    def stage(self) -> StagedBlob:
        self._connection.database  # noqa: B018 - raises when closed
        return TemporaryBlob()

    def keep(self, *, staged: Sequence[StagedBlob]) -> list[str]:
        self._connection.database  # noqa: B018 - raises when closed
        files = pending_files(staged)
        keys = [_new_key(file.size()) for file in files]
        if not files:
            return []
        with driver_errors():
            try:
                self._upload(files, keys)
            except BaseException:
                with suppress(PyMongoError):
                    self._delete(keys)
                raise
            with suppress(PyMongoError):
                self._connection.unconfirmed("fs.staging").delete_one({"_id": keys[0]})
        for file in files:
            file.discard()
        return keys

    def _upload(self, files: Sequence[TemporaryBlob], keys: Sequence[str]) -> None:
        now = datetime.now(UTC)
        self._connection.safe("fs.staging").insert_one({"_id": keys[0], "keys": list(keys), "at": now})
        pairs = list(zip(files, keys, strict=True))
        parts = [pairs[start::_UPLOADS] for start in range(min(_UPLOADS, len(pairs)))]
        docs = self._connection.together(*(partial(self._upload_some, part, now) for part in parts))
        self._connection.safe("fs.files").insert_many([doc for some in docs for doc in some], ordered=False)

    def _upload_some(self, pairs: Sequence[tuple[TemporaryBlob, str]], now: datetime) -> list[Doc]:
        """Write the chunks of these files; gives their documents, which are to be written when all chunks are there."""
        chunks = self._connection.safe("fs.chunks")
        batch: list[Doc] = []
        batch_bytes = 0
        docs = []
        for file, key in pairs:
            size, chunk_bytes = 0, _chunk_bytes(key)
            for n, data in enumerate(_pieces(file, chunk_bytes)):
                batch.append({"_id": ObjectId(), "files_id": key, "n": n, "data": data})
                size += len(data)
                batch_bytes += len(data)
                if batch_bytes >= _INSERT_BYTES:
                    chunks.insert_many(batch, ordered=False)
                    batch, batch_bytes = [], 0
            docs.append({"_id": key, "length": size, "chunkSize": chunk_bytes, "uploadDate": now, "filename": key})
        if batch:
            chunks.insert_many(batch, ordered=False)
        return docs

    def read(self, *, key: str, start: int, length: int) -> bytes:
        if length == 0:
            self.size(key=key)
            return b""
        _check_key(key)
        chunk_bytes = _chunk_bytes(key)
        first, last = start // chunk_bytes, (start + length - 1) // chunk_bytes
        parts = []
        with driver_errors():
            for n in range(first, last + 1, _PER_ANSWER):
                parts += self._chunks(key, n, min(n + _PER_ANSWER - 1, last))
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        data = data[start - first * chunk_bytes :][:length]
        if len(data) != length:
            raise StorageCorrupt("A file of the archive is missing, or shorter than its record says.")
        return data

    def _chunks(self, key: str, first: int, last: int) -> list[bytes]:
        condition = {"files_id": key, "n": {"$gte": first, "$lte": last}}
        number = last - first + 1
        found = self._connection.safe("fs.chunks").find(condition, {"data": 1}).sort("n", 1)
        return [doc["data"] for doc in found.limit(-number).batch_size(number)]  # one answer, no cursor

    def stream(self, *, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        if key.endswith(_WHOLE) and (start, length) == (0, None):
            return _cut(self._whole(key))
        size = self.size(key=key)
        if length is not None and start + length > size:
            raise StorageCorrupt("A file of the archive is shorter than its record says.")
        return self._stream(key, start, size - start if length is None else length)

    def _whole(self, key: str) -> bytes:
        """A blob of one piece, read at once."""
        _check_key(key)
        with driver_errors():
            parts = self._chunks(key, 0, 0)
        if not parts:
            self.size(key=key)  # an empty one has no piece
        return b"".join(parts)

    def _stream(self, key: str, start: int, left: int) -> Iterator[bytes]:
        chunk_bytes = _chunk_bytes(key)
        while left > 0:
            first = start // chunk_bytes
            last = min((start + left - 1) // chunk_bytes, first + _PER_PAGE - 1)
            with driver_errors():
                page = b"".join(self._chunks(key, first, last))[start - first * chunk_bytes :][:left]
            if len(page) < min(left, (last + 1) * chunk_bytes - start):
                raise StorageCorrupt("A file of the archive is shorter than its record says.")
            start, left = start + len(page), left - len(page)
            yield from _cut(page)

    def open_file(self, *, key: str) -> None:
        self._connection.database  # noqa: B018 - raises when closed

    def size(self, *, key: str) -> int:
        _check_key(key)
        with driver_errors():
            found = self._connection.safe("fs.files").find_one({"_id": key}, {"length": 1})
        if found is None:
            raise StorageCorrupt("A file of the archive is missing.")
        return int(found["length"])

    def delete(self, *, keys: Iterable[str]) -> None:
        listed = [key for key in keys if _KEY.fullmatch(key)]
        with driver_errors():
            self._delete(listed)

    def _delete(self, keys: Sequence[str]) -> None:
        """First what makes the blobs known, then their bytes; the staging entry lets a later sweep finish."""
        self._connection.database  # noqa: B018 - raises when closed
        if not keys:
            return
        name = {"_id": keys[0]}
        entry = {"keys": list(keys), "at": datetime.now(UTC)}
        self._connection.safe("fs.staging").update_one(name, {"$set": entry}, upsert=True)
        self._connection.safe("fs.files").delete_many({"_id": {"$in": list(keys)}})
        self._connection.safe("fs.chunks").delete_many({"files_id": {"$in": list(keys)}})
        self._connection.unconfirmed("fs.staging").delete_one(name)

    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        newest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        after: Doc = {}
        while True:
            with driver_errors():
                condition = {"uploadDate": {"$lte": newest}, **after}
                found = self._connection.safe("fs.files").find(condition, {"_id": 1}).sort("_id", 1)
                page = [doc["_id"] for doc in found.limit(_KEYS_PER_PAGE)]
            yield from page
            if len(page) < _KEYS_PER_PAGE:
                return
            after = {"_id": {"$gt": page[-1]}}

    def _sweep(self) -> None:
        """Delete the pieces of blobs that were never finished."""
        oldest = datetime.now(UTC) - timedelta(seconds=_STALE_SECONDS)
        for entry in list(self._connection.safe("fs.staging").find({"at": {"$lt": oldest}}).limit(_KEYS_PER_PAGE)):
            kept = set(self._connection.safe("fs.files").distinct("_id", {"_id": {"$in": entry["keys"]}}))
            left = [key for key in entry["keys"] if key not in kept]
            self._connection.safe("fs.chunks").delete_many({"files_id": {"$in": left}})
            self._connection.safe("fs.staging").delete_one({"_id": entry["_id"]})


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise StorageCorrupt("A record of the archive names a file that cannot be.")


def _new_key(size: int) -> str:
    return uuid.uuid4().hex + (_WHOLE if size <= WHOLE_BYTES else "")


def _chunk_bytes(key: str) -> int:
    """How large the pieces of a blob are."""
    return WHOLE_BYTES if key.endswith(_WHOLE) else CHUNK_BYTES


def _cut(data: bytes) -> Iterator[bytes]:
    for place in range(0, len(data), _STREAM_BYTES):
        yield data[place : place + _STREAM_BYTES]


def _pieces(file: TemporaryBlob, size: int) -> Iterator[bytes]:
    with file_errors():
        file.file.seek(0)
        while data := file.file.read(size):
            yield data
