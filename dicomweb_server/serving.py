"""Serving with gunicorn: worker processes with threads, no total time limit for slow uploads, a drain on SIGTERM.

The listening socket is opened here, not by gunicorn: a port that is taken is then one sentence, port 0 can be told, and
the time limits for silent clients are set on it, which accepted connections inherit.
"""

import contextlib
import ctypes
import errno
import logging
import os
import select
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import orjson
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.http.wsgi import FileWrapper
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker

from dicomweb_server import logs, metrics, plugins
from dicomweb_server.app import Application, WsgiApp, create_app, open_parts
from dicomweb_server.connection import (
    MEBIBYTE,
    AnswerSocket,
    ArchiveParser,
    ArchiveRequest,
    ArchiveResponse,
    FixedConfig,
)
from dicomweb_server.errors import ConfigError, DicomwebError
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import BlobStore, Storage

# gunicorn takes no longer request line than 8190 bytes; what is longer gets 414. A bearer token can be some KB.
MAX_REQUEST_LINE_BYTES = 8190
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
BACKLOG = 1024
MEMORY = Path("/dev/shm")  # noqa: S108 - signs of life and figures only, in files that are made with mkstemp and mkdtemp
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
LINGER_MILLISECONDS = 20
YIELD_SECONDS = 0.00015

_log = logging.getLogger("dicomweb_server.serving")

_STATUS_OF_MALFORMED: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (http_errors.LimitRequestLine, HTTPStatus.REQUEST_URI_TOO_LONG, "the request line is longer than 8190 bytes"),
    (
        http_errors.LimitRequestHeaders,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"a header is larger than {MAX_HEADER_BYTES} bytes, or there are more than {MAX_HEADERS}",
    ),
    (http_errors.ExpectationFailed, HTTPStatus.EXPECTATION_FAILED, "Expect can only be 100-continue"),
    (http_errors.UnsupportedTransferCoding, HTTPStatus.NOT_IMPLEMENTED, "Transfer-Encoding can only be chunked"),
    (http_errors.ParseException, HTTPStatus.BAD_REQUEST, "the request is no valid HTTP"),
)


def serve(settings: Settings, *, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it. `announce` is called with the URL of the root once the first worker is up, in it.

    Raises ConfigError before anything has started; leaves by SystemExit (0 after SIGTERM or SIGINT) otherwise.
    """
    plugins.storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    plugins.blob_store_class(settings.blob_store).from_settings(settings=settings.blobs_section)
    _check_certificate(settings)
    listener = listen(settings)
    url = root_url(settings, port=listener.getsockname()[1])

    def announce_first(worker: Any) -> None:
        if worker.age == 1:
            announce(url)

    options = gunicorn_options(settings) | {
        "bind": f"fd://{listener.detach()}",
        "post_worker_init": announce_first,
    }
    logs.configure(settings.log)
    starter = os.getpid()
    try:
        with metrics.share(MEMORY if os.access(MEMORY, os.W_OK) else None):
            ArchiveServer(settings, options).run()
    except SystemExit as exc:
        # The workers, which are forks, leave through here too: gunicorn reads from their status why they ended.
        if os.getpid() == starter and exc.code:
            raise SystemExit(1) from None
        raise


def _check_certificate(settings: Settings) -> None:
    """Raise ConfigError for a certificate that cannot be used: gunicorn would say so to each client only."""
    if not settings.server.tls_certificate:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.server.tls_certificate, settings.server.tls_key
        )
    except (OSError, ssl.SSLError) as exc:
        reason = exc.strerror if isinstance(exc, FileNotFoundError | PermissionError) else "they do not fit together"
        raise ConfigError(f"server.tls_certificate and server.tls_key cannot be used: {reason}") from exc


def listen(settings: Settings) -> socket.socket:
    """A socket that listens on the host and port of the settings. Raises ConfigError where that cannot be."""
    host, port = settings.server.host, settings.server.port
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        listener = socket.create_server(cast(Any, address), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise ConfigError(_refusal(exc, host, port)) from exc
    _limit_silence(listener, settings.server.timeout_seconds)
    return listener


def _refusal(exc: OSError, host: str, port: int) -> str:
    if isinstance(exc, socket.gaierror):
        return f"the host {host} is not known on this machine (server.host)"
    reasons = {
        errno.EADDRINUSE: f"port {port} on {host} is in use by another program; choose another with --port",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine (server.host)",
        errno.EACCES: f"port {port} may be opened by an administrator only; choose one above 1023 with --port",
    }
    return reasons.get(exc.errno or 0, f"cannot listen on {host} port {port}: {exc.strerror}")


def _limit_silence(listener: socket.socket, seconds: int) -> None:
    """Let the kernel end connections whose client neither sends nor takes anything for so long.

    gunicorn waits without limit in the middle of a request, so that a few sleeping clients would hold all threads.
    """
    period = seconds.to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, period)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, period)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def root_url(settings: Settings, *, port: int) -> str:
    """The URL under which a client on this machine, or behind the public address, reaches the root."""
    if settings.http.public_url:
        return settings.http.public_url
    host = {"0.0.0.0": "localhost", "::": "localhost", "127.0.0.1": "localhost"}.get(  # noqa: S104 - only compared
        settings.server.host, settings.server.host
    )
    scheme = "https" if settings.server.tls_certificate else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """gunicorn's settings for ours, but for where it listens."""
    return {
        "worker_class": ArchiveWorker,
        "logger_class": ServerLog,
        "workers": settings.server.worker_count,
        "threads": settings.server.threads,
        # The main thread of a worker gives the sign of life: this ends no long request, only a worker that hangs.
        "timeout": settings.server.timeout_seconds,
        "graceful_timeout": settings.server.drain_seconds,
        "keepalive": settings.server.keepalive_seconds,
        "worker_tmp_dir": str(MEMORY) if os.access(MEMORY, os.W_OK) else None,
        "limit_request_line": MAX_REQUEST_LINE_BYTES,
        "limit_request_fields": MAX_HEADERS,
        "limit_request_field_size": MAX_HEADER_BYTES,
        # Files are sent by the kernel as long as "sendfile" is not set at all.
        "preload_app": False,
        "accesslog": None,
        # What a proxy says is read by the front door (http.trusted_proxies); gunicorn must not change the scheme.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "forwarder_headers": "",
        "control_socket_disable": True,
        # The same refusals whatever else is installed.
        "http_parser": "python",
        "worker_exit": _close_parts,
        "certfile": settings.server.tls_certificate or None,
        "keyfile": settings.server.tls_key or None,
        "child_exit": _forget_figures,
    }


def _forget_figures(_arbiter: Any, worker: Any) -> None:
    metrics.forget_process(worker.pid)


def _close_parts(_arbiter: Any, worker: Any) -> None:
    worker.app.close()


class ArchiveServer(BaseApplication):
    """gunicorn with options from a mapping; the parts are opened in each worker, after the fork."""

    def __init__(self, settings: Settings, options: dict[str, Any]) -> None:
        self._settings = settings
        self._options = options
        self._parts: tuple[Storage, BlobStore] | None = None
        self._app: Application | None = None
        super().__init__(prog="dicomweb-server")

    def load_config(self) -> None:
        """Hand the options over; one that this gunicorn does not have yet is left out."""
        for name, value in self._options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The application of one worker. What keeps it from starting is one line of the log, and ends the server."""
        try:
            self._parts = open_parts(self._settings)
            self._app = create_app(self._settings, *self._parts)
            if self._settings.codec.warm_up:
                self._app.warm_up_at_first_look()
            return _held(self._app)
        except DicomwebError as exc:
            _log.error("cannot start: %s", exc.message)
            sys.exit(Arbiter.APP_LOAD_ERROR)

    def drain(self) -> None:
        """The worker stops once the running requests are done."""
        if self._app is not None:
            self._app.drain()

    def close(self) -> None:
        """Close what `load` opened in this process."""
        if self._app is not None:
            self._app.close()
        for part in self._parts or ():
            part.close()
        self._app = self._parts = None


def _held(app: WsgiApp) -> WsgiApp:
    """Let an answer whose length is known leave in as few calls and packets as it fills; `ArchiveWorker` sends the last
    of it. What is made bit by bit, such as a stream of events, goes out as it comes."""

    def held(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        connection = environ.get("gunicorn.socket")
        if not isinstance(connection, AnswerSocket):
            return app(environ, start_response)

        environ["dicomweb.sends_around"] = True

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            connection.holding = any(name.lower() == "content-length" for name, _ in headers)
            return start_response(status, headers, *more)

        return app(environ, start)

    return held


def _close(conn: Any) -> None:
    """Close a connection, here and now. gunicorn does it in the main thread of the worker and waits there up to two
    seconds for the client to close first; meanwhile nobody else would be served."""
    with contextlib.suppress(OSError):  # it can be closed already
        conn.close(graceful=True)
    conn.close = lambda graceful=False: None


def _keep_freed_memory() -> None:
    """Let glibc keep what was freed for the next buffer. By default it gives buffers of this size back to the kernel
    and gets them anew, zeroed page by page: a third of the time that an upload takes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 4 * MEBIBYTE)
        mallopt(_M_TRIM_THRESHOLD, 16 * MEBIBYTE)
        mallopt(_M_ARENA_MAX, 4)


class ServerLog(Logger):
    """gunicorn's log through the handlers that `logs.configure` has set."""

    def setup(self, cfg: Any) -> None:
        """Keep the handlers as they are: gunicorn would add its own."""
        self.cfg = cfg
        self._access_log_enabled = False

    def exception(self, msg: object, *args: object, **kwargs: Any) -> None:
        """As gunicorn logs it, but for clients that fell silent (`_limit_silence`): those are no fault of ours."""
        if isinstance(sys.exc_info()[1], BlockingIOError):
            _log.info("a client was silent for too long, its connection is closed")
        else:
            super().exception(msg, *args, **kwargs)

    def access(self, *_args: object) -> None:
        """Nothing: the front door writes the access log, without what identifies patients."""


class ArchiveWorker(ThreadWorker):
    """The threaded worker. It closes the door when it drains, and what is no HTTP gets the shape of all errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg = cast(Any, FixedConfig(self.cfg))
        self._handling = 0
        self._handling_lock = threading.Lock()

    def init_process(self) -> None:
        """Begin in the new process."""
        _keep_freed_memory()
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Take a new client, a moment later the more are here already: the worker with the fewest comes first. The
        kernel wakes all of them, and who is quickest could get every client while others have none."""
        if self.alive and self.nr_conns:
            time.sleep(YIELD_SECONDS * min(self.nr_conns, 4))
        super().accept(listener)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """As gunicorn does; a worker that stops also takes who already waits, and closes the listening socket. Left
        open until all requests are done, it would let new clients connect and wait for nobody."""
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        cast(ArchiveServer, self.app).drain()
        for listener in self.sockets:
            for _ in range(BACKLOG):
                if not select.select([listener], [], [], 0)[0]:
                    break
                self.accept(listener)
            listener.close()

    def handle(self, conn: Any) -> Any:
        """As gunicorn does, but the thread waits a moment for the next request of the same client while others are
        free, and closes a connection itself.

        A viewer asks for frame after frame on one connection; handing it to the main thread and back for each takes
        more time than the answer.
        """
        with self._handling_lock:
            self._handling += 1
        try:
            again = self._handle_one(conn)
            while again is True and self._next_request_comes(conn):
                again = self._handle_one(conn)
            if not again:
                _close(conn)
            return again
        finally:
            with self._handling_lock:
                self._handling -= 1

    def _handle_one(self, conn: Any) -> Any:
        if self.cfg.is_ssl:
            return super().handle(conn)
        if conn.parser is None:
            conn.sock = AnswerSocket(conn.sock)
            conn.parser = ArchiveParser(self.cfg, conn.sock, conn.client)
        again = super().handle(conn)
        try:
            conn.sock.release()
        except OSError:  # the client went away
            return False
        return again

    def handle_request(self, req: Any, conn: Any) -> bool:
        """As gunicorn does, with what the connection remembers (`ArchiveRequest`); whether it may be used again."""
        if not isinstance(req, ArchiveRequest):
            return bool(super().handle_request(req, conn))
        self.cfg.pre_request(self, req)
        response, environ = req.begin(conn)
        try:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive:
                self.log.info("Autorestarting worker after current request.")
                self.alive = False
            if not self.alive or not self.cfg.keepalive or len(self.keepalived_conns) >= self.max_keepalived:
                response.force_close()
            self._answer(response, cast(WsgiApp, self.wsgi)(environ, response.start_response))
        except OSError:
            raise
        except (Exception, SystemExit):
            if not response.headers_sent:
                raise
            # A second answer behind the beginning of the first would be read as a part of it.
            self.log.exception("Error handling request")
            close_graceful(conn.sock)
            raise StopIteration from None
        finally:
            self.cfg.post_request(self, req, environ, response)
        return not response.should_close()

    def _answer(self, response: ArchiveResponse, body: Any) -> None:
        try:
            if isinstance(body, FileWrapper):
                response.write_file(body)
            else:
                for piece in body:
                    response.write(piece)
            response.close()
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _next_request_comes(self, conn: Any) -> bool:
        if not self.alive or self._handling >= self.cfg.threads or self.cfg.is_ssl:
            return False
        if conn.parser.unreader.buf.getbuffer().nbytes:
            return True
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(LINGER_MILLISECONDS)) and self.alive

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn could not parse, or what fell through the application. The log gets no part of the
        request, which can hold a patient's name."""
        request_id = uuid.uuid4().hex[:16]
        status, reason = HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed to answer; the log names the cause"
        for kind, known, words in _STATUS_OF_MALFORMED:
            if isinstance(exc, kind):
                status, reason = known, words
                break
        if status is HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("unexpected %s", type(exc).__name__, exc_info=exc, extra={"request_id": request_id})
        else:
            _log.info("refused: %s %s", status.value, type(exc).__name__, extra={"request_id": request_id})
        entry = {"status": status.value, "error": status.phrase, "reason": reason, "request_id": request_id}
        body = orjson.dumps(entry)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"X-Content-Type-Options: nosniff\r\nX-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode("ascii") + body)
        except OSError:
            _log.debug("the client did not wait for the answer")
