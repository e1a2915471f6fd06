"""From DICOM values to FHIR data types. Pure. A value that FHIR has no valid form for is left out, never made up."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from dicomweb_server.dicom.attributes import Attributes
from dicomweb_server.dicom.uids import is_uid

Json = dict[str, Any]

DCM = "http://dicom.nema.org/resources/ontology/DCM"
SNOMED = "http://snomed.info/sct"
URI = "urn:ietf:rfc:3986"
DICOM_UID = "urn:dicom:uid"
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"

# PS3.16 table 8-1, and what FHIR calls these systems; SRT and SNM3 codes are not SNOMED CT codes.
_SYSTEMS = {
    "DCM": DCM,
    "SCT": SNOMED,
    "LN": "http://loinc.org",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://radlex.org",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I10CM": "http://hl7.org/fhir/sid/icd-10-cm",
    "ICD10": "http://hl7.org/fhir/sid/icd-10",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
    "CPT4": "http://www.ama-assn.org/go/cpt",
    "HPC": "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets",
    "FMA": "http://purl.org/sig/ont/fma",
    "UMLS": "http://www.nlm.nih.gov/research/umls",
    "SRT": "urn:oid:2.16.840.1.113883.6.96.1",
    "SNM3": "urn:oid:2.16.840.1.113883.6.51",
}

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})", re.ASCII)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s]+", re.ASCII)


def texts(attributes: Attributes, tag: str) -> list[str]:
    """The values of an attribute as text, trimmed, without empty ones."""
    found = []
    for value in attributes.get(tag, {}).get("Value", ()):
        text = " ".join("" if value is None else str(value).replace("\0", " ").split())
        if text and not isinstance(value, Mapping):
            found.append(text)
    return found


def text(attributes: Attributes, tag: str) -> str:
    """The first value as text; "" without."""
    values = attributes.get(tag, {}).get("Value")
    if not values:
        return ""
    if isinstance(values[0], str) and values[0].isalnum():
        return values[0]
    return next(iter(texts(attributes, tag)), "")


def items(attributes: Attributes, tag: str) -> Iterator[Attributes]:
    """The items of a sequence."""
    for item in attributes.get(tag, {}).get("Value", ()):
        if isinstance(item, Mapping):
            yield item


def whole_number(attributes: Attributes, tag: str) -> int | None:
    """An unsigned integer, as far as FHIR can hold it."""
    values = attributes.get(tag, {}).get("Value")
    if not values:
        return None
    if type(values[0]) is int:
        return values[0] if 0 <= values[0] < 2**31 else None
    try:
        number = int(float(text(attributes, tag) or "x"))
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None


def filled(**fields: Any) -> Json:
    """The fields that have something in them; FHIR knows no empty ones. A trailing underscore is left out of a name."""
    return {name.rstrip("_"): value for name, value in fields.items() if value not in (None, "", [], {})}


# Dates


def date(attributes: Attributes, tag: str) -> str | None:
    """A `date`; None where the value is no day of the calendar."""
    found = _DATE.fullmatch(text(attributes, tag))
    if not found:
        return None
    try:
        return datetime(int(found[1]), int(found[2]), int(found[3])).strftime("%Y-%m-%d").zfill(10)
    except ValueError:
        return None


def moment(attributes: Attributes, date_tag: str, time_tag: str, zone: tzinfo | None) -> str | None:
    """A `dateTime`. FHIR wants an offset with every time: the file's own (0008,0201) or that of the zone; without
    either only the day is certain enough to be said."""
    day = date(attributes, date_tag)
    clock = _TIME.fullmatch(text(attributes, time_tag))
    if day is None or clock is None:
        return day
    hour, minute, second = (int(part or 0) for part in clock.groups()[:3])
    if hour > 23 or minute > 59 or second > 60:
        return day
    try:
        local = datetime.fromisoformat(f"{day}T{hour:02}:{minute:02}:{min(second, 59):02}")
        shift = _offset(attributes)
        if shift is None and zone is not None:
            shift = local.replace(tzinfo=zone).utcoffset()
    except (ValueError, OverflowError):
        return day
    if shift is None:
        return day
    minutes = int(shift.total_seconds()) // 60
    sign = "-" if minutes < 0 else "+"
    fraction = f".{clock[4]}" if clock[4] else ""
    return f"{local.isoformat()}{fraction}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def _offset(attributes: Attributes) -> timedelta | None:
    found = _OFFSET.fullmatch(text(attributes, "00080201"))
    if not found or int(found[2]) > 14 or int(found[3]) > 59:
        return None
    minutes = int(found[2]) * 60 + int(found[3])
    return timedelta(minutes=-minutes if found[1] == "-" else minutes)


def instant(moment_: datetime) -> str:
    """An `instant`, to the millisecond."""
    return moment_.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Codes and identifiers


def concepts(attributes: Attributes, tag: str) -> list[Json]:
    """The codes of a sequence as `CodeableConcept`."""
    found = []
    for item in items(attributes, tag):
        coded = coding(item)
        if coded:
            found.append(filled(coding=[coded], text=text(item, "00080104")))
    return found


def coding(item: Attributes) -> Json:
    """A code sequence item (PS3.3 table 8.8-1) as `Coding`; {} without a code."""
    value = text(item, "00080100") or text(item, "00080119") or text(item, "00080120")
    meaning = text(item, "00080104")
    if not value:
        return filled(display=meaning)
    designator = text(item, "00080102")
    version = text(item, "00080103")
    uid = text(item, "0008010C")
    system = _SYSTEMS.get(designator) or (f"urn:oid:{uid}" if is_uid(uid) else None)
    if system is None and _ABSOLUTE.fullmatch(designator):
        system = designator
    return filled(system=system, version=version if system else None, code=value, display=meaning)


def uri_of(issuer: str, kind: str = "") -> str | None:
    """The system of an identifier from the entity that issues it; None where that is only a name. kind: Universal
    Entity ID Type (0040,0033)."""
    if is_uid(issuer) and "." in issuer and kind in ("", "ISO"):
        return f"urn:oid:{issuer}"
    if kind == "UUID":
        return f"urn:uuid:{issuer.lower()}"
    if kind in ("", "URI") and _ABSOLUTE.fullmatch(issuer):
        return issuer
    return None


def issued(value: str, *, issuer: Attributes | None = None, name: str = "", use: str = "", type_: str = "") -> Json:
    """An `Identifier`. issuer: an item with a local namespace and a universal entity (PS3.3 10.17); name: the issuer as
    plain text."""
    local = text(issuer or {}, "00400031")
    universal, kind = text(issuer or {}, "00400032"), text(issuer or {}, "00400033")
    system = uri_of(universal, kind) or uri_of(name)
    return filled(
        use=use,
        type={"coding": [{"system": IDENTIFIER_TYPE, "code": type_}]} if type_ else None,
        system=system,
        value=value,
        assigner=filled(display=local or ("" if system else name)),
    )


def uid_identifier(uid: str) -> Json:
    """A DICOM UID as `Identifier`."""
    return {"use": "official", "system": DICOM_UID, "value": f"urn:oid:{uid}"}


# Names

_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
_GROUPS = (("Alphabetic", "ABC"), ("Ideographic", "IDE"), ("Phonetic", "SYL"))


def human_names(attributes: Attributes, tag: str, use: str) -> list[Json]:
    """Names of a person (PS3.5 6.2.1): one `HumanName` for each component group."""
    found = []
    for value in attributes.get(tag, {}).get("Value", ()):
        groups = _groups(value)
        several = sum(1 for group in groups if group) > 1
        for (_, code), group in zip(_GROUPS, groups, strict=True):
            name = _human_name(group)
            if name:
                extension = [{"url": _REPRESENTATION, "valueCode": code}] if several else None
                found.append(filled(extension=extension, use=use, **name))
    return found


def _groups(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(value.get(name) or "").strip(" \0") for name, _ in _GROUPS]
    groups = [group.strip(" \0") for group in str(value or "").split("=")]
    return [*groups, "", "", ""][:3]


def _human_name(group: str) -> Json:
    parts = [" ".join(part.split()) for part in group.split("^")]
    family, given, middle, prefix, suffix = (parts + [""] * 5)[:5]
    shown = " ".join(part for part in (prefix, given, middle, family) if part)
    shown = f"{shown}, {suffix}" if shown and suffix else shown or suffix
    if not shown:
        return {}
    return filled(
        text=shown,
        family=family,
        given=[part for part in (given, middle) if part],
        prefix=[prefix] if prefix else None,
        suffix=[suffix] if suffix else None,
    )


def person_names(attributes: Attributes, tag: str) -> list[str]:
    """The names as they are read aloud, one per value."""
    found = []
    for value in attributes.get(tag, {}).get("Value", ()):
        names = [name["text"] for group in _groups(value) if (name := _human_name(group))]
        if names:
            found.append(names[0])
    return found
