"""From a `Query` to an aggregation. A value of a query is only ever a value, or a quoted part of a pattern."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.keys import (
    FENCE,
    INSTANCE_UID,
    MISSING_LAST_DOWN,
    MISSING_LAST_UP,
    MODALITIES,
    NUMBER,
    PRESENT,
    SERIES_UID,
    SOP_CLASSES,
    SORTED,
    SOUND,
    STUDY_UID,
    TEXT,
    TEXTS,
    TRANSFER_SYNTAXES,
    WORD,
    array_of,
    behind,
    encoded,
)
from backends.mongodb.schema import COLLECTION, LIST_ORDER
from dicomweb_server.dicom import matching
from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST, level_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Empty, Equal, Pattern, Range, Term, Wildcard, Words
from dicomweb_server.dicom.names import sound
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Scope

_UID_LEVEL = {STUDY_UID: Level.STUDY, SERIES_UID: Level.SERIES, INSTANCE_UID: Level.INSTANCE}
_UID_FIELD = {
    Level.PATIENT: {},
    Level.STUDY: {STUDY_UID: "_id"},
    Level.SERIES: {STUDY_UID: "study", SERIES_UID: "uid"},
    Level.INSTANCE: {STUDY_UID: "study", SERIES_UID: "series", INSTANCE_UID: "_id"},
}
_NUMBERS = {
    "00201200": (Level.PATIENT, "n_studies"),
    "00201202": (Level.PATIENT, "n_series"),
    "00201204": (Level.PATIENT, "n_instances"),
    "00201206": (Level.STUDY, "n_series"),
    "00201208": (Level.STUDY, "n_instances"),
    "00201209": (Level.SERIES, "n_instances"),
}
_SETS = {MODALITIES: "modalities", SOP_CLASSES: "sop_classes"}
_POSITION = "00200013"
_STUDY_DATE = "00080020"
_NEWEST_FIRST = (("00080020", True), ("00080030", True))

_KEY_FIELDS = frozenset(("_id", "study", "series", "uid", "digest"))
_ANY = r"[\s\S]"

NEVER: Doc = {"_id": {"$in": []}}
_HIT = {"attributes": 1, "modalities": 1, "sop_classes": 1, "transfer_syntaxes": 1}
_FIELDS: Mapping[Level, Doc] = {
    Level.PATIENT: {**_HIT, "n_studies": 1, "n_series": 1, "n_instances": 1},
    Level.STUDY: {**_HIT, "n_series": 1, "n_instances": 1},
    Level.SERIES: {**_HIT, "study": 1, "uid": 1, "n_instances": 1},
    Level.INSTANCE: {"study": 1, "series": 1, "summary": 1, "sop_class": 1, "transfer_syntax": 1},
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on a document. `selective`: an index leads to the few documents that fit. `scans`: it runs on the
    narrow index of texts."""

    match: Doc
    selective: bool = False
    scans: bool = False


def any_of(parts: Sequence[Condition]) -> Condition:
    """At least one holds."""
    if not parts:
        return Condition(NEVER, selective=True)
    if len(parts) == 1:
        return parts[0]
    return Condition({"$or": [part.match for part in parts]}, all(part.selective for part in parts))


class Statement:
    """One query. Conditions on entities above, and scopes given by what is below, are looked up when it is made; all
    others need no look-up."""

    def __init__(self, connection: Connection, query: Query, *, gone: Iterable[str] = ()) -> None:
        self._connection = connection
        self._level = query.level
        self._query = query
        self._gone = gone
        conditions = [*self._scope(query.scope), *(self._term(term) for term in query.terms)]
        conditions += [self._condition(condition) for condition in query.conditions]
        if query.level is Level.INSTANCE and (hidden := sorted(gone)):
            conditions.append(Condition({"gone": {"$nin": hidden}}))
        self.hint = None
        if any(part.scans for part in conditions) and not any(part.selective for part in conditions):
            self.hint = "list"
            # Bounds on its first field, though they exclude nothing, let the index answer instead of the documents.
            conditions.append(Condition({LIST_ORDER[query.level][0][0]: {"$gte": ""}}))
        matches = [part.match for part in conditions if part.match]
        self.match: Doc = {"$and": matches} if len(matches) > 1 else matches[0] if matches else {}

    def pipeline(self) -> list[Doc]:
        """The page in order, and one more where there is one."""
        computed, sort = self._sort()
        return [
            {"$match": self.match},
            *([{"$addFields": computed}] if computed else []),
            {"$sort": sort},
            *([{"$skip": self._query.offset}] if self._query.offset else []),
            {"$limit": self._query.limit + 1},
            {"$project": {**_FIELDS[self._level], **({"changed_at": 1} if self._query.times else {})}},
        ]

    def run(self) -> list[Doc]:
        """The documents of the page, and one more where there is one; one round trip."""
        return list(self._aggregate(self.pipeline(), batch=self._query.limit + 1))

    def count(self) -> int:
        """How many documents match."""
        found = list(self._aggregate([{"$match": self.match}, {"$count": "n"}], batch=1))
        return int(found[0]["n"]) if found else 0

    def _aggregate(self, pipeline: list[Doc], batch: int) -> Iterable[Doc]:
        options: dict[str, Any] = {"hint": self.hint} if self.hint else {}
        collection = self._connection.safe(COLLECTION[self._level])
        return collection.aggregate(pipeline, allowDiskUse=True, batchSize=min(max(batch, 2), 100_000), **options)

    # Scope

    def _scope(self, scope: Scope) -> list[Condition]:
        named = {
            tag: uid
            for tag, uid in (
                (STUDY_UID, scope.study_uid),
                (SERIES_UID, scope.series_uid),
                (INSTANCE_UID, scope.instance_uid),
            )
            if uid is not None
        }
        if not named:
            return []
        fields = _UID_FIELD[self._level]
        if all(tag in fields for tag in named):
            return [Condition({fields[tag]: uid for tag, uid in named.items()}, selective=True)]
        below = Level.INSTANCE if INSTANCE_UID in named else Level.SERIES if SERIES_UID in named else Level.STUDY
        condition = {_UID_FIELD[below][tag]: uid for tag, uid in named.items()}
        return [self._of_below(below, condition)]

    def _of_below(self, below: Level, condition: Doc) -> Condition:
        """The entities of this level that have such an entity below them."""
        found = self._connection.safe(COLLECTION[below]).find(condition, {"study": 1, "series": 1, "patient": 1})
        docs = list(found)
        if self._level is Level.SERIES:
            series = sorted({f"{doc['study']}/{doc['series']}" for doc in docs})
            return Condition({"_id": {"$in": series}}, selective=True)
        studies = sorted({doc["_id"] if below is Level.STUDY else doc["study"] for doc in docs})
        if self._level is Level.STUDY:
            return Condition({"_id": {"$in": studies}}, selective=True)
        patients = self._connection.safe("studies").distinct("patient", {"_id": {"$in": studies}})
        return Condition({"_id": {"$in": patients}}, selective=True)

    # Conditions

    def _condition(self, condition: matching.Condition) -> Condition:
        match condition:
            case Term():
                found = self._term(condition)
                return Condition(found.match, found.selective)  # the index of texts serves a single term only
            case matching.AllOf(parts):
                made = [self._condition(part) for part in parts]
                matches = [part.match for part in made]
                return Condition({"$and": matches} if matches else {}, any(part.selective for part in made))
            case matching.AnyOf(parts):
                return any_of([self._condition(part) for part in parts])
            case matching.Not(part):
                return Condition({"$nor": [self._condition(part).match]})
            case matching.Has(level, parts):
                return self._has(level, parts)

    def _has(self, level: Level, parts: tuple[matching.Condition, ...]) -> Condition:
        """The entities above those of a deeper level: looked up first."""
        if level.depth <= self._level.depth:
            return any_of(())
        terms = tuple(part for part in parts if isinstance(part, Term))
        others = tuple(part for part in parts if not isinstance(part, Term))
        below = Statement(self._connection, Query(level=level, terms=terms, conditions=others), gone=self._gone)
        return self._of_below(level, below.match)

    # Terms

    def _term(self, term: Term) -> Condition:
        head, single = term.path[0], len(term.path) == 1
        if head == LAST_CHANGED:
            return _absent(term) if self._level is Level.INSTANCE else _plain("changed_at", term.any_of)
        if head == PATIENT_DIGEST:
            condition = _plain("digest", term.any_of)
            return condition if self._level.depth <= Level.STUDY.depth else self._above(Level.STUDY, condition)
        if single and head in _UID_LEVEL:
            field = _UID_FIELD[self._level].get(head)
            return _plain(field, term.any_of) if field else _absent(term)
        if single and (head in _NUMBERS or head in _SETS or head == TRANSFER_SYNTAXES):
            return self._computed(head, term)
        if level_of(head).depth > self._level.depth:
            return _absent(term)
        if single and head == _STUDY_DATE and self._is_newest_first():
            return self._date(term)
        return any_of(self._values(term))

    def _computed(self, head: str, term: Term) -> Condition:
        if head == TRANSFER_SYNTAXES:
            if self._level is Level.PATIENT:
                return _absent(term)
            own = "transfer_syntax" if self._level is Level.INSTANCE else "transfer_syntaxes"
            return _plain(own, term.any_of)
        level = _NUMBERS[head][0] if head in _NUMBERS else Level.STUDY
        if level.depth > self._level.depth:
            return _absent(term)
        return self._above(level, _plain(_NUMBERS[head][1] if head in _NUMBERS else _SETS[head], term.any_of))

    def _above(self, level: Level, condition: Condition) -> Condition:
        """A condition on the entity that this one is or belongs to."""
        if level is self._level:
            return condition
        found = list(self._connection.safe(COLLECTION[level]).find(condition.match, {"study": 1, "uid": 1}))
        if level is Level.SERIES:
            pairs = [{"study": doc["study"], "series": doc["uid"]} for doc in found]
            return Condition({"$or": pairs} if pairs else NEVER, selective=True)
        identities = [doc["_id"] for doc in found]
        if level is Level.PATIENT:
            if self._level is Level.STUDY:
                return Condition({"patient": {"$in": identities}}, selective=True)
            studies = self._connection.safe("studies").find({"patient": {"$in": identities}}, {"_id": 1})
            identities = [doc["_id"] for doc in studies]
        return Condition({"study": {"$in": identities}}, selective=True)

    def _is_newest_first(self) -> bool:
        order = tuple((each.tag, each.descending) for each in self._query.order)
        return self._level is Level.STUDY and order == _NEWEST_FIRST

    def _date(self, term: Term) -> Condition:
        """Dates in the list that is ordered by them: a range of its index, and the few studies with several dates."""
        further = any_of(self._values(term)).match
        parts = []
        for pattern in term.any_of:
            if not isinstance(pattern, (Equal, Range)):
                return Condition(further)
            low = pattern.value if isinstance(pattern, Equal) else pattern.low
            high = pattern.value if isinstance(pattern, Equal) else pattern.high
            parts.append({"desc.00080020": _bounds("", low, high)})
        return Condition({"$or": [*parts, {"several": _STUDY_DATE, **further}]})

    def _values(self, term: Term) -> list[Condition]:
        """The patterns on the array of values."""
        path = ".".join(term.path)
        array = array_of(path, self._level)
        parts = []
        equal = [path + encoded(pattern.value) for pattern in term.any_of if isinstance(pattern, Equal)]
        if equal:
            parts.append(Condition({array: {"$in": equal} if len(equal) > 1 else equal[0]}, selective=array == "a"))
        for pattern in term.any_of:
            match pattern:
                case Range(low, high):
                    parts.append(Condition({array: {"$elemMatch": _bounds(path, low, high)}}))
                case Wildcard(text):
                    parts.append(self._wildcard(term, path, text))
                case Words(wanted):
                    parts.append(_words(array, path, wanted))
                case Empty():
                    tags = [*term.path[-1].split("+")]
                    paths = [".".join((*term.path[:-1], tag)) for tag in tags]
                    parts.append(Condition({"$and": [_empty(array_of(each, self._level), each) for each in paths]}))
        return parts

    def _wildcard(self, term: Term, path: str, pattern: str) -> Condition:
        prefix = _prefix(pattern)
        if not prefix and len(term.path) == 1 and path in TEXTS[self._level] and len(term.any_of) == 1:
            return Condition({f"t.{path}": {"$regex": _fenced(pattern)}}, scans=True)
        bounds: Doc = {"$gte": path + TEXT + prefix, "$lt": behind(path + TEXT + prefix)}
        if pattern != prefix + "*":
            bounds["$regex"] = rf"^{re.escape(path)}={_regex(pattern, any_character=_ANY)}\z"
        array = array_of(path, self._level)
        return Condition({array: {"$elemMatch": bounds}}, selective=bool(prefix) and array == "a")

    # Order

    def _sort(self) -> tuple[Doc, dict[str, int]]:
        """Fields to work out, and the order; missing values are last both ways."""
        computed: Doc = {}
        sort: dict[str, int] = {}
        for number, order in enumerate(self._query.order):
            found = self._sort_field(order)
            if found is None:
                continue
            if not isinstance(found, str):
                computed[f"o{number}"] = found
                found = f"o{number}"
            sort.setdefault(found, -1 if order.descending else 1)
        for name, direction in (("uid", 1), ("_id", 1)) if self._level is Level.SERIES else (("_id", 1),):
            sort.setdefault(name, direction)
        return computed, sort

    def _sort_field(self, order: Order) -> str | Doc | None:
        """The name of a field, or how it is worked out; None for what an entity of this level never has."""
        tag = order.tag
        if tag == LAST_CHANGED:
            return None if self._level is Level.INSTANCE else "changed_at"
        if tag in _UID_LEVEL:
            return _UID_FIELD[self._level].get(tag)
        if tag in _NUMBERS:
            level, name = _NUMBERS[tag]
            return name if level is self._level else None
        missing = MISSING_LAST_DOWN if order.descending else MISSING_LAST_UP
        if tag in _SETS or tag == TRANSFER_SYNTAXES:
            if self._level not in (Level.STUDY, Level.SERIES):
                return None
            return _first_of(f"${_SETS.get(tag, 'transfer_syntaxes')}", missing)
        if level_of(tag).depth > self._level.depth:
            return None
        if tag == _POSITION:
            if not order.descending:
                return "position"
            return {"$cond": [{"$eq": ["$position", float("inf")]}, float("-inf"), "$position"]}
        if tag in SORTED[self._level]:
            return f"{'desc' if order.descending else 'asc'}.{tag}"
        begins = {"$substrBytes": ["$$entry", 0, len(tag) + 1]}
        wanted = {"$in": [begins, [tag + TEXT, tag + NUMBER]]}
        return _first_of(
            {"$filter": {"input": f"${array_of(tag, self._level)}", "as": "entry", "cond": wanted}}, missing
        )


def _first_of(array: Any, missing: str) -> Doc:
    return {"$ifNull": [{"$arrayElemAt": [array, 0]}, missing]}


def _absent(term: Term) -> Condition:
    """What an entity of this level never shows."""
    return Condition({}) if any(isinstance(pattern, Empty) for pattern in term.any_of) else any_of(())


def _plain(field: str, patterns: Iterable[Pattern]) -> Condition:
    """Patterns on a field that holds values as they are, one or an array of them."""
    parts = []
    equal = [pattern.value for pattern in patterns if isinstance(pattern, Equal)]
    if equal:
        parts.append(Condition({field: {"$in": equal}}, selective=field in _KEY_FIELDS))
    for pattern in patterns:
        match pattern:
            case Range(low, high):
                ends = {"$gte": low, "$lte": high}
                parts.append(Condition({field: {name: end for name, end in ends.items() if end is not None}}))
            case Wildcard(text):
                parts.append(Condition({field: {"$regex": rf"^{_regex(text, any_character=_ANY)}\z"}}))
            case Empty():
                parts.append(Condition({field: {"$in": [None, []]}}))
    return any_of(parts)


def _bounds(path: str, low: str | float | None, high: str | float | None) -> Doc:
    """The range of the strings that stand for values between both ends."""
    kind = TEXT if isinstance(low if low is not None else high, str) else NUMBER
    found: Doc = {"$gte": path + (kind if low is None else encoded(low))}
    if high is None:
        found["$lt"] = path + chr(ord(kind) + 1)
    else:
        found["$lte"] = path + encoded(high)
    return found


def _words(array: str, path: str, wanted: Iterable[str]) -> Condition:
    """Each word begins, or sounds like, a word of the name."""
    every = []
    for word in wanted:
        start = path + WORD + word
        ways: list[Doc] = [{array: {"$elemMatch": {"$gte": start, "$lt": behind(start)}}}]
        if code := sound(word):
            ways.append({array: path + SOUND + code})
        every.append({"$or": ways})
    return Condition({"$and": every}, selective=array == "a")


def _empty(array: str, path: str) -> Doc:
    return {array: {"$not": {"$regex": f"^{re.escape(path)}[{TEXT}{NUMBER}{PRESENT}]"}}}


def _prefix(pattern: str) -> str:
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def _fenced(pattern: str) -> str:
    return FENCE + _regex(pattern, any_character=f"[^{FENCE}]") + FENCE


def _regex(pattern: str, *, any_character: str) -> str:
    """A pattern with `*` and `?` as a regular expression. What stands between two stars is taken where it is first
    found, which is right and, as it is never taken back, needs no more than the product of both lengths."""
    pieces = [
        "".join(any_character if character == "?" else re.escape(character) for character in piece)
        for piece in pattern.split("*")
    ]
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(f"(?>{any_character}*?{piece})" for piece in pieces[1:-1] if piece)
    return f"{pieces[0]}{middle}{any_character}*{pieces[-1]}"
