"""`BlobStore` on S3, by the client obstore.

A blob is one object, PREFIX/xx/KEY, where xx are the first two digits of its key: some servers keep objects in
folders, which so do not grow without bound, and no key is the beginning of another one with a slash, which some refuse.
An upload is only there when it is complete, so nothing half-written is ever seen; parts of uploads that a dead process
left go by the lifecycle rule AbortIncompleteMultipartUpload of the bucket.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import obstore
from obstore.exceptions import (
    BaseError,
    GenericError,
    InvalidPathError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import S3Store

from backends.staging import TemporaryBlob, pending_files
from dicomweb_server.errors import ConfigError, StorageCorrupt, StorageError, StorageFull, StorageUnavailable
from dicomweb_server.storage.base import BlobStore, StagedBlob
from dicomweb_server.storage.records import StorageState

STREAM_BYTES = 1 << 20
PARALLEL = 16
"""Uploads at once, in all threads of the process."""

_PAGE_BYTES = 4 << 20
_PART_BYTES = 16 << 20
_DELETE_AT_ONCE = 500
_CONNECT_SECONDS, _SILENT_SECONDS, _WHOLE_SECONDS = 5, 30, 600
_RETRY_SECONDS, _CHECK_SECONDS = 10, 3
_PAUSE_SECONDS = 0.2
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}", re.ASCII)
_PREFIX = re.compile(r"([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?", re.ASCII)
_FULL = re.compile(r"status: 507|InsufficientStorage|QuotaExceeded|StorageFull|no space left", re.IGNORECASE)
_NO_BUCKET = re.compile(r"NoSuchBucket|InvalidBucketName|bucket does not exist", re.IGNORECASE)
_REFUSED = re.compile(r"status: 40[13]|AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|UserNotFound")
_TEXTS = ("endpoint", "bucket", "prefix", "region", "access_key_id", "secret_access_key")
_log = logging.getLogger(__name__)
_SETTINGS = (*_TEXTS, "allow_http", "wait_seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    """What `[blobs.s3]` may hold. Without keys those of the machine's role or of the AWS environment are used."""

    bucket: str
    endpoint: str = ""
    prefix: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""
    allow_http: bool = False
    wait_seconds: float = 60.0

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        """The checked settings; raises ConfigError."""
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise ConfigError(f"s3 has no setting {unknown[0]!r}; it has {', '.join(_SETTINGS)}.")
        for key in _TEXTS:
            if key in settings and (not isinstance(settings[key], str) or "\0" in settings[key]):
                raise ConfigError(f"s3.{key} must be a text.")
        if not isinstance(settings.get("allow_http", False), bool):
            raise ConfigError("s3.allow_http must be true or false.")
        seconds = settings.get("wait_seconds", 60.0)
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= 3600:
            raise ConfigError("s3.wait_seconds must be a number from 0 to 3600.")
        if not _BUCKET.fullmatch(settings.get("bucket", "")):
            raise ConfigError("s3.bucket must be the name of a bucket.")
        prefix = settings.get("prefix", "").strip("/")
        if not _PREFIX.fullmatch(prefix) or ".." in prefix.split("/") or "." in prefix.split("/"):
            raise ConfigError("s3.prefix must be a path of letters, digits and ._- with slashes between.")
        found = cls(**{**settings, "prefix": prefix, "wait_seconds": float(seconds)})
        found._check_endpoint()
        return found

    def _check_endpoint(self) -> None:
        if self.endpoint and not re.fullmatch(r"https?://[^\s@?#/]+/?", self.endpoint):
            raise ConfigError("s3.endpoint must be an address such as https://s3.example.org:9000.")
        if self.endpoint.startswith("http://") and not self.allow_http:
            raise ConfigError("s3.endpoint is not encrypted; set s3.allow_http = true if the network is trusted.")
        if bool(self.access_key_id) != bool(self.secret_access_key):
            raise ConfigError("s3.access_key_id and s3.secret_access_key belong together.")


@contextmanager
def driver_errors(*, opening: bool = False) -> Iterator[None]:
    """Turn what obstore raises into errors of ours. Its messages hold addresses and paths: they stay in the cause."""
    try:
        yield
    except FileNotFoundError as error:
        if opening or _NO_BUCKET.search(str(error)):
            raise _no_bucket(opening) from error
        raise StorageCorrupt("A file of the archive is missing.") from error
    except (BaseError, OSError, TimeoutError) as error:
        raise _translated(error, opening=opening) from error


def _translated(error: Exception, *, opening: bool) -> StorageError | ConfigError:
    text = str(error)
    if _NO_BUCKET.search(text):
        return _no_bucket(opening)
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or _REFUSED.search(text):
        if opening:
            return ConfigError("The S3 server refuses the access key, or it may not use the bucket.")
        return StorageUnavailable("The S3 server refuses the access key of this server.")
    if _FULL.search(text):
        return StorageFull("No space is left on the S3 server.", retry_after_seconds=60)
    if opening and isinstance(error, (UnknownConfigurationKeyError, InvalidPathError)):
        return ConfigError("The settings of s3 cannot be used.")
    return StorageUnavailable("The S3 server does not answer, or could not do it now.")


def _no_bucket(opening: bool) -> StorageError | ConfigError:
    if opening:
        return ConfigError("The bucket of s3.bucket does not exist; create it first.")
    return StorageUnavailable("The S3 bucket is gone.")


class S3BlobStore(BlobStore):
    """Settings: `bucket`, `endpoint` (empty: Amazon's), `prefix`, `region`, `access_key_id` and `secret_access_key` (or
    `secret_access_key_file`), `allow_http`, `wait_seconds` (60) that a start waits for the server."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._opened: S3Store | None = None
        self._checking: S3Store | None = None
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        return cls(S3Settings.read(settings))

    def open(self) -> None:
        if self._opened is not None:
            return
        with driver_errors(opening=True):
            store = self._client(_WHOLE_SECONDS, _SILENT_SECONDS, _RETRY_SECONDS)
            checking = self._client(_CHECK_SECONDS, _CHECK_SECONDS, 1)
        self._wait(checking)
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="s3")
        self._opened, self._checking = store, checking

    def close(self) -> None:
        self._opened = self._checking = None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def check(self) -> StorageState:
        started = time.perf_counter()
        detail = "The files are not open."
        ready = False
        if self._checking is not None:
            try:
                with driver_errors():
                    self._list_one(self._checking)
                detail, ready = "The S3 server answers.", True
            except StorageError as error:
                detail = error.message
        return StorageState(ready=ready, latency_seconds=time.perf_counter() - started, detail=detail)

    def free_bytes(self) -> int | None:
        return None

    def stage(self) -> StagedBlob:
        self._store()
        return TemporaryBlob()

    def keep(self, *, staged: Sequence[StagedBlob]) -> list[str]:
        store, pool = self._store(), self._pool
        files = pending_files(staged)
        keys = [uuid.uuid4().hex for _ in files]
        if pool is None or not files:
            return []
        futures = [pool.submit(self._upload, store, key, file) for key, file in zip(keys, files, strict=True)]
        wait(futures)
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            with suppress(StorageError):
                self.delete(keys=keys)
            raise errors[0]
        for file in files:
            file.discard()
        return keys

    def _upload(self, store: S3Store, key: str, file: TemporaryBlob) -> None:
        with driver_errors():
            file.file.flush()
            file.file.seek(0)
            obstore.put(store, self._path(key), file.file, chunk_size=_PART_BYTES)

    def read(self, *, key: str, start: int, length: int) -> bytes:
        store = self._store()
        if length == 0:
            self.size(key=key)
            return b""
        path = self._path(key)
        try:
            with driver_errors():
                data = bytes(obstore.get_range(store, path, start=start, length=length))
        except StorageUnavailable as error:
            self._check_reach(key, start + length, error)
            raise
        if len(data) != length:
            raise StorageCorrupt("A file of the archive is shorter than its record says.")
        return data

    def _check_reach(self, key: str, end: int, error: StorageError) -> None:
        """A range behind the end is refused in ways that depend on the server."""
        if isinstance(error.__cause__, GenericError) and self.size(key=key) < end:
            raise StorageCorrupt("A file of the archive is shorter than its record says.") from error

    def stream(self, *, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        size = self.size(key=key)
        if length is not None and start + length > size:
            raise StorageCorrupt("A file of the archive is shorter than its record says.")
        return self._stream(key, start, size if length is None else start + length)

    def _stream(self, key: str, start: int, end: int) -> Iterator[bytes]:
        """Range by range: no connection stays open while a slow client reads."""
        while start < end:
            data = self.read(key=key, start=start, length=min(_PAGE_BYTES, end - start))
            start += len(data)
            for place in range(0, len(data), STREAM_BYTES):
                yield data[place : place + STREAM_BYTES]

    def open_file(self, *, key: str) -> None:
        self._store()

    def size(self, *, key: str) -> int:
        store, path = self._store(), self._path(key)
        with driver_errors():
            return int(obstore.head(store, path)["size"])

    def delete(self, *, keys: Iterable[str]) -> None:
        store = self._store()
        paths = [self._path(key) for key in dict.fromkeys(keys) if _KEY.fullmatch(key)]
        for place in range(0, len(paths), _DELETE_AT_ONCE):
            some = paths[place : place + _DELETE_AT_ONCE]
            with driver_errors():
                try:
                    obstore.delete(store, some)
                except FileNotFoundError:
                    self._delete_each(store, some)

    def _delete_each(self, store: S3Store, paths: Sequence[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                obstore.delete(store, path)

    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        store = self._store()
        newest = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        pages = iter(obstore.list(store, prefix=self._settings.prefix or None))
        while True:
            with driver_errors():
                page = next(pages, None)
            if page is None:
                return
            for found in page:
                key = found["path"].rpartition("/")[2]
                if _KEY.fullmatch(key) and self._path(key) == found["path"] and found["last_modified"] <= newest:
                    yield key

    def _store(self) -> S3Store:
        if self._opened is None:
            raise StorageUnavailable("The files are not open.")
        return self._opened

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise StorageCorrupt("A record of the archive names a file that cannot be.")
        prefix = f"{self._settings.prefix}/" if self._settings.prefix else ""
        return f"{prefix}{key[:2]}/{key}"

    def _client(self, whole_seconds: int, silent_seconds: int, retry_seconds: int) -> S3Store:
        """A client with limits for a whole request, for a silence inside of one, and for all its retries."""
        settings = self._settings
        options: dict[str, Any] = {"virtual_hosted_style_request": not settings.endpoint}
        if settings.endpoint:
            options["endpoint"] = settings.endpoint.rstrip("/")
        if settings.access_key_id:
            options["access_key_id"] = settings.access_key_id
            options["secret_access_key"] = settings.secret_access_key
        return S3Store(
            settings.bucket,
            region=settings.region,
            client_options={
                "allow_http": settings.allow_http,
                "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, silent_seconds)),
                "read_timeout": timedelta(seconds=silent_seconds),
                "timeout": timedelta(seconds=whole_seconds),
            },
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=retry_seconds)},
            **options,
        )

    def _wait(self, store: S3Store) -> None:
        deadline = time.monotonic() + self._settings.wait_seconds
        told = False
        while True:
            try:
                with driver_errors(opening=True):
                    self._list_one(store)
                return
            except StorageUnavailable:
                if time.monotonic() >= deadline:
                    raise
            if not told:
                told = True
                _log.warning("Waiting for the S3 server at %s, which does not answer yet.", self._settings.endpoint)
            time.sleep(_PAUSE_SECONDS)

    def _list_one(self, store: S3Store) -> None:
        next(iter(obstore.list(store, prefix=self._settings.prefix or None, chunk_size=1)), None)
