"""Editing what is stored, with a reason: attributes of a study or series, two patients who are one, a series that
belongs to another study. Who asks edits only what they see, and never out of their own sight.
"""

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dicomweb_server.dicom.attributes import COMPUTED, Attributes, is_empty, keyword_of, level_of, patient_key, vr_of
from dicomweb_server.dicom.editable import EDITABLE, IDENTITY, change_to, changes_of
from dicomweb_server.dicom.edited_file import Change
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Equal, Term
from dicomweb_server.dicom.uids import is_uid, new_uid
from dicomweb_server.errors import BadRequest, Conflict, Forbidden, NotFound
from dicomweb_server.services.edit_intents import STUDY_UID, Intent, Task, new_intent_id
from dicomweb_server.services.editor import Editor, EditReport
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Hit, Scope

MIN_REASON, MAX_REASON = 3, 1024
MAX_STUDIES = 1000
CODES = ("CORRECT", "COERCE")

_PATIENT_ID, _ISSUER = "00100020", "00100021"
_ALWAYS_TAKEN = frozenset({_PATIENT_ID, _ISSUER, "00100022", "00100024"})
_UNUSABLE = "a study with this UID cannot be used"
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_OF_THE_OBJECT = ("Deidentification", "ClinicalTrial", "Consent", "PatientPhoto", "PatientSize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why something is edited, and by whom. Raises BadRequest where that is not said well enough."""

    reason: str
    code: str = "CORRECT"
    user: str = ""

    def __post_init__(self) -> None:
        if not MIN_REASON <= len(self.reason.strip()) <= MAX_REASON or _CONTROLS.search(self.reason):
            raise BadRequest(f"a reason is needed: a text of {MIN_REASON} to {MAX_REASON} characters")
        if self.code not in CODES:
            raise BadRequest(f"the code of the reason is {' or '.join(CODES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientName:
    """What names a patient: the Patient ID, and the issuer (None: whichever it is, if there is one patient only)."""

    patient_id: str
    issuer: str | None = None


class Edit:
    """Plans edits. `storage` is what the one who asks sees, `whole` all there is; `sees` tells whether a study
    exists for them, `would_see` whether one with these attributes, some of which changed, would."""

    def __init__(
        self,
        storage: Storage,
        editor: Editor,
        *,
        whole: Storage | None = None,
        sees: Callable[[str], bool] = lambda _study_uid: True,
        would_see: Callable[[Attributes, Set[str]], bool] = lambda _attributes, _changed: True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._storage = storage
        self._whole = storage if whole is None else whole
        self._editor = editor
        self._sees = sees
        self._would_see = would_see
        self._clock = clock

    def run(self, intent: Intent, *, check: Callable[[], None] = lambda: None) -> EditReport:
        """As `Editor.run`."""
        return self._editor.run(intent, check=check)

    def survey(self, intent: Intent, *, check: Callable[[], None] = lambda: None) -> EditReport:
        """As `Editor.survey`."""
        return self._editor.survey(intent, check=check)

    def version(self, scope: Scope) -> str:
        """As `Storage.version`."""
        return self._storage.version(scope=scope)

    def history(self, study_uid: str) -> list[dict[str, Any]]:
        """The edits of a study, oldest first: when, by whom, why, which attributes, how many instances; no values, and
        no other studies than those that exist for the one who asks. Raises NotFound."""
        self._study(study_uid)
        return [
            {
                "edit": document.document_id,
                **{name: value for name, value in document.body.items() if name != "changes"},
                "scopes": [scope for scope in document.body["scopes"] if scope[0] == study_uid or self._sees(scope[0])],
            }
            for document in self._editor.intents.of_study(study_uid)
        ]

    # What can be asked for

    def attributes(self, scope: Scope, attributes: Mapping[str, Any], cause: Cause) -> Intent:
        """Other values for attributes of a study, or of a series. Raises NotFound, BadRequest, Forbidden."""
        level = Level.SERIES if scope.series_uid is not None else Level.STUDY
        changes = changes_of(attributes, level)
        study = self._study(scope.study_uid)
        if level is Level.STUDY:
            self._stays_in_sight(study.attributes, changes)
        else:
            self._storage.instances(scope=scope)
        return self._intent("edit", Task(scopes=(scope,), changes=changes), cause)

    def merge(self, source: PatientName, target: PatientName, cause: Cause) -> Intent:
        """All studies of one patient become those of another: they take over what tells who that is.

        Raises NotFound, Conflict where the name fits several patients or one of too many studies, BadRequest.
        """
        first, second = self._patient(source, "source"), self._patient(target, "target")
        if first.patient_key == second.patient_key:
            raise BadRequest("source and target are the same patient")
        found = self._storage.search(
            query=Query(level=Level.STUDY, terms=_terms_of(first.attributes), limit=MAX_STUDIES + 1)
        )
        studies = [hit for hit in found.hits if patient_key(hit.attributes, "") == first.patient_key]
        if len(found.hits) > MAX_STUDIES:
            raise Conflict(f"the patient has more than {MAX_STUDIES} studies: edit them in parts")
        changes = tuple(
            _change_to(tag, second.attributes.get(tag, {}))
            for tag in IDENTITY
            if tag in _ALWAYS_TAKEN or not is_empty(second.attributes.get(tag, {}))
        )
        for hit in studies:
            self._stays_in_sight(hit.attributes, changes)
        scopes = tuple(Scope(study_uid=hit.study_uid) for hit in studies)
        if not scopes:
            raise NotFound("the source patient has no study")
        return self._intent("merge", Task(scopes=scopes, changes=changes), cause)

    def move(self, scope: Scope, target_uid: str | None, attributes: Mapping[str, Any] | None, cause: Cause) -> Intent:
        """A series into another study, whose attributes of patient and study it takes over. A study that is not there
        yet is made: with those that the series has, but for the given ones.

        Raises NotFound, BadRequest, Forbidden, Conflict where the target is there, but not for the one who asks, or in
        the bin: restored later, it would be mixed with the series.
        """
        study = self._study(scope.study_uid)
        self._storage.instances(scope=scope)
        uid = target_uid or new_uid()
        if not is_uid(uid) or uid == scope.study_uid:
            raise BadRequest("the target is the UID of another study: digits and dots, at most 64 characters")
        there = self._hit(self._storage, uid)
        if there is None and self._hit(self._whole, uid) is not None:
            raise Conflict(_UNUSABLE)
        if there is None:
            self._not_in_the_bin(uid)
        moves = Change(tag=STUDY_UID, vr="UI", values=(uid,), stays=True)
        if there is None:
            changes = changes_of(attributes, Level.STUDY) if attributes else ()
        else:
            if attributes:
                raise BadRequest("the target study is there: the series takes over its attributes")
            changes = _of_study(study.attributes, there.attributes)
        self._stays_in_sight(study.attributes if there is None else there.attributes, (*changes, moves))
        return self._intent("move", Task(scopes=(scope,), changes=(*changes, moves)), cause)

    # What is there

    def _intent(self, verb: str, task: Task, cause: Cause) -> Intent:
        now = self._clock()
        task = replace(task, changes=tuple(sorted(task.changes, key=lambda change: change.tag)))
        return Intent(
            intent_id=new_intent_id(now),
            made_at=now,
            verb=verb,
            reason=cause.reason.strip(),
            code=cause.code,
            user=cause.user,
            task=task,
        )

    def _study(self, study_uid: str | None) -> Hit:
        found = self._hit(self._storage, study_uid or "")
        if found is None:
            raise Scope(study_uid=study_uid).not_found()
        return found

    def _hit(self, storage: Storage, study_uid: str) -> Hit | None:
        query = Query(level=Level.STUDY, scope=Scope(study_uid=study_uid), limit=1)
        return next(iter(storage.search(query=query).hits), None)

    def _not_in_the_bin(self, study_uid: str) -> None:
        scope = Scope(study_uid=study_uid)
        if not self._whole.binned(scope=scope, limit=1).entries:
            return
        try:
            self._storage.binned(scope=scope, limit=1)
        except Forbidden:
            raise Conflict(_UNUSABLE) from None
        raise Conflict(
            "the target study was removed, and is in the bin: restore or purge it first, or take another UID"
        )

    def _patient(self, name: PatientName, role: str) -> Hit:
        if not name.patient_id.strip():
            raise BadRequest(f"the {role} patient is named by patient_id, and issuer where there is one")
        terms = [Term((_PATIENT_ID,), "LO", (Equal(name.patient_id.strip()),))]
        found = self._storage.search(query=Query(level=Level.PATIENT, terms=tuple(terms), limit=10)).hits
        fit = [hit for hit in found if name.issuer is None or _first(hit.attributes, _ISSUER) == name.issuer.strip()]
        if not fit:
            raise NotFound(f"there is no {role} patient of this ID")
        if len(fit) > 1:
            raise Conflict(f"several patients have the ID of the {role}: name the issuer")
        return fit[0]

    def _stays_in_sight(self, attributes: Attributes, changes: tuple[Change, ...]) -> None:
        after = dict(attributes)
        for change in changes:
            after[change.tag] = {"vr": change.vr, **({"Value": list(change.values)} if change.values else {})}
        if not self._would_see(after, {change.tag for change in changes}):
            raise Forbidden("after this edit the study would not exist for you; ask somebody who sees all studies")


def _first(attributes: Attributes, tag: str) -> str:
    values = attributes.get(tag, {}).get("Value") or [""]
    return str(values[0] or "").strip()


def _terms_of(attributes: Attributes) -> tuple[Term, ...]:
    return (Term((_PATIENT_ID,), "LO", (Equal(_first(attributes, _PATIENT_ID)),)),)


def _change_to(tag: str, element: Mapping[str, Any]) -> Change:
    if "InlineBinary" in element or "BulkDataURI" in element:
        raise Conflict(f"{keyword_of(tag)} of the target cannot be read: edit it first")
    return change_to(tag, element)


def _of_study(own: Attributes, other: Attributes) -> tuple[Change, ...]:
    """What a series has to take over from the study it comes to. Sequences that nobody can write here are taken out,
    but for those that tell of the images themselves."""
    taken = {
        tag for tag, level in EDITABLE.items() if level.depth <= Level.STUDY.depth and (tag in own or tag in other)
    }
    gone = {
        tag
        for tag in own
        if tag not in EDITABLE
        and tag not in COMPUTED
        and level_of(tag).depth <= Level.STUDY.depth
        and vr_of(tag) == "SQ"
        and own[tag] != other.get(tag)
        and not keyword_of(tag).startswith(_OF_THE_OBJECT)
    }
    return (
        *(_change_to(tag, other.get(tag, {})) for tag in sorted(taken)),
        *(Change(tag=tag, vr="SQ") for tag in sorted(gone)),
    )
