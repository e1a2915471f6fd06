"""`viewer install`: what is unpacked, what is refused, which registry is asked; a broken install changes nothing."""

import base64
import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.errors import BadRequest, ConfigError, TooLarge
from dicomweb_server.viewer import registry, unpack
from dicomweb_server.viewer.installed import find, install, remove
from dicomweb_server.viewer.rewrite import page, rewritten
from tests.viewer_package import FILES, INDEX, SCRIPT, ignore, package


class TestUnpacking:
    def test_only_what_is_served_is_unpacked(self, tmp_path: Path) -> None:
        viewer = install(package(tmp_path / "p.tgz"), tmp_path / "viewer", told=ignore)
        assert viewer.version == "3.13.2"
        assert set(viewer.assets()) == {
            "app.bundle.0123456789abcdef.js",
            "app.bundle.css",
            "0123456789abcdef.wasm",
            "manifest.json",
            "assets/favicon.ico",
        }
        assert (viewer.folder / "LICENSE").read_bytes() == b"MIT"
        assert [path.name for path in (tmp_path / "viewer").iterdir()] == ["ohif-3.13.2"]

    def test_texts_are_compressed_once(self, tmp_path: Path) -> None:
        assets = install(package(tmp_path / "p.tgz"), tmp_path / "viewer", told=ignore).assets()
        script = assets["app.bundle.0123456789abcdef.js"]
        assert script.packed is not None
        assert gzip.decompress(script.packed.read_bytes()) == script.file.read_bytes()
        assert script.packed_bytes < script.size_bytes
        assert assets["assets/favicon.ico"].packed is None

    def test_names_with_a_hash_never_change(self, tmp_path: Path) -> None:
        assets = install(package(tmp_path / "p.tgz"), tmp_path / "viewer", told=ignore).assets()
        assert {name for name, asset in assets.items() if asset.immutable} == {
            "app.bundle.0123456789abcdef.js",
            "0123456789abcdef.wasm",
        }

    @pytest.mark.parametrize(
        "name", ["dist/../../evil.js", "dist//evil.js", "dist/.hidden", "dist/a\\..\\b.js", "dist/é.js"]
    )
    def test_an_unsafe_name_stops_the_install(self, tmp_path: Path, name: str) -> None:
        bad = package(tmp_path / "p.tgz", {**FILES, name: b"x"})
        with pytest.raises(BadRequest, match="not safe"):
            install(bad, tmp_path / "viewer", told=ignore)
        assert list((tmp_path / "viewer").iterdir()) == []
        assert not (tmp_path / "evil.js").exists()

    def test_links_are_not_unpacked(self, tmp_path: Path) -> None:
        bad = package(tmp_path / "p.tgz", links={"dist/passwd.js": "/etc/passwd", "dist/up": "../.."})
        assert not {"passwd.js", "up"} & install(bad, tmp_path / "viewer", told=ignore).assets().keys()

    @pytest.mark.parametrize(
        ("limit", "value"), [("MAX_FILES", 3), ("MAX_FILE_BYTES", 1000), ("MAX_TOTAL_BYTES", 3000)]
    )
    def test_size_and_number_are_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
    ) -> None:
        monkeypatch.setattr(unpack, limit, value)
        with pytest.raises(TooLarge):
            install(package(tmp_path / "p.tgz"), tmp_path / "viewer", told=ignore)
        assert find(tmp_path / "viewer") is None

    @pytest.mark.parametrize(
        "files",
        [
            {},
            {name: data for name, data in FILES.items() if name != "dist/index.html"},
            {**FILES, "package.json": b'{"name": "left-pad", "version": "1.0.0"}'},
            {**FILES, "package.json": b'{"name": "@ohif/app", "version": "../../x"}'},
            {**FILES, "package.json": b"no json"},
            {**FILES, "dist/index.html": b"<html>another layout</html>"},
        ],
    )
    def test_another_package_is_refused(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        with pytest.raises(BadRequest):
            install(package(tmp_path / "p.tgz", files), tmp_path / "viewer", told=ignore)
        assert find(tmp_path / "viewer") is None

    @pytest.mark.parametrize("cut", [0, 10, 400])
    def test_what_is_no_whole_package_is_refused_and_the_old_viewer_stays(self, tmp_path: Path, cut: int) -> None:
        good = package(tmp_path / "p.tgz")
        install(good, tmp_path / "viewer", told=ignore)
        bad = tmp_path / "cut.tgz"
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(BadRequest):
            install(bad, tmp_path / "viewer", told=ignore)
        viewer = find(tmp_path / "viewer")
        assert viewer is not None
        assert viewer.assets()

    def test_a_new_version_takes_the_place_of_the_old(self, tmp_path: Path) -> None:
        install(package(tmp_path / "p.tgz"), tmp_path / "viewer", told=ignore)
        newer = {**FILES, "package.json": b'{"name": "@ohif/app", "version": "3.14.0-beta.1"}'}
        install(package(tmp_path / "q.tgz", newer), tmp_path / "viewer", told=ignore)
        assert [path.name for path in (tmp_path / "viewer").iterdir()] == ["ohif-3.14.0-beta.1"]
        assert remove(tmp_path / "viewer") == ["3.14.0-beta.1"]
        assert find(tmp_path / "viewer") is None


class TestRewriting:
    def test_scripts_find_their_neighbours_by_themselves(self) -> None:
        text = rewritten("app.js", SCRIPT + b"f.browserImportFunction('/dicom-microscopy-viewer/x.js')").decode()
        assert '= "/"' not in text
        assert "self.PUBLIC_URL || self.location.pathname" in text
        assert "browserImportFunction(window.PUBLIC_URL+'dicom-microscopy-viewer/x.js')" in text

    def test_the_page_holds_its_base(self) -> None:
        text = page(rewritten("index.html", INDEX).decode(), "/pacs/ohif/")
        assert 'window.PUBLIC_URL="/pacs/ohif/"' in text
        assert 'src="/pacs/ohif/app-config.js"' in text
        assert 'href="/pacs/ohif/assets/favicon.ico"' in text
        assert "service-worker" not in text
        assert '"/a' not in text

    def test_styles_and_manifest_are_relative(self) -> None:
        assert rewritten("app.css", b"a{src:url(/f.woff2)}") == b"a{src:url(f.woff2)}"
        assert rewritten("manifest.json", b'{"src":"/assets/a"}') == b'{"src":"assets/a"}'

    def test_other_files_stay(self) -> None:
        assert rewritten("a.wasm", SCRIPT) == SCRIPT


class TestRegistryAddress:
    @pytest.mark.parametrize(
        ("environ", "npmrc", "expected"),
        [
            ({}, "", "https://registry.npmjs.org"),
            ({}, "registry=https://npm.example/root/\n", "https://npm.example/root"),
            ({}, '; registry=https://no.example\nregistry = "https://npm.example"\n', "https://npm.example"),
            ({"npm_config_registry": "https://env.example"}, "registry=https://npm.example", "https://env.example"),
            ({"NPM_CONFIG_REGISTRY": "https://env.example/"}, "", "https://env.example"),
            (
                {"npm_config_registry": "https://env.example"},
                "@ohif:registry=https://scope.example",
                "https://scope.example",
            ),
        ],
    )
    def test_it_is_that_of_npm(self, environ: dict[str, str], npmrc: str, expected: str) -> None:
        assert registry.registry_url(environ, npmrc) == expected

    def test_checksums_in_both_forms(self) -> None:
        digest = hashlib.sha512(b"x").digest()
        assert registry.digest_of(digest.hex()) == digest
        assert registry.digest_of(f"sha1-AAAA {registry.shown(digest)}") == digest
        for bad in ("", "sha512-", "sha512-AAAA", "sha512-?", "abc"):
            with pytest.raises(BadRequest):
                registry.digest_of(bad)


VERSION = "9.9.9"


class Registry(ThreadingHTTPServer):
    """An npm registry of one package; `integrity` and `sent` can be made to disagree with it."""

    content: bytes
    integrity: str
    declared_bytes: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class RegistryHandler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        tarball = f"{self.server.url}/app.tgz"
        description = {"version": VERSION, "dist": {"tarball": tarball, "integrity": self.server.integrity}}
        answers = {f"/@ohif%2Fapp/{VERSION}": orjson.dumps(description), "/app.tgz": self.server.content}
        body = answers.get(self.path)
        self.send_response(404 if body is None else 200)
        length = self.server.declared_bytes if self.path == "/app.tgz" else len(body or b"")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    files = {**FILES, "package.json": b'{"name": "@ohif/app", "version": "9.9.9"}'}
    with Registry(("127.0.0.1", 0), RegistryHandler) as server:
        server.content = package(tmp_path / "registry.tgz", files).read_bytes()
        server.integrity = f"sha512-{base64.b64encode(hashlib.sha512(server.content).digest()).decode()}"
        server.declared_bytes = len(server.content)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("npm_config_registry", server.url)
        yield server
        server.shutdown()
        thread.join()


class TestCommand:
    def run(self, tmp_path: Path, *words: str) -> int:
        return main(["viewer", *words, "--data", str(tmp_path / "data")])

    def test_fetched_shown_removed(self, tmp_path: Path, npm: Registry, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(tmp_path) == 0
        assert "No viewer is installed" in capsys.readouterr().out
        assert self.run(tmp_path, "install", "--version", VERSION) == 0
        shown = capsys.readouterr()
        assert npm.integrity in shown.out
        assert "Fetched" in shown.err
        assert self.run(tmp_path) == 0
        assert VERSION in capsys.readouterr().out
        assert self.run(tmp_path, "remove") == 0
        assert find(tmp_path / "data" / "viewer") is None

    def test_another_file_than_the_registry_published_is_refused(
        self, tmp_path: Path, npm: Registry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        npm.integrity = registry.shown(hashlib.sha512(b"another").digest())
        assert self.run(tmp_path, "install", "--version", VERSION) == 1
        assert "sha512 differs" in capsys.readouterr().err
        assert find(tmp_path / "data" / "viewer") is None

    def test_a_registry_is_not_believed_about_a_version_that_is_known(
        self, npm: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry, "PUBLISHED", {VERSION: registry.shown(hashlib.sha512(b"x").digest())})
        with pytest.raises(ConfigError, match="another"):
            registry.published(npm.url, VERSION)

    def test_a_download_that_breaks_off(
        self, tmp_path: Path, npm: Registry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        npm.declared_bytes += 100
        assert self.run(tmp_path, "install", "--version", VERSION) == 1
        assert "broke off" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("version", "reason"), [("1.2.3", "does not have this version"), ("latest/../x", "is no version")]
    )
    def test_versions_that_are_none(
        self, tmp_path: Path, npm: Registry, capsys: pytest.CaptureFixture[str], version: str, reason: str
    ) -> None:
        assert self.run(tmp_path, "install", "--version", version) == 1
        assert reason in capsys.readouterr().err

    def test_a_registry_that_is_not_there_names_the_way_without_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:1")
        assert self.run(tmp_path, "install") == 1
        assert "--from FILE.tgz" in capsys.readouterr().err

    def test_a_file_and_its_checksum(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = package(tmp_path / "p.tgz")
        good = registry.shown(registry.sha512_of(file))
        wrong = registry.shown(hashlib.sha512(b"x").digest())
        assert self.run(tmp_path, "install", "--from", str(file), "--sha512", wrong) == 1
        assert good in capsys.readouterr().err
        assert self.run(tmp_path, "install", "--from", str(file), "--sha512", good) == 0
        assert self.run(tmp_path, "install", "--from", str(tmp_path / "none.tgz")) == 1
