"""The application over SQLite and files in a temporary folder, driven through WebTest."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from webtest import TestApp

from dicomweb_server.app import create_app, open_parts
from dicomweb_server.settings import load
from tests.samples import RELATED, envelope, part10

Archive = Callable[..., "Client"]


class Client(TestApp):  # type: ignore[misc]  # WebTest has no types
    """WebTest with the two things that every test does."""

    def store(self, *instances: Dataset, **options: Any) -> Any:
        """STOW of the instances in one request."""
        body = envelope([part10(ds) for ds in instances])
        return self.post("/studies", body, headers={"Content-Type": RELATED}, **options)

    def search(self, path: str) -> list[dict[str, Any]]:
        """The hits of a search."""
        found: list[dict[str, Any]] = self.get(path, headers={"Accept": "application/dicom+json"}).json
        return found


@contextmanager
def opened(directory: Path, overrides: Mapping[str, Any]) -> Iterator[Client]:
    """An archive in a folder, until the block ends."""
    settings = load(overrides={"storage.directory": str(directory), **overrides}, environ={})
    storage, blobs = open_parts(settings)
    app = create_app(settings, storage, blobs)
    try:
        yield Client(app, extra_environ={"HTTP_HOST": "localhost"})
    finally:
        app.close()
        storage.close()
        blobs.close()


@pytest.fixture
def make_archive(tmp_path: Path) -> Iterator[Archive]:
    """A function that makes an archive with settings of its own, given by key: {"stow.on_duplicate": "replace"}."""
    with ExitStack() as stack:
        numbers = count()

        def make(overrides: Mapping[str, Any] | None = None) -> Client:
            return stack.enter_context(opened(tmp_path / f"data{next(numbers)}", overrides or {}))

        yield make


@pytest.fixture
def archive(make_archive: Archive) -> Client:
    """An empty archive with default settings."""
    return make_archive()


@pytest.fixture(scope="module")
def shared_archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One archive for all tests of a module, and one set of codec processes. What is stored again replaces the old:
    several samples are one object in different transfer syntaxes."""
    with opened(tmp_path_factory.mktemp("shared"), {"stow.on_duplicate": "replace"}) as client:
        yield client
