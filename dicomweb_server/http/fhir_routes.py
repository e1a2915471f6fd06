"""The routes of FHIR, below its root. Their resource is made in `fhir/`."""

from dicomweb_server.http.parameters import FHIR_SEARCH
from dicomweb_server.http.table import Operation, Route, route
from dicomweb_server.permissions import Permission

JSON, XML = "application/fhir+json", "application/fhir+xml"
KIND, RESOURCE = "/{kind}", "/{kind}/{resource_id}"


def _read(responder: str, summary: str, permission: Permission = Permission.RETRIEVE) -> Operation:
    return Operation(responder=f"fhir.{responder}", summary=summary, permission=permission, gives=(JSON, XML))


def _search(responder: str, summary: str, *, takes: tuple[str, ...] = ()) -> Operation:
    return Operation(
        responder=f"fhir.{responder}",
        summary=summary,
        permission=Permission.SEARCH,
        query=FHIR_SEARCH,
        takes=takes,
        gives=(JSON, XML),
    )


FHIR: tuple[Route, ...] = (
    route("/metadata", get=_read("on_get_metadata", "What the FHIR server can do", Permission.PUBLIC)),
    route(KIND, get=_search("on_get_type", "Search for FHIR resources of a type")),
    route(
        KIND + "/_search",
        get=_search("on_get_type", "Search for FHIR resources of a type"),
        post=_search("on_post_search", "Search by a form", takes=("application/x-www-form-urlencoded",)),
    ),
    route(RESOURCE, get=_read("on_get_resource", "Read a FHIR resource")),
    route(RESOURCE + "/_history", get=_read("on_get_history", "Read all versions of a FHIR resource")),
    route(RESOURCE + "/_history/{version}", get=_read("on_get_version", "Read one version of a FHIR resource")),
)
