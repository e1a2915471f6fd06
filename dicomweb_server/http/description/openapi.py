"""The route table as an OpenAPI 3.1 document."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from dicomweb_server import __version__
from dicomweb_server.http.table import Operation, Parameter, Route
from dicomweb_server.permissions import Permission

MEDIA_TYPE = "application/vnd.oai.openapi+json"

_FIELD = re.compile(r"\{(\w+)(?::\w+)?\}")
_FIELDS: Mapping[str, str] = {
    "study_uid": "Study Instance UID",
    "series_uid": "Series Instance UID",
    "instance_uid": "SOP Instance UID",
    "numbers": "Frame numbers from 1, separated by commas; runs such as 4-9 are an extension",
    "kind": "Type of FHIR resource: ImagingStudy, Patient, Endpoint or Organization",
    "resource_id": "Id of the FHIR resource; of an ImagingStudy its Study Instance UID",
    "version": "Version id of the FHIR resource",
    "key": "Path of the element in the data set, as BulkDataURI names it",
}
_UID = {"type": "string", "pattern": r"^[0-9.]{1,64}$"}
_ERROR = {
    "type": "object",
    "description": "Why a request failed; the log has more under the request id",
    "required": ["status", "error", "reason", "request_id"],
    "properties": {
        "status": {"type": "integer"},
        "error": {"type": "string"},
        "reason": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_FHIR = "application/fhir+json"
_OUTCOME = {
    "type": "object",
    "description": "A FHIR OperationOutcome: why a request failed",
    "required": ["resourceType", "issue"],
    "properties": {
        "resourceType": {"const": "OperationOutcome"},
        "issue": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["severity", "code"],
                "properties": {name: {"type": "string"} for name in ("severity", "code", "diagnostics")},
            },
        },
    },
}


def openapi(
    mounted: Iterable[tuple[str, Iterable[Route]]], *, server_url: str, logins: Sequence[str] = ()
) -> dict[str, Any]:
    """The document of routes below their prefixes. `server_url` is the root of the server as the client sees it;
    `logins` are the HTTP authentication schemes that are taken, none where nobody has to log in."""
    paths: dict[str, Any] = {}
    for prefix, routes in mounted:
        for entry in routes:
            paths[_FIELD.sub(r"{\1}", path_of(prefix, entry))] = dict(_path_item(prefix, entry, logins))
    components: dict[str, Any] = {"schemas": {"Error": _ERROR, "OperationOutcome": _OUTCOME}}
    if logins:
        components["securitySchemes"] = {name: {"type": "http", "scheme": name} for name in logins}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dicomweb-server",
            "version": __version__,
            "summary": "A medical image archive",
            "description": "DICOMweb (DICOM PS3.18). x-permission is what an operation needs from who asks.",
        },
        "servers": [{"url": server_url or "/"}],
        "tags": [{"name": str(permission)} for permission in Permission],
        "paths": paths,
        "components": components,
    }


def path_of(prefix: str, entry: Route) -> str:
    """The template of a mounted route, from the root of the server."""
    return (prefix + entry.template).rstrip("/") or "/"


def fields_of(template: str) -> list[str]:
    """The names of the fields of a URI template."""
    return _FIELD.findall(template)


def _path_item(prefix: str, entry: Route, logins: Sequence[str]) -> Iterator[tuple[str, Any]]:
    names = fields_of(entry.template)
    if names:
        yield "parameters", [_field(name) for name in names]
    for method, operation in entry.operations.items():
        described = _operation(method, prefix, entry, operation)
        if logins and operation.permission is not Permission.PUBLIC:
            described["security"] = [{name: []} for name in logins]
        yield method.lower(), described


def _field(name: str) -> dict[str, Any]:
    schema = _UID if name.endswith("_uid") else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "description": _FIELDS.get(name, name), "schema": schema}


def _operation(method: str, prefix: str, entry: Route, operation: Operation) -> dict[str, Any]:
    place = "-".join(re.findall(r"\w+", _FIELD.sub(r"\1", path_of(prefix, entry))))
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}-{place}".rstrip("-"),
        "summary": operation.summary,
        "tags": [str(operation.permission)],
        "x-permission": str(operation.permission),
        "parameters": [_query(parameter) for parameter in operation.query],
        "responses": _responses(operation),
    }
    if operation.takes:
        content = {media: {"schema": {"type": "string", "format": "binary"}} for media in operation.takes}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _query(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.meaning,
        "schema": dict(parameter.schema),
    }


def _responses(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status in operation.statuses:
        found[str(status)] = {"description": HTTPStatus(status).phrase}
        if operation.gives and status != HTTPStatus.NO_CONTENT:
            found[str(status)]["content"] = {media: {} for media in operation.gives}
    media, schema = (_FHIR, "OperationOutcome") if _FHIR in operation.gives else ("application/json", "Error")
    error = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    found["default"] = {"description": "An error", "content": {media: error}}
    return found
