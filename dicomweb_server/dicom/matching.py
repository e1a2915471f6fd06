"""Attribute matching (PS3.4 C.2.2.2): the conditions of a query, and when stored values match them."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from dicomweb_server.dicom.attributes import Attributes, is_empty, vr_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.names import MAX_TEXT, fold_name, fold_whole_name, plain_name, sound, words
from dicomweb_server.dicom.spans import date_time_span, time_span

Path = tuple[str, ...]
"""An attribute: one tag, or the tags from a sequence down to the attribute inside it. A path of one entry of the form
"00080020+00080030" is the combined date-time of the two (PS3.4 C.2.2.2.5)."""


@dataclass(frozen=True, slots=True)
class Equal:
    """A value of the attribute is this one."""

    value: str | float


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A value matches the pattern: `*` any run of characters, also none; `?` exactly one. Nothing else is special."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Range:
    """A value lies between both ends, inclusive; None is open. At least one end is given."""

    low: str | float | None
    high: str | float | None


@dataclass(frozen=True, slots=True)
class Empty:
    """The attribute is absent or has no value (PS3.4 C.2.2.2.7)."""


@dataclass(frozen=True, slots=True)
class Words:
    """Each word begins, or sounds like, a word of the name: fuzzy matching (PS3.18 8.3.4.2). The words come from
    `names.words`, the sound codes from `names.sound`."""

    words: tuple[str, ...]


Pattern = Equal | Wildcard | Range | Empty | Words


@dataclass(frozen=True, slots=True)
class Term:
    """At least one pattern matches a value of the attribute. An attribute of several values matches by any of them."""

    path: Path
    vr: str
    any_of: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """All parts hold; without parts it always holds."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; without parts it never does."""

    parts: tuple["Condition", ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class Has:
    """Something of this deeper level, below the entity, for which all parts hold."""

    level: Level
    parts: tuple["Condition", ...]


Condition = Term | AllOf | AnyOf | Not | Has


def terms_in(conditions: Iterable[Condition]) -> Iterator[Term]:
    """The terms of conditions on the entity itself, at any depth."""
    for condition in conditions:
        match condition:
            case Term():
                yield condition
            case AllOf(parts) | AnyOf(parts):
                yield from terms_in(parts)
            case Not(part):
                yield from terms_in((part,))


NUMBERS = frozenset(("IS", "DS", "FL", "FD", "SL", "SS", "UL", "US", "SV", "UV"))
"""The VRs whose values are compared as numbers."""
BINARY = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))
"""The VRs whose values are not compared."""


# Stored values


def match_values(attributes: Attributes, path: Path) -> list[str | float]:
    """The values of an attribute in the form in which they are compared, without duplicates, in stored order.

    The dictionary's VR of the last tag decides the form: names by `fold_name`, one for each component group and one for
    the whole when there are several groups, and by `fold_whole_name` where the components at an end are empty; dates
    YYYYMMDD; times HHMMSSffffff, the start of what the value spans; date times both of that, in UTC when the value has
    an offset; numbers as float; UIDs and text trimmed, with their case, cut to `MAX_TEXT`. A date, time or number that
    is none, a sequence and binary have no value to compare.
    """
    if "+" in path[-1]:
        return _combined_values(attributes, path)
    form = _FORMS.get(vr_of(path[-1]), _text_forms)
    values: list[str | float] = []
    for attribute in _elements(attributes, path):
        for value in attribute.get("Value", ()):
            if value is not None:
                values.extend(form(value))
    return list(dict.fromkeys(values)) if len(values) > 1 else values


def has_value(attributes: Attributes, path: Path) -> bool:
    """Whether the attribute is there with anything in it, comparable or not."""
    if "+" in path[-1]:
        return any(has_value(attributes, (*path[:-1], tag)) for tag in path[-1].split("+"))
    return any(not is_empty(attribute) for attribute in _elements(attributes, path))


def _elements(attributes: Attributes, path: Path) -> Iterator[Mapping[str, Any]]:
    attribute = attributes.get(path[0])
    if attribute is None:
        return
    if len(path) == 1:
        yield attribute
        return
    for item in attribute.get("Value", ()):
        if isinstance(item, Mapping):
            yield from _elements(item, path[1:])


def _combined_values(attributes: Attributes, path: Path) -> list[str | float]:
    """Dates with the times at the same place; a date without time is the start of its day."""
    date_tag, _, time_tag = path[-1].partition("+")
    dates = match_values(attributes, (*path[:-1], date_tag))
    times = match_values(attributes, (*path[:-1], time_tag))
    return [f"{date}{time}" for date, time in zip_longest(dates, times[: len(dates)], fillvalue="0" * 12)]


def _text_forms(value: Any) -> Iterable[str | float]:
    if isinstance(value, str):
        text = value.strip(" \0")[:MAX_TEXT]
        return (text,) if text else ()
    if isinstance(value, Mapping):  # a name where the dictionary knows none
        groups = [str(group).strip(" \0") for group in value.values() if group]
        return dict.fromkeys([*groups, "=".join(groups)] if groups else ())
    return _number_forms(value)


def _name_forms(value: Any) -> Iterable[str | float]:
    if isinstance(value, Mapping):
        groups = [str(value.get(name) or "") for name in ("Alphabetic", "Ideographic", "Phonetic")]
    else:
        groups = str(value).split("=")
    if sum(1 for group in groups if group) > 1:
        groups.append("=".join(groups))
    forms = []
    for group in groups:
        folded, plain = fold_name(group), plain_name(group)
        # Folding may join characters (half-width kana with a sound mark), which a "?" counts one by one.
        forms += [folded] if len(folded) == len(plain) else [folded, plain]
    forms += [fold_whole_name(group) for group in groups if "^" in group[-2:] or "^=" in group]
    return [form for form in forms if form]


def _date_forms(value: Any) -> Iterable[str | float]:
    text = str(value).strip(" \0").replace(".", "")
    return (text,) if len(text) == 8 and text.isascii() and text.isdigit() else ()


def _time_forms(value: Any) -> Iterable[str | float]:
    span = time_span(str(value).strip(" \0"))
    return (span[0],) if span else ()


def _date_time_forms(value: Any) -> Iterable[str | float]:
    span = date_time_span(str(value).strip(" \0"))
    return (span[0],) if span else ()


def _number_forms(value: Any) -> Iterable[str | float]:
    found = number(value)
    return () if found is None else (found,)


def _tag_forms(value: Any) -> Iterable[str | float]:
    return (str(value).strip(" \0").upper(),)


def _no_forms(_: Any) -> Iterable[str | float]:
    return ()


_FORMS: Mapping[str, Callable[[Any], Iterable[str | float]]] = {
    "PN": _name_forms,
    "DA": _date_forms,
    "TM": _time_forms,
    "DT": _date_time_forms,
    "AT": _tag_forms,
    "SQ": _no_forms,
    **dict.fromkeys(NUMBERS, _number_forms),
    **dict.fromkeys(BINARY, _no_forms),
}


def number(value: Any) -> float | None:
    """The number that a value is; None where it is none, or not finite."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


# Matching


def matches(term: Term, attributes: Attributes) -> bool:
    """Whether the attributes match the term. Plain and slow: what every storage's search must agree with."""
    values = match_values(attributes, term.path)
    return any(_pattern_matches(pattern, values, term.path, attributes) for pattern in term.any_of)


def holds(condition: Condition, attributes: Attributes, has: Callable[[Has], bool]) -> bool:
    """Whether a condition holds; `has` answers for what is below the entity. As plain as `matches`."""
    match condition:
        case Term():
            return matches(condition, attributes)
        case AllOf(parts):
            return all(holds(part, attributes, has) for part in parts)
        case AnyOf(parts):
            return any(holds(part, attributes, has) for part in parts)
        case Not(part):
            return not holds(part, attributes, has)
        case Has():
            return has(condition)


def _pattern_matches(pattern: Pattern, values: list[str | float], path: Path, attributes: Attributes) -> bool:
    match pattern:
        case Equal(wanted):
            return any(value == wanted for value in values)
        case Wildcard(text):
            return any(isinstance(value, str) and wildcard_matches(text, value) for value in values)
        case Range(low, high):
            return any(_between(low, value, high) for value in values)
        case Words(wanted_words):
            return has_words(wanted_words, [value for value in values if isinstance(value, str)])
        case Empty():
            return not has_value(attributes, path)


def _between(low: str | float | None, value: str | float, high: str | float | None) -> bool:
    ends = [end for end in (low, high) if end is not None]
    if any(isinstance(end, str) is not isinstance(value, str) for end in ends):
        return False
    return (low is None or low <= value) and (high is None or value <= high)  # type: ignore[operator]


def wildcard_matches(pattern: str, value: str) -> bool:
    """Whether the whole value fits the pattern; the time is at most the product of both lengths."""
    at, position, star, mark = 0, 0, -1, 0
    while position < len(value):
        if at < len(pattern) and pattern[at] == "*":
            star, mark = at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", value[position]):
            at += 1
            position += 1
        elif star >= 0:
            mark += 1
            at, position = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")


def has_words(wanted: Iterable[str], names: Iterable[str]) -> bool:
    """Whether each wanted word begins, or sounds like, a word of the names."""
    present = {word for name in names for word in words(name)}
    sounds = {code for word in present if (code := sound(word))}
    return all(sound(word) in sounds or any(known.startswith(word) for known in present) for word in wanted)


def sort_key(attributes: Attributes, tag: str) -> str | float | None:
    """What entities are ordered by for a tag: the first value to compare, None (always last) where there is none."""
    return next(iter(match_values(attributes, (tag,))), None)
