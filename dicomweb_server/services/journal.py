"""What became of every file of an import: lines of JSON, written when it is certain, read when an import goes on.

A line tells of one file: its name, the outcome, the UIDs or the reason. A line `{"done": KEY}` says that all of a
source is in the archive, or is no instance; only these count when an import goes on.
"""

import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Self

import orjson

from dicomweb_server.services.imports import FileOutcome
from dicomweb_server.services.sources import Source

FORMAT = 1
_DIGEST_BYTES = 12


class Journal:
    """The journal in a file that only its owner can read."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._done: set[bytes] = set()
        if resume:
            self._read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if resume else os.O_TRUNC)
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")
        if resume and self._file.tell():
            self._file.write(b"\n")  # the last line may have no end: an empty one says nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def is_done(self, source: Source) -> bool:
        """Whether an earlier run is done with exactly this file."""
        return bool(self._done) and _digest(_key(source)) in self._done

    def write(self, files: Iterable[FileOutcome], done: Iterable[Source] = ()) -> None:
        """Note what has become of files, and which sources are done; the lines are in the file when this returns."""
        for file in files:
            self._file.write(orjson.dumps(file) + b"\n")
        for source in done:
            self._file.write(orjson.dumps({"done": _key(source)}) + b"\n")
        self._file.flush()

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                for line in file:
                    self._read_line(line)
        except FileNotFoundError:
            return

    def _read_line(self, line: bytes) -> None:
        try:
            key = orjson.loads(line).get("done")
        except (ValueError, AttributeError):
            return  # a run that was killed left half a line
        if isinstance(key, str):
            self._done.add(_digest(key))


def _key(source: Source) -> str:
    return f"{source.size_bytes} {source.stamp} {source.name}"


def _digest(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=_DIGEST_BYTES).digest()
