"""An archive where everybody has to log in, and somebody of each kind."""

import base64
from collections.abc import Mapping
from typing import Any

import jwt

from tests.http.conftest import Client

ADMIN, PASSWORD = "admin", "correct horse battery"
LOGIN_SETTINGS: Mapping[str, Any] = {"auth.method": "jwt", "auth.first_admin_password": PASSWORD}
Headers = dict[str, str]


def basic(user: str, password: str) -> Headers:
    """The header of HTTP Basic."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> Headers:
    """The header of a token."""
    return {"Authorization": f"Bearer {token}"}


def log_in(archive: Client, user: str = ADMIN, password: str = PASSWORD) -> dict[str, Any]:
    """The answer of a login."""
    answer: dict[str, Any] = archive.post_json("/login", {"username": user, "password": password}).json
    archive.reset()  # WebTest keeps the cookie
    return answer


def add_user(archive: Client, name: str, role: str, **more: str) -> Headers:
    """A new user; gives the header of a token of theirs."""
    password = f"{name}-has-a-password"
    fields = {"username": name, "password": password, "roles": role, **more}
    archive.post_json("/api/users", fields, headers=bearer(log_in(archive)["token"]), status=201)
    return bearer(log_in(archive, name, password)["token"])


def forged(token: str) -> dict[str, Headers]:
    """Tokens that look like the good one, but are none."""
    claims = jwt.decode(token, options={"verify_signature": False})
    head, body, signature = token.split(".")
    unsigned = jwt.encode(claims, "", algorithm="none", headers={"kid": "dicomweb-server"})
    return {
        "alg none": bearer(unsigned),
        "alg none with our header": bearer(f"{head}.{body}."),
        "another key": bearer(jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": "dicomweb-server"})),
        "kid of a file": bearer(jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": "../../dev/null"})),
        "other claims": bearer(f"{head}.{base64.urlsafe_b64encode(b'{}').decode().rstrip('=')}.{signature}"),
        "no token": bearer("x.y.z"),
        "an unknown key": bearer("dws_0123456789ab_" + "a" * 43),
    }
