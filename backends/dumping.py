"""What the `Storage.dump` of every backend has in common: parts one after the other, and cursors.

A cursor is the JSON of the number of the part, of how many entries of the part were given, and of the key of the last
one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.records import ArchiveEntry

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Entries of one kind. `entries` takes the key behind which to begin (None: at the beginning) and how many lie
    before; it gives each entry with its key, which has values of the types of `shape`."""

    shape: tuple[type, ...]
    entries: Callable[[Key | None, int], Iterator[tuple[Key, ArchiveEntry]]]


def dump(parts: Sequence[Part], after: str | None) -> Iterator[tuple[str, ArchiveEntry]]:
    """As `Storage.dump`, of all parts."""
    place, number, key = (0, 0, None) if after is None else _parsed(parts, after)
    return _dumped(parts, place, number, key)


def _dumped(parts: Sequence[Part], start: int, number: int, key: Key | None) -> Iterator[tuple[str, ArchiveEntry]]:
    for place in range(start, len(parts)):
        for last, entry in parts[place].entries(key, number):
            number += 1
            yield orjson.dumps([place, number, last]).decode(), entry
        key, number = None, 0


def _parsed(parts: Sequence[Part], after: str) -> tuple[int, int, Key]:
    try:
        place, number, key = orjson.loads(after)
        known = len(parts) > place >= 0 < number
        if known and [type(value) for value in key] == list(parts[place].shape):
            return place, number, tuple(key)
    except (ValueError, TypeError):
        pass
    raise BadRequest("The cursor of the archive is not one that this storage gave.")
