"""Byte ranges and entity tags of a request (RFC 9110 13 and 14): which part is asked for, and whether anything is."""

import re

from dicomweb_server.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes\s*=[\s,]*(\d{0,32})\s*-\s*(\d{0,32})[\s,]*", re.IGNORECASE | re.ASCII)


def parse_range(header: str | None, size: int) -> list[tuple[int, int]] | None:
    """The one byte range asked for as [(start, length)], cut to `size`; None when the whole is to be answered.

    That is: no header, another unit, a malformed one (ignored by RFC 9110 14.2), or several ranges. Raises
    RangeNotSatisfiable when the range holds no byte of the resource.
    """
    match = _RANGE.fullmatch(header.strip()) if header and len(header) <= 256 else None
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        length = min(int(match[2]), size)
        start = size - length
    else:
        start = int(match[1])
        last = int(match[2]) if match[2] else max(size - 1, start)
        if last < start:
            return None
        length = min(last + 1, size) - start
    if length <= 0:
        raise RangeNotSatisfiable(f"the byte range lies outside the {size} bytes of this resource", size)
    return [(start, length)]


def _opaque(tag: str) -> str:
    return tag.strip().removeprefix("W/").strip('"')


_LISTED_TAG = re.compile(r'(?:W/)?"([^"]*)"|([^\s,"]+)')


def etag_matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the list of tags, or `*`, names this tag by weak comparison (RFC 9110 13.1.2). Tags without their quotes
    are read as well."""
    if not if_none_match:
        return False
    if if_none_match.strip() == "*":
        return True
    wanted = _opaque(etag)
    return any((quoted or bare) == wanted for quoted, bare in _LISTED_TAG.findall(if_none_match))


def if_range_holds(header: str | None, etag: str) -> bool:
    """Whether a Range header may be honoured: without If-Range, or where it names this tag by strong comparison (RFC
    9110 13.1.5). A date never holds, as no resource here is told apart by date: the whole is sent."""
    if not header:
        return True
    return header.strip() == etag and not etag.startswith("W/")
