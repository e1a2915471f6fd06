"""The files that an import finds: in folders of any depth, in zips, in zips inside of zips.

What is walked is given as `Source`, small enough to be handed to another process; what a source holds is opened there.
"""

import io
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from dicomweb_server.storage.disk import disk_errors

CHUNK_BYTES = 1 << 20
MAX_ZIP_DEPTH = 8
SKIPPED_FOLDERS = frozenset(("__MACOSX",))
_RATIO_LIMIT = 1000
_RATIO_FREE_BYTES = 64 << 20
_MAGIC_BYTES = 132
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_ENCRYPTED = 1

Chunks = Iterator[memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file, or the member of a zip with this place in its directory. `stamp` changes when the content does; `named`:
    it is one of the paths to walk, not found below one."""

    path: str
    size_bytes: int
    stamp: int
    member: int | None = None
    member_name: str = ""
    named: bool = False

    @property
    def name(self) -> str:
        """How it is told to people: `folder/a.zip!inside/b.dcm`. Bytes of the path that are no UTF-8 are escaped."""
        path = _shown(self.path)
        return f"{path}!{self.member_name}" if self.member is not None else path


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Something that was found, but cannot be read, and why."""

    name: str
    reason: str


class SourceError(Exception):
    """A source cannot be read to its end; `reason` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def walk(paths: Sequence[str], *, follow_links: bool = True) -> Iterator[Source | Unreadable]:
    """Everything below the paths, folders in the order of names; a folder is visited once."""
    visited: set[tuple[int, int]] = set()
    for path in paths:
        yield from _walk(path, visited, follow_links=follow_links)


def _walk(top: str, visited: set[tuple[int, int]], *, follow_links: bool) -> Iterator[Source | Unreadable]:
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            found = os.stat(path, follow_symlinks=follow_links)
            if stat.S_ISLNK(found.st_mode):
                yield Unreadable(name=_shown(path), reason="symbolic links are not followed here")
            elif stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) not in visited:
                    visited.add((found.st_dev, found.st_ino))
                    names = sorted(set(os.listdir(path)) - SKIPPED_FOLDERS, reverse=True)
                    waiting += [os.path.join(path, name) for name in names]
            elif stat.S_ISREG(found.st_mode):
                yield from _file(path, found, named=path is top)
        except OSError as exc:
            yield Unreadable(name=_shown(path), reason=_words(exc))


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _file(path: str, found: os.stat_result, *, named: bool) -> Iterator[Source | Unreadable]:
    whole = Source(path=path, size_bytes=found.st_size, stamp=found.st_mtime_ns, named=named)
    if not path.lower().endswith(".zip"):
        yield whole
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        yield whole  # its name may be wrong
        return
    for number, info in enumerate(members):
        if _is_wanted(info):
            yield Source(path=path, size_bytes=info.file_size, stamp=info.CRC, member=number, member_name=info.filename)


def _is_wanted(info: zipfile.ZipInfo) -> bool:
    return not info.is_dir() and not SKIPPED_FOLDERS.intersection(info.filename.split("/"))


def _words(exc: OSError) -> str:
    return f"cannot be read: {exc.strerror or type(exc).__name__}"


class Opener:
    """Opens sources one after the other. The directory of the zip that was read last is kept: it can be large."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._zip: tuple[str, zipfile.ZipFile] | None = None

    def close(self) -> None:
        """Release the zip that is open."""
        if self._zip is not None:
            self._zip[1].close()
            self._zip = None

    def each(self, source: Source) -> Iterator[tuple[str, Chunks]]:
        """The name and the bytes of the source, or of every file in it when it is a zip.

        Chunks are views of one buffer, each valid until the next is asked for; they are to be read before the next
        file is. What cannot be read raises SourceError, always out of the chunks.
        """
        try:
            with _readable():
                if source.member is None:
                    file = cast(IO[bytes], open(source.path, "rb", buffering=0))  # noqa: SIM115 - closed below
                else:
                    archive = self._opened(source.path)
                    info = _member(archive, source)
        except SourceError as exc:
            yield source.name, _failing(exc)
            return
        if source.member is not None:
            yield from self._inside(source.name, archive, info, 1)
            return
        with file:
            yield from self._files(source.name, file, 0)

    def _opened(self, path: str) -> zipfile.ZipFile:
        if self._zip is None or self._zip[0] != path:
            self.close()
            self._zip = path, zipfile.ZipFile(path)
        return self._zip[1]

    def _inside(
        self, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, depth: int
    ) -> Iterator[tuple[str, Chunks]]:
        try:
            if info.flag_bits & _ENCRYPTED:
                raise SourceError("encrypted in its zip")
            if info.file_size > max(_RATIO_FREE_BYTES, _RATIO_LIMIT * info.compress_size):
                raise SourceError(f"it unpacks to more than {_RATIO_LIMIT} times its size")
            with _readable():
                file = archive.open(info)
        except SourceError as exc:
            yield name, _failing(exc)
            return
        with file:
            yield from self._files(name, file, depth)

    def _files(self, name: str, file: IO[bytes], depth: int) -> Iterator[tuple[str, Chunks]]:
        chunks = self._chunks(file)
        try:
            first = next(chunks, self._buffer[:0])
        except SourceError as exc:
            yield name, _failing(exc)
            return
        if bytes(first[:4]) not in _ZIP_MAGIC or bytes(first[128:_MAGIC_BYTES]) == b"DICM":
            yield name, _joined(first, chunks)
        elif depth >= MAX_ZIP_DEPTH:
            yield name, _failing(SourceError(f"zips are more than {MAX_ZIP_DEPTH} deep in one another"))
        else:
            yield from self._unpacked(name, _joined(first, chunks), depth + 1)

    def _unpacked(self, name: str, chunks: Chunks, depth: int) -> Iterator[tuple[str, Chunks]]:
        """The files of a zip inside of a zip, or under another name."""
        with tempfile.TemporaryFile() as copy:
            try:
                for chunk in chunks:
                    with disk_errors():
                        copy.write(chunk)
                with _readable():
                    archive = zipfile.ZipFile(copy)
            except SourceError as exc:
                yield name, _failing(exc)
                return
            with archive:
                for info in filter(_is_wanted, archive.infolist()):
                    yield from self._inside(f"{name}!{info.filename}", archive, info, depth)

    def _chunks(self, file: IO[bytes]) -> Chunks:
        """The buffer, filled again and again: a chunk that does not fill it is the last one."""
        while True:
            with _readable():
                filled = _fill(file, self._buffer)
            if filled:
                yield self._buffer[:filled]
            if filled < len(self._buffer):
                return


def _member(archive: zipfile.ZipFile, source: Source) -> zipfile.ZipInfo:
    members, number = archive.infolist(), source.member or 0
    if number >= len(members) or members[number].filename != source.member_name:
        raise SourceError("the zip has changed meanwhile")
    return members[number]


def _fill(file: IO[bytes], view: memoryview) -> int:
    filled = 0
    while filled < len(view) and (count := cast(io.RawIOBase, file).readinto(view[filled:])):
        filled += count
    return filled


def _joined(first: memoryview, rest: Chunks) -> Chunks:
    if first:
        yield first
        yield from rest


def _failing(error: SourceError) -> Chunks:
    raise error
    yield  # what makes it a generator: the error comes with the first chunk


@contextmanager
def _readable() -> Iterator[None]:
    """What goes wrong with a file or a zip becomes a SourceError."""
    try:
        yield
    except OSError as exc:
        raise SourceError(_words(exc)) from exc
    except (zipfile.BadZipFile, zlib.error, EOFError) as exc:
        raise SourceError("the zip is damaged") from exc
    except (NotImplementedError, RuntimeError) as exc:
        raise SourceError("packed in a way that cannot be unpacked here") from exc
