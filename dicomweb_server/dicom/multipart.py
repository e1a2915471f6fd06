"""Multipart bodies (RFC 2046 5.1), streamed: parts of any size are read and written in bounded memory.

The reader is on the path of every stored byte. It searches each block for the delimiter with one `bytes.find` and hands
out views of the block, so that a payload byte is copied at most once here, when a block is joined to the few bytes that
the one before it left open.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from dicomweb_server.dicom.media import parse_media_type
from dicomweb_server.errors import BadRequest, TooLarge, UnsupportedMedia

# RFC 2046 5.1.1 says 70 at most; clients that glue UUIDs together exceed it.
_MAX_BOUNDARY_CHARACTERS = 256
# Blanks that a transport may have put behind a boundary (RFC 2046 5.1.1).
_MAX_PADDING_BYTES = 128
_LINE_END = rb"[ \t]{0,%d}\r?\n" % _MAX_PADDING_BYTES
_AFTER_BOUNDARY = re.compile(rb"--|" + _LINE_END)
_AFTER_BOUNDARY_BEGUN = re.compile(rb"-?|[ \t]{0,%d}\r?" % _MAX_PADDING_BYTES)


@dataclass(frozen=True, slots=True)
class MultipartLimits:
    """What one body may hold. `block_bytes` is how much is asked of the stream at once; memory stays below twice that
    plus the other two sizes."""

    max_parts: int = 100_000
    max_part_header_bytes: int = 16_384
    max_preamble_bytes: int = 65_536
    block_bytes: int = 524_288


_DEFAULT_LIMITS = MultipartLimits()


class Part:
    """One part, valid until the next is asked for. `number` counts from 1; `headers` has names in lower case, of a
    repeated one the first value."""

    def __init__(self, number: int, headers: Mapping[str, str], payload: Iterator[memoryview]) -> None:
        self.number = number
        self.headers = headers
        self._payload = payload

    @cached_property
    def _content_type(self) -> tuple[str, dict[str, str]]:
        return parse_media_type(self.headers.get("content-type"))

    @cached_property
    def _disposition(self) -> dict[str, str]:
        return parse_media_type(self.headers.get("content-disposition"))[1]

    @property
    def media_type(self) -> str:
        """In lower case and without parameters; '' when the part does not say."""
        return self._content_type[0]

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of the Content-Type, names in lower case."""
        return MappingProxyType(self._content_type[1])

    @property
    def content_location(self) -> str | None:
        """Names a bulk data part in the JSON and XML forms of STOW-RS (PS3.18 10.5.1.2)."""
        return self.headers.get("content-location")

    @property
    def name(self) -> str | None:
        """The field's name in a form."""
        return self._disposition.get("name")

    @property
    def filename(self) -> str | None:
        """As the client says, `filename*` (RFC 5987) before `filename`. For showing only: never a path of ours."""
        extended = self._disposition.get("filename*")
        return (_extended_value(extended) if extended else None) or self._disposition.get("filename")

    def chunks(self) -> Iterator[memoryview]:
        """The payload; a part not read to its end is skipped by the reader.

        Raises UnsupportedMedia for a transfer encoding that is not binary, and while iterating BadRequest when the body
        ends before the part does. A view stays valid after the next one is asked for.
        """
        encoding = self.headers.get("content-transfer-encoding", "binary").lower()
        if encoding not in ("binary", "8bit", "7bit"):
            raise UnsupportedMedia(
                f"part {self.number} has a Content-Transfer-Encoding that is not read here; accepted: binary, 8bit"
            )
        return self._payload

    def read(self, max_bytes: int) -> bytes:
        """The whole payload; raises TooLarge when it exceeds `max_bytes`, otherwise as `chunks`."""
        collected = bytearray()
        for chunk in self.chunks():
            collected += chunk
            if len(collected) > max_bytes:
                raise TooLarge(f"part {self.number} is larger than {max_bytes} bytes")
        return bytes(collected)


def _extended_value(text: str) -> str | None:
    """The value of an extended parameter such as UTF-8''na%C3%AFve.dcm; None if it is none."""
    charset, mark, rest = text.partition("'")
    _, second_mark, encoded = rest.partition("'")
    if not mark or not second_mark or charset.lower() not in ("utf-8", "iso-8859-1"):
        return None
    return unquote_to_bytes(encoded).decode(charset, "replace")


def _declared_boundary(media_type: str, parameters: Mapping[str, str]) -> bytes:
    if not media_type.startswith("multipart/"):
        raise UnsupportedMedia("the Content-Type is not a multipart one")
    boundary = parameters.get("boundary", "")
    if not boundary:
        raise BadRequest("the Content-Type has no boundary parameter")
    if len(boundary) > _MAX_BOUNDARY_CHARACTERS:
        raise BadRequest(f"the boundary is longer than {_MAX_BOUNDARY_CHARACTERS} characters")
    if not all(" " <= character <= "\xff" for character in boundary):
        raise BadRequest("the boundary holds characters that it may not (RFC 2046 5.1.1)")
    return boundary.encode("latin-1")


def _first_line(boundary: bytes) -> re.Pattern[bytes]:
    """The first line that is a boundary. Some clients declare the boundary with the two hyphens already in it; the form
    of the standard is tried first."""
    marks = [b"--" + boundary, boundary] if boundary.startswith(b"--") else [b"--" + boundary]
    either = b"|".join(re.escape(mark) for mark in marks)
    return re.compile(rb"(?:\A|\n)(" + either + rb")(--|" + _LINE_END + rb")")


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


class MultipartReader:
    """Iterates over the parts of a body while it arrives.

    `read(n)` gives up to n bytes and b'' at the end; what it raises passes through. `media_type` and `parameters` are
    those of `content_type`. `ended` tells that the closing boundary was seen: what follows it (RFC 2046 calls it
    epilogue; one client sends zeros) is not read.

    Tolerated: text or an empty line before the first boundary, a declared boundary with or without the two hyphens that
    its lines begin with, parts without headers, line ends without CR in headers, and everywhere if the first boundary
    line ends so. Raises UnsupportedMedia for a type that is not multipart, BadRequest for a broken envelope, and
    TooLarge above the number of parts.
    """

    def __init__(
        self, read: Callable[[int], bytes], content_type: str, *, limits: MultipartLimits = _DEFAULT_LIMITS
    ) -> None:
        self.media_type, parameters = parse_media_type(content_type)
        self.parameters: Mapping[str, str] = MappingProxyType(parameters)
        self.ended = False
        self._read = read
        self._limits = limits
        self._first_line = _first_line(_declared_boundary(self.media_type, parameters))
        self._longest_line = _MAX_BOUNDARY_CHARACTERS + _MAX_PADDING_BYTES + 8
        self._buffer = b""
        self._position = 0
        self._mark = self._delimiter = b""
        self._number = 0
        self._in_payload = False

    def __iter__(self) -> Iterator[Part]:
        if not self._delimiter:
            self._open()
        while True:
            self._skip_payload()
            if self.ended:
                return
            self._number += 1
            if self._number > self._limits.max_parts:
                raise TooLarge(f"the body has more than {self._limits.max_parts} parts")
            headers = self._part_headers()
            self._enter_payload()
            yield Part(self._number, headers, self._payload(self._number))

    def _fill(self) -> bool:
        """Joins one more block to what is unread; False at the end of the stream."""
        block = self._read(self._limits.block_bytes)
        if not block:
            return False
        rest = self._buffer[self._position :]
        self._buffer = rest + block if rest else block
        self._position = 0
        return True

    def _open(self) -> None:
        """Goes behind the first boundary line, and learns from it how this client writes delimiters."""
        searched = 0
        while not (match := self._first_line.search(self._buffer, searched)):
            size = len(self._buffer)
            searched = max(0, size - self._longest_line)
            if size > self._limits.max_preamble_bytes or not self._fill():
                reason = "does not occur in the body" if size else "cannot be found: the body is empty"
                raise BadRequest(f"the boundary named in Content-Type {reason}")
        self._mark, end = match.groups()
        self._position = match.end()
        self._delimiter = (b"\n" if end.lstrip(b" \t") == b"\n" else b"\r\n") + self._mark
        self.ended = end == b"--"

    def _part_headers(self) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        name = ""
        budget = self._limits.max_part_header_bytes
        while line := self._header_line(budget):
            budget -= len(line) + 2
            text = _decoded(line)
            if text[0] in " \t" and name:  # a folded line goes on with the one before
                headers[name] = f"{headers[name]} {text.strip()}".strip()
                continue
            name, colon, value = text.partition(":")
            name = name.strip().lower()
            if not colon or not name:
                raise BadRequest(f"part {self._number} has a header line without a name and a colon")
            headers.setdefault(name, value.strip())
        return MappingProxyType(headers)

    def _header_line(self, budget: int) -> bytes:
        """The next line without its end; b'' for the empty one, which stays unread as it may begin a delimiter."""
        searched = self._position
        while (end := self._buffer.find(b"\n", searched)) < 0:
            unread = len(self._buffer) - self._position
            if unread > budget:
                break
            if not self._fill():
                raise self._truncated(self._number)
            searched = unread
        start = self._position
        if end < 0 or end - start > budget:
            raise BadRequest(f"the headers of part {self._number} exceed {self._limits.max_part_header_bytes} bytes")
        line = self._buffer[start:end].removesuffix(b"\r")
        if line:
            if line.startswith(self._mark):
                raise BadRequest(f"part {self._number} ends inside its headers")
            self._position = end + 1
        return line

    def _enter_payload(self) -> None:
        """Goes behind the empty line, unless it is the line end of a delimiter: then the part is empty (RFC 2046 5.1.1
        lets both be one)."""
        size = len(self._delimiter)
        while len(self._buffer) - self._position < size and self._fill():
            pass
        empty = self._buffer.startswith(self._delimiter, self._position)
        while empty and not _AFTER_BOUNDARY.match(self._buffer, self._position + size):
            begun = _AFTER_BOUNDARY_BEGUN.fullmatch(self._buffer, self._position + size)
            empty = begun is not None and self._fill()
        if not empty:
            self._position = self._buffer.index(b"\n", self._position) + 1
        self._in_payload = True

    def _payload(self, number: int) -> Iterator[memoryview]:
        delimiter = self._delimiter
        seek = -1
        while True:
            if number != self._number or not self._in_payload:
                raise RuntimeError("a part can be read only once, and before the next one is asked for")
            buffer, start = self._buffer, self._position
            at = buffer.find(delimiter, max(seek, start))
            safe = at if at >= 0 else len(buffer) - len(delimiter) + 1
            if safe > start:
                self._position = safe  # before the yield: the consumer may leave here, and the next part is still found
                yield memoryview(buffer)[start:safe]
            elif at < 0:
                if not self._fill():
                    raise self._truncated(number)
                seek = -1
            elif self._behind_delimiter(number):
                return
            else:
                seek = self._position + 1  # only the beginning of a longer line: it belongs to the payload

    def _behind_delimiter(self, number: int) -> bool:
        """With the position on a delimiter: goes behind its line; False if the line goes on and is none."""
        size = len(self._delimiter)
        while not (match := _AFTER_BOUNDARY.match(self._buffer, self._position + size)):
            if not _AFTER_BOUNDARY_BEGUN.fullmatch(self._buffer, self._position + size):
                return False
            if not self._fill():
                raise self._truncated(number)
        self._position = match.end()
        self._in_payload = False
        self.ended = match[0] == b"--"
        return True

    def _skip_payload(self) -> None:
        if self._in_payload:
            for _ in self._payload(self._number):
                pass

    def _truncated(self, number: int) -> BadRequest:
        return BadRequest(f"the body ended inside part {number}, before the closing boundary")


def new_boundary() -> str:
    """A fresh boundary of 32 hexadecimal digits: needs no quotes and does not occur in any payload, by chance of
    2^-128."""
    return secrets.token_hex(16)


def part_head(boundary: str, headers: Sequence[tuple[str, str]], *, first: bool) -> bytes:
    """All bytes between the payload before (none if `first`) and the payload of this part.

    The first line of a body is its boundary line, with nothing before it, and header names go out as they are spelled
    here: the JS client of OHIF looks for exactly 'Content-Type:'.
    """
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers)]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a part header may not hold a line end")
    return ("" if first else "\r\n").encode() + "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n"


def closing(boundary: str) -> bytes:
    """All bytes behind the last payload."""
    return f"\r\n--{boundary}--\r\n".encode()
