"""Searching: candidates from the best index, compared with all terms, in order, cut, and made into hits with totals."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import orjson

from backends.couchdb import entities, keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from backends.couchdb.entities import INSTANCE_UID, MODALITIES, POSITION, SERIES_NUMBER, SOP_CLASSES
from backends.couchdb.ranges import term_ranges
from backends.couchdb.sources import Candidate, Source, Sources, default_order, of_ids
from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST, SUMMARY, Attributes, clock_digits
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AllOf, AnyOf, Condition, Equal, Has, Not, Term, holds, sort_key, terms_in
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Hit, Page, Scope

DOCUMENTS_AT_ONCE = 500
KEYS_AT_ONCE, FEWEST_KEYS = 5000, 20
"""So many keys a request has at most, and at least where there are two at once."""

PARALLEL = 8
STUDIES_OF_PATIENT, SERIES_OF_PATIENT, INSTANCES_OF_PATIENT = "00201200", "00201202", "00201204"
SERIES_OF_STUDY, INSTANCES_OF_STUDY, INSTANCES_OF_SERIES = "00201206", "00201208", "00201209"
_OF_STUDY = frozenset((MODALITIES, SOP_CLASSES, SERIES_OF_STUDY, INSTANCES_OF_STUDY))
_OF_PATIENT = frozenset((STUDIES_OF_PATIENT, SERIES_OF_PATIENT, INSTANCES_OF_PATIENT))
_TIMED = frozenset((Level.PATIENT, Level.STUDY, Level.SERIES))
_NO_NUMBERS = {"studies": 0, "series": 0, "instances": 0}


@dataclass(frozen=True, slots=True)
class Found:
    """A document that matches; what it shows, and what was compared, which has what is computed besides."""

    document: Json
    attributes: Attributes
    compared: Attributes


class Search:
    """Reads the databases of the instances and of everything above."""

    def __init__(self, records: Database, archive: Database) -> None:
        self._records = records
        self._archive = archive
        self._sources = Sources(archive)
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="couchdb-totals")

    def close(self) -> None:
        """End the threads that count."""
        self._pool.shutdown()

    def search(self, query: Query) -> Page:
        """As `Storage.search`."""
        source = self._source(query)
        skipped = query.offset if source.exact and not is_narrowed(query) and source.ordered else 0
        found = self._found(query, source, query.offset - skipped + query.limit + 1)
        start = query.offset - skipped
        some = list(islice(found, start, start + query.limit + 1))
        numbers = self._numbers(query.level, [each.document for each in some[: query.limit]])
        times = self._times(query.level, [each.document for each in some[: query.limit]]) if query.times else {}
        hits = [
            _hit(query.level, each, number, times.get(each.document["_id"]))
            for each, number in zip(some[: query.limit], numbers, strict=True)
            if number["instances"]  # what a removal is just taking away
        ]
        return Page(hits=hits, more=len(some) > query.limit)

    def count(self, query: Query) -> int:
        """As `Storage.count`."""
        plain = Query(level=query.level, scope=query.scope, terms=query.terms, conditions=query.conditions)
        if not is_narrowed(query) and query.scope.level is None:
            return self._count_all(query.level)
        source = self._source(plain)
        if source.exact and not query.conditions:
            return len({each.document_id for page in source.pages(DOCUMENTS_AT_ONCE) for each in page})
        return sum(1 for _ in self._found(plain, source, DOCUMENTS_AT_ONCE))

    def _count_all(self, level: Level) -> int:
        if level is Level.INSTANCE:
            rows = self._records.view("live/counts", reduce=True)
            return int(rows[0]["value"]) if rows else 0
        start = [level.value, "uid"]
        rows = self._archive.view("search/orders", startkey=start, endkey=[*start, keys.END], reduce=True)
        return int(rows[0]["value"]) if rows else 0

    # Sources

    def _source(self, query: Query) -> Source:
        scope = query.scope
        if query.level is Level.INSTANCE:
            return self._instances(query)
        if scope.study_uid is None:
            return self._of_patients(query) or self._sources.choose(query)
        if query.level is Level.STUDY:
            return of_ids([entities.study_id(scope.study_uid)])
        if query.level is Level.PATIENT:
            study = self._archive.get(entities.study_id(scope.study_uid))
            return of_ids([entities.patient_id(study["patient"])] if study is not None else [])
        if scope.series_uid is not None:
            return of_ids([entities.series_id(scope.study_uid, scope.series_uid)])
        study_uid = scope.study_uid
        return Source(
            pages=lambda size: self._sources.walk(Level.SERIES, "in", size, study_uid),
            ordered=query.order == (Order(SERIES_NUMBER, "IS"),),
        )

    def _of_patients(self, query: Query) -> Source | None:
        """What belongs to patients that are named by their digests."""
        for term in query.terms:
            if term.path != (PATIENT_DIGEST,) or query.level is Level.SERIES:
                continue
            digests = [str(pattern.value) for pattern in term.any_of if isinstance(pattern, Equal)]
            patients = [entities.digested_id(digest) for digest in digests]
            if query.level is Level.PATIENT:
                return of_ids(patients)
            uids = [patient["uid"] for patient in self._archive.get_many(patients).values()]
            rows = self._archive.view("patients/studies", keys=uids) if uids else []
            return of_ids([row["id"] for row in rows])
        return None

    def _instances(self, query: Query) -> Source:
        scope = query.scope
        for term in query.terms:
            if term.path == (INSTANCE_UID,) and all(isinstance(pattern, Equal) for pattern in term.any_of):
                return of_ids([documents.instance_id(str(each.value)) for each in term.any_of])  # type: ignore[union-attr]
        if scope.instance_uid is not None:
            return of_ids([documents.instance_id(scope.instance_uid)])
        if scope.study_uid is not None:
            return self._listed(query)
        for term in query.terms:
            ranges = term_ranges(entities.HEADER, term)
            if ranges is not None:
                return Source(pages=partial(self._with_headers, ranges), placed=True)
        plain = not is_narrowed(query)
        skip = query.offset if plain and not query.order else 0
        return Source(pages=lambda size: self._all_instances(size, skip), ordered=not query.order, exact=plain)

    def _listed(self, query: Query) -> Source:
        """The instances of a study or series."""
        start = [uid for uid in (query.scope.study_uid, query.scope.series_uid) if uid is not None]
        by_number = query.order == (Order(POSITION, "IS"),)

        def pages(size: int) -> Iterator[list[Candidate]]:
            size = min(max(size, 1), 5000)
            rows = self._records.pages("live/instances", size=size, startkey=start, endkey=[*start, keys.END])
            for page in rows:
                yield [
                    Candidate(row["id"], row["key"][2] if by_number else "", row["key"][3])
                    for row in page
                    if row["key"][2] is not None
                ]

        return Source(pages=pages, ordered=by_number and len(start) > 1, placed=by_number or not query.order)

    def _with_headers(self, ranges: Sequence[Json], _size: int) -> Iterator[list[Candidate]]:
        """The instances whose headers lie in ranges of terms."""
        wanted = [
            {"key": [*candidate.sort[::-1], candidate.document_id.rpartition("-")[2]], "reduce": False}
            for candidate in self._sources.collect(entities.HEADER, ranges)
        ]
        for rows in self._records.ranges("live/headers", wanted) if wanted else ():
            yield [Candidate(row["id"], "", row["id"].partition(":")[2]) for row in rows]

    def _all_instances(self, size: int, skip: int) -> Iterator[list[Candidate]]:
        size = min(max(size, 1), DOCUMENTS_AT_ONCE)
        start = documents.instance_id("")
        while True:
            rows = self._records.view(
                "_all_docs", startkey=start, endkey="instance:\ufff0", include_docs=True, limit=size + 1, skip=skip
            )
            yield [Candidate(row["id"], document=row["doc"]) for row in rows[:size] if row.get("doc")]
            if len(rows) <= size:
                return
            start, skip = rows[size]["id"], 0

    # Comparing and ordering

    def _found(self, query: Query, source: Source, enough: int) -> Iterator[Found]:
        """What matches, in the order of the query."""
        if source.ordered:
            for page in source.pages(enough):
                yield from self._matching(query, page, enough)
            return
        candidates = [candidate for page in source.pages(DOCUMENTS_AT_ONCE) for candidate in page]
        if source.placed and self._order_is_known(query):
            by_place = bool(query.order)
            candidates.sort(key=lambda each: (_rankable(each.place), each.sort) if by_place else (each.sort,))
            yield from self._matching(query, candidates, enough)
            return
        found = list(self._matching(query, candidates, DOCUMENTS_AT_ONCE))
        found.sort(key=lambda each: _identity(query.level, each.document))
        for order in reversed(query.order):
            found = _sorted(found, order)
        yield from found

    def _order_is_known(self, query: Query) -> bool:
        """Whether place and sort of the candidates give the order of the query."""
        if not query.order:
            return True
        if query.level is Level.INSTANCE:
            return query.order == (Order(POSITION, "IS"),) and query.scope.study_uid is not None
        return query.order == default_order(query.level)

    def _matching(self, query: Query, candidates: Sequence[Candidate], enough: int) -> Iterator[Found]:
        """Those that match all terms, in the order given, in pages as large as may be needed."""
        size = min(max(enough, 1), DOCUMENTS_AT_ONCE)
        for start in range(0, len(candidates), size):
            some = candidates[start : start + size]
            missing = [each.document_id for each in some if each.document is None]
            fetched = self._database(query.level).get_many(missing) if missing else {}
            there = [document for each in some if (document := each.document or fetched.get(each.document_id))]
            yield from self._compare(query, there)

    def _compare(self, query: Query, found: Sequence[Json]) -> Iterator[Found]:
        computed = self._computed(query, found)
        above = self._above(query)
        for place, document in enumerate(found):
            attributes = self._attributes(query, document)
            shown = {**attributes, **computed[place]} if computed[place] else attributes

            def has(wanted: Has, document: Json = document) -> bool:
                return _identity(query.level, document) in above[wanted]

            fits = all(holds(condition, shown, has) for condition in (*query.terms, *query.conditions))
            if fits and _in_scope(query.level, document, query.scope):
                yield Found(document, attributes, shown)

    def _above(self, query: Query) -> dict[Has, set[tuple[str, ...]]]:
        """For each condition on what is below: which entities of the level of the query have that."""
        return {wanted: self._having(wanted, query.level) for wanted in _wanted_below(query.conditions)}

    def _having(self, wanted: Has, level: Level) -> set[tuple[str, ...]]:
        if wanted.level.depth <= level.depth:
            return set()
        terms = tuple(part for part in wanted.parts if isinstance(part, Term))
        others = tuple(part for part in wanted.parts if not isinstance(part, Term))
        below = Query(level=wanted.level, terms=terms, conditions=others)
        found = [each.document for each in self._found(below, self._source(below), DOCUMENTS_AT_ONCE)]
        if level is Level.SERIES:
            return {(document["series"], document["study"]) for document in found}
        studies = {document["uid"] if wanted.level is Level.STUDY else document["study"] for document in found}
        if level is Level.STUDY:
            return {(uid,) for uid in studies}
        above = self._archive.get_many([entities.study_id(uid) for uid in sorted(studies)])
        return {(document["patient"],) for document in above.values()}

    def _attributes(self, query: Query, document: Json) -> Attributes:
        if query.level is not Level.INSTANCE:
            parsed: Attributes = orjson.loads(document["attributes"])
            return parsed
        tags = _asked(query)
        if all(part in SUMMARY or part in _OF_STUDY for tag in tags for part in tag.split("+")):
            summary: Attributes = orjson.loads(document["summary"])
            return summary
        return documents.attributes_of(self._records, document)

    def _database(self, level: Level) -> Database:
        return self._records if level is Level.INSTANCE else self._archive

    # What is computed

    def _computed(self, query: Query, found: Sequence[Json]) -> list[Mapping[str, Mapping[str, Any]]]:
        """The attributes that no header has, where a term asks for one."""
        asked = _asked(query)
        computed: list[dict[str, Mapping[str, Any]]] = [{} for _ in found]
        if query.level is Level.PATIENT and asked & _OF_PATIENT:
            for place, numbers in enumerate(self._numbers(Level.PATIENT, found)):
                computed[place] |= {
                    STUDIES_OF_PATIENT: _integer(numbers["studies"]),
                    SERIES_OF_PATIENT: _integer(numbers["series"]),
                    INSTANCES_OF_PATIENT: _integer(numbers["instances"]),
                }
        if PATIENT_DIGEST in asked:
            for place, digest in enumerate(self._digests(query.level, found)):
                computed[place][PATIENT_DIGEST] = {"vr": "UN", "Value": [digest]}
        if LAST_CHANGED in asked:
            times = self._times(query.level, found)
            for place, document in enumerate(found):
                if moment := times.get(document["_id"]):
                    computed[place][LAST_CHANGED] = {"vr": "UN", "Value": [clock_digits(moment)]}
        if query.level is not Level.PATIENT and asked & _OF_STUDY:
            self._add_of_study(query.level, found, computed, counted=bool(asked - {MODALITIES, SOP_CLASSES}))
        if query.level.depth >= Level.SERIES.depth and INSTANCES_OF_SERIES in asked:
            for place, number in enumerate(self._counts([(each["study"], _series_of(each)) for each in found])):
                computed[place][INSTANCES_OF_SERIES] = _integer(number)
        return list(computed)

    def _digests(self, level: Level, found: Sequence[Json]) -> list[str]:
        """The digests of the patients that these belong to."""
        if level is Level.PATIENT:
            return [document["_id"].partition(":")[2] for document in found]
        studies: dict[str, Json] = {}
        if level is not Level.STUDY:
            names = dict.fromkeys(entities.study_id(document["study"]) for document in found)
            studies = self._archive.get_many(list(names))
        patients = [
            (document if level is Level.STUDY else studies.get(entities.study_id(document["study"]), {})).get("patient")
            for document in found
        ]
        return [entities.patient_id(key).partition(":")[2] if key is not None else "" for key in patients]

    def _times(self, level: Level, found: Sequence[Json]) -> dict[str, datetime]:
        """When entities last changed, by their ids: the latest of the entries below each."""
        if level not in _TIMED or not found:
            return {}
        places: list[tuple[str, list[str]]] = [
            (document["_id"], [document["study"], document["uid"]] if level is Level.SERIES else [document["uid"]])
            for document in found
        ]
        if level is Level.PATIENT:
            identities = {document["uid"]: document["_id"] for document in found}
            rows = self._archive.view("patients/studies", keys=list(identities))
            places = [(identities[row["key"]], [row["value"][0]]) for row in rows]
        ranges = [{"startkey": place, "endkey": [*place, keys.END], "reduce": True} for _, place in places]
        times: dict[str, datetime] = {}
        answers = self._records.ranges("live/history", ranges) if ranges else []
        for (identity, _), rows in zip(places, answers, strict=True):
            if rows and rows[0]["value"]:
                latest = documents.moment(int(rows[0]["value"]["max"]))
                times[identity] = max(latest, times.get(identity, latest))
        return times

    def _add_of_study(
        self, level: Level, found: Sequence[Json], computed: list[dict[str, Mapping[str, Any]]], *, counted: bool
    ) -> None:
        names = [each["uid"] if level is Level.STUDY else each["study"] for each in found]
        studies = (
            {each["uid"]: each for each in found}
            if level is Level.STUDY
            else {
                each["uid"]: each
                for each in self._archive.get_many(
                    list(dict.fromkeys(entities.study_id(name) for name in names))
                ).values()
            }
        )
        numbers = dict(zip(studies, self._numbers(Level.STUDY, list(studies.values())), strict=True)) if counted else {}
        for place, name in enumerate(names):
            if name not in studies:
                continue
            sets, number = studies[name]["sets"], numbers.get(name, _NO_NUMBERS)
            computed[place] |= {
                MODALITIES: {"vr": "CS", "Value": sets["modalities"]},
                SOP_CLASSES: {"vr": "UI", "Value": sets["sop_classes"]},
                SERIES_OF_STUDY: _integer(number["series"]),
                INSTANCES_OF_STUDY: _integer(number["instances"]),
            }

    def _numbers(self, level: Level, found: Sequence[Json]) -> list[dict[str, int]]:
        """The totals of entities, in their order."""
        if not found:
            return []
        if level is Level.INSTANCE:
            return [{**_NO_NUMBERS, "instances": 1} for _ in found]
        if level is Level.SERIES:
            counts = self._counts([(each["study"], each["uid"]) for each in found])
            return [{**_NO_NUMBERS, "instances": count} for count in counts]
        if level is Level.PATIENT:
            return self._numbers_of_patients([each["uid"] for each in found])
        totals = self._totals({each["uid"]: each.get("listed", ()) for each in found})
        return [totals[each["uid"]] for each in found]

    def _numbers_of_patients(self, patients: Sequence[str]) -> list[dict[str, int]]:
        numbers = {patient: dict(_NO_NUMBERS) for patient in patients}
        rows = self._archive.view("patients/studies", keys=list(numbers))
        totals = self._totals({row["value"][0]: row["value"][1] or () for row in rows})
        for row in rows:
            total, number = totals[row["value"][0]], numbers[row["key"]]
            if total["instances"]:
                for name, value in total.items():
                    number[name] += value
        return [numbers[patient] for patient in patients]

    def _totals(self, studies: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
        """The totals of studies, given with the series that each lists, if they are not too many. All of one study come
        from one read of one view, so that they fit each other."""
        found: dict[str, list[int]] = {study: [] for study in studies}
        for row in self._counted([[(study, uid) for uid in listed] for study, listed in studies.items()]):
            found[row["key"][0]].append(int(row["value"]))
        others = [study for study, listed in studies.items() if not listed]
        ranges = [{"startkey": [study], "endkey": [study, keys.END], "group_level": 2} for study in others]
        for study, rows in zip(others, self._records.ranges("live/counts", ranges) if ranges else (), strict=True):
            found[study] = [int(row["value"]) for row in rows]
        return {
            study: {"studies": 1, "series": len(counts), "instances": sum(counts)} for study, counts in found.items()
        }

    def _counts(self, places: Sequence[tuple[str, str]]) -> list[int]:
        """How many instances are in these series of these studies."""
        rows = self._counted([[place] for place in dict.fromkeys(places)])
        counts = {tuple(row["key"]): int(row["value"]) for row in rows}
        return [counts.get(place, 0) for place in places]

    def _counted(self, groups: Sequence[Sequence[tuple[str, str]]]) -> list[Json]:
        """The rows of these series, those of a group from one read. CouchDB answers a request from one process for each
        shard, so many keys are asked for by two requests at once."""
        half = math.ceil(sum(map(len, groups)) / 2)
        parts = list(_together(groups, min(max(half, FEWEST_KEYS), KEYS_AT_ONCE)))
        read = partial(self._records.view, "live/counts", group=True)
        others = [self._pool.submit(read, keys=part) for part in parts[1:]]
        rows = read(keys=parts[0]) if parts else []
        return [*rows, *(row for other in others for row in other.result())]


def _together(groups: Iterable[Sequence[tuple[str, str]]], size: int) -> Iterator[list[tuple[str, str]]]:
    """Keys as many as one request should have, or a little more: those of a group stay together."""
    some: list[tuple[str, str]] = []
    for group in groups:
        some += group
        if len(some) >= size:
            yield some
            some = []
    if some:
        yield some


def is_narrowed(query: Query) -> bool:
    """Whether not simply everything is asked for."""
    return bool(query.terms or query.conditions)


def _asked(query: Query) -> set[str]:
    """The tags that are compared or ordered by."""
    compared = {term.path[0] for term in (*query.terms, *terms_in(query.conditions))}
    return compared | {order.tag for order in query.order}


def _wanted_below(conditions: Iterable[Condition]) -> Iterator[Has]:
    for condition in conditions:
        match condition:
            case Has():
                yield condition
            case AllOf(parts) | AnyOf(parts):
                yield from _wanted_below(parts)
            case Not(part):
                yield from _wanted_below((part,))


def _series_of(document: Json) -> str:
    return str(document["series"] if "series" in document else document["uid"])


def _integer(number: int) -> dict[str, Any]:
    return {"vr": "IS", "Value": [number]}


def _rankable(place: Any) -> tuple[bool, Any]:
    """Numbers before text, as keys of views sort."""
    return isinstance(place, str), place


def _identity(level: Level, document: Json) -> tuple[str, ...]:
    if level is Level.SERIES:
        return document["uid"], document["study"]
    return (document["uid"],)


def _sorted(found: list[Found], order: Order) -> list[Found]:
    keyed = [(sort_key(each.compared, order.tag), each) for each in found]
    present = [(value, each) for value, each in keyed if value is not None]
    present.sort(key=lambda pair: _rankable(pair[0]), reverse=order.descending)
    return [each for _, each in present] + [each for value, each in keyed if value is None]


def _in_scope(level: Level, document: Json, scope: Scope) -> bool:
    if level is Level.INSTANCE:
        return documents.inside(document, scope) and scope.instance_uid in (None, document["uid"])
    return True


def _hit(level: Level, found: Found, numbers: Mapping[str, int], changed_at: datetime | None) -> Hit:
    document = found.document
    if level is Level.INSTANCE:
        return Hit(
            level=level,
            attributes=found.attributes,
            study_uid=document["study"],
            series_uid=document["series"],
            instance_uid=document["uid"],
            number_of_instances=1,
            modalities=tuple(found.attributes.get("00080060", {}).get("Value", ())),
            sop_classes=(document["sop_class"],),
            transfer_syntaxes=(document["transfer_syntax"],),
        )
    sets = document["sets"]
    return Hit(
        level=level,
        attributes=found.attributes,
        study_uid=document["uid"] if level is Level.STUDY else document.get("study"),
        series_uid=document["uid"] if level is Level.SERIES else None,
        patient_key=str(keys.decode(document["uid"])) if level is Level.PATIENT else None,
        number_of_studies=numbers["studies"] if level is Level.PATIENT else 0,
        number_of_series=numbers["series"],
        number_of_instances=numbers["instances"],
        modalities=tuple(sets["modalities"]),
        sop_classes=tuple(sets["sop_classes"]),
        transfer_syntaxes=tuple(sets["transfer_syntaxes"]),
        changed_at=changed_at,
    )
