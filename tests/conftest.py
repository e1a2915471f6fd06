"""Fixtures for all tests: sample files, a live server."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

from tests.certificates import make_certificate
from tests.live import LiveServer, serving


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
