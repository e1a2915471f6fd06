"""Tokens that this server signs for itself: access tokens, cookies of sessions and of share links."""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from dicomweb_server.auth.secret import derived_key
from dicomweb_server.auth.verified import Verified
from dicomweb_server.errors import Unauthenticated

ISSUER = "dicomweb-server"
_ALGORITHM = "HS256"
_HEADER = {"kid": ISSUER}


class Signer:
    """Signs and verifies tokens of one purpose, with a key of their own. `clock` gives seconds since 1970."""

    def __init__(self, secret: str, purpose: str, *, clock: Callable[[], float] = time.time) -> None:
        self._key = derived_key(secret, purpose)
        self._purpose = purpose
        self._clock = clock
        self._verified = Verified()
        self._start = jwt.encode({}, self._key, algorithm=_ALGORITHM, headers=_HEADER).partition(".")[0] + "."

    def is_own(self, token: str) -> bool:
        """Whether it looks like one of ours, so that nobody else need be asked."""
        return token.startswith(self._start)

    def sign(self, claims: Mapping[str, Any], *, seconds: int) -> str:
        """A token that holds the claims and is good for so long."""
        now = int(self._clock())
        whole = {"iss": ISSUER, "aud": self._purpose, "iat": now, "exp": now + seconds, "jti": secrets.token_hex(8)}
        return jwt.encode({**whole, **claims}, self._key, algorithm=_ALGORITHM, headers=_HEADER)

    def verify(self, token: str) -> dict[str, Any]:
        """The claims. Raises Unauthenticated that says whether it has expired or was never good."""
        claims = self._verified.get(token, self._key)
        if claims is None:
            claims = self._decoded(token)
            self._verified.add(token, self._key, claims)
        if float(claims["exp"]) <= self._clock():
            raise Unauthenticated("the token has expired; log in again")
        return claims

    def _decoded(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[_ALGORITHM],
                audience=self._purpose,
                issuer=ISSUER,
                options={"require": ["exp", "iat", "aud", "iss"], "verify_exp": False, "verify_iat": False},
            )
            float(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError):
            raise Unauthenticated("the token is not one of this server") from None
        return claims
