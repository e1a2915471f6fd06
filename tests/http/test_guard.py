"""Every route of the table, asked by somebody of each kind."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import pytest
from webtest import TestApp

from dicomweb_server.app import open_parts
from dicomweb_server.auth.rights import BUILTIN_ROLES
from dicomweb_server.auth.tokens import Signer
from dicomweb_server.authenticating import open_login
from dicomweb_server.errors import Unauthenticated
from dicomweb_server.http.guard import SESSION_COOKIE, SHARE_COOKIE, Guard
from dicomweb_server.http.routes import Place
from dicomweb_server.http.table import Operation
from dicomweb_server.permissions import Permission
from dicomweb_server.settings import load
from tests.http.conftest import Archive, Client, opened
from tests.http.identities import (
    ADMIN,
    LOGIN_SETTINGS,
    PASSWORD,
    Headers,
    OtherIssuer,
    add_user,
    bad_own_tokens,
    basic,
    bearer,
    claims_of,
    forged,
    log_in,
    other_issuer,
)
from tests.http.test_routes import operations, path_of
from tests.samples import instance, url

# Public routes that check themselves what they are given.
OWN_CHECKS = ("login.", "users.on_post_register")

OPERATIONS = [
    pytest.param(path_of(place, entry), method, operation, id=f"{method} {place}{entry.template}")
    for place, entry, method, operation in operations()
]


SECRET = "the secret of the server in tests, not in life"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> OtherIssuer:
    return other_issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, issuer: OtherIssuer) -> Iterator[Client]:
    settings = {**LOGIN_SETTINGS, **issuer.settings, "auth.secret": SECRET}
    with opened(tmp_path_factory.mktemp("guarded"), settings) as client:
        yield client


@pytest.fixture(scope="module")
def people(guarded: Client) -> dict[str, Headers]:
    return {role: add_user(guarded, f"{role}.user", role) for role in BUILTIN_ROLES}


@pytest.fixture(scope="module")
def nobodies(guarded: Client, people: dict[str, Headers], issuer: OtherIssuer) -> dict[str, Headers]:
    """Who is nobody, for one reason each."""
    token = people["admin"]["Authorization"].split()[1]
    boss = bearer(log_in(guarded)["token"])
    key = guarded.post_json("/api/keys", {"name": "x", "roles": ["admin"]}, headers=boss, status=201).json
    guarded.delete(f"/api/keys/{key['id']}", headers=boss, status=204)
    ended = log_in(guarded)
    guarded.post("/logout", headers=bearer(ended["token"]))
    return {
        "nobody": {},
        "the word None": bearer("None"),
        **forged(token),
        **{f"own, {name}": bearer(bad) for name, bad in bad_own_tokens(SECRET, token).items()},
        **{f"issuer, {name}": bearer(bad) for name, bad in issuer.bad_tokens().items()},
        "a revoked key": bearer(key["key"]),
        "a session that was ended": bearer(ended["token"]),
        "a token as cookie": {"Cookie": f"{SESSION_COOKIE}={token}; {SHARE_COOKIE}={token}"},
        "a scheme of others": {"Authorization": "Negotiate YQ=="},
    }


def status(client: Client, method: str, path: str, headers: Headers) -> int:
    client.reset()
    # A cursor that is none, or a stream of events would never end.
    asked = {"Last-Event-ID": "x", **headers}
    answer = client.request(path, method=method, headers=asked, expect_errors=True)
    if answer.status_int == 403 and "needs the permission" not in answer.text:
        return 200  # the guard let it pass; the route has a reason of its own
    return int(answer.status_int)


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_who_may_and_who_may_not(
    guarded: Client,
    people: dict[str, Headers],
    nobodies: dict[str, Headers],
    path: str,
    method: str,
    operation: Operation,
) -> None:
    """The walk over the route table: no route is open that the table does not call public."""
    if operation.responder.startswith(OWN_CHECKS):
        assert operation.permission is Permission.PUBLIC
        return
    public = operation.permission is Permission.PUBLIC
    for name, headers in nobodies.items():
        assert (status(guarded, method, path, headers) == 401) is not public, name
    for role, permissions in BUILTIN_ROLES.items():
        found = status(guarded, method, path, people[role])
        if public or operation.permission in permissions:
            assert found not in (401, 403), role
        else:
            assert found == 403, role


def test_the_nobodies_are_like_somebody(guarded: Client, issuer: OtherIssuer) -> None:
    """The good ones of the kinds that the walk finds refused are taken."""
    assert status(guarded, "GET", "/api/users", bearer(issuer.token())) == 200
    ours = Signer(SECRET, "access").sign(claims_of(log_in(guarded)["token"]), seconds=60)
    assert status(guarded, "GET", "/api/users", bearer(ours)) == 200


@pytest.mark.parametrize(
    "path",
    [
        "//studies",
        "/./studies",
        "/studies/",
        "/%73tudies",
        "/dicom-web//studies",
        "/ohif/../studies",
        "/ohif/%2e%2e/studies",
        "/login/../studies",
        "/health/..%2fstudies",
        "/studies;x=/health",
        "/studies%00",
        "/STUDIES",
        "/api/fhir//Patient",
        "/?requestType=WADO&objectUID=1.2.3",
        "/health?requestType=WADO&objectUID=1.2.3",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PATCH"])
def test_no_spelling_of_a_path_gets_around_the_guard(guarded: Client, path: str, method: str) -> None:
    guarded.reset()
    override = {"X-HTTP-Method-Override": "GET", "X-Original-URL": "/health", "X-Rewrite-URL": "/health"}
    for headers in ({}, override):
        answer = guarded.request(path, method=method, headers=headers, expect_errors=True)
        open_to_all = path.startswith(("/health?", "/ohif/"))
        assert answer.status_int in ((200, 405, 404) if open_to_all else (400, 401, 404, 405)), answer.text
        assert b"00080018" not in answer.body


def test_a_resource_that_is_in_no_table_is_for_administrators(tmp_path: Path) -> None:
    class Forgotten:
        def on_get(self, _req: falcon.Request, resp: falcon.Response) -> None:
            resp.text = "secret"

    def refused(_req: falcon.Request, resp: falcon.Response, _exc: Exception, _params: dict[str, Any]) -> None:
        resp.status = 401

    settings = load(overrides={"storage.directory": str(tmp_path), **LOGIN_SETTINGS}, environ={})
    storage, blobs = open_parts(settings)
    login = open_login(settings, storage)
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(middleware=[Guard(login.gate, trusted_proxies=())])
    app.add_error_handler(Unauthenticated, refused)
    app.add_route("/forgotten", Forgotten())
    client = TestApp(app)
    try:
        client.get("/forgotten", status=401)
        assert client.get("/forgotten", headers=basic(ADMIN, PASSWORD)).text == "secret"
    finally:
        login.close()
        storage.close()
        blobs.close()


def test_forged_and_expired_tokens(make_archive: Archive, guarded: Client, people: dict[str, Headers]) -> None:
    for name, headers in forged(people["admin"]["Authorization"].split()[1]).items():
        assert status(guarded, "GET", "/studies", headers) == 401, name
    other = make_archive(LOGIN_SETTINGS)
    assert status(other, "GET", "/studies", people["admin"]) == 401
    cookie = guarded.post_json("/login", {"username": "admin", "password": "correct horse battery"}).headers
    value = cookie["Set-Cookie"].partition("=")[2].partition(";")[0]
    # A cookie is no bearer token, and a bearer token no cookie.
    assert status(guarded, "GET", "/studies", bearer(value)) == 401
    token = people["admin"]["Authorization"].split()[1]
    assert status(guarded, "GET", "/studies", {"Cookie": f"{SESSION_COOKIE}={token}"}) == 401
    assert status(guarded, "GET", "/studies", {"Cookie": f"{SHARE_COOKIE}={value}"}) == 401
    assert status(guarded, "GET", "/studies", {"Cookie": f"{SESSION_COOKIE}={value}"}) == 200


class TestCookies:
    def test_what_the_cookie_is_like(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        form = {"username": "admin", "password": "correct horse battery", "next": "/ohif/viewer?a=b"}
        answer = archive.post("/login", form, headers={"Accept": "text/html"}, status=303)
        assert answer.headers["Location"] == "http://localhost/ohif/viewer?a=b"
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert "Secure" not in cookie
        proxied = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}
        secure = archive.post("/login", form, headers={"Accept": "text/html"}, extra_environ=proxied, status=303)
        assert "Secure" in secure.headers["Set-Cookie"]

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            ({"Origin": "http://localhost"}, 204),
            ({"Sec-Fetch-Site": "same-origin"}, 204),
            ({}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ],
    )
    def test_a_write_by_cookie_comes_from_our_own_pages(
        self, make_archive: Archive, headers: Headers, expected: int
    ) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "http.allowed_origins": ["*"]})
        ds = instance()
        token = log_in(archive)["token"]
        archive.authorization = ("Bearer", token)
        archive.store(ds)
        archive.authorization = None
        archive.post("/login", {"username": "admin", "password": "correct horse battery"})
        archive.delete(url(ds), headers=headers, status=expected)

    def test_a_word_in_the_place_of_a_token_does_not_make_it_less(self, make_archive: Archive) -> None:
        """`Bearer None` names nobody: the cookie is asked then, with its rules."""
        archive = make_archive({**LOGIN_SETTINGS, "http.allowed_origins": ["*"]})
        archive.post("/login", {"username": "admin", "password": "correct horse battery"})
        for more in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}):
            archive.delete("/studies/1.2.3", headers={**bearer("None"), **more}, status=403)
        archive.delete("/studies/1.2.3", headers={**bearer("None"), "Origin": "http://localhost"}, status=404)

    @pytest.mark.parametrize("site", [{"Origin": "https://evil.example"}, {"Origin": "null"}])
    def test_a_foreign_page_logs_nobody_in_or_out(self, make_archive: Archive, site: Headers) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "http.allowed_origins": ["*"]})
        form = {"username": "admin", "password": "correct horse battery"}
        archive.post("/login", form, headers={"Accept": "text/html", **site}, status=403)
        # A program in a page, which then sends the token itself, may; the browser keeps no cookie of it.
        answer = archive.post("/login", form, headers=site)
        assert "Set-Cookie" not in answer.headers
        archive.post("/logout", headers={**bearer(answer.json["token"]), **site})
        archive.post("/login", form)
        for headers in (site, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
            archive.get("/logout", headers=headers, status=403)
        archive.get("/studies")

    def test_a_login_is_a_new_session(self, make_archive: Archive) -> None:
        """A session that somebody has put into the browser does not become that of who logs in."""
        archive = make_archive(LOGIN_SETTINGS)
        form = {"username": "admin", "password": "correct horse battery"}
        archive.post("/login", form)
        before = archive.cookies[SESSION_COOKIE]
        archive.post("/login", form)
        assert archive.cookies[SESSION_COOKIE] != before
        token = archive.post("/login", form).json["token"]
        archive.get("/logout")
        archive.reset()
        assert status(archive, "GET", "/studies", bearer(token)) == 401

    @pytest.mark.parametrize(
        "target",
        [
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "javascript:1",
            "///evil.example",
            "/\t/evil.example",
            "\r\nLocation: https://evil.example",
            "/x\r\nSet-Cookie: a=b",
            "http:evil.example",
            "/%0d%0aSet-Cookie:a=b\n",
            "@evil.example",
        ],
    )
    def test_login_never_leads_elsewhere(self, make_archive: Archive, target: str) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        form = {"username": "admin", "password": "correct horse battery", "next": target}
        answer = archive.post("/login", form, headers={"Accept": "text/html"}, status=303)
        assert answer.headers["Location"] == "http://localhost/"
        assert len(answer.headers.getall("Set-Cookie")) == 1

    def test_a_browser_is_led_to_the_login(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        answer = archive.get("/studies?limit=1", headers={"Accept": "text/html,*/*;q=0.8"}, status=303)
        assert answer.headers["Location"] == "http://localhost/login?next=/studies%3Flimit%3D1"
        page = archive.get(answer.headers["Location"], headers={"Accept": "text/html"})
        assert "value='/studies?limit=1'" in page.text
        assert archive.get("/ohif/", headers={"Accept": "text/html"}, status=303)


class TestAnonymous:
    def test_nobody_logs_in_by_default(self, archive: Client) -> None:
        for headers in ({}, bearer("None"), bearer("rubbish")):
            assert archive.get("/studies", headers=headers).json == []
        archive.post_json("/login", {"username": "a", "password": "b"}, status=404)
        assert archive.get("/api/profile").json["permissions"]

    @pytest.mark.parametrize(("mode", "unusable"), [("lenient", 200), ("strict", 401)])
    def test_read_only_for_everybody(self, make_archive: Archive, mode: str, unusable: int) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.anonymous_role": "reader", "auth.bearer": mode})
        for headers in ({}, bearer("None"), bearer("undefined")):
            archive.get("/studies", headers=headers)
        archive.get("/studies", headers=bearer("rubbish"), status=unusable)
        refused = archive.store(instance(), status=401)
        assert "store" in refused.json["reason"]
        assert refused.headers["WWW-Authenticate"] == (
            'Bearer realm="dicomweb-server", Basic realm="dicomweb-server", charset="UTF-8"'
        )
        token = archive.get("/api/users", headers=bearer("rubbish"), status=401) if mode == "strict" else refused
        assert ('error="invalid_token"' in token.headers["WWW-Authenticate"]) == (mode == "strict")
        page = archive.get("/api/users", headers={"Sec-Fetch-Mode": "cors"}, status=401)
        assert page.headers["WWW-Authenticate"] == 'Bearer realm="dicomweb-server"'


class TestFront:
    def test_an_address_that_asks_too_often_waits(self, make_archive: Archive) -> None:
        archive = make_archive({"http.max_requests_per_minute": 3})
        for _ in range(3):
            archive.get("/studies")
        refused = archive.get("/studies", status=429)
        assert int(refused.headers["Retry-After"]) >= 1
        archive.get("/health/live")
        proxied = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "6.6.6.6, 10.1.1.1"}
        archive.get("/studies", extra_environ=proxied)
        # Who is not trusted cannot choose its address.
        for made_up in range(3):
            chosen = {"REMOTE_ADDR": "10.9.9.9", "HTTP_X_FORWARDED_FOR": f"7.7.7.{made_up}"}
            archive.get("/studies", extra_environ=chosen)
        archive.get("/studies", extra_environ={**chosen, "HTTP_FORWARDED": "for=8.8.8.8"}, status=429)
        # One address is one, also where the socket takes both kinds.
        archive.get("/studies", extra_environ={"REMOTE_ADDR": "::ffff:10.9.9.9"}, status=429)
        mapped = {**proxied, "REMOTE_ADDR": "::ffff:127.0.0.1", "HTTP_X_FORWARDED_FOR": "10.9.9.9"}
        archive.get("/studies", extra_environ=mapped, status=429)

    def test_headers(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "http.hsts_seconds": 100})
        answer = archive.get("/studies", status=401)
        assert "Strict-Transport-Security" not in answer.headers
        assert answer.headers["Referrer-Policy"] == "same-origin"
        vary = answer.headers["Vary"]
        assert "Authorization" in vary
        assert "Cookie" in vary
        assert "X-Api-Key" in vary
        proxied = {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_PROTO": "https"}
        secure = archive.get("/studies", extra_environ=proxied, status=401)
        assert secure.headers["Strict-Transport-Security"] == "max-age=100"


@pytest.fixture(scope="module")
def hidden(guarded: Client) -> tuple[Headers, dict[str, str]]:
    """Who may do all but administer, but has no study; and the places of an instance that there is."""
    ds = instance(PatientID="SOMEBODY")
    guarded.authorization = ("Bearer", log_in(guarded)["token"])
    guarded.store(ds)
    guarded.authorization = None
    places = {
        "study_uid": ds.StudyInstanceUID,
        "series_uid": ds.SeriesInstanceUID,
        "instance_uid": ds.SOPInstanceUID,
        "numbers": "1",
        "key:path": "7FE00010",
    }
    return add_user(guarded, "stranger", "curator", access="PatientID=NOBODY"), places


IN_A_STUDY = [
    pytest.param(entry.template, method, operation, id=f"{method} {entry.template}")
    for place, entry, method, operation in operations()
    if place is Place.DICOMWEB and "{study_uid}" in entry.template and operation.permission is not Permission.STORE
]


def told(answer: Any) -> tuple[int, str, str]:
    """What an answer says, but for what tells requests apart."""
    text = re.sub(r'"request_id":"[0-9a-f]+"', "", answer.text)
    return answer.status_int, text, answer.headers.get("ETag", "")


@pytest.mark.parametrize(("template", "method", "operation"), IN_A_STUDY)
def test_another_study_does_not_exist(
    guarded: Client, hidden: tuple[Headers, dict[str, str]], template: str, method: str, operation: Operation
) -> None:
    """The same walk for somebody who may, but not this study: as if it was not there."""
    stranger, places = hidden
    path = re.sub(r"\{([^}]*)\}", lambda found: places.get(found[1], "1"), template)
    guarded.reset()
    answer = guarded.request(path, method=method, headers=stranger, expect_errors=True)
    nowhere = path
    for name in ("study_uid", "series_uid", "instance_uid"):
        nowhere = nowhere.replace(places[name], f"{places[name][:60]}.1")
    unknown = guarded.request(nowhere, method=method, headers=stranger, expect_errors=True)
    assert told(answer) == told(unknown), "it is told apart from what is not there"
    if operation.permission is Permission.SEARCH and answer.status_int == 200:
        assert answer.body in (b"[]", b""), path
    elif operation.permission is Permission.ADMIN:
        assert answer.status_int == 403
    else:
        # What is missing in the payload may be said first.
        assert answer.status_int in (404, 400, 415), answer.text
        assert "SOMEBODY" not in answer.text
