"""Archives in a folder for tests of commands, which are run in this process."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pydicom.dataset import Dataset

from dicomweb_server.app import open_parts
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.ingest import Ingest, IngestLimits
from dicomweb_server.settings import load
from dicomweb_server.storage.records import OnDuplicate
from tests.samples import part10

REPLACE = IngestLimits(on_duplicate=OnDuplicate.REPLACE)


def settings_file(folder: Path, text: str = "") -> Path:
    """A settings file of an archive in that folder, which need not exist."""
    path = folder.with_suffix(".toml")
    path.write_text(f'[storage]\ndirectory = "{folder}"\n{text}', encoding="utf-8")
    return path


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
