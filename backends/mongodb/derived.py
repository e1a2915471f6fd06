"""Series, studies and patients: how they are derived from what is below, and changed without losing anybody's change.
The reasoning stands in `work`."""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

import orjson
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.errors import is_duplicate
from backends.mongodb.schema import COLLECTION
from backends.mongodb.summing import (
    NUMBERS,
    SETS,
    Added,
    Firsts,
    brings_nothing,
    firsts,
    instances_part,
    part,
    patient_document,
    series_document,
    series_id,
    study_document,
)
from backends.mongodb.work import Work, new_token, now_in_milliseconds
from dicomweb_server.dicom.attributes import Attributes, clock_digits
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageUnavailable

_TRIES = 200
_STATE = {"v": 1, "epoch": 1, "changed_at": 1, "patient": 1, "n_studies": 1, "n_series": 1, "n_instances": 1}
_BELOW = {"attributes": 1, "places": 1, "n_series": 1, "n_instances": 1, **dict.fromkeys(SETS, 1)}
_SEEN = {**_STATE, **_BELOW, "newest": 1}


@dataclass(slots=True)
class Change:
    """By how much a document above must change; `known` False: it must be derived. `members`: what was added."""

    numbers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NUMBERS[Level.PATIENT], 0))
    known: bool = True
    members: list[Added] = field(default_factory=list)

    def add(self, old: Doc | None, new: Doc | None, own: str) -> None:
        """What a document below was, and is. `own` is the number that counts such documents."""
        self.numbers[own] += (new is not None) - (old is not None)
        for name in NUMBERS[Level.PATIENT]:
            if name != own:
                self.numbers[name] += (new or {}).get(name, 0) - (old or {}).get(name, 0)


@dataclass(frozen=True, slots=True)
class Made:
    """What a document was and is. `known` False: others may have been counted in, or not, in between."""

    old: Doc | None
    new: Doc | None
    known: bool = True


class Ascent:
    """One change on its way up. `token` is the document in `work` that stands for it.

    `shown` gives, when it is done, what a series or study shows. `inserts`: there are documents among its steps that
    nobody had made before.
    """

    def __init__(self, connection: Connection, work: Work, token: str) -> None:
        self._connection = connection
        self._work = work
        self._token = token
        self._seen: dict[Level, dict[str, Doc]] = {level: {} for level in NUMBERS}
        self._parsed: dict[tuple[Level, str], Attributes] = {}
        self._patients: Set[str] = frozenset()
        self.inserts = False

    def shown(self, level: Level, identity: str) -> Attributes:
        """What a series or study shows; nothing when it is gone."""
        key = (level, identity)
        if key not in self._parsed:
            doc = self._seen[level].get(identity)
            self._parsed[key] = orjson.loads(doc["attributes"]) if doc else {}
        return self._parsed[key]

    # Before the instances change

    def look(self, members: Sequence[Added], patients: Set[str]) -> list[Callable[[], None]]:
        """The calls that read what stands above; they may be made at once. `patients`: as `patients_of` the members."""
        studies = {one.study_uid for one in members}
        series = {series_id(one.study_uid, one.series_uid) for one in members}
        # Of a study that is there already, most often the patient, too, is the one that the new instances name.
        self._patients = patients
        wanted = ((Level.STUDY, studies), (Level.SERIES, series), (Level.PATIENT, self._patients))
        return [partial(self._look, level, identities) for level, identities in wanted]

    def _look(self, level: Level, identities: Iterable[str]) -> None:
        found = self._connection.safe(COLLECTION[level]).find({"_id": {"$in": sorted(identities)}}, _SEEN)
        self._seen[level] = {doc["_id"]: doc for doc in found}

    @property
    def newest(self) -> int:
        """The newest place that anything that was looked at is shown of."""
        return max((doc["newest"] for docs in self._seen.values() for doc in docs.values()), default=0)

    # After new instances are there

    def steps(self, members: Sequence[Added]) -> list[Callable[[], bool]]:
        """The calls that count the new instances on all levels, which may be made at once: totals are incremented, and
        what was not there is inserted. None where more than that changes. `is_settled` must be asked afterwards."""
        made = firsts(members, self._seen, self._patients)
        if made is None:
            return []
        changes = self._changes(members, made)
        known = {
            level: {key: one for key, one in some.items() if key not in made[level]} for level, some in changes.items()
        }
        if not all(self._adds_only(level, key, one) for level, some in known.items() for key, one in some.items()):
            return []
        for level, docs in made.items():
            self._seen[level].update(docs)
        self.inserts = any(made.values())
        return [
            *(partial(self._increment, level, some) for level, some in known.items() if some),
            *(partial(self._insert, level, docs) for level, docs in made.items() if docs),
        ]

    def is_settled(self, made: Sequence[bool]) -> bool:
        """Whether all steps were made, and nobody derived a document between its step and that of another below it.
        Where it `inserts`, all the instances must still be there as well: who removed one before found nothing above
        it to derive."""
        if not all(made):
            return False
        for level in (Level.STUDY, Level.PATIENT):
            seen = {key: doc["epoch"] for key, doc in self._seen[level].items()}
            found = self._connection.safe(COLLECTION[level]).find({"_id": {"$in": list(seen)}}, {"epoch": 1})
            if {doc["_id"]: doc["epoch"] for doc in found} != seen:
                return False
        return True

    def derive_all(self, members: Sequence[Added]) -> None:
        """Derive all that stands above these instances."""
        patients = set(self._seen[Level.PATIENT])
        below: dict[str, set[str]] = defaultdict(set)
        for one in members:
            below[one.study_uid].add(one.series_uid)
        for study_uid, series_uids in below.items():
            self.derive_series(study_uid, series_uids, patients)

    def _changes(self, members: Sequence[Added], made: Firsts) -> dict[Level, dict[str, Change]]:
        """By how much every document above changes, when those are made."""
        found: dict[Level, dict[str, Change]] = {level: defaultdict(Change) for level in NUMBERS}
        patients = {uid: doc["patient"] for uid, doc in (self._seen[Level.STUDY] | made[Level.STUDY]).items()}
        for one in members:
            keys = {
                Level.SERIES: series_id(one.study_uid, one.series_uid),
                Level.STUDY: one.study_uid,
                Level.PATIENT: patients[one.study_uid],
            }
            for level, key in keys.items():
                found[level][key].members.append(one)
                found[level][key].numbers["n_instances"] += 1
        for series in made[Level.SERIES].values():
            found[Level.STUDY][series["study"]].numbers["n_series"] += 1
            found[Level.PATIENT][patients[series["study"]]].numbers["n_series"] += 1
        for study in made[Level.STUDY].values():
            found[Level.PATIENT][study["patient"]].numbers["n_studies"] += 1
        return found

    def add(self, members: Sequence[Added]) -> None:
        """Let everything above count new instances. What `look` gave was called before they were
        written."""
        below: dict[str, Change] = defaultdict(Change)
        for one in members:
            change = below[series_id(one.study_uid, one.series_uid)]
            change.members.append(one)
            change.numbers["n_instances"] += 1
        above: dict[str, Change] = defaultdict(Change)
        for one in members:
            above[one.study_uid].members.append(one)
        for identity, made in self._apply(Level.SERIES, below).items():
            study = above[identity.partition("/")[0]]
            study.known = study.known and made.known
            study.add(made.old, made.new, "n_series")
        patients: dict[str, Change] = defaultdict(Change)
        for identity, made in self._apply(Level.STUDY, above).items():
            keys = {doc["patient"] for doc in (made.old, made.new) if doc is not None}
            for key in keys:
                patients[key].members += above[identity].members
                patients[key].known = patients[key].known and made.known and len(keys) == 1
                patients[key].add(made.old, made.new, "n_studies")
        self._apply(Level.PATIENT, patients)

    def _apply(self, level: Level, changes: Mapping[str, Change]) -> dict[str, Made]:
        """Change the documents of a level."""
        quick = {key: change for key, change in changes.items() if change.known and self._adds_only(level, key, change)}
        was = {key: self._seen[level][key] for key in quick}
        failed = not self._increment(level, quick)
        made: dict[str, Made] = {}
        for key, change in changes.items():
            if key in quick and not failed:
                new = {**was[key], **{name: was[key][name] + change.numbers[name] for name in NUMBERS[level]}}
                made[key] = Made(was[key], new)
            else:
                old, new_or_none = self.derive(level, key)
                made[key] = Made(old, new_or_none, known=key not in quick)
        return made

    def _adds_only(self, level: Level, key: str, change: Change) -> bool:
        """Whether the new instances change nothing but totals."""
        seen = self._seen[level].get(key)
        if seen is None:
            return False
        shown = self._parsed.get((level, key)) or orjson.loads(seen["attributes"])
        self._parsed[level, key] = shown
        checked: set[str] = set()
        for one in change.members:
            if one.group in checked:
                continue
            checked.add(one.group)
            if one.place <= seen["newest"] or not brings_nothing(seen, shown, one, level):
                return False
        return True

    def _increment(self, level: Level, changes: Mapping[str, Change]) -> bool:
        """Whether all the increments were made."""
        if not changes:
            return True
        operations = [
            UpdateOne(
                {"_id": key, "epoch": self._seen[level][key]["epoch"]},
                {
                    "$inc": {name: change.numbers[name] for name in NUMBERS[level]},
                    "$set": {"v": new_token()},
                    "$max": {"changed_at": clock_digits(now_in_milliseconds())},  # also where the clock was set back
                },
            )
            for key, change in changes.items()
        ]
        result = self._connection.safe(COLLECTION[level]).bulk_write(operations, ordered=False)
        return result.matched_count == len(operations)

    def _insert(self, level: Level, docs: Mapping[str, Doc]) -> bool:
        """Whether nobody else had made one of them."""
        try:
            self._connection.safe(COLLECTION[level]).insert_many(list(docs.values()), ordered=False)
        except BulkWriteError as error:
            if not is_duplicate(error):
                raise
            return False
        return True

    # After anything else

    def derive_study(self, study_uid: str, patients: Iterable[str] = ()) -> None:
        """Derive everything in a study again, the study itself, its patient, and those patients."""
        self.derive_series(study_uid, None, patients)

    def derive_series(self, study_uid: str, series_uids: Iterable[str] | None, patients: Iterable[str] = ()) -> None:
        """Derive these series (None: all), their study and its patient again, and those patients."""
        for uid in sorted(self.series_in(study_uid) if series_uids is None else series_uids):
            self.derive(Level.SERIES, series_id(study_uid, uid))
        made = self.derive(Level.STUDY, study_uid)
        for key in {*patients, *(doc["patient"] for doc in made if doc is not None)}:
            self.derive(Level.PATIENT, key)

    def series_in(self, study_uid: str) -> set[str]:
        """The series of a study: those that have a document, and those that should have one."""
        listed = self._connection.safe("series").find({"study": study_uid}, {"uid": 1})
        stored = self._connection.safe("instances").aggregate(
            [{"$match": {"study": study_uid}}, {"$group": {"_id": "$series"}}], hint="derive"
        )
        return {doc["uid"] for doc in listed} | {doc["_id"] for doc in stored}

    def made(self, level: Level, identity: str) -> Doc | None:
        """The document as what is below it says it should be; None where it should not be."""
        build = {Level.SERIES: self._series, Level.STUDY: self._study, Level.PATIENT: self._patient}[level]
        return build(identity)

    def derive(self, level: Level, identity: str) -> tuple[Doc | None, Doc | None]:
        """Make a document anew from what is below it now; gives what it was and what it is."""
        collection = self._connection.safe(COLLECTION[level])
        for attempt in range(_TRIES):
            old = collection.find_one({"_id": identity}, _STATE)
            new = self.made(level, identity)
            if old is None and new is None:
                return None, None
            if level is Level.STUDY and old is not None and (new is None or old["patient"] != new["patient"]):
                self._work.note_patients(self._token, {old["patient"], *([new["patient"]] if new else [])})
            if self._replace(level, identity, old, new):
                # Who removed the last one below before this was inserted found nothing here to derive.
                if old is None and self.made(level, identity) is None and self._replace(level, identity, new, None):
                    return None, None
                self._parsed.pop((level, identity), None)
                if new is None:
                    self._seen[level].pop(identity, None)
                else:
                    self._seen[level][identity] = new
                return old, new
            time.sleep(random.uniform(0, 0.002) * min(attempt, 10))  # noqa: S311 - no secret
        raise StorageUnavailable("The study is busy with other writers.", retry_after_seconds=2)

    def _replace(self, level: Level, identity: str, old: Doc | None, new: Doc | None) -> bool:
        collection = self._connection.safe(COLLECTION[level])
        if old is None and new is not None:
            try:
                collection.insert_one(new)
            except DuplicateKeyError:
                return False
            return True
        same = {"_id": identity, "v": old["v"] if old else ""}
        if new is None:
            return collection.delete_one(same).deleted_count == 1
        later = {"changed_at": max(new["changed_at"], old.get("changed_at", "") if old else "")}
        return collection.replace_one(same, {**new, **later}).matched_count == 1

    def _series(self, identity: str) -> Doc | None:
        study_uid, _, series_uid = identity.partition("/")
        hidden = self._work.committed(study_uid)
        match: Doc = {"study": study_uid, "series": series_uid, **({"gone": {"$nin": hidden}} if hidden else {})}
        instances = self._connection.safe("instances")
        groups = list(
            instances.aggregate(
                [
                    {"$match": match},
                    {
                        "$group": {
                            "_id": "$group",
                            "n": {"$sum": 1},
                            "first": {"$min": {"place": "$place", "uid": "$_id"}},
                        }
                    },
                ],
                hint="derive",
            )
        )
        groups.sort(key=lambda each: (each["first"]["place"], each["first"]["uid"]))
        firsts = {
            doc["_id"]: doc
            for doc in instances.find(
                {"_id": {"$in": [each["first"]["uid"] for each in groups]}},
                {"common": 1, "sop_class": 1, "transfer_syntax": 1},
            )
        }
        below = []
        for each in groups:
            first = firsts.get(each["first"]["uid"])
            if first is None:  # removed in between: whoever did that derives again
                continue
            below.append(
                instances_part(
                    orjson.loads(first["common"]),
                    place=each["first"]["place"],
                    number=each["n"],
                    sop_class=first["sop_class"],
                    transfer_syntax=first["transfer_syntax"],
                )
            )
        return series_document(identity, below)

    def _study(self, identity: str) -> Doc | None:
        return study_document(identity, self._below(Level.SERIES, {"study": identity}))

    def _patient(self, identity: str) -> Doc | None:
        return patient_document(identity, self._below(Level.STUDY, {"patient": identity}))

    def _below(self, level: Level, condition: Doc) -> list[Doc]:
        found = self._connection.safe(COLLECTION[level]).find(condition, _BELOW).sort("_id", 1)
        return [part(level, doc) for doc in found]
