"""A real Keycloak: from Maven Central, in a folder of its own, with the realm of `dicomweb-realm.json`.

`python -m tests.services.keycloak PORT` gets and starts one until it is stopped, as `.ci/run` does in the background;
KEYCLOAK_URL then tells the tests where it is.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import FrameType

import requests

VERSION = "26.7.3"
REALM = "dicomweb"
ADMIN, ADMIN_PASSWORD = "kcadmin", "kcadmin-pass"
CLIENT, CLIENT_SECRET = "dicomweb-server", "dicomweb-server-secret"
READY_SECONDS = 240.0
TIMEOUT_SECONDS = 20
_ARTIFACT = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:tar.gz"
_JAVA = (
    "-Xms48m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:MaxMetaspaceSize=256m "
    "-Djava.security.egd=file:/dev/urandom -Dfile.encoding=UTF-8"
)


def install() -> Path:
    """The folder of Keycloak: KEYCLOAK_HOME, or one in the cache that is filled the first time."""
    if home := os.environ.get("KEYCLOAK_HOME"):
        return Path(home)
    cache = Path(os.environ.get("DICOMWEB_TEST_CACHE", str(Path.home() / ".cache" / "dicomweb-server-tests")))
    home_folder = cache / f"keycloak-{VERSION}"
    if not (home_folder / "bin" / "kc.sh").exists():
        cache.mkdir(parents=True, exist_ok=True)
        for arguments in (
            ["dependency:get", f"-Dartifact={_ARTIFACT}", "-Dtransitive=false"],
            ["dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={cache}"],
        ):
            subprocess.run(["mvn", "-q", "-B", *arguments], check=True, stdout=subprocess.DEVNULL)
        packed = cache / f"keycloak-quarkus-dist-{VERSION}.tar.gz"
        with tarfile.open(packed) as archive:
            archive.extractall(cache, filter="data")
        packed.unlink()
    return home_folder


def start(home: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start it with fresh data, in a process group of its own."""
    shutil.rmtree(home / "data", ignore_errors=True)
    (home / "data" / "import").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name(f"{REALM}-realm.json"), home / "data" / "import")
    environment = {
        **os.environ,
        "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
        "KC_BOOTSTRAP_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "JAVA_OPTS": _JAVA,
    }
    return subprocess.Popen(
        [home / "bin" / "kc.sh", "start-dev", "--http-host=127.0.0.1", f"--http-port={port}", "--import-realm"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop it, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(TIMEOUT_SECONDS)


def wait_until_ready(url: str) -> None:
    """Wait until the realm is there."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{url}/realms/{REALM}", timeout=TIMEOUT_SECONDS).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise AssertionError(f"Keycloak at {url} was not ready after {READY_SECONDS} s")
        time.sleep(0.2)


def main(port: int) -> None:
    """Run until SIGTERM."""
    process = start(install(), port)

    def ended(_number: int, _frame: FrameType | None) -> None:
        stop(process)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, ended)
    process.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
