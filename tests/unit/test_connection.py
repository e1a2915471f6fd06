"""What is sent through the socket of a connection arrives whole and in order, however it is sent."""

import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomweb_server.connection import MAX_HELD_PIECES, MEBIBYTE, AnswerSocket


class Pair:
    """Our end of a connection, and what the client has received when it is closed."""

    def __init__(self) -> None:
        ours, self._client = socket.socketpair()
        self.ours = AnswerSocket(ours)
        self._received = io.BytesIO()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while data := self._client.recv(100_000):
            self._received.write(data)

    def received(self) -> bytes:
        self.ours.close()
        self._reader.join(20)
        self._client.close()
        return self._received.getvalue()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.received()


def file_of(folder: Path, data: bytes) -> io.BufferedReader:
    (folder / "file").write_bytes(data)
    return (folder / "file").open("rb")


def test_pieces_are_held_until_the_answer_is_complete() -> None:
    ours, client = socket.socketpair()
    with AnswerSocket(ours) as answering, client:
        client.setblocking(False)
        answering.holding = True
        answering.sendall(b"head")
        answering.sendall(b"body")
        with pytest.raises(BlockingIOError):
            client.recv(10)
        answering.release()
        assert client.recv(10) == b"headbody"
        answering.sendall(b"at once")
        assert client.recv(10) == b"at once"


def test_more_than_fits_into_one_call(pair: Pair) -> None:
    pieces = [bytes([number]) * (MEBIBYTE // 3 + number) for number in range(20)]
    pieces += [b"x"] * (3 * MAX_HELD_PIECES)
    pair.ours.holding = True
    for piece in pieces:
        pair.ours.sendall(piece)
    pair.ours.release()
    assert pair.received() == b"".join(pieces)


def test_a_file_with_bytes_around_it(pair: Pair, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    with file_of(tmp_path, data) as file:
        setattr(file, "around", (b"<before>", b"<behind>"))  # noqa: B010 - no field of files
        pair.ours.holding = True
        pair.ours.sendall(b"head")
        count = len(data) - 100 + len(b"<before><behind>")
        assert pair.ours.sendfile(file, 100, count) == count
        pair.ours.release()
    assert pair.received() == b"head<before>" + data[100:] + b"<behind>"


def test_a_file_to_its_end(pair: Pair, tmp_path: Path) -> None:
    with file_of(tmp_path, b"0123456789") as file:
        assert pair.ours.sendfile(file, 4) == 6
    assert pair.received() == b"456789"


def test_a_file_that_is_too_short_is_an_error(pair: Pair, tmp_path: Path) -> None:
    with file_of(tmp_path, b"short") as file, pytest.raises(OSError, match="too early"):
        pair.ours.sendfile(file, 0, 100)
