"""A backup, as what an archive is restored from."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from dicomweb_server.errors import NotFound, StorageCorrupt
from dicomweb_server.services.backup_entries import parsed
from dicomweb_server.services.backup_folder import Folder
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import ArchiveEntry, Scope


class BackupSource:
    """A backup as the source of a `Copy`: both its storage and its blobs."""

    def __init__(self, folder: Folder, name: str | None = None) -> None:
        """Read the named backup, else the newest. Raises NotFound, and StorageCorrupt where its index is damaged."""
        folder.check()
        names = folder.names()
        if not names or (name is not None and name not in names):
            raise NotFound(f"There is no {f'backup {name}' if name else 'complete backup'} in this folder.")
        self.name = name or names[-1]
        self._folder = folder
        self._instances = _checked(folder.index(self.name))

    @property
    def storage(self) -> "BackupSource":
        """Itself."""
        return self

    @property
    def blobs(self) -> "BackupSource":
        """Itself."""
        return self

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """As `Storage.dump`; a cursor is the number of a line."""
        start = int(after) if after is not None else 0
        for number, line in enumerate(self._folder.lines(self.name), 1):
            if number > start:
                yield str(number), parsed(line)

    def version(self, *, scope: Scope) -> str:
        """Its name."""
        return self.name

    def count(self, *, query: Query) -> int:
        """How many instances are in it."""
        return self._instances

    def stream(self, *, key: str) -> Iterator[bytes]:
        """The bytes of a file. Raises StorageCorrupt when it is missing."""
        try:
            file = self._folder.blob(key).open("rb")
        except FileNotFoundError as exc:
            raise StorageCorrupt("A file of the backup is missing.") from exc
        return _chunks(file)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file, disk_errors():
        while chunk := file.read(1 << 20):
            yield chunk


def _checked(index: Path) -> int:
    """How many instances an index has. Raises StorageCorrupt when it is not as it was written."""
    digest, entries, last = hashlib.sha256(), 0, b""
    try:
        with gzip.open(index, "rb") as file:
            for line in file:
                if last:
                    digest.update(last)
                    entries += 1
                last = line
        end = orjson.loads(last)
        if (end["sha256"], end["entries"]) == (digest.hexdigest(), entries):
            return int(end["instances"])
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        pass
    raise StorageCorrupt("The index in the backup is damaged: name an older one.")
