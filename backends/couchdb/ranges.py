"""Terms as ranges of keys: what of the views `terms` and `pieces` holds everything that a term matches; and as tests of
the values that stand in rows. Pure: nothing here asks the server."""

from collections.abc import Callable, Sequence
from typing import Any

from backends.couchdb import entities, keys
from backends.couchdb.database import Json
from backends.couchdb.designs import PIECE_DIGITS, PIECES
from backends.couchdb.entities import STUDY_DATE, STUDY_TIME, TERMS, words_tag
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import (
    AllOf,
    AnyOf,
    Condition,
    Equal,
    Pattern,
    Range,
    Term,
    Wildcard,
    Words,
    has_words,
    wildcard_matches,
)
from dicomweb_server.dicom.names import sound

_DATE_AND_TIME = f"{STUDY_DATE}+{STUDY_TIME}"


def equal_values(term: Term) -> list[keys.Key] | None:
    """The values, if nothing else is asked for."""
    values = [pattern.value for pattern in term.any_of if isinstance(pattern, Equal)]
    return values if len(values) == len(term.any_of) else None


def is_exact(term: Term) -> bool:
    """Whether the ranges of the term hold nothing but what matches."""
    return all(
        isinstance(pattern, Equal | Range)
        or (isinstance(pattern, Wildcard) and _prefix(pattern) + "*" == pattern.pattern)
        for pattern in term.any_of
    )


def days_of(term: Term) -> tuple[str | None, str | None] | None:
    """First and last day, for a term on the date of the study alone or with its time."""
    if term.path[0] not in (STUDY_DATE, _DATE_AND_TIME) or len(term.any_of) != 1:
        return None
    pattern = term.any_of[0]
    low, high = (
        (pattern.value, pattern.value) if isinstance(pattern, Equal)
        else (pattern.low, pattern.high) if isinstance(pattern, Range)
        else (None, None)
    )  # fmt: skip
    if low is None and high is None:
        return None
    return (str(low)[:8] if low is not None else None), (str(high)[:8] if high is not None else None)


def _prefix(pattern: Wildcard) -> str:
    """What a value must begin with."""
    ends = [place for place in (pattern.pattern.find("*"), pattern.pattern.find("?")) if place >= 0]
    return pattern.pattern[: min(ends, default=len(pattern.pattern))]


def condition_ranges(level: Level, condition: Condition) -> list[Json] | None:
    """The ranges of `terms` that hold everything for which the condition holds; None where there are none."""
    match condition:
        case Term():
            return term_ranges(level, condition)
        case AllOf(parts):
            return next((ranges for part in parts if (ranges := condition_ranges(level, part)) is not None), None)
        case AnyOf(parts):
            found = [condition_ranges(level, part) for part in parts]
            return None if None in found else [each for ranges in found for each in ranges or ()]
        case _:
            return None


def term_ranges(level: str, term: Term) -> list[Json] | None:
    """The ranges of `terms` that hold everything which the term matches; None where there are none."""
    tag = term.path[0]
    if len(term.path) > 1 or tag not in TERMS[level]:
        return None
    found: list[Json] = []
    for pattern in term.any_of:
        ranges = _pattern_ranges(pattern, tag)
        if not ranges:
            return None
        found += [_span(_rows_of(level), *each) for each in ranges]
    return found


def _pattern_ranges(pattern: Pattern, tag: str) -> list[tuple[str, Any, list[Any]]]:
    match pattern:
        case Equal(value):
            return [_exactly(tag, value)]
        case Range(low, high):
            text = isinstance(low if low is not None else high, str)
            start = keys.encode(low) if low is not None else ("" if text else None)
            if high is not None:
                return [(tag, start, [keys.encode(high), keys.END])]
            return [(tag, start, [keys.AFTER_HEX if text else ""])]
        case Wildcard() if prefix := _prefix(pattern):
            return [_beginning(tag, prefix)]
        case Words(wanted) if tag in entities.NAMES:
            word = max(wanted, key=len)
            code = sound(word)
            return [_beginning(words_tag(tag), word), *([_exactly(words_tag(tag), f"#{code}")] if code else [])]
    return []


def word_ranges(level: str, term: Term) -> tuple[list[Json], Json] | None:
    """For a single word of a name: ranges of one value each, which therefore come in the default order of the level,
    and the range of the words that begin with it and are longer. None for other terms."""
    tag = term.path[0]
    match term.any_of:
        case (Words((word,)),) if tag in entities.NAMES and tag in TERMS[level] and len(term.path) == 1:
            rows, name, code = _rows_of(level), words_tag(tag), sound(word)
            texts = [word, *([f"#{code}"] if code else [])]
            values = [_span(rows, *_exactly(name, text)) for text in texts]
            _, start, end = _beginning(name, word)
            return values, {"startkey": [rows, name, start, keys.END], "endkey": [rows, name, *end]}
    return None


def _rows_of(level: str) -> str:
    """The level of whose documents are the rows by which a level is found."""
    return entities.HEADER if level == Level.SERIES else level


def _span(rows: str, name: str, start: Any, end: list[Any]) -> Json:
    return {"startkey": [rows, name, start], "endkey": [rows, name, *end]}


def _exactly(tag: str, value: keys.Key) -> tuple[str, Any, list[Any]]:
    return tag, keys.encode(value), [keys.encode(value), keys.END]


def _beginning(tag: str, prefix: str) -> tuple[str, Any, list[Any]]:
    return tag, keys.encode(prefix), [f"{keys.encode(prefix)}{keys.AFTER_HEX}"]


def pieces_of(term: Term) -> list[str] | None:
    """The longest text of each pattern of the term; None where pieces do not help."""
    if term.path[0] not in PIECES:
        return None
    found = [_longest(pattern) if isinstance(pattern, Wildcard) else "" for pattern in term.any_of]
    return found if all(len(text) > 1 for text in found) else None


def _longest(pattern: Wildcard) -> str:
    return max(pattern.pattern.replace("?", "*").split("*"), key=len)


def is_piece(pattern: Pattern) -> bool:
    """Whether what has the piece matches, and nothing else."""
    if not isinstance(pattern, Wildcard):
        return False
    text = _longest(pattern)
    return pattern.pattern == f"*{text}*" and len(str(keys.encode(text))) <= PIECE_DIGITS


def piece_range(tag: str, text: str) -> Json:
    """The range of `pieces` that holds everything with a piece that begins so."""
    start = str(keys.encode(text))[:PIECE_DIGITS]
    return {"startkey": [tag, start], "endkey": [tag, f"{start}{keys.AFTER_HEX}"]}


def tested_by(patterns: Sequence[Pattern]) -> Callable[[list[keys.Key]], bool]:
    """Whether one of the patterns matches one of the values; as `matching.matches`, but for Empty."""
    tests = [_test_one(pattern) for pattern in patterns]
    return lambda values: any(test(values) for test in tests)


def _test_one(pattern: Pattern) -> Callable[[list[keys.Key]], bool]:
    match pattern:
        case Equal(wanted):
            return lambda values: wanted in values
        case Wildcard(text):
            pieces = [piece for piece in text.replace("?", "*").split("*") if piece]
            inner = pieces[0] if len(pieces) == 1 and text == f"*{pieces[0]}*" else None
            if inner is not None:
                return lambda values: any(isinstance(value, str) and inner in value for value in values)
            return lambda values: any(
                isinstance(value, str) and all(piece in value for piece in pieces) and wildcard_matches(text, value)
                for value in values
            )
        case Words(wanted_words):
            return lambda values: has_words(wanted_words, [value for value in values if isinstance(value, str)])
        case _:
            return lambda values: True
