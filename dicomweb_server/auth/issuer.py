"""Tokens of another issuer: verified here, by a shared secret, a public key, or the key set that it publishes."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import jwt
import orjson
import urllib3

from dicomweb_server.auth.expiry import is_recent
from dicomweb_server.auth.tables import Table
from dicomweb_server.auth.verified import Verified
from dicomweb_server.errors import ConfigError, IssuerUnavailable, Unauthenticated

SHARED = ("HS256", "HS384", "HS512")
PUBLIC = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA")
TIMEOUT_SECONDS = 5.0
KEYS_FRESH_SECONDS = 300.0
KEYS_USABLE_SECONDS = 24 * 3600.0
ASK_AGAIN_SECONDS = 10.0
MAX_ANSWER_BYTES = 1024 * 1024
MAX_TOKEN_BYTES = 16 * 1024
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
# Times are compared with our own clock, below.
_CHECKS: Any = {"require": ["exp", "iss", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
_NO_ACCESS_TOKEN = frozenset({"ID", "Refresh", "Offline", "Logout"})  # `typ` in tokens of Keycloak


@dataclass(frozen=True, slots=True)
class ReadToken:
    """What a token says: a name, the issuer's roles, all claims."""

    name: str
    roles: tuple[str, ...]
    claims: Mapping[str, Any]


class Web:
    """Asks an issuer, with bounds of time and size. Redirects are not followed."""

    def __init__(self, *, ca_file: str = "") -> None:
        self._pool = urllib3.PoolManager(
            maxsize=8,
            retries=False,
            timeout=urllib3.Timeout(connect=TIMEOUT_SECONDS, read=TIMEOUT_SECONDS),
            ca_certs=ca_file or None,
        )

    def ask(self, url: str, *, form: Mapping[str, str] | None = None) -> Any:
        """Status and JSON of the answer. Raises IssuerUnavailable."""
        try:
            answer = self._pool.request(
                "GET" if form is None else "POST",
                url,
                body=None if form is None else urlencode(form),
                headers={} if form is None else _FORM,
                preload_content=False,
                redirect=False,
            )
            try:
                body = answer.read(MAX_ANSWER_BYTES + 1)
                if len(body) > MAX_ANSWER_BYTES:
                    answer.close()  # the rest would be the beginning of the next answer
                    raise IssuerUnavailable("the login service answers with more than can be read here")
            finally:
                answer.release_conn()
            if answer.status >= 500 or answer.status in (301, 302, 303, 307, 308, 404):
                raise IssuerUnavailable(f"the login service answers with status {answer.status}")
            return answer.status, orjson.loads(body)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise IssuerUnavailable("the login service does not answer") from exc
        except orjson.JSONDecodeError as exc:
            raise IssuerUnavailable("the login service answers with something that is no JSON") from exc

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()


class Keys(Protocol):
    """Where the key of a token comes from."""

    def find(self, kid: str | None) -> Any:
        """The key. Raises Unauthenticated when there is none, IssuerUnavailable when that cannot be known."""


class OneKey:
    """One key for all tokens, whatever they say of theirs."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def find(self, _kid: str | None) -> Any:
        """It."""
        return self._key


class PublishedKeys:
    """The keys that an issuer publishes (RFC 7517), fetched when they are needed and then kept for a while.

    A token with a key that is not known makes it ask again, but not more often than each ten seconds. An issuer that is
    down or slow changes nothing for a day: what is known goes on, and nobody whose key is known waits for others.
    """

    def __init__(self, url: Callable[[], str], web: Web, *, clock: Callable[[], float]) -> None:
        self._url = url
        self._web = web
        self._clock = clock
        self._fetching = threading.Lock()
        self._keys: dict[str | None, Any] = {}
        self._fetched = self._asked = float("-inf")

    def find(self, kid: str | None) -> Any:
        """The key of that id; the only one there is for a token that names none."""
        failure = None
        if self._is_wanted(kid) and self._fetching.acquire(blocking=self._usable(kid) is None):
            try:
                if self._is_wanted(kid):  # nobody else has fetched them meanwhile
                    failure = self._fetch()
            finally:
                self._fetching.release()
        key = self._usable(kid)
        if key is None and (failure is not None or self._fetched < self._asked):
            raise failure or IssuerUnavailable("the keys of the login service cannot be fetched")
        if key is None:
            raise Unauthenticated("the token is signed with a key that its issuer does not publish")
        return key

    def _is_wanted(self, kid: str | None) -> bool:
        now = self._clock()
        old = not is_recent(self._fetched, now, KEYS_FRESH_SECONDS) or self._known(kid) is None
        return old and not is_recent(self._asked, now, ASK_AGAIN_SECONDS)

    def _usable(self, kid: str | None) -> Any:
        return self._known(kid) if self._clock() - self._fetched <= KEYS_USABLE_SECONDS else None

    def _known(self, kid: str | None) -> Any:
        keys = self._keys
        if kid is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(kid)

    def _fetch(self) -> IssuerUnavailable | None:
        try:
            _, document = self._web.ask(self._url())
            self._keys = published(document)
            self._fetched = self._asked = self._clock()
        except IssuerUnavailable as exc:
            self._asked = self._clock()
            return exc
        return None


def published(document: Any) -> dict[str | None, Any]:
    """The keys for signatures in a key set, by id; those of kinds that are not known are left out, and shared secrets,
    which nobody publishes in earnest. Raises IssuerUnavailable for what is no key set."""
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise IssuerUnavailable("the login service publishes no key set")
    found = {}
    for entry in document["keys"]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            found[entry.get("kid")] = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
    return found


class TokenReader:
    """Verifies tokens of one issuer. `clock` gives seconds since 1970."""

    def __init__(
        self,
        keys: Keys,
        *,
        algorithms: Sequence[str],
        issuer: Callable[[], str],
        audience: Sequence[str],
        roles_claims: Sequence[str] = ("roles",),
        name_claims: Sequence[str] = ("preferred_username", "sub"),
        leeway_seconds: int = 30,
        clock: Callable[[], float],
    ) -> None:
        self._keys = keys
        self._algorithms = list(algorithms)
        self._issuer = issuer
        self._audience = list(audience)
        self._roles_claims = [claim.split(".") for claim in roles_claims]
        self._name_claims = tuple(name_claims)
        self._leeway = leeway_seconds
        self._clock = clock
        self._verified = Verified()

    def read(self, token: str) -> ReadToken:
        """What an access token says. Raises Unauthenticated, IssuerUnavailable."""
        claims = self.claims(token)
        if claims.get("typ") in _NO_ACCESS_TOKEN or "nonce" in claims:
            raise Unauthenticated("the token is no access token")
        return self.reading(claims)

    def reading(self, claims: Mapping[str, Any]) -> ReadToken:
        """The name and the roles in claims that are trusted already."""
        name = next((str(claims[claim]) for claim in self._name_claims if claims.get(claim)), "")
        if not name:
            raise Unauthenticated("the token names nobody")
        roles = [role for path in self._roles_claims for role in _at(claims, path)]
        return ReadToken(name[:200], tuple(dict.fromkeys(roles)), claims)

    def claims(self, token: str, *, audience: Sequence[str] = ()) -> dict[str, Any]:
        """The claims of any token of the issuer, for the audience (ours)."""
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("the token is too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._algorithms:
                raise Unauthenticated("the token is signed in a way that is not accepted here")
            kid = header.get("kid")
            key = self._keys.find(kid if isinstance(kid, str) else None)
            found = None if audience else self._verified.get(token, key)
            if found is not None:
                self._check_times(found)
                return found
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=self._algorithms,
                issuer=self._issuer(),
                audience=list(audience) or self._audience,
                options=_CHECKS,
            )
            self._check_times(claims)
            if not audience:
                self._verified.add(token, key, claims)
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is meant for another service") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token is of another issuer") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthenticated("the token is not valid") from None
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        if float(claims["exp"]) + self._leeway <= now:
            raise Unauthenticated("the token has expired; log in again")
        if float(claims.get("nbf", 0)) - self._leeway > now:
            raise Unauthenticated("the token is not valid yet")


def _at(claims: Any, path: Sequence[str]) -> list[str]:
    """The texts at a path of claims; also a text with blanks between, as scopes are."""
    for name in path:
        claims = claims.get(name) if isinstance(claims, Mapping) else None
    if isinstance(claims, str):
        return claims.split()
    return [item for item in claims if isinstance(item, str)] if isinstance(claims, list) else []


JWT_KEYS = (
    "issuer",
    "audience",
    "algorithms",
    "secret",
    "public_key_pem_file",
    "jwks_url",
    "roles_claims",
    "name_claims",
    "leeway_seconds",
    "ca_file",
)


def token_reader(settings: Mapping[str, Any], label: str, *, clock: Callable[[], float]) -> TokenReader | None:
    """The reader that a table of the settings describes; None for an empty one. Raises ConfigError."""
    table = Table(settings, label, JWT_KEYS)
    sources = [key for key in ("secret", "public_key_pem_file", "jwks_url") if settings.get(key)]
    if not sources:
        return None
    if len(sources) > 1:
        raise ConfigError(f"auth.{label}: choose one of {', '.join(sources)}")
    issuer, audience = table.text("issuer"), table.texts("audience")
    if not issuer or not audience:
        raise ConfigError(f"auth.{label}: issuer and audience are needed: what is meant for others is no login")
    possible = SHARED if sources == ["secret"] else PUBLIC
    algorithms = table.texts("algorithms") or (SHARED[:1] if sources == ["secret"] else ("RS256", "ES256"))
    for name in algorithms:
        if name not in possible:
            raise ConfigError(f"auth.{label}.algorithms: with {sources[0]} they can be {', '.join(possible)}")
    keys: Keys
    if sources == ["secret"]:
        if len(table.text("secret")) < 32:
            raise ConfigError(f"auth.{label}.secret has at least 32 characters")
        keys = OneKey(table.text("secret"))
    elif sources == ["public_key_pem_file"]:
        keys = OneKey(table.file("public_key_pem_file"))
    else:
        url = table.url("jwks_url")
        keys = PublishedKeys(lambda: url, Web(ca_file=table.text("ca_file")), clock=clock)
    return TokenReader(
        keys,
        algorithms=algorithms,
        issuer=lambda: issuer,
        audience=audience,
        roles_claims=table.texts("roles_claims") or ("roles",),
        name_claims=table.texts("name_claims") or ("preferred_username", "sub"),
        leeway_seconds=table.number("leeway_seconds", 30, 0, 300),
        clock=clock,
    )
