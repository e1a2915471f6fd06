"""Writing answers: one payload with byte ranges, several as multipart, JSON and XML lists, archives.

Everything is an iterator or a file that the kernel sends; what can fail is tried before the first byte, because after
it an error can no longer become a status.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO, cast

import falcon
from falcon.typing import ReadableIO
from isal import isal_zlib

from dicomweb_server.dicom.multipart import closing, new_boundary, part_head
from dicomweb_server.http.conditional import etag_matches, if_range_holds, parse_range
from dicomweb_server.services.retrieve import Payload

JSON = "application/dicom+json"
XML = "application/dicom+xml"
JSON_BLOCK_BYTES = 256 * 1024
GZIP_ABOVE_BYTES = 2048
FILE_ABOVE_BYTES = 64 * 1024  # below, reading is faster than letting the kernel send a file
PARTS_WITH_LENGTH = 5000  # above this many parts an answer is sent chunked instead of being measured first

REVALIDATE = "private, no-cache"  # may be kept, but ask first


@dataclass(frozen=True, slots=True, kw_only=True)
class OutPart:
    """One part of a multipart answer. The type is without parameters in the head of the whole, with them here."""

    content_type: str
    payload: Payload
    location: str | None = None

    def headers(self, extra: Sequence[tuple[str, str]] = (), *, size_bytes: int | None = None) -> list[tuple[str, str]]:
        """Its head; viewers look for `Content-Type` in exactly this spelling."""
        size = self.payload.size_bytes if size_bytes is None else size_bytes
        head = [("Content-Type", self.content_type), ("Content-Length", str(size))]
        if self.location:
            head.append(("Content-Location", self.location))
        return head + list(extra)


def not_modified(req: falcon.Request, resp: falcon.Response, *, etag: str, cache: str) -> bool:
    """Set the validators; true when the client has this version already and 304 is the answer."""
    resp.set_header("ETag", etag)
    resp.set_header("Cache-Control", cache)
    resp.append_header("Vary", "Accept")
    asked = req.get_header("If-None-Match")
    if asked is None or not etag_matches(asked, etag):
        return False
    resp.status = 304
    return True


def tag(*parts: str) -> str:
    """A strong entity tag of what identifies a representation."""
    return f'"{blake2b("|".join(parts).encode(), digest_size=12).hexdigest()}"'


def send_payload(
    req: falcon.Request, resp: falcon.Response, payload: Payload, *, content_type: str, etag: str, cache: str
) -> None:
    """One payload as the whole body: 200, 206 for a range, 304."""
    resp.set_header("Accept-Ranges", "bytes")
    if not_modified(req, resp, etag=etag, cache=cache):
        return
    resp.content_type = content_type
    start, length = _range(req, resp, payload.size_bytes, etag)
    resp.content_length = length
    opened = payload.open_file()
    if opened is not None:
        file, offset = opened
        file.seek(offset + start)
        resp.stream = cast(ReadableIO, _Section(file, length))
    else:
        resp.stream = payload.chunks(start, length)


def _range(req: falcon.Request, resp: falcon.Response, size: int, etag: str) -> tuple[int, int]:
    """Start and length of what is asked for; sets 206 and Content-Range for a part."""
    header = req.get_header("Range")
    if header is None or not if_range_holds(req.get_header("If-Range"), etag):
        return 0, size
    ranges = parse_range(header, size)
    if ranges is None or len(ranges) != 1:
        return 0, size
    start, length = ranges[0]
    resp.status = 206
    resp.set_header("Content-Range", f"bytes {start}-{start + length - 1}/{size}")
    return start, length


class _Section:
    """A run of an open file: `wsgi.file_wrapper` sends it by the kernel through `fileno`, any other server reads.
    around: bytes to send before and behind it, by a server that said it would (`connection.AnswerSocket`)."""

    def __init__(self, file: BinaryIO, length: int, *, around: tuple[bytes, bytes] = (b"", b"")) -> None:
        self._file = file
        self.around = around
        self._left = length
        self.fileno = file.fileno
        self.close = file.close
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def send_multipart(
    req: falcon.Request,
    resp: falcon.Response,
    parts: Iterable[OutPart],
    *,
    media: str,
    etag: str,
    cache: str,
    ahead: int = PARTS_WITH_LENGTH,
) -> None:
    """All parts as multipart/related, with an exact length where there are at most `ahead` of them: so many are taken
    before the answer begins.

    A range on a single part is a range of its payload: dicomweb_client asks for bulk data so.
    """
    if not_modified(req, resp, etag=etag, cache=cache):
        return
    boundary = new_boundary()
    resp.content_type = f'multipart/related; type="{media}"; boundary={boundary}'
    some = list(itertools.islice(iterator := iter(parts), ahead))
    rest = next(iterator, None)
    if rest is None and len(some) == 1 and req.get_header("Range"):
        _send_part_range(req, resp, some[0], boundary, etag)
        return
    if rest is None:
        heads = [part_head(boundary, part.headers(), first=index == 0) for index, part in enumerate(some)]
        end = closing(boundary)
        resp.content_length = sum(map(len, heads)) + sum(part.payload.size_bytes for part in some) + len(end)
        if len(some) == 1 and (section := _section_around(req, some[0].payload, heads[0], end)):
            resp.stream = cast(ReadableIO, section)
            return
        resp.stream = _begun(_parts(zip(heads, some, strict=True), boundary))
        return
    all_parts = itertools.chain(some, [rest], iterator)
    counted = ((part_head(boundary, part.headers(), first=n == 0), part) for n, part in enumerate(all_parts))
    resp.stream = _begun(_parts(counted, boundary))


def _section_around(req: falcon.Request, payload: Payload, before: bytes, behind: bytes) -> "_Section | None":
    """A single part as a run of a file with its head and end around it, where the server can send that and the file is
    as long as it should be; a short one takes the usual way, which tells."""
    if payload.size_bytes < FILE_ABOVE_BYTES or not req.env.get("dicomweb.sends_around"):
        return None
    opened = payload.open_file()
    if opened is None:
        return None
    file, offset = opened
    if os.fstat(file.fileno()).st_size < offset + payload.size_bytes:
        file.close()
        return None
    file.seek(offset)
    return _Section(file, payload.size_bytes, around=(before, behind))


def _send_part_range(req: falcon.Request, resp: falcon.Response, part: OutPart, boundary: str, etag: str) -> None:
    size = part.payload.size_bytes
    start, length = _range(req, resp, size, etag)
    extra = [("Content-Range", f"bytes {start}-{start + length - 1}/{size}")] if resp.status_code == 206 else []
    head = part_head(boundary, part.headers(extra, size_bytes=length), first=True)
    end = closing(boundary)
    resp.content_length = len(head) + length + len(end)
    resp.stream = _begun(itertools.chain([head], part.payload.chunks(start, length), [end]))


def _parts(parts: Iterable[tuple[bytes, OutPart]], boundary: str) -> Iterator[bytes]:
    for head, part in parts:
        yield head
        yield from part.payload.whole()
    yield closing(boundary)


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks with the first two already made: the head, and the bytes that show that the blob is there."""
    first = list(itertools.islice(chunks, 2))
    return itertools.chain(first, chunks)


def send_json_list(req: falcon.Request, resp: falcon.Response, items: Iterable[bytes], *, media: str = JSON) -> None:
    """A JSON array of ready-made objects, compressed when the client takes gzip and it is worth it. The type goes
    without charset: dicomweb_client compares it as a whole."""
    resp.content_type = media
    resp.append_header("Vary", "Accept-Encoding")
    blocks = _json_blocks(items)
    head = list(itertools.islice(blocks, 2))
    whole = len(head) < 2
    if takes_gzip(req) and (not whole or len(head[0]) > GZIP_ABOVE_BYTES):
        resp.set_header("Content-Encoding", "gzip")
        if whole:
            resp.data = b"".join(_gzipped(head))
        else:
            resp.stream = _gzipped(itertools.chain(head, blocks))
    elif whole:
        resp.data = head[0]
    else:
        resp.stream = itertools.chain(head, blocks)


def _json_blocks(items: Iterable[bytes]) -> Iterator[bytes]:
    """`[` items `]` in blocks of some size."""
    pending, size = [], 0
    opening = b"["
    for item in items:
        pending.append(item)
        size += len(item)
        if size >= JSON_BLOCK_BYTES:
            yield opening + b",".join(pending)
            pending, size, opening = [], 0, b","
    if pending or opening == b"[":
        yield opening + b",".join(pending) + b"]"
    else:
        yield b"]"


def takes_gzip(req: falcon.Request) -> bool:
    """Whether the client lists gzip (with a weight above 0)."""
    for piece in (req.get_header("Accept-Encoding") or "").lower().split(","):
        name, _, weight = piece.partition(";")
        if name.strip() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _gzipped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, isal_zlib.MAX_WBITS | 16)
    for block in blocks:
        if packed := packer.compress(block):
            yield packed
    yield packer.flush()


def send_xml_parts(resp: falcon.Response, documents: Iterable[bytes]) -> None:
    """One XML document per part (PS3.18 8.7.3.5: several are never one document)."""
    boundary = new_boundary()
    resp.content_type = f'multipart/related; type="{XML}"; boundary={boundary}'

    def body() -> Iterator[bytes]:
        first = True
        for document in documents:
            head = [("Content-Type", XML), ("Content-Length", str(len(document)))]
            yield part_head(boundary, head, first=first) + document
            first = False
        # An empty list has a body all the same: a lone closing delimiter.
        yield closing(boundary) if not first else closing(boundary).removeprefix(b"\r\n")

    resp.stream = body()


def warn(resp: falcon.Response, warnings: Sequence[str]) -> None:
    """Warning headers (RFC 7234 5.5, code 299), in ASCII and bounded."""
    for text in warnings[:10]:
        safe = text.encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")
        printable = "".join(c if " " <= c <= "~" else "?" for c in safe)
        resp.append_header("Warning", f'299 dicomweb-server "{printable[:400]}"')
