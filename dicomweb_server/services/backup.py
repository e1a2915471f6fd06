"""Copying a running archive into a folder, again and again: the index whole, of the files those that are new.

Nobody has to stop. An instance is in a backup as it was when it was read: whole, with its file, whose SHA-256 is
compared on the way. What was stored when the backup began and has not been removed since is in it.
"""

import gzip
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import orjson

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.services.backup_entries import packed
from dicomweb_server.services.backup_folder import File, Folder, files_of
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import ArchiveEntry, BinnedEntry, InstanceEntry, ReplacedEntry

_TIME = "%Y%m%dT%H%M%SZ"
_THREADS = 4
_ENTRIES_AT_ONCE = 64
_LEVEL = 1  # of the compression: metadata is deflated already


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupProgress:
    """How far a backup is: `instances` of `total` are in it, with `copied_bytes` of new files."""

    instances: int
    total: int
    copied_bytes: int


@dataclass(slots=True)
class BackedUp:
    """What a run did. `damaged`: instances left out because their file is missing or not what its record says."""

    name: str
    instances: int = 0
    entries: int = 0
    copied_files: int = 0
    copied_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


class Backup:
    """One run. `told` hears how far it is. `verify`: files that are in the folder already are read, too."""

    def __init__(
        self,
        storage: Storage,
        blobs: BlobStore,
        folder: Folder,
        *,
        told: Callable[[BackupProgress], None],
        verify: bool = False,
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._folder = folder
        self._told = told
        self._verify = verify
        self._changed: set[Path] = set()

    def run(self) -> BackedUp:
        """Copy. The index has its name only when all is on the disk; what an interrupted run has copied is used by the
        next one. Raises Conflict, StorageUnavailable, StorageFull."""
        self._folder.create()
        with self._folder.locked(), disk_errors():
            done = BackedUp(_name_behind(self._folder.names()))
            index = self._folder.index(done.name)
            part = index.with_name("unfinished")
            with part.open("wb") as file:
                os.chmod(part, 0o600)
                with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, filename="", mtime=0) as lines:
                    digest = hashlib.sha256()
                    for entry in self._entries(done):
                        line = packed(entry) + b"\n"
                        digest.update(line)
                        lines.write(line)
                        done.entries += 1
                    end = {"entries": done.entries, "instances": done.instances, "sha256": digest.hexdigest()}
                    lines.write(orjson.dumps(end) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            for folder in sorted(self._changed):
                _sync(folder)
            part.rename(index)
            _sync(index.parent)
        return done

    def _entries(self, done: BackedUp) -> Iterator[ArchiveEntry]:
        """The entries whose files are in the folder."""
        total = self._storage.count(query=Query(level=Level.INSTANCE))
        seen = _Seen()
        entries = (entry for _, entry in self._storage.dump())
        with ThreadPoolExecutor(_THREADS) as pool:
            while some := list(islice(entries, _ENTRIES_AT_ONCE)):
                for entry, copied in zip(some, pool.map(self._copied, some), strict=True):
                    if isinstance(copied, str):
                        if self._is_referred_to(entry):
                            done.damaged.append(copied)
                        continue
                    if isinstance(entry, InstanceEntry):
                        done.instances += 1
                        seen.add(entry)
                    elif isinstance(entry, ReplacedEntry | BinnedEntry) and not seen.is_apart(entry):
                        continue
                    done.copied_files += len(copied)
                    done.copied_bytes += sum(copied)
                    yield entry
                progress = BackupProgress(
                    instances=done.instances, total=max(total, done.instances), copied_bytes=done.copied_bytes
                )
                self._told(progress)

    def _copied(self, entry: ArchiveEntry) -> list[int] | str:
        """The sizes of the files that were copied; in words what is wrong with one."""
        sizes = []
        for one in files_of(entry):
            try:
                size = self._copy(one)
            except StorageCorrupt as exc:
                return f"{one.instance_uid}: {exc.message}"
            if size is not None:
                sizes.append(size)
        return sizes

    def _copy(self, one: File) -> int | None:
        """Copy a file, unless it is there; gives its size if it was copied."""
        path = self._folder.blob(one.key)
        if self._is_there(path, one):
            return None
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        digest, size_bytes = hashlib.sha256(), 0
        with disk_errors(), part.open("wb") as file:
            for chunk in self._blobs.stream(key=one.key):
                digest.update(chunk)
                size_bytes += len(chunk)
                file.write(chunk)
            file.flush()
            os.fdatasync(file.fileno())
        if one.sha256 not in (None, digest.hexdigest()):
            part.unlink()
            raise StorageCorrupt("its SHA-256 is not that of its record.")
        part.rename(path)
        self._changed.update((path.parent, path.parent.parent))
        return size_bytes

    def _is_there(self, path: Path, one: File) -> bool:
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            return False
        if one.size_bytes is None:
            return size_bytes > 0
        return size_bytes == one.size_bytes and (not self._verify or _sha256(path) == one.sha256)

    def _is_referred_to(self, entry: ArchiveEntry) -> bool:
        """Whether the files of an entry are still wanted: a removal may have been faster."""
        keys = [one.key for one in files_of(entry)]
        queued = set(self._storage.released(limit=100_000))
        return not queued.intersection(keys) and len(self._storage.known_blobs(keys=keys)) == len(keys)


class _Seen:
    """The instances that are in the index, in few bytes each. What is replaced or removed after its instance was read
    comes again as an older version, or in the bin; of what came and was replaced behind the reader only the older
    version comes."""

    def __init__(self) -> None:
        self._uids: set[int] = set()
        self._keys: set[int] = set()

    def add(self, entry: InstanceEntry) -> None:
        self._uids.add(hash(entry.instance.instance_uid))
        self._keys.add(hash(entry.instance.blob.key))

    def is_apart(self, entry: ReplacedEntry | BinnedEntry) -> bool:
        """Whether the entry belongs into the index besides the instances that are there."""
        one = entry.instance
        alone = isinstance(entry, BinnedEntry)
        return (alone or hash(one.instance_uid) in self._uids) and hash(one.blob.key) not in self._keys


def _name_behind(names: Sequence[str]) -> str:
    """This second, or that behind the newest backup: names are in the order of making, also where the clock was set
    back."""
    now = _now()
    if not names or names[-1] < now:
        return now
    newest = datetime.strptime(names[-1], _TIME).replace(tzinfo=UTC)
    return (newest + timedelta(seconds=1)).strftime(_TIME)


def _now() -> str:
    return datetime.now(UTC).strftime(_TIME)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
