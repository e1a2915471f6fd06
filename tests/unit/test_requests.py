"""Requests that take from the connection what is remembered of their fields are those that gunicorn would have parsed,
and what gunicorn refuses is refused: thousands of connections with requests of all kinds, well formed and broken."""

import random
from collections.abc import Iterator
from typing import Any, cast

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from dicomweb_server import connection
from dicomweb_server.connection import AnswerSocket, ArchiveParser, ArchiveRequest, FixedConfig, UploadUnreader
from dicomweb_server.serving import gunicorn_options
from dicomweb_server.settings import load

CLIENT, SERVER = ("192.0.2.7", 40_000), ("192.0.2.1", 5985)

METHODS = ["GET", "GET", "GET", "GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT", "PATCH", "CONNECT"]
BROKEN_METHODS = ["get", "GE", "G#T", "", "G T", "GET\0", "A" * 21, "GÄT"]
TARGETS = [
    "/studies",
    "/studies/1.2.3/series/4.5/instances/6.7/frames/1,2",
    "/studies?PatientName=A%20B&limit=5",
    "/a?b?c",
    "/a?",
    "/?x=/&y=http://z",
    "/%00%zz%C3%A4",
    "/a:b@c;d=e,f!$&'()*+|^`{}[]",
]
ODD_TARGETS = [
    "//host/path",
    "//",
    "/a#b",
    "/a?b#c",
    "http://other/studies",
    "*",
    "",
    "studies",
    "/ä",
    "/a b",
    "/\x7f",
    "/[",
    "//[",
    "/" + "a" * 4001,
    "/" + "a" * 8300,
    "/?" + "a" * 4001,
]
VERSIONS = ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/11", ""]
FIELDS = [
    "Host: a.example",
    "Accept: application/dicom+json",
    "accept: multipart/related; type=application/octet-stream; transfer-syntax=*",
    "Accept-Encoding: gzip, deflate",
    "Cookie: a=b; c=d",
    "Cookie: second=1",
    "Authorization: Bearer abc",
    "X-Forwarded-For: 10.0.0.1",
    "X-Empty:",
    "X-Blank: \t ",
    "Range: bytes=0-5",
    "User-Agent: ü",
    "Connection: keep-alive",
    "X-Long: " + "v" * 900,
]
ODD_FIELDS = [
    "Host: b.example:8080",
    "Connection: close",
    "Content-Length: 0",
    "Content-Length: 4",
    "Content-Length: 4, 4",
    "Content-Length: -1",
    "Content-Length: \u00b2",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    "Expect: 100-continue",
    "Expect: more",
    "Upgrade: h2c",
    "HTTP2-Settings: AAA",
    "Trailer: X",
    "X_Under: 1",
    "X-Forwarded_For: 1",
    "Script_Name: /x",
    "Bad Name: x",
    "Bad-Name : x",
    " folded: x",
    "no colon",
    ": no name",
    "X-Nul: \0",
    "X-Cr: a\rb",
    "X-Lf: a\nb",
    "Content-Type: text/plain",
    "X-Large: " + "v" * (17 * 1024),
]
ENDS = ["\r\n"] * 30 + ["\n", "\r", "\r\r\n"]
BODIES = [
    b"",
    b"",
    b"",
    b"abcd",
    b"4\r\nabcd\r\n0\r\n\r\n",
    b"4\r\nabcd\r\n0\r\nX-T: 1\r\n\r\n",
    b"0\r\nHost: x\r\n\r\n",
    b"zz\r\n",
]


class Received:
    """The socket of a connection on which these pieces come, one with each call."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = list(pieces)
        self.sent = b""

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            return b""
        data = self._pieces[0][:size]
        self._pieces[0] = self._pieces[0][size:]
        if not self._pieces[0]:
            self._pieces.pop(0)
        return data

    def send(self, data: bytes) -> None:
        self.sent += data


@pytest.fixture(scope="module")
def cfg() -> Config:
    config = Config()
    for name, value in gunicorn_options(load()).items():
        if name in config.settings:
            config.set(name, value)
    return config


def head(chance: random.Random, fields: list[str]) -> bytes:
    odd = chance.random() < 0.06
    method = chance.choice(BROKEN_METHODS if odd and chance.random() < 0.3 else METHODS)
    target = chance.choice(ODD_TARGETS if odd and chance.random() < 0.7 else TARGETS)
    version = chance.choice(VERSIONS) if odd else "HTTP/1.1"
    lines = [f"{method} {target} {version}", *fields]
    if chance.random() < 0.05:
        lines.insert(chance.randint(0, len(lines)), chance.choice(ODD_FIELDS))
    ends = ENDS if chance.random() < 0.04 else ["\r\n"]
    blank = chance.choice(["\r\n", "\r\n\r\n"]) if chance.random() < 0.02 else ""
    return blank.encode() + "".join(line + chance.choice(ends) for line in [*lines, ""]).encode("latin-1")


def conversation(chance: random.Random) -> list[bytes]:
    """What comes on one connection, in the pieces in which it comes."""
    some = [chance.sample(FIELDS, chance.randint(0, 6)) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.02:
        some.append([f"X-{number}: 1" for number in range(chance.randint(99, 102))])
    requests = []
    for _ in range(chance.randint(1, 12)):
        fields = chance.choice(some)
        if chance.random() < 0.1:
            fields = chance.choice([[*fields, chance.choice(FIELDS)], fields[1:], [*fields[1:], *fields[:1]]])
        requests.append(head(chance, fields) + (chance.choice(BODIES) if chance.random() < 0.06 else b""))
    whole = b"".join(requests)
    kind = chance.random()
    if kind < 0.6:
        return requests
    if kind < 0.75:
        return [whole]
    cuts = sorted(chance.randint(0, len(whole)) for _ in range(chance.randint(1, 12)))
    return [piece for start, end in zip([0, *cuts], [*cuts, None]) if (piece := whole[start:end])]  # noqa: B905


def told(parser: Any, begin: Any, chance: random.Random) -> Iterator[Any]:
    """What an application and the server are told of each request, up to the error or the end."""
    while True:
        try:
            request = next(parser)
            environ = begin(request)
            environ.pop("wsgi.early_hints", None)
            body = environ.pop("wsgi.input")
            environ.pop("wsgi.errors")
            environ.pop("gunicorn.socket")
            read = body.read(chance.choice([1, 3, 9])) if chance.random() < 0.5 else None
            closes = request.should_close()
        except Exception as exc:
            yield type(exc), str(exc)
            return
        yield request.version, request.headers, request.trailers, request.fragment, closes, read, environ


def test_the_same_as_gunicorn(cfg: Config) -> None:
    remembered = parsed = refused = 0
    for seed in range(3000):
        pieces = conversation(random.Random(seed))
        theirs_socket, ours_socket = Received(pieces), Received(pieces)

        def theirs(request: Request, sock: Any = theirs_socket) -> dict[str, Any]:
            return {**wsgi.create(request, sock, CLIENT, SERVER, cfg)[1], "wsgi.multithread": True}

        class Conn:
            sock, client, server = ours_socket, CLIENT, SERVER

        def ours(request: ArchiveRequest, conn: type[Conn] = Conn) -> dict[str, Any]:
            nonlocal remembered
            remembered += request.remembered is not None and "environ" in request.remembered
            return request.begin(conn)[1]

        expected = list(told(RequestParser(cfg, cast(Any, theirs_socket), CLIENT), theirs, random.Random(seed)))
        parser = ArchiveParser(FixedConfig(cfg), cast(AnswerSocket, ours_socket), CLIENT)
        found = list(told(parser, ours, random.Random(seed)))
        assert found == expected, f"seed {seed}"
        assert ours_socket.sent == theirs_socket.sent
        parsed += len(expected) - 1
        refused += expected[-1][0] is not StopIteration
    assert remembered > 1200
    assert parsed - remembered > 2000
    assert refused > 1000


def test_what_is_remembered_of_a_connection_is_bounded(cfg: Config) -> None:
    pieces = [f"GET / HTTP/1.1\r\nHost: a\r\nX-Number: {number}\r\n\r\n".encode() for number in range(1000)]
    parser = ArchiveParser(FixedConfig(cfg), cast(AnswerSocket, Received(pieces)), CLIENT)
    for number in range(1000):
        assert next(parser).headers[-1] == ("X-NUMBER", str(number))
        assert len(cast(UploadUnreader, parser.unreader).remembered) <= connection.MAX_REMEMBERED
