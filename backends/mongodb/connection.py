"""The connection of one process to MongoDB: settings, waiting for the server, how safe a write is."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Self

import pymongo
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from backends.mongodb.errors import driver_errors
from dicomweb_server.errors import ConfigError, StorageError, StorageUnavailable
from dicomweb_server.storage.records import StorageState

Doc = dict[str, Any]

OLDEST_VERSION = (4, 4)
CHECK_SECONDS = 3.0
"""A health check is answered within this time, whatever the server does."""

_TEXTS = ("url", "database", "tls_ca_file", "tls_cert_file")
_SECONDS = {"server_selection_timeout_seconds": (0.1, 300.0), "wait_seconds": (0.0, 3600.0)}
SETTINGS = (*_TEXTS, *_SECONDS)
_FORBIDDEN_IN_NAMES = set('/\\. "$*<>:|?\0')
_MAJORITY_SECONDS = 20
_SOCKET_SECONDS = 60
_TRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.2
_REMIND_SECONDS = 10.0
_TOGETHER = 32
_STARTING = frozenset((94, 11600, 91, 189, 10107, 13435, 13436))

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class MongoSettings:
    """What the sections `[storage.mongodb]` and `[blobs.mongodb]` may hold. The URL carries the credentials and is
    never shown. `wait_seconds` is how long `open` waits for a server that is not up yet."""

    url: str
    database: str = "dicomweb"
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    server_selection_timeout_seconds: float = 5.0
    wait_seconds: float = 60.0

    @classmethod
    def read(cls, section: str, settings: Mapping[str, Any]) -> Self:
        """The settings of a section; raises ConfigError."""
        unknown = sorted(set(settings) - set(SETTINGS))
        if unknown:
            raise ConfigError(f"{section} has no setting {unknown[0]!r}; it has {', '.join(SETTINGS)}.")
        values: dict[str, Any] = {}
        for key in SETTINGS:
            if key in settings:
                values[key] = _checked(section, key, settings[key])
        if not values.get("url"):
            raise ConfigError(f"{section}.url must be the address of MongoDB, such as mongodb://127.0.0.1:27017.")
        named = _named_in_url(section, values["url"])
        values["database"] = values.get("database") or named or "dicomweb"
        if set(values["database"]) & _FORBIDDEN_IN_NAMES or len(values["database"]) > 60:
            raise ConfigError(f"{section}.database is no name that MongoDB takes.")
        return cls(**values)


def _checked(section: str, key: str, value: Any) -> Any:
    if key in _TEXTS:
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"{section}.{key} must be a text.")
        return value
    low, high = _SECONDS[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ConfigError(f"{section}.{key} must be a number from {low:g} to {high:g}.")
    return float(value)


def _named_in_url(section: str, url: str) -> str | None:
    """The database that the URL names. Not a word of the URL is in the message: it may hold a password."""
    if url.startswith("mongodb+srv://"):  # reading it needs the network
        return None
    try:
        return parse_uri(url).get("database")
    except (PyMongoError, ValueError):
        raise ConfigError(
            f"{section}.url is no MongoDB URL; it looks like mongodb://user:password@host:27017/?replicaSet=rs0, with "
            "special characters of the password percent-encoded."
        ) from None


class Connection:
    """The client of one process, made by `open` (a client does not survive a fork).

    Writes are acknowledged by the majority, after their journal is on disk, and retried once by the driver. Reads go to
    the primary.
    """

    def __init__(self, settings: MongoSettings) -> None:
        self._settings = settings
        self._client: MongoClient[Doc] | None = None
        self._database: Database[Doc] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def another(self) -> "Connection":
        """Another one with the same settings, not open yet."""
        return Connection(self._settings)

    def open(self) -> None:
        """Connect; waits for a server that is not up yet. Raises StorageUnavailable, ConfigError."""
        if self._client is not None:
            return
        with driver_errors(opening=True):
            client = self._new_client(retry_writes=True)
            try:
                self._wait(client)
                _check_version(client)
                kind = client.admin.command("isMaster")
                if kind.get("msg") != "isdbgrid" and "setName" not in kind:
                    # A server alone retries no writes, which the driver forgets when a connection is cut.
                    client.close()
                    client = self._new_client(retry_writes=False)
            except BaseException:
                client.close()
                raise
        self._database = client.get_database(self._settings.database, read_preference=ReadPreference.PRIMARY)
        self._client = client

    def close(self) -> None:
        """Close all sockets; may be called twice."""
        client, self._client, self._database = self._client, None, None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)
        if client is not None:
            client.close()

    def together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make several calls at once, as one round trip; the results in order. All have ended when this returns."""
        self.database  # noqa: B018 - raises when closed
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="mongodb")
        first, *others = calls
        futures = [self._pool.submit(call) for call in others]
        try:
            results = [first()]
        finally:
            wait(futures)
        return results + [future.result() for future in futures]

    @property
    def database(self) -> Database[Doc]:
        """The database; raises StorageUnavailable when it is not open."""
        if self._database is None:
            raise StorageUnavailable("The index is not open.")
        return self._database

    def safe(self, name: str) -> Collection[Doc]:
        """A collection whose writes are waited for until the majority has them on disk."""
        return self.database[name]

    def unconfirmed(self, name: str) -> Collection[Doc]:
        """A collection for what need not happen: nothing is waited for."""
        return self.database.get_collection(name, write_concern=WriteConcern(0))

    def settled(self, name: str) -> Collection[Doc]:
        """A collection of which only what no failover can take back is read."""
        return self.database.get_collection(name, read_concern=ReadConcern("majority"))

    def check(self) -> StorageState:
        """As `Storage.check`."""
        started = time.perf_counter()
        try:
            with driver_errors(), pymongo.timeout(CHECK_SECONDS):
                self.database.command("ping")
        except StorageError as error:
            return StorageState(ready=False, latency_seconds=time.perf_counter() - started, detail=error.message)
        return StorageState(ready=True, latency_seconds=time.perf_counter() - started, detail="MongoDB answers.")

    def _new_client(self, *, retry_writes: bool) -> MongoClient[Doc]:
        settings = self._settings
        options: dict[str, Any] = {}
        if settings.tls_ca_file or settings.tls_cert_file:
            options["tls"] = True
        if settings.tls_ca_file:
            options["tlsCAFile"] = settings.tls_ca_file
        if settings.tls_cert_file:
            options["tlsCertificateKeyFile"] = settings.tls_cert_file
        try:
            return MongoClient(
                settings.url,
                w="majority",
                journal=True,
                wTimeoutMS=_MAJORITY_SECONDS * 1000,
                retryWrites=retry_writes,
                retryReads=True,
                serverSelectionTimeoutMS=int(settings.server_selection_timeout_seconds * 1000),
                connectTimeoutMS=int(min(settings.server_selection_timeout_seconds, 20.0) * 1000),
                socketTimeoutMS=_SOCKET_SECONDS * 1000,
                tz_aware=True,
                appname="dicomweb-server",
                **options,
            )
        except (OSError, ValueError, ConfigurationError) as error:
            if isinstance(error, ConfigurationError) and not options:
                raise  # a fault of the URL, not of the files
            raise ConfigError("The TLS files or options for MongoDB cannot be used.") from error

    def _wait(self, client: MongoClient[Doc]) -> None:
        """Until the server answers as a primary does."""
        deadline = time.monotonic() + self._settings.wait_seconds
        told = 0.0
        while True:
            try:
                with pymongo.timeout(_TRY_SECONDS):
                    client.admin.command("ping")
                    client[self._settings.database].command("listCollections", nameOnly=True)
                return
            except (ConnectionFailure, OperationFailure) as error:
                if isinstance(error, OperationFailure) and error.code not in _STARTING:
                    raise
                if time.monotonic() >= deadline:
                    raise
                if time.monotonic() - told > _REMIND_SECONDS:
                    told = time.monotonic()
                    _log.warning("Waiting for MongoDB at %s, which does not answer yet.", self._hosts())
            time.sleep(_PAUSE_SECONDS)

    def _hosts(self) -> str:
        """The hosts of the URL, and nothing else of it."""
        if self._settings.url.startswith("mongodb+srv://"):
            return "its SRV address"
        return ", ".join(f"{host}:{port}" for host, port in parse_uri(self._settings.url)["nodelist"])


def _check_version(client: MongoClient[Doc]) -> None:
    info = client.server_info()
    if tuple(info["versionArray"][:2]) < OLDEST_VERSION:
        raise ConfigError("This MongoDB is too old: 4.4 or newer is needed.")
