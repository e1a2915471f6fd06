"""The folder of backups.

backup.json             what this folder is
blobs/3f/3f...          files, named by the digest of their key; a file never changes
indexes/20260102T030405Z.jsonl.gz
                        the entries of the archive (`Storage.dump`), a line each, then their number and SHA-256
"""

import contextlib
import fcntl
import gzip
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from dicomweb_server.errors import Conflict, NotFound
from dicomweb_server.services.backup_entries import parsed
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.records import ArchiveEntry, versions_in

FORMAT = 1
_MARK = "backup.json"
_SUFFIX = ".jsonl.gz"
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class File:
    """A file that an entry refers to. Of a layout size and SHA-256 are not known."""

    key: str
    instance_uid: str
    size_bytes: int | None = None
    sha256: str | None = None


class Folder:
    """The folder of backups."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make it, where it is not there. Raises Conflict for a folder with something else in it."""
        mark = self._path / _MARK
        with disk_errors():
            if not mark.exists():
                if self._path.exists() and not self._path.is_dir():
                    raise Conflict(f"{self._path} is no folder: name another one.")
                if self._path.exists() and any(self._path.iterdir()):
                    raise Conflict(f"{self._path} is not empty, and no folder of backups: name another one.")
                for part in ("blobs", "indexes"):
                    (self._path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
                mark.write_bytes(orjson.dumps({"format": FORMAT}))
        self.check()

    def check(self) -> None:
        """Raises NotFound where there is no backup, Conflict for one of a newer release."""
        try:
            mark = orjson.loads((self._path / _MARK).read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError) as exc:
            raise NotFound(f"There is no backup in {self._path}.") from exc
        if mark.get("format") != FORMAT:
            raise Conflict(f"The backup in {self._path} was made by a newer release.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While inside, no other process writes to it. Raises Conflict."""
        with (self._path / _MARK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                raise Conflict(f"Another backup into {self._path} is running.") from exc
            yield

    def names(self) -> list[str]:
        """The backups that are complete, oldest first."""
        try:
            listed = os.listdir(self._path / "indexes")  # not glob, for which what may not be read is empty
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [name.removesuffix(_SUFFIX) for name in listed if name.endswith(_SUFFIX)]
        return sorted(name for name in found if _NAME.fullmatch(name))

    def index(self, name: str) -> Path:
        """The file of an index."""
        return self._path / "indexes" / f"{name}{_SUFFIX}"

    def blob(self, key: str) -> Path:
        """The file of a blob."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self._path / "blobs" / digest[:2] / digest

    def prune(self, keep: int) -> int:
        """Forget all but the newest backups, and the files that only they had; gives how many files went."""
        names = self.names()
        if keep <= 0 or len(names) <= keep:
            return 0
        wanted = {self.blob(one.key).name for name in names[-keep:] for one in self._files_in(name)}
        with disk_errors():
            for name in names[:-keep]:
                self.index(name).unlink()
            unused = [path for path in (self._path / "blobs").glob("??/*") if path.name not in wanted]
            for path in unused:
                path.unlink()
        return len(unused)

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of the entries of an index, one an entry."""
        before: bytes | None = None
        with disk_errors(), gzip.open(self.index(name), "rb") as file:
            for line in file:
                if before is not None:
                    yield before
                before = line

    def _files_in(self, name: str) -> Iterator[File]:
        for line in self.lines(name):
            yield from files_of(parsed(line))


def files_of(entry: ArchiveEntry) -> Sequence[File]:
    """The files that an entry refers to, with those of older versions in it."""
    found: list[File] = []
    for version in versions_in(entry):
        one = version.instance
        found.append(File(one.blob.key, one.instance_uid, one.blob.size_bytes, one.blob.sha256))
        if one.layout_blob is not None:
            found.append(File(one.layout_blob, one.instance_uid))
    return found
