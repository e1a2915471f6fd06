"""One client connection under gunicorn: how requests are read from it and answers written to it, with few system calls.

Each call into the kernel lets another thread of the worker run, and costs more by that than by what it does.
"""

import errno
import os
import socket
from typing import Any, cast

from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader

MEBIBYTE = 1024 * 1024
MIN_BLOCK_BYTES = 64 * 1024
MAX_HELD_PIECES = 64
_MORE_FOLLOWS = getattr(socket, "MSG_MORE", 0)


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
    buffer that holds what was read ahead; here nothing is read ahead, as a block is exactly what was asked for."""

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """As gunicorn means it: `size` bytes, fewer only at the end of the connection."""
        if size is None or size < MIN_BLOCK_BYTES or self.buf.getbuffer().nbytes >= size:
            return cast(bytes, cast(Any, super()).read(size, read_ahead))
        pieces = [self.take_buffered()]
        missing = size - len(pieces[0])
        while missing and (piece := self.sock.recv(min(missing, MEBIBYTE))):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


class ArchiveRequest(Request):
    """gunicorn's request. What a proxy says is read by the front door (http.trusted_proxies), so nobody is trusted
    here, and the address of the client need not be looked up in lists for each request."""

    def _peer_trusted_for_forwarded(self) -> tuple[dict[str, str], list[str]]:
        return {}, []
