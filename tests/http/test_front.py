"""The front door: addresses, origins, errors, health, the access log."""

import inspect
import logging
import re

import pytest

from dicomweb_server import errors
from dicomweb_server.http.errors import STATUS
from dicomweb_server.services.search import Search
from tests.http.conftest import Archive, Client
from tests.samples import RELATED, envelope, instance, part10, url


def retrieve_url(archive: Client, path: str = "/studies", **environ: str) -> str:
    answer = archive.get(path, extra_environ=environ)
    return str(answer.json[0]["00081190"]["Value"][0]).rpartition("/studies/")[0]


class TestAddress:
    @pytest.mark.parametrize(
        ("environ", "base"),
        [
            ({"HTTP_HOST": "localhost:8080"}, "http://localhost:8080"),
            ({"HTTP_HOST": "127.0.0.1", "SERVER_PORT": "5985", "REMOTE_ADDR": "10.0.0.1"}, "http://127.0.0.1:5985"),
            ({"HTTP_HOST": "localhost", "SERVER_PORT": "5985"}, "http://localhost:5985"),
            ({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}, "https://localhost"),
            (
                {
                    "REMOTE_ADDR": "127.0.0.1",
                    "HTTP_X_FORWARDED_PROTO": "https",
                    "HTTP_X_FORWARDED_HOST": "pacs.example",
                    "HTTP_X_FORWARDED_PORT": "8443",
                    "HTTP_X_FORWARDED_PREFIX": "/imaging",
                },
                "https://pacs.example:8443/imaging",
            ),
            ({"REMOTE_ADDR": "127.0.0.1", "HTTP_FORWARDED": "proto=https;host=pacs.example"}, "https://pacs.example"),
            ({"REMOTE_ADDR": "10.0.0.9", "HTTP_X_FORWARDED_HOST": "evil.example"}, "http://localhost"),
            ({"SCRIPT_NAME": "/mounted"}, "http://localhost/mounted"),
        ],
    )
    def test_urls_follow_the_request(self, make_archive: Archive, environ: dict[str, str], base: str) -> None:
        archive = make_archive({"http.allowed_hosts": ["localhost", "127.0.0.1", "pacs.example"]})
        archive.store(instance())
        assert retrieve_url(archive, **{"SERVER_PORT": "80", **environ}) == base
        assert retrieve_url(archive, "/dicom-web/studies", **{"SERVER_PORT": "80", **environ}) == base + "/dicom-web"

    def test_public_url_wins(self, make_archive: Archive) -> None:
        archive = make_archive({"http.public_url": "https://images.example/x"})
        archive.store(instance())
        assert retrieve_url(archive) == "https://images.example/x"

    def test_prefixes_are_settings(self, make_archive: Archive) -> None:
        archive = make_archive({"http.prefixes": ["/rs"]})
        archive.get("/rs/studies")
        archive.get("/studies", status=404)

    @pytest.mark.parametrize("host", ["evil.example", "a b", "localhost:99999999", "localhost/x"])
    def test_foreign_hosts_are_refused(self, archive: Client, host: str) -> None:
        assert archive.get("/studies", extra_environ={"HTTP_HOST": host}, status=400).json["reason"]


class TestOrigin:
    def test_no_foreign_origin_by_default(self, archive: Client) -> None:
        answer = archive.get("/studies", headers={"Origin": "https://viewer.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]

    def test_listed_origin_also_on_errors(self, make_archive: Archive) -> None:
        archive = make_archive({"http.allowed_origins": ["https://viewer.example"]})
        for path, status in (("/studies", 200), ("/studies/1.2.3", 404), ("/nowhere", 404), ("/studies/x", 400)):
            answer = archive.get(path, headers={"Origin": "https://viewer.example"}, status=status)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://viewer.example"
            assert "ETag" in answer.headers["Access-Control-Expose-Headers"]

    def test_preflight(self, make_archive: Archive) -> None:
        archive = make_archive({"http.allowed_origins": ["https://viewer.example"]})
        headers = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
        answer = archive.options("/studies/1.2.3/metadata", headers=headers)
        assert answer.status_int == 204
        assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
        assert "Range" in answer.headers["Access-Control-Allow-Headers"]

    @pytest.mark.parametrize(
        "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
    )
    def test_foreign_writes_are_refused(self, archive: Client, headers: dict[str, str]) -> None:
        ds = instance()
        body = envelope([part10(ds)])
        archive.post("/studies", body, headers={"Content-Type": RELATED, **headers}, status=403)
        archive.store(ds)
        archive.delete(url(ds), headers=headers, status=403)
        archive.get("/studies", headers=headers)

    def test_own_origin_may_write(self, archive: Client) -> None:
        headers = {"Content-Type": RELATED, "Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
        archive.post("/studies", envelope([part10(instance())]), headers=headers)


class TestErrors:
    def test_every_error_has_a_status(self) -> None:
        tree = [
            kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DicomwebError)
        ]
        assert set(tree) - {errors.DicomwebError} == set(STATUS)

    def test_one_shape(self, archive: Client) -> None:
        for path, status in (("/studies/x", 400), ("/nowhere", 404), ("/studies/1.2/series/3/x", 404)):
            found = archive.get(path, status=status).json
            assert found.keys() == {"status", "error", "reason", "request_id"}
        assert archive.put("/studies", b"", status=405).json["error"] == "Method Not Allowed"

    def test_page_for_a_browser(self, archive: Client) -> None:
        answer = archive.get("/studies/%3Cscript%3E", headers={"Accept": "text/html,*/*;q=0.8"}, status=400)
        assert answer.content_type == "text/html"
        assert "<script>" not in answer.text

    def test_unforeseen_errors_tell_nothing(self, archive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(Search, "plan", broken)
        answer = archive.get("/studies", status=500)
        assert "secret" not in answer.text
        assert answer.json["request_id"] == answer.headers["X-Request-Id"]


def test_health(archive: Client) -> None:
    assert archive.get("/health/live").json["status"] == "live"
    ready = archive.get("/health").json
    assert ready["status"] == "ready"
    assert ready["storage"]["ready"]
    assert ready["blobs"]["ready"]


def test_home(archive: Client) -> None:
    assert "http://localhost/studies" in archive.get("/").json["resources"]
    page = archive.get("/", headers={"Accept": "text/html"})
    assert "dicomweb-server" in page.text
    assert "connect-src 'self'" in page.headers["Content-Security-Policy"]
    assert "data-base='/dicom-web'" in archive.get("/dicom-web/", headers={"Accept": "text/html"}).text
    assert not re.search(r"""(src|href)=["']?(https?:)?//(?!localhost)""", page.text)


def test_log_names_keys_not_values(archive: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dicomweb_server.access"):
        archive.get("/studies?PatientName=Secret&StudyInstanceUID=1.2.3")
    assert "PatientName,StudyInstanceUID" in caplog.text
    assert "/studies" in caplog.text
    assert "Secret" not in caplog.text
    assert "1.2.3" not in caplog.text


def test_trailing_slash(archive: Client) -> None:
    assert archive.get("/studies/").json == []
