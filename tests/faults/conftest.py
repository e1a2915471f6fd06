"""What the tests of faults share."""

from pathlib import Path

import pytest

from tests.faults import shim


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library before libc, compiled once."""
    try:
        return shim.build(tmp_path_factory.mktemp("shim"))
    except shim.NoCompiler as exc:
        pytest.skip(str(exc))
