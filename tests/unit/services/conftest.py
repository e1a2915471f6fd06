"""What services are tried on: an index of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.sqlite import SQLiteStorage
from dicomweb_server.storage.base import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """SQLite, which does not wait for the disk here."""
    storage = SQLiteStorage.from_settings(settings={"path": str(tmp_path / "index.sqlite"), "synchronous": "NORMAL"})
    storage.open()
    yield storage
    storage.close()
