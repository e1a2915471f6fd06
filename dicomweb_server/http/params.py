"""Typed readers for what a request carries: UIDs, frame lists, query parameters, the Accept header."""

from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import falcon

from dicomweb_server.dicom.media import AcceptRange, parse_accept
from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest, TooLarge
from dicomweb_server.storage.records import Scope

MAX_PARAMETERS = 1000
MAX_QUERY_BYTES = 256 * 1024
MAX_FRAMES_IN_LIST = 10_000

_NAMES = {"study_uid": "Study", "series_uid": "Series", "instance_uid": "SOP"}


def scope_of(**uids: str) -> Scope:
    """The scope that a URL names; BadRequest for what is no UID (unknown ones are left to the storage)."""
    for name, value in uids.items():
        if not is_uid(value):
            raise BadRequest(
                f"the {_NAMES[name]} Instance UID in the URL is malformed: digits and dots, at most 64 characters"
            )
    return Scope(**uids)


def query_parameters(req: falcon.Request) -> list[tuple[str, str]]:
    """The decoded query, in order, repeated names kept; a name without value has an empty one.

    Commas and backslashes stay in the values: what they mean depends on the attribute.
    """
    text = req.query_string
    if len(text) > MAX_QUERY_BYTES:
        raise TooLarge(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    pieces = [piece for piece in text.split("&") if piece and piece != "="]
    if len(pieces) > MAX_PARAMETERS:
        raise BadRequest(f"the query has more than {MAX_PARAMETERS} parameters")
    found = []
    for piece in pieces:
        name, _, value = piece.partition("=")
        try:
            found.append((_decoded(name), _decoded(value)))
        except UnicodeDecodeError as exc:
            raise BadRequest("a query parameter is not percent-encoded UTF-8") from exc
    return found


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text and text.isascii():
        return text
    # WSGI hands raw bytes over as Latin-1 (PEP 3333).
    return unquote_to_bytes(text.replace("+", " ").encode("latin-1", "replace")).decode("utf-8")


def first_parameter(req: falcon.Request, name: str) -> str | None:
    """The first value of a parameter, or None."""
    if not req.query_string:
        return None
    for key, value in query_parameters(req):
        if key == name:
            return value
    return None


def accepted(req: falcon.Request) -> list[AcceptRange]:
    """What the client takes: the `accept` parameter where there is one, which means the same as the header
    (PS3.18 8.3.3.1), else the header."""
    asked = first_parameter(req, "accept")
    return parse_accept(asked if asked else req.get_header("Accept"))


def truth(req: falcon.Request, name: str) -> bool:
    """A parameter that is true or false (its default)."""
    value = (first_parameter(req, name) or "false").lower()
    if value not in ("true", "false"):
        raise BadRequest(f"{name} is either true or false")
    return value == "true"


def frame_numbers(text: str) -> list[int]:
    """A comma list of frame numbers from 1 (PS3.18 10.4.1.1.4), as indexes from 0; `4-9` is an extension for runs."""
    indexes: list[int] = []
    for piece in text.split(","):
        low, dash, high = piece.strip().partition("-")
        if not _is_number(low) or (dash and not _is_number(high)):
            raise BadRequest("frames are a comma list of whole numbers from 1, or of runs such as 4-9")
        first, last = int(low), int(high) if dash else int(low)
        if first < 1 or last < first:
            raise BadRequest("frame numbers begin at 1, and a run goes upwards")
        if last - first + len(indexes) >= MAX_FRAMES_IN_LIST:
            raise BadRequest(f"at most {MAX_FRAMES_IN_LIST} frames can be asked for at once")
        indexes.extend(range(first - 1, last))
    return indexes


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def entity_url(base: str, scope: Scope) -> str:
    """The retrieve URL of a study, series or instance."""
    url = f"{base}/studies/{scope.study_uid}"
    if scope.series_uid is not None:
        url += f"/series/{scope.series_uid}"
    if scope.instance_uid is not None:
        url += f"/instances/{scope.instance_uid}"
    return url


def names(parameters: Sequence[tuple[str, str]]) -> str:
    """The different names of the parameters, for a log without values; only those that look like names."""
    safe = {name for name, _ in parameters if len(name) <= 64 and name.replace(".", "").isalnum()}
    return ",".join(sorted(safe))
