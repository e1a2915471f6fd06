"""A server where people log in, as they see it: clients, the command beside the running server, TLS, other WSGI
servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from dicomweb_server.__main__ import main
from tests.http.identities import ADMIN, PASSWORD
from tests.live import ROOT, LiveServer, serving, until

LOGIN = {"DICOMWEB__AUTH__METHOD": "jwt", "DICOMWEB__AUTH__FIRST_ADMIN_PASSWORD": PASSWORD}
TIMEOUT_SECONDS = 30


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("guarded"), "--workers", "2", environment=LOGIN) as server:
        yield server


def client(server: LiveServer, *words: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "dicomweb_client")
    return subprocess.run(
        [program, "--url", server.url, *words], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )


def run(server: LiveServer, *words: str, standard_input: str = "") -> str:
    """A command of ours beside the running server."""
    data = str(server.output.parent / "data")
    done = subprocess.run(
        [sys.executable, "-m", "dicomweb_server", words[0], "--data", data, *words[1:]],
        input=standard_input,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    return done.stdout


class TestClients:
    def test_dicomweb_client_by_password_token_and_key(self, guarded: LiveServer, sample_folder: Path) -> None:
        file = str(sample_folder / "CT_small.dcm")
        login = requests.post(
            f"{guarded.url}/login", json={"username": ADMIN, "password": PASSWORD}, timeout=TIMEOUT_SECONDS
        ).json()
        assert client(guarded, "search", "studies").returncode != 0  # it sends "Bearer None"
        stored = client(guarded, "--user", ADMIN, "--password", PASSWORD, "store", "instances", file)
        assert stored.returncode == 0, stored.stderr
        key = run(guarded, "key", "add", "script").splitlines()[-1]
        for token in (login["access_token"], key):
            found = client(guarded, "--bearer-token", token, "search", "studies", "--dicomize")
            assert "CompressedSamples^CT1" in found.stdout, found.stderr
        log = guarded.log.read_text(encoding="utf-8")
        for secret in (PASSWORD, key, login["access_token"], login["refresh_token"], "argon2"):
            assert secret not in log

    def test_a_disabled_user_is_out_in_every_worker(self, guarded: LiveServer) -> None:
        run(guarded, "user", "add", "rita", "--password-stdin", standard_input="rita-has-a-password\n")
        session = requests.Session()
        session.auth = ("rita", "rita-has-a-password")
        for _ in range(6):
            assert session.get(f"{guarded.url}/studies", timeout=TIMEOUT_SECONDS).status_code == 200
        run(guarded, "user", "disable", "rita")
        for _ in range(4):
            answer = requests.get(f"{guarded.url}/studies", auth=session.auth, timeout=TIMEOUT_SECONDS)
            assert answer.status_code in (401, 429)
        # What she read is written within a second, by each worker for itself.
        until(lambda: "rita@127.0.0.1" in run(guarded, "audit", "--user", "rita"))


class TestTls:
    def test_https(
        self, tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, sample_folder: Path
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
        environment = {
            **LOGIN,
            "DICOMWEB__SERVER__TLS_CERTIFICATE": str(certificate[0]),
            "DICOMWEB__SERVER__TLS_KEY": str(certificate[1]),
        }
        with serving(tmp_path, "--workers", "1", environment=environment) as server:
            assert server.url.startswith("https://")
            login = requests.post(
                f"{server.url}/login", data={"username": ADMIN, "password": PASSWORD}, timeout=TIMEOUT_SECONDS
            )
            assert "; Secure" in login.headers["Set-Cookie"]
            data = (sample_folder / "CT_small.dcm").read_bytes()
            answer = requests.post(
                f"{server.url}/studies",
                data=data,
                headers={
                    "Content-Type": "application/dicom",
                    "Authorization": f"Bearer {login.json()['access_token']}",
                },
                timeout=TIMEOUT_SECONDS,
            )
            url = answer.json()["00081199"]["Value"][0]["00081190"]["Value"][0]
            assert url.startswith(server.url)
            got = requests.get(url, auth=(ADMIN, PASSWORD), timeout=TIMEOUT_SECONDS)
            assert got.content == data

    @pytest.mark.parametrize("pair", [("/nowhere.crt", "/nowhere.key"), (0, 0), (0, None)])
    def test_a_certificate_that_is_none_stops_the_start(
        self,
        tmp_path: Path,
        certificate: tuple[Path, Path],
        pair: tuple[str | int, str | int | None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """No file, the certificate itself, or nothing in the place of the key."""
        for name, one in zip(("CERTIFICATE", "KEY"), pair, strict=True):
            value = certificate[one] if isinstance(one, int) else one or ""
            monkeypatch.setenv(f"DICOMWEB__SERVER__TLS_{name}", str(value))
        assert main(["serve", "--port", "0", "--data", str(tmp_path)]) == 1
        assert "server.tls_certificate" in capsys.readouterr().err


_ASK = """
from wsgiref.util import setup_testing_defaults
from dicomweb_server.wsgi import app
for address in ("127.0.0.1", "::1", "", "10.0.0.1"):
    environ = {"REMOTE_ADDR": address, "PATH_INFO": "/health/live", "HTTP_HOST": "localhost"}
    setup_testing_defaults(environ)
    b"".join(app(environ, lambda status, headers, *_: print(status[:3])))
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["200", "200", "200", "403"]),
        ({"DICOMWEB__SERVER__ALLOW_PUBLIC_WITHOUT_LOGIN": "true"}, ["200"] * 4),
        (LOGIN, ["200"] * 4),
    ],
)
def test_other_wsgi_servers_serve_strangers_only_with_a_login(
    tmp_path: Path, environment: dict[str, str], expected: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
    )
    assert done.stdout.split() == expected, done.stderr
