"""Archives in a folder for tests of commands, which are run in this process."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomweb_server.app import open_parts
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.ingest import Ingest, IngestLimits
from dicomweb_server.settings import load
from dicomweb_server.storage.records import OnDuplicate
from tests.samples import part10
from tests.services import s3
from tests.services.databases import fresh, missing

REPLACE = IngestLimits(on_duplicate=OnDuplicate.REPLACE)


def settings_file(folder: Path, text: str = "") -> Path:
    """A settings file of an archive in that folder, which need not exist."""
    path = folder.with_suffix(".toml")
    path.write_text(f'[storage]\ndirectory = "{folder}"\n{text}', encoding="utf-8")
    return path


@contextmanager
def in_database(backend: str) -> Iterator[str]:
    """The settings of an archive whose index and files lie in a database of its own; skips where no server can be
    had, and fails where one has to be."""
    with fresh(backend) as (url, name):
        yield f'backend = "{backend}"\n[storage.{backend}]\nurl = "{url}"\ndatabase = "{name}"\n'


@contextmanager
def in_bucket(folder: Path) -> Iterator[str]:
    """The settings of an archive whose files lie in a bucket of a real S3 server; skips and fails as `in_database`."""
    pytest.importorskip("obstore", reason="pip install 'dicomweb-server[s3]'")
    with ExitStack() as stack:
        try:
            (folder / "s3").mkdir(exist_ok=True)
            server = stack.enter_context(s3.running(folder / "s3"))
        except s3.Unavailable as exc:
            missing("s3", exc)
        lines = [f"{key} = {json.dumps(value)}" for key, value in server.settings.items()]
        yield "\n".join(['[blobs]\nstore = "s3"\n[blobs.s3]', *lines, ""])


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The archive of a settings file."""
    storage, blobs = open_parts(load(path, environ={}))
    with closing(storage), closing(blobs):
        yield Archive(storage, blobs)


def store(archive: Archive, *files: Dataset | bytes) -> None:
    """Store; a known instance is replaced."""
    request = Ingest(archive.storage, archive.blobs, limits=REPLACE).begin()
    for file in files:
        request.add([file if isinstance(file, bytes) else part10(file)])
    assert not request.finish().refused


def blob_file(folder: Path, key: str) -> Path:
    """The file of a blob in the folder of an archive."""
    (path,) = (path for path in folder.rglob(f"*{key}*") if path.is_file())
    return path
