"""From a query to the rows of an index: which view is read, from where to where, and in which order its rows come.

Of the terms of a query one leads: it is answered by ranges of an index. The documents that the rows name are then
compared with all terms by `dicom.matching`, page by page, until enough are found; so a source may give too much, but
never too little. A pattern that begins with a wildcard has no range: the values of that one attribute are looked
through, in rows that hold little else. So it is with text that very many have: of these the first are found soon.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from backends.couchdb import entities, keys
from backends.couchdb.database import Database, Json
from backends.couchdb.entities import SCANS, STUDY_DATE, STUDY_TIME
from backends.couchdb.ranges import (
    condition_ranges,
    days_of,
    equal_values,
    is_exact,
    is_piece,
    piece_range,
    pieces_of,
    term_ranges,
    tested_by,
    word_ranges,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Empty, Range, Term
from dicomweb_server.storage.query import Order, Query

NEWEST = (Order(STUDY_DATE, "DA", True), Order(STUDY_TIME, "TM", True))
FIRST_SCAN, SCAN_PAGE = 100, 20_000
SCANNED_FOR_ONE = 12
"""So many rows for each that is wanted are looked through first, where it is not known how many match."""

SPREAD = 1.25
"""So many times what would be enough if all that matches lay evenly."""

COUNTED_SECONDS = 60

FEW_ROWS, MOST_ROWS = 100, 2000
"""So many rows of a range are read before it is tried otherwise; and so many at most, where the values would have to be
looked through further than that."""

MOST_RANGES = 8
MOST_WALKED = 1000
_STRONG = frozenset(("00100020", "00080050", "0020000D", "0020000E", "00200010", "00100010"))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of an index: the document it names, and where that stands by the default order of its level."""

    document_id: str
    place: Any = None
    sort: Any = None
    document: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where candidates come from. `pages` takes the number of rows that may be enough. ordered: they come in the order
    of the query. placed: they know place and sort. exact: nothing else has to be compared."""

    pages: Callable[[int], Iterator[list[Candidate]]]
    ordered: bool = False
    placed: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class _Index:
    """Ranges of a view that hold what a term matches, and what their rows mean."""

    view: str
    ranges: Sequence[Json]
    read: Callable[[Sequence[list[Json]]], list[Candidate]]


def of_ids(ids: Sequence[str]) -> Source:
    """These documents, as far as they exist."""
    return Source(pages=lambda _: iter([[Candidate(document_id) for document_id in dict.fromkeys(ids)]]))


def default_order(level: Level) -> tuple[Order, ...]:
    """The order in which the rows of terms and scans of a level come."""
    return NEWEST if level is Level.STUDY else ()


class Sources:
    """Chooses sources in the database of everything above the instances."""

    def __init__(self, archive: Database) -> None:
        self._archive = archive
        self._numbers: dict[Level, tuple[int, float]] = {}

    def choose(self, query: Query) -> Source:
        """The best source for a query on patients, studies or series outside a scope."""
        lone = len(query.terms) + len(query.conditions) == 1
        ranked = [(rank, place) for place, term in enumerate(query.terms) if (rank := _rank(term, query)) is not None]
        if ranked:
            return self._by_term(query.terms[min(ranked)[1]], query, lone=lone)
        for condition in query.conditions:
            if ranges := condition_ranges(query.level, condition):
                collected = partial(self.collect, query.level, ranges)
                return Source(pages=lambda _, collected=collected: iter([collected()]), placed=True)  # type: ignore[misc]
        return self._walk(query)

    def _by_term(self, term: Term, query: Query, *, lone: bool) -> Source:
        level = query.level
        tag = term.path[0]
        if level is Level.STUDY and tag == entities.STUDY_UID and (uids := equal_values(term)) is not None:
            return of_ids([entities.study_id(str(uid)) for uid in uids])
        days = days_of(term) if level is Level.STUDY and query.order == NEWEST else None
        if days is not None:
            return Source(pages=lambda size: self._by_day(*days, size), ordered=True)
        in_order = query.order == default_order(level)
        ranges = term_ranges(level, term)
        of_headers = level is Level.SERIES  # which may hold what the series does not show
        if ranges is not None:
            if len(ranges) == 1 and equal_values(term) is not None and in_order:
                return Source(
                    pages=lambda size: self._having(level, size, docs=tag in _STRONG, **ranges[0]),
                    ordered=True,
                    placed=True,
                    exact=lone and not of_headers,
                )
            exact = lone and is_exact(term) and not of_headers
            if in_order and _can_be_scanned(level, term) and len(ranges) <= MOST_RANGES:
                index = _Index("search/terms", ranges, partial(_of_terms, level))
                first = partial(self._first, level, term, index)
                words = word_ranges(level, term)
                pages = partial(self._by_word, level, *words, first) if words else first
                return Source(pages=pages, ordered=True, placed=True, exact=exact)
            return Source(pages=lambda _: iter([self.collect(level, ranges)]), placed=True, exact=exact)
        pieces = pieces_of(term) if level is Level.STUDY else None
        if pieces is not None:
            wanted = [piece_range(tag, text) for piece in pieces for text in (piece, piece[1:])]
            index = _Index("search/pieces", wanted, partial(_of_pieces, pieces))
            exact = lone and all(is_piece(pattern) for pattern in term.any_of)
            return Source(pages=partial(self._first, level, term, index), ordered=in_order, placed=True, exact=exact)
        exact = lone and not any(isinstance(pattern, Range) for pattern in term.any_of)
        return Source(
            pages=lambda enough: self._scan(level, term, enough, _unsure(enough)),
            ordered=in_order,
            placed=True,
            exact=exact,
        )

    def collect(self, level: str, ranges: Sequence[Json]) -> list[Candidate]:
        """What all rows of some ranges of terms name, each once."""
        return _of_terms(level, self._archive.ranges("search/terms", ranges) if ranges else [])

    def _having(self, level: Level, size: int, *, docs: bool, **options: Any) -> Iterator[list[Candidate]]:
        """What the rows of one value name, in the default order of the level."""
        if level is not Level.SERIES:
            yield from self._rows("search/terms", size, 3, docs=docs, **options)
            return
        last = None
        for page in self._rows("search/terms", size, 3, **options):
            series = list(dict.fromkeys(tuple(candidate.sort) for candidate in page))
            # Headers of one series stand behind each other, also from one page to the next.
            yield [
                Candidate(entities.series_id(study, uid), "", [uid, study])
                for uid, study in series
                if (uid, study) != last
            ]
            last = series[-1] if series else last

    def _by_word(
        self,
        level: Level,
        values: Sequence[Json],
        longer: Json,
        otherwise: Callable[[int], Iterator[list[Candidate]]],
        enough: int,
    ) -> Iterator[list[Candidate]]:
        """What has a word, or sounds like it: the rows of each value come in order, and are merged. Where many have
        longer words that begin with it: as otherwise."""
        size = min(max(enough, 1), MOST_WALKED)
        limited = [{**each, "limit": size + 1} for each in values]
        *found, others = self._archive.ranges("search/terms", [*limited, {**longer, "limit": FEW_ROWS + 1}])
        if len(others) > FEW_ROWS:
            yield from otherwise(enough)
            return
        waiting = {each.document_id: each for each in _of_terms(level, [others])}
        given: set[str] = set()
        ranges = list(values)
        while True:
            rest: list[Json] = []
            ends: list[tuple[Any, Any]] = []
            for each, rows in zip(ranges, found, strict=True):
                waiting |= {one.document_id: one for one in _of_terms(level, [rows[:size]])}
                if len(rows) > size:
                    rest.append({**each, "startkey": rows[size]["key"], "startkey_docid": rows[size]["id"]})
                    ends.append(_standing(_of_terms(level, [rows[size:]])[0]))
            page = sorted((one for one in waiting.values() if not ends or _standing(one) < min(ends)), key=_standing)
            yield [one for one in page if one.document_id not in given]
            if not rest:
                return
            for one in page:
                del waiting[one.document_id]
                given.add(one.document_id)
            ranges, size = rest, min(size * 2, MOST_WALKED)
            found = self._archive.ranges("search/terms", [{**each, "limit": size + 1} for each in ranges])

    def _first(self, level: Level, term: Term, index: "_Index", enough: int) -> Iterator[list[Candidate]]:
        """What ranges of an index hold, if that is little. If not, their rows, which come in another order, are not
        collected: the values are looked through in order, and the first that match are found soon, as many do. Where
        it is less to collect them all the same, that is done."""
        looked = self._archive.beginnings(index.view, index.ranges, FEW_ROWS + 1)
        if all(len(rows) <= FEW_ROWS for rows, _ in looked):
            yield sorted(index.read([rows for rows, _ in looked]), key=_standing)
            return
        lengths = [length for _, length in looked if length is not None]
        if len(lengths) < len(looked):
            yield from self._first_unsure(level, term, index, enough)
            return
        size = self._first_scan(level, index, [rows for rows, _ in looked], lengths, enough)
        if sum(lengths) <= min(size, MOST_ROWS):
            yield sorted(index.read(self._archive.ranges(index.view, index.ranges)), key=_standing)
            return
        yield from self._scan(level, term, enough, size)

    def _first_unsure(self, level: Level, term: Term, index: "_Index", enough: int) -> Iterator[list[Candidate]]:
        """The same where it is not known how much the ranges hold."""
        size = _unsure(enough)
        scanned = self._scan(level, term, enough, size)
        page = next(scanned, [])
        yield page
        # Where more is left to be looked through than to be collected:
        if len(page) * MOST_ROWS <= (enough - len(page)) * size:
            rows = self._archive.ranges(index.view, [{**each, "limit": MOST_ROWS + 1} for each in index.ranges])
            if all(len(some) <= MOST_ROWS for some in rows):
                given = {each.document_id for each in page}
                yield sorted((each for each in index.read(rows) if each.document_id not in given), key=_standing)
                return
        yield from scanned

    def _first_scan(
        self, level: Level, index: "_Index", looked: Sequence[list[Json]], lengths: Sequence[int], enough: int
    ) -> int:
        """How many values are likely enough to be looked through, if what matches lies evenly. `looked` are the first
        rows of ranges that have so many: not all of what they name may match."""
        matching = 0.0
        for place, (rows, length) in enumerate(zip(looked, lengths, strict=True)):
            read = index.read([rows if number == place else [] for number in range(len(looked))])
            matching += length * len(read) / max(len(rows), 1)
        likely = math.ceil(SPREAD * enough * self._number_of(level) / max(matching, 1))
        return min(max(likely, FIRST_SCAN), SCAN_PAGE)

    def _number_of(self, level: Level) -> int:
        """How many entities of a level there are, or were a moment ago."""
        number, at = self._numbers.get(level, (0, -math.inf))
        if time.monotonic() - at > COUNTED_SECONDS:
            start = [level.value, "newest" if level is Level.STUDY else "uid"]
            rows = self._archive.view("search/orders", startkey=start, endkey=[*start, keys.END], reduce=True)
            number = int(rows[0]["value"]) if rows else 0
            self._numbers[level] = (number, time.monotonic())
        return number

    def _scan(self, level: Level, term: Term, enough: int, size: int) -> Iterator[list[Candidate]]:
        """What matches of all values, in pages as long as is needed if what matches lies as close as up to there."""
        fits = tested_by(term.any_of)
        tag = term.path[0]
        start = [level.value, "newest" if level is Level.STUDY else "uid"]
        options: Json = {"startkey": start, "endkey": [*start, keys.END], "reduce": False}
        found = seen = 0
        while True:
            rows = self._archive.view("search/orders", limit=size + 1, **options)
            page = [
                Candidate(row["id"], *_placed(row["key"], 2))
                for row in rows[:size]
                if (values := row["value"].get(tag)) and fits([keys.decode(value) for value in values])
            ]
            yield page
            if len(rows) <= size:
                return
            options = {**options, "startkey": rows[size]["key"], "startkey_docid": rows[size]["id"]}
            found, seen = found + len(page), seen + size
            likely = math.ceil(SPREAD * (enough - found) * seen / max(found, 1))
            size = min(max(likely, FIRST_SCAN), 4 * seen, SCAN_PAGE)  # hits may lie in heaps

    def _rows(
        self, view: str, size: int, place: int, *, docs: bool = False, **options: Any
    ) -> Iterator[list[Candidate]]:
        """Rows, a little more in each page than in the one before. With their documents only where few are expected:
        CouchDB gives many at less cost when it is asked for them by name."""
        size = min(max(size, 1), MOST_WALKED)
        while True:
            rows = self._archive.view(view, limit=size + 1, include_docs=docs, **options)
            yield [Candidate(row["id"], *_placed(row["key"], place), row.get("doc")) for row in rows[:size]]
            if len(rows) <= size:
                return
            options = {**options, "startkey": rows[size]["key"], "startkey_docid": rows[size]["id"], "skip": 0}
            size = min(size * 2, MOST_WALKED)

    def _by_day(self, first: str | None, last: str | None, size: int) -> Iterator[list[Candidate]]:
        """Studies of some days, newest first, and with them those that have several dates."""
        size = min(max(size, 1), MOST_WALKED)
        start = ["study", "newest", keys.newest_day(last) if last else ""]
        end = ["study", "newest", keys.newest_day(first) + keys.NONE * 13 if first else keys.END]
        several: Json = {"startkey": ["study", "several"], "endkey": ["study", "several", keys.END], "reduce": False}
        days: Json = {"startkey": start, "endkey": end, "limit": size + 1, "reduce": False}
        others, rows = self._archive.ranges("search/orders", [{**several, "include_docs": True}, days])
        aside = sorted((_of_document(row["doc"]) for row in others if row.get("doc")), key=_standing)
        names = {candidate.document_id for candidate in aside}
        while True:
            page = [Candidate(row["id"], *_placed(row["key"], 2)) for row in rows[:size] if row["id"] not in names]
            more = len(rows) > size
            due = [one for one in aside if not more or (page and _standing(one) <= _standing(page[-1]))]
            aside = aside[len(due) :]
            yield sorted(page + due, key=_standing)
            if not more:
                return
            days = {**days, "startkey": rows[size]["key"], "startkey_docid": rows[size]["id"]}
            rows = self._archive.view("search/orders", **days)

    def walk(self, level: Level, name: str, size: int, *prefix: str, skip: int = 0) -> Iterator[list[Candidate]]:
        """All entities of a level in one of its orders."""
        start = [level.value, name, *prefix]
        options: Json = {"reduce": False, "startkey": start, "endkey": [*start, keys.END]}
        yield from self._rows("search/orders", size, 2, skip=skip, **options)

    def _walk(self, query: Query) -> Source:
        level = query.level
        name = _order_name(level, query.order)
        plain = not query.terms and not query.conditions
        skip = query.offset if plain else 0
        return Source(
            pages=lambda size: self.walk(level, name or "uid", size, skip=skip if name else 0),
            ordered=name is not None,
            exact=plain,
        )


def _order_name(level: Level, order: tuple[Order, ...]) -> str | None:
    """The name of the order in `orders` that is this one."""
    if not order:
        return "uid"
    if level is Level.STUDY:
        if order == NEWEST:
            return "newest"
        if len(order) == 1 and order[0].tag in entities.ORDERED:
            return f"{'-' if order[0].descending else '+'}{order[0].tag}"
    return None


def _of_terms(level: str, found: Sequence[list[Json]]) -> list[Candidate]:
    """What ranges of terms name, each once."""
    named = {}
    for rows in found:
        for row in rows:
            *_, place, sort = row["key"]
            name = entities.series_id(sort[1], sort[0]) if level == Level.SERIES else row["id"]
            named[name] = Candidate(name, place, sort)
    return list(named.values())


def _of_pieces(pieces: Sequence[str], found: Sequence[list[Json]]) -> list[Candidate]:
    """What has one of some pieces, from the rows of each: those of the whole piece, and those of what stands behind its
    first character, where that is the one before."""
    there: dict[str, Candidate] = {}
    for place, rows in enumerate(found):
        before = str(keys.encode(pieces[place // 2][0])) if place % 2 else None
        there |= {
            row["id"]: Candidate(row["id"], row["key"][2], row["key"][3])
            for row in rows
            if before is None or row["value"] == before
        }
    return list(there.values())


def _unsure(enough: int) -> int:
    return min(max(enough * SCANNED_FOR_ONE, FIRST_SCAN), SCAN_PAGE)


def _can_be_scanned(level: Level, term: Term) -> bool:
    """Whether its values stand in the rows of the default order, and can be compared there."""
    return term.path[0] in SCANS.get(level, ()) and not any(isinstance(pattern, Range) for pattern in term.any_of)


def _placed(key: Sequence[Any], place: int) -> tuple[Any, Any]:
    return (key[place], key[place + 1]) if len(key) == place + 2 else ("", key[-1])


def _of_document(document: Json) -> Candidate:
    return Candidate(document["_id"], document["place"], document["sort"], document)


def _standing(candidate: Candidate) -> tuple[Any, Any]:
    return candidate.place, candidate.sort


def _rank(term: Term, query: Query) -> int | None:
    """How soon a term is tried as the one that leads; None where no index helps."""
    level, tag = query.level, term.path[0]
    if len(term.path) > 1 or any(isinstance(pattern, Empty) for pattern in term.any_of):
        return None
    by_day = level is Level.STUDY and query.order == NEWEST and days_of(term) is not None
    ranges = term_ranges(level, term)
    if ranges is None:
        return 3 if by_day else 2 if tag in SCANS.get(level, ()) else None
    if equal_values(term) is not None:
        return 0 if tag in _STRONG else 3 if by_day else 4
    if any(isinstance(pattern, Range) for pattern in term.any_of):
        return 3 if by_day else 5
    return 1
