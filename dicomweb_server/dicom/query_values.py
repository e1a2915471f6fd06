"""What a query value means (PS3.4 C.2.2.2): from the text of a client to a term of a query."""

import re
from collections.abc import Mapping

from dicomweb_server.dicom.attributes import keyword_of, vr_of
from dicomweb_server.dicom.matching import (
    BINARY,
    NUMBERS,
    Empty,
    Equal,
    Path,
    Pattern,
    Range,
    Term,
    Wildcard,
    Words,
    number,
)
from dicomweb_server.dicom.names import MAX_TEXT, fold_name, plain_name, words
from dicomweb_server.dicom.spans import DATE_TIME, Span, date_span, date_time_span, time_span
from dicomweb_server.errors import BadRequest

MAX_VALUES = 5000
MAX_QUERY_BYTES = 64 * 1024
MAX_LIST_BYTES = MAX_VALUES * 65
"""Bounds of a query value; a list of UIDs, numbers, tags or code strings may be as long as so many UIDs are."""
MAX_STARS = 32

_WILDCARD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UN", "UR", "UT"))
_LISTED = NUMBERS | {"UI", "CS", "AT"}
_CLOCKED = frozenset(("DA", "TM", "DT"))

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LIST = re.compile(r"[,\\]")
_STARS = re.compile(r"\*{2,}")

_RANGE = re.compile(r"(?P<low>.*?[^+-]|)-(?P<high>[^+-].*|)", re.DOTALL)
_DATE_TIME_RANGE = re.compile(rf"(?P<low>{DATE_TIME.pattern}|)-(?P<high>{DATE_TIME.pattern}|)", re.ASCII)

_SPANS: Mapping[str, tuple[Span, str]] = {
    "DA": (date_span, "date (YYYYMMDD)"),
    "TM": (time_span, "time (HHMMSS.FFFFFF)"),
    "DT": (date_time_span, "date and time (YYYYMMDDHHMMSS.FFFFFF&ZZXX)"),
}


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
    low_date, high_date = _ends(path, date.strip(), date_span, "date")
    low_time, high_time = _ends(path, time.strip(), time_span, "time")
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
    if vr in NUMBERS:
        found = number(value)
        if found is None:
            raise BadRequest(f"{_name(path)} is a number; its query value is none.")
        return [Equal(found)]
    if vr == "PN":
        return _name_patterns(path, value, fuzzy)
    if vr == "SQ" or vr in BINARY:
        raise BadRequest(
            f"{_name(path)} cannot be matched: name an attribute with a value, inside the sequence if it is one."
        )
    if vr == "AT":
        return [Equal(value.strip("()").replace(",", "").upper())]
    if vr in _WILDCARD:
        found = number(value) if vr == "UN" else None
        return [_text_pattern(path, value), *([] if found is None else [Equal(found)])]
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


def _ends(path: Path, text: str, span: Span, kind: str) -> tuple[str | None, str | None]:
    """Both ends of a value or range; None is open. "" is open at both."""
    if not text:
        return None, None
    if single := span(text):  # first, because of the hyphen of offsets: PS3.5 table 6.2-1, DT
        return single
    ranged = (_DATE_TIME_RANGE if span is date_time_span else _RANGE).fullmatch(text)
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
