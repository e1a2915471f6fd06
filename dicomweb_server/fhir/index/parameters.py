"""Search parameters of ImagingStudy, Patient and Endpoint, each with what it means on the index."""

from collections.abc import Mapping

from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AnyOf, Condition, Has
from dicomweb_server.fhir.clauses import NAMED, Clause
from dicomweb_server.fhir.index import dates, strings, tokens
from dicomweb_server.fhir.index.conditions import ACCESSION, INSTANCE_UID, NEVER, SERIES_UID, Context, Indexed, Maker
from dicomweb_server.fhir.index.missing import missing

_PERSON = ("00401101", "00080100")

_MAKERS: Mapping[tuple[str, str], Maker] = {
    **{(kind, "_id"): tokens.own_id(kind) for kind in ("ImagingStudy", "Patient", "Endpoint")},
    ("ImagingStudy", "identifier"): tokens.study_identifier,
    ("ImagingStudy", "patient"): tokens.of_patient,
    ("ImagingStudy", "subject"): tokens.of_patient,
    ("ImagingStudy", "started"): dates.started,
    ("ImagingStudy", "modality"): tokens.modality,
    ("ImagingStudy", "bodysite"): tokens.body_site,
    ("ImagingStudy", "series"): tokens.below(Level.SERIES, SERIES_UID),
    ("ImagingStudy", "instance"): tokens.below(Level.INSTANCE, INSTANCE_UID),
    ("ImagingStudy", "dicom-class"): tokens.sop_class,
    ("ImagingStudy", "endpoint"): tokens.of_endpoint,
    ("ImagingStudy", "performer"): tokens.identified("00081052", "SH", *_PERSON, below=True),
    ("ImagingStudy", "referrer"): tokens.identified("00080096", "SH", *_PERSON),
    ("ImagingStudy", "interpreter"): tokens.identified("00081062", "SH", *_PERSON),
    ("ImagingStudy", "reason"): tokens.reason,
    ("ImagingStudy", "status"): tokens.assumed("available"),
    ("ImagingStudy", "basedon"): tokens.identified(ACCESSION, "SH"),
    ("ImagingStudy", "encounter"): tokens.identified("00380010", "LO"),
    ("Patient", "identifier"): tokens.patient_identifier,
    ("Patient", "name"): strings.patient_name,
    ("Patient", "family"): strings.name_part,
    ("Patient", "given"): strings.name_part,
    ("Patient", "phonetic"): strings.phonetic,
    ("Patient", "birthdate"): dates.birth_date,
    ("Patient", "gender"): tokens.gender,
    ("Patient", "active"): tokens.assumed("true"),
    ("Patient", "deceased"): tokens.assumed("false"),
    ("Patient", "telecom"): tokens.phone,
    ("Patient", "phone"): tokens.phone,
    ("Patient", "address"): strings.somewhere("00101040", "00102150", "00102152"),
    ("Patient", "address-country"): strings.somewhere("00102150"),
    ("Patient", "address-state"): strings.somewhere("00102152"),
    ("Endpoint", "identifier"): tokens.endpoint_identifier,
    **{("Endpoint", name): tokens.constant for name in ("status", "connection-type", "payload-type", "name")},
}


def indexed(kind: str, clause: Clause, context: Context) -> Indexed:
    """The condition of a clause without chain; of one with `:not` that of its opposite."""
    name = clause.parameter.name
    if clause.modifier == "missing":
        return missing(kind, name, wanted=bool(clause.values[0]))
    if name == "_lastUpdated":
        return Indexed(dates.changed(clause))
    make = _MAKERS.get((kind, name))
    if make is None:
        return Indexed(NEVER)
    made = [make(clause, value, context) for value in clause.values]
    return Indexed(AnyOf(tuple(one.condition for one in made)), all(one.exact for one in made))


def named(clause: Clause) -> Indexed:
    """The condition of a chain to the name of a person who is no resource here."""
    tag = NAMED[clause.parameter.name]
    _, inner = clause.chain or ("", clause)
    condition: Condition = AnyOf(
        tuple(strings.name(tag, str(value), inner.modifier).condition for value in inner.values)
    )
    return Indexed(Has(Level.SERIES, (condition,)) if tag == NAMED["performer"] else condition)
