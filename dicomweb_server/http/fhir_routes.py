"""The routes of FHIR, below its root. Their resource is made in `fhir/`."""

from dicomweb_server.http.parameters import FHIR_SEARCH
from dicomweb_server.http.table import Operation, Route, route
from dicomweb_server.permissions import Permission

JSON, XML, PATCH = "application/fhir+json", "application/fhir+xml", "application/json-patch+json"
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


def _write(
    responder: str, summary: str, *, statuses: tuple[int, ...], takes: tuple[str, ...] = (JSON, XML)
) -> Operation:
    return Operation(
        responder=f"fhir.{responder}",
        summary=summary,
        permission=Permission.EDIT,
        takes=takes,
        gives=(JSON, XML),
        statuses=statuses,
    )


def _delete(responder: str, summary: str) -> Operation:
    return Operation(
        responder=f"fhir.{responder}", summary=summary, permission=Permission.DELETE, gives=(JSON, XML), statuses=(204,)
    )


FHIR: tuple[Route, ...] = (
    route(
        "/",
        post=Operation(
            responder="fhir.on_post_batch",
            summary="Several FHIR requests at once; each needs its own permission",
            permission=Permission.SEARCH,
            takes=(JSON, XML),
            gives=(JSON, XML),
        ),
    ),
    route("/metadata", get=_read("on_get_metadata", "What the FHIR server can do", Permission.PUBLIC)),
    route(
        KIND,
        get=_search("on_get_type", "Search for FHIR resources of a type"),
        post=_write("on_post_type", "Create a FHIR resource", statuses=(200, 201)),
        put=_write("on_put_type", "Update or create the FHIR resource that matches", statuses=(200, 201)),
        patch=_write("on_patch_type", "Patch the FHIR resource that matches", statuses=(200,), takes=(PATCH,)),
        delete=_delete("on_delete_type", "Delete the FHIR resource that matches"),
    ),
    route(
        KIND + "/_search",
        get=_search("on_get_type", "Search for FHIR resources of a type"),
        post=_search("on_post_search", "Search by a form", takes=("application/x-www-form-urlencoded",)),
    ),
    route(
        KIND + "/$validate",
        post=Operation(
            responder="fhir.on_post_validate",
            summary="Check a FHIR resource without storing it",
            permission=Permission.SEARCH,
            takes=(JSON, XML),
            gives=(JSON, XML),
        ),
    ),
    route(
        RESOURCE,
        get=_read("on_get_resource", "Read a FHIR resource"),
        put=_write("on_put_resource", "Update or create a FHIR resource", statuses=(200, 201)),
        patch=_write("on_patch_resource", "Patch a FHIR resource", statuses=(200,), takes=(PATCH,)),
        delete=_delete("on_delete_resource", "Delete a FHIR resource; an ImagingStudy with its study"),
    ),
    route(RESOURCE + "/_history", get=_read("on_get_history", "Read all versions of a FHIR resource")),
    route(RESOURCE + "/_history/{version}", get=_read("on_get_version", "Read one version of a FHIR resource")),
    # Paths of older systems
    route(
        RESOURCE + "/series/{series_uid}",
        delete=_delete("on_delete_below", "Delete a series of an ImagingStudy"),
    ),
    route(
        RESOURCE + "/series/{series_uid}/instances/{instance_uid}",
        delete=_delete("on_delete_below", "Delete an instance of an ImagingStudy"),
    ),
    route(
        KIND + "/convertFHIR/{study_uid}",
        post=_write("on_post_convert", "Merge an ImagingStudy into the stored one", statuses=(200,)),
    ),
)
