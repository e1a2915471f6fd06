"""An HTTP/1.1 connection that costs next to nothing, so that a benchmark measures the server: requests are ready-made
bytes, and bodies are read by the kernel into one buffer that is used again and again."""

import contextlib
import io
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import cast
from urllib.parse import urlsplit


@dataclass(slots=True)
class Answer:
    """`body` is a view of the connection's buffer: valid until its next request."""

    status: int
    headers: dict[str, str]
    body: memoryview


class UnexpectedAnswer(Exception):
    """The server did not answer what the benchmark needs in order to count."""


class Connection:
    """One keep-alive connection to a DICOMweb root; opened again when the server closed it."""

    def __init__(self, url: str, timeout_seconds: float = 120) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._host = parts.netloc
        self._root = parts.path.rstrip("/")
        self._timeout = timeout_seconds
        self._socket: socket.socket | None = None
        self._buffer = bytearray(1 << 20)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._socket:
            self._reader.close()
            self._socket.close()
            self._socket = None

    def prepared(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        """The head of a request, to be sent by `send` as often as needed; `path` is below the DICOMweb root."""
        lines = [f"{method} {self._root}{path} HTTP/1.1", f"Host: {self._host}"]
        return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()

    def get(self, path: str, accept: str) -> Answer:
        """Sends a GET and reads the answer whole."""
        return self.send(self.prepared("GET", path, {"Accept": accept}))

    def send(self, head: bytes, body: bytes = b"") -> Answer:
        """Sends the request and reads the answer whole. Tries again when a kept connection turns out to be closed."""
        kept = self._socket is not None
        for last in (not kept, True):
            connected = self._socket or self._connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(head)
                if body:
                    connected.sendall(body)
                if line := self._reader.readline():
                    return self._answer(line)
            self.close()
            if last:
                break
        raise UnexpectedAnswer("the server closed the connection without an answer")

    def _connect(self) -> socket.socket:
        self._socket = socket.create_connection(self._address, self._timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = cast(io.BufferedReader, self._socket.makefile("rb", buffering=1 << 16))
        return self._socket

    def _answer(self, line: bytes) -> Answer:
        status = int(line.split(None, 2)[1])
        headers: dict[str, str] = {}
        while (line := self._reader.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if status in (204, 304):
            size = 0
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            size = self._chunks()
        elif "content-length" in headers:
            size = self._exactly(int(headers["content-length"]), 0)
        else:
            size = self._to_the_end()
        if "close" in headers.get("connection", "").lower():
            self.close()
        return Answer(status, headers, memoryview(self._buffer)[:size])

    def _exactly(self, size: int, start: int) -> int:
        """Reads so many bytes to this place of the buffer, and gives where they end."""
        if len(self._buffer) < start + size:
            self._buffer = self._buffer[:start] + bytearray(size + start)  # a fresh one: views of the old stay valid
        with memoryview(self._buffer)[start : start + size] as place:
            done = 0
            while done < size:
                got = self._reader.readinto(place[done:])
                if not got:
                    raise UnexpectedAnswer(f"the answer ended after {start + done} bytes")
                done += got
        return start + size

    def _chunks(self) -> int:
        end = 0
        while size := int(self._reader.readline().split(b";")[0], 16):
            end = self._exactly(size, end)
            self._reader.readline()
        while self._reader.readline() not in (b"\r\n", b"\n", b""):
            pass
        return end

    def _to_the_end(self) -> int:
        end = 0
        while True:
            if end == len(self._buffer):
                self._buffer = self._buffer + bytearray(end)
            with memoryview(self._buffer)[end:] as place:
                got = self._reader.readinto(place)
            if not got:
                self.close()
                return end
            end += got
