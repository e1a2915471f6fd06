"""The documents of headers, series, studies and patients: what each shows, and the values it is found and ordered by.
Pure: nothing here asks the server."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.couchdb import keys
from dicomweb_server.dicom.attributes import Attributes, merge, patient_digest, patient_key, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values, sort_key
from dicomweb_server.dicom.names import sound, words

Json = dict[str, Any]

MODALITY, MODALITIES, SOP_CLASSES = "00080060", "00080061", "00080062"
STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
SOP_CLASS, STUDY_DATE, STUDY_TIME, SERIES_NUMBER, POSITION = "00080016", "00080020", "00080030", "00200011", "00200013"
HEADER = "header"

_PATIENT = "00100010 00100020 00100021 00100030 00100040"
_STUDY = f"{_PATIENT} 00080020 00080030 00080050 00080090 00081030 0020000D 00200010"
_SERIES = f"{_STUDY} 00080021 00080060 0008103E 00080080 00081010 00180015 0020000E 00200011 00400244"

TERMS: Mapping[str, tuple[str, ...]] = {
    Level.PATIENT: tuple(_PATIENT.split()),
    Level.STUDY: (*_STUDY.split(), MODALITIES, SOP_CLASSES),
    Level.SERIES: tuple(_SERIES.split()),
    HEADER: (*_SERIES.split(), SOP_CLASS),
}
"""The attributes that each level is found by; all others are compared after something else has narrowed the choice."""

_SCANNED = frozenset(
    ("00100010", "00100020", "00080050", "00080090", "00081030", "00200010", "0008103E", "00080080", "00080060",
     "00180015", MODALITIES)
)  # fmt: skip
SCANS: Mapping[str, tuple[str, ...]] = {
    level: tuple(tag for tag in tags if tag in _SCANNED) for level, tags in TERMS.items() if level != HEADER
}
"""The attributes with an index to look through for patterns that begin with a wildcard."""

NAMES = ("00100010", "00080090")
ORDERED = ("00100010", "00100020", "00080050", "00080020", "00081030")
"""The attributes that studies can be walked in the order of, both ways."""

MOST_LISTED = 50
"""A study with more series than these does not list them."""

SETS = ("modalities", "sop_classes", "transfer_syntaxes")


def words_tag(tag: str) -> str:
    """The name under which `terms` has the words and sounds of a name."""
    return f"{tag}w"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What instances of one series have in common."""

    digest: str
    study_uid: str
    series_uid: str
    sop_class: str
    transfer_syntax: str
    attributes: Attributes

    @classmethod
    def of(cls, study_uid: str, series_uid: str, sop_class: str, transfer_syntax: str, own: Attributes) -> "Header":
        """From the whole header of an instance."""
        attributes = select(own, Level.SERIES)
        identity = (study_uid, series_uid, sop_class, transfer_syntax, attributes)
        packed = orjson.dumps(identity, default=dict, option=orjson.OPT_SORT_KEYS)
        return cls(
            digest=hashlib.sha256(packed).hexdigest()[:32],
            study_uid=study_uid,
            series_uid=series_uid,
            sop_class=sop_class,
            transfer_syntax=transfer_syntax,
            attributes=attributes,
        )

    @classmethod
    def parse(cls, document: Json) -> "Header":
        """From its document."""
        return cls(
            digest=document["uid"],
            study_uid=document["study"],
            series_uid=document["series"],
            sop_class=document["sop_class"],
            transfer_syntax=document["transfer_syntax"],
            attributes=orjson.loads(document["attributes"]),
        )

    def document(self) -> Json:
        """As it is kept."""
        return {
            "_id": header_id(self.study_uid, self.digest),
            "level": HEADER,
            "uid": self.digest,
            "study": self.study_uid,
            "series": self.series_uid,
            "sop_class": self.sop_class,
            "transfer_syntax": self.transfer_syntax,
            "attributes": _text(self.attributes),
            "terms": terms_of(HEADER, self.attributes, {SOP_CLASS: [self.sop_class]}),
            "place": "",
            "sort": [self.study_uid, self.series_uid],
        }


@dataclass(frozen=True, slots=True)
class Placed:
    """A header and the earliest instance that has it."""

    header: Header
    first: int


def header_id(study_uid: str, digest: str) -> str:
    """Of a header; those of a study lie together."""
    return f"header:{study_uid}-{digest}"


def study_id(study_uid: str) -> str:
    """Of a study."""
    return f"study:{study_uid}"


def series_id(study_uid: str, series_uid: str) -> str:
    """Of a series; those of a study lie together ("-" stands before "." and the digits)."""
    return f"series:{study_uid}-{series_uid}"


def patient_id(key: str) -> str:
    """Of a patient; the key may be of any length."""
    return f"patient:{patient_digest(str(keys.decode(key)))}"


def digested_id(digest: str) -> str:
    """Of the patient whose key has this digest."""
    return f"patient:{digest}"


def mark_of(rows: Iterable[Sequence[Any]]) -> str:
    """What a document was derived from, in short: as long as it is equal there is nothing to derive."""
    return hashlib.sha256(orjson.dumps(sorted(rows))).hexdigest()[:32]


def series_document(study_uid: str, series_uid: str, placed: Sequence[Placed], mark: str) -> Json:
    """A series from its headers, earliest first."""
    attributes = merge(item.header.attributes for item in placed)
    sets = sets_of(placed)
    number = sort_key(attributes, SERIES_NUMBER)
    sort = [series_uid, study_uid]
    return {
        "_id": series_id(study_uid, series_uid),
        "level": Level.SERIES.value,
        "uid": series_uid,
        "study": study_uid,
        "mark": mark,
        "attributes": _text(attributes),
        "sets": sets,
        "terms": terms_of(Level.SERIES, attributes, {}),
        "scans": SCANS[Level.SERIES],
        "place": "",
        "sort": sort,
        "orders": [["uid", sort], ["in", study_uid, keys.ascending(number), sort]],
    }


def study_document(study_uid: str, placed: Sequence[Placed], mark: str) -> Json:
    """A study from its headers, earliest first."""
    attributes = merge(select(item.header.attributes, Level.STUDY) for item in placed)
    sets = sets_of(placed)
    place = keys.newest(sort_key(attributes, STUDY_DATE), sort_key(attributes, STUDY_TIME))
    series = sorted({item.header.series_uid for item in placed})
    orders: list[list[Any]] = [["uid", study_uid], ["newest", place, study_uid]]
    for tag in ORDERED:
        first = sort_key(attributes, tag)
        orders += [[f"+{tag}", keys.ascending(first), study_uid], [f"-{tag}", keys.descending(first), study_uid]]
    if len(match_values(attributes, (STUDY_DATE,))) > 1:
        orders.append(["several", study_uid])  # found by each of its dates, but placed by the first
    return {
        "_id": study_id(study_uid),
        "level": Level.STUDY.value,
        "uid": study_uid,
        "mark": mark,
        "attributes": _text(attributes),
        "sets": sets,
        "listed": series if len(series) <= MOST_LISTED else [],
        "patient": keys.encode(patient_key(attributes, study_uid)),
        "brings": _brings(placed, sets),
        "terms": terms_of(Level.STUDY, attributes, {MODALITIES: sets["modalities"], SOP_CLASSES: sets["sop_classes"]}),
        "scans": SCANS[Level.STUDY],
        "place": place,
        "sort": study_uid,
        "orders": orders,
    }


def patient_document(key: str, attributes: Attributes, sets: Mapping[str, list[str]], mark: str) -> Json:
    """A patient; the key is the encoded one that its studies name."""
    return {
        "_id": patient_id(key),
        "level": Level.PATIENT.value,
        "uid": key,
        "mark": mark,
        "attributes": _text(attributes),
        "sets": dict(sets),
        "terms": terms_of(Level.PATIENT, attributes, {}),
        "scans": SCANS[Level.PATIENT],
        "place": "",
        "sort": key,
        "orders": [["uid", key]],
    }


def _brings(placed: Sequence[Placed], sets: Mapping[str, list[str]]) -> list[list[Any]]:
    """What a study brings to its patient: distinct headers with their earliest place, and the sets."""
    found: list[list[Any]] = []
    known = set()
    for item in placed:
        text = _text(select(item.header.attributes, Level.PATIENT))
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        if digest not in known:
            known.add(digest)
            found.append(["header", digest, item.first, text])
    return found + [[name, value, 0] for name in SETS for value in sets[name]]


def sets_of(placed: Sequence[Placed]) -> dict[str, list[str]]:
    """The distinct modalities, SOP classes and transfer syntaxes, sorted."""
    headers = [item.header for item in placed]
    modalities = {
        str(value) for header in headers for value in header.attributes.get(MODALITY, {}).get("Value", ()) if value
    }
    return {
        "modalities": sorted(modalities),
        "sop_classes": sorted({header.sop_class for header in headers}),
        "transfer_syntaxes": sorted({header.transfer_syntax for header in headers}),
    }


def terms_of(level: str, attributes: Attributes, computed: Mapping[str, list[str]]) -> dict[str, list[keys.Key]]:
    """The values of all indexed attributes by tag, as they stand in keys."""
    found: dict[str, list[keys.Key]] = {}
    for tag in TERMS[level]:
        values: Sequence[keys.Key] = computed[tag] if tag in computed else match_values(attributes, (tag,))
        if values:
            found[tag] = [keys.encode(value) for value in values]
            if tag in NAMES:
                found[words_tag(tag)] = _words(values)
    return found


def _words(names: Sequence[keys.Key]) -> list[keys.Key]:
    """The words of names, and what they sound like behind a "#"."""
    found = dict.fromkeys(word for name in names for word in words(str(name)))
    sounds = dict.fromkeys(f"#{code}" for word in found if (code := sound(word)))
    return [keys.encode(text) for text in (*found, *sounds)]


def _text(attributes: Attributes) -> str:
    # As text, so that no JavaScript ever rounds a number in it.
    return orjson.dumps(attributes, default=dict).decode()
