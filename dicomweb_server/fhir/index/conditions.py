"""Conditions on the index of the archive, and the terms that they are made of. Pure.

A condition may hold for more than the clause does (`exact` is False then): what it finds is compared again as
resources. It never holds for less.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo

from dicomweb_server.dicom.attributes import PATIENT_DIGEST
from dicomweb_server.dicom.matching import AllOf, AnyOf, Condition, Empty, Equal, Not, Term
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.clauses import Clause, Value

NEVER, ALWAYS = AnyOf(), AllOf()

STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
ACCESSION, STUDY_ID, PATIENT_ID, ISSUER = "00080050", "00200010", "00100020", "00100021"
PATIENT_NAME, BIRTH_DATE, SEX = "00100010", "00100030", "00100040"
STUDY_DATE, STUDY_TIME = "00080020", "00080030"


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


Maker = Callable[[Clause, Value, Context], Indexed]
"""What gives the condition for one value of a clause."""


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


def equal(tag: str, vr: str, *values: str) -> Term:
    """The attribute has one of the values."""
    return Term((tag,), vr, tuple(Equal(value[: matching.MAX_VALUE]) for value in values))


def empty(tag: str, vr: str) -> Term:
    """The attribute has no value."""
    return Term((tag,), vr, (Empty(),))


def present(tag: str, vr: str) -> Condition:
    """The attribute has a value."""
    return Not(empty(tag, vr))


def nested(value: str, *path: str) -> Term:
    """A code inside sequences has this value; the path leads to it."""
    return Term(path, "SH", (Equal(value),))


def uid(code: str | None) -> str:
    """A UID as DICOM writes it, of a code that may be a URN; empty for none."""
    return (code or "").removeprefix("urn:oid:")
