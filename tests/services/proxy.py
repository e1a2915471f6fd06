"""A proxy on this machine that is as bad as a network can be: slow, and cutting connections in the middle."""

import contextlib
import random
import socket
import threading
import time
from typing import Self

_PIECE_BYTES = 1 << 16


class BadProxy:
    """Passes connections on to a port. Each piece waits `delay_seconds`; after a random number of pieces, on average
    `pieces` (0: never), a connection is cut, with whatever was on its way; and always before a piece that has
    `forbidden`."""

    def __init__(self, port: int, *, delay_seconds: float = 0.0, pieces: int = 0, seed: int = 0) -> None:
        self._target = port
        self.delay_seconds = delay_seconds
        self.pieces = pieces
        self.forbidden = b""
        self._random = random.Random(seed)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.cuts = 0
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._listening)
        for connection in self._open:
            _close(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                time.sleep(self.delay_seconds)
                unlucky = self.pieces and self._random.randrange(self.pieces) == 0
                if unlucky or (self.forbidden and self.forbidden in data):
                    self.cuts += 1
                    break
                sink.sendall(data)
        _close(source)
        _close(sink)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
