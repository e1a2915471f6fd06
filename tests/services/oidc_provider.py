"""npm oidc-provider, an issuer that is not Keycloak."""

import json
import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

AUDIENCE = "urn:dicomweb"
START_SECONDS = 30.0


@contextmanager
def running(server_url: str) -> Iterator[str]:
    """The URL of an issuer that knows a server at this address, until the block ends. Skips the test without one."""
    folder, node = os.environ.get("OIDC_PROVIDER"), shutil.which("node")
    if not folder or node is None:
        pytest.skip("run `npm install oidc-provider@9.13.3` in a folder and set OIDC_PROVIDER to it to run this")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    key = json.loads(RSAAlgorithm.to_jwk(generate_private_key(public_exponent=65537, key_size=2048)))
    process = subprocess.Popen(
        [node, str(Path(__file__).with_name("oidc_provider.mjs")), str(port)],
        env={
            **os.environ,
            "SIGNING_KEY": json.dumps({**key, "kid": "first", "use": "sig", "alg": "RS256"}),
            "REDIRECT_URI": f"{server_url}/login/callback",
            "LOGOUT_URI": f"{server_url}/",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        assert ready, "the issuer did not start"
        assert process.stdout.readline().strip() == b"ready"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
