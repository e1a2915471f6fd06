"""Parameters of dates: ranges of the digits in which the index has them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dicomweb_server.dicom.attributes import LAST_CHANGED
from dicomweb_server.dicom.matching import AllOf, AnyOf, Condition, Empty, Equal, Not, Pattern, Range, Term
from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.clauses import Clause, Value
from dicomweb_server.fhir.index.conditions import BIRTH_DATE, NEVER, STUDY_DATE, STUDY_TIME, Context, Indexed
from dicomweb_server.fhir.matching import DateValue, Span


def _day(moment: datetime) -> str:
    return f"{moment:%Y%m%d}".zfill(8)


def _clock(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M%S%f}".zfill(20)


def _ranges(value: DateValue, digits: Callable[[datetime], str], step: timedelta) -> tuple[Pattern, bool]:
    """The range of stored points that match, and whether what matches is outside of it."""
    span = matching.approximate(value.span) if value.prefix == "ap" else value.span
    low, high = digits(span.low), digits(span.high)
    match value.prefix:
        case "gt" | "sa":
            return Range(f"{high}0", None), False  # a longer text stands right behind
        case "lt" | "eb":
            before = span.low - step if span.low - datetime.min.replace(tzinfo=UTC) >= step else None
            return Range(None, digits(before) if before is not None else "0"), False
        case "ge":
            return Range(low, None), False
        case "le":
            return Range(None, high), False
        case prefix:
            return (Equal(low) if low == high else Range(low, high)), prefix == "ne"


def _dated(
    path: tuple[str, ...], vr: str, value: DateValue, digits: Callable[[datetime], str], step: timedelta
) -> Condition:
    pattern, outside = _ranges(value, digits, step)
    inside = Term(path, vr, (pattern,))
    return AllOf((Not(inside), Not(Term(path, vr, (Empty(),))))) if outside else inside


def changed(clause: Clause) -> Condition:
    """`_lastUpdated`: when the entity last changed."""
    parts = [
        _dated((LAST_CHANGED,), "UN", value, _clock, timedelta(microseconds=1))
        for value in clause.values
        if isinstance(value, DateValue)
    ]
    return AnyOf(tuple(parts))


def birth_date(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """The birth date of the patient; of a value with a time it holds for the days that it touches."""
    if not isinstance(value, DateValue):
        return Indexed(NEVER)
    return Indexed(_dated((BIRTH_DATE,), "DA", value, _day, timedelta(days=1)), exact=not value.timed)


def started(_clause: Clause, value: Value, context: Context) -> Indexed:
    """The clock of the file is compared with that of the value, in the zone of the archive where it has one."""
    if not isinstance(value, DateValue):
        return Indexed(NEVER)
    if not value.timed:
        return Indexed(_dated((STUDY_DATE,), "DA", value, _day, timedelta(days=1)))
    if value.zoned and context.zone is not None:
        zone = context.zone
        try:
            low, high = (moment.astimezone(zone).replace(tzinfo=UTC) for moment in (value.span.low, value.span.high))
        except (ValueError, OverflowError):
            raise BadRequest("started: the date-time is too far away") from None
        value = DateValue(value.prefix, Span(low, high), timed=True, zoned=True)
    path = (f"{STUDY_DATE}+{STUDY_TIME}",)
    return Indexed(_dated(path, "DT", value, _clock, timedelta(microseconds=1)))
