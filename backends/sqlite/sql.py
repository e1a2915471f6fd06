"""Pieces of statements with their values, and the patterns of a term as such pieces."""
# ruff: noqa: S608 - names of columns are constants of `schema`; values are bound

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dicomweb_server.dicom.matching import Equal, Pattern, Range, Wildcard, Words
from dicomweb_server.dicom.names import sound


@dataclass(frozen=True, slots=True)
class Sql:
    """A piece of a statement with its values. `selective`: an index answers it and leaves few rows."""

    text: str
    values: tuple[Any, ...] = ()
    selective: bool = False


NEVER, ALWAYS = Sql("0"), Sql("1")


def any_of(parts: Sequence[Sql]) -> Sql:
    """At least one holds."""
    if len(parts) < 2:
        return parts[0] if parts else NEVER
    text = "(" + " OR ".join(part.text for part in parts) + ")"
    return Sql(text, tuple(value for part in parts for value in part.values), all(part.selective for part in parts))


def all_of(parts: Sequence[Sql]) -> Sql:
    """All hold."""
    if len(parts) < 2:
        return parts[0] if parts else ALWAYS
    text = "(" + " AND ".join(part.text for part in parts) + ")"
    return Sql(text, tuple(value for part in parts for value in part.values), any(part.selective for part in parts))


def on_row(condition: Sql, row: str) -> Sql:
    """A condition on a column that is formatted with its row, on this row."""
    return Sql(condition.text.format(f"{row}."), condition.values, condition.selective)


def patterns_on(column: str, patterns: Sequence[Pattern]) -> list[Sql]:
    """The patterns on a column or expression; those of `Empty` and `Words` are the caller's."""
    equal = [pattern.value for pattern in patterns if isinstance(pattern, Equal)]
    found = []
    if len(equal) == 1:
        found.append(Sql(f"{column} = ?", (equal[0],), selective=True))
    elif equal:
        listed = orjson.dumps(equal).decode()
        found.append(Sql(f"{column} IN (SELECT value FROM json_each(?))", (listed,), selective=True))
    for pattern in patterns:
        if isinstance(pattern, Range):
            ends = [(f"{column} >= ?", pattern.low), (f"{column} <= ?", pattern.high)]
            given = [(text, end) for text, end in ends if end is not None]
            found.append(Sql(f"({' AND '.join(text for text, _ in given)})", tuple(end for _, end in given)))
        elif isinstance(pattern, Wildcard):
            found.append(_wildcard(column, pattern.pattern))
    return found


def _wildcard(column: str, pattern: str) -> Sql:
    prefix = pattern[: min(at for at in (pattern.find("*"), pattern.find("?"), len(pattern)) if at >= 0)]
    glob = pattern.replace("[", "[[]")
    if not prefix:
        return Sql(f"{column} GLOB ?", (glob,))
    between = f"{column} >= ? AND {column} < ?"
    if pattern == prefix + "*":
        return Sql(f"({between})", (prefix, _behind(prefix)), selective=True)
    return Sql(f"({between} AND {column} GLOB ?)", (prefix, _behind(prefix), glob), selective=True)


def _behind(prefix: str) -> str:
    """The first text behind all that begin with the prefix, in the order of code points."""
    bare = prefix.rstrip("\U0010ffff")
    last = ord(bare[-1]) + 1 if bare else 0x110000
    if last > 0x10FFFF:
        return "\U0010ffff" * 1025
    return bare[:-1] + chr(0xE000 if last == 0xD800 else last)


def words_in(column: str, pattern: Words) -> Sql:
    """Every word begins a word of the text, or its sound code is there; to be formatted with the row."""
    parts, values = [], []
    for word in pattern.words:
        code = sound(word)
        parts.append("(instr({0}" + column + ", ?)" + (" OR instr({0}" + column + ", ?))" if code else ")"))
        values += [f" {word}", *([f" #{code} "] if code else [])]
    return Sql(f"({' AND '.join(parts)})", tuple(values))
