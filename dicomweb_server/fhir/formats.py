"""How resources travel: JSON, and XML by Accept or `_format`. Also which release of FHIR is asked for.

XML is made and read by the models of fhir.resources, which know the order of elements that it needs; they are imported
for that, and to check what clients write, but not before.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import falcon
import orjson

from dicomweb_server.dicom.media import Offer, choose, parse_accept
from dicomweb_server.errors import BadRequest, Invalid, NotAcceptable, TooLarge, UnsupportedMedia
from dicomweb_server.fhir import models
from dicomweb_server.fhir.mapping import to_r5
from dicomweb_server.fhir.values import Json
from dicomweb_server.http.body import chunks, reader
from dicomweb_server.http.params import query_parameters

JSON, XML = "application/fhir+json", "application/fhir+xml"
_OFFERS = (
    *(Offer(media) for media in (JSON, "application/json", "text/json")),
    *(Offer(media) for media in (XML, "application/xml", "text/xml")),
)
_FORMATS = {"json": JSON, "xml": XML, JSON: JSON, XML: XML, "application/json": JSON, "application/xml": XML}
R4, R5 = "4.0", "5.0"


def wanted_media(req: falcon.Request) -> str:
    """JSON or XML, by `_format` or else by Accept. Raises NotAcceptable."""
    parameters = dict(query_parameters(req)) if req.query_string else {}
    if asked := parameters.get("_format"):
        media = _FORMATS.get(asked.replace(" ", "+").partition(";")[0].strip().lower())
        if media is None:
            raise NotAcceptable("_format is json or xml", offered=(JSON, XML))
        return media
    accept = req.get_header("Accept")
    if not accept or "*/*" in accept or "text/html" in accept:
        return XML if accept and "fhir+xml" in accept and "fhir+json" not in accept else JSON
    return XML if choose(parse_accept(accept), _OFFERS).media.endswith("xml") else JSON


def wanted_release(req: falcon.Request) -> str:
    """The release of FHIR that Accept asks for by `fhirVersion`. Raises NotAcceptable for others than R4 and R5."""
    accept = req.get_header("Accept") or ""
    parameters = dict(query_parameters(req)) if req.query_string else {}
    asked = parameters.get("fhirVersion") or ""
    for part in accept.replace(",", ";").split(";"):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "fhirversion":
            asked = value.strip().strip('"')
    if asked in ("", "4.0", "4.0.1", "4.3", "4.3.0"):
        return R4
    if asked in ("5.0", "5.0.0"):
        return R5
    raise NotAcceptable("fhirVersion is 4.0, or 5.0 for ImagingStudy", offered=(f"{JSON}; fhirVersion=4.0",))


def write(req: falcon.Request, resp: falcon.Response, resource: Json, *, release: str = R4) -> None:
    """Answer with a resource in the form that is wanted."""
    media = wanted_media(req)
    if release == R5:
        resource = _in_r5(resource)
    resp.append_header("Vary", "Accept")
    version = f"; fhirVersion={release}" if release == R5 else ""
    resp.content_type = f"{media}{version}; charset=utf-8"
    if media == XML:
        resp.data = models.to_xml(resource, release=release)
        return
    pretty = orjson.OPT_INDENT_2 if "_pretty=true" in (req.query_string or "") else 0
    resp.data = orjson.dumps(resource, option=pretty)


def _in_r5(resource: Json) -> Json:
    kind = resource.get("resourceType")
    if kind == "ImagingStudy":
        return to_r5(resource)
    if kind == "OperationOutcome":
        return resource
    if kind == "Bundle":
        entries = [
            {**entry, "resource": _in_r5(entry["resource"])} if "resource" in entry else entry
            for entry in resource.get("entry", ())
        ]
        return {**resource, "entry": entries} if entries else resource
    raise NotAcceptable(f"{kind} is given as R4 only", offered=(f"{JSON}; fhirVersion=4.0",))


def payload(req: falcon.Request, *, max_bytes: int) -> bytes:
    """The whole payload. Raises TooLarge, BadRequest."""
    try:
        return b"".join(chunks(reader(req, max_bytes=max_bytes)))
    except TooLarge as exc:
        raise TooLarge(f"the payload is larger than {max_bytes} bytes") from exc


def read(req: falcon.Request, *, max_bytes: int) -> Json:
    """The resource that the client sends, as JSON, whichever form it has; its content is not checked yet.

    Raises BadRequest, UnsupportedMedia, TooLarge.
    """
    media = (req.content_type or "").partition(";")[0].strip().lower()
    data = payload(req, max_bytes=max_bytes)
    if media in ("", JSON, "application/json", "text/json"):
        return json_object(data)
    if media in (XML, "application/xml", "text/xml"):
        return models.from_xml(data)
    raise UnsupportedMedia(f"resources are sent as {JSON} or {XML}")


def read_patch(req: falcon.Request, *, max_bytes: int) -> Any:
    """A JSON Patch, not checked yet. Raises Invalid, UnsupportedMedia, TooLarge."""
    media = (req.content_type or "").partition(";")[0].strip().lower()
    if media not in ("application/json-patch+json", "application/json"):
        raise UnsupportedMedia("a patch is sent as application/json-patch+json")
    try:
        return orjson.loads(payload(req, max_bytes=max_bytes))
    except orjson.JSONDecodeError as exc:
        raise Invalid(f"the payload is no JSON: {exc}") from exc


def json_object(data: bytes) -> Json:
    """A JSON object. Raises Invalid."""
    try:
        found: Any = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise Invalid(f"the payload is no JSON: {exc}") from exc
    if not isinstance(found, Mapping):
        raise Invalid("the payload is no JSON object")
    return dict(found)


def parameters_of_form(req: falcon.Request, *, max_bytes: int) -> list[tuple[str, str]]:
    """The parameters of a search by POST: those of the form and of the URL."""
    media = (req.content_type or "").partition(";")[0].strip().lower()
    found = query_parameters(req) if req.query_string else []
    if not req.content_length and "chunked" not in (req.get_header("Transfer-Encoding") or "").lower():
        return found
    if media != "application/x-www-form-urlencoded":
        raise UnsupportedMedia("a search by POST is sent as application/x-www-form-urlencoded")
    data = payload(req, max_bytes=min(max_bytes, 256 * 1024))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadRequest("the form is not UTF-8") from exc
    return found + decoded_query(text)


def decoded_query(text: str) -> list[tuple[str, str]]:
    """The parameters of a query that stands in a form or a Bundle."""
    try:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as exc:
        raise BadRequest("the query has more than 1000 parameters, or is not percent-encoded UTF-8") from exc
