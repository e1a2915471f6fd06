"""The HTTP session that the `couchdb` package gets instead of its own, and the one place where its errors become ours.

The transport of the package (1.2) sends an upload again from where its file stands after a reset connection, and so
stores its tail as the whole, and caches small answers by URL without regard to Range. This one caches nothing, sends a
body again only when it has all of it in memory, has a bounded pool, and times out.
"""

import contextlib
import io
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

import couchdb.http  # type: ignore[import-untyped]
import couchdb.json  # type: ignore[import-untyped]
import orjson
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError, TimeoutError

from dicomweb_server.errors import ConfigError, StorageError, StorageFull, StorageUnavailable

CONNECT_SECONDS = 5
CONNECTIONS = 32
_QUORUM_MISSED = 202
_FULL = 507
_TOO_LARGE = 413
_FAILED = 500
_RETRY_LATER = frozenset((408, 429, 500, 502, 503, 504))
_ERRORS: Mapping[int, type[Exception]] = {
    401: couchdb.http.Unauthorized,
    403: couchdb.http.Forbidden,
    404: couchdb.http.ResourceNotFound,
    409: couchdb.http.ResourceConflict,
    412: couchdb.http.PreconditionFailed,
}

# The package's JSON: the same values as with the standard library, several times faster.
couchdb.json.use(decode=orjson.loads, encode=lambda value: orjson.dumps(value).decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the server is, without credentials, and what logs in there."""

    url: str
    authorization: str | None = field(repr=False)
    ca_file: str | None = None
    cert_file: str | None = None

    @classmethod
    def parse(cls, url: str, ca_file: str | None = None, cert_file: str | None = None) -> "Address":
        """Takes user and password out of the URL. Raises ConfigError, which never holds the URL."""
        parts = urlsplit(url)
        try:
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment:
            raise ConfigError("The url of couchdb is one like http://user:password@host:5984.")
        host = parts.netloc.rpartition("@")[2]
        authorization = None
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = urllib3.make_headers(basic_auth=user)["authorization"]
        clean = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        return cls(url=clean, authorization=authorization, ca_file=ca_file, cert_file=cert_file)

    def tls(self) -> ssl.SSLContext | None:
        """How to talk to an https address; None for http. Raises ConfigError for files that cannot be used."""
        if not self.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                # An empty password, or a key that has one would be asked for at the terminal.
                context.load_cert_chain(self.cert_file, password="")
        except (OSError, ValueError) as exc:
            raise ConfigError("The TLS files of couchdb (tls_ca_file, tls_cert_file) cannot be used.") from exc
        return context


class TooSlow(StorageUnavailable):
    """No answer in time."""


class QuorumMissed(StorageUnavailable):
    """Too few nodes of a cluster took a write. `answer` is what CouchDB says of it."""

    def __init__(self, answer: Any) -> None:
        super().__init__("CouchDB could not write to enough of its nodes.")
        self.answer = answer


class Session:
    """What `couchdb.Server(url, session=...)` sends its requests through. `requests` counts the round trips."""

    def __init__(self, address: Address, *, timeout_seconds: float) -> None:
        self._authorization = address.authorization
        self._pool = urllib3.PoolManager(
            num_pools=2,
            maxsize=CONNECTIONS,
            block=True,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=timeout_seconds),
            retries=False,
            ssl_context=address.tls(),
        )
        self._lock = threading.Lock()
        self.requests = 0

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        credentials: object = None,
        num_redirects: int = 0,
    ) -> tuple[int, Any, io.BytesIO]:
        """The status, headers and whole body of the answer; raises the package's errors from status 400 on.

        A body is bytes, or a value that is sent as JSON: never a file, which could not be sent a second time. Whoever
        writes with this must be able to tell his own first try, whose answer was lost, from another's write.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        if self._authorization is not None:
            sent["Authorization"] = self._authorization
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        answer = self._send(method, url, body, sent)
        if answer.status >= 300:
            self._refuse(answer)
        if answer.status == _QUORUM_MISSED and method != "GET":
            raise QuorumMissed(orjson.loads(answer.data))
        return answer.status, answer.headers, io.BytesIO(answer.data)

    def _send(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        for last in (False, True):
            with self._lock:
                self.requests += 1
            try:
                return self._pool.request(method, url, body=body, headers=headers, redirect=False)
            except TimeoutError:
                raise
            except HTTPError:
                # A kept connection that the server has closed in the meantime.
                if last:
                    raise
        raise AssertionError("unreachable")

    def _refuse(self, answer: urllib3.BaseHTTPResponse) -> NoReturn:
        reason: Any = ""
        with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
            parsed = orjson.loads(answer.data)
            reason = (parsed.get("error"), parsed.get("reason"))
        kind = _ERRORS.get(answer.status)
        if kind is not None:
            raise kind(reason)
        raise couchdb.http.ServerError((answer.status, reason))

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()


@contextlib.contextmanager
def driver_errors() -> Iterator[None]:
    """Turns the errors of the package and of urllib3 into ours. No message holds an address."""
    try:
        yield
    except SSLError as exc:
        raise StorageUnavailable(
            "No trusted connection to CouchDB can be made: one side refuses the other's certificate."
        ) from exc
    except NewConnectionError as exc:  # for urllib3 it is one of the timeouts
        raise StorageUnavailable("CouchDB cannot be reached.") from exc
    except TimeoutError as exc:
        raise TooSlow("CouchDB did not answer in time.") from exc
    except HTTPError as exc:
        raise StorageUnavailable("CouchDB cannot be reached.") from exc
    except couchdb.http.Unauthorized as exc:
        raise StorageError("CouchDB refuses the user or password of the settings.") from exc
    except couchdb.http.Forbidden as exc:
        raise StorageError("CouchDB does not let the user of the settings do this.") from exc
    except couchdb.http.ResourceNotFound as exc:
        raise StorageUnavailable("The CouchDB database of the settings is missing.") from exc
    except (couchdb.http.ResourceConflict, couchdb.http.PreconditionFailed) as exc:
        raise StorageUnavailable("Another writer was faster each time; try again.") from exc
    except couchdb.http.ServerError as exc:
        raise _server_error(exc) from exc
    except couchdb.http.HTTPError as exc:
        raise StorageError("CouchDB refused a request.") from exc
    except (orjson.JSONDecodeError, UnicodeDecodeError) as exc:
        raise StorageUnavailable("CouchDB gave a broken answer.") from exc


def _server_error(exc: couchdb.http.ServerError) -> StorageError:
    detail = exc.args[0] if exc.args else ""
    status = detail[0] if isinstance(detail, tuple) else 0
    if status == _FULL or any(word in str(detail).lower() for word in ("enospc", "no space left")):
        return StorageFull("CouchDB has no space left.")
    if status == _TOO_LARGE:
        return StorageError("A document is larger than CouchDB takes (couchdb/max_document_size).")
    if status == _FAILED and detail[1][:1] == ("timeout",):
        return TooSlow("CouchDB did not finish in time.")
    if status in _RETRY_LATER or status == 0:
        return StorageUnavailable("CouchDB failed to serve the request.")
    return StorageError(f"CouchDB refused a request with status {status}.")
