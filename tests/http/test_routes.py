"""The route table: what every entry says, and that the application keeps to it."""

import re

import pytest

from dicomweb_server.errors import ConfigError
from dicomweb_server.http.routes import TABLE, Place
from dicomweb_server.http.table import METHODS, Operation, Route
from dicomweb_server.permissions import Permission
from dicomweb_server.settings import load
from tests.http.conftest import Client

ROUTES = [
    pytest.param(place, entry, id=f"{place}{entry.template}") for place, routes in TABLE.items() for entry in routes
]
VIEWER_PATH = "/ohif"


def path_of(place: Place, entry: Route) -> str:
    """An address that the route answers, of things that are not there."""
    prefix = {Place.SERVER: "", Place.DICOMWEB: "/dicom-web", Place.VIEWER: VIEWER_PATH, Place.FHIR: "/api/fhir"}[place]
    return prefix + re.sub(r"\{[^}]*\}", "1", entry.template)


def operations() -> list[tuple[Place, Route, str, Operation]]:
    """Every operation with its route and method."""
    return [
        (place, entry, method, operation)
        for place, routes in TABLE.items()
        for entry in routes
        for method, operation in entry.operations.items()
    ]


@pytest.mark.parametrize(("place", "entry"), ROUTES)
def test_methods_are_those_of_the_table(shared_archive: Client, place: Place, entry: Route) -> None:
    path = path_of(place, entry)
    allow = shared_archive.options(path, status="2*").headers["Allow"]
    assert set(allow.split(", ")) == set(entry.operations) | {"OPTIONS"} | (
        {"HEAD"} if "GET" in entry.operations else set()
    )
    for method in set(METHODS) - set(entry.operations):
        refused = shared_archive.request(path, method=method, status=405)
        assert refused.headers["Allow"] == allow
        assert refused.json.get("status", refused.json.get("resourceType")) in (405, "OperationOutcome")


def test_every_operation_has_a_summary_and_a_permission() -> None:
    for _, entry, method, operation in operations():
        assert method in (*METHODS, "OPTIONS"), entry.template
        assert operation.summary[0].isupper(), entry.template
        assert not operation.summary.endswith("."), entry.template
        assert isinstance(operation.permission, Permission), entry.template


def test_only_what_shows_no_images_is_public() -> None:
    public = {
        (place, entry.template)
        for place, entry, _, op in operations()
        if op.permission is Permission.PUBLIC and not op.responder.startswith("login.")
    }
    assert public == {
        (Place.SERVER, "/health"),
        (Place.SERVER, "/health/live"),
        (Place.SERVER, "/health/ready"),
        (Place.SERVER, "/register"),
        (Place.DICOMWEB, "/"),
        (Place.DICOMWEB, "/openapi"),
        (Place.DICOMWEB, "/openapi.json"),
        (Place.FHIR, "/metadata"),
        (Place.VIEWER, "/"),
        (Place.VIEWER, "/{path:path}"),
    }


def test_nothing_is_mounted_twice() -> None:
    seen = [(place, entry.template) for place, routes in TABLE.items() for entry in routes]
    assert len(seen) == len(set(seen))


def test_wado_uri_at_the_root_needs_the_permission_of_wado_uri(archive: Client) -> None:
    """It is routed like any other address, not answered by the home page, which is public."""
    for root in ("/", "/dicom-web", "/dicom-web/"):
        answer = archive.get(f"{root}?requestType=WADO&objectUID=1.2.3", status=404)
        assert "1.2.3" not in answer.text
        assert archive.get(f"{root}?limit=1").json["server"] == "dicomweb-server"


@pytest.mark.parametrize("key", ["viewer.path", "fhir.base"])
def test_neither_viewer_nor_fhir_can_stand_where_a_route_is(key: str) -> None:
    for place in (Place.SERVER, Place.DICOMWEB):
        for template in {entry.template.partition("/{")[0] for entry in TABLE[place]} - {"", "/"}:
            with pytest.raises(ConfigError, match=key):
                load(overrides={key: template}, environ={})
