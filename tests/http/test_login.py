"""Logging in and out, users, keys, and the paths of older servers."""

import statistics
import time

import argon2
import pytest

from tests.http.conftest import Archive, Client
from tests.http.identities import ADMIN, LOGIN_SETTINGS, PASSWORD, add_user, basic, bearer, log_in

NEW_PASSWORD = "another long password"


@pytest.fixture
def guarded(make_archive: Archive) -> Client:
    return make_archive(LOGIN_SETTINGS)


def admin(archive: Client) -> dict[str, str]:
    return bearer(log_in(archive)["token"])


class TestTokens:
    @pytest.mark.parametrize("kind", ["form", "json", "form-data"])
    def test_login_by_form_and_json(self, guarded: Client, kind: str) -> None:
        fields = {"username": ADMIN.upper(), "password": PASSWORD}
        if kind == "json":
            answer = guarded.post_json("/login", fields)
        else:
            more = {"upload_files": [("x", "x.txt", b"x")]} if kind == "form-data" else {}
            answer = guarded.post("/login", fields, **more)
        assert answer.json["code"] == 1
        assert answer.json["token_type"] == "Bearer"
        assert answer.headers["Cache-Control"] == "no-store"
        guarded.reset()
        guarded.get("/studies", headers=bearer(answer.json["access_token"]))

    @pytest.mark.parametrize("path", ["/login", "/loging/getAccessToken", "/register"])
    def test_no_password_in_the_url(self, guarded: Client, path: str) -> None:
        refused = guarded.post(f"{path}?username={ADMIN}&password={PASSWORD}", status="4*")
        if path != "/register":
            assert "payload" in refused.json["reason"]
        assert PASSWORD not in refused.text

    def test_wrong_is_wrong(self, guarded: Client) -> None:
        for user, password in ((ADMIN, "not the password"), ("nobody", PASSWORD), ("../x", PASSWORD)):
            refused = guarded.post_json("/login", {"username": user, "password": password}, status=401)
            assert refused.json["code"] == 2
            assert refused.json["reason"] == "the user name or the password is wrong"
        guarded.post_json("/login", {"username": ADMIN}, status=400)
        guarded.post("/login", b"[1]", headers={"Content-Type": "application/json"}, status=400)
        guarded.post("/login", b"x" * 100_000, headers={"Content-Type": "application/json"}, status=413)

    def test_a_refresh_token_is_good_once(self, guarded: Client) -> None:
        first = log_in(guarded)
        second = guarded.post_json("/login/refresh", {"refresh_token": first["refresh_token"]}).json
        guarded.get("/studies", headers=bearer(second["access_token"]))
        # It comes a second time: it was stolen, or its successor was. Both end.
        guarded.post_json("/login/refresh", {"refresh_token": first["refresh_token"]}, status=401)
        guarded.post_json("/login/refresh", {"refresh_token": second["refresh_token"]}, status=401)
        guarded.post_json("/login/refresh", {"refresh_token": "a.b"}, status=401)
        guarded.post_json("/login/refresh", {}, status=400)

    def test_an_old_refresh_token_ends_the_session_whenever_it_comes(self, guarded: Client) -> None:
        first = last = log_in(guarded)
        for _ in range(3):
            last = guarded.post_json("/login/refresh", {"refresh_token": last["refresh_token"]}).json
        cut_off = first["refresh_token"][:-5]
        guarded.post_json("/login/refresh", {"refresh_token": cut_off}, status=401)
        last = guarded.post_json("/login/refresh", {"refresh_token": last["refresh_token"]}).json
        refused = guarded.post_json("/login/refresh", {"refresh_token": first["refresh_token"]}, status=401)
        assert "used before" in refused.json["reason"]
        guarded.post_json("/login/refresh", {"refresh_token": last["refresh_token"]}, status=401)

    def test_logout(self, guarded: Client) -> None:
        tokens = log_in(guarded)
        guarded.get("/studies", headers=bearer(tokens["token"]))
        guarded.post("/logout", headers=bearer(tokens["token"]))
        guarded.get("/studies", headers=bearer(tokens["token"]), status=401)
        guarded.post_json("/login/refresh", {"refresh_token": tokens["refresh_token"]}, status=401)
        guarded.get("/logout")
        guarded.post("/login", {"username": ADMIN, "password": PASSWORD})
        guarded.get("/studies")
        guarded.get("/logout", headers={"Accept": "text/html"}, status=303)
        guarded.get("/studies", status=401)

    def test_basic_is_forgotten_when_the_password_changes(self, guarded: Client) -> None:
        header = basic(ADMIN, PASSWORD)
        for _ in range(2):
            guarded.get("/studies", headers=header)
        guarded.put_json(f"/api/users/{ADMIN}", {"password": NEW_PASSWORD}, headers=header)
        guarded.get("/studies", headers=header, status=401)
        guarded.get("/studies", headers=basic(ADMIN, NEW_PASSWORD))
        for value in ("Basic", "Basic !", "Basic YQ==", "Digest x", "Bearer"):
            guarded.get("/studies", headers={"Authorization": value}, status=401)

    def test_tokens_end_when_the_user_changes(self, guarded: Client) -> None:
        header, boss = add_user(guarded, "walt", "writer"), admin(guarded)
        guarded.put_json("/api/users/walt", {"disabled": True}, headers=boss)
        guarded.get("/studies", headers=header, status=401)
        guarded.post_json("/login", {"username": "walt", "password": "walt-has-a-password"}, status=401)
        guarded.put_json("/api/users/walt", {"disabled": False, "roles": ["reader"]}, headers=boss)
        token = log_in(guarded, "walt", "walt-has-a-password")["token"]
        assert guarded.get("/api/profile", headers=bearer(token)).json["roles"] == ["reader"]
        guarded.delete("/api/users/walt", headers=boss, status=204)
        guarded.post_json("/login", {"username": "walt", "password": "walt-has-a-password"}, status=401)

    def test_guessing_has_to_wait_and_locks_nobody_else_out(self, guarded: Client) -> None:
        guess = {"username": ADMIN, "password": "a wrong guess"}
        here, elsewhere = {"REMOTE_ADDR": "10.0.0.1"}, {"REMOTE_ADDR": "10.0.0.2"}
        for _ in range(5):
            guarded.post_json("/login", guess, extra_environ=here, status=401)
        waiting = guarded.post_json("/login", guess, extra_environ=here, status=429)
        assert int(waiting.headers["Retry-After"]) >= 1
        right = {"username": ADMIN, "password": PASSWORD}
        guarded.post_json("/login", right, extra_environ=here, status=429)
        guarded.post_json("/login", right, extra_environ=elsewhere)

    def test_no_name_is_told_by_the_time_it_takes(self, guarded: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever is asked for, one password is verified, at the same cost. Compared by medians, as the machine may be
        busy: what tells names apart is tens of times quicker."""
        add_user(guarded, "gone", "reader")
        guarded.put_json("/api/users/gone", {"disabled": True}, headers=admin(guarded))
        verified: list[str] = []
        verify = argon2.PasswordHasher.verify

        def counted(hasher: argon2.PasswordHasher, kept: str, password: str) -> bool:
            verified.append(kept.rpartition("$")[0].rpartition("$")[0])
            return verify(hasher, kept, password)

        monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
        took: dict[str, list[float]] = {ADMIN: [], "nobody": [], "gone": []}
        for turn in range(5):
            for by_header in (False, True):
                for user, times in took.items():
                    where = {"REMOTE_ADDR": f"10.1.{turn}.{len(verified) + 1}"}
                    header = basic(user, "a wrong guess") if by_header else {}
                    began = time.perf_counter()
                    if by_header:
                        guarded.get("/studies", headers=header, extra_environ=where, status=401)
                    else:
                        guess = {"username": user, "password": "a wrong guess"}
                        guarded.post_json("/login", guess, extra_environ=where, status=401)
                    times.append(time.perf_counter() - began)
        assert len(verified) == 30
        assert len(set(verified)) == 1  # the parameters of argon2id, before salt and digest
        medians = sorted(statistics.median(times) for times in took.values())
        assert medians[-1] < 3 * medians[0]


class TestOlderPaths:
    def test_they_answer(self, guarded: Client) -> None:
        answer = guarded.post("/loging/getAccessToken", {"username": ADMIN, "password": PASSWORD}).json
        assert (answer["code"], answer["username"]) == (1, ADMIN)
        guarded.reset()
        header = {"Authorization": answer["token"]}
        assert guarded.post("/login/token", headers=header).json["code"] == 1
        assert guarded.post("/login/token", headers=bearer("x"), status=401).json["code"] == 2
        guarded.post("/login/token", status=401)
        assert guarded.get("/api/profile", headers=header).json["username"] == ADMIN
        guarded.get("/api/profile", status=401)
        assert guarded.get("/checkIsLogin").json == {"isLogin": False, "username": ""}
        assert guarded.get("/checkIsLogin", headers=header).json["isLogin"]
        guarded.get("/studies", headers={"X-Access-Token": answer["token"]})

    def test_users(self, guarded: Client) -> None:
        boss = admin(guarded)
        guarded.post("/register", {"acc": "rita", "pwd": "rita-has-a-password"}, status=403)
        fields = {"acc": "rita", "pwd": "rita-has-a-password", "fname": "Rita"}
        guarded.post("/api/users", fields, headers=boss, status=201)
        guarded.post("/api/users", fields, headers=boss, status=409)
        guarded.post("/api/users", {"acc": "x", "pwd": "short"}, headers=boss, status=400)
        guarded.post_json("/api/users", {"acc": "x", "pwd": "long enough", "roles": ["king"]}, headers=boss, status=400)
        guarded.put_json("/api/users/nobody", {"disabled": True}, headers=boss, status=404)
        listed = guarded.get("/api/users?_count=10&_offset=1", headers=boss).json
        assert listed["total"] == 2
        assert listed["users"][0]["first_name"] == "Rita"
        assert "argon2" not in str(listed)

    def test_who_registers_waits(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.registration": True})
        fields = {"acc": "rita", "pwd": "rita-has-a-password"}
        archive.post("/register", fields, status=202)
        login = {"username": "rita", "password": "rita-has-a-password"}
        archive.post_json("/login", login, status=401)
        archive.put_json("/api/users/rita", {"disabled": False}, headers=admin(archive))
        archive.post_json("/login", login)


class TestKeys:
    def test_a_key_has_a_scope_and_ends(self, guarded: Client) -> None:
        boss = admin(guarded)
        fields = {"name": "import", "roles": ["writer"], "permissions": ["store"], "days": 1}
        made = guarded.post_json("/api/keys", fields, headers=boss, status=201).json
        for header in (bearer(made["key"]), {"X-Api-Key": made["key"]}, basic("key", made["key"])):
            guarded.get("/studies", headers=header, status=403)
            guarded.post("/studies", b"x", headers={"Content-Type": "text/plain", **header}, status=415)
        assert made["key"] not in guarded.get("/api/keys", headers=boss).text
        guarded.get("/studies", headers=bearer(made["key"][:-1] + "_"), status=401)
        guarded.delete(f"/api/keys/{made['id']}", headers=boss, status=204)
        guarded.post("/studies", b"x", headers=bearer(made["key"]), status=401)
        guarded.post_json("/api/keys", {"name": "x", "permissions": ["fly"]}, headers=boss, status=400)

    def test_where_passwords_are_not_taken_with_each_request_keys_are(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.basic": False})
        refused = archive.get("/studies", headers=basic(ADMIN, PASSWORD), status=401)
        assert "log in at /login" in refused.json["reason"]
        assert "Basic" not in refused.headers["WWW-Authenticate"]
        boss = bearer(log_in(archive)["token"])
        made = archive.post_json("/api/keys", {"name": "x", "roles": ["reader"]}, headers=boss, status=201).json
        archive.get("/studies", headers=basic("key", made["key"]))
