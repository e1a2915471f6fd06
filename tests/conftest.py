"""Fixtures for all tests: sample files, a live server."""

import os
import socket
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.live import LiveServer, serving
from tests.services import keycloak


def pytest_report_header() -> str:
    """The versions that decide how the server behaves."""
    return ", ".join(f"{name} {version(name)}" for name in ("falcon", "gunicorn", "pydicom", "orjson"))


@pytest.fixture(scope="session")
def sample_folder() -> Path:
    """The test files in pydicom's wheel."""
    return Path(str(files("pydicom").joinpath("data", "test_files")))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The real files that DICOM_CORPUS names; tests that want them are skipped without."""
    folder = os.environ.get("DICOM_CORPUS")
    if not folder:
        pytest.skip("set DICOM_CORPUS to a folder of DICOM files to run this test")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"DICOM_CORPUS is {folder}, which is no folder")
    return path


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with two workers and no data, one for all tests of a module."""
    with serving(tmp_path_factory.mktemp("live"), "--workers", "2") as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of this machine."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def keycloak_url() -> Iterator[str]:
    """A Keycloak that is ready: that of KEYCLOAK_URL, or one started from KEYCLOAK_HOME."""
    if url := os.environ.get("KEYCLOAK_URL"):
        keycloak.wait_until_ready(url)
        yield url
        return
    if not os.environ.get("KEYCLOAK_HOME"):
        how = "set KEYCLOAK_URL, or KEYCLOAK_HOME to an unpacked Keycloak, to run this"
        if os.environ.get("REQUIRE_KEYCLOAK"):
            pytest.fail(how)
        pytest.skip(how)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = keycloak.start(keycloak.install(), port)
    try:
        keycloak.wait_until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        keycloak.stop(process)
