"""A folder into which others put files: what is complete goes into the archive and is moved away.

There is no state but the folder itself: a file is in it as long as it is not known to be in the archive. After a crash
it is stored again, which the archive knows for the same, and moved then.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dicomweb_server.errors import BadRequest, StorageError, StorageFull, StorageUnavailable
from dicomweb_server.services.imports import Fate, FileOutcome, Importer, Summary, batches
from dicomweb_server.services.sources import Source

MAX_FILES = 100_000
EMPTY_FOLDER_SECONDS = 600.0
REASON_SUFFIX = ".reason.txt"
UNFINISHED_SUFFIXES = (".part", ".partial", ".tmp", ".temp", ".filepart", ".crdownload", ".!ut")
_MAX_REASONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The watched folder, where stored files go (None: they are deleted), and where refused ones go."""

    inbox: Path
    stored: Path | None
    refused: Path

    def check(self) -> None:
        """Raises BadRequest unless files can go from one to the other."""
        if not self.inbox.is_dir():
            raise BadRequest(f"There is no folder {self.inbox}.")
        for place in filter(None, (self.stored, self.refused)):
            if place == self.inbox or place in self.inbox.parents:
                raise BadRequest(f"The files cannot go to {place}: it holds the watched folder.")


class Watch:
    """Looks at the folder when it is told to.

    A file is complete when its size and time were the same for `settle_seconds`. Names that begin with a dot or end as
    those of unfinished transfers do, and links, are left alone. Of more than MAX_FILES files, some wait.
    """

    def __init__(
        self, importer: Importer, places: Places, *, settle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._importer = importer
        self._places = places
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
        self._own = {str(place) for place in (places.stored, places.refused) if place}

    @property
    def waiting(self) -> int:
        """How many files the last look left in the folder."""
        return len(self._seen)

    def look(self, check: Callable[[], None] = lambda: None) -> Summary:
        """Store what is complete and move it; gives what became of it. `check` is called between batches.

        Raises StorageError when the archive takes nothing now; the files stay, and the next look tries again.
        """
        summary = Summary()
        for batch in batches(list(self._complete())):
            check()
            self._store(batch, summary)
        return summary

    def _complete(self) -> Iterator[Source]:
        now = self._clock()
        before, self._seen = self._seen, {}
        for path, found in self._files(str(self._places.inbox)):
            if len(self._seen) >= MAX_FILES:
                return
            stamp = found.st_size, found.st_mtime_ns
            same, since = before.get(path, (None, now))
            if same != stamp:
                since = now
            self._seen[path] = stamp, since
            if same == stamp and now - since >= self._settle_seconds:
                yield Source(path=path, size_bytes=stamp[0], stamp=stamp[1])

    def _files(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        waiting = [folder]
        while waiting:
            with suppress(OSError), os.scandir(path := waiting.pop()) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
                if not names and path != folder:
                    _remove_old(path)
                for entry in names:
                    if entry.name.startswith(".") or entry.path in self._own:
                        continue
                    with suppress(OSError):  # gone meanwhile, or not for us to read
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        elif entry.is_file(follow_symlinks=False) and not _is_unfinished(entry.name):
                            yield entry.path, entry.stat(follow_symlinks=False)

    def _store(self, batch: Sequence[Source], summary: Summary) -> None:
        try:
            outcome = self._importer.run(batch)
        except (StorageFull, StorageUnavailable):
            raise
        except StorageError:
            if len(batch) == 1:
                raise
            for source in batch:  # one that the archive cannot take shall not keep the others out
                with suppress(StorageError):
                    self._store([source], summary)
            return
        summary.add(outcome)
        files: list[list[FileOutcome]] = [[] for _ in batch]
        for owner, file in zip(outcome.owners, outcome.files, strict=True):
            files[owner].append(file)
        for source, its in zip(batch, files, strict=True):
            self._move(source, its)

    def _move(self, source: Source, files: Sequence[FileOutcome]) -> None:
        """Away, unless it has changed since it was read: then it is another file."""
        with suppress(FileNotFoundError):
            found = os.lstat(source.path)
            if (found.st_size, found.st_mtime_ns) != (source.size_bytes, source.stamp):
                return
            refused = [file for file in files if file.fate in (Fate.REFUSED, Fate.SKIPPED)]
            # A zip with other files beside its instances is taken; a file that is no instance at all is not.
            if any(file.fate is Fate.REFUSED for file in refused) or len(refused) == len(files):
                kept = _moved(source.path, self._target(self._places.refused, source.path))
                Path(f"{kept}{REASON_SUFFIX}").write_text(_reasons(source, refused), encoding="utf-8")
            elif self._places.stored is None:
                os.unlink(source.path)
            else:
                _moved(source.path, self._target(self._places.stored, source.path))
            self._seen.pop(source.path, None)

    def _target(self, place: Path, path: str) -> Path:
        return place / os.path.relpath(path, self._places.inbox)


def _is_unfinished(name: str) -> bool:
    return name.lower().endswith(UNFINISHED_SUFFIXES)


def _moved(path: str, target: Path) -> Path:
    """Move the file; where the name is taken, to one with a number. Gives where it is."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free, number = target, 1
    while free.exists() or free.is_symlink():
        number += 1
        free = target.with_name(f"{target.stem}~{number}{target.suffix}")
    shutil.move(path, free)
    return free


def _reasons(source: Source, refused: Sequence[FileOutcome]) -> str:
    lines = [
        f"{file.name.removeprefix(source.name).lstrip('!')}: {file.reason}".removeprefix(": ")
        for file in refused[:_MAX_REASONS]
    ]
    return "\n".join(lines or ["there is nothing in it"]) + "\n"


def _remove_old(folder: str) -> None:
    """A folder that has been empty for long is what is left of a transfer."""
    with suppress(OSError):
        if time.time() - os.stat(folder).st_mtime > EMPTY_FOLDER_SECONDS:
            os.rmdir(folder)
