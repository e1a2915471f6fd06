"""Against a real Keycloak: tokens, roles, passwords, rotation, and what happens while it is down. Browsers log in in
tests/browser/test_login.py."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live import LiveServer, serving
from tests.services import keycloak
from tests.services.keycloak import CLIENT, CLIENT_SECRET, REALM
from tests.services.proxy import BadProxy

TIMEOUT_SECONDS = 30


def token(keycloak_url: str, *, client: str = CLIENT, secret: str = CLIENT_SECRET, **form: str) -> str:
    """An access token, by the grant that the form names."""
    form = {"grant_type": "client_credentials", "client_id": client, **form}
    if secret:
        form["client_secret"] = secret
    answer = requests.post(
        f"{keycloak_url}/realms/{REALM}/protocol/openid-connect/token", data=form, timeout=TIMEOUT_SECONDS
    )
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["access_token"]
    return found


def of_user(keycloak_url: str, name: str, **more: str) -> str:
    return token(keycloak_url, grant_type="password", username=name, password=f"{name}-pass", **more)


def settings_for(keycloak_url: str, **more: str) -> dict[str, str]:
    """The environment of a server that logs in there."""
    table = {
        "ISSUER": f"{keycloak_url}/realms/{REALM}",
        "CLIENT_ID": CLIENT,
        "CLIENT_SECRET": CLIENT_SECRET,
        "PASSWORD_GRANT": "true",
        "LEEWAY_SECONDS": "0",
        **more,
    }
    return {
        "DICOMWEB__AUTH__METHOD": "keycloak",
        **{f"DICOMWEB__AUTH__KEYCLOAK__{key}": value for key, value in table.items()},
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, keycloak_url: str) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keycloak")
    with serving(folder, "--workers", "1", environment=settings_for(keycloak_url)) as server:
        yield server


def ask(server: LiveServer, bearer: str = "", path: str = "/studies", **more: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return requests.get(server.url + path, headers=headers, timeout=TIMEOUT_SECONDS, **more)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


class TestTokens:
    def test_roles_of_users_and_of_services(self, guarded: LiveServer, keycloak_url: str) -> None:
        assert ask(guarded).status_code == 401
        roles = {name: set(self.profile(guarded, of_user(keycloak_url, name))) for name in ("rita", "walt", "anna")}
        assert roles == {"rita": {"reader"}, "walt": {"reader", "writer"}, "anna": {"reader", "writer", "admin"}}
        assert self.profile(guarded, token(keycloak_url)) == ["reader"]
        rita, walt = (of_user(keycloak_url, name) for name in ("rita", "walt"))
        for bearer, status in ((rita, 403), (walt, 415)):
            headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "text/plain"}
            answer = requests.post(f"{guarded.url}/studies", data=b"x", headers=headers, timeout=TIMEOUT_SECONDS)
            assert answer.status_code == status
        assert ask(guarded, rita, "/api/users").status_code == 403

    def profile(self, server: LiveServer, bearer: str) -> list[str]:
        roles: list[str] = ask(server, bearer, "/api/profile").json()["roles"]
        return roles

    def test_tokens_for_another_client_and_of_another_kind(self, guarded: LiveServer, keycloak_url: str) -> None:
        other = of_user(keycloak_url, "rita", client="admin-cli", secret="")
        refused = ask(guarded, other)
        assert refused.status_code == 401
        assert other not in refused.text
        form = {
            "grant_type": "password",
            "username": "rita",
            "password": "rita-pass",
            "client_id": CLIENT,
            "client_secret": CLIENT_SECRET,
            "scope": "openid",
        }
        url = f"{keycloak_url}/realms/{REALM}/protocol/openid-connect/token"
        answer = requests.post(url, data=form, timeout=TIMEOUT_SECONDS).json()
        for kind in ("id_token", "refresh_token"):
            assert ask(guarded, answer[kind]).status_code == 401, kind
        assert ask(guarded, answer["access_token"]).status_code == 200
        assert ask(guarded, answer["access_token"][:-8] + "AAAAAAAA").status_code == 401

    def test_an_expired_token(self, guarded: LiveServer, keycloak_url: str) -> None:
        admin = administration(keycloak_url)
        (client,) = admin("GET", f"clients?clientId={CLIENT}").json()
        path, lifespan = f"clients/{client['id']}", "access.token.lifespan"
        admin("PUT", path, {**client, "attributes": {**client["attributes"], lifespan: "2"}})
        short = of_user(keycloak_url, "rita")
        admin("PUT", path, {**client, "attributes": {**client["attributes"], lifespan: ""}})
        assert ask(guarded, short).status_code == 200
        assert until(lambda: ask(guarded, short).status_code == 401, 10)
        assert "expired" in ask(guarded, short).json()["reason"]

    def test_rotated_keys(self, guarded: LiveServer, keycloak_url: str) -> None:
        old = of_user(keycloak_url, "rita")
        assert ask(guarded, old).status_code == 200
        admin = administration(keycloak_url)
        provider = {
            "name": "newer",
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": admin("GET", "").json()["id"],
            "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"]},
        }
        made = admin("POST", "components", provider)
        try:
            new = of_user(keycloak_url, "rita")
            assert until(lambda: ask(guarded, new).status_code == 200, 20)
            assert ask(guarded, old).status_code == 200
        finally:
            admin("DELETE", f"components/{made.headers['Location'].rpartition('/')[2]}")


class TestPasswords:
    def test_curl_and_dicomweb_client(self, guarded: LiveServer, keycloak_url: str, tmp_path: Path) -> None:
        assert ask(guarded, auth=("rita", "rita-pass")).status_code == 200
        assert ask(guarded, auth=("rita", "wrong-pass")).status_code == 401
        command = [str(Path(sys.executable).parent / "dicomweb_client"), "--url", guarded.url]
        for options in (
            ["--user", "rita", "--password", "rita-pass"],
            ["--bearer-token", of_user(keycloak_url, "rita")],
        ):
            done = subprocess.run(
                [*command, *options, "search", "studies"], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        login = requests.post(
            f"{guarded.url}/login", json={"username": "walt", "password": "walt-pass"}, timeout=TIMEOUT_SECONDS
        )
        assert ask(guarded, login.json()["access_token"], "/api/profile").json()["username"] == "walt"


class TestDown:
    def test_cached_keys_go_on_then_503(self, tmp_path: Path, keycloak_url: str) -> None:
        port = int(keycloak_url.rpartition(":")[2])
        with BadProxy(port) as proxy:
            through = f"http://127.0.0.1:{proxy.port}"
            with serving(tmp_path / "one", "--workers", "1", environment=settings_for(through)) as server:
                bearer = of_user(through, "rita")
                assert ask(server, bearer).status_code == 200
                with serving(tmp_path / "two", "--workers", "1", environment=settings_for(through)) as late:
                    proxy.__exit__()
                    assert ask(server, bearer).status_code == 200
                    unknown = ask(late, bearer)
                    assert unknown.status_code == 503
                    assert unknown.headers["Retry-After"]
                    assert ask(late, auth=("rita", "rita-pass")).status_code == 503
                    assert ask(late).status_code == 401
                    assert "Traceback" not in late.log.read_text(encoding="utf-8")

    def test_introspection_knows_what_was_revoked(self, tmp_path: Path, keycloak_url: str) -> None:
        environment = settings_for(keycloak_url, INTROSPECT="true")
        with serving(tmp_path, "--workers", "1", environment=environment) as server:
            bearer = of_user(keycloak_url, "walt")
            assert ask(server, bearer).status_code == 200
            form = {"token": bearer, "client_id": CLIENT, "client_secret": CLIENT_SECRET}
            url = f"{keycloak_url}/realms/{REALM}/protocol/openid-connect/revoke"
            assert requests.post(url, data=form, timeout=TIMEOUT_SECONDS).status_code == 200
            assert until(lambda: ask(server, bearer).status_code == 401, 15)


def administration(url: str) -> Callable[..., requests.Response]:
    """The admin API of the realm, as a function of method, path and body."""
    form = {
        "grant_type": "password",
        "client_id": "admin-cli",
        "username": keycloak.ADMIN,
        "password": keycloak.ADMIN_PASSWORD,
    }
    answer = requests.post(f"{url}/realms/master/protocol/openid-connect/token", data=form, timeout=TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def asked(method: str, path: str, body: Any = None) -> requests.Response:
        target = f"{url}/admin/realms/{REALM}/{path}".rstrip("/")
        found = requests.request(method, target, json=body, headers=headers, timeout=TIMEOUT_SECONDS)
        assert found.ok, found.text
        return found

    return asked
