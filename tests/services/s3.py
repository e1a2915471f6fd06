"""A real S3 server for tests: versitygw, built once from the Go module proxy into a cached folder."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.services.process import OwnProcess

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
CACHE = Path(os.environ.get("DICOMWEB_TEST_CACHE", Path.home() / ".cache" / "dicomweb-server-tests"))
HOW = f"needs an S3 server: GOBIN={CACHE} go install {MODULE} (a few minutes), or put versitygw on the path"
ACCESS, SECRET, BUCKET = "tester", "test-secret", "archive"
START_SECONDS, BUILD_SECONDS = 30.0, 1200.0
_STEP_SECONDS = 0.02


class Unavailable(Exception):
    """No server can be had; the message says how to get one."""


def executable() -> Path:
    """The program: on the path, or built before. It is built now where the backend is required."""
    found = shutil.which("versitygw")
    if found:
        return Path(found)
    built = CACHE / "versitygw"
    if not built.exists():
        go = shutil.which("go")
        if go is None or "s3" not in os.environ.get("REQUIRE_BACKENDS", "").split(","):
            raise Unavailable(HOW)
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [go, "install", "-ldflags=-s -w", MODULE],
            env={**os.environ, "GOBIN": str(CACHE)},
            check=True,
            timeout=BUILD_SECONDS,
        )
    return built


class S3Server(OwnProcess):
    """One process over a folder; buckets are folders in it. It can be killed and started again."""

    stop_seconds = 10.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port: int = listening.getsockname()[1]

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, object]:
        """The settings of a blob store for it."""
        return {
            "endpoint": self.endpoint,
            "bucket": BUCKET,
            "access_key_id": ACCESS,
            "secret_access_key": SECRET,
            "allow_http": True,
        }

    def start(self) -> None:
        """Start, and wait until it answers."""
        data = self._folder / "buckets"
        (data / BUCKET).mkdir(parents=True, exist_ok=True)
        command = [str(executable()), "-q", "--keep-alive", "--health", "/health", "--port", f"127.0.0.1:{self.port}"]
        command += ["--access", ACCESS, "--secret", SECRET, "posix", str(data)]
        with (self._folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"versitygw did not start: {(self._folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(_STEP_SECONDS)

    def empty(self) -> None:
        """Delete all objects behind the back of the server."""
        bucket = self._folder / "buckets" / BUCKET
        shutil.rmtree(bucket, ignore_errors=True)
        bucket.mkdir(exist_ok=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/health", timeout=1) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextlib.contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """A server of one's own, stopped whatever happens. Raises Unavailable."""
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
