"""Every route of the table, asked by somebody of each kind."""

import re
from collections.abc import Iterator

import pytest

from dicomweb_server.auth.rights import BUILTIN_ROLES
from dicomweb_server.http.guard import SESSION_COOKIE, SHARE_COOKIE
from dicomweb_server.http.routes import Place
from dicomweb_server.http.table import Operation
from dicomweb_server.permissions import Permission
from tests.http.conftest import Archive, Client, opened
from tests.http.identities import LOGIN_SETTINGS, Headers, add_user, bearer, forged, log_in
from tests.http.test_routes import operations, path_of
from tests.samples import instance, url

# Public routes that check themselves what they are given.
OWN_CHECKS = ("login.", "users.on_post_register")

OPERATIONS = [
    pytest.param(path_of(place, entry), method, operation, id=f"{method} {place}{entry.template}")
    for place, entry, method, operation in operations()
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with opened(tmp_path_factory.mktemp("guarded"), LOGIN_SETTINGS) as client:
        yield client


@pytest.fixture(scope="module")
def people(guarded: Client) -> dict[str, Headers]:
    return {role: add_user(guarded, f"{role}.user", role) for role in BUILTIN_ROLES}


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
    guarded: Client, people: dict[str, Headers], path: str, method: str, operation: Operation
) -> None:
    """The walk over the route table: no route is open that the table does not call public."""
    if operation.responder.startswith(OWN_CHECKS):
        assert operation.permission is Permission.PUBLIC
        return
    public = operation.permission is Permission.PUBLIC
    for headers in ({}, bearer("None"), *list(forged(people["admin"]["Authorization"].split()[1]).values())[:3]):
        assert (status(guarded, method, path, headers) == 401) is not public, headers
    for role, permissions in BUILTIN_ROLES.items():
        found = status(guarded, method, path, people[role])
        if public or operation.permission in permissions:
            assert found not in (401, 403), role
        else:
            assert found == 403, role


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

    @pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1"])
    def test_login_never_leads_elsewhere(self, make_archive: Archive, target: str) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        form = {"username": "admin", "password": "correct horse battery", "next": target}
        answer = archive.post("/login", form, headers={"Accept": "text/html"}, status=303)
        assert answer.headers["Location"] == "http://localhost/"

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
        archive.get("/studies", extra_environ={"REMOTE_ADDR": "10.9.9.9"})

    def test_headers(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "http.hsts_seconds": 100})
        answer = archive.get("/studies", status=401)
        assert "Strict-Transport-Security" not in answer.headers
        assert answer.headers["Referrer-Policy"] == "same-origin"
        vary = answer.headers["Vary"]
        assert "Authorization" in vary
        assert "Cookie" in vary
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


@pytest.mark.parametrize(("template", "method", "operation"), IN_A_STUDY)
def test_another_study_does_not_exist(
    guarded: Client, hidden: tuple[Headers, dict[str, str]], template: str, method: str, operation: Operation
) -> None:
    """The same walk for somebody who may, but not this study: as if it was not there."""
    stranger, places = hidden
    path = re.sub(r"\{([^}]*)\}", lambda found: places.get(found[1], "1"), template)
    guarded.reset()
    answer = guarded.request(path, method=method, headers=stranger, expect_errors=True)
    if operation.permission is Permission.SEARCH and answer.status_int == 200:
        assert answer.body in (b"[]", b""), path
    elif operation.permission is Permission.ADMIN:
        assert answer.status_int == 403
    else:
        # What is missing in the payload may be said first.
        assert answer.status_int in (404, 400, 415), answer.text
        assert "SOMEBODY" not in answer.text
