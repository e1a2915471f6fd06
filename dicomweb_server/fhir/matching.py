"""When a resource matches a value of a search (R4 search, http://hl7.org/fhir/R4/search.html). Pure.

Strings match without case and accents at the beginning of any word; tokens exactly; dates by the spans that values
stand for; references by type and id.
"""

import calendar
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from dicomweb_server.dicom.names import fold_name, sound, words
from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir.values import Json

MAX_VALUE = 1024
_NOT_TEXT = frozenset({"use", "type", "system", "period", "extension", "id", "rank"})


class Kind(StrEnum):
    """The types of search parameters that are used here."""

    STRING = "string"
    TOKEN = "token"  # noqa: S105 - no secret
    REFERENCE = "reference"
    DATE = "date"
    URI = "uri"


# Values of elements


def elements(resource: Mapping[str, Any], path: str) -> Iterator[Any]:
    """What stands at a dotted path, with lists laid flat."""
    found: list[Any] = [resource]
    for name in path.split("."):
        found = [value for one in found if isinstance(one, Mapping) and name in one for value in _flat(one[name])]
    yield from found


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def strings(value: Any) -> Iterator[str]:
    """The texts in an element: a string, or the parts of a name or address."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NOT_TEXT:
                yield from strings(each)


Token = tuple[str | None, str | None]
"""System and code; an absent one is None."""


def tokens(value: Any) -> Iterator[Token]:
    """The tokens in an element: a code, Coding, CodeableConcept, Identifier or ContactPoint."""
    if isinstance(value, bool):
        yield None, "true" if value else "false"
    elif isinstance(value, str):
        yield None, value
    elif isinstance(value, Mapping):
        if "coding" in value:
            for coding in _flat(value["coding"]):
                yield from tokens(coding)
        elif "value" in value:
            yield value.get("system"), str(value["value"])
        elif "code" in value:
            yield value.get("system"), value["code"]
        if "text" in value or "display" in value:
            yield None, str(value.get("text") or value.get("display"))


# Values of searches


@dataclass(frozen=True, slots=True)
class Span:
    """The moments, in UTC or in unknown zones alike, from the first to the last that a date stands for."""

    low: datetime
    high: datetime


@dataclass(frozen=True, slots=True)
class DateValue:
    """A date with its prefix. `zoned`: it has a time with an offset; `timed`: it has a time."""

    prefix: str
    span: Span
    timed: bool
    zoned: bool


PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
_DATE = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}:\d{2})?)?)?)?", re.ASCII
)


def span_of(text: str) -> tuple[Span, bool, bool]:
    """The span of a date or date-time, whether it has a time, and whether that has an offset. Raises ValueError."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError("no date")
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    low = datetime(year, month, day, tzinfo=UTC)
    if found[3] is None:
        last_month = int(found[2] or 12)
        last_day = calendar.monthrange(year, last_month)[1]
        return Span(low, datetime(year, last_month, last_day, 23, 59, 59, 999_999, tzinfo=UTC)), False, False
    if found[4] is None:
        return Span(low, low.replace(hour=23, minute=59, second=59, microsecond=999_999)), False, False
    low = low.replace(hour=int(found[4]), minute=int(found[5]), second=int(found[6] or 0))
    high = low.replace(second=int(found[6] or 59), microsecond=999_999)
    if found[7]:
        digits = found[7][:6]
        low = low.replace(microsecond=int(digits.ljust(6, "0")))
        high = high.replace(microsecond=int(digits.ljust(6, "9")))
    shift = _shift(found[8])
    return Span(low - shift, high - shift), True, bool(found[8])


def _shift(offset: str | None) -> timedelta:
    if offset in (None, "Z"):
        return timedelta()
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 14 or minutes > 59:
        raise ValueError("no offset")
    return timedelta(minutes=(hours * 60 + minutes) * (-1 if offset[0] == "-" else 1))


def date_value(name: str, text: str) -> DateValue:
    """The value of a date parameter. Raises BadRequest."""
    prefix, rest = (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)
    try:
        span, timed, zoned = span_of(rest)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"{name}: {shown(rest)} is no date: YYYY, YYYY-MM, YYYY-MM-DD or a date-time, with one of the prefixes "
            f"{', '.join(PREFIXES)} before it"
        ) from None
    return DateValue(prefix, span, timed, zoned)


def approximate(span: Span) -> Span:
    """What `ap` takes for the same: a tenth of the time that has passed since, at least a day."""
    margin = max(timedelta(days=1), abs(datetime.now(UTC) - span.low) / 10)
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    low = span.low - margin if span.low - first > margin else first
    high = span.high + margin if last - span.high > margin else last
    return Span(low, high)


def date_matches(value: DateValue, span: Span) -> bool:
    """Whether what a date in a resource stands for matches."""
    wanted = value.span
    match value.prefix:
        case "eq":
            return wanted.low <= span.low and span.high <= wanted.high
        case "ne":
            return not (wanted.low <= span.low and span.high <= wanted.high)
        case "gt":
            return span.high > wanted.high
        case "lt":
            return span.low < wanted.low
        case "ge":
            return span.high > wanted.high or (wanted.low <= span.low and span.high <= wanted.high)
        case "le":
            return span.low < wanted.low or (wanted.low <= span.low and span.high <= wanted.high)
        case "sa":
            return span.low > wanted.high
        case "eb":
            return span.high < wanted.low
        case _:
            near = approximate(wanted)
            return span.low <= near.high and near.low <= span.high


def spans(value: Any) -> Iterator[Span]:
    """The spans of a date, date-time, instant or Period in a resource."""
    try:
        if isinstance(value, str):
            yield span_of(value)[0]
        elif isinstance(value, Mapping) and ("start" in value or "end" in value):
            low = span_of(value["start"])[0].low if "start" in value else datetime.min.replace(tzinfo=UTC)
            high = span_of(value["end"])[0].high if "end" in value else datetime.max.replace(tzinfo=UTC)
            yield Span(low, high)
    except (ValueError, OverflowError, TypeError):
        return


@dataclass(frozen=True, slots=True)
class TokenValue:
    """`code`, `system|code`, `|code` (no system: "") or `system|` (any code: None)."""

    system: str | None
    code: str | None

    @classmethod
    def parse(cls, text: str) -> "TokenValue":
        """From the value of a parameter."""
        system, bar, code = _split_once(text, "|")
        if not bar:
            return cls(None, unescaped(text))
        return cls(unescaped(system), unescaped(code) or None)

    def matches(self, token: Token) -> bool:
        """Whether a token of a resource is the one wanted."""
        system, code = token
        if self.system is not None and (system or "") != self.system:
            return False
        return self.code is None or code == self.code


def folded(text: str) -> str:
    """Text as it is compared: without case, accents and width, blanks as one."""
    return " ".join(fold_name(text).split())


def string_matches(wanted: str, text: str) -> bool:
    """Whether the wanted text begins a word of the text; both folded."""
    return text.startswith(wanted) or f" {wanted}" in text


def sounds_like(wanted: str, texts: Sequence[str]) -> bool:
    """Whether each word begins or sounds like one of the texts' words."""
    present = {word for text in texts for word in words(text)}
    codes = {code for word in present if (code := sound(word))}
    return all(sound(word) in codes or any(one.startswith(word) for one in present) for word in words(wanted))


_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")


def local_reference(text: str, base: str, types: Sequence[str] = ()) -> str | None:
    """A reference as "Type/id" when it is one to this server, or a bare id of the only type; None for others."""
    text = text.removeprefix(base.rstrip("/") + "/").partition("/_history/")[0]
    kind, slash, identity = text.rpartition("/")
    if not slash and len(types) == 1:
        kind = types[0]
    if "/" in kind or not kind.isalpha() or not _ID.fullmatch(identity):
        return None
    return f"{kind}/{identity}"


def reference_matches(wanted: str, reference: Json, base: str, types: Sequence[str]) -> bool:
    """Whether a Reference refers to what is wanted: a URL, "Type/id", or an id of any of the types."""
    have = reference.get("reference")
    if not isinstance(have, str):
        return False
    mine = local_reference(have, base) or have
    if "/" in wanted:
        return mine == (local_reference(wanted, base) or wanted)
    return any(mine == f"{kind}/{wanted}" for kind in types)


# Lists and escapes


def split_values(text: str) -> list[str]:
    """The values that commas separate; `\\,` is a comma inside of one. They stay escaped."""
    values, current, escaping = [], "", False
    for character in text:
        if escaping:
            current, escaping = current + character, False
        elif character == "\\":
            current, escaping = current + character, True
        elif character == ",":
            values.append(current)
            current = ""
        else:
            current += character
    return [value for value in (*values, current) if value]


def unescaped(text: str) -> str:
    """Without the backslashes before comma, bar, dollar and backslash."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


def _split_once(text: str, mark: str) -> tuple[str, str, str]:
    escaping = False
    for place, character in enumerate(text):
        if escaping:
            escaping = False
        elif character == "\\":
            escaping = True
        elif character == mark:
            return text[:place], mark, text[place + 1 :]
    return text, "", ""


def shown(text: str) -> str:
    """Text of a client in a message, in ASCII and not too long."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")
