"""Smoke test of an installed dicomweb-server: start, store, search, fetch back, stop. Run it outside the checkout."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from importlib.resources import files
from pathlib import Path

import dicomweb_server

DEADLINE_SECONDS = 30


def main() -> None:
    place = Path(dicomweb_server.__file__)
    if not place.is_relative_to(sys.prefix):
        sys.exit(f"this is not the installed package: {place}")
    command = [str(Path(sys.executable).with_name("dicomweb-server")), "serve", "--port", "0", "--workers", "2"]
    with tempfile.TemporaryDirectory() as directory:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DICOMWEB")}
        server = subprocess.Popen(  # noqa: S603
            [*command, "--data", directory], stdout=subprocess.PIPE, text=True, env=environment
        )
        watchdog = threading.Timer(2 * DEADLINE_SECONDS, server.kill)
        watchdog.start()
        try:
            exercise(server)
            server.send_signal(signal.SIGTERM)
            if server.wait(DEADLINE_SECONDS) != 0:
                sys.exit(f"the server ended with status {server.returncode} after SIGTERM")
        finally:
            watchdog.cancel()
            if server.poll() is None:
                server.kill()
                server.wait()
    print(f"smoke test: {place.parent} stored, found and gave back a file, and stopped")


def exercise(server: "subprocess.Popen[str]") -> None:
    assert server.stdout is not None  # noqa: S101
    found = re.search(r"http://\S+", server.stdout.readline())
    if found is None:
        sys.exit("the server did not print its address")
    url = found[0]
    wait_until_ready(url)
    data = files("pydicom").joinpath("data", "test_files", "CT_small.dcm").read_bytes()
    answer = json.loads(fetch(f"{url}/studies", data, {"Content-Type": "application/dicom"}))
    retrieve_url = answer["00081199"]["Value"][0]["00081190"]["Value"][0]
    studies = json.loads(fetch(f"{url}/dicom-web/studies?PatientID=1CT1"))
    if len(studies) != 1 or studies[0]["00201208"]["Value"] != [1]:
        sys.exit(f"the stored study is not found: {studies}")
    if fetch(retrieve_url, None, {"Accept": "application/dicom; transfer-syntax=*"}) != data:
        sys.exit("the file does not come back as it was stored")


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            fetch(f"{url}/health/ready")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def fetch(url: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    request = urllib.request.Request(url, data, headers or {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as response:  # noqa: S310
        body: bytes = response.read()
        return body


if __name__ == "__main__":
    main()
