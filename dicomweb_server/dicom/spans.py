"""What a date, time or date time spans, as the digits in which they are compared (PS3.5 6.2, PS3.4 C.2.2.2.5)."""

import calendar
import re
from collections.abc import Callable
from datetime import datetime, timedelta

_TIME = re.compile(r"(\d{2}(?:\d{2}(?:\d{2})?)?)(?:\.(\d{1,6})\d*)?", re.ASCII)
DATE_TIME = re.compile(r"(\d{4,14})(?:\.(\d{1,6}))?(?:([+-])(\d{2})(\d{2}))?", re.ASCII)
_LAST = "99991231235959999999"
_FIRST_MOMENT = "00010101000000000000"

Span = Callable[[str], tuple[str, str] | None]
"""The first and the last moment that a text spans; None for one that is none."""


def date_span(text: str) -> tuple[str, str] | None:
    """YYYYMMDD twice, of a day, month or year; None for what is no date."""
    digits = text.replace(".", "")
    if not digits.isascii() or not digits.isdigit() or len(digits) not in (4, 6, 8):
        return None
    return digits + "0101"[len(digits) - 4 :], digits + "1231"[len(digits) - 4 :]


def time_span(text: str) -> tuple[str, str] | None:
    """HHMMSSffffff twice; None for what is no time."""
    found = _TIME.fullmatch(text.replace(":", ""))
    if not found or (found[2] and len(found[1]) < 6):
        return None
    digits = found[1] + (found[2] or "")
    return digits + "000000000000"[len(digits) :], digits + "005959999999"[len(digits) :]


def date_time_span(text: str) -> tuple[str, str] | None:
    """YYYYMMDDHHMMSSffffff twice, in UTC where the text has an offset; None for what is no date time."""
    found = DATE_TIME.fullmatch(text)
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
