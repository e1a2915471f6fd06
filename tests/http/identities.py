"""An archive where everybody has to log in, and somebody of each kind."""

import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dicomweb_server.auth.secret import derived_key
from dicomweb_server.auth.tokens import ISSUER, Signer
from tests.http.conftest import Client
from tests.unit.auth.issuers import new_key

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


@dataclass(frozen=True, slots=True)
class OtherIssuer:
    """An issuer whose tokens are taken besides, by its public key."""

    key: RSAPrivateKey
    pem: bytes
    settings: Mapping[str, Any]

    def claims(self, **more: Any) -> dict[str, Any]:
        """The claims of an administrator, with others in their place."""
        whole = {"iss": "https://login.example", "aud": "dicomweb", "exp": int(time.time()) + 300, "sub": "ada"}
        return {**whole, "roles": ["admin"], **more}

    def token(self, **more: Any) -> str:
        """A token with these claims."""
        return jwt.encode(self.claims(**more), self.key, algorithm="RS256", headers={"kid": "one"})

    def bad_tokens(self) -> dict[str, str]:
        """Tokens that are not to be taken, each for one reason."""
        header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"one"}').rstrip(b"=").decode()
        body = self.token().split(".")[1]
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        confused = base64.urlsafe_b64encode(signature.sign(f"{header}.{body}".encode(), self.pem)).rstrip(b"=").decode()
        stranger = new_key()
        return {
            "expired": self.token(exp=int(time.time()) - 3600),
            "not yet": self.token(nbf=int(time.time()) + 3600),
            "for another client": self.token(aud="another-client"),
            "for nobody": jwt.encode({**self.claims(), "aud": []}, self.key, algorithm="RS256"),
            "of another issuer": self.token(iss="https://evil.example"),
            "alg none": jwt.encode(self.claims(), "", algorithm="none", headers={"kid": "one"}),
            "public key as shared secret": f"{header}.{body}.{confused}",
            "another key": jwt.encode(self.claims(), stranger, algorithm="RS256", headers={"kid": "one"}),
            "kid of a file": jwt.encode(
                self.claims(), "k" * 32, algorithm="HS256", headers={"kid": "../../../../dev/null"}
            ),
            "key in the token": jwt.encode(
                self.claims(), stranger, algorithm="RS256", headers={"jwk": {"kty": "RSA"}, "jku": "http://127.0.0.1:1"}
            ),
            "another algorithm": jwt.encode(self.claims(), self.key, algorithm="PS256", headers={"kid": "one"}),
        }


def other_issuer(folder: Path) -> OtherIssuer:
    """One, with its public key in the folder."""
    key = new_key()
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "issuer.pem").write_bytes(pem)
    table = {
        "issuer": "https://login.example",
        "audience": "dicomweb",
        "public_key_pem_file": str(folder / "issuer.pem"),
    }
    return OtherIssuer(key, pem, {"auth.jwt": table})


def bad_own_tokens(secret: str, token: str) -> dict[str, str]:
    """Tokens like those that the server signs itself; `token` is a good one."""
    session = claims_of(token)
    yesterday = Signer(secret, "access", clock=lambda: time.time() - 86_400)
    return {
        "expired": yesterday.sign(session, seconds=600),
        **{
            f"made for a {purpose}": Signer(secret, purpose).sign(session, seconds=600)
            for purpose in ("cookie", "share")
        },
        "another secret": Signer("x" * 32, "access").sign(session, seconds=600),
        "no session": Signer(secret, "access").sign({**session, "sid": "unknown"}, seconds=600),
        "another issuer": jwt.encode(
            {**session, "iss": "https://evil.example", "aud": "access", "iat": 1, "exp": int(time.time()) + 300},
            derived_key(secret, "access"),
            algorithm="HS256",
            headers={"kid": ISSUER},
        ),
    }


def claims_of(token: str) -> dict[str, Any]:
    """Whom a token of the server is for, and the session."""
    found = jwt.decode(token, options={"verify_signature": False})
    return {name: found[name] for name in ("sub", "sid")}
