"""What it costs to know who asks: `python benchmarks/login.py`. Processor time per request, best of several rounds."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dicomweb_server.app import open_parts
from dicomweb_server.auth import passwords
from dicomweb_server.auth.gate import Credentials, Gate
from dicomweb_server.auth.users import Users, new_user
from dicomweb_server.authenticating import open_login
from dicomweb_server.settings import load

ROUNDS, TIMES = 7, 300
PASSWORD = "a password for a benchmark"  # noqa: S105 - made for this run


def milliseconds(action: Callable[[], object], times: int = TIMES) -> float:
    """Of one call, the best round."""
    best = float("inf")
    action()
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(times):
            action()
        best = min(best, (time.process_time() - start) / times)
    return best * 1000


def main() -> None:
    """Print a line each."""
    with tempfile.TemporaryDirectory() as folder:
        private = generate_private_key(public_exponent=65537, key_size=2048)
        pem = Path(folder) / "key.pem"
        pem.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        config = Path(folder) / "site.toml"
        config.write_text(
            f'[auth]\nmethod = "jwt"\n[auth.jwt]\nissuer = "i"\naudience = "a"\npublic_key_pem_file = "{pem}"\n',
            encoding="utf-8",
        )
        settings = load(config, overrides={"storage.directory": str(Path(folder) / "data")}, environ={})
        storage, blobs = open_parts(settings)
        Users(storage).add(new_user("anna", PASSWORD, roles=("admin",)))
        login = open_login(settings, storage)
        assert login.gate is not None  # noqa: S101 - a benchmark
        claims = {"iss": "i", "aud": "a", "sub": "anna", "roles": ["reader"], "exp": time.time() + 3600}
        measure(login.gate, jwt.encode(claims, private, algorithm="RS256"))
        login.close()
        storage.close()
        blobs.close()


def measure(gate: Gate, issued: str) -> None:
    """Each way to say who one is."""
    granted = gate.login("anna", PASSWORD, address="127.0.0.1")
    _, key = gate.keys.make("benchmark", roles=("reader",))
    ways = {
        "an access token of this server": Credentials(scheme="bearer", token=granted.access_token),
        "the cookie of a browser": Credentials(session_cookie=granted.cookie),
        "a token of an issuer (RS256)": Credentials(scheme="bearer", token=issued),
        "an API key": Credentials(scheme="bearer", token=key),
        "name and password, remembered": Credentials(scheme="basic", user="anna", password=PASSWORD),
    }
    for name, credentials in ways.items():

        def identify(credentials: Credentials = credentials) -> object:
            return gate.identify(credentials)

        print(f"{name:<44}{milliseconds(identify):8.4f} ms")
    kept = passwords.hashed(PASSWORD)
    print(
        f"{'verifying a password (argon2id)':<44}{milliseconds(lambda: passwords.matches(PASSWORD, kept), 3):8.4f} ms"
    )


if __name__ == "__main__":
    main()
