"""Logging in with a real browser: the form of this server and the viewer behind it, a share link, Keycloak, and another
issuer."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from pydicom.uid import generate_uid

from tests.browser import objects
from tests.browser.film import needs_ffmpeg
from tests.browser.pictures import colourfulness, likeness, reference, shown, visit, wait_for
from tests.browser.test_ohif import CT, LIKE, Case, open_segmentation, picture
from tests.browser.test_video import remember_players, watch
from tests.e2e.test_keycloak import administration, settings_for
from tests.http.identities import ADMIN, PASSWORD
from tests.live import LiveServer, running, serving
from tests.samples import RELATED, envelope
from tests.services import oidc_provider
from tests.services.keycloak import CLIENT, CLIENT_SECRET, REALM

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOGIN = {"DICOMWEB__AUTH__METHOD": "jwt", "DICOMWEB__AUTH__FIRST_ADMIN_PASSWORD": PASSWORD}
WAIT_MILLISECONDS = 30_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, viewer_data: Path) -> Iterator[LiveServer]:
    """An archive with a viewer and a study, where one has to log in."""
    environment = {**LOGIN, "DICOMWEB__VIEWER__DIRECTORY": str(viewer_data / "viewer")}
    with serving(tmp_path_factory.mktemp("guarded"), "--workers", "2", environment=environment) as server:
        headers = {"Content-Type": "application/dicom"}
        stored = requests.post(
            f"{server.url}/studies", CT.content(), headers=headers, auth=(ADMIN, PASSWORD), timeout=60
        )
        assert stored.status_code == 200, stored.text
        yield server


def with_password(url: str) -> str:
    """The URL for a client that is no browser."""
    return url.replace("://", f"://{ADMIN}:{PASSWORD.replace(' ', '%20')}@")


def expect_ct(page: Page, server: LiveServer) -> None:
    """The picture of the study is on the page."""
    expected, aspect = reference(with_password(picture(server, CT)))
    assert wait_for(page, lambda: likeness(shown(page, aspect=aspect), expected) > LIKE), page.url


class TestViewer:
    def test_log_in_and_look_at_a_study(self, closing: Browser, guarded: LiveServer) -> None:
        study = f"/ohif/viewer?StudyInstanceUIDs={CT.uid('study')}"
        seen = visit(closing, guarded.url + study)
        page = seen.page
        page.wait_for_url(re.compile("/login"), timeout=WAIT_MILLISECONDS)
        page.fill("input[name=username]", ADMIN)
        page.fill("input[name=password]", "not the password")
        page.click("button")
        page.get_by_text("the password is wrong").wait_for(timeout=WAIT_MILLISECONDS)
        page.fill("input[name=username]", ADMIN)
        page.fill("input[name=password]", PASSWORD)
        page.click("button")
        page.wait_for_url(re.compile(re.escape(study)), timeout=WAIT_MILLISECONDS)
        expect_ct(page, guarded)
        assert [one for one in seen.failures if "/login" not in one and "favicon" not in one] == []
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
        assert cookies["dicomweb_session"]["httpOnly"]

    def test_all_that_the_viewer_asks_goes_by_the_cookie(self, closing: Browser, guarded: LiveServer) -> None:
        """Pictures, a segmentation and saving: nothing that is asked after the login is refused."""
        case = Case("seg-login", CT.file)
        image = case.content()
        body = envelope([image, objects.segmentation(image)])
        headers = {"Content-Type": RELATED}
        stored = requests.post(f"{guarded.url}/studies", body, headers=headers, auth=(ADMIN, PASSWORD), timeout=60)
        assert stored.status_code == 200, stored.text
        seen = visit(closing, f"{guarded.url}/login?next=/ohif/viewer?StudyInstanceUIDs={case.uid('study')}")
        page = seen.page
        page.fill("input[name=username]", ADMIN)
        page.fill("input[name=password]", PASSWORD)
        seen.failures.clear()  # the page of the login has no icon
        seen.answers.clear()
        page.click("button")
        expected, aspect = reference(with_password(picture(guarded, case)))
        assert wait_for(page, lambda: likeness(shown(page, aspect=aspect), expected) > LIKE), seen.failures
        page.get_by_text("Segmentation", exact=True).first.dblclick()
        assert wait_for(page, lambda: open_segmentation(page) and colourfulness(shown(page, aspect=aspect)) > 5)
        # As the viewer saves: from its page, without a token.
        saved = page.evaluate(
            """async ([body, type]) => (await fetch('/studies', {method: 'POST', headers: {'Content-Type': type},
                body: Uint8Array.from(atob(body), c => c.charCodeAt(0))})).status""",
            [base64.b64encode(envelope([objects.segmentation(image)])).decode(), RELATED],
        )
        assert saved == 200
        statuses = {path: answer.status for path, answer in zip(seen.paths(), seen.answers, strict=True)}
        for part in ("/metadata", "/frames/", "/thumbnail", "/series"):
            assert any(part in path for path in statuses), part
        assert [path for path, status in statuses.items() if status in (401, 403)] == []

    @needs_ffmpeg
    def test_a_video_plays_behind_the_login(self, closing: Browser, guarded: LiveServer) -> None:
        """The player sends the cookie with each range; nobody gets the video without it."""
        uid = str(generate_uid())
        answer = requests.post(
            f"{guarded.url}/studies",
            objects.video(uid, "Case^video"),
            headers={"Content-Type": "application/dicom"},
            auth=(ADMIN, PASSWORD),
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        seen = visit(closing, f"{guarded.url}/login?next=/ohif/viewer?StudyInstanceUIDs={uid}", remember_players)
        page = seen.page
        page.fill("input[name=username]", ADMIN)
        page.fill("input[name=password]", PASSWORD)
        seen.failures.clear()
        seen.answers.clear()
        page.click("button")
        watch(seen)
        rendered = next(answer.url for answer in seen.answers if answer.url.endswith("/rendered"))
        assert requests.get(rendered, headers={"Range": "bytes=0-99"}, timeout=30).status_code == 401

    def test_a_share_link_opens_its_study_and_no_other(self, closing: Browser, guarded: LiveServer) -> None:
        made = requests.post(
            f"{guarded.url}/studies/{CT.uid('study')}/shares",
            json={"view_only": True},
            auth=(ADMIN, PASSWORD),
            timeout=30,
        )
        seen = visit(closing, made.json()["url"])
        expect_ct(seen.page, guarded)
        assert seen.failures == []
        assert seen.page.request.get(f"{guarded.url}/studies/{CT.uid('study')}").status == 403
        assert seen.page.request.get(f"{guarded.url}/api/users").status == 403


class TestKeycloak:
    def test_code_flow_and_log_out(self, closing: Browser, tmp_path: Path, keycloak_url: str) -> None:
        table = {
            "ISSUER": f"{keycloak_url}/realms/{REALM}",
            "CLIENT_ID": CLIENT,
            "CLIENT_SECRET": CLIENT_SECRET,
        }
        environment = {
            "DICOMWEB__AUTH__METHOD": "keycloak",
            **{f"DICOMWEB__AUTH__KEYCLOAK__{key}": value for key, value in table.items()},
        }
        with serving(tmp_path, "--workers", "2", environment=environment) as server:
            page = closing.new_context().new_page()
            page.goto(f"{server.url}/studies?limit=5")
            page.wait_for_url(re.compile(re.escape(keycloak_url)), timeout=WAIT_MILLISECONDS)
            assert "code_challenge_method=S256" in page.url
            page.fill("#username", "rita")
            page.fill("#password", "rita-pass")
            page.click("#kc-login")
            page.wait_for_url(re.compile(r"/studies\?limit=5$"), timeout=WAIT_MILLISECONDS)
            assert page.request.get(f"{server.url}/api/profile").json()["roles"] == ["reader"]
            # A write with the cookie, but from nowhere: refused before anybody asks for the role.
            assert page.request.post(f"{server.url}/studies", data="x").status == 403
            page.goto(f"{server.url}/logout")
            page.wait_for_url(f"{server.url}/", timeout=WAIT_MILLISECONDS)
            assert page.request.get(f"{server.url}/api/profile").status == 401
            page.goto(f"{server.url}/studies")
            page.wait_for_selector("#kc-login", timeout=WAIT_MILLISECONDS)  # Keycloak has forgotten, too

    def test_who_is_disabled_there_is_out_here(self, closing: Browser, tmp_path: Path, keycloak_url: str) -> None:
        """Each second the session is confirmed with the refresh token: it lasts, until the user is disabled."""
        admin = administration(keycloak_url)
        secret = {"type": "password", "value": "dora-pass", "temporary": False}
        person = {"username": "dora", "enabled": True, "email": "dora@test.example", "emailVerified": True}
        made = admin("POST", "users", {**person, "firstName": "D", "lastName": "D", "credentials": [secret]})
        user = f"users/{made.headers['Location'].rpartition('/')[2]}"
        try:
            environment = settings_for(keycloak_url, CONFIRM_SECONDS="1")
            with serving(tmp_path, "--workers", "2", environment=environment) as server:
                page = closing.new_context().new_page()
                page.goto(f"{server.url}/login?next=/api/profile")
                page.fill("#username", "dora")
                page.fill("#password", "dora-pass")
                page.click("#kc-login")
                page.wait_for_url(re.compile("/api/profile$"), timeout=WAIT_MILLISECONDS)
                profile = f"{server.url}/api/profile"
                admin("POST", f"{user}/role-mappings/realm", [admin("GET", "roles/reader").json()])
                assert wait_for(page, lambda: page.request.get(profile).json()["roles"] == ["reader"], seconds=15)
                admin("PUT", user, {**person, "firstName": "D", "lastName": "D", "enabled": False})
                assert wait_for(page, lambda: page.request.get(profile).status == 401, seconds=15)
        finally:
            admin("DELETE", user)


def test_an_issuer_that_is_not_keycloak(closing: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server_url = f"http://localhost:{port}"
    with oidc_provider.running(server_url) as issuer:
        (tmp_path / "site.toml").write_text(
            f"""[auth]
method = "keycloak"
role_map = ["pacs-admins=admin"]
[auth.keycloak]
issuer = "{issuer}"
client_id = "dicomweb-server"
client_secret = "dicomweb-server-secret"
audience = ["{oidc_provider.AUDIENCE}"]
roles_claims = ["groups"]
scope = "openid"
""",
            encoding="utf-8",
        )
        words = ("serve", "--port", str(port), "--data", str(tmp_path / "data"), "--config", "site.toml")
        with running(tmp_path, *words, "--workers", "1") as server:
            form = {
                "grant_type": "client_credentials",
                "client_id": "dicomweb-server",
                "client_secret": "dicomweb-server-secret",
            }
            answer = requests.post(f"{issuer}/token", data=form, timeout=30).json()
            headers = {"Authorization": f"Bearer {answer['access_token']}"}
            profile = requests.get(f"{server.url}/api/profile", headers=headers, timeout=30)
            assert profile.json()["roles"] == ["reader"]
            page = closing.new_context().new_page()
            page.goto(f"{server_url}/studies")
            page.wait_for_url(re.compile(re.escape(issuer)), timeout=WAIT_MILLISECONDS)
            page.fill("input[name=login]", "anna")
            page.fill("input[name=password]", "anna-pass")
            page.click("button[type=submit]")
            page.get_by_text("Authorize").first.wait_for(timeout=WAIT_MILLISECONDS)
            page.click("button[type=submit]")
            page.wait_for_url(f"{server_url}/studies", timeout=WAIT_MILLISECONDS)
            assert page.request.get(f"{server_url}/api/profile").json()["roles"] == ["reader", "admin"]
