"""From clauses to conditions on the index of the archive: what a search means for ImagingStudy, Patient and Endpoint
as the archive shows them. Pure.

A condition may hold for more than the clause does (`exact` is False then): what it finds is compared again as
resources. It never holds for less.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from dicomweb_server.dicom.attributes import LAST_CHANGED, PATIENT_DIGEST
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import (
    AllOf,
    AnyOf,
    Condition,
    Empty,
    Equal,
    Has,
    Not,
    Pattern,
    Range,
    Term,
    Wildcard,
)
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.body_sites import words_of
from dicomweb_server.fhir.clauses import NAMED, Clause, Value, holds
from dicomweb_server.fhir.mapping import endpoint
from dicomweb_server.fhir.matching import DateValue, Span, TokenValue
from dicomweb_server.fhir.values import DCM, DICOM_UID, SNOMED

NEVER, ALWAYS = AnyOf(), AllOf()

STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
ACCESSION, STUDY_ID, PATIENT_ID, ISSUER = "00080050", "00200010", "00100020", "00100021"
PATIENT_NAME, BIRTH_DATE, SEX = "00100010", "00100030", "00100040"
STUDY_DATE, STUDY_TIME = "00080020", "00080030"
_CODE = "00080100"
_QUALIFIER = ("00100024", "00400032")
_SEX = {"male": "M", "female": "F", "other": "O"}


@dataclass(frozen=True, slots=True)
class Indexed:
    """A condition that holds wherever the clause does; `exact`: and nowhere else."""

    condition: Condition
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What conditions depend on besides the clause: the address of the FHIR root, from ids of patients to digests, and
    the zone in which times of files are."""

    base: str
    digest_of: Callable[[str], str | None]
    zone: tzinfo | None = None


def indexed(kind: str, clause: Clause, context: Context) -> Indexed:
    """The condition of a clause without chain; of one with `:not` that of its opposite."""
    name = clause.parameter.name
    if clause.modifier == "missing":
        return _missing(kind, name, wanted=bool(clause.values[0]))
    if name == "_lastUpdated":
        return Indexed(_changed(clause))
    make = _MAKERS.get((kind, name))
    if make is None:
        return Indexed(NEVER)
    made = [make(clause, value, context) for value in clause.values]
    return Indexed(AnyOf(tuple(one.condition for one in made)), all(one.exact for one in made))


def named(clause: Clause) -> Indexed:
    """The condition of a chain to the name of a person who is no resource here."""
    tag = NAMED[clause.parameter.name]
    _, inner = clause.chain or ("", clause)
    condition: Condition = AnyOf(tuple(_name(tag, str(value), inner.modifier).condition for value in inner.values))
    return Indexed(Has(Level.SERIES, (condition,)) if tag == NAMED["performer"] else condition)


def simplified(condition: Condition) -> Condition:
    """The same condition, as a term where it can be one: terms lead to what they match."""
    if not isinstance(condition, AnyOf):
        return condition
    parts = [simplified(part) for part in condition.parts]
    terms = [part for part in parts if isinstance(part, Term)]
    if len(terms) == len(parts) and len({(term.path, term.vr) for term in terms}) == 1:
        return Term(terms[0].path, terms[0].vr, tuple(pattern for term in terms for pattern in term.any_of))
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def ids_term(kind: str, ids: list[str], context: Context) -> Term:
    """Those with these ids; unknown ones match nothing."""
    if kind == "Patient":
        digests = (digest for one in ids if (digest := context.digest_of(one)) is not None)
        return Term((PATIENT_DIGEST,), "UN", tuple(Equal(digest) for digest in digests))
    return Term((STUDY_UID,), "UI", tuple(Equal(one) for one in ids))


def patients_term(ids: list[str], context: Context) -> Term:
    """Studies of the patients with these ids."""
    return ids_term("Patient", ids, context)


# Terms


def _equal(tag: str, vr: str, *values: str) -> Term:
    return Term((tag,), vr, tuple(Equal(value[: matching.MAX_VALUE]) for value in values))


def _empty(tag: str, vr: str) -> Term:
    return Term((tag,), vr, (Empty(),))


def _present(tag: str, vr: str) -> Condition:
    return Not(_empty(tag, vr))


def _nested(value: str, *path: str) -> Term:
    return Term(path, "SH", (Equal(value),))


def _uid(code: str | None) -> str:
    return (code or "").removeprefix("urn:oid:")


# Missing

_EMPTY: Mapping[tuple[str, str], Condition] = {
    ("ImagingStudy", "started"): _empty(STUDY_DATE, "DA"),
    ("ImagingStudy", "modality"): Term(("00080061",), "CS", (Empty(),)),
    ("ImagingStudy", "bodysite"): Not(Has(Level.SERIES, (_present("00180015", "CS"),))),
    ("ImagingStudy", "referrer"): _empty("00080090", "PN"),
    ("ImagingStudy", "interpreter"): _empty("00081060", "PN"),
    ("ImagingStudy", "basedon"): _empty(ACCESSION, "SH"),
    ("ImagingStudy", "encounter"): _empty("00380010", "LO"),
    ("Patient", "identifier"): _empty(PATIENT_ID, "LO"),
    ("Patient", "birthdate"): _empty(BIRTH_DATE, "DA"),
    **dict.fromkeys(
        [("Patient", name) for name in ("name", "phonetic")],
        AllOf((_empty(PATIENT_NAME, "PN"), _empty("00101001", "PN"), _empty("00101005", "PN"))),
    ),
    ("Patient", "telecom"): _empty("00102154", "SH"),
    ("Patient", "phone"): _empty("00102154", "SH"),
}
# A date that is none is there, but no date of a resource.
_UNSURE = frozenset({"started", "birthdate", "name", "phonetic", "telecom", "phone"})
_ALWAYS_THERE = {
    "ImagingStudy": frozenset(
        (
            *("_id", "_lastUpdated", "identifier", "patient", "subject", "series", "instance", "dicom-class"),
            *("endpoint", "status", "modality"),
        )
    ),
    "Patient": frozenset(("_id", "_lastUpdated", "active", "gender")),
    "Endpoint": frozenset(("_id", "_lastUpdated", "identifier", "status", "connection-type", "payload-type", "name")),
}
_COMPARED = frozenset(
    {
        ("ImagingStudy", "performer"),
        ("ImagingStudy", "reason"),
        *(("Patient", name) for name in ("family", "given", "address", "address-country", "address-state")),
    }
)


def _missing(kind: str, name: str, *, wanted: bool) -> Indexed:
    if name in _ALWAYS_THERE[kind]:
        return Indexed(NEVER if wanted else ALWAYS)
    if (kind, name) in _COMPARED:
        return Indexed(ALWAYS, exact=False)
    empty = _EMPTY.get((kind, name))
    if empty is None:
        return Indexed(ALWAYS if wanted else NEVER)
    if name in _UNSURE:
        return Indexed(ALWAYS if wanted else Not(empty), exact=False)
    return Indexed(empty if wanted else Not(empty))


# Dates


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


def _changed(clause: Clause) -> Condition:
    parts = [
        _dated((LAST_CHANGED,), "UN", value, _clock, timedelta(microseconds=1))
        for value in clause.values
        if isinstance(value, DateValue)
    ]
    return AnyOf(tuple(parts))


def _birth_date(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, DateValue):
        return Indexed(NEVER)
    return Indexed(_dated((BIRTH_DATE,), "DA", value, _day, timedelta(days=1)), exact=not value.timed)


def _started(_clause: Clause, value: Value, context: Context) -> Indexed:
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


# Strings

_WILD = re.compile(r"[*?]")


def _name(tag: str, text: str, modifier: str) -> Indexed:
    """A name of which a word begins so."""
    plain = matching.folded(text)
    words = plain.split(" ") if plain else []
    if not words:
        return Indexed(NEVER)
    if modifier == "contains":
        return Indexed(_wild(tag, f"*{_escaped(plain)}*"), exact=False) if len(words) == 1 else _each_word(tag, words)
    found = _each_word(tag, words)
    exact = len(words) == 1 and modifier == "" and not _WILD.search(plain) and "^" not in plain and "=" not in plain
    return Indexed(found.condition, exact)


def _each_word(tag: str, words: list[str]) -> Indexed:
    parts = []
    for word in words[:16]:
        begins = _escaped(word)
        parts.append(Term((tag,), "PN", tuple(Wildcard(f"{start}{begins}*") for start in ("", "*^", "* "))))
    contained = [_wild(tag, f"*{_escaped(word)}*") for word in words[:16]]
    return Indexed(parts[0] if len(words) == 1 else AllOf(tuple(contained)), exact=False)


def _wild(tag: str, pattern: str) -> Term:
    return Term((tag,), "PN", (Wildcard(pattern[: matching.MAX_VALUE]),))


def _escaped(text: str) -> str:
    return _WILD.sub("?", text)


def _patient_name(clause: Clause, value: Value, _context: Context) -> Indexed:
    return _name(PATIENT_NAME, str(value), clause.modifier)


def _name_part(clause: Clause, value: Value, _context: Context) -> Indexed:
    found = _name(PATIENT_NAME, str(value), clause.modifier)
    return Indexed(found.condition, exact=False)


def _phonetic(_clause: Clause, value: Value, _context: Context) -> Indexed:
    term = parse_term((PATIENT_NAME,), _WILD.sub(" ", str(value)), fuzzy=True)
    return Indexed(term) if term is not None else Indexed(NEVER)


def _somewhere(*tags: str) -> Callable[[Clause, Value, Context], Indexed]:
    """Attributes that the index does not fold: all that have one are compared."""
    any_of_them = AnyOf(tuple(_present(tag, "LO") for tag in tags))
    return lambda _clause, _value, _context: Indexed(any_of_them, exact=False)


# Tokens


def _assumed(code: str) -> Callable[[Clause, Value, Context], Indexed]:
    """What the archive says of all alike."""

    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        return Indexed(ALWAYS if isinstance(value, TokenValue) and value.matches((None, code)) else NEVER)

    return make


def _gender(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue) or value.system:
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(ALWAYS)
    if value.code in _SEX:
        return Indexed(_equal(SEX, "CS", _SEX[value.code], _SEX[value.code].lower()))
    known = [form for letter in _SEX.values() for form in (letter, letter.lower())]
    return Indexed(Not(_equal(SEX, "CS", *known)) if value.code == "unknown" else NEVER)


def _issued(value: TokenValue) -> Indexed:
    """A Patient ID, of an issuer where the value has a system."""
    parts: list[Condition] = [_equal(PATIENT_ID, "LO", value.code) if value.code else _present(PATIENT_ID, "LO")]
    if value.system:
        names = (value.system, _uid(value.system), value.system.removeprefix("urn:uuid:"))
        parts.append(
            AnyOf((_equal(ISSUER, "LO", *names), Term(_QUALIFIER, "UT", tuple(Equal(name) for name in names))))
        )
    return Indexed(AllOf(tuple(parts)), exact=value.system is None)


def _patient_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    return _issued(value) if isinstance(value, TokenValue) else Indexed(NEVER)


def _phone(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue) or (value.system not in (None, "phone")):
        return Indexed(NEVER)
    return Indexed(_present("00102154", "SH"), exact=False)


def _study_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue):
        return Indexed(NEVER)
    if value.system == DICOM_UID:
        return Indexed(_equal(STUDY_UID, "UI", _uid(value.code)) if value.code else ALWAYS)
    if value.code is None:
        return Indexed(_present(ACCESSION, "SH"), exact=False)
    if value.system:
        return Indexed(_equal(ACCESSION, "SH", value.code), exact=False)
    parts = (_equal(ACCESSION, "SH", value.code), _equal(STUDY_ID, "SH", value.code))
    if value.system == "":
        return Indexed(AnyOf(parts), exact=False)
    return Indexed(AnyOf((_equal(STUDY_UID, "UI", _uid(value.code)), *parts)))


def _endpoint_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue) or value.system not in (None, DICOM_UID):
        return Indexed(NEVER)
    return Indexed(_equal(STUDY_UID, "UI", _uid(value.code)) if value.code else ALWAYS)


def _modality(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue) or value.system not in (None, DCM):
        return Indexed(NEVER)
    return Indexed(_equal("00080061", "CS", value.code) if value.code else _present("00080061", "CS"))


def _body_site(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue) or value.system not in (None, "", SNOMED):
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(Has(Level.SERIES, (_present("00180015", "CS"),)))
    words = [] if value.system == "" else list(words_of(value.code))
    if value.system != SNOMED:
        words += [value.code, value.code.upper()]
    return Indexed(Has(Level.SERIES, (_equal("00180015", "CS", *words),)))


def _below(level: Level, tag: str) -> Callable[[Clause, Value, Context], Indexed]:
    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        if not isinstance(value, TokenValue) or value.system not in (None, "", DICOM_UID):
            return Indexed(NEVER)
        return Indexed(Has(level, (_equal(tag, "UI", _uid(value.code)),)) if value.code else ALWAYS)

    return make


def _sop_class(_clause: Clause, value: Value, _context: Context) -> Indexed:
    return Indexed(_equal("00080062", "UI", _uid(str(value))))


def _reason(_clause: Clause, value: Value, _context: Context) -> Indexed:
    if not isinstance(value, TokenValue):
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(ALWAYS, exact=False)
    code = value.code
    texts = (_equal("00321066", "UT", code),) if value.system in (None, "") else ()
    meanings = ("00080100", "00080104") if value.system is None else ("00080100",)
    parts: list[Condition] = [*texts]
    parts += [_nested(code, tag, inner) for tag in ("00401012", "00321067") for inner in meanings]
    below: list[Condition] = [_nested(code, "00400275", "0040100A", inner) for inner in meanings]
    below.append(Term(("00400275", "00401002"), "LO", (Equal(code),)))
    return Indexed(AnyOf((*parts, Has(Level.SERIES, (AnyOf(tuple(below)),)))), exact=value.system is None)


def _id(kind: str) -> Callable[[Clause, Value, Context], Indexed]:
    def make(_clause: Clause, value: Value, context: Context) -> Indexed:
        if not isinstance(value, TokenValue) or value.system or value.code is None:
            return Indexed(NEVER)
        return Indexed(ids_term(kind, [value.code], context))

    return make


# References


def _of_patient(clause: Clause, value: Value, context: Context) -> Indexed:
    if isinstance(value, TokenValue):
        return _issued(value)
    reference = matching.local_reference(str(value), context.base, ("Patient",))
    if reference is None or not reference.startswith("Patient/"):
        return Indexed(NEVER)
    return Indexed(patients_term([reference.partition("/")[2]], context))


def _of_endpoint(clause: Clause, value: Value, context: Context) -> Indexed:
    if isinstance(value, TokenValue):
        return Indexed(NEVER)
    reference = matching.local_reference(str(value), context.base, ("Endpoint",))
    if reference is None or not reference.startswith("Endpoint/"):
        return Indexed(NEVER)
    return Indexed(_equal(STUDY_UID, "UI", reference.partition("/")[2]))


def _identified(tag: str, vr: str, *path: str, below: bool = False) -> Callable[[Clause, Value, Context], Indexed]:
    """A reference that the archive has by identifier only, found in an attribute."""

    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        if not isinstance(value, TokenValue):
            return Indexed(NEVER)
        if value.code is None:
            return Indexed(ALWAYS, exact=False)
        term: Condition = Term((tag, *path), vr, (Equal(value.code),))
        return Indexed(Has(Level.SERIES, (term,)) if below else term, exact=value.system is None)

    return make


def _constant(clause: Clause, value: Value, context: Context) -> Indexed:
    """What is the same in every Endpoint of the archive."""
    one = Clause(parameter=clause.parameter, modifier="" if clause.negated else clause.modifier, values=(value,))
    return Indexed(ALWAYS if holds(one, endpoint("1.2", context.base), context.base) else NEVER)


_Maker = Callable[[Clause, Value, Context], Indexed]
_PERSON = ("00401101", _CODE)

_MAKERS: Mapping[tuple[str, str], _Maker] = {
    **{(kind, "_id"): _id(kind) for kind in ("ImagingStudy", "Patient", "Endpoint")},
    ("ImagingStudy", "identifier"): _study_identifier,
    ("ImagingStudy", "patient"): _of_patient,
    ("ImagingStudy", "subject"): _of_patient,
    ("ImagingStudy", "started"): _started,
    ("ImagingStudy", "modality"): _modality,
    ("ImagingStudy", "bodysite"): _body_site,
    ("ImagingStudy", "series"): _below(Level.SERIES, SERIES_UID),
    ("ImagingStudy", "instance"): _below(Level.INSTANCE, INSTANCE_UID),
    ("ImagingStudy", "dicom-class"): _sop_class,
    ("ImagingStudy", "endpoint"): _of_endpoint,
    ("ImagingStudy", "performer"): _identified("00081052", "SH", *_PERSON, below=True),
    ("ImagingStudy", "referrer"): _identified("00080096", "SH", *_PERSON),
    ("ImagingStudy", "interpreter"): _identified("00081062", "SH", *_PERSON),
    ("ImagingStudy", "reason"): _reason,
    ("ImagingStudy", "status"): _assumed("available"),
    ("ImagingStudy", "basedon"): _identified(ACCESSION, "SH"),
    ("ImagingStudy", "encounter"): _identified("00380010", "LO"),
    ("Patient", "identifier"): _patient_identifier,
    ("Patient", "name"): _patient_name,
    ("Patient", "family"): _name_part,
    ("Patient", "given"): _name_part,
    ("Patient", "phonetic"): _phonetic,
    ("Patient", "birthdate"): _birth_date,
    ("Patient", "gender"): _gender,
    ("Patient", "active"): _assumed("true"),
    ("Patient", "deceased"): _assumed("false"),
    ("Patient", "telecom"): _phone,
    ("Patient", "phone"): _phone,
    ("Patient", "address"): _somewhere("00101040", "00102150", "00102152"),
    ("Patient", "address-country"): _somewhere("00102150"),
    ("Patient", "address-state"): _somewhere("00102152"),
    ("Endpoint", "identifier"): _endpoint_identifier,
    **{("Endpoint", name): _constant for name in ("status", "connection-type", "payload-type", "name")},
}
