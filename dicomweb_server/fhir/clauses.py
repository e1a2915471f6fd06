"""Search parameters of a request as clauses, and whether a resource satisfies them. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.matching import DateValue, Kind, TokenValue
from dicomweb_server.fhir.tables import PARAMETERS, TYPES, Parameter
from dicomweb_server.fhir.values import DICOM_UID, Json

MAX_CHAIN = 3
MAX_OF_CLAUSE = 1000

_MODIFIERS = {
    Kind.STRING: ("exact", "contains", "missing"),
    Kind.TOKEN: ("not", "missing"),
    Kind.REFERENCE: ("identifier", "missing"),
    Kind.DATE: ("missing",),
    Kind.URI: ("missing",),
}

NAMED = {"performer": "00081050", "referrer": "00080090", "interpreter": "00081060"}
"""References of an ImagingStudy to persons who are no resources here: a chain to their `name` looks at the names in the
archive, which are these attributes."""

_PERSON_NAME = Parameter("name", Kind.STRING, ("display",))

Value = str | bool | TokenValue | DateValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One parameter of a search: at least one of the values matches. Several clauses must all hold.

    chain: the type of what the reference names, and what must hold of it; there are no values then.
    reverse: the type of what refers to the resource by this parameter, and what must hold of that (`_has`).
    """

    parameter: Parameter
    modifier: str = ""
    values: tuple[Value, ...] = ()
    chain: tuple[str, "Clause"] | None = None
    reverse: tuple[str, "Clause"] | None = None

    @property
    def negated(self) -> bool:
        """Whether it holds where no value matches: `:not`, and `:missing=true`."""
        return self.modifier == "not"


def parse_clause(kind: str, name: str, text: str, *, depth: int = 0) -> Clause | None:
    """The clause of a parameter; None where it has no value. Raises BadRequest saying what is accepted."""
    if name.startswith("_has:"):
        return _parse_reverse(kind, name, text, depth)
    head, dot, rest = name.partition(".")
    plain, _, modifier = head.partition(":")
    parameter = PARAMETERS[kind].get(plain)
    if parameter is None:
        raise BadRequest(
            f"{kind} has no search parameter {matching.shown(plain)}; it has {', '.join(sorted(PARAMETERS[kind]))}"
        )
    if dot:
        return _parse_chain(kind, parameter, modifier, rest, text, depth)
    if parameter.kind is Kind.REFERENCE and modifier in (*parameter.targets, *TYPES):
        text = ",".join(value if "/" in value else f"{modifier}/{value}" for value in matching.split_values(text))
        modifier = ""
    if modifier and modifier not in _MODIFIERS[parameter.kind]:
        allowed = ", ".join(f":{each}" for each in _MODIFIERS[parameter.kind])
        raise BadRequest(f"{plain} has no modifier :{matching.shown(modifier)[1:-1]}; it has {allowed}")
    values = tuple(_value(parameter, modifier, value) for value in matching.split_values(text))
    if len(values) > MAX_OF_CLAUSE:
        raise BadRequest(f"{plain} has more than {MAX_OF_CLAUSE} values")
    return Clause(parameter=parameter, modifier=modifier, values=values) if values else None


def _parse_chain(kind: str, parameter: Parameter, modifier: str, rest: str, text: str, depth: int) -> Clause | None:
    if parameter.kind is not Kind.REFERENCE:
        raise BadRequest(f"{parameter.name} is no reference: nothing can be chained to it")
    if depth >= MAX_CHAIN:
        raise BadRequest(f"a chain of parameters has at most {MAX_CHAIN} links")
    if parameter.name in NAMED and kind == "ImagingStudy" and rest.partition(":")[0] == "name":
        inner_modifier = rest.partition(":")[2]
        if inner_modifier not in ("", "exact", "contains"):
            raise BadRequest(f"{parameter.name}.name has the modifiers :exact and :contains")
        values = tuple(_value(_PERSON_NAME, inner_modifier, value) for value in matching.split_values(text))
        inner = Clause(parameter=_PERSON_NAME, modifier=inner_modifier, values=values)
        return Clause(parameter=parameter, chain=("", inner)) if values else None
    here = [target for target in parameter.targets if target in TYPES]
    if modifier:
        here = [target for target in here if target == modifier]
    if not here:
        raise BadRequest(f"{parameter.name} cannot be chained: what it refers to is not kept here")
    chained = parse_clause(here[0], rest, text, depth=depth + 1)
    return Clause(parameter=parameter, chain=(here[0], chained)) if chained is not None else None


def _parse_reverse(kind: str, name: str, text: str, depth: int) -> Clause | None:
    """`_has:ImagingStudy:patient:modality`."""
    parts = name.split(":", 3)
    if len(parts) < 4 or parts[1] not in TYPES or depth >= MAX_CHAIN:
        raise BadRequest("_has is written _has:Type:reference:parameter, with a type that is kept here")
    source, reference, rest = parts[1:]
    parameter = PARAMETERS[source].get(reference)
    if parameter is None or parameter.kind is not Kind.REFERENCE or kind not in parameter.targets:
        raise BadRequest(f"_has: {source} does not refer to {kind} by {matching.shown(reference)}")
    inner = parse_clause(source, rest, text, depth=depth + 1)
    return Clause(parameter=parameter, reverse=(source, inner)) if inner is not None else None


def _value(parameter: Parameter, modifier: str, text: str) -> Value:
    if len(text) > matching.MAX_VALUE:
        raise BadRequest(f"a value of {parameter.name} is longer than {matching.MAX_VALUE} characters")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise BadRequest(f"the value of {parameter.name} holds a control character")
    if modifier == "missing":
        if text not in ("true", "false"):
            raise BadRequest(f"{parameter.name}:missing is either true or false")
        return text == "true"
    if parameter.kind is Kind.DATE:
        return matching.date_value(parameter.name, text)
    if parameter.kind is Kind.TOKEN or modifier == "identifier":
        return TokenValue.parse(text)
    return matching.unescaped(text)


# On resources


def holds(clause: Clause, resource: Json, base: str) -> bool:
    """Whether the clause holds for a resource by itself; chains are the caller's (they are resolved before)."""
    values = [value for path in clause.parameter.paths for value in matching.elements(resource, path)]
    if clause.modifier == "missing":
        return (not values) in clause.values
    if clause.parameter.name == "deceased":
        return _deceased(clause, resource)
    if clause.parameter.name in ("phone", "email"):
        values = [value for value in values if value.get("system") == clause.parameter.name]
    found = any(_matches(clause, value, values, base) for value in clause.values)
    return found is not clause.negated


def _deceased(clause: Clause, resource: Json) -> bool:
    dead = bool(resource.get("deceasedBoolean")) or "deceasedDateTime" in resource
    token = (None, "true" if dead else "false")
    found = any(isinstance(value, TokenValue) and value.matches(token) for value in clause.values)
    return found is not clause.negated


def _matches(clause: Clause, wanted: Value, values: Iterable[Any], base: str) -> bool:
    parameter = clause.parameter
    match wanted:
        case TokenValue():
            if clause.modifier == "identifier":
                values = [value["identifier"] for value in values if "identifier" in value]
            return any(wanted.matches(token) for value in values for token in _tokens(parameter, value))
        case DateValue():
            return any(matching.date_matches(wanted, span) for value in values for span in matching.spans(value))
        case str():
            if parameter.kind is Kind.REFERENCE:
                return any(matching.reference_matches(wanted, value, base, parameter.targets) for value in values)
            if parameter.kind is Kind.URI:
                return any(_uri(value) == _uri(wanted) for value in values)
            return _string_matches(clause, wanted, [text for value in values for text in matching.strings(value)])
    return False


def _uri(value: Any) -> str:
    return str(value).removeprefix("urn:oid:")


def _tokens(parameter: Parameter, value: Any) -> Iterator[matching.Token]:
    for system, code in matching.tokens(value):
        yield system, code
        if parameter.name in ("identifier", "series", "instance") and code and code.startswith("urn:oid:"):
            yield system, code.removeprefix("urn:oid:")
        elif parameter.name in ("series", "instance"):
            yield DICOM_UID, f"urn:oid:{code}"


def _string_matches(clause: Clause, wanted: str, texts: list[str]) -> bool:
    if clause.parameter.name == "phonetic":
        return matching.sounds_like(wanted, texts)
    if clause.modifier == "exact":
        return wanted in texts
    plain = matching.folded(wanted)
    if clause.modifier == "contains":
        return any(plain in matching.folded(text) for text in texts)
    return any(matching.string_matches(plain, matching.folded(text)) for text in texts)


# Keys of stored documents


def keys_of(resource: Mapping[str, Any], kind: str) -> dict[str, tuple[str, ...]]:
    """The values that a stored document is found by: of tokens and references themselves, of strings their words'
    beginnings as one text from each word on."""
    found: dict[str, tuple[str, ...]] = {}
    for name, parameter in PARAMETERS[kind].items():
        values = [value for path in parameter.paths for value in matching.elements(resource, path)]
        made: list[str] = []
        for value in values:
            match parameter.kind:
                case Kind.TOKEN:
                    made += [code for _, code in matching.tokens(value) if code]
                case Kind.STRING:
                    for text in matching.strings(value):
                        words = matching.folded(text).split(" ")
                        made += [" ".join(words[place:]) for place in range(min(len(words), 32))]
                case Kind.REFERENCE if isinstance(value, Mapping) and isinstance(value.get("reference"), str):
                    made.append(value["reference"].rpartition("/")[2])
        if made:
            found[name] = tuple(dict.fromkeys(text[:200] for text in made if text))[:200]
    return found


def key_term(clause: Clause) -> tuple[str, str, bool] | None:
    """The key that leads to the documents for which a clause may hold: its name, the text, and whether that is only how
    it begins; None where none does."""
    if clause.negated or clause.modifier in ("missing", "contains", "identifier") or len(clause.values) != 1:
        return None
    if clause.parameter.name in ("phonetic", "deceased", "_lastUpdated"):
        return None
    name = clause.parameter.name
    match clause.values[0]:
        case TokenValue(_, code) if code and not code.startswith("urn:oid:") and name not in ("series", "instance"):
            return name, code[:200], False
        case str() as text if clause.parameter.kind is Kind.REFERENCE:
            return name, text.rpartition("/")[2][:200], False
        case str() as text if clause.parameter.kind is Kind.STRING:
            plain = matching.folded(text)
            return (name, plain[:200], True) if plain else None
    return None
