"""Rules that say which studies exist for whom: conditions on attributes of patient and study, as a search has them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dicomweb_server.auth.rights import ANONYMOUS
from dicomweb_server.dicom.attributes import COMPUTED, level_of, resolve
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Term
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.errors import BadRequest, ConfigError

STUDY_UID = "0020000D"
_SEARCHABLE_COMPUTED = ("00080061", "00080062")  # ModalitiesInStudy, SOPClassesInStudy


@dataclass(frozen=True, slots=True)
class Rule:
    """Whom it holds for (kind "role" or "user" with a name, or "anonymous"), and the terms that a study must match."""

    kind: str
    name: str
    terms: tuple[Term, ...]


class Rules:
    """All rules of the settings: texts like "role reader: InstitutionName=North Hospital & ModalitiesInStudy=CT,MR".

    Every rule that holds for somebody must be met. Rules for roles do not hold for who may administer.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._rules = tuple(_rule(text) for text in texts)

    def terms(self, *, user: str, roles: Sequence[str], own: str = "", exempt: bool = False) -> tuple[Term, ...]:
        """The terms for a user; `own` are conditions kept with the user or key."""
        found: dict[Term, None] = dict.fromkeys(conditions(own)) if own else {}
        for rule in self._rules:
            if (rule.kind == "user" and rule.name == user) or (
                rule.kind == "role" and rule.name in roles and not exempt
            ):
                found.update(dict.fromkeys(rule.terms))
        return tuple(found)

    def of_anonymous(self) -> tuple[Term, ...]:
        """The terms for who is not logged in."""
        return tuple(term for rule in self._rules if rule.kind == ANONYMOUS for term in rule.terms)


def conditions(text: str) -> tuple[Term, ...]:
    """The terms of "KEY=VALUE & KEY=VALUE"; a backslash separates values of which one is enough. Raises BadRequest."""
    found = []
    for piece in text.split("&"):
        name, sign, value = piece.partition("=")
        if not sign:
            raise BadRequest(f'"{piece.strip()}" is not ATTRIBUTE=VALUE')
        path = resolve(name.strip())
        if len(path) != 1 or level_of(path[0]).depth > Level.STUDY.depth:
            raise BadRequest(f"{name.strip()} is no attribute of patients and studies, which access can depend on")
        if path[0] in COMPUTED and path[0] not in _SEARCHABLE_COMPUTED and path[0] != STUDY_UID:
            raise BadRequest(f"{name.strip()} is computed; access cannot depend on it")
        term = parse_term(path, value.strip(), multiple=True)
        if term is None:
            raise BadRequest(f"{name.strip()} has no value, which is true of every study")
        found.append(term)
    return tuple(found)


def only_study(study_uid: str) -> tuple[Term, ...]:
    """The term that one study alone matches."""
    term = parse_term((STUDY_UID,), study_uid)
    if term is None:
        raise BadRequest("the Study Instance UID is empty")
    return (term,)


def _rule(text: str) -> Rule:
    who, sign, what = text.partition(":")
    kind, _, name = who.strip().partition(" ")
    named = kind in ("role", "user")
    if not sign or (kind not in ("role", "user", ANONYMOUS)) or named != bool(name.strip()):
        raise ConfigError(
            f'auth.access: "{text}" is not "role NAME: ATTRIBUTE=VALUE & ..."; instead of role NAME there can be '
            "user NAME or anonymous"
        )
    try:
        return Rule(kind, name.strip().casefold() if kind == "user" else name.strip(), conditions(what))
    except BadRequest as exc:
        raise ConfigError(f"auth.access: {exc.message}") from None
