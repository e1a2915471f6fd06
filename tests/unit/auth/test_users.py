"""Users on the command line, passwords, waits after failures, roles."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.app import open_parts
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.auth import passwords
from dicomweb_server.auth.expiry import purge_expired
from dicomweb_server.auth.failures import FORGET_SECONDS, LONGEST_WAIT_SECONDS, Failures
from dicomweb_server.auth.rights import Roles
from dicomweb_server.auth.secret import server_secret
from dicomweb_server.auth.sessions import Sessions
from dicomweb_server.auth.users import Users
from dicomweb_server.errors import BadRequest, ConfigError, TooManyRequests, Unauthenticated
from dicomweb_server.permissions import Permission
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage, blobs = open_parts(load(overrides={"storage.directory": str(tmp_path / "data")}, environ={}))
    yield storage
    storage.close()
    blobs.close()


class TestCommand:
    def run(self, folder: Path, *words: str) -> int:
        return main([words[0], "--data", str(folder / "data"), *words[1:]])

    def test_the_first_user_is_an_administrator(
        self, tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert self.run(tmp_path, "user", "add", "Anna") == 0
        printed = capsys.readouterr().out
        password = printed.partition("Password: ")[2].partition("\n")[0]
        anna = Users(storage).get("anna")
        assert anna.roles == ("admin",)
        assert passwords.matches(password, anna.password)
        assert self.run(tmp_path, "user", "add", "rita") == 0
        assert Users(storage).get("rita").roles == ("reader",)

    def test_all_the_rest(
        self, tmp_path: Path, storage: Storage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("first password of walt\n"))
        assert self.run(tmp_path, "user", "add", "walt", "--role", "writer", "--password-stdin") == 0
        for words in (
            ("role", "walt", "reader", "curator"),
            ("access", "walt", "InstitutionName=North Hospital"),
            ("disable", "walt"),
        ):
            assert self.run(tmp_path, "user", *words) == 0
        walt = Users(storage).get("walt")
        assert (walt.roles, walt.disabled, walt.generation) == (("reader", "curator"), True, 4)
        capsys.readouterr()
        assert self.run(tmp_path, "user", "list") == 0
        listed = capsys.readouterr().out
        assert listed.split()[:3] == ["walt", "reader,curator", "disabled"]
        assert "argon2" not in listed
        monkeypatch.setattr("sys.stdin", io.StringIO("second password of walt\n"))
        assert self.run(tmp_path, "user", "password", "walt", "--password-stdin") == 0
        assert passwords.matches("second password of walt", Users(storage).get("walt").password)
        assert self.run(tmp_path, "user", "enable", "walt") == 0
        assert self.run(tmp_path, "user", "remove", "walt") == 0
        assert Users(storage).find("walt") is None
        assert "Nobody is an administrator now" in capsys.readouterr().out
        assert main(["user", "remove", "nobody", "--data", str(tmp_path / "data")]) == 1
        assert "there is no user nobody" in capsys.readouterr().err
        # What was done here is in the audit trail, and by whom on this machine.
        noted = [record for _, record in AuditTrail(storage).all({"action": "admin"})]
        assert [record.what for record in noted] == [
            f"user {action}" for action in ("add", "role", "access", "disable", "password", "enable", "remove")
        ]
        assert {(record.object_id, record.kind) for record in noted} == {("walt", "command")}
        assert all(record.user for record in noted)

    @pytest.mark.parametrize(
        "words",
        [
            ("role", "nobody", "reader"),
            ("add", "bad name"),
            ("add", "x", "--role", "king"),
            ("add", "x", "--access", "SeriesDescription=x"),
            ("remove", "nobody"),
        ],
    )
    def test_what_cannot_be_done(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str]
    ) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO())
        assert self.run(tmp_path, "user", *words) == 1
        assert capsys.readouterr().err.startswith("dicomweb-server: ")

    def test_keys(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run(tmp_path, "key", "add", "nightly", "--role", "writer", "--permission", "store") == 0
        text = capsys.readouterr().out.splitlines()[-1]
        assert text.startswith("dws_")
        assert self.run(tmp_path, "key", "list") == 0
        listed = capsys.readouterr().out
        assert listed.split()[1:4] == ["nightly", "writer", "store"]
        assert self.run(tmp_path, "key", "revoke", listed.split()[0]) == 0
        assert self.run(tmp_path, "key", "revoke", listed.split()[0]) == 1
        assert self.run(tmp_path, "key", "revoke", "../x") == 1


class TestPasswords:
    def test_argon2id_is_kept(self) -> None:
        kept = passwords.hashed("a good password")
        assert kept.startswith("$argon2id$")
        assert passwords.matches("a good password", kept)
        assert not passwords.matches("a good passwore", kept)
        assert not passwords.matches("a good password", None)
        assert not passwords.matches("x" * 2000, passwords.hashed(""))

    @pytest.mark.parametrize("password", ["short", "administrator", "aaaaaaaaaaaaaaaa", "x" * 2000])
    def test_what_is_no_password(self, password: str) -> None:
        with pytest.raises(BadRequest):
            passwords.check_strength(password, user="Administrator")

    def test_an_unknown_user_takes_as_long_as_a_wrong_password(self) -> None:
        kept = passwords.hashed("a good password")

        def best(of: str | None) -> float:
            times = []
            for _ in range(7):
                start = time.process_time()
                passwords.matches("a wrong password", of)
                times.append(time.process_time() - start)
            return min(times)

        assert 0.5 < best(kept) / best(None) < 2


class TestFailures:
    def test_waits_grow_hold_everywhere_and_end(self, storage: Storage) -> None:
        now = [1000.0]
        here, other_process = (Failures(storage, clock=lambda: now[0]) for _ in range(2))
        for _ in range(5):
            here.check("anna", "10.0.0.1")
            here.failed("anna", "10.0.0.1")
        for one in (here, other_process):
            with pytest.raises(TooManyRequests):
                one.check("anna", "10.0.0.1")
            one.check("anna", "10.0.0.2")
            one.check("walt", "10.0.0.1")
        now[0] += 2.5
        here.check("anna", "10.0.0.1")
        here.failed("anna", "10.0.0.1")
        now[0] += 2.5
        with pytest.raises(TooManyRequests) as caught:
            here.check("anna", "10.0.0.1")
        assert caught.value.retry_after_seconds >= 1
        now[0] += 5
        here.check("anna", "10.0.0.1")
        here.succeeded("anna", "10.0.0.1")
        here.failed("anna", "10.0.0.1")
        here.check("anna", "10.0.0.1")

    def test_they_are_forgotten_after_an_hour(self, storage: Storage) -> None:
        now = [1000.0]
        failures = Failures(storage, clock=lambda: now[0])
        for _ in range(4):
            failures.failed("anna", "10.0.0.1")
        now[0] += FORGET_SECONDS + 1
        for _ in range(4):
            failures.failed("anna", "10.0.0.1")
        failures.check("anna", "10.0.0.1")
        failures.failed("anna", "10.0.0.1")
        with pytest.raises(TooManyRequests):
            failures.check("anna", "10.0.0.1")

    def test_nobody_waits_for_a_clock_that_was_set_back(self, storage: Storage) -> None:
        now = [100_000.0]
        failures = Failures(storage, clock=lambda: now[0])
        for _ in range(6):
            failures.failed("anna", "10.0.0.1")
        with pytest.raises(TooManyRequests):
            failures.check("anna", "10.0.0.1")
        now[0] -= LONGEST_WAIT_SECONDS + 1
        failures.check("anna", "10.0.0.1")

    def test_one_who_tries_many_names_waits(self, storage: Storage) -> None:
        failures = Failures(storage, clock=lambda: 1000.0)
        for number in range(20):
            failures.failed(f"name{number}", "2001:db8::1")
        with pytest.raises(TooManyRequests):
            failures.check("anna", "2001:db8::2")
        failures.check("anna", "2001:db8:0:1::1")

    def test_waits_and_sessions_are_purged_when_they_are_over(self, storage: Storage) -> None:
        now = [1000.0]
        failures, sessions = Failures(storage, clock=lambda: now[0]), Sessions(storage, clock=lambda: now[0])
        for _ in range(8):
            failures.failed("anna", "10.0.0.1")
        ended, _ = sessions.begin("anna", seconds=300)
        sessions.end(ended.session_id)
        old, _ = sessions.begin("walt", seconds=300)
        kept, refresh = sessions.begin("rita", seconds=300)
        assert purge_expired(storage, now=now[0], limit=10) == 0
        now[0] += 200
        sessions.renew(refresh)
        now[0] += 101
        assert purge_expired(storage, now=now[0], limit=1) == 2, "a wait and a session"
        assert purge_expired(storage, now=now[0], limit=10) == 1
        assert sessions.get(kept.session_id).user == "rita"
        for gone in (ended, old):
            assert list(storage.document_history(kind="session", document_id=gone.session_id)) == []
            with pytest.raises(Unauthenticated):
                sessions.get(gone.session_id)

    def test_of_a_session_that_was_ended_nothing_is_kept(self, storage: Storage) -> None:
        sessions = Sessions(storage)
        session, refresh = sessions.begin("anna", seconds=300, facts={"id_token": "a token of the issuer"})
        sessions.end(session.session_id)
        versions = storage.document_history(kind="session", document_id=session.session_id)
        assert "a token" not in str([version.body for version in versions])
        with pytest.raises(Unauthenticated):
            sessions.renew(refresh)
        sessions.end(session.session_id)
        sessions.end("unknown")


class TestRoles:
    def test_own_roles_and_those_of_an_issuer(self) -> None:
        roles = Roles(["technician=search,store"], ["pacs-admins=admin", "staff=reader,technician"])
        assert roles.permissions(["technician"]) == {Permission.SEARCH, Permission.STORE}
        assert roles.of_issuer(["staff", "pacs-admins", "offline_access"]) == ("reader", "technician", "admin")
        assert roles.permissions(["nothing"]) == frozenset()

    @pytest.mark.parametrize(
        ("definitions", "mapping"), [(["x"], []), (["x=fly"], []), (["admin=search"], []), ([], ["a=king"])]
    )
    def test_what_is_none_stops_the_start(self, definitions: list[str], mapping: list[str]) -> None:
        with pytest.raises(ConfigError, match="auth"):
            Roles(definitions, mapping)


class TestSecret:
    def test_one_is_made_and_kept(self, tmp_path: Path) -> None:
        first = server_secret("", tmp_path / "data")
        assert server_secret("", tmp_path / "data") == first
        assert len(first) == 64
        assert (tmp_path / "data" / "auth-secret").stat().st_mode & 0o777 == 0o600
        assert server_secret("s" * 32, tmp_path) == "s" * 32
        with pytest.raises(ConfigError, match="32"):
            server_secret("short", tmp_path)

    def test_it_is_not_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "secret").write_text("very" * 10, encoding="ascii")
        config = f'[auth]\nmethod = "jwt"\nsecret_file = "{tmp_path}/secret"\nfirst_admin_password = "{"pass" * 4}"\n'
        (tmp_path / "site.toml").write_text(config, encoding="utf-8")
        assert load(tmp_path / "site.toml", environ={}).auth.secret == "very" * 10
        assert main(["config", "--config", str(tmp_path / "site.toml")]) == 0
        shown = capsys.readouterr().out
        assert 'secret = "***"' in shown
        assert "veryvery" not in shown
        (tmp_path / "wrong.toml").write_text("[auth]\nsecret = 1234567890\n", encoding="utf-8")
        assert main(["config", "--config", str(tmp_path / "wrong.toml")]) == 1
        assert "1234567890" not in capsys.readouterr().err
        assert "passpass" not in shown
