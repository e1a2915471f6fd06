"""The CapabilityStatement, generated from the routes and from the tables of the search."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from dicomweb_server import __version__
from dicomweb_server.fhir.matching import Kind
from dicomweb_server.fhir.tables import PARAMETERS, TYPES, VIEWS, Parameter, includes
from dicomweb_server.fhir.values import Json, filled
from dicomweb_server.http.table import Route

_DEFINITIONS = "http://hl7.org/fhir/SearchParameter/"
_INTERACTIONS: Mapping[tuple[str, str], str] = {
    ("/{kind}", "GET"): "search-type",
    ("/{kind}", "POST"): "create",
    ("/{kind}/{resource_id}", "GET"): "read",
    ("/{kind}/{resource_id}", "PUT"): "update",
    ("/{kind}/{resource_id}", "PATCH"): "patch",
    ("/{kind}/{resource_id}", "DELETE"): "delete",
    ("/{kind}/{resource_id}/_history", "GET"): "history-instance",
    ("/{kind}/{resource_id}/_history/{version}", "GET"): "vread",
}
_ORDER = ("read", "vread", "update", "patch", "delete", "history-instance", "create", "search-type")
_ABOUT: Mapping[str, str] = {
    "ImagingStudy": (
        "A view of the archive: every study that is stored, as it is now. What a client writes is added to it and "
        "hides nothing of it. It cannot be created here (422): store the images. Deleting it deletes the study."
    ),
    "Patient": (
        "A view of the archive: whoever has studies in it; others can be written. One with studies cannot be deleted "
        "(409)."
    ),
    "Endpoint": (
        "A view of the archive: for every study the DICOMweb root; add /studies/{uid} to its address. Others can be "
        "written. One of a study cannot be deleted (409)."
    ),
    "Organization": "Written by clients; every version is kept.",
}
# R4 definitions of parameters that several types share.
_SHARED = {
    ("Patient", name): f"individual-{name}"
    for name in (
        *("address", "address-city", "address-country", "address-postalcode", "address-state", "address-use"),
        *("birthdate", "email", "family", "gender", "given", "phone", "phonetic", "telecom"),
    )
} | {
    ("ImagingStudy", "identifier"): "clinical-identifier",
    ("ImagingStudy", "patient"): "clinical-patient",
    ("ImagingStudy", "dicom-class"): "ImagingStudy-dicom-class",
}


def capability_statement(routes: Iterable[Route], *, base: str, started: datetime, transactions: bool) -> Json:
    """What this server can, at this address."""
    interactions = _interactions(routes)
    system = [{"code": "batch"}, *([{"code": "transaction"}] if transactions else [])]
    posts_batches = any(route.template == "/" and "POST" in route.operations for route in routes)
    return filled(
        resourceType="CapabilityStatement",
        status="active",
        date=started.astimezone(UTC).date().isoformat(),
        publisher="dicomweb-server",
        kind="instance",
        software={"name": "dicomweb-server", "version": __version__},
        implementation={"description": "A medical image archive", "url": base},
        fhirVersion="4.0.1",
        format=["application/fhir+json", "application/fhir+xml", "json", "xml"],
        patchFormat=["application/json-patch+json"] if "patch" in interactions else None,
        rest=[
            filled(
                mode="server",
                documentation="ImagingStudy is also given as R5, when Accept has fhirVersion=5.0.",
                resource=[_resource(kind, interactions) for kind in TYPES],
                interaction=system if posts_batches else None,
            )
        ],
    )


def _interactions(routes: Iterable[Route]) -> list[str]:
    found = {
        _INTERACTIONS[route.template, method]
        for route in routes
        for method in route.operations
        if (route.template, method) in _INTERACTIONS
    }
    return [code for code in _ORDER if code in found]


def _resource(kind: str, interactions: list[str]) -> Json:
    own = [code for code in interactions if code != "create" or kind != "ImagingStudy"]
    writes = "create" in interactions
    return filled(
        type=kind,
        profile=f"http://hl7.org/fhir/StructureDefinition/{kind}",
        documentation=_ABOUT[kind],
        interaction=[{"code": code} for code in own],
        versioning="versioned-update" if kind not in VIEWS else "versioned",
        readHistory=kind not in VIEWS if "vread" in interactions else None,
        updateCreate=kind != "ImagingStudy" if "update" in interactions else None,
        conditionalCreate=kind != "ImagingStudy" if writes else None,
        conditionalRead="full-support",
        conditionalUpdate=True if "update" in interactions else None,
        conditionalDelete="single" if "delete" in interactions else None,
        referencePolicy=["literal", "logical"],
        searchInclude=[f"{kind}:{name}" for name in includes(kind)],
        searchRevInclude=[
            f"{source}:{name}"
            for source in TYPES
            for name, parameter in includes(source).items()
            if kind in parameter.targets
        ],
        searchParam=[_parameter(kind, parameter) for parameter in PARAMETERS[kind].values()],
    )


def _parameter(kind: str, parameter: Parameter) -> dict[str, Any]:
    name = parameter.name
    definition = f"Resource-{name[1:]}" if name.startswith("_") else _SHARED.get((kind, name), f"{kind}-{name}")
    about = None
    if parameter.kind is Kind.STRING:
        about = "without case and accents, at the beginning of any word; :exact, :contains, :missing"
    elif parameter.kind is Kind.TOKEN:
        about = "exactly; :not, :missing"
    elif parameter.kind is Kind.REFERENCE:
        about = "by id, type and id, or URL; :identifier, :missing, chains"
    elif parameter.kind is Kind.DATE:
        about = "with eq ne gt lt ge le sa eb ap; :missing"
    return filled(name=name, definition=_DEFINITIONS + definition, type=str(parameter.kind), documentation=about)
