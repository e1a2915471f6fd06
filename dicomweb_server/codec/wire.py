"""Messages between the pool and its processes: a header in JSON, and any number of pieces of bytes."""

import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

_LENGTHS: Final = struct.Struct("<IQ")
_MAX_HEADER_BYTES: Final = 256 << 20
_MAX_PIECES_BYTES: Final = 8 << 30
_SOCKET_BYTES: Final = 1 << 20


class Broken(Exception):
    """The other side is gone."""


class Late(Exception):
    """The deadline passed."""


def prepare(channel: socket.socket) -> None:
    """Make room for whole frames, so that both sides can go on while one is under way."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        channel.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)


def send(
    channel: socket.socket, header: dict[str, Any], pieces: Sequence[bytes], deadline: float | None = None
) -> None:
    """Send a message. deadline: of time.monotonic()."""
    body = orjson.dumps({**header, "pieces": [len(piece) for piece in pieces]})
    data = _LENGTHS.pack(len(body), sum(map(len, pieces))) + body
    try:
        for block in (data, *pieces):
            channel.settimeout(_left(deadline))
            channel.sendall(block)
    except TimeoutError as exc:
        raise Late from exc
    except OSError as exc:
        raise Broken from exc


def receive(channel: socket.socket, deadline: float | None = None) -> tuple[dict[str, Any], list[bytes]]:
    """The next message. Raises Broken at the end, and for what is no message."""
    header_bytes, pieces_bytes = _LENGTHS.unpack(_exactly(channel, _LENGTHS.size, deadline))
    if header_bytes > _MAX_HEADER_BYTES or pieces_bytes > _MAX_PIECES_BYTES:
        raise Broken
    try:
        header = orjson.loads(_exactly(channel, header_bytes, deadline))
        sizes = header.pop("pieces")
        if sum(sizes) != pieces_bytes:
            raise Broken
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise Broken from exc
    return header, [bytes(_exactly(channel, size, deadline)) for size in sizes]


def _exactly(channel: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    place = 0
    try:
        while place < size:
            channel.settimeout(_left(deadline))
            got = channel.recv_into(view[place:])
            if not got:
                raise Broken
            place += got
    except TimeoutError as exc:
        raise Late from exc
    except OSError as exc:
        raise Broken from exc
    return data


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise Late
    return left
