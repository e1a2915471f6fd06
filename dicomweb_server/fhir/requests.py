"""A search as it was asked for: what is wanted of which type, how much of it, in which order, and what along with it.
Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir.clauses import Clause, parse_clause
from dicomweb_server.fhir.matching import shown
from dicomweb_server.fhir.tables import PARAMETERS, SORTS, TYPES, Parameter, includes

DEFAULT_COUNT = 100
MAX_OFFSET = 2**31

SUMMARIES = ("true", "text", "data", "count", "false")
TOTALS = ("none", "estimate", "accurate")
IGNORED = frozenset({"_format", "_pretty", "_contained", "_containedType", "_score", "_filter", "fhirversion"})
_CONTROL = frozenset({"_count", "_offset", "_sort", "_summary", "_elements", "_total", "_include", "_revinclude"})


class Include(NamedTuple):
    """What comes along: of resources of the type `source`, what its parameter refers to."""

    source: str
    parameter: Parameter
    target: str
    iterate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """sort: parameters, each with whether it descends. summary: "" when none was asked for. parameters: what was
    understood, without the page, for the links of the answer."""

    kind: str
    clauses: tuple[Clause, ...] = ()
    includes: tuple[Include, ...] = ()
    revincludes: tuple[Include, ...] = ()
    count: int = DEFAULT_COUNT
    offset: int = 0
    sort: tuple[tuple[str, bool], ...] = ()
    summary: str = ""
    elements: tuple[str, ...] = ()
    total: str = "accurate"
    parameters: tuple[tuple[str, str], ...] = ()


def parse_search(
    kind: str, parameters: Iterable[tuple[str, str]], *, max_count: int, lenient: bool = False
) -> SearchRequest:
    """The search that parameters ask for. Raises BadRequest; `lenient` passes over names that are not known."""
    clauses: list[Clause] = []
    kept: list[tuple[str, str]] = []
    included: list[Include] = []
    reverse: list[Include] = []
    control: dict[str, str] = {}
    for name, value in parameters:
        plain = name.partition(":")[0]
        if plain in ("_include", "_revinclude"):
            iterate = name.partition(":")[2] in ("iterate", "recurse")
            (included if plain == "_include" else reverse).extend(_include(kind, plain, value, iterate=iterate))
        elif name in _CONTROL:
            control[name] = value
        elif name.lower() in IGNORED:
            continue
        else:
            try:
                clause = parse_clause(kind, name, value)
            except BadRequest:
                if lenient and plain.partition(".")[0] not in PARAMETERS[kind]:
                    continue
                raise
            if clause is None:
                continue
            clauses.append(clause)
        if name not in ("_count", "_offset"):
            kept.append((name, value))
    summary = _one_of(control, "_summary", SUMMARIES)
    return SearchRequest(
        kind=kind,
        clauses=tuple(clauses),
        includes=tuple(included),
        revincludes=tuple(reverse),
        count=min(_number(control, "_count", DEFAULT_COUNT), max_count),
        offset=min(_number(control, "_offset", 0), MAX_OFFSET),
        sort=_sort(kind, control.get("_sort", "")),
        summary="" if summary == "false" else summary,
        elements=tuple(name for part in control.get("_elements", "").split(",") if (name := part.strip())),
        total=_one_of(control, "_total", TOTALS) or "accurate",
        parameters=tuple(kept),
    )


def _number(control: dict[str, str], name: str, default: int) -> int:
    value = control.get(name, "").strip()
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise BadRequest(f"{name} is a whole number, 0 or more")
    return int(value)


def _one_of(control: dict[str, str], name: str, accepted: Sequence[str]) -> str:
    value = control.get(name, "").strip()
    if value and value not in accepted:
        raise BadRequest(f"{name} is one of {', '.join(accepted)}")
    return value


def _sort(kind: str, text: str) -> tuple[tuple[str, bool], ...]:
    found = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name = part.removeprefix("-")
        if name not in SORTS[kind]:
            raise BadRequest(f"{kind} cannot be sorted by {shown(name)}: _sort takes {', '.join(SORTS[kind])}")
        found.append((name, part.startswith("-")))
    return tuple(found)


def _include(kind: str, name: str, text: str, *, iterate: bool) -> list[Include]:
    """`Type:parameter` or `Type:parameter:Target`; `*` stands for all."""
    parts = text.split(":")
    if text == "*":
        parts = [kind, "*"] if name == "_include" else ["*", "*"]
    sources = TYPES if parts[0] == "*" else (parts[0],)
    found = []
    for source in sources:
        if source not in TYPES or len(parts) not in (2, 3):
            raise BadRequest(f"{name} is written Type:parameter, with a type that is kept here: {', '.join(TYPES)}")
        known = includes(source)
        if parts[1] != "*" and parts[1] not in known:
            raise BadRequest(f"{name}: {source} has {', '.join(known) or 'nothing'} to include, not {shown(parts[1])}")
        for parameter in known.values() if parts[1] == "*" else (known[parts[1]],):
            targets = [one for one in parameter.targets if one in TYPES and parts[2:] in ([], [one])]
            found += [Include(source, parameter, target, iterate) for target in targets]
    if name == "_include" and not iterate:
        return [one for one in found if one.source == kind]
    return found if name == "_include" else [one for one in found if iterate or one.target == kind]
