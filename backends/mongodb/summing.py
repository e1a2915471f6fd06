"""What series, studies and patients show, made of what is below them; nothing here asks the database."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.mongodb.connection import Doc
from backends.mongodb.keys import search_fields
from backends.mongodb.work import new_token, now_in_milliseconds
from dicomweb_server.dicom.attributes import (
    Attributes,
    clock_digits,
    is_empty,
    patient_digest,
    patient_key,
    select,
)
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values

SETS = ("modalities", "sop_classes", "transfer_syntaxes")
NUMBERS = {
    Level.PATIENT: ("n_studies", "n_series", "n_instances"),
    Level.STUDY: ("n_series", "n_instances"),
    Level.SERIES: ("n_instances",),
}


Firsts = dict[Level, dict[str, Doc]]
"""New documents by level and `_id`."""


def series_id(study_uid: str, series_uid: str) -> str:
    """The `_id` of a series: its UID alone may stand in two studies."""
    return f"{study_uid}/{series_uid}"


@dataclass(slots=True, kw_only=True)
class Added:
    """A new instance, as far as the levels above care. `shown`: its attributes of patient, study and series."""

    study_uid: str
    series_uid: str
    shown: Attributes
    sop_class: str
    transfer_syntax: str
    group: str
    place: int = 0


def modalities(attributes: Attributes) -> list[str]:
    """The modalities that a header names."""
    return [str(value) for value in match_values(attributes, ("00080060",))]


def brings_nothing(seen: Doc, shown: Attributes, one: Added, level: Level) -> bool:
    """Whether a later instance changes nothing but totals of a document, which shows these attributes."""
    for tag, own in select(one.shown, level).items():
        known = shown.get(tag)
        if known is None or (is_empty(known) and not is_empty(own)):
            return False
    return (
        one.sop_class in seen["sop_classes"]
        and one.transfer_syntax in seen["transfer_syntaxes"]
        and set(modalities(one.shown)) <= set(seen["modalities"])
    )


def instances_part(shown: Attributes, *, place: int, number: int, sop_class: str, transfer_syntax: str) -> Doc:
    """So many instances of a series that show the same, as a part of the series; the first has that place."""
    return {
        "attributes": shown,
        "places": dict.fromkeys(shown, place),
        "n_instances": number,
        "modalities": modalities(shown),
        "sop_classes": [sop_class],
        "transfer_syntaxes": [transfer_syntax],
    }


def part(level: Level, doc: Doc) -> Doc:
    """A document of a series or study, as a part of what is above it."""
    own = "n_series" if level is Level.SERIES else "n_studies"
    return {**doc, "attributes": orjson.loads(doc["attributes"]), "places": orjson.loads(doc["places"]), own: 1}


def series_document(identity: str, below: Sequence[Doc]) -> Doc | None:
    """The document of a series made of its parts, the earliest first; None where there are none."""
    study_uid, _, series_uid = identity.partition("/")
    doc = document(Level.SERIES, identity, below)
    return doc and {**doc, "study": study_uid, "uid": series_uid}


def study_document(identity: str, below: Sequence[Doc]) -> Doc | None:
    """The document of a study made of its series."""
    doc = document(Level.STUDY, identity, below)
    if doc is None:
        return None
    key = patient_key(orjson.loads(doc["attributes"]), identity)
    return {**doc, "patient": key, "digest": patient_digest(key)}


def patient_document(identity: str, below: Sequence[Doc]) -> Doc | None:
    """The document of a patient made of the studies."""
    doc = document(Level.PATIENT, identity, below)
    return doc and {**doc, "digest": patient_digest(identity)}


def firsts(members: Sequence[Added], seen: Mapping[Level, Mapping[str, Doc]], patients: Iterable[str]) -> Firsts | None:
    """The documents above new instances that were looked for and not found, made of these instances alone; None where
    that does not tell what they are. `patients`: those that were looked for."""
    made: Firsts = {level: {} for level in NUMBERS}
    groups: dict[str, dict[str, list[Added]]] = defaultdict(lambda: defaultdict(list))
    for one in members:
        groups[series_id(one.study_uid, one.series_uid)][one.group].append(one)
    below: dict[str, list[Doc]] = defaultdict(list)
    for identity, some in groups.items():
        study_uid = identity.partition("/")[0]
        if identity in seen[Level.SERIES]:
            if study_uid not in seen[Level.STUDY]:
                return None
            continue
        doc = series_document(identity, [_part_of(alike) for alike in some.values()])
        if doc is not None:
            made[Level.SERIES][identity] = doc
            below[study_uid].append(part(Level.SERIES, doc))
    of_patient: dict[str, list[Doc]] = defaultdict(list)
    for study_uid, series in below.items():
        if study_uid not in seen[Level.STUDY] and (doc := study_document(study_uid, series)) is not None:
            made[Level.STUDY][study_uid] = doc
            of_patient[doc["patient"]].append(part(Level.STUDY, doc))
    if not set(of_patient) <= set(patients):
        return None
    for key, studies in of_patient.items():
        if key not in seen[Level.PATIENT] and (doc := patient_document(key, studies)) is not None:
            made[Level.PATIENT][key] = doc
    if made[Level.PATIENT].keys() & {study["patient"] for study in seen[Level.STUDY].values()}:
        return None
    return made


def patients_of(members: Sequence[Added]) -> set[str]:
    """The keys of the patients whom new instances name."""
    return {patient_key(one.shown, one.study_uid) for one in members}


def _part_of(alike: Sequence[Added]) -> Doc:
    first = alike[0]
    return instances_part(
        first.shown,
        place=first.place,
        number=len(alike),
        sop_class=first.sop_class,
        transfer_syntax=first.transfer_syntax,
    )


def document(level: Level, identity: str, below: Sequence[Doc]) -> Doc | None:
    """A derived document of what is below: of each attribute the value of the earliest place that is not empty."""
    if not below:
        return None
    attributes: dict[str, Mapping[str, Any]] = {}
    places: dict[str, int] = {}
    for part in below:
        for tag, attribute in select(part["attributes"], level).items():
            if tag not in attributes or _comes_before(attribute, part["places"][tag], attributes[tag], places[tag]):
                attributes[tag], places[tag] = attribute, part["places"][tag]
    attributes = dict(sorted(attributes.items()))
    return {
        "_id": identity,
        "v": new_token(),
        "epoch": new_token(),
        "changed_at": clock_digits(now_in_milliseconds()),
        **{name: sum(part.get(name, 0) for part in below) for name in NUMBERS[level]},
        **{name: sorted({value for part in below for value in part[name]}) for name in SETS},
        "attributes": orjson.dumps(attributes, default=dict),
        "places": orjson.dumps(places),
        "newest": max(places.values(), default=0),
        **search_fields(attributes, level),
    }


def _comes_before(one: Mapping[str, Any], place: int, other: Mapping[str, Any], other_place: int) -> bool:
    return (is_empty(one), place) < (is_empty(other), other_place)
