"""Results of decoding, transcoding and rendering, kept on disk up to a size, the least recently used given up first.

A key is a SHA-256 in hex of all that the result depends on, the SHA-256 of the instance's file among it: what is in the
cache is reached only through a record of the storage, and never has to be taken back. Several processes share a
directory. Within one, those who want the same result at the same time wait for one making.
"""

import io
import os
import struct
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any, BinaryIO

from dicomweb_server import __version__
from dicomweb_server.services.retrieve import BLOCK_BYTES, Payload
from dicomweb_server.storage.disk import disk_errors

_ENTRY_BYTES = 4096  # the least that a file takes on a disk
_SWEEPS = 32  # a process looks at the whole after it has written so large a part of the limit
_LARGEST_PART = 4  # of the limit, that one result may take
_FILLED_AGAIN = 0.9
_TOUCH_SECONDS = 300
_ABANDONED_SECONDS = 24 * 3600
_TEMPORARY = "making-"
_HEAD = struct.Struct("<8sQ")
_MARK = b"dicomweb"


def cache_key(*parts: object) -> str:
    """The key for what a result depends on. It changes with the version of this server, which may draw differently."""
    return sha256("\0".join((__version__, *map(str, parts))).encode("utf-8", "surrogatepass")).hexdigest()


class _Making:
    """A result on its way; those who wait for it get it, or the error."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class ResultCache:
    """Results by key. max_bytes: of all in the directory; 0 keeps nothing, and needs no directory."""

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int) -> None:
        self._directory = os.fspath(directory)
        self._max_bytes = max_bytes
        self._makings: dict[str, _Making] = {}
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._unswept = max_bytes  # the first result kept also looks at what others left

    def bytes_of(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The result of a key, made where it is not there. Raises what `make` raises."""

        def made() -> bytes:
            data = self._kept(key)  # another may have finished just now
            if data is None:
                data = make()
                self._keep(key, data)
            return data

        found: bytes | None = self._kept(key)
        if found is None:
            found = self._once(key, made)
        return found

    def file_of(self, key: str, write: Callable[[BinaryIO], None]) -> Payload:
        """A large result, written to a file by `write` where it is not there. The file lives as long as the payload."""
        kept = self._open(key)
        if kept is None:
            own: list[BinaryIO] = []
            self._once(key, lambda: own.append(self._written(key, write)))
            kept = own[0] if own else self._open(key)
        # What another has made may be too large to be kept.
        return _file_payload(kept if kept is not None else self._written(key, write))

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives; who comes while it is being made waits for it."""
        with self._lock:
            making = self._makings.get(key)
            mine = making is None
            if making is None:
                making = self._makings[key] = _Making()
        if not mine:
            making.done.wait()
            if making.error is not None:
                raise making.error
            return making.result
        try:
            making.result = make()
            return making.result
        except BaseException as exc:
            making.error = exc
            raise
        finally:
            with self._lock:
                del self._makings[key]
            making.done.set()

    # Files

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, key[:1], key[1:])

    def _kept(self, key: str) -> bytes | None:
        file = self._open(key)
        if file is None:
            return None
        with file:
            return file.read()

    def _open(self, key: str) -> BinaryIO | None:
        if not self._max_bytes:
            return None
        try:
            file = open(self._path(key), "rb", buffering=0)  # noqa: SIM115 - the caller closes it
        except OSError:
            return None
        state = os.fstat(file.fileno())
        if state.st_size < _HEAD.size or file.read(_HEAD.size) != _head(state.st_size - _HEAD.size):
            file.close()
            return None
        with suppress(OSError):  # a hint only
            if time.time() - state.st_mtime > _TOUCH_SECONDS:
                os.utime(file.fileno())
        return file

    def _keep(self, key: str, data: bytes) -> None:
        """Keep a result if it can be; an answer does not fail for that."""
        if not self._fits(len(data)):
            return
        temporary = self._temporary()
        try:
            self._write(temporary, data)
            try:
                os.replace(temporary, self._path(key))
            except FileNotFoundError:
                os.makedirs(os.path.join(self._directory, key[:1]), mode=0o700, exist_ok=True)
                os.replace(temporary, self._path(key))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            return
        self._count(len(data))

    def _write(self, path: str, data: bytes) -> None:
        """A new file; one that is cut short because the disk is full is not taken for a result later."""
        try:
            file = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            file = open(path, "xb", buffering=0, opener=_private)  # noqa: SIM115 - closed below
        with file:
            file.write(_head(len(data)) + data)

    def _written(self, key: str, write: Callable[[BinaryIO], None]) -> BinaryIO:
        """A new file with the result, open; in the cache if it fits there, else without a name."""
        if not self._max_bytes:
            return _filled(tempfile.TemporaryFile(), write)
        with disk_errors():
            os.makedirs(os.path.join(self._directory, key[:1]), mode=0o700, exist_ok=True)
            temporary = self._temporary()
            file: BinaryIO = open(temporary, "x+b", opener=_private)  # noqa: SIM115 - lives on
            try:
                _filled(file, write)
                size = os.fstat(file.fileno()).st_size
                if not self._fits(size):
                    os.unlink(temporary)
                    return file
                os.replace(temporary, self._path(key))
            except BaseException:
                file.close()
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        self._count(size)
        return file

    def _temporary(self) -> str:
        return os.path.join(self._directory, _TEMPORARY + uuid.uuid4().hex)

    def _fits(self, size: int) -> bool:
        return size <= self._max_bytes // _LARGEST_PART

    # Giving up what is too much

    def _count(self, size: int) -> None:
        with self._lock:
            self._unswept += max(size, _ENTRY_BYTES)
            due = self._unswept > self._max_bytes // _SWEEPS
        if due and self._sweeping.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._sweeping.release()

    def _sweep(self) -> None:
        with self._lock:
            self._unswept = 0
        entries: list[tuple[float, int, str]] = []
        for entry in _scan(self._directory):
            if entry.name.startswith(_TEMPORARY):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                        os.unlink(entry.path)
            elif len(entry.name) <= 2:  # two letters: by an older release
                for kept in _scan(entry.path):
                    with suppress(OSError):
                        state = kept.stat(follow_symlinks=False)
                        entries.append((state.st_mtime, max(state.st_size, _ENTRY_BYTES), kept.path))
        total = sum(size for _, size, _ in entries)
        if total <= self._max_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= self._max_bytes * _FILLED_AGAIN:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= size


def in_memory(data: bytes) -> Payload:
    """Bytes as a payload."""
    return Payload(
        size_bytes=len(data),
        chunks=lambda first, count: iter((data[first : first + count],)),
        open_file=lambda: None,
    )


def _scan(directory: str) -> Iterator["os.DirEntry[str]"]:
    with suppress(OSError), os.scandir(directory) as entries:
        yield from entries


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _head(size: int) -> bytes:
    """What stands before a result of so many bytes: after a loss of power, files can be shorter than they were."""
    return _HEAD.pack(_MARK, size)


def _filled(file: BinaryIO, write: Callable[[BinaryIO], None]) -> BinaryIO:
    file.write(bytes(_HEAD.size))
    write(file)
    size = file.seek(0, os.SEEK_END) - _HEAD.size
    file.seek(0)
    file.write(_head(size))
    file.flush()
    return file


class _Held:
    """Closes a file when nobody needs it any more."""

    def __init__(self, file: BinaryIO) -> None:
        self.descriptor = file.fileno()
        weakref.finalize(self, file.close)


def _file_payload(file: BinaryIO) -> Payload:
    held = _Held(file)

    def chunks(first: int, count: int) -> Iterator[bytes]:
        while count > 0:
            data = os.pread(held.descriptor, min(count, BLOCK_BYTES), _HEAD.size + first)
            if not data:
                return
            first, count = first + len(data), count - len(data)
            yield data

    def open_file() -> tuple[BinaryIO, int]:
        return io.BufferedReader(io.FileIO(os.dup(held.descriptor), "r")), _HEAD.size

    size = os.fstat(held.descriptor).st_size - _HEAD.size
    return Payload(size_bytes=size, chunks=chunks, open_file=open_file)
