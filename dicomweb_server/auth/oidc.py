"""Logging in at an OpenID Connect issuer, Keycloak or any other: `auth.method = "keycloak"`."""

import hmac
import secrets
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Self
from urllib.parse import urlencode

import orjson

from dicomweb_server.auth.base import Authenticator, Parts
from dicomweb_server.auth.expiry import is_recent
from dicomweb_server.auth.failures import Failures
from dicomweb_server.auth.issuer import PublishedKeys, ReadToken, TokenReader, Web
from dicomweb_server.auth.remembered import PasswordKeys, Remembered
from dicomweb_server.auth.rights import Identity
from dicomweb_server.auth.sessions import Session
from dicomweb_server.auth.tables import Table
from dicomweb_server.errors import ConfigError, IssuerUnavailable, Unauthenticated

KEYS = (
    "issuer",
    "client_id",
    "client_secret",
    "audience",
    "algorithms",
    "roles_claims",
    "name_claims",
    "scope",
    "leeway_seconds",
    "password_grant",
    "introspect",
    "confirm_seconds",
    "ca_file",
    "config_file",
)
# How the settings of an older server name them, in a JSON file.
LEGACY = {"realm": "realm", "authServerUrl": "url", "clientId": "client_id", "clientSecret": "client_secret"}
DISCOVERY_FRESH_SECONDS = 3600.0
ASK_AGAIN_SECONDS = 10.0
REMEMBER_SECONDS = 60.0
MAX_REMEMBERED = 2000
CONFIRM_SECONDS = 300
_LOST = "this login was begun elsewhere, or it took too long; begin again at /login"


class OidcLogin(Authenticator):
    """An issuer found by its discovery document. Nothing of it is fetched before it is needed.

    A session of a browser is confirmed at the issuer each five minutes, with the refresh token that it gave: who was
    disabled there, or logged out, is soon out here as well, and other roles hold here, too.
    """

    def __init__(self, table: Table, parts: Parts, *, web: Web) -> None:
        legacy = _legacy(table)
        self._issuer = table.url("issuer") or legacy.get("issuer", "")
        self._client_id = table.text("client_id") or legacy.get("client_id", "")
        self._client_secret = table.text("client_secret") or legacy.get("client_secret", "")
        if not self._issuer or not self._client_id:
            raise ConfigError("auth.keycloak: issuer and client_id are needed, or a config_file that names them")
        self._parts = parts
        self._web = web
        self._scope = table.text("scope", "openid profile")
        self.confirm_seconds = float(table.number("confirm_seconds", CONFIRM_SECONDS, 1, 86_400))
        self._password_grant = table.truth("password_grant", False)
        self._introspect = table.truth("introspect", False)
        if self._introspect and not self._client_secret:
            raise ConfigError("auth.keycloak.introspect needs client_secret")
        self._discovery = _Discovery(self._issuer, web, clock=parts.clock)
        self._reader = TokenReader(
            PublishedKeys(lambda: self._discovery.text("jwks_uri"), web, clock=parts.clock),
            algorithms=table.texts("algorithms") or ("RS256", "PS256", "ES256"),
            issuer=lambda: self._issuer,
            audience=table.texts("audience") or (self._client_id,),
            roles_claims=table.texts("roles_claims")
            or ("realm_access.roles", f"resource_access.{self._client_id}.roles", "roles"),
            name_claims=table.texts("name_claims") or ("preferred_username", "sub"),
            leeway_seconds=table.number("leeway_seconds", 30, 0, 300),
            clock=parts.clock,
        )
        self._failures = Failures(parts.storage, clock=parts.clock)
        self._keys = PasswordKeys()
        self._passwords: Remembered[bytes, Identity] = Remembered(seconds=REMEMBER_SECONDS, most=MAX_REMEMBERED)
        self._active: Remembered[bytes, bool] = Remembered(seconds=ASK_AGAIN_SECONDS, most=MAX_REMEMBERED)

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any], parts: Parts) -> Self:
        """With the table `[auth.keycloak]`."""
        table = Table(settings, "keycloak", KEYS)
        return cls(table, parts, web=Web(ca_file=table.text("ca_file")))

    def bearer(self, token: str) -> Identity:
        """Verified here with the keys of the issuer; asked about at the issuer, too, where `introspect` is set."""
        read = self._reader.read(token)
        if self._introspect:
            self._check_active(token)
        return self._identity(read, kind="token")

    def password(self, user: str, password: str, *, address: str) -> Identity:
        """Exchanged for a token at the issuer (RFC 6749 4.3), then remembered for a minute."""
        if not self._password_grant:
            raise Unauthenticated("passwords are not taken here; log in at /login, or send a token")
        now = self._parts.clock()
        key = self._keys.of(user, password)
        if (found := self._passwords.get(key, now)) is not None:
            return found
        self._failures.check(user, address)
        form = {"grant_type": "password", "username": user, "password": password, "scope": self._scope}
        try:
            answer = self._token(form)
        except Unauthenticated:
            self._failures.failed(user, address)
            raise Unauthenticated("the user name or the password is wrong") from None
        self._failures.succeeded(user, address)
        identity = self._identity(self._reader.read(str(answer.get("access_token", ""))), kind="user")
        self._passwords.put(key, identity, now)
        return identity

    def facts(self, identity: Identity) -> Mapping[str, Any]:
        """The roles of the login, which last until the session is confirmed."""
        return {"roles": list(identity.roles)}

    def of_session(self, session: Session) -> Identity:
        """As the issuer told at the login."""
        return self._parts.identity(session.user, tuple(session.facts.get("roles", ())))

    def confirm(self, session: Session) -> Mapping[str, Any]:
        """Renewed at the issuer (RFC 6749 6). Where it gave no refresh token, the session goes on until its end."""
        token = session.facts.get("refresh_token")
        if not token:
            return session.facts
        try:
            answer = self._token({"grant_type": "refresh_token", "refresh_token": str(token)})
        except Unauthenticated:
            raise Unauthenticated("the login service has ended this login; log in again") from None
        read = self._reader.read(str(answer.get("access_token", "")))
        identity = self._identity(read, kind="user")
        if identity.name != session.user:
            raise Unauthenticated("the tokens of the login service are of two users")
        return {**session.facts, **self.facts(identity), "refresh_token": answer.get("refresh_token", token)}

    def login_url(self, *, redirect_uri: str, after: str) -> tuple[str, Mapping[str, str]]:
        """Authorization code flow with PKCE (RFC 7636), state and nonce."""
        kept = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
        challenge = urlsafe_b64encode(sha256(kept["verifier"].encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": self._scope,
            "state": kept["state"],
            "nonce": kept["nonce"],
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._discovery.text('authorization_endpoint')}?{urlencode(query)}", kept

    def complete_login(
        self, *, parameters: Mapping[str, str], kept: Mapping[str, str], redirect_uri: str
    ) -> tuple[Identity, Mapping[str, Any]]:
        """Exchange the code, and check that the tokens are the answer to what was asked."""
        if not _same(parameters.get("state", ""), kept.get("state", " ")):
            raise Unauthenticated(_LOST)
        # RFC 9207: an issuer that names itself is the one that was asked.
        if parameters.get("iss", self._issuer) != self._issuer or "code" not in parameters:
            raise Unauthenticated("the login service refused the login")
        answer = self._token(
            {
                "grant_type": "authorization_code",
                "code": parameters["code"],
                "redirect_uri": redirect_uri,
                "code_verifier": kept["verifier"],
            }
        )
        id_token = str(answer.get("id_token", ""))
        claims = self._reader.claims(id_token, audience=(self._client_id,))
        if not _same(str(claims.get("nonce", "")), kept["nonce"]):
            raise Unauthenticated(_LOST)
        read = self._reader.read(str(answer.get("access_token", "")))
        if read.claims.get("sub") != claims.get("sub"):
            raise Unauthenticated("the tokens of the login service are of two users")
        identity = self._identity(read, kind="user")
        facts = {**self.facts(identity), "id_token": id_token}
        # Without a secret of ours whoever reads the storage could use it.
        if self._client_secret and answer.get("refresh_token"):
            facts["refresh_token"] = answer["refresh_token"]
        return identity, facts

    def logout_url(self, session: Session, *, after: str) -> str:
        """RP-initiated logout, where the issuer has it."""
        try:
            endpoint = self._discovery.text("end_session_endpoint")
        except IssuerUnavailable:
            return ""
        query = {"client_id": self._client_id, "post_logout_redirect_uri": after}
        if session.facts.get("id_token"):
            query["id_token_hint"] = session.facts["id_token"]
        return f"{endpoint}?{urlencode(query)}"

    def close(self) -> None:
        """Close the connections to the issuer."""
        self._web.close()

    def _identity(self, read: ReadToken, *, kind: str) -> Identity:
        roles = self._parts.roles.of_issuer(read.roles)
        return self._parts.identity(read.name, roles, kind=kind)

    def _token(self, form: Mapping[str, str]) -> Mapping[str, Any]:
        """The answer of the token endpoint. Raises Unauthenticated where it refuses."""
        client = {"client_id": self._client_id}
        if self._client_secret:
            client["client_secret"] = self._client_secret
        status, answer = self._web.ask(self._discovery.text("token_endpoint"), form={**form, **client})
        if status == 200 and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and answer.get("error") in ("invalid_client", "unauthorized_client"):
            raise IssuerUnavailable("the login service does not know this server (auth.keycloak.client_secret)")
        raise Unauthenticated("the login service refused the login")

    def _check_active(self, token: str) -> None:
        """Ask the issuer whether it still stands by the token (RFC 7662), at most each ten seconds for one."""
        digest, now = sha256(token.encode()).digest(), self._parts.clock()
        if self._active.get(digest, now):
            return
        form = {"token": token, "client_id": self._client_id, "client_secret": self._client_secret}
        status, answer = self._web.ask(self._discovery.text("introspection_endpoint"), form=form)
        if status != 200 or not isinstance(answer, dict):
            raise IssuerUnavailable("the login service does not tell about tokens")
        if answer.get("active") is not True:
            raise Unauthenticated("the login service has ended this token; log in again")
        self._active.put(digest, True, now)


class _Discovery:
    """The discovery document (OpenID Connect Discovery 4), fetched when needed; an old one is better than none."""

    def __init__(self, issuer: str, web: Web, *, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._web = web
        self._clock = clock
        self._lock = threading.Lock()
        self._document: Mapping[str, Any] = {}
        self._fetched = self._asked = float("-inf")

    def text(self, key: str) -> str:
        """An address from it. Raises IssuerUnavailable."""
        value = self._current().get(key)
        if not isinstance(value, str) or not value.startswith(("https://", "http://")):
            raise IssuerUnavailable(f"the login service names no {key}")
        return value

    def _current(self) -> Mapping[str, Any]:
        now = self._clock()
        with self._lock:
            if not is_recent(self._fetched, now, DISCOVERY_FRESH_SECONDS) and (
                not self._document or not is_recent(self._asked, now, ASK_AGAIN_SECONDS)
            ):
                self._asked = now
                try:
                    _, document = self._web.ask(f"{self._issuer}/.well-known/openid-configuration")
                    if not isinstance(document, dict) or document.get("issuer") != self._issuer:
                        raise IssuerUnavailable("the login service calls itself by another name (auth.keycloak.issuer)")
                    self._document, self._fetched = document, now
                except IssuerUnavailable:
                    if not self._document:
                        raise
            return self._document


def _same(one: str, other: str) -> bool:
    """In a time that tells nothing of either, whatever characters were sent."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def _legacy(table: Table) -> dict[str, str]:
    """The settings in the JSON file of an older server."""
    if not table.text("config_file"):
        return {}
    try:
        found = orjson.loads(table.file("config_file"))
        named = {ours: str(found[theirs]) for theirs, ours in LEGACY.items() if found.get(theirs)}
        issuer = f"{named['url'].rstrip('/')}/realms/{named['realm']}"
    except (orjson.JSONDecodeError, KeyError, AttributeError):
        raise ConfigError("auth.keycloak.config_file is no JSON with realm, authServerUrl and clientId") from None
    return {**named, "issuer": issuer}
