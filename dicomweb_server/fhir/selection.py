"""Parts of resources: `_summary` and `_elements`. Pure."""

from collections.abc import Mapping

from dicomweb_server.fhir.requests import SearchRequest
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import WHOLE, Detail

_ALWAYS = ("resourceType", "id", "meta")
MANDATORY: Mapping[str, tuple[str, ...]] = {
    "ImagingStudy": ("status", "subject"),
    "Patient": (),
    "Endpoint": ("status", "connectionType", "payloadType", "address"),
    "Organization": (),
}
# What the definitions of the types mark with Σ.
SUMMARY: Mapping[str, tuple[str, ...]] = {
    "ImagingStudy": (
        *("identifier", "status", "modality", "subject", "encounter", "started", "basedOn", "referrer", "interpreter"),
        *("endpoint", "numberOfSeries", "numberOfInstances", "procedureReference", "procedureCode", "location"),
        *("reasonCode", "reasonReference", "description", "series"),
    ),
    "Patient": (
        *("identifier", "active", "name", "telecom", "gender", "birthDate", "deceasedBoolean", "deceasedDateTime"),
        *("address", "managingOrganization", "link"),
    ),
    "Endpoint": (
        *("identifier", "status", "connectionType", "name", "managingOrganization", "period", "payloadType"),
        *("payloadMimeType", "address"),
    ),
    "Organization": ("identifier", "active", "type", "name", "alias"),
}
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def detail_of(request: SearchRequest) -> Detail:
    """How much of an ImagingStudy has to be read for the answer."""
    if request.summary == "true":
        return Detail(series=True, instances=False)
    if request.summary in ("text", "count"):
        return Detail(series=False, instances=False)
    if request.elements and "series" not in request.elements:
        # Reasons are partly told by the series.
        return Detail(series="reasonCode" in request.elements, instances=False)
    return WHOLE


def selected(resource: Json, request: SearchRequest) -> Json:
    """The part that was asked for, marked as one."""
    kind = resource["resourceType"]
    if request.summary == "true":
        wanted: tuple[str, ...] = SUMMARY.get(kind, ())
    elif request.summary == "text":
        wanted = ("text", *MANDATORY.get(kind, ()))
    elif request.summary == "data":
        wanted = tuple(name for name in resource if name != "text")
    elif request.elements:
        wanted = (*request.elements, *MANDATORY.get(kind, ()))
    else:
        return resource
    part = {name: value for name, value in resource.items() if name in wanted or name in _ALWAYS}
    if request.summary == "true" and kind == "ImagingStudy" and "series" in part:
        part["series"] = [
            {name: value for name, value in series.items() if name != "instance"} for series in part["series"]
        ]
    meta = {name: value for name, value in part.get("meta", {}).items() if name != "versionId"}
    part["meta"] = {**meta, "tag": [*meta.get("tag", ()), _SUBSETTED]}
    return part
