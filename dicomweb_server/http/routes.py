"""Every route, in one table. To add one: write its resource, give it a name in `Resources`, add its entry here.

The application mounts from this table, the guard takes permissions from it, and what clients and people read about the
server (OpenAPI, Capabilities, the conformance statement) is made from it. `{study_uid}` and its like match any text: a
malformed UID is answered with 400 by the resource, an unknown one with 404.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from dicomweb_server.http import parameters as query
from dicomweb_server.http.fhir_routes import FHIR
from dicomweb_server.http.table import Operation, Parameter, Route, route
from dicomweb_server.permissions import Permission

STUDY = "/studies/{study_uid}"
SERIES = STUDY + "/series/{series_uid}"
INSTANCE = SERIES + "/instances/{instance_uid}"
FRAMES = INSTANCE + "/frames/{numbers}"

JSON, DICOM_JSON, DICOM_XML = "application/json", "application/dicom+json", "application/dicom+xml"
DICOM, OCTETS, ZIP, HTML = "application/dicom", "application/octet-stream", "application/zip", "text/html"
MULTIPART_DICOM = 'multipart/related; type="application/dicom"'
MULTIPART_OCTETS = 'multipart/related; type="application/octet-stream"'
MULTIPART_JSON = 'multipart/related; type="application/dicom+json"'
MULTIPART_XML = 'multipart/related; type="application/dicom+xml"'
WADL, OPENAPI = "application/vnd.sun.wadl+xml", "application/vnd.oai.openapi+json"
_FIELDS = (JSON, "application/x-www-form-urlencoded", "multipart/form-data")
PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
RENDERED = (*PICTURES, "video/mpeg", "video/mp4", "application/pdf", HTML, "text/plain", "text/xml")
PIXELS = (
    MULTIPART_OCTETS,
    OCTETS,
    "image/jpeg",
    "image/jls",
    "image/jp2",
    "image/jphc",
    "image/jxl",
    "image/dicom-rle",
)


@dataclass(frozen=True, slots=True)
class Resources:
    """One of each, already connected to its services."""

    search: Any
    stow: Any
    objects: Any
    metadata: Any
    frames: Any
    bulkdata: Any
    rendered: Any
    thumbnail: Any
    wado_uri: Any
    health: Any
    home: Any
    description: Any
    changes: Any
    metrics: Any
    statistics: Any
    link_folder: Any
    recycle: Any
    edit: Any
    viewer: Any
    fhir: Any
    login: Any
    users: Any
    keys: Any
    shares: Any
    audit: Any


class Place(StrEnum):
    """Where routes are mounted: at the root of the server, below each DICOMweb prefix, below the paths of the
    viewer and of FHIR."""

    SERVER = "server"
    DICOMWEB = "dicomweb"
    VIEWER = "viewer"
    FHIR = "fhir"


def _search(responder: str, summary: str) -> Operation:
    return Operation(
        responder=f"search.{responder}",
        summary=summary,
        permission=Permission.SEARCH,
        query=query.SEARCH,
        gives=(DICOM_JSON, MULTIPART_XML, "text/csv"),
        statuses=(200, 204),
    )


def _store(summary: str) -> Operation:
    return Operation(
        responder="stow.on_post",
        summary=summary,
        permission=Permission.STORE,
        query=query.ACCEPT,
        takes=(MULTIPART_DICOM, MULTIPART_JSON, MULTIPART_XML, "multipart/form-data", DICOM, OCTETS),
        gives=(DICOM_JSON, DICOM_XML),
        statuses=(200, 202),
    )


def _retrieve(
    responder: str, summary: str, gives: tuple[str, ...], parameters: tuple[Parameter, ...] = query.ACCEPT
) -> Operation:
    return Operation(
        responder=responder, summary=summary, permission=Permission.RETRIEVE, query=parameters, gives=gives
    )


def _delete(summary: str) -> Operation:
    return Operation(responder="objects.on_delete", summary=summary, permission=Permission.DELETE, statuses=(204,))


def _reject(what: str) -> Operation:
    return Operation(
        responder="objects.on_post_reject",
        summary=f"Reject {what} for a reason, such as 113001^DCM, as OHIF does: it is removed",
        permission=Permission.DELETE,
        statuses=(204,),
    )


def _edit(responder: str, summary: str, parameters: tuple[Parameter, ...] = ()) -> Operation:
    return Operation(
        responder=f"edit.{responder}",
        summary=summary,
        permission=Permission.EDIT,
        query=parameters,
        takes=(JSON, DICOM_JSON),
        gives=(JSON,),
    )


def _public(responder: str, summary: str, gives: tuple[str, ...], takes: tuple[str, ...] = ()) -> Operation:
    return Operation(responder=responder, summary=summary, permission=Permission.PUBLIC, gives=gives, takes=takes)


def _admin(responder: str, summary: str, takes: tuple[str, ...] = (), statuses: tuple[int, ...] = (200,)) -> Operation:
    return Operation(
        responder=responder,
        summary=summary,
        permission=Permission.ADMIN,
        takes=takes,
        gives=(JSON,),
        statuses=statuses,
    )


def _gone(resource: str, what: str) -> Operation:
    return _admin(f"{resource}.on_delete", f"Remove the {what}", statuses=(204,))


def _share(responder: str, summary: str, statuses: tuple[int, ...], takes: tuple[str, ...] = ()) -> Operation:
    return Operation(
        responder=f"shares.{responder}",
        summary=summary,
        permission=Permission.SHARE,
        takes=takes,
        gives=(JSON,),
        statuses=statuses,
    )


def _statistics(summary: str) -> Operation:
    return Operation(responder="statistics.on_get", summary=summary, permission=Permission.SEARCH, gives=(JSON,))


_WADO_URI = _retrieve(
    "wado_uri.on_get", "Retrieve one instance or picture of it (WADO-URI)", (DICOM, *RENDERED), query.WADO_URI
)

SERVER: tuple[Route, ...] = (
    route("/health", get=_public("health.on_get_ready", "Whether the server can serve", (JSON,))),
    route("/health/ready", get=_public("health.on_get_ready", "Whether the server can serve", (JSON,))),
    route("/health/live", get=_public("health.on_get_live", "Whether the process answers", (JSON,))),
    route(
        "/metrics",
        get=Operation(
            responder="metrics.on_get",
            summary="Figures for Prometheus",
            permission=Permission.METRICS,
            gives=("text/plain", "application/openmetrics-text"),
        ),
    ),
    route("/api/dicom/wado", get=_WADO_URI),
    # Logging in and out; /loging is how an older server spelled it
    route(
        "/login",
        get=_public("login.on_get", "The page to log in", (HTML,)),
        post=_public("login.on_post", "Log in with a name and a password", (JSON,), _FIELDS),
    ),
    route("/login/callback", get=_public("login.on_get_callback", "Back from the login of the site", (HTML,))),
    route("/login/refresh", post=_public("login.on_post_refresh", "New tokens for a refresh token", (JSON,), _FIELDS)),
    route("/login/token", post=_public("login.on_post_check", "Whether a token is good", (JSON,))),
    route("/loging/getAccessToken", post=_public("login.on_post_legacy_token", "Log in for a token", (JSON,), _FIELDS)),
    route(
        "/logout",
        get=_public("login.on_logout", "Log out", (JSON, HTML)),
        post=_public("login.on_logout", "Log out", (JSON, HTML)),
    ),
    route("/checkIsLogin", get=_public("login.on_get_is_login", "Whether anybody is logged in", (JSON,))),
    route("/api/profile", get=_public("login.on_get_profile", "Who is logged in, and what they may do", (JSON,))),
    route("/share/{token}", get=_public("login.on_get_share", "Open a share link", (HTML,))),
    route(
        "/audit",
        get=Operation(
            responder="audit.on_get",
            summary="Read the audit trail",
            permission=Permission.AUDIT,
            query=query.AUDIT,
            gives=(JSON, "application/fhir+json"),
        ),
    ),
    # Users and API keys
    route(
        "/api/users",
        get=_admin("users.on_get", "List the users"),
        post=_admin("users.on_post", "Add a user", _FIELDS, (201,)),
    ),
    route("/api/users/{name}", put=_admin("users.on_put", "Change a user", _FIELDS), delete=_gone("users", "user")),
    route("/register", post=_public("users.on_post_register", "Ask for an account", (JSON,), _FIELDS)),
    route(
        "/api/keys",
        get=_admin("keys.on_get", "List the API keys"),
        post=_admin("keys.on_post", "Make an API key", _FIELDS, (201,)),
    ),
    route("/api/keys/{key_id}", delete=_gone("keys", "API key")),
)

# PS3.18 10.1
DICOMWEB: tuple[Route, ...] = (
    route(
        "/",
        get=_public("home.on_get", "What is here", (JSON, HTML)),
        options=_public("description.on_options", "Retrieve capabilities", (WADL, OPENAPI, JSON)),
    ),
    route("/openapi.json", get=_public("description.on_get_openapi", "Every address, as OpenAPI", (JSON,))),
    route("/openapi", get=_public("description.on_get_page", "Every address, as a page", (HTML,))),
    # Search and store
    route("/patients", get=_search("on_get_patients", "Search for patients")),
    route("/studies", get=_search("on_get_studies", "Search for studies"), post=_store("Store instances")),
    route("/series", get=_search("on_get_series", "Search for series")),
    route("/instances", get=_search("on_get_instances", "Search for instances")),
    route(STUDY + "/series", get=_search("on_get_series", "Search for series of a study")),
    route(STUDY + "/instances", get=_search("on_get_instances", "Search for instances of a study")),
    route(SERIES + "/instances", get=_search("on_get_instances", "Search for instances of a series")),
    # Retrieve and delete
    route(
        STUDY,
        get=_retrieve("objects.on_get", "Retrieve a study", (MULTIPART_DICOM, MULTIPART_OCTETS, ZIP), query.ARCHIVE),
        post=_store("Store instances of one study"),
        patch=_edit(
            "on_patch", "Edit attributes of patient and study, with a reason; versions before are kept", query.EDIT
        ),
        delete=_delete("Delete a study"),
    ),
    route(
        SERIES,
        get=_retrieve("objects.on_get", "Retrieve a series", (MULTIPART_DICOM, MULTIPART_OCTETS, ZIP), query.ARCHIVE),
        patch=_edit("on_patch", "Edit attributes of a series, with a reason; versions before are kept", query.EDIT),
        delete=_delete("Delete a series"),
    ),
    route(
        INSTANCE,
        get=_retrieve(
            "objects.on_get",
            "Retrieve an instance",
            (DICOM, MULTIPART_DICOM, MULTIPART_OCTETS, OCTETS, ZIP),
            query.ARCHIVE,
        ),
        delete=_delete("Delete an instance"),
    ),
    route(STUDY + "/reject/{code}", post=_reject("a study")),
    route(SERIES + "/reject/{code}", post=_reject("a series")),
    route(INSTANCE + "/reject/{code}", post=_reject("an instance")),
    *(
        entry
        for entity, name in ((STUDY, "a study"), (SERIES, "a series"), (INSTANCE, "an instance"))
        for entry in (
            route(
                entity + "/metadata",
                get=_retrieve("metadata.on_get", f"Retrieve the metadata of {name}", (DICOM_JSON, MULTIPART_XML)),
            ),
            route(
                entity + "/bulkdata",
                get=_retrieve("bulkdata.on_get_all", f"Retrieve all bulk data of {name}", (MULTIPART_OCTETS,)),
            ),
            route(
                entity + "/pixeldata",
                get=_retrieve("bulkdata.on_get_pixels", f"Retrieve the pixel data of {name}", (MULTIPART_OCTETS,)),
            ),
            route(
                entity + "/rendered",
                get=_retrieve("rendered.on_get", f"Retrieve {name}, rendered", RENDERED, query.RENDERED),
            ),
            route(
                entity + "/thumbnail",
                get=_retrieve("thumbnail.on_get", f"Retrieve a small picture of {name}", PICTURES, query.THUMBNAIL),
            ),
        )
    ),
    route(
        INSTANCE + "/bulkdata/{key:path}",
        get=_retrieve("bulkdata.on_get_element", "Retrieve one bulk data value", (OCTETS, MULTIPART_OCTETS)),
    ),
    route(INSTANCE + "/frames", get=_retrieve("frames.on_get_all", "Retrieve all frames", PIXELS)),
    route(FRAMES, get=_retrieve("frames.on_get_list", "Retrieve some frames", PIXELS)),
    route(
        FRAMES + "/rendered",
        get=_retrieve("rendered.on_get_frames", "Retrieve some frames, rendered", RENDERED, query.RENDERED),
    ),
    route(
        FRAMES + "/thumbnail",
        get=_retrieve("thumbnail.on_get_frame", "Retrieve a small picture of a frame", PICTURES, query.THUMBNAIL),
    ),
    route("/wado", get=_WADO_URI),
    route("/statistics", get=_statistics("How much is stored, and of what")),
    route(STUDY + "/statistics", get=_statistics("How much is stored of a study")),
    route(
        "/linkFolder",
        post=Operation(
            responder="link_folder.on_post",
            summary="Index the files of a folder of the server where they are",
            permission=Permission.ADMIN,
            query=query.LINK_FOLDER,
            gives=(JSON,),
        ),
    ),
    # Edits
    route(
        STUDY + "/edits",
        get=Operation(
            responder="edit.on_get",
            summary="The edits of a study: when, by whom, why",
            permission=Permission.EDIT,
            gives=(JSON,),
        ),
    ),
    route("/patients/merge", post=_edit("on_post_merge", "Make all studies of one patient those of another")),
    route(SERIES + "/move", post=_edit("on_post_move", "Move a series to another study")),
    # The recycle bin
    route(
        "/bin",
        get=Operation(
            responder="recycle.on_get",
            summary="What was removed and can be restored",
            permission=Permission.RESTORE,
            query=query.BIN,
            gives=(JSON,),
        ),
    ),
    route(
        "/bin/restore",
        post=Operation(
            responder="recycle.on_post_restore",
            summary="Restore what was removed (replaced: the version before): study_uid, series_uid or instance_uid",
            permission=Permission.RESTORE,
            takes=(JSON, "application/x-www-form-urlencoded"),
            gives=(JSON,),
        ),
    ),
    route(
        "/bin/purge",
        post=Operation(
            responder="recycle.on_post_purge",
            summary="Delete for good what was removed or replaced: study_uid, series_uid, instance_uid, before, or all",
            permission=Permission.ADMIN,
            takes=(JSON, "application/x-www-form-urlencoded"),
            gives=(JSON,),
        ),
    ),
    # Changes
    route(
        "/changes",
        get=Operation(
            responder="changes.on_get",
            summary="What was stored and removed",
            permission=Permission.SEARCH,
            query=query.CHANGES,
            gives=(JSON,),
        ),
    ),
    route(
        "/changes/events",
        get=Operation(
            responder="changes.on_get_events",
            summary="What is stored and removed, as server-sent events",
            permission=Permission.SEARCH,
            query=query.EVENTS,
            gives=("text/event-stream",),
        ),
    ),
    # Share links
    route(
        STUDY + "/shares",
        get=_share("on_get", "List the share links to a study", (200,)),
        post=_share("on_post", "Make a share link to a study", (201,), _FIELDS),
    ),
    route(STUDY + "/shares/{share_id}", delete=_share("on_delete", "Revoke a share link", (204,))),
)

VIEWER: tuple[Route, ...] = (
    route("/", get=_public("viewer.on_get", "The viewer", (HTML,))),
    route("/{path:path}", get=_public("viewer.on_get", "Files of the viewer", (HTML, "text/javascript", OCTETS))),
)

TABLE = MappingProxyType({Place.SERVER: SERVER, Place.DICOMWEB: DICOMWEB, Place.VIEWER: VIEWER, Place.FHIR: FHIR})
