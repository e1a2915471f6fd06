"""Parameters of strings: names by their words, and texts that the index does not fold."""

import re

from dicomweb_server.dicom.matching import AllOf, AnyOf, Term, Wildcard
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.clauses import Clause, Value
from dicomweb_server.fhir.index.conditions import NEVER, PATIENT_NAME, Context, Indexed, Maker, present

_WILD = re.compile(r"[*?]")


def name(tag: str, text: str, modifier: str) -> Indexed:
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


def patient_name(clause: Clause, value: Value, _context: Context) -> Indexed:
    """The name of the patient."""
    return name(PATIENT_NAME, str(value), clause.modifier)


def name_part(clause: Clause, value: Value, _context: Context) -> Indexed:
    """A part of the name of the patient: the index does not tell which."""
    found = name(PATIENT_NAME, str(value), clause.modifier)
    return Indexed(found.condition, exact=False)


def phonetic(_clause: Clause, value: Value, _context: Context) -> Indexed:
    """A name that sounds so."""
    term = parse_term((PATIENT_NAME,), _WILD.sub(" ", str(value)), fuzzy=True)
    return Indexed(term) if term is not None else Indexed(NEVER)


def somewhere(*tags: str) -> Maker:
    """Attributes that the index does not fold: all that have one are compared."""
    any_of_them = AnyOf(tuple(present(tag, "LO") for tag in tags))
    return lambda _clause, _value, _context: Indexed(any_of_them, exact=False)
