"""A way to log in from another package: found by its entry point, as users install it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomweb_server.errors import ConfigError
from tests.http.conftest import Archive
from tests.http.identities import basic, bearer

PACKAGE = '''
from dicomweb_server.auth.base import Authenticator
from dicomweb_server.errors import ConfigError, Unauthenticated


class BadgeLogin(Authenticator):
    """Everybody who shows the badge of the house is a reader; the word of the day is for programs."""

    def __init__(self, badge, parts):
        self.badge, self.parts = badge, parts

    @classmethod
    def from_settings(cls, *, settings, parts):
        if "badge" not in settings:
            raise ConfigError("auth.badge needs badge")
        return cls(settings["badge"], parts)

    def bearer(self, token):
        if token != "word of the day":
            raise Unauthenticated("not the word of the day")
        return self.parts.identity("a program", ("writer",), kind="token")

    def password(self, user, password, *, address):
        if password != self.badge:
            raise Unauthenticated("no badge of this house")
        return self.parts.identity(user, ("reader",))

    def facts(self, identity):
        return {"roles": list(identity.roles)}

    def of_session(self, session):
        return self.parts.identity(session.user, tuple(session.facts["roles"]))
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with one module and one entry point, on the path."""
    site = tmp_path / "site-packages"
    about = site / "badge_login-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "badge_login.py").write_text(PACKAGE, encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: badge-login\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(
        "[dicomweb_server.auth]\nbadge = badge_login:BadgeLogin\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("badge_login", None)


@pytest.mark.usefixtures("installed")
def test_it_is_found_gets_its_table_and_logs_in(make_archive: Archive) -> None:
    archive = make_archive({"auth.method": "badge", "auth.badge": {"badge": "B-4711"}})
    archive.get("/studies", status=401)
    archive.get("/studies", headers=basic("rita", "B-4712"), status=401)
    archive.get("/studies", headers=basic("rita", "B-4711"))
    archive.post_json("/login", {"username": "rita", "password": "B-4712"}, status=401)
    tokens = archive.post_json("/login", {"username": "rita", "password": "B-4711"}).json
    assert archive.get("/api/profile").json["roles"] == ["reader"]  # by the cookie
    archive.reset()
    profile = archive.get("/api/profile", headers=bearer(tokens["access_token"])).json
    assert (profile["username"], profile["permissions"]) == ("rita", ["retrieve", "search"])
    renewed = archive.post_json("/login/refresh", {"refresh_token": tokens["refresh_token"]}).json
    text = {"Content-Type": "text/plain"}
    archive.post("/studies", b"x", headers={**bearer(renewed["access_token"]), **text}, status=403)
    archive.post("/studies", b"x", headers={**bearer("word of the day"), **text}, status=415)
    archive.post("/studies", b"x", headers={**bearer("another word"), **text}, status=401)
    archive.post("/logout", headers=bearer(renewed["access_token"]))
    archive.get("/studies", headers=bearer(renewed["access_token"]), status=401)


@pytest.mark.usefixtures("installed")
def test_its_settings_are_its_own_to_check(make_archive: Archive) -> None:
    with pytest.raises(ConfigError, match=r"auth\.badge needs badge"):
        make_archive({"auth.method": "badge"})


def test_without_the_package_the_name_means_nothing(make_archive: Archive) -> None:
    with pytest.raises(ConfigError, match='there is no way to log in "badge"; known are "jwt", "keycloak"'):
        make_archive({"auth.method": "badge"})
