"""What can be searched for, in which elements, and what may be included: the one list that the search, the keys of
stored documents and the CapabilityStatement are made from."""

from collections.abc import Mapping
from dataclasses import dataclass

from dicomweb_server.dicom.attributes import LAST_CHANGED
from dicomweb_server.fhir.matching import Kind

VIEWS = ("ImagingStudy", "Patient", "Endpoint")
"""The types that the archive answers from its index; clients may add to them."""

TYPES = ("ImagingStudy", "Patient", "Endpoint", "Organization")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A search parameter. paths: the elements it looks at. targets: the types a reference may name. single: an element
    of one value, of which the archive's own stands when a client gives another."""

    name: str
    kind: Kind
    paths: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    single: bool = False


def _string(name: str, *paths: str) -> Parameter:
    return Parameter(name, Kind.STRING, paths)


def _token(name: str, *paths: str, single: bool = False) -> Parameter:
    return Parameter(name, Kind.TOKEN, paths, single=single)


def _reference(name: str, path: str, *targets: str, single: bool = False) -> Parameter:
    return Parameter(name, Kind.REFERENCE, (path,), targets, single)


def _date(name: str, *paths: str) -> Parameter:
    return Parameter(name, Kind.DATE, paths, single=True)


_EVERY = (_token("_id", "id"), _date("_lastUpdated", "meta.lastUpdated"), _token("_tag", "meta.tag"))
_ADDRESS = (
    _string("address", "address"),
    _string("address-city", "address.city"),
    _string("address-country", "address.country"),
    _string("address-postalcode", "address.postalCode"),
    _string("address-state", "address.state"),
    _token("address-use", "address.use"),
)

_TABLE: Mapping[str, tuple[Parameter, ...]] = {
    "ImagingStudy": (
        _token("identifier", "identifier"),
        _reference("patient", "subject", "Patient", single=True),
        _reference("subject", "subject", "Patient", single=True),
        _date("started", "started"),
        _token("modality", "modality"),
        _token("bodysite", "series.bodySite"),
        _token("series", "series.uid"),
        _token("instance", "series.instance.uid"),
        Parameter("dicom-class", Kind.URI, ("series.instance.sopClass.code",)),
        _reference("endpoint", "endpoint", "Endpoint"),
        _reference("performer", "series.performer.actor", "Practitioner", "Organization", "Patient"),
        _reference("referrer", "referrer", "Practitioner", "PractitionerRole", single=True),
        _reference("interpreter", "interpreter", "Practitioner", "PractitionerRole"),
        _token("reason", "reasonCode"),
        _token("status", "status", single=True),
        _reference("basedon", "basedOn", "ServiceRequest", "CarePlan", "Appointment"),
        _reference("encounter", "encounter", "Encounter", single=True),
    ),
    "Patient": (
        _token("identifier", "identifier"),
        _string("name", "name"),
        _string("family", "name.family"),
        _string("given", "name.given"),
        _string("phonetic", "name"),
        *_ADDRESS,
        _date("birthdate", "birthDate"),
        _token("gender", "gender", single=True),
        _token("telecom", "telecom"),
        _token("phone", "telecom"),
        _token("email", "telecom"),
        _token("active", "active", single=True),
        _token("deceased", "deceasedBoolean", single=True),
        _date("death-date", "deceasedDateTime"),
        _token("language", "communication.language"),
        _reference("organization", "managingOrganization", "Organization", single=True),
        _reference("general-practitioner", "generalPractitioner", "Practitioner", "Organization", "PractitionerRole"),
        _reference("link", "link.other", "Patient", "RelatedPerson"),
    ),
    "Endpoint": (
        _token("identifier", "identifier"),
        _token("status", "status", single=True),
        _token("connection-type", "connectionType", single=True),
        _token("payload-type", "payloadType", single=True),
        _string("name", "name"),
        _reference("organization", "managingOrganization", "Organization", single=True),
    ),
    "Organization": (
        _token("identifier", "identifier"),
        _string("name", "name", "alias"),
        _string("phonetic", "name"),
        *_ADDRESS,
        _token("active", "active", single=True),
        _token("type", "type"),
        _reference("partof", "partOf", "Organization", single=True),
        _reference("endpoint", "endpoint", "Endpoint"),
    ),
}

PARAMETERS: Mapping[str, Mapping[str, Parameter]] = {
    kind: {one.name: one for one in (*_EVERY, *own)} for kind, own in _TABLE.items()
}

SORTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ImagingStudy": {
        "_id": ("0020000D",),
        "_lastUpdated": (LAST_CHANGED,),
        "started": ("00080020", "00080030"),
        "identifier": ("00080050",),
        "patient": ("00100020",),
        "subject": ("00100020",),
        "referrer": ("00080090",),
    },
    "Patient": {
        "_lastUpdated": (LAST_CHANGED,),
        "name": ("00100010",),
        "family": ("00100010",),
        "given": ("00100010",),
        "birthdate": ("00100030",),
        "gender": ("00100040",),
        "identifier": ("00100020",),
    },
    "Endpoint": {"_id": ("0020000D",), "_lastUpdated": (LAST_CHANGED,), "identifier": ("0020000D",)},
    "Organization": {name: () for name in ("_id", "_lastUpdated", "name", "identifier")},
}
"""What a search can be sorted by, and the attributes of the index that give that order."""


def includes(kind: str) -> Mapping[str, Parameter]:
    """The parameters that `_include` can follow: references to a type that is here."""
    return {
        name: parameter
        for name, parameter in PARAMETERS[kind].items()
        if parameter.kind is Kind.REFERENCE and set(parameter.targets) & set(TYPES)
    }
