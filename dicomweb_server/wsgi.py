"""The callable for any WSGI server: `gunicorn 'dicomweb_server.wsgi:app'`. Settings come from the file that
DICOMWEB_CONFIG names and from the environment; a setting that cannot be used stops the import.

The parts are opened by the first request of each process, not at the import, because a server may import before it
forks (`--preload`) and no database connection survives a fork. While they cannot be opened the answer is 503, and the
next request tries again.
"""

import ipaddress
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from dicomweb_server import logs
from dicomweb_server.app import create_app, open_parts
from dicomweb_server.errors import DicomwebError
from dicomweb_server.settings import NO_LOGIN, Settings, load

RETRY_AFTER_SECONDS = 5

_log = logging.getLogger("dicomweb_server.wsgi")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ProcessArchive:
    """The archive, opened once in each process that serves it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Where this listens is not known here: who comes from another machine tells that others can reach it.
        self._local_only = settings.auth.method == NO_LOGIN and not settings.server.allow_public_without_login
        self._opened: tuple[int, Application] | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI entry."""
        if self._local_only and not is_local(environ.get("REMOTE_ADDR", "")):
            return _refused(start_response)
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            try:
                opened = self._open()
            except DicomwebError as exc:
                _log.error("cannot open the archive: %s", exc.message)
                return _unavailable(start_response)
        return opened[1](environ, start_response)

    def _open(self) -> tuple[int, Application]:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                storage, blobs = open_parts(self._settings)
                self._opened = (os.getpid(), create_app(self._settings, storage, blobs))
            return self._opened

    def _forget(self) -> None:
        """In the child of a fork: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


def is_local(address: str) -> bool:
    """Whether a request comes from this machine; a Unix socket has no address."""
    try:
        return not address or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _refused(start_response: Callable[..., Any]) -> Iterable[bytes]:
    reason = (
        'there is no login, so other machines are not served: set auth.method = "jwt", or '
        "server.allow_public_without_login = true where a proxy or the network keeps strangers out"
    )
    body = orjson.dumps({"status": 403, "error": "Forbidden", "reason": reason})
    start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _unavailable(start_response: Callable[..., Any]) -> Iterable[bytes]:
    reason = "the archive cannot be opened; the log says why"
    body = orjson.dumps({"status": 503, "error": "Service Unavailable", "reason": reason})
    headers = [("Content-Type", "application/json"), ("Retry-After", str(RETRY_AFTER_SECONDS))]
    start_response("503 Service Unavailable", [*headers, ("Content-Length", str(len(body)))])
    return [body]


_settings = load()
logs.configure(_settings.log)
app = ProcessArchive(_settings)
