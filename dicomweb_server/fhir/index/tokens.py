"""Parameters of tokens and references: codes, identifiers, and what a study points to."""

from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AllOf, AnyOf, Condition, Equal, Has, Not, Term
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.body_sites import words_of
from dicomweb_server.fhir.clauses import Clause, Value, holds
from dicomweb_server.fhir.index.conditions import (
    ACCESSION,
    ALWAYS,
    ISSUER,
    NEVER,
    PATIENT_ID,
    SEX,
    STUDY_ID,
    STUDY_UID,
    Context,
    Indexed,
    Maker,
    equal,
    ids_term,
    nested,
    present,
    uid,
)
from dicomweb_server.fhir.mapping import endpoint
from dicomweb_server.fhir.matching import TokenValue
from dicomweb_server.fhir.values import DCM, DICOM_UID, SNOMED

_QUALIFIER = ("00100024", "00400032")
_SEX = {"male": "M", "female": "F", "other": "O"}


def assumed(code: str) -> Maker:
    """What the archive says of all alike."""

    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        return Indexed(ALWAYS if isinstance(value, TokenValue) and value.matches((None, code)) else NEVER)

    return make


def gender(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """The sex of the patient."""
    if not isinstance(value, TokenValue) or value.system:
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(ALWAYS)
    if value.code in _SEX:
        return Indexed(equal(SEX, "CS", _SEX[value.code], _SEX[value.code].lower()))
    known = [form for letter in _SEX.values() for form in (letter, letter.lower())]
    return Indexed(Not(equal(SEX, "CS", *known)) if value.code == "unknown" else NEVER)


def _issued(value: TokenValue) -> Indexed:
    """A Patient ID, of an issuer where the value has a system."""
    parts: list[Condition] = [equal(PATIENT_ID, "LO", value.code) if value.code else present(PATIENT_ID, "LO")]
    if value.system:
        names = (value.system, uid(value.system), value.system.removeprefix("urn:uuid:"))
        parts.append(AnyOf((equal(ISSUER, "LO", *names), Term(_QUALIFIER, "UT", tuple(Equal(name) for name in names)))))
    return Indexed(AllOf(tuple(parts)), exact=value.system is None)


def patient_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """The ID of the patient."""
    return _issued(value) if isinstance(value, TokenValue) else Indexed(NEVER)


def phone(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """A telephone number, which the index does not fold: all that have one are compared."""
    if not isinstance(value, TokenValue) or (value.system not in (None, "phone")):
        return Indexed(NEVER)
    return Indexed(present("00102154", "SH"), exact=False)


def study_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """The Study Instance UID, the accession number or the Study ID."""
    if not isinstance(value, TokenValue):
        return Indexed(NEVER)
    if value.system == DICOM_UID:
        return Indexed(equal(STUDY_UID, "UI", uid(value.code)) if value.code else ALWAYS)
    if value.code is None:
        return Indexed(present(ACCESSION, "SH"), exact=False)
    if value.system:
        return Indexed(equal(ACCESSION, "SH", value.code), exact=False)
    parts = (equal(ACCESSION, "SH", value.code), equal(STUDY_ID, "SH", value.code))
    if value.system == "":
        return Indexed(AnyOf(parts), exact=False)
    return Indexed(AnyOf((equal(STUDY_UID, "UI", uid(value.code)), *parts)))


def endpoint_identifier(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """The Study Instance UID that the Endpoint leads to."""
    if not isinstance(value, TokenValue) or value.system not in (None, DICOM_UID):
        return Indexed(NEVER)
    return Indexed(equal(STUDY_UID, "UI", uid(value.code)) if value.code else ALWAYS)


def modality(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """A modality of the study."""
    if not isinstance(value, TokenValue) or value.system not in (None, DCM):
        return Indexed(NEVER)
    return Indexed(equal("00080061", "CS", value.code) if value.code else present("00080061", "CS"))


def body_site(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """A body part, by the SNOMED code or the word of DICOM."""
    if not isinstance(value, TokenValue) or value.system not in (None, "", SNOMED):
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(Has(Level.SERIES, (present("00180015", "CS"),)))
    words = [] if value.system == "" else list(words_of(value.code))
    if value.system != SNOMED:
        words += [value.code, value.code.upper()]
    return Indexed(Has(Level.SERIES, (equal("00180015", "CS", *words),)))


def below(level: Level, tag: str) -> Maker:
    """A UID of something below the study."""

    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        if not isinstance(value, TokenValue) or value.system not in (None, "", DICOM_UID):
            return Indexed(NEVER)
        return Indexed(Has(level, (equal(tag, "UI", uid(value.code)),)) if value.code else ALWAYS)

    return make


def sop_class(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """A SOP class of the study."""
    return Indexed(equal("00080062", "UI", uid(str(value))))


def reason(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """Why the procedure was asked for or done: a code, or its text."""
    if not isinstance(value, TokenValue):
        return Indexed(NEVER)
    if value.code is None:
        return Indexed(ALWAYS, exact=False)
    code = value.code
    texts = (equal("00321066", "UT", code),) if value.system in (None, "") else ()
    meanings = ("00080100", "00080104") if value.system is None else ("00080100",)
    parts: list[Condition] = [*texts]
    parts += [nested(code, tag, inner) for tag in ("00401012", "00321067") for inner in meanings]
    below: list[Condition] = [nested(code, "00400275", "0040100A", inner) for inner in meanings]
    below.append(Term(("00400275", "00401002"), "LO", (Equal(code),)))
    return Indexed(AnyOf((*parts, Has(Level.SERIES, (AnyOf(tuple(below)),)))), exact=value.system is None)


def own_id(kind: str) -> Maker:
    """The id of the resource."""

    def make(_clause: Clause, value: Value, context: Context) -> Indexed:
        if not isinstance(value, TokenValue) or value.system or value.code is None:
            return Indexed(NEVER)
        return Indexed(ids_term(kind, [value.code], context))

    return make


# References


def of_patient(_clause: Clause, value: Value, context: Context) -> Indexed:
    """A reference to the patient, or their identifier."""
    if isinstance(value, TokenValue):
        return _issued(value)
    patient = _referred_to("Patient", value, context)
    return Indexed(NEVER if patient is None else ids_term("Patient", [patient], context))


def of_endpoint(_clause: Clause, value: Value, context: Context) -> Indexed:
    """A reference to the Endpoint of the study."""
    endpoint_id = None if isinstance(value, TokenValue) else _referred_to("Endpoint", value, context)
    return Indexed(NEVER if endpoint_id is None else equal(STUDY_UID, "UI", endpoint_id))


def _referred_to(kind: str, value: Value, context: Context) -> str | None:
    """The id of the resource of that kind here that a value refers to."""
    kind_of, _, found = (matching.local_reference(str(value), context.base, (kind,)) or "").partition("/")
    return found if found and kind_of == kind else None


def identified(tag: str, vr: str, *path: str, below: bool = False) -> Maker:
    """A reference that the archive has by identifier only, found in an attribute."""

    def make(_clause: Clause, value: Value, _context: Context) -> Indexed:
        if not isinstance(value, TokenValue):
            return Indexed(NEVER)
        if value.code is None:
            return Indexed(ALWAYS, exact=False)
        term: Condition = Term((tag, *path), vr, (Equal(value.code),))
        return Indexed(Has(Level.SERIES, (term,)) if below else term, exact=value.system is None)

    return make


def constant(clause: Clause, value: Value, context: Context) -> Indexed:
    """What is the same in every Endpoint of the archive."""
    one = Clause(parameter=clause.parameter, modifier="" if clause.negated else clause.modifier, values=(value,))
    return Indexed(ALWAYS if holds(one, endpoint("1.2", context.base), context.base) else NEVER)
