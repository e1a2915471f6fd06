"""What the server says about itself keeps to the route table: OpenAPI, the page, Capabilities, the conformance
statement."""

import re
from xml.etree import ElementTree

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.http.description.conformance import conformance
from dicomweb_server.http.routes import DICOMWEB, TABLE, Place
from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS

WADL = "{http://wadl.dev.java.net/2009/02}"


def described(place: Place, prefix: str) -> set[tuple[str, str]]:
    """Method and path of every operation of a part of the table."""
    return {
        (method, ((prefix + entry.template).rstrip("/") or "/").replace(":path", ""))
        for entry in TABLE[place]
        for method in entry.operations
    }


def listed(document: dict[str, dict[str, object]]) -> set[tuple[str, str]]:
    """The same of an OpenAPI document."""
    methods = {"get", "post", "put", "patch", "delete", "options"}
    found: set[tuple[str, str]] = set()
    for path, item in document["paths"].items():
        assert isinstance(item, dict)
        found |= {(method.upper(), path) for method in item if method in methods}
    return found


class TestOpenAPI:
    def test_has_every_route_and_nothing_else(self, shared_archive: Client) -> None:
        others = described(Place.SERVER, "") | described(Place.VIEWER, "/ohif") | described(Place.FHIR, "/api/fhir")
        for prefix in ("", "/dicom-web"):
            document = shared_archive.get(prefix + "/openapi.json").json
            assert listed(document) == described(Place.DICOMWEB, prefix) | others
            assert document["servers"] == [{"url": "http://localhost"}]

    def test_follows_the_settings(self, make_archive: Archive) -> None:
        archive = make_archive(
            {
                "http.prefixes": ["/rs"],
                "viewer.enabled": False,
                "fhir.enabled": False,
                "http.public_url": "https://a.example",
            }
        )
        document = archive.get("/rs/openapi.json").json
        assert listed(document) == described(Place.DICOMWEB, "/rs") | described(Place.SERVER, "")
        assert document["servers"] == [{"url": "https://a.example"}]

    def test_is_valid(self, shared_archive: Client) -> None:
        validator = pytest.importorskip("openapi_spec_validator", reason="pip install openapi-spec-validator")
        document = shared_archive.get("/openapi.json").json
        for path, item in document["paths"].items():
            assert set(re.findall(r"\{(\w+)\}", path)) == {field["name"] for field in item.get("parameters", [])}
        validator.validate(document)

    def test_says_how_to_log_in_where_that_is_needed(self, make_archive: Archive) -> None:
        document = make_archive(LOGIN_SETTINGS).get("/openapi.json").json
        assert set(document["components"]["securitySchemes"]) >= {"bearer"}
        assert {"bearer": []} in document["paths"]["/studies"]["get"]["security"]
        assert "security" not in document["paths"]["/health"]["get"]
        open_to_all = make_archive().get("/openapi.json").json
        assert "securitySchemes" not in open_to_all["components"]
        assert "security" not in open_to_all["paths"]["/studies"]["get"]

    def test_errors_are_described_in_the_words_of_their_front_end(self, shared_archive: Client) -> None:
        document = shared_archive.get("/openapi.json").json
        for path, template, schema in (
            ("/studies/1.2/metadata", "/studies/{study_uid}/metadata", "Error"),
            ("/api/fhir/Patient/1.2", "/api/fhir/{kind}/{resource_id}", "OperationOutcome"),
        ):
            answer = shared_archive.get(path, status=404)
            described = document["paths"][template]["get"]["responses"]["default"]["content"]
            assert list(described) == [answer.content_type]
            assert described[answer.content_type]["schema"]["$ref"].endswith("/" + schema)
            assert set(answer.json) >= set(document["components"]["schemas"][schema]["required"])

    def test_page_shows_every_operation(self, shared_archive: Client) -> None:
        answer = shared_archive.get("/openapi")
        assert answer.content_type == "text/html"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert not re.search(r"""<script|(src|href)=["']?(https?:)?//""", answer.text)
        for entry in DICOMWEB:
            for operation in entry.operations.values():
                assert operation.summary in answer.text
        assert "<code>-</code> before one sorts downwards" in answer.text
        assert shared_archive.get("/", headers={"Accept": "text/html"}).status_int == 200  # where its link leads


class TestCapabilities:
    @pytest.mark.parametrize(
        ("accept", "media"),
        [
            ("application/vnd.sun.wadl+xml", "application/vnd.sun.wadl+xml"),
            ("*/*", "application/vnd.sun.wadl+xml"),
            ("application/xml", "application/xml"),
            ("application/json", "application/json"),
            ("application/vnd.oai.openapi+json, */*;q=0.1", "application/vnd.oai.openapi+json"),
        ],
    )
    def test_accept_decides(self, shared_archive: Client, accept: str, media: str) -> None:
        answer = shared_archive.options("/dicom-web/", headers={"Accept": accept}, status=200)
        assert answer.content_type == media
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"

    def test_another_type_is_not_acceptable(self, shared_archive: Client) -> None:
        assert shared_archive.options("/", headers={"Accept": "image/png"}, status=406).json["offered"]

    def test_wadl_has_the_tree_of_resources(self, shared_archive: Client) -> None:
        answer = shared_archive.options("/dicom-web", headers={"Accept": "application/vnd.sun.wadl+xml"})
        resources = ElementTree.fromstring(answer.body).find(f"{WADL}resources")  # noqa: S314  our own answer
        assert resources is not None
        assert resources.get("base") == "http://localhost/dicom-web/"
        found: set[tuple[str, str]] = set()

        def walk(resource: ElementTree.Element, path: str) -> None:
            found.update((method.get("name") or "", path or "/") for method in resource.findall(f"{WADL}method"))
            for child in resource.findall(f"{WADL}resource"):
                walk(child, f"{path}/{child.get('path')}")

        for top in resources:
            walk(top, "")
        assert found == described(Place.DICOMWEB, "")

    def test_preflights_are_no_question_for_capabilities(self, make_archive: Archive) -> None:
        archive = make_archive({"http.allowed_origins": ["https://viewer.example"]})
        headers = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
        assert archive.options("/", headers=headers).status_int == 204


class TestConformance:
    def test_names_every_operation(self) -> None:
        statement = conformance(prefixes=("/dicom-web",))
        for entry in DICOMWEB:
            for method, operation in entry.operations.items():
                assert f"| {operation.summary} | `{method} {entry.template}` |" in statement
        assert "CT Image Storage | `1.2.840.10008.5.1.4.1.1.2`" in statement
        assert "ISO_IR 192" in statement
        assert "## Security" in statement
        assert "PatientBirthDate" in statement

    def test_says_what_is_decoded_here(self) -> None:
        rows = [line.split(" | ") for line in conformance(prefixes=("",)).splitlines() if "1.2.840.10008.1.2" in line]
        can = {row[0].rpartition("(")[2].rstrip(")"): row[2:] for row in rows}
        assert can["1.2.840.10008.1.2.4.50"][0] == "yes"
        assert can["1.2.840.10008.1.2.4.102"] == ["no", "no |"]

    def test_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["conformance"]) == 0
        assert capsys.readouterr().out == conformance(prefixes=("", "/dicom-web"))
