"""Attribute matching (PS3.4 C.2.2.2): what a query value means, and when a stored value matches it."""

import calendar
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Any

from dicomweb_server.dicom.attributes import Attributes, is_empty, keyword_of, vr_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.names import MAX_TEXT, fold_name, plain_name, sound, words
from dicomweb_server.errors import BadRequest

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


MAX_VALUES = 5000
MAX_QUERY_BYTES = 64 * 1024
MAX_LIST_BYTES = MAX_VALUES * 65
"""Bounds of a query value; a list of UIDs, numbers, tags or code strings may be as long as so many UIDs are."""
MAX_STARS = 32

_NUMBERS = frozenset(("IS", "DS", "FL", "FD", "SL", "SS", "UL", "US", "SV", "UV"))
_BINARY = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))
_WILDCARD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"))
_LISTED = _NUMBERS | {"UI", "CS", "AT"}
_CLOCKED = frozenset(("DA", "TM", "DT"))

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LIST = re.compile(r"[,\\]")
_STARS = re.compile(r"\*{2,}")


# Stored values


def match_values(attributes: Attributes, path: Path) -> list[str | float]:
    """The values of an attribute in the form in which they are compared, without duplicates, in stored order.

    The dictionary's VR of the last tag decides the form: names by `fold_name`, one for each component group and one for
    the whole when there are several groups; dates YYYYMMDD; times HHMMSSffffff, the start of what the value spans; date
    times both of that, in UTC when the value has an offset; numbers as float; UIDs and text trimmed, with their case,
    cut to `MAX_TEXT`. A date, time or number that is none, a sequence and binary have no value to compare.
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
    return [form for form in forms if form]


def _date_forms(value: Any) -> Iterable[str | float]:
    text = str(value).strip(" \0").replace(".", "")
    return (text,) if len(text) == 8 and text.isascii() and text.isdigit() else ()


def _time_forms(value: Any) -> Iterable[str | float]:
    span = _time_span(str(value).strip(" \0"))
    return (span[0],) if span else ()


def _date_time_forms(value: Any) -> Iterable[str | float]:
    span = _date_time_span(str(value).strip(" \0"))
    return (span[0],) if span else ()


def _number_forms(value: Any) -> Iterable[str | float]:
    number = _number(value)
    return () if number is None else (number,)


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
    **dict.fromkeys(_NUMBERS, _number_forms),
    **dict.fromkeys(_BINARY, _no_forms),
}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# Query values


def parse_term(
    path: Path, text: str, *, fuzzy: bool = False, multiple: bool = False, empty: bool = False
) -> Term | None:
    """What a query value demands of an attribute (PS3.4 C.2.2.2); None where it demands nothing (universal matching).

    UIDs, numbers, tags and code strings are lists separated by comma or backslash; `multiple` (multiple value matching)
    splits all others by backslash. `empty` (empty value matching) gives two quotation marks their meaning. `fuzzy`
    matches names by the words in them. Raises BadRequest for a value that the attribute cannot have.
    """
    vr = vr_of(path[-1])
    if _CONTROL.search(text):
        raise BadRequest(f"The value of {_name(path)} holds a control character.")
    longest = MAX_LIST_BYTES if vr in _LISTED else MAX_QUERY_BYTES
    if len(text.encode()) > longest:
        raise BadRequest(f"The value of {_name(path)} is longer than {longest} bytes.")
    values = [value for part in _split(vr, text, multiple) if (value := part.strip())]
    if not values or any(not value.strip("*") for value in values):
        return None
    if len(values) > MAX_VALUES:
        raise BadRequest(f"{_name(path)} has more than {MAX_VALUES} values.")
    patterns: dict[Pattern, None] = {}
    for value in values:
        if empty and value == '""':
            patterns[Empty()] = None
        else:
            patterns.update(dict.fromkeys(_patterns(path, vr, value, fuzzy)))
    return Term(path, vr, tuple(patterns)) if patterns else None


def parse_combined(path: Path, date: str, time: str) -> Term | None:
    """The date and the time value of a query as one range of moments (PS3.4 C.2.2.2.5): from the first date at the
    first time to the last date at the last time. `path` ends in "DATE+TIME"."""
    low_date, high_date = _ends(path, date.strip(), _date_span, "date")
    low_time, high_time = _ends(path, time.strip(), _time_span, "time")
    low = None if low_date is None else low_date + (low_time or "0" * 12)
    high = None if high_date is None else high_date + (high_time or "235959999999")
    if low is None and high is None:
        return None
    return Term(path, "DT", (_span_pattern(path, low, high),))


def _split(vr: str, text: str, multiple: bool) -> list[str]:
    if vr in _LISTED:
        return _LIST.split(text)
    return text.split("\\") if multiple else [text]


def _patterns(path: Path, vr: str, value: str, fuzzy: bool) -> list[Pattern]:
    if vr in _CLOCKED:
        span, kind = _SPANS[vr]
        return [_span_pattern(path, *_ends(path, value, span, kind))]
    if vr in _NUMBERS:
        number = _number(value)
        if number is None:
            raise BadRequest(f"{_name(path)} is a number; its query value is none.")
        return [Equal(number)]
    if vr == "PN":
        return _name_patterns(path, value, fuzzy)
    if vr == "SQ" or vr in _BINARY:
        raise BadRequest(
            f"{_name(path)} cannot be matched: name an attribute with a value, inside the sequence if it is one."
        )
    if vr == "AT":
        return [Equal(value.strip("()").replace(",", "").upper())]
    if vr in _WILDCARD:
        number = _number(value) if vr == "UN" else None
        return [_text_pattern(path, value), *([] if number is None else [Equal(number)])]
    return [Equal(value[:MAX_TEXT])]


def _text_pattern(path: Path, value: str) -> Pattern:
    if "*" not in value and "?" not in value:
        return Equal(value[:MAX_TEXT])
    pattern = _STARS.sub("*", value)
    if pattern.count("*") > MAX_STARS:
        raise BadRequest(f"The value of {_name(path)} has more than {MAX_STARS} stars.")
    if len(pattern) > MAX_TEXT:
        raise BadRequest(f"The pattern for {_name(path)} is longer than {MAX_TEXT} characters.")
    return Wildcard(pattern)


def _name_patterns(path: Path, value: str, fuzzy: bool) -> list[Pattern]:
    folded, plain = fold_name(value), plain_name(value)
    starred = "*" in value or "?" in value
    if starred:
        _text_pattern(path, value)  # folding cuts what is too long: refuse that first
    if fuzzy and (wanted := words(value)):
        return [Words(wanted), *([_text_pattern(path, folded)] if starred else [])]
    patterns: list[Pattern] = [_text_pattern(path, folded)]
    if "?" in value and plain != folded:
        patterns.append(_text_pattern(path, plain))
    return patterns


def _name(path: Path) -> str:
    return ".".join("+".join(keyword_of(tag) or tag for tag in part.split("+")) for part in path)


# Dates and times


_TIME = re.compile(r"(\d{2}(?:\d{2}(?:\d{2})?)?)(?:\.(\d{1,6})\d*)?", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4,14})(?:\.(\d{1,6}))?(?:([+-])(\d{2})(\d{2}))?", re.ASCII)
_RANGE = re.compile(r"(?P<low>.*?[^+-]|)-(?P<high>[^+-].*|)", re.DOTALL)
_DATE_TIME_RANGE = re.compile(rf"(?P<low>{_DATE_TIME.pattern}|)-(?P<high>{_DATE_TIME.pattern}|)", re.ASCII)
_LAST = "99991231235959999999"
_FIRST_MOMENT = "00010101000000000000"


def _date_span(text: str) -> tuple[str, str] | None:
    digits = text.replace(".", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) not in (4, 6, 8):
        return None
    return digits + "0101"[len(digits) - 4 :], digits + "1231"[len(digits) - 4 :]


def _time_span(text: str) -> tuple[str, str] | None:
    found = _TIME.fullmatch(text.replace(":", ""))
    if not found or (found[2] and len(found[1]) < 6):
        return None
    digits = found[1] + (found[2] or "")
    return digits + "000000000000"[len(digits) :], digits + "005959999999"[len(digits) :]


def _date_time_span(text: str) -> tuple[str, str] | None:
    found = _DATE_TIME.fullmatch(text)
    if not found or len(found[1]) % 2 or (found[2] and len(found[1]) < 14):
        return None
    digits = found[1] + (found[2] or "")
    low, high = digits + _FIRST_MOMENT[len(digits) :], digits + _LAST[len(digits) :]
    if not found[3]:
        return low, high
    minutes = int(found[4]) * 60 + int(found[5])
    if minutes > 14 * 60 or int(found[5]) > 59:
        return None
    shift = timedelta(minutes=-minutes if found[3] == "+" else minutes)
    try:
        return _shifted(low, shift, first=True), _shifted(high, shift, first=False)
    except (ValueError, OverflowError):
        return None


def _shifted(moment: str, shift: timedelta, *, first: bool) -> str:
    year, month, day = int(moment[:4]), int(moment[4:6]), int(moment[6:8])
    if not first and day == 31:
        day = calendar.monthrange(year, month)[1]
    clock = timedelta(
        hours=int(moment[8:10]), minutes=int(moment[10:12]), seconds=int(moment[12:14]), microseconds=int(moment[14:])
    )
    return f"{datetime(year, month, day) + clock + shift:%Y%m%d%H%M%S%f}".zfill(20)


Span = Callable[[str], tuple[str, str] | None]

_SPANS: Mapping[str, tuple[Span, str]] = {
    "DA": (_date_span, "date (YYYYMMDD)"),
    "TM": (_time_span, "time (HHMMSS.FFFFFF)"),
    "DT": (_date_time_span, "date and time (YYYYMMDDHHMMSS.FFFFFF&ZZXX)"),
}


def _ends(path: Path, text: str, span: Span, kind: str) -> tuple[str | None, str | None]:
    """Both ends of a value or range; None is open. "" is open at both."""
    if not text:
        return None, None
    if single := span(text):  # first, because of the hyphen of offsets: PS3.5 table 6.2-1, DT
        return single
    ranged = (_DATE_TIME_RANGE if span is _date_time_span else _RANGE).fullmatch(text)
    low, high = (ranged["low"].strip(), ranged["high"].strip()) if ranged else ("", "")
    ends = (span(low) if low else None), (span(high) if high else None)
    if (not low and not high) or (low and not ends[0]) or (high and not ends[1]):
        raise BadRequest(f"The value of {_name(path)} is no {kind} and no range of them.")
    return (ends[0][0] if ends[0] else None), (ends[1][1] if ends[1] else None)


def _span_pattern(path: Path, low: str | None, high: str | None) -> Pattern:
    if low is not None and low == high:
        return Equal(low)
    if low is not None and high is not None and low > high:
        raise BadRequest(f"The range of {_name(path)} ends before it begins.")
    return Range(low, high)


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
