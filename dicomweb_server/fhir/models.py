"""The models of fhir.resources: they check what clients write, and know XML. R4B differs from R4 in no element of the
types here. The library takes a third of a second to load, so that it is imported when it is first wanted: reading JSON
never does, and no image path."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dicomweb_server.errors import Invalid, NotAcceptable
from dicomweb_server.fhir.values import Json

_NAMESPACE = "http://hl7.org/fhir"


def check(resource: Mapping[str, Any], kind: str) -> None:
    """Whether a resource is a valid one of this type. Raises Invalid with the path of every problem."""
    if resource.get("resourceType") != kind:
        raise Invalid(f"the resource is no {kind}", [(kind, f"resourceType must be {kind}")])
    model = _model(kind, "4.0")
    try:
        made = model.model_validate(dict(resource))
    except ValueError as exc:
        problems = list(_problems(kind, exc))
        raise Invalid(
            f"the {kind} is not valid: {problems[0][1] if problems else 'see the specification'}", problems
        ) from exc
    problems = list(_unknown_codes(kind, made))
    if problems:
        raise _invalid(kind, problems)


def _invalid(kind: str, problems: list[tuple[str, str]]) -> Invalid:
    return Invalid(f"the {kind} is not valid: {problems[0][1] if problems else 'see the specification'}", problems)


def _problems(kind: str, exc: ValueError) -> Iterator[tuple[str, str]]:
    """Path and message of each problem; values of the client are not repeated, they may be a patient's."""
    errors: Any = getattr(exc, "errors", None)
    for error in errors()[:50] if callable(errors) else ():
        path = kind
        for part in error.get("loc", ()):
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        message = str(error.get("msg", "not valid")).removeprefix("Value error, ")
        yield path, message[:200]


def _unknown_codes(kind: str, made: Any) -> Iterator[tuple[str, str]]:
    """Codes of elements whose value set is required, which the models do not check themselves."""
    for name, field in type(made).model_fields.items():
        extra = field.json_schema_extra
        accepted = extra.get("enum_values") if isinstance(extra, Mapping) else None
        value = getattr(made, name, None)
        if accepted and isinstance(value, str) and value not in accepted:
            yield f"{kind}.{field.alias or name}", f"{field.alias or name} is one of {', '.join(accepted)}"


def to_xml(resource: Mapping[str, Any], *, release: str = "4.0") -> bytes:
    """The resource as XML."""
    made = _model(str(resource["resourceType"]), release).model_validate(_plain(resource))
    data: bytes = made.model_dump_xml()
    return data


def from_xml(data: bytes) -> Json:
    """A resource in XML as JSON. Raises Invalid. Document types are refused: entities can grow without bound."""
    if b"<!DOCTYPE" in data[:4096] or b"<!ENTITY" in data:
        raise Invalid("the XML has a document type, which is not taken")
    from lxml import etree  # noqa: PLC0415

    try:
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))
        kind = etree.QName(root).localname
    except (etree.XMLSyntaxError, ValueError) as exc:
        raise Invalid("the payload is no XML") from exc
    if etree.QName(root).namespace != _NAMESPACE:
        raise Invalid(f"the XML is none of FHIR: its namespace must be {_NAMESPACE}")
    try:
        made = _model(kind, "4.0").model_validate_xml(data)
    except NotAcceptable as exc:
        raise Invalid(f"{kind} is no type of FHIR R4") from exc
    except ValueError as exc:
        problems = list(_problems(kind, exc))
        raise Invalid(
            f"the {kind} is not valid: {problems[0][1] if problems else 'see the specification'}", problems
        ) from exc
    except (TypeError, AttributeError, KeyError, LookupError) as exc:  # XML of a shape that the library does not expect
        raise Invalid(f"the {kind} is not valid XML of FHIR") from exc
    found: Json = orjson.loads(made.model_dump_json())
    return found


def _plain(resource: Mapping[str, Any]) -> Any:
    return orjson.loads(orjson.dumps(resource))


def _model(kind: str, release: str) -> Any:
    if release == "5.0":
        from fhir.resources import get_fhir_model_class  # noqa: PLC0415
    else:
        from fhir.resources.R4B import get_fhir_model_class  # noqa: PLC0415
    try:
        return get_fhir_model_class(kind)
    except (LookupError, KeyError, ImportError, AttributeError) as exc:
        raise NotAcceptable(f"{kind} is no type of this release of FHIR") from exc
