"""Files in a directory: `BlobStore` on a local or mounted disk.

A blob is written to `staging/`, synced, renamed to its place, and the directories that changed are synced. Places are
`blobs/YYYYMMDD/HHMM/<32 hex digits>` by the clock, so that no directory grows without bound; a clock that is set back
only puts files into directories that exist already. `....links` are links to files elsewhere (`links.py`).
"""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from backends.files import links
from backends.files.links import StagedLink
from backends.files.staged_file import StagedFile
from dicomweb_server.errors import BadDicom, ConfigError, StorageCorrupt, StorageError, StorageUnavailable
from dicomweb_server.storage.base import LinkingBlobStore, StagedBlob
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.records import StorageState

_KEY = re.compile(rf"[0-9]{{8}}/[0-9]{{4}}/[0-9a-f]{{32}}({links.KEY_ENDING})?", re.ASCII)
_LIST = re.compile(rf"[0-9a-f]{{32}}{re.escape(links.LIST_SUFFIX)}", re.ASCII)
_SETTINGS = ("directory",)
_CHUNK_BYTES = 1 << 20
_SYNCING_THREADS = 8
_STALE_SECONDS = 24 * 3600


@contextmanager
def _reading() -> Iterator[None]:
    """As `disk_errors`; what the disk cannot read of a file is damaged, however well the others are."""
    with disk_errors():
        try:
            yield
        except OSError as error:
            if error.errno == errno.EIO:
                raise StorageCorrupt("A file of the archive cannot be read: the disk gives an error.") from error
            raise


class FileBlobStore(LinkingBlobStore):
    """Settings: `directory`, made when it does not exist."""

    def __init__(self, directory: str) -> None:
        self._blobs = os.path.join(directory, "blobs")
        self._staging = os.path.join(directory, "staging")
        self._own: tuple[str, ...] = ()
        self._made: set[str] = set()
        self._syncing: ThreadPoolExecutor | None = None
        self._open = False

    @classmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        unknown = sorted(set(settings) - set(_SETTINGS))
        if unknown:
            raise ConfigError(f"files has no setting {unknown[0]!r}; it has {', '.join(_SETTINGS)}.")
        directory = settings.get("directory")
        if not directory or not isinstance(directory, str) or "\0" in directory:
            raise ConfigError("files.directory must name the directory of the files.")
        return cls(directory)

    def open(self) -> None:
        with disk_errors():
            for directory in (self._blobs, self._staging):
                _make(directory)
            self._sweep()
        self._own = tuple(os.path.realpath(directory) for directory in (self._blobs, self._staging))
        if self._syncing is None:
            self._syncing = ThreadPoolExecutor(_SYNCING_THREADS, thread_name_prefix="sync")
        self._open = True

    def close(self) -> None:
        self._open = False
        if self._syncing is not None:
            self._syncing.shutdown()
            self._syncing = None

    def check(self) -> StorageState:
        started = time.perf_counter()
        ready = self._open and all(os.access(place, os.W_OK | os.X_OK) for place in (self._blobs, self._staging))
        detail = f"The directory of the files {'can' if ready else 'cannot'} be written."
        return StorageState(ready=ready, latency_seconds=time.perf_counter() - started, detail=detail)

    def free_bytes(self) -> int | None:
        with disk_errors():
            return shutil.disk_usage(self._blobs).free

    def stage(self) -> StagedFile:
        self._check_open()
        with disk_errors():
            return StagedFile(os.path.join(self._staging, uuid.uuid4().hex))

    def link(self, *, path: str) -> StagedLink:
        self._check_open()
        target = os.path.realpath(path)
        if any(target.startswith(f"{own}{os.sep}") for own in self._own):
            raise BadDicom("this is a file of the archive itself")
        try:
            return StagedLink(target)
        except OSError as error:
            raise BadDicom(f"the file cannot be read: {error.strerror or 'it is no plain file'}") from error

    def keep(self, *, staged: Sequence[StagedBlob]) -> list[str]:
        self._check_open()
        files = [blob for blob in staged if isinstance(blob, StagedFile) and blob.pending]
        linked = [blob for blob in staged if isinstance(blob, StagedLink) and blob.pending]
        if len(files) + len(linked) != len(staged):
            raise StorageError("A blob was given up, kept before, or staged elsewhere.")
        if not linked:
            return self._keep_files(files)
        lines = [link.line() for link in linked]
        with disk_errors():
            listed = StagedFile(os.path.join(self._staging, uuid.uuid4().hex), links.LIST_SUFFIX)
        try:
            with disk_errors():
                listed.file.write(b"".join(lines))
            *others, key = self._keep_files([*files, listed])
        except BaseException:
            listed.discard()
            raise
        for link in linked:
            link.discard()
        keys = dict(zip(map(id, files), others, strict=True))
        keys |= {id(link): f"{key}-{offset}" for link, offset in zip(linked, links.offsets_of(lines), strict=True)}
        return [keys[id(blob)] for blob in staged]

    def _keep_files(self, files: Sequence[StagedFile]) -> list[str]:
        prefix = time.strftime("%Y%m%d/%H%M", time.gmtime())
        moved: list[tuple[StagedFile, str]] = []
        with disk_errors():
            try:
                self._sync(files)
                if files:
                    self._make_directory(prefix)
                for file in files:
                    key = f"{prefix}/{uuid.uuid4().hex}{file.suffix}"
                    os.rename(file.path, os.path.join(self._blobs, key))
                    moved.append((file, key))
                if files:
                    _sync_directory(os.path.join(self._blobs, prefix))
            except BaseException:
                for file, key in moved:
                    with suppress(OSError):
                        os.rename(os.path.join(self._blobs, key), file.path)
                raise
        for file, _ in moved:
            file.pending = False
            file.file.close()
        return [key for _, key in moved]

    def _sync(self, files: Sequence[StagedFile]) -> None:
        """All at once: a file system with a journal commits it once for those that wait, not once for each."""
        if len(files) == 1 or self._syncing is None:
            for file in files:
                file.sync()
            return
        shares = [files[place::_SYNCING_THREADS] for place in range(min(len(files), _SYNCING_THREADS))]
        running = [self._syncing.submit(_sync_each, share) for share in shares]
        wait(running)
        for future in running:
            future.result()

    def read(self, *, key: str, start: int, length: int) -> bytes:
        descriptor = self._opened(key)
        try:
            with _reading():
                data = _read_exactly(descriptor, start, length)
        finally:
            os.close(descriptor)
        if len(data) != length:
            raise StorageCorrupt("A file of the archive is shorter than its record says.")
        return data

    def stream(self, *, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        return _OpenChunks(self._opened(key), start, length)

    def open_file(self, *, key: str) -> BinaryIO | None:
        return os.fdopen(self._opened(key), "rb", buffering=0)

    def size(self, *, key: str) -> int:
        if links.is_link(key):
            with open(self._opened(key), "rb") as file:
                return os.fstat(file.fileno()).st_size
        with disk_errors():
            try:
                return os.stat(self._place(key)).st_size
            except FileNotFoundError as error:
                raise StorageCorrupt("A file of the archive is missing.") from error

    def delete(self, *, keys: Iterable[str]) -> None:
        self._check_open()
        in_lists: dict[str, list[int]] = {}
        with disk_errors():
            for key in filter(_KEY.fullmatch, keys):
                name, offset = links.place_of(key)
                if offset is not None:
                    in_lists.setdefault(name, []).append(offset)
                    continue
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._blobs, name))
            for name, offsets in in_lists.items():
                with suppress(FileNotFoundError):
                    links.delete(os.path.join(self._blobs, name), offsets)

    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        self._check_open()
        newest = time.time() - older_than_seconds
        with disk_errors():
            for day in _names(self._blobs):
                for minute in _names(os.path.join(self._blobs, day)):
                    for name in _names(os.path.join(self._blobs, day, minute)):
                        key = f"{day}/{minute}/{name}"
                        path = os.path.join(self._blobs, key)
                        if _KEY.fullmatch(key) and _kept_before(path, newest):
                            yield key
                        elif _LIST.fullmatch(name) and _kept_before(path, newest):
                            with suppress(FileNotFoundError):
                                yield from (f"{key}-{offset}" for offset in links.live_offsets(path))

    def _check_open(self) -> None:
        if not self._open:
            raise StorageUnavailable("The files are not open.")

    def _place(self, key: str) -> str:
        """The path of the file of a key. Whatever is not of our form can name no file."""
        self._check_open()
        if not _KEY.fullmatch(key):
            raise StorageCorrupt("A record of the archive names a file that cannot be.")
        return os.path.join(self._blobs, links.place_of(key)[0])

    def _opened(self, key: str) -> int:
        path = self._place(key)
        with _reading():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise StorageCorrupt("A file of the archive is missing.") from error
            return links.open_linked(descriptor, links.place_of(key)[1]) if links.is_link(key) else descriptor

    def _make_directory(self, prefix: str) -> None:
        """Make the two directories durable before anything in them is."""
        if prefix in self._made:
            return
        day = os.path.join(self._blobs, prefix.partition("/")[0])
        os.makedirs(os.path.join(self._blobs, prefix), mode=0o700, exist_ok=True)
        _sync_directory(day)
        _sync_directory(self._blobs)
        self._made = {prefix}

    def _sweep(self) -> None:
        oldest = time.time() - _STALE_SECONDS
        for name in _names(self._staging):
            path = os.path.join(self._staging, name)
            if _kept_before(path, oldest):
                with suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(path)


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _kept_before(path: str, moment: float) -> bool:
    with suppress(FileNotFoundError):
        return Path(path).lstat().st_mtime <= moment
    return False


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:  # no retry mends these
        raise ConfigError(f"The folder {directory} of the files cannot be made: {error.strerror}.") from error


def _sync_each(files: Iterable[StagedFile]) -> None:
    for file in files:
        file.sync()


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_exactly(descriptor: int, start: int, length: int) -> bytes:
    """As many bytes as there are, up to the length: one call reads at most 2 GB."""
    data = os.pread(descriptor, length, start)
    if len(data) in (0, length):
        return data
    parts, position = [data], start + len(data)
    while position < start + length and (data := os.pread(descriptor, start + length - position, position)):
        parts.append(data)
        position += len(data)
    return b"".join(parts)


class _OpenChunks(Iterator[bytes]):
    """Holds its file from the first moment, so that closing it early, or never reading, releases it too."""

    def __init__(self, descriptor: int, start: int, length: int | None) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._position = start
        self._left = length

    def __next__(self) -> bytes:
        if self._file.closed or self._left == 0:
            self.close()
            raise StopIteration
        wanted = _CHUNK_BYTES if self._left is None else min(_CHUNK_BYTES, self._left)
        with _reading():
            data = os.pread(self._file.fileno(), wanted, self._position)
        if not data:
            self.close()
            if self._left:
                raise StorageCorrupt("A file of the archive is shorter than its record says.")
            raise StopIteration
        self._position += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    __del__ = close
