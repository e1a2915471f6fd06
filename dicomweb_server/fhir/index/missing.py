"""`:missing`: whether a resource that stands for the index has something to search for."""

from collections.abc import Mapping

from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AllOf, Condition, Empty, Has, Not, Term
from dicomweb_server.fhir.index.conditions import (
    ACCESSION,
    ALWAYS,
    BIRTH_DATE,
    NEVER,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_DATE,
    Indexed,
    empty,
    present,
)

_EMPTY: Mapping[tuple[str, str], Condition] = {
    ("ImagingStudy", "started"): empty(STUDY_DATE, "DA"),
    ("ImagingStudy", "modality"): Term(("00080061",), "CS", (Empty(),)),
    ("ImagingStudy", "bodysite"): Not(Has(Level.SERIES, (present("00180015", "CS"),))),
    ("ImagingStudy", "referrer"): empty("00080090", "PN"),
    ("ImagingStudy", "interpreter"): empty("00081060", "PN"),
    ("ImagingStudy", "basedon"): empty(ACCESSION, "SH"),
    ("ImagingStudy", "encounter"): empty("00380010", "LO"),
    ("Patient", "identifier"): empty(PATIENT_ID, "LO"),
    ("Patient", "birthdate"): empty(BIRTH_DATE, "DA"),
    **dict.fromkeys(
        [("Patient", name) for name in ("name", "phonetic")],
        AllOf((empty(PATIENT_NAME, "PN"), empty("00101001", "PN"), empty("00101005", "PN"))),
    ),
    ("Patient", "telecom"): empty("00102154", "SH"),
    ("Patient", "phone"): empty("00102154", "SH"),
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


def missing(kind: str, name: str, *, wanted: bool) -> Indexed:
    """The condition of `:missing=true`, where it is wanted, or of `:missing=false`."""
    if name in _ALWAYS_THERE[kind]:
        return Indexed(NEVER if wanted else ALWAYS)
    if (kind, name) in _COMPARED:
        return Indexed(ALWAYS, exact=False)
    none = _EMPTY.get((kind, name))
    if none is None:
        return Indexed(ALWAYS if wanted else NEVER)
    if name in _UNSURE:
        return Indexed(ALWAYS if wanted else Not(none), exact=False)
    return Indexed(none if wanted else Not(none))
