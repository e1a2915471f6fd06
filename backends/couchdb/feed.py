"""The change feed, and the versions of scopes, both from the entries that every instance carries.

An entry may become visible after one with a larger number: another process took its number earlier and wrote later. A
cursor therefore names the last entry that was given, and how many were in the minutes before it. When their number has
changed, the reader is given these minutes again: every entry at least once, in order.
"""

import re
from bisect import bisect_left
from typing import Any

from backends.couchdb import keys
from backends.couchdb.database import Database, Json
from backends.couchdb.records import moment
from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.records import Change, ChangeKind, Scope

WINDOW_MICROSECONDS = 10 * 60 * 1_000_000
"""No write takes longer from its number to its end."""

_CURSOR = re.compile(r"c([0-9]{16})-([0-9]{1,12})-([0-9.]{1,64})", re.ASCII)


class Feed:
    """Reads the entries of the instances."""

    def __init__(self, records: Database) -> None:
        self._records = records

    def changes(self, after: str | None, limit: int) -> list[Change]:
        """As `Storage.changes`."""
        start, given = (None, 0) if after is None else self._resume(after)
        low = _low(start[0]) if start is not None else 0
        if start is not None and self._count(low, start) != given:
            start, given = None, 0
        if limit < 1:
            return []
        # The key at the start was given before: a longer one stands right behind it.
        first = [low, ""] if start is None else [*start, None]
        rows = self._records.view("rest/feed", startkey=first, endkey=[keys.END], limit=limit, reduce=False)
        numbers = [int(row["key"][0]) for row in rows]
        before: dict[int, int] = {low: given}
        changes = []
        for place, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            from_here = _low(number)
            known = place + 1 - bisect_left(numbers, from_here)
            if start is not None and from_here <= start[0]:
                if from_here not in before:
                    # Not counted anew, which could hold what was not given: less what lies further back.
                    before[from_here] = max(given - self._count(low, [from_here, ""]), 0)
                known += before[from_here]
            changes.append(_change(row, known))
        return changes

    def newest(self) -> str | None:
        """As `Storage.newest_change`."""
        rows = self._newest()
        if not rows:
            return None
        key = rows[0]["key"]
        return _change(rows[0], self._count(_low(int(key[0])), key[:2])).cursor

    def last_number(self) -> int:
        """The largest number of all entries; 0 when there are none."""
        return max((int(row["key"][0]) for row in self._newest()), default=0)

    def _newest(self) -> list[Json]:
        return self._records.view("rest/feed", startkey=[keys.END], descending=True, limit=1, reduce=False)

    def _resume(self, cursor: str) -> tuple[list[Any], int]:
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise BadRequest("The cursor of the change feed is not one that this archive gave.")
        return [int(found[1]), found[3]], int(found[2])

    def _count(self, low: int, end: list[Any]) -> int:
        """How many entries there are from a number to a key, inclusive."""
        rows = self._records.view("rest/feed", startkey=[low, ""], endkey=end, reduce=True)
        return int(rows[0]["value"]) if rows else 0

    def version(self, scope: Scope) -> str:
        """As `Storage.version`: how many entries there are in the scope, and the latest number. Entries outlive their
        instances, so that both only grow once a change is complete."""
        place = [uid for uid in (scope.study_uid, scope.series_uid, scope.instance_uid) if uid is not None]
        rows = self._records.view("live/history", startkey=place, endkey=[*place, keys.END], reduce=True)
        value = rows[0]["value"] if rows else None
        last, count, least = (int(value[name]) for name in ("max", "count", "min")) if value else (0, 0, 1)
        if least and scope.level is not None:
            raise scope.not_found()
        return f"{last}-{count}"


def _low(number: int) -> int:
    """Where the minutes before a number begin: one to two windows back, the same for all that are near each other."""
    return max(number // WINDOW_MICROSECONDS - 1, 0) * WINDOW_MICROSECONDS


def _change(row: Json, known: int) -> Change:
    number, uid = int(row["key"][0]), str(row["key"][1])
    kind, study, series, *moved = row["value"]  # an entry that was moved here has its time apart from its place
    return Change(
        cursor=f"c{number:016d}-{known}-{uid}",
        kind=ChangeKind(kind),
        study_uid=study,
        series_uid=series,
        instance_uid=uid,
        changed_at=moment(moved[0] if moved else number),
    )
