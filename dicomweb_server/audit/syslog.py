"""DICOM audit messages to a syslog server (RFC 5424), by UDP (RFC 5426), TCP (RFC 6587) or TLS (RFC 5425)."""

import contextlib
import logging
import os
import queue
import socket
import ssl
import threading
from urllib.parse import urlsplit

from dicomweb_server.audit.record import AuditRecord, to_message
from dicomweb_server.errors import ConfigError

MAX_WAITING = 10_000
TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 5.0
CLOSING_SECONDS = 1.0
MAX_DATAGRAM_BYTES = 60_000
_PRIORITY = 85  # authpriv, notice
_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}

_log = logging.getLogger("dicomweb_server.audit")


class SyslogSink:
    """Sends records in a thread of its own, so that a slow server holds up nobody. What cannot be sent waits; when too
    much waits the newest is left out, and the log says so: the storage has it all the same."""

    def __init__(self, url: str, *, ca_file: str = "") -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _PORTS or not parts.hostname or port == -1:
            raise ConfigError("audit.syslog is udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT")
        self._scheme = parts.scheme
        self._address = (parts.hostname, port or _PORTS[parts.scheme])
        self._context = ssl.create_default_context(cafile=ca_file or None) if parts.scheme == "tls" else None
        self._host = socket.gethostname() or "-"
        self._waiting: queue.Queue[AuditRecord | None] = queue.Queue(MAX_WAITING)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def send(self, record: AuditRecord) -> None:
        """Take it; never waits."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            _log.error("the syslog server is too slow or down: an audit message was left out")

    def close(self) -> None:
        """Send what is left, for a moment."""
        self._closing.set()
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(TIMEOUT_SECONDS)
        self._say_goodbye()
        self._disconnect()

    def framed(self, record: AuditRecord) -> bytes:
        """The message as it goes over the wire."""
        xml = to_message(record, host=self._host)
        head = f"<{_PRIORITY}>1 {record.time} {self._host} dicomweb-server {os.getpid()} DICOM+RFC3881 - "
        message = head.encode("ascii", "replace") + b"\xef\xbb\xbf" + xml
        return message[:MAX_DATAGRAM_BYTES] if self._scheme == "udp" else str(len(message)).encode() + b" " + message

    def _run(self) -> None:
        while (record := self._waiting.get()) is not None:
            data = self.framed(record)
            told = False
            while not self._try(data):
                if not told:
                    _log.error("the syslog server at %s does not take audit messages; trying again", self._address[0])
                    told = True
                if self._closing.wait(RETRY_SECONDS):
                    return

    def _try(self, data: bytes) -> bool:
        try:
            if self._scheme == "udp":
                with socket.socket(_family(self._address), socket.SOCK_DGRAM) as sender:
                    sender.sendto(data, self._address)
                return True
            if self._socket is None:
                plain = socket.create_connection(self._address, TIMEOUT_SECONDS)
                context = self._context
                self._socket = context.wrap_socket(plain, server_hostname=self._address[0]) if context else plain
            self._socket.sendall(data)
        except OSError:
            self._disconnect()
            return False
        return True

    def _say_goodbye(self) -> None:
        """End TLS (RFC 5425 4.4), which reads what the server sent. A connection that is closed with something unread,
        such as the session tickets of TLS 1.3, is reset, and the server loses what it has not read yet."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.settimeout(CLOSING_SECONDS)
                self._socket.unwrap()

    def _disconnect(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][0]
