"""A plain HTTP client that sends exactly the headers it is told, on one connection, and reads bounded answers."""

import http.client
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from dicomweb_server.errors import ConfigError

TIMEOUT_SECONDS = 20.0  # as the Python dicomweb-client waits
MAX_BODY_BYTES = 256 * 1024 * 1024


class Failed(Exception):
    """A check failed; the text is the sentence that says why it matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def header(self, name: str) -> str:
        """A header, empty when it is missing."""
        return self.headers.get(name) or ""

    @property
    def media(self) -> str:
        """The media type without parameters, in lower case."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON. Raises Failed."""
        try:
            return json.loads(self.body)
        except ValueError:
            size = len(self.body)
            raise Failed(f"the body ({size} bytes) is no JSON; a browser's JSON mode fails on it") from None


class Client:
    """Requests below one DICOMweb root."""

    def __init__(self, root: str, *, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(root)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{root} is no http or https URL")
        self.root = root.rstrip("/")
        self._headers = dict(headers or {})
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def get(self, path: str, accept: str = "*/*", headers: Mapping[str, str] | None = None) -> Answer:
        """GET of a path below the root, or of a whole URL."""
        return self.send("GET", path, {"Accept": accept, **(headers or {})})

    def send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """One request; a body that is an iterator is sent in chunks. Raises Failed when no answer comes."""
        url = path if "://" in path else self.root + path
        parts = urlsplit(url)
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        chunked = body is not None and not isinstance(body, bytes)
        own = self._headers if parts.netloc == urlsplit(self.root).netloc else {}  # credentials stay with their server
        try:
            connection = self._connection(parts.scheme, parts.netloc)
            connection.request(method, target, body=body, headers={**own, **headers}, encode_chunked=chunked)
            answer = connection.getresponse()
            data = answer.read(MAX_BODY_BYTES)
            if answer.isclosed() is False:
                connection.close()
            return Answer(status=answer.status, headers=answer.headers, body=data)
        except (OSError, http.client.HTTPException) as exc:
            self._connections.pop((parts.scheme, parts.netloc), None)
            raise Failed(f"no answer came ({exc or type(exc).__name__})") from exc

    def resolve(self, uri: str) -> str:
        """A URI of an answer as a browser would follow it."""
        return urljoin(f"{self.root}/", uri)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            connection.close()

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        known = self._connections.get((scheme, netloc))
        if known is None:
            if scheme == "https":
                context = ssl.create_default_context()
                known = http.client.HTTPSConnection(netloc, timeout=TIMEOUT_SECONDS, context=context)
            else:
                known = http.client.HTTPConnection(netloc, timeout=TIMEOUT_SECONDS)
            self._connections[scheme, netloc] = known
        return known


def parts_as_ohif_reads(answer: Answer) -> list[tuple[dict[str, str], bytes]]:
    """The parts of a multipart body with their headers, read as the JavaScript client does: the boundary from the first
    line that begins with two hyphens, header names as they are spelled. Raises Failed.
    """
    if "multipart" not in answer.header("Content-Type"):
        raise Failed(f"multipart was asked for, {answer.media or 'a body without a type'} came")
    line = answer.body.lstrip(b"\r\n").partition(b"\r\n")[0]
    if not line.startswith(b"--"):
        raise Failed("the body does not begin with a boundary; the JavaScript client takes it from there")
    return _split(answer.body, line)


def parts_as_python_reads(answer: Answer) -> list[tuple[dict[str, str], bytes]]:
    """The same with the boundary of the Content-Type header, as the Python client reads it."""
    if answer.media != "multipart/related":
        raise Failed(f"multipart/related was asked for, {answer.media or 'a body without a type'} came")
    boundary = answer.headers.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise Failed("Content-Type has no boundary; the Python client takes the whole body as one part then")
    return _split(answer.body, b"--" + boundary.encode("latin-1"))


def _split(body: bytes, delimiter: bytes) -> list[tuple[dict[str, str], bytes]]:
    pieces = (b"\r\n" + body.removeprefix(b"\r\n")).split(b"\r\n" + delimiter)
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise Failed("the closing boundary is missing, clients cannot tell where the last part ends")
    found = []
    for piece in pieces[1:-1]:
        head, separator, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not separator:
            raise Failed("a part has no empty line between its headers and its content")
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
        found.append(({name: value.strip() for name, _, value in lines}, content))
    return found
