"""An issuer for tests: keys, tokens, and a web server that publishes what an issuer does."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

REALM = "/realms/test"
CLIENT = "dicomweb-server"
HUGE = 2 * 1024 * 1024


def new_key() -> RSAPrivateKey:
    """A key pair."""
    return generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Issuer:
    """An issuer. `down` makes it answer 503; `asked` are the paths that were asked for. `moved` is a path that leads
    elsewhere by a redirect, `huge` one that it answers with the key set and two megabytes of blanks."""

    url: str = ""
    keys: dict[str, RSAPrivateKey] = field(default_factory=dict)
    down: bool = False
    moved: str = ""
    huge: str = ""
    asked: list[str] = field(default_factory=list)
    active: bool = True
    answer: dict[str, Any] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)

    def token(self, *, kid: str = "", **claims: Any) -> str:
        """An access token as Keycloak makes them; claims replace those it would have, None leaves one out."""
        kid = kid or next(iter(self.keys))
        whole = {
            "iss": self.url,
            "aud": CLIENT,
            "exp": int(time.time()) + 300,
            "iat": int(time.time()),
            "typ": "Bearer",
            "sub": "0815",
            "preferred_username": "rita",
            "realm_access": {"roles": ["reader", "offline_access"]},
            **claims,
        }
        kept = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(kept, self.keys[kid], algorithm="RS256", headers={"kid": kid})

    def key_set(self) -> dict[str, Any]:
        """What it publishes, also keys that are not for signatures."""
        published = []
        for kid, key in self.keys.items():
            entry = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
            published += [
                {**entry, "kid": f"{kid}-enc", "use": "enc", "alg": "RSA-OAEP"},
                {**entry, "kid": kid, "use": "sig", "alg": "RS256"},
            ]
        return {"keys": published}


@contextmanager
def running() -> Iterator[Issuer]:
    """An issuer that answers, until the block ends."""
    issuer = Issuer(keys={"one": new_key()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            if self.path == issuer.moved:
                self.send_response(302)
                self.send_header("Location", f"{issuer.url}/certs")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            pages = {
                f"{REALM}/.well-known/openid-configuration": {
                    "issuer": issuer.url,
                    "jwks_uri": f"{issuer.url}/certs",
                    "authorization_endpoint": f"{issuer.url}/auth",
                    "token_endpoint": f"{issuer.url}/token",
                    "introspection_endpoint": f"{issuer.url}/introspect",
                    "end_session_endpoint": f"{issuer.url}/logout",
                },
                f"{REALM}/certs": issuer.key_set(),
            }
            page = pages.get(self.path, issuer.key_set())
            self.send(503 if issuer.down else 200, page, blanks=HUGE if self.path == issuer.huge else 0)

        def do_POST(self) -> None:
            issuer.asked.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            issuer.form = {name: values[0] for name, values in parse_qs(body).items()}
            if self.path.endswith("/introspect"):
                self.send(503 if issuer.down else 200, {"active": issuer.active})
            else:
                refused = issuer.down or "error" in issuer.answer
                self.send(503 if issuer.down else 400 if refused else 200, issuer.answer)

        def send(self, status: int, body: Any, *, blanks: int = 0) -> None:
            data = json.dumps(body).encode() + b" " * blanks
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # who asked need not read a huge answer to its end
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer.url = f"http://127.0.0.1:{server.server_port}{REALM}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
