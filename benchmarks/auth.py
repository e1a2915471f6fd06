"""What a login costs: the processor time of one request by each way to log in, over the same archive without one.

    python benchmarks/auth.py [--requests 300] [--rounds 9]

The application is called as a WSGI server does, in this process, so that nothing else is measured. Each figure is the
best round; the ways take turns within a round, so that what disturbs the machine disturbs all of them.
"""

import argparse
import base64
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks.measures import FRAMES, JSON, expect
from benchmarks.studies import StudyMaker
from dicomweb_server.app import WsgiApp, create_app, open_parts
from dicomweb_server.settings import load

PASSWORD = "a password for this benchmark"  # noqa: S105 - of an archive that is gone in a minute
ISSUER, AUDIENCE = "https://issuer.example", "dicomweb"
GOAL_MS = 0.2
LOGIN: Mapping[str, Any] = {
    "auth.method": "jwt",
    "auth.first_admin_password": PASSWORD,
    "auth.secret": "the same for all servers of the benchmark",
    "auth.access_seconds": 3600,
    "audit.enabled": False,
}
RULES = ["role reader: InstitutionName=Example University Hospital"]
Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ask, with the application that is asked."""

    title: str
    app: WsgiApp
    headers: Headers


def ask(app: WsgiApp, path: str, headers: Headers, *, method: str = "GET", body: bytes = b"") -> tuple[str, bytes]:
    """The status line and the body of an answer."""
    name, _, query = path.partition("?")
    status: list[str] = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": name,
        "QUERY_STRING": query,
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for header, value in headers.items():
        key = header.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value

    def start_response(line: str, _headers: list[tuple[str, str]], _exc: object = None) -> None:
        status.append(line)

    answer = app(environ, start_response)
    try:
        data = b"".join(answer)
    finally:
        close = getattr(answer, "close", None)
        if close:
            close()
    return status[0], data


def post(app: WsgiApp, path: str, fields: Mapping[str, Any], headers: Headers) -> dict[str, Any]:
    """The answer to JSON."""
    status, data = ask(
        app, path, {"Content-Type": "application/json", **headers}, method="POST", body=orjson.dumps(fields)
    )
    expect(status[0] == "2", f"{path}: {status} {data[:200]!r}")
    found: dict[str, Any] = orjson.loads(data)
    return found


@contextmanager
def opened(folder: Path, **settings: Any) -> Iterator[WsgiApp]:
    """The application over the archive in a folder."""
    overrides = {"storage.directory": str(folder / "data"), **settings}
    chosen = load(overrides=overrides, environ={})
    storage, blobs = open_parts(chosen)
    app = create_app(chosen, storage, blobs)
    try:
        yield app
    finally:
        app.close()
        storage.close()
        blobs.close()


@contextmanager
def ways(folder: Path) -> Iterator[list[Way]]:
    """All ways, each of them ready."""
    key = generate_private_key(public_exponent=65537, key_size=2048)
    pem = folder / "issuer.pem"
    pem.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    table = {"issuer": ISSUER, "audience": AUDIENCE, "public_key_pem_file": str(pem), "algorithms": ["RS256"]}
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "rita", "roles": ["reader"], "exp": int(time.time()) + 3600}
    with ExitStack() as stack:
        nobody = stack.enter_context(opened(folder))
        login = stack.enter_context(opened(folder, **LOGIN, **{"auth.jwt": table}))
        ruled = stack.enter_context(opened(folder, **LOGIN, **{"auth.access": RULES}))
        audited = stack.enter_context(opened(folder, **{**LOGIN, "audit.enabled": True}))
        basic = {"Authorization": "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()}
        rita = {"username": "rita", "password": PASSWORD, "roles": ["reader"]}
        post(login, "/api/users", rita, basic)
        tokens = post(login, "/login", {"username": "rita", "password": PASSWORD}, {})
        api_key = post(login, "/api/keys", {"name": "bench", "roles": ["reader"], "days": 1}, basic)
        own = {"Authorization": f"Bearer {tokens['access_token']}"}
        yield [
            Way('no login (`auth.method = "none"`)', nobody, {}),
            Way("access token of this server", login, own),
            Way(
                "token of another issuer, RS256",
                login,
                {"Authorization": f"Bearer {jwt.encode(claims, key, algorithm='RS256')}"},
            ),
            Way("Basic, remembered", login, basic),
            Way("API key", login, {"Authorization": f"Bearer {api_key['key']}"}),
            Way("access token, a rule of `auth.access`", ruled, own),
            Way("access token, audit trail on", audited, own),
        ]


def milliseconds(way: Way, path: str, accept: str, requests: int) -> float:
    """Processor time of one request, of all threads of the process."""
    headers = {**way.headers, "Accept": accept}
    began = time.process_time()
    for _ in range(requests):
        status, _ = ask(way.app, path, headers)
    spent = time.process_time() - began
    expect(status.startswith("200"), f"{way.title}: {path}: {status}")
    return spent * 1000 / requests


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=300, help="requests in one round (default 300)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="auth-") as folder, ways(Path(folder)) as found:
        instance = StudyMaker().round(1).instances[0]
        status, answer = ask(
            found[0].app, "/studies", {"Content-Type": "application/dicom"}, method="POST", body=instance.blob
        )
        expect(status.startswith("200"), f"store: {status} {answer[:200]!r}")
        place = f"/studies/{instance.study_uid}/series/{instance.series_uid}/instances/{instance.instance_uid}"
        asked = ((f"/studies?StudyInstanceUID={instance.study_uid}", JSON), (f"{place}/frames/1", FRAMES))
        best = {(way.title, path): float("inf") for way in found for path, _ in asked}
        for _ in range(options.rounds):
            for path, accept in asked:
                for way in found:
                    took = milliseconds(way, path, accept, options.requests)
                    best[way.title, path] = min(best[way.title, path], took)
        print("| | study search, ms | more, ms | frame, ms | more, ms |\n| --- | ---: | ---: | ---: | ---: |")
        for way in found:
            cells = []
            for path, _ in asked:
                mine, without = best[way.title, path], best[found[0].title, path]
                cells += [f"{mine:.3f}", "" if way is found[0] else f"{mine - without:+.3f}"]
            print(f"| {way.title} | {' | '.join(cells)} |")
        more = max(best[found[1].title, path] - best[found[0].title, path] for path, _ in asked)
        print(f"\nA verified token costs {more:.3f} ms; the goal is {GOAL_MS} ms.")


if __name__ == "__main__":
    main()
