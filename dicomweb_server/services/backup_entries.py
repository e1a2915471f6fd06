"""Entries of an archive as lines of JSON, and back: the index inside a backup."""

import types
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import orjson

from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.records import ArchiveEntry

_KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(ArchiveEntry)}


def packed(entry: ArchiveEntry) -> bytes:
    """The entry as a line, without the line's end."""
    return orjson.dumps([type(entry).__name__, _plain(entry)])


def parsed(line: bytes) -> ArchiveEntry:
    """The entry of a line. Raises StorageCorrupt for anything else."""
    try:
        name, values = orjson.loads(line)
        return cast(ArchiveEntry, _made(_KINDS[name], values))
    except (ValueError, TypeError, KeyError) as exc:
        raise StorageCorrupt("The index in the backup is damaged, or a newer release wrote it.") from exc


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _made(kind: Any, value: Any) -> Any:
    """The value of a type, from what `_plain` made of it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # all of ours are of one type and None
        (kind,) = (each for each in arguments if each is not type(None))
        return None if value is None else _made(kind, value)
    if origin is tuple:
        return tuple(_made(arguments[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _made(arguments[1], item) for key, item in value.items()}
    if origin is not None and issubclass(origin, Sequence):
        return [_made(arguments[0], item) for item in value]
    if kind is bytes:
        return b64decode(value, validate=True)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**{name: _made(hint, value[name]) for name, hint in _hints(kind).items() if name in value})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    return value
