"""Searching as QIDO-RS means it (PS3.18 8.3.4 and 10.6): from query parameters to a `Query`, from hits to DICOM
JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from dicomweb_server.dicom.attributes import (
    COMPUTED,
    DATE_TIME_PAIRS,
    RETURNED,
    SUMMARY,
    level_of,
    resolve,
    vr_of,
    with_creator,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Path, Term
from dicomweb_server.dicom.query_values import parse_combined, parse_term
from dicomweb_server.errors import BadRequest
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Hit, Scope

Item = dict[str, dict[str, Any]]

MODALITY, MODALITIES_IN_STUDY = "00080060", "00080061"
SOP_CLASS, SOP_CLASSES_IN_STUDY = "00080016", "00080062"
HITS_AT_ONCE = 100  # so many instance headers are in memory while an answer streams
MAX_OFFSET = 2**62

# Newest studies first; inside a study by number. Across studies the UID alone gives a stable order without a sort.
_DEFAULT_ORDER: Mapping[Level, tuple[Order, ...]] = {
    Level.PATIENT: (),
    Level.STUDY: (Order("00080020", "DA", True), Order("00080030", "TM", True)),
    Level.SERIES: (Order("00200011", "IS"),),
    Level.INSTANCE: (Order("00200013", "IS"),),
}
# Asked of a study, these mean the set that the study keeps of them.
_SET_OF_STUDY = {MODALITY: MODALITIES_IN_STUDY, SOP_CLASS: SOP_CLASSES_IN_STUDY}
# What a backend can match although the server computes it (of studies and patients).
_SEARCHABLE_COMPUTED = frozenset({MODALITIES_IN_STUDY, SOP_CLASSES_IN_STUDY})
_CONTROL = frozenset(
    {
        "includefield",
        "limit",
        "offset",
        "orderby",
        "fuzzymatching",
        "emptyvaluematching",
        "multiplevaluematching",
        "accept",
        "charset",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A search ready to run. `returned` are the tags that every hit has, `fields` the further attributes to return,
    `everything` is includefield=all."""

    query: Query
    returned: tuple[str, ...] = ()
    fields: tuple[Path, ...] = ()
    everything: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer: items stream in the order of the query, each with its hit; the warnings are complete beforehand."""

    items: Iterator[tuple[Hit, Item]]
    count: int
    warnings: tuple[str, ...]


class Search:
    """Searches the archive."""

    def __init__(self, storage: Storage, *, max_results: int) -> None:
        self._storage = storage
        self._max_results = max_results

    def plan(self, *, level: Level, scope: Scope, parameters: Sequence[tuple[str, str]]) -> Plan:
        """What the decoded query parameters ask for. Raises BadRequest saying which parameter is wrong and why.

        A parameter that names no attribute is not refused but told in a warning (PS3.18 8.3.4.1).
        """
        return _Planner(level, scope, self._max_results).plan(parameters)

    def run(self, plan: Plan) -> Found:
        """Run it; the database has answered when this returns, so that its errors come before the first byte."""
        page = self._storage.search(query=plan.query)
        warnings = list(plan.warnings)
        if page.more and len(page.hits) >= self._max_results:
            warnings.append(
                f"The number of results exceeded the maximum of {self._max_results} of this server; "
                "additional results can be requested with offset"
            )
        elif page.more:
            warnings.append("There are additional results that can be requested with offset")
        return Found(items=self._items(plan, page.hits), count=len(page.hits), warnings=tuple(warnings))

    def _items(self, plan: Plan, hits: Sequence[Hit]) -> Iterator[tuple[Hit, Item]]:
        # Only instances have attributes beyond those that their hit carries.
        beyond = plan.everything or any(path[0] not in SUMMARY for path in plan.fields)
        if plan.query.level is not Level.INSTANCE or not beyond:
            for hit in hits:
                yield hit, _item(plan, hit, hit.attributes)
            return
        for start in range(0, len(hits), HITS_AT_ONCE):
            some = hits[start : start + HITS_AT_ONCE]
            headers = self._storage.metadata_of(instance_uids=[hit.instance_uid or "" for hit in some])
            for hit in some:
                header = headers.get(hit.instance_uid or "")
                attributes = orjson.loads(unpack_metadata(header.deflated)) if header else hit.attributes
                yield hit, _item(plan, hit, attributes)


class _Planner:
    """Collects the parts of one plan."""

    def __init__(self, level: Level, scope: Scope, max_results: int) -> None:
        self._level = level
        self._scope = scope
        self._max_results = max_results
        self._terms: list[Term] = []
        self._fields: dict[Path, None] = {}
        self._warnings: dict[str, None] = {}
        self._everything = False

    def plan(self, parameters: Sequence[tuple[str, str]]) -> Plan:
        control = {name.lower(): value for name, value in parameters if name.lower() in _CONTROL}
        fuzzy, empty, multiple = (
            _truth(control, name) for name in ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
        )
        limit, offset = _number(control, "limit"), _number(control, "offset") or 0
        done = self._combine_dates(parameters)
        for name, value in parameters:
            if name.lower() == "includefield":
                self._include(value)
            elif name and name not in done and name.lower() not in _CONTROL:
                self._match(name, value, fuzzy=bool(fuzzy), empty=bool(empty), multiple=bool(multiple))
        query = Query(
            level=self._level,
            scope=self._scope,
            terms=tuple(self._terms),
            order=self._order(control.get("orderby", "")),
            limit=self._max_results if limit is None else min(limit, self._max_results),
            offset=min(offset, MAX_OFFSET),
        )
        return Plan(
            query=query,
            returned=_returned(self._level, self._scope),
            fields=tuple(self._fields),
            everything=self._everything,
            warnings=tuple(self._warnings),
        )

    def _include(self, text: str) -> None:
        for name in text.split(","):
            if name.strip().lower() == "all":
                self._everything = True
            elif name.strip():
                try:
                    self._fields[resolve(name.strip())] = None
                except BadRequest as exc:
                    self._warn(f"includefield: {exc.message}")

    def _match(self, name: str, value: str, *, fuzzy: bool, empty: bool, multiple: bool) -> None:
        try:
            path = resolve(name)
        except BadRequest as exc:
            self._warn(f"{exc.message.rstrip('.')}; the matching was not performed")
            return
        if self._level in (Level.STUDY, Level.PATIENT) and len(path) == 1:
            path = (_SET_OF_STUDY.get(path[0], path[0]),)
        self._fields[path] = None  # an attribute that is matched is returned (PS3.18 10.6.3.3)
        term = parse_term(path, value, fuzzy=fuzzy, multiple=multiple, empty=empty)
        if term is None:
            return
        if path[0] in COMPUTED:
            usable = path[0] in _SEARCHABLE_COMPUTED and self._level is Level.STUDY
        else:
            usable = level_of(path[0]).depth <= self._level.depth
        if not usable:
            self._warn(
                f"{name} cannot be matched in a search for {_PLURAL[self._level]}; the matching was not performed"
            )
            return
        self._terms.append(term)

    def _combine_dates(self, parameters: Sequence[tuple[str, str]]) -> set[str]:
        """A range of days and a range of hours of the same thing are one range of moments (PS3.4 C.2.2.2.5.2): its
        term is added, and the names of the two parameters are given back."""
        ranges: dict[str, tuple[str, str]] = {}
        for name, value in parameters:
            if "-" in value and (tag := _tag_of(name)) is not None:
                ranges[tag] = (name, value)
        done: set[str] = set()
        for date, time in DATE_TIME_PAIRS.items():
            if date not in ranges or time not in ranges or level_of(date).depth > self._level.depth:
                continue
            self._fields |= {(date,): None, (time,): None}
            done |= {ranges[date][0], ranges[time][0]}
            if term := parse_combined((f"{date}+{time}",), ranges[date][1], ranges[time][1]):
                self._terms.append(term)
        return done

    def _order(self, text: str) -> tuple[Order, ...]:
        if not text.strip():
            inside = self._scope.study_uid is not None or self._level is Level.STUDY
            return _DEFAULT_ORDER[self._level] if inside else ()
        order = []
        for name in text.split(","):
            path = resolve(name.strip().lstrip("-"))
            if len(path) > 1 or path[0] in COMPUTED or level_of(path[0]).depth > self._level.depth:
                raise BadRequest(
                    f"orderby: {name.strip()} is no attribute that {_PLURAL[self._level]} can be ordered by"
                )
            order.append(Order(path[0], vr_of(path[0]), name.strip().startswith("-")))
        return tuple(order)

    def _warn(self, text: str) -> None:
        if len(self._warnings) < 10:  # they travel in one header
            self._warnings[text] = None


_PLURAL = {
    Level.PATIENT: "patients",
    Level.STUDY: "studies",
    Level.SERIES: "series",
    Level.INSTANCE: "instances",
}


def _returned(level: Level, scope: Scope) -> tuple[str, ...]:
    """The attributes of the level, and of the levels above that the URL leaves open (PS3.18 10.6.3.3.2)."""
    above = {Level.STUDY: scope.study_uid, Level.SERIES: scope.series_uid}
    levels = [upper for upper, uid in above.items() if uid is None and upper.depth < level.depth]
    return tuple(dict.fromkeys(tag for each in (*levels, level) for tag in RETURNED[each]))


def _tag_of(name: str) -> str | None:
    try:
        path = resolve(name)
    except BadRequest:
        return None
    return path[0] if len(path) == 1 else None


def _truth(control: Mapping[str, str], name: str) -> bool | None:
    value = control.get(name, "").strip().lower()
    if value not in ("", "true", "false"):
        raise BadRequest(f"{name} is either true or false")
    return value == "true" if value else None


def _number(control: Mapping[str, str], name: str) -> int | None:
    value = control.get(name, "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 40):
        raise BadRequest(f"{name} is a whole number, 0 or more")
    return int(value)


def _item(plan: Plan, hit: Hit, attributes: Mapping[str, Mapping[str, Any]]) -> Item:
    """The DICOM JSON object of a hit, sorted by tag; RetrieveURL is left to the front end, which knows its address."""
    found: dict[str, Any] = dict(attributes) if plan.everything else {}
    for tag in plan.returned:
        found[tag] = attributes.get(tag) or {"vr": vr_of(tag)}
    asked = {tag: below for tag, below in _tree(plan.fields).items() if tag not in found and tag not in COMPUTED}
    found |= _part(attributes, asked)
    found.update(_computed(hit, everything=plan.everything, asked={path[0] for path in plan.fields}))
    return dict(sorted(found.items()))


def narrowed(attributes: Mapping[str, Mapping[str, Any]], fields: tuple[Path, ...]) -> dict[str, Any]:
    """The attributes at the paths, with the creators of private ones; of sequences only what the paths name."""
    return _part(attributes, _tree(fields))


@lru_cache(maxsize=256)
def _tree(fields: tuple[Path, ...]) -> dict[str, Any]:
    """The paths as tags with what is wanted below them; nothing below means all of it."""
    whole, tree = frozenset(fields), dict[str, Any]()
    for path in fields:
        if not any(path[:depth] in whole for depth in range(1, len(path))):
            place = tree
            for tag in path:
                place = place.setdefault(tag, {})
    return tree


def _part(attributes: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted of the attributes, with the creators of private ones; of sequences, items with what is below."""
    found: dict[str, Any] = {}
    for tag, below in wanted.items():
        if tag in attributes:
            found |= {one: attributes[one] for one in with_creator(tag) if one in attributes}
            if below:
                items = [part for item in attributes[tag].get("Value", []) if (part := _part(item or {}, below))]
                found[tag] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return dict(sorted(found.items()))


def _computed(hit: Hit, *, everything: bool, asked: set[str]) -> Item:
    found: Item = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080056": {"vr": "CS", "Value": ["ONLINE"]},
    }
    numbers: dict[str, int] = {}
    if hit.level is Level.PATIENT:
        numbers = {
            "00201200": hit.number_of_studies,
            "00201202": hit.number_of_series,
            "00201204": hit.number_of_instances,
        }
    elif hit.level is Level.STUDY:
        if hit.modalities:  # OHIF 3.13 takes an empty one for a list and shows no studies at all
            found[MODALITIES_IN_STUDY] = _value("CS", hit.modalities)
        numbers = {"00201206": hit.number_of_series, "00201208": hit.number_of_instances}
        if everything or SOP_CLASSES_IN_STUDY in asked:
            found[SOP_CLASSES_IN_STUDY] = _value("UI", hit.sop_classes)
    elif hit.level is Level.SERIES:
        numbers = {"00201209": hit.number_of_instances}
    if hit.level is not Level.PATIENT:
        found["0020000D"] = _value("UI", (hit.study_uid or "",))
        found["00083002"] = _value("UI", hit.transfer_syntaxes)
    if hit.series_uid is not None:
        found["0020000E"] = _value("UI", (hit.series_uid,))
    if hit.instance_uid is not None:
        found["00080018"] = _value("UI", (hit.instance_uid,))
    found.update({tag: {"vr": "IS", "Value": [number]} for tag, number in numbers.items()})
    return found


def _value(vr: str, values: Sequence[str]) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}
