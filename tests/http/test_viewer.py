"""The hosted viewer: its files and headers, the page for every path, the configuration for every address."""

import base64
import gzip
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from webob import Request  # type: ignore[import-untyped]

from dicomweb_server.errors import ConfigError
from dicomweb_server.settings import load
from dicomweb_server.viewer.installed import install
from tests.http.conftest import Archive, Client
from tests.viewer_package import SCRIPT, ignore, package

BUNDLE = "/ohif/app.bundle.0123456789abcdef.js"
PAGE = {"Accept": "text/html"}
Hosting = Callable[..., Client]


@pytest.fixture
def hosting(make_archive: Archive, tmp_path: Path) -> Hosting:
    """A function that makes an archive with the viewer, and with settings of its own."""

    def make(**overrides: Any) -> Client:
        directory = tmp_path / "viewer"
        install(package(tmp_path / "p.tgz"), directory, told=ignore)
        named = {f"viewer.{key}" if "__" not in key else key.replace("__", "."): v for key, v in overrides.items()}
        return make_archive({"viewer.directory": str(directory), **named})

    return make


def config_of(client: Client, **options: Any) -> dict[str, Any]:
    text = client.get("/ohif/app-config.js", **options).text
    config: dict[str, Any] = orjson.loads(text[text.index("{") : text.index(";\nfor")])
    return config


class TestFiles:
    def test_types_and_caching(self, hosting: Hosting) -> None:
        client = hosting()
        script = client.get(BUNDLE)
        assert script.content_type == "text/javascript"
        assert script.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        wasm = client.get("/ohif/0123456789abcdef.wasm")
        assert wasm.content_type == "application/wasm"
        assert wasm.body.startswith(b"\0asm")
        assert client.get("/ohif/app.bundle.css").headers["Cache-Control"] == "no-cache"

    def test_gzip_where_the_client_takes_it(self, hosting: Hosting) -> None:
        client = hosting()
        request = Request.blank(BUNDLE, headers={"Accept-Encoding": "gzip"})
        plain, packed = client.get(BUNDLE), request.get_response(client.app)  # WebTest would unpack it
        assert "Content-Encoding" not in plain.headers
        assert packed.headers["Content-Encoding"] == "gzip"
        assert len(packed.body) == int(packed.headers["Content-Length"]) < len(SCRIPT)
        assert gzip.decompress(packed.body) == plain.body
        assert plain.headers["ETag"] != packed.headers["ETag"]
        assert all("Accept-Encoding" in answer.headers["Vary"] for answer in (plain, packed))

    def test_asked_again_it_is_304(self, hosting: Hosting) -> None:
        client = hosting()
        for path in (BUNDLE, "/ohif/", "/ohif/app-config.js"):
            etag = client.get(path).headers["ETag"]
            again = client.get(path, headers={"If-None-Match": etag}, status=304)
            assert again.body == b""

    @pytest.mark.parametrize(
        "path",
        [
            "/ohif/none.js",
            "/ohif/../index.sqlite",
            "/ohif/%2e%2e/ohif-3.13.2/LICENSE",
            "/ohif//etc/passwd",
            "/ohif/a\\b",
        ],
    )
    def test_nothing_else_is_served(self, hosting: Hosting, path: str) -> None:
        assert hosting().get(path, headers={"Accept": "*/*"}, status=404).json["error"] == "Not Found"

    def test_a_file_that_came_later_is_not_served(self, hosting: Hosting, tmp_path: Path) -> None:
        client = hosting()
        (tmp_path / "viewer" / "ohif-3.13.2" / "files" / "late.js").write_text("late", encoding="utf-8")
        client.get("/ohif/late.js", status=404)

    def test_nothing_can_be_written(self, hosting: Hosting) -> None:
        hosting().put(BUNDLE, b"x", status=405)


class TestPage:
    @pytest.mark.parametrize("path", ["/ohif", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2.3", "/ohif/a/b/1.2.3"])
    def test_every_other_path_is_the_page(self, hosting: Hosting, path: str) -> None:
        answer = hosting().get(path, headers=PAGE)
        assert answer.content_type == "text/html"
        assert 'window.PUBLIC_URL="/ohif/"' in answer.text

    def test_the_policy_allows_its_scripts_and_no_other_host(self, hosting: Hosting) -> None:
        answer = hosting().get("/ohif/", headers=PAGE)
        policy = answer.headers["Content-Security-Policy"]
        inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
        assert inline
        assert policy.count("'sha256-") == len(inline)
        for script in inline:
            assert base64.b64encode(sha256(script.encode()).digest()).decode() in policy
        assert "http" not in policy
        assert "script-src 'self'" in policy
        assert "'unsafe-inline'" not in policy.partition("style-src")[0]

    def test_isolation_is_a_setting(self, hosting: Hosting) -> None:
        assert "Cross-Origin-Opener-Policy" not in hosting().get("/ohif/").headers
        for path in ("/ohif/", BUNDLE):
            headers = hosting(cross_origin_isolation=True).get(path).headers
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


class TestConfiguration:
    def test_it_names_this_server(self, hosting: Hosting) -> None:
        config = config_of(hosting())
        source = config["dataSources"][0]["configuration"]
        assert config["routerBasename"] == "/ohif"
        assert (source["qidoRoot"], source["wadoRoot"], source["wadoUriRoot"]) == ("/dicom-web", "/dicom-web", "/wado")
        assert source["imageRendering"] == "wadors"
        assert source["omitQuotationForMultipartRequest"] is True

    def test_it_follows_a_proxy_with_a_prefix(self, hosting: Hosting) -> None:
        client = hosting()
        headers = {"X-Forwarded-Prefix": "/pacs", "X-Forwarded-Host": "localhost", **PAGE}
        proxied = {"headers": headers, "extra_environ": {"REMOTE_ADDR": "127.0.0.1"}}
        config = config_of(client, **proxied)
        assert config["routerBasename"] == "/pacs/ohif"
        assert config["dataSources"][0]["configuration"]["qidoRoot"] == "/pacs/dicom-web"
        assert 'src="/pacs/ohif/app-config.js"' in client.get("/ohif/", **proxied).text

    def test_it_follows_the_settings(self, hosting: Hosting) -> None:
        client = hosting(image_rendering="wadouri", http__prefixes=["/rs"], http__public_url="http://localhost/x")
        source = config_of(client)["dataSources"][0]["configuration"]
        assert source["imageRendering"] == "wadouri"
        assert source["wadoRoot"] == "/x/rs"


class TestSettings:
    def test_not_installed(self, archive: Client) -> None:
        assert "viewer install" in archive.get("/ohif/", status=404).json["reason"]
        assert all("ohif" not in url for url in archive.get("/").json["resources"])

    def test_installed_it_is_linked_to(self, hosting: Hosting) -> None:
        client = hosting()
        assert "http://localhost/ohif/" in client.get("/").json["resources"][0]
        assert "/ohif/'" in client.get("/", headers=PAGE).text

    def test_switched_off(self, hosting: Hosting) -> None:
        client = hosting(enabled=False)
        client.get("/ohif/", status=404)
        assert all("ohif" not in url for url in client.get("/").json["resources"])

    def test_another_path(self, hosting: Hosting) -> None:
        answer = hosting(path="/look/here").get("/look/here/viewer", headers=PAGE)
        assert 'window.PUBLIC_URL="/look/here/"' in answer.text

    @pytest.mark.parametrize("path", ["/studies", "/dicom-web", "/health/x", "/dicom-web/studies/a", "/wado"])
    def test_a_path_that_is_taken_stops_the_start(self, path: str) -> None:
        with pytest.raises(ConfigError, match="choose another"):
            load(overrides={"viewer.path": path}, environ={})
