"""One client connection under gunicorn: how requests are read from it and answers written to it, with few system calls
and without doing again what the request before on the same connection has had done.

Each call into the kernel lets another thread of the worker run, and costs more by that than by what it does.
"""

import errno
import os
import re
import socket
import time
from typing import Any, cast

from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.util import http_date, unquote_to_wsgi_str

MEBIBYTE = 1024 * 1024
MIN_BLOCK_BYTES = 64 * 1024
MAX_HELD_PIECES = 64
_MORE_FOLLOWS = getattr(socket, "MSG_MORE", 0)

# A request line whose parts need no looking into: a path from the root, no fragment, printable ASCII.
_PLAIN_LINE = re.compile(rb"(GET|HEAD|DELETE|OPTIONS) ((/(?!/)[!\"$->@-~]{0,4000})(?:\?([!\"$-~]{0,4000}))?) HTTP/1\.1")
MAX_REMEMBERED = 8
_MAX_REMEMBERED_BYTES = 8192
_OF_ONE_REQUEST = ("wsgi.input", "gunicorn.socket")
# What a request with these is depends on more than its head, or on more of it than the fields.
_NOT_REMEMBERED = frozenset({"CONTENT-LENGTH", "TRANSFER-ENCODING", "EXPECT", "UPGRADE", "HTTP2-SETTINGS", "TRAILER"})


class AnswerSocket(socket.socket):
    """The socket of a connection, which sends head and body of an answer in one call: gunicorn sends each piece on its
    own. While `holding`, pieces are kept until about a MiB is together, or until `release`."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.holding = False
        self._held: list[bytes] = []
        self._held_bytes = 0

    def sendall(self, data: Any, flags: int = 0) -> None:
        """As of any socket, but for when it is sent."""
        if not self.holding:
            super().sendall(data, flags)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= MEBIBYTE or len(self._held) >= MAX_HELD_PIECES:
            self._send_held(0)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a run of a file by the kernel, what is held first. Bytes `around` it, as `http.answers` sets them, are
        sent before and behind, and counted in `count`."""
        before, behind = getattr(file, "around", (b"", b""))
        self._held.append(before)
        self._send_held(_MORE_FOLLOWS)
        if count is None:
            count = os.fstat(file.fileno()).st_size - offset
        left, source, target = count - len(before) - len(behind), file.fileno(), self.fileno()
        while left > 0:
            sent = os.sendfile(target, source, offset, left)
            if not sent:
                raise OSError(errno.EIO, "a file of the archive ended too early")
            offset += sent
            left -= sent
        if behind:
            self.sendall(behind)
        return count

    def release(self) -> None:
        """The answer is complete: send what is still held, and hold nothing from now on."""
        self.holding = False
        self._send_held(0)

    def _send_held(self, flags: int) -> None:
        if not self._held:
            return
        pieces, self._held, self._held_bytes = self._held, [], 0
        sent = self.sendmsg(pieces, [], flags)
        for piece in pieces:
            if sent < len(piece):
                super().sendall(memoryview(piece)[sent:], flags)
            sent = max(0, sent - len(piece))


class UploadUnreader(SocketUnreader):
    """Reads large blocks of a body straight from the socket. gunicorn's own copies each block several times, through a
    buffer that holds what was read ahead; here nothing is read ahead, as a block is exactly what was asked for.

    remembered: what the fields of earlier requests on this connection came to (`ArchiveRequest`), by their bytes.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.remembered: dict[bytes, dict[str, Any]] = {}

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """As gunicorn means it: `size` bytes, fewer only at the end of the connection."""
        if size is None or size < MIN_BLOCK_BYTES or self.buf.getbuffer().nbytes >= size:
            return cast(bytes, cast(Any, super()).read(size, read_ahead))
        ahead = self.take_buffered()
        pieces = [ahead] if ahead else []
        missing = size - len(ahead)
        while missing and (piece := self.sock.recv(min(missing, MEBIBYTE))):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)  # of one piece this is the piece

    def unread(self, data: Any) -> None:
        """As gunicorn means it, which copies even where there is nothing."""
        if data:
            super().unread(data)


class UploadBody(Body):
    """A body of known length, of which large blocks are handed on as they were read."""

    def read(self, size: int | None = None) -> bytes:
        """As gunicorn means it."""
        if size is None or size < MIN_BLOCK_BYTES or self.buf.getbuffer().nbytes:
            return super().read(size)
        return cast(bytes, cast(Any, self)._read_reader(size))


class ArchiveRequest(Request):
    """gunicorn's request. What a proxy says is read by the front door (http.trusted_proxies), so nobody is trusted
    here, and the address of the client need not be looked up in lists for each request.

    A client that asks for frame after frame sends the same header fields each time. What gunicorn made of them is kept
    for the connection, and taken where a request has no body and its fields are the same byte for byte; of such a
    request only the first line is parsed, where that is as plain as nearly all are. Nothing is accepted or refused
    that gunicorn would not.

    remembered: what is kept of its fields; None if they are not. has_body: whether there is something to read.
    """

    def __init__(self, cfg: Any, unreader: UploadUnreader, peer_addr: Any, req_number: int = 1) -> None:
        data = unreader.read()
        line_end = data.find(b"\r\n")
        fields_end = data.find(b"\r\n\r\n", line_end)  # of a head without fields this is at once
        fields = data[line_end + 2 : fields_end + 2] if fields_end > line_end > 0 else b""
        line = _PLAIN_LINE.fullmatch(data, 0, line_end) if fields else None
        self.remembered = unreader.remembered.get(fields) if line else None
        self.has_body = False
        if line is None or self.remembered is None:
            unreader.unread(data)
            super().__init__(cfg, unreader, peer_addr, req_number)
            self._look_at_fields()
            if line is not None:
                self._remember(fields)
            return
        unreader.unread(data[fields_end + 4 :])
        vars(self).update(self.remembered["request"])
        self.unreader, self.req_number = unreader, req_number
        self.method, self.uri, self.path, self.query = (group.decode() for group in line.groups(b""))
        self.body = Body(LengthReader(unreader, 0))

    def set_body_reader(self) -> None:
        """As gunicorn does."""
        super().set_body_reader()
        reader = getattr(self.body, "reader", None)
        if isinstance(reader, LengthReader):
            self.body = UploadBody(reader)

    def _look_at_fields(self) -> None:
        names = {name for name, _ in self.headers}
        self.has_body = "CONTENT-LENGTH" in names or "TRANSFER-ENCODING" in names
        self._is_usual = _NOT_REMEMBERED.isdisjoint(names)

    def _remember(self, fields: bytes) -> None:
        if not self._is_usual or self.must_close or len(fields) > _MAX_REMEMBERED_BYTES:
            return
        kept = cast(UploadUnreader, self.unreader).remembered
        if len(kept) >= MAX_REMEMBERED:
            kept.clear()
        same = {name: value for name, value in vars(self).items() if name not in ("unreader", "body", "remembered")}
        self.remembered = kept[fields] = {"request": same}

    def begin(self, conn: Any) -> "tuple[ArchiveResponse, dict[str, Any]]":
        """The answer to be, and the environ of the request (PEP 3333)."""
        kept = self.remembered
        if kept is not None and "environ" in kept:
            environ = kept["environ"] | {
                "REQUEST_METHOD": self.method,
                "RAW_URI": self.uri,
                "PATH_INFO": unquote_to_wsgi_str(self.path or ""),
                "QUERY_STRING": self.query,
                "wsgi.input": self.body,
                "gunicorn.socket": conn.sock,
            }
            return ArchiveResponse(self, conn.sock, self.cfg), environ
        response, environ = wsgi.create(
            self, conn.sock, conn.client, conn.server, self.cfg, response_class=ArchiveResponse
        )
        environ["wsgi.multithread"] = True
        del environ["wsgi.early_hints"]  # which nobody here uses
        if kept is not None and not environ["SCRIPT_NAME"]:
            kept["environ"] = {name: value for name, value in environ.items() if name not in _OF_ONE_REQUEST}
        return cast(ArchiveResponse, response), cast(dict[str, Any], environ)

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []


class ArchiveParser(RequestParser):
    """gunicorn's parser with our requests; it looks for a body that was not read only where there is one."""

    mesg_class = ArchiveRequest

    def __init__(self, cfg: Any, sock: AnswerSocket, client: Any) -> None:
        super().__init__(cfg, sock, client)
        self.unreader = UploadUnreader(sock)

    def finish_body(self, *limits: Any, **named: Any) -> Any:
        """As gunicorn does; true where nothing of the body is left."""
        request = cast(ArchiveRequest | None, self.mesg)
        if request is not None and not request.has_body:
            return True
        return cast(Any, super()).finish_body(*limits, **named)


class ArchiveResponse(wsgi.Response):
    """gunicorn's answer, with a date that is made once a second."""

    _date: tuple[int, str] = (0, "")

    def default_headers(self) -> list[str]:
        """The status line, and the fields that the server adds."""
        now = int(time.time())
        second, date = ArchiveResponse._date
        if second != now:
            date = http_date(now)
            ArchiveResponse._date = now, date
        version = ".".join(map(str, self.req.version or ()))
        headers = [
            f"HTTP/{version} {self.status}\r\nServer: {self.version}\r\nDate: {date}\r\n"
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n"
        ]
        if self.chunked:
            headers.append("Transfer-Encoding: chunked\r\n")
        return headers


class FixedConfig:
    """The settings of gunicorn, each looked up once: its own object finds one through a property and a function, and a
    request asks it dozens of times."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        vars(self).update({name: getattr(cfg, name) for name in (*cfg.settings, "is_ssl")})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cfg, name)
