"""Tokens of other issuers: what is taken, what is not, and what happens while they are down."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dicomweb_server.app import open_parts
from dicomweb_server.auth.access import Rules
from dicomweb_server.auth.base import Parts
from dicomweb_server.auth.gate import Credentials, Gate, GateRules, Granted
from dicomweb_server.auth.local import LocalLogin
from dicomweb_server.auth.oidc import OidcLogin
from dicomweb_server.auth.rights import Roles
from dicomweb_server.auth.sessions import Session, Sessions
from dicomweb_server.errors import ConfigError, IssuerUnavailable, TooManyRequests, Unauthenticated
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from tests.unit.auth.issuers import CLIENT, Issuer, new_key, running

SHARED = "a secret of more than 32 characters" * 2
REDIRECT = "http://localhost/login/callback"


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def parts(tmp_path: Path, clock: Clock) -> Iterator[Parts]:
    storage, blobs = open_parts(load(overrides={"storage.directory": str(tmp_path / "data")}, environ={}))
    yield Parts(storage=storage, roles=Roles((), ["pacs-admins=admin"]), rules=Rules(), clock=clock)
    storage.close()
    blobs.close()


def oidc(parts: Parts, issuer: Issuer, **more: Any) -> OidcLogin:
    return OidcLogin.from_settings(settings={"issuer": issuer.url, "client_id": CLIENT, **more}, parts=parts)


class TestPublishedKeys:
    def test_a_good_token(self, parts: Parts, issuer: Issuer) -> None:
        login = oidc(parts, issuer)
        identity = login.bearer(issuer.token(aud=["account", CLIENT]))
        assert (identity.name, identity.roles, identity.kind) == ("rita", ("reader",), "token")
        admin = login.bearer(issuer.token(resource_access={CLIENT: {"roles": ["pacs-admins"]}}))
        assert admin.roles == ("reader", "admin")
        service = issuer.token(preferred_username=None, realm_access=None)
        assert login.bearer(service).permissions == frozenset()
        assert issuer.asked.count("/realms/test/certs") == 1

    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "another-client"},
            {"aud": None},
            {"iss": "http://evil.example"},
            {"exp": 1},
            {"exp": None},
            {"nbf": 9_999_999_999},
            {"typ": "ID"},
            {"typ": "Refresh"},
            {"nonce": "x"},
            {"preferred_username": None, "sub": None},
        ],
    )
    def test_what_is_not_taken(self, parts: Parts, issuer: Issuer, claims: Mapping[str, Any]) -> None:
        with pytest.raises(Unauthenticated):
            oidc(parts, issuer).bearer(issuer.token(**claims))

    @pytest.mark.parametrize(
        ("claim", "seconds", "good"), [("exp", -15, True), ("exp", -45, False), ("nbf", 15, True), ("nbf", 45, False)]
    )
    def test_clocks_may_differ_by_half_a_minute(
        self, parts: Parts, issuer: Issuer, claim: str, seconds: int, good: bool
    ) -> None:
        claims: dict[str, Any] = {claim: int(time.time()) + seconds}
        login, token = oidc(parts, issuer), issuer.token(**claims)
        if good:
            assert login.bearer(token).name == "rita"
        else:
            with pytest.raises(Unauthenticated):
                login.bearer(token)

    def test_forged_tokens(self, parts: Parts, issuer: Issuer) -> None:
        login = oidc(parts, issuer)
        good = issuer.token()
        claims = jwt.decode(good, options={"verify_signature": False})
        public = issuer.keys["one"].public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        other = new_key()
        with pytest.MonkeyPatch.context() as patch:
            # PyJWT refuses to sign with a public key; an attacker does not.
            patch.setattr("jwt.algorithms.is_pem_format", lambda _: False)
            confused = jwt.encode(claims, pem, algorithm="HS256", headers={"kid": "one"})
        forged = {
            "alg none": jwt.encode(claims, "", algorithm="none", headers={"kid": "one"}),
            "public key as shared secret": confused,
            "another key under a known id": jwt.encode(claims, other, algorithm="RS256", headers={"kid": "one"}),
            "key of the token": jwt.encode(
                claims,
                other,
                algorithm="RS256",
                headers={"kid": "x", "jwk": {"kty": "RSA"}, "jku": "http://127.0.0.1:1/keys"},
            ),
            "id of a path": jwt.encode(claims, other, algorithm="RS256", headers={"kid": "../../etc/passwd"}),
            "key for encryption": jwt.encode(claims, issuer.keys["one"], algorithm="RS256", headers={"kid": "one-enc"}),
            "changed": good[:-4] + "AAAA",
            "not a token": "a.b.c",
            "long": "a" * 20_000,
        }
        for name, token in forged.items():
            with pytest.raises(Unauthenticated) as caught:
                login.bearer(token)
            assert token not in caught.value.message, name

    def test_rotation(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer)
        old = issuer.token()
        login.bearer(old)
        issuer.keys["two"] = new_key()
        new = issuer.token(kid="two")
        with pytest.raises(Unauthenticated):
            login.bearer(new)  # it was asked a moment ago
        clock.ahead = 11
        assert login.bearer(new).name == "rita"
        login.bearer(old)
        del issuer.keys["one"]
        clock.ahead = 322
        with pytest.raises(Unauthenticated):
            login.bearer(old)

    def test_a_token_that_comes_again_is_still_checked(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        """Its signature is not verified twice, but its times are, and that its key is still published."""
        login = oidc(parts, issuer)
        short, long = issuer.token(exp=int(time.time()) + 60), issuer.token(exp=int(time.time()) + 3600)
        for _ in range(2):
            login.bearer(short)
            login.bearer(long)
        clock.ahead = 120
        login.bearer(long)
        with pytest.raises(Unauthenticated, match="expired"):
            login.bearer(short)
        issuer.keys["one"] = new_key()  # another key by the same name
        clock.ahead = 400
        with pytest.raises(Unauthenticated):
            login.bearer(long)

    def test_an_issuer_that_is_down(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        issuer.down = True
        login = oidc(parts, issuer)
        with pytest.raises(IssuerUnavailable):
            login.bearer(issuer.token())
        issuer.down = False
        clock.ahead = 20
        login.bearer(issuer.token(exp=int(time.time()) + 3600))
        issuer.down = True
        clock.ahead = 1200
        login.bearer(issuer.token(exp=int(time.time()) + 3600))  # cached keys go on
        clock.ahead = 2400
        issuer.keys["two"] = new_key()
        with pytest.raises(IssuerUnavailable):
            login.bearer(issuer.token(kid="two", exp=int(time.time()) + 3600))
        clock.ahead = 30 * 3600
        with pytest.raises(IssuerUnavailable):
            login.bearer(issuer.token(exp=int(time.time()) + 40 * 3600))

    def test_introspection(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer, introspect=True, client_secret="s")
        token = issuer.token()
        for _ in range(3):
            login.bearer(token)
        assert issuer.asked.count("/realms/test/introspect") == 1
        issuer.active = False
        clock.ahead = 11
        with pytest.raises(Unauthenticated):
            login.bearer(token)


class TestAClockThatIsSetBack:
    """What a process remembers for a while is not remembered for a day more."""

    def test_new_keys_of_the_issuer_are_taken(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer)
        login.bearer(issuer.token())
        issuer.keys["two"] = new_key()
        clock.ahead = -86_400
        assert login.bearer(issuer.token(kid="two", exp=int(clock()) + 60)).name == "rita"

    def test_a_token_that_the_issuer_ended(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer, introspect=True, client_secret="s")
        token = issuer.token()
        login.bearer(token)
        issuer.active = False
        clock.ahead = -86_400
        with pytest.raises(Unauthenticated):
            login.bearer(token)

    def test_a_password_that_was_changed_there(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer, password_grant=True)
        issuer.answer = {"access_token": issuer.token()}
        login.password("rita", "right", address="10.0.0.1")
        issuer.answer = {"error": "invalid_grant"}
        clock.ahead = -86_400
        with pytest.raises(Unauthenticated):
            login.password("rita", "right", address="10.0.0.1")


class TestPasswords:
    def test_they_are_exchanged_and_remembered(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = oidc(parts, issuer, password_grant=True)
        issuer.answer = {"access_token": issuer.token()}
        for _ in range(3):
            assert login.password("rita", "right", address="10.0.0.1").name == "rita"
        assert issuer.asked.count("/realms/test/token") == 1
        issuer.answer = {"error": "invalid_grant"}
        clock.ahead = 61
        for _ in range(5):
            with pytest.raises(Unauthenticated):
                login.password("rita", "wrong", address="10.0.0.1")
        with pytest.raises(TooManyRequests):
            login.password("rita", "wrong", address="10.0.0.1")
        issuer.answer = {"error": "unauthorized_client"}
        with pytest.raises(IssuerUnavailable, match="client_secret"):
            login.password("walt", "right", address="10.0.0.2")
        with pytest.raises(Unauthenticated):
            oidc(parts, issuer).password("rita", "right", address="10.0.0.1")


class TestBrowserLogin:
    def begin(self, login: OidcLogin) -> tuple[dict[str, str], dict[str, str]]:
        url, kept = login.login_url(redirect_uri=REDIRECT, after="/")
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}, dict(kept)

    def test_code_flow(self, parts: Parts, issuer: Issuer) -> None:
        login = oidc(parts, issuer, client_secret="s")
        asked, kept = self.begin(login)
        assert asked["code_challenge_method"] == "S256"
        assert asked["code_challenge"] != kept["verifier"]
        issuer.answer = {
            "access_token": issuer.token(),
            "id_token": issuer.token(typ="ID", nonce=asked["nonce"]),
        }
        parameters = {"state": asked["state"], "code": "c", "iss": issuer.url}
        identity, facts = login.complete_login(parameters=parameters, kept=kept, redirect_uri=REDIRECT)
        assert (identity.name, identity.roles) == ("rita", ("reader",))
        assert issuer.form["code_verifier"] == kept["verifier"]
        session = Session(session_id="x", user="rita", expires=0, facts=facts)
        assert login.of_session(session).roles == ("reader",)
        assert "id_token_hint=" in login.logout_url(session, after="http://localhost/")
        for bad in ({"state": "x"}, {"state": "\u00e9"}, {"iss": "http://evil.example"}, {"code": None}):
            sent = {name: value for name, value in {**parameters, **bad}.items() if value is not None}
            with pytest.raises(Unauthenticated):
                login.complete_login(parameters=sent, kept=kept, redirect_uri=REDIRECT)
        issuer.answer["id_token"] = issuer.token(typ="ID", nonce="another")
        with pytest.raises(Unauthenticated):
            login.complete_login(parameters=parameters, kept=kept, redirect_uri=REDIRECT)
        issuer.answer["id_token"] = issuer.token(typ="ID", nonce=asked["nonce"], sub="somebody else")
        with pytest.raises(Unauthenticated):
            login.complete_login(parameters=parameters, kept=kept, redirect_uri=REDIRECT)


class TestConfirming:
    """A session of a browser lasts as long as the issuer stands by it."""

    @pytest.fixture
    def gate(self, parts: Parts, issuer: Issuer, clock: Clock) -> Gate:
        rules = GateRules(anonymous=None, strict=False, basic=True, access_seconds=600, refresh_seconds=7 * 86_400)
        login = oidc(parts, issuer, client_secret="s")
        return Gate(login, parts, secret="x" * 40, rules=rules, clock=clock)

    def log_in(self, gate: Gate, issuer: Issuer) -> Granted:
        login = gate.authenticator
        url, kept = login.login_url(redirect_uri=REDIRECT, after="/")
        nonce = parse_qs(urlsplit(url).query)["nonce"][0]
        id_token = issuer.token(typ="ID", nonce=nonce)
        issuer.answer = {"access_token": issuer.token(), "id_token": id_token, "refresh_token": "first"}
        identity, facts = login.complete_login(
            parameters={"state": kept["state"], "code": "c"}, kept=kept, redirect_uri=REDIRECT
        )
        return gate.begin(identity, facts)

    def test_other_roles_hold_and_the_next_token_is_used(self, gate: Gate, issuer: Issuer, clock: Clock) -> None:
        browser = Credentials(session_cookie=self.log_in(gate, issuer).cookie)
        assert gate.identify(browser).roles == ("reader",)
        asked = len(issuer.asked)
        clock.ahead = 290
        assert gate.identify(browser).roles == ("reader",)
        assert len(issuer.asked) == asked
        for ahead, sent, following, role in ((310, "first", "second", "writer"), (620, "second", "third", "curator")):
            clock.ahead = ahead
            roles = {"roles": [role]}
            token = issuer.token(realm_access=roles, exp=int(clock()) + 60)
            issuer.answer = {"access_token": token, "refresh_token": following}
            assert gate.identify(browser).roles == (role,)
            assert issuer.form["grant_type"] == "refresh_token"
            assert issuer.form["refresh_token"] == sent
        assert issuer.asked.count("/realms/test/token") == 3

    @pytest.mark.parametrize("by", ["cookie", "refresh token"])
    def test_who_was_disabled_there_is_out_here(self, gate: Gate, issuer: Issuer, clock: Clock, by: str) -> None:
        granted = self.log_in(gate, issuer)
        issuer.answer = {"error": "invalid_grant"}
        clock.ahead = 310
        cookie = Credentials(session_cookie=granted.cookie)
        with pytest.raises(Unauthenticated):
            gate.identify(cookie) if by == "cookie" else gate.refresh(granted.refresh_token)
        issuer.answer = {"access_token": issuer.token(), "refresh_token": "x"}
        with pytest.raises(Unauthenticated):
            gate.refresh(granted.refresh_token)
        with pytest.raises(Unauthenticated):
            gate.identify(Credentials(scheme="bearer", token=granted.access_token))

    def test_also_after_the_clock_was_set_back(self, gate: Gate, issuer: Issuer, clock: Clock) -> None:
        granted = self.log_in(gate, issuer)
        cookie = Credentials(session_cookie=granted.cookie)
        gate.identify(cookie)
        issuer.answer = {"error": "invalid_grant"}
        clock.ahead = -86_400
        with pytest.raises(Unauthenticated):
            gate.identify(cookie)

    def test_it_goes_on_while_the_issuer_is_down_but_not_for_ever(
        self, gate: Gate, issuer: Issuer, clock: Clock
    ) -> None:
        refresh = self.log_in(gate, issuer).refresh_token
        issuer.down = True
        for days in (1, 3, 6):
            clock.ahead = days * 86_400
            granted = gate.refresh(refresh)
            refresh = granted.refresh_token
        assert gate.identify(Credentials(session_cookie=granted.cookie)).name == "rita"
        clock.ahead = 7 * 86_400 + 1
        with pytest.raises(Unauthenticated):
            gate.refresh(refresh)

    def test_tokens_of_another_user(self, gate: Gate, issuer: Issuer, clock: Clock) -> None:
        browser = Credentials(session_cookie=self.log_in(gate, issuer).cookie)
        clock.ahead = 310
        issuer.answer = {"access_token": issuer.token(preferred_username="walt", exp=int(clock()) + 60)}
        with pytest.raises(Unauthenticated):
            gate.identify(browser)

    def test_without_a_refresh_token_the_end_is_fixed(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        rules = GateRules(anonymous=None, strict=False, basic=True, access_seconds=600, refresh_seconds=1000)
        gate = Gate(oidc(parts, issuer, password_grant=True), parts, secret="x" * 40, rules=rules, clock=clock)
        issuer.answer = {"access_token": issuer.token()}
        refresh = gate.login("rita", "right", address="10.0.0.1").refresh_token
        clock.ahead = 900
        refresh = gate.refresh(refresh).refresh_token
        clock.ahead = 1001
        with pytest.raises(Unauthenticated):
            gate.refresh(refresh)


class TestSettings:
    def test_those_of_an_older_server(self, parts: Parts, issuer: Issuer, tmp_path: Path) -> None:
        root, _, realm = issuer.url.partition("/realms/")
        legacy = {"realm": realm, "authServerUrl": f"{root}/", "clientId": CLIENT, "clientSecret": "s"}
        (tmp_path / "keycloak.json").write_text(json.dumps(legacy), encoding="ascii")
        login = OidcLogin.from_settings(settings={"config_file": str(tmp_path / "keycloak.json")}, parts=parts)
        assert login.bearer(issuer.token()).name == "rita"

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"issuer": "x", "client_id": "y"},
            {"issuer": "https://a.example", "client_id": "y", "introspect": True},
            {"isuer": "https://a.example"},
            {"config_file": "/nowhere.json"},
        ],
    )
    def test_what_cannot_be_used(self, parts: Parts, settings: Mapping[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"auth\.keycloak"):
            OidcLogin.from_settings(settings=settings, parts=parts)


class TestJwt:
    COMMON: ClassVar = {"issuer": "https://login.example", "audience": CLIENT}

    def token(self, key: Any, algorithm: str, **claims: Any) -> str:
        whole = {"iss": "https://login.example", "aud": CLIENT, "exp": int(time.time()) + 60, "sub": "rita"}
        return jwt.encode({**whole, "roles": ["reader"], **claims}, key, algorithm=algorithm)

    def test_shared_secret(self, parts: Parts) -> None:
        login = LocalLogin.from_settings(settings={**self.COMMON, "secret": SHARED}, parts=parts)
        assert login.bearer(self.token(SHARED, "HS256")).roles == ("reader",)
        for bad in (self.token(SHARED + "x", "HS256"), self.token(SHARED, "HS512"), self.token(new_key(), "RS256")):
            with pytest.raises(Unauthenticated):
                login.bearer(bad)
        leeway = login.bearer(self.token(SHARED, "HS256", exp=int(time.time()) - 10))
        assert leeway.name == "rita"

    def test_public_key(self, parts: Parts, tmp_path: Path) -> None:
        key = new_key()
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pem").write_bytes(pem)
        settings = {**self.COMMON, "public_key_pem_file": str(tmp_path / "key.pem")}
        login = LocalLogin.from_settings(settings=settings, parts=parts)
        assert login.bearer(self.token(key, "RS256")).name == "rita"
        with pytest.raises(Unauthenticated):
            login.bearer(self.token(key, "PS256"))

    def published(self, parts: Parts, issuer: Issuer, page: str = "certs") -> LocalLogin:
        settings = {"issuer": issuer.url, "audience": CLIENT, "jwks_url": f"{issuer.url}/{page}"}
        return LocalLogin.from_settings(settings={**settings, "roles_claims": ["realm_access.roles"]}, parts=parts)

    def test_a_key_set(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        login = self.published(parts, issuer)
        hour = int(time.time()) + 3600
        old = issuer.token(exp=hour)
        for _ in range(3):
            assert login.bearer(old).roles == ("reader",)
        assert issuer.asked == ["/realms/test/certs"]
        with pytest.raises(Unauthenticated):
            login.bearer(issuer.token(aud="another"))
        issuer.keys["two"] = new_key()
        clock.ahead = 11
        new = issuer.token(kid="two", exp=hour)
        assert login.bearer(new).name == "rita"  # rotated: asked once more
        assert len(issuer.asked) == 2
        del issuer.keys["one"]
        clock.ahead = 322
        with pytest.raises(Unauthenticated):
            login.bearer(old)

    def test_a_key_set_that_cannot_be_had(self, parts: Parts, issuer: Issuer, clock: Clock) -> None:
        day = int(time.time()) + 40 * 3600
        login = self.published(parts, issuer)
        issuer.down = True
        with pytest.raises(IssuerUnavailable):
            login.bearer(issuer.token(exp=day))
        issuer.down, clock.ahead = False, 11
        login.bearer(issuer.token(exp=day))
        issuer.down, clock.ahead = True, 20 * 3600
        login.bearer(issuer.token(exp=day))  # cached keys go on for a day
        clock.ahead = 25 * 3600
        with pytest.raises(IssuerUnavailable):
            login.bearer(issuer.token(exp=day))

    @pytest.mark.parametrize("trick", ["moved", "huge"])
    def test_a_key_set_behind_a_redirect_or_without_end(self, parts: Parts, issuer: Issuer, trick: str) -> None:
        login = self.published(parts, issuer, "odd")
        assert login.bearer(issuer.token()).name == "rita"
        setattr(issuer, trick, "/realms/test/odd")
        with pytest.raises(IssuerUnavailable):
            self.published(parts, issuer, "odd").bearer(issuer.token())
        assert issuer.asked == ["/realms/test/odd"] * 2  # the redirect was not followed

    @pytest.mark.parametrize(
        "settings",
        [
            {"secret": SHARED},
            {**COMMON, "secret": "short"},
            {**COMMON, "secret": SHARED, "algorithms": ["RS256"]},
            {**COMMON, "secret": SHARED, "jwks_url": "https://a.example"},
            {**COMMON, "jwks_url": "https://a.example", "algorithms": ["HS256"]},
            {**COMMON, "jwks_url": "https://a.example", "algorithms": ["none"]},
            {**COMMON, "jwks_url": "file:///etc/passwd"},
            {**COMMON, "public_key_pem_file": "/nowhere.pem"},
            {**COMMON, "secret": SHARED, "leeway_seconds": 10_000},
        ],
    )
    def test_what_cannot_be_used(self, parts: Parts, settings: Mapping[str, Any]) -> None:
        with pytest.raises(ConfigError, match=r"auth\.jwt"):
            LocalLogin.from_settings(settings=settings, parts=parts)


def test_sessions_expire(parts: Parts, clock: Clock) -> None:
    storage: Storage = parts.storage
    sessions = Sessions(storage, clock=clock)
    session, refresh = sessions.begin("rita", seconds=100)
    clock.ahead = 90
    _, refresh = sessions.renew(refresh)
    clock.ahead = 180
    sessions.get(session.session_id)
    clock.ahead = 200
    with pytest.raises(Unauthenticated):
        sessions.renew(refresh)
