"""Small payloads of forms and of JSON: read whole, with a bound, as texts by name."""

from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from urllib.parse import parse_qsl

import falcon
import orjson

from dicomweb_server.errors import BadRequest, TooLarge, UnsupportedMedia
from dicomweb_server.http.params import query_parameters

MAX_BYTES = 64 * 1024
MAX_FIELDS = 100
FORM, FORM_DATA, JSON = "application/x-www-form-urlencoded", "multipart/form-data", "application/json"
_NEVER_IN_URLS = frozenset({"password", "pwd", "token", "refresh_token", "secret"})


def read_fields(req: falcon.Request) -> Mapping[str, str]:
    """The fields of a form or of a JSON object; lists and numbers of JSON as texts, commas between. An empty payload
    has none. Raises BadRequest, also for a secret in the URL, which would stand in logs and histories."""
    for name, _ in query_parameters(req) if req.query_string else ():
        if name.lower() in _NEVER_IN_URLS:
            raise BadRequest(f"send the {name} in the payload, not in the URL: URLs are kept in logs and histories")
    data = payload(req)
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    if not data:
        return {}
    if kind == JSON:
        return _of_json(data)
    if kind in ("", FORM):
        return _of_form(data)
    if kind == FORM_DATA:
        return _of_form_data(req.content_type or "", data)
    raise UnsupportedMedia(f"the payload is {FORM} or {JSON}")


def payload(req: falcon.Request) -> bytes:
    """A small payload, whole; empty where there is none. Raises TooLarge."""
    chunked = "chunked" in (req.get_header("Transfer-Encoding") or "").lower()
    if not chunked and not req.content_length:
        return b""
    if not chunked and (req.content_length or 0) > MAX_BYTES:
        raise TooLarge(f"the payload is larger than {MAX_BYTES} bytes")
    stream = req.env["wsgi.input"] if chunked else req.bounded_stream
    data = bytes(stream.read(MAX_BYTES + 1))
    if len(data) > MAX_BYTES:
        raise TooLarge(f"the payload is larger than {MAX_BYTES} bytes")
    return data


def _of_json(data: bytes) -> dict[str, str]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadRequest("the payload is no JSON") from None
    if not isinstance(found, dict):
        raise BadRequest("the payload is a JSON object")
    fields = {}
    for name, value in found.items():
        if isinstance(value, dict):
            raise BadRequest(f"{name} is a text, a number or a list of texts")
        items = value if isinstance(value, list) else [value]
        fields[name] = ",".join(_text(item) for item in items)
    return fields


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _of_form(data: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(data.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise BadRequest("the payload is no form") from None


def _of_form_data(content_type: str, data: bytes) -> dict[str, str]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode("latin-1") + data)
    fields = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition") if isinstance(part, Message) else None
        value = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(value, bytes):
            fields[name] = value.decode("utf-8", "replace")
    return fields
