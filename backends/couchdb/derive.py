"""Keeping the documents of series, studies and patients in step with the instances (the scheme is in `__init__`)."""

import contextlib
import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import orjson

from backends.couchdb import entities, keys
from backends.couchdb.database import AFTER_ID, Database, Json
from backends.couchdb.entities import Header, Placed
from backends.couchdb.records import attributes_of
from dicomweb_server.dicom.attributes import Attributes, merge
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageError, StorageUnavailable

ATTEMPTS = 200
PATIENTS_AT_ONCE = 200
PATIENT = "patient:"
LONGEST_PAUSE_SECONDS = 0.25


class _Vanished(Exception):
    """The last instance with a header, or the last study of a patient, was removed between two reads."""


@dataclass(slots=True)
class Shown:
    """What a study and the series asked for show, after deriving."""

    study: Attributes = field(default_factory=dict)
    series: dict[str, Attributes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Work:
    """One document to derive: a study, or a series of it, from rows of series, digest and first place."""

    study: str
    series: str | None
    rows: list[tuple[str, str, int]]

    @property
    def document_id(self) -> str:
        return entities.study_id(self.study) if self.series is None else entities.series_id(self.study, self.series)

    @cached_property
    def mark(self) -> str:
        return entities.mark_of(self.rows)

    def build(self, headers: Mapping[str, Header]) -> Json:
        ordered = sorted(self.rows, key=lambda row: row[::-1])
        placed = [Placed(headers[digest], first) for _, digest, first in ordered]
        if self.series is None:
            return entities.study_document(self.study, placed, self.mark)
        return entities.series_document(self.study, self.series, placed, self.mark)


def attempts() -> Iterator[int]:
    """Tries of something that others may be faster at, with growing random pauses; raises when it never works."""
    for number in range(ATTEMPTS):
        yield number
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.002 * 2 ** min(number, 7))))  # noqa: S311
    raise StorageUnavailable("Too many others write to the same study; try again.")


class Deriver:
    """Derives from `records` (the instances) into `archive` (everything above them)."""

    def __init__(self, records: Database, archive: Database) -> None:
        self._records = records
        self._archive = archive
        self._left_patients: set[str] = set()

    def settle(
        self, plan: Mapping[str, Collection[str]], new: Mapping[str, Header] = MappingProxyType({})
    ) -> dict[str, Shown]:
        """Bring studies, some series of each and their patients up to date, and say what they show. `new` are headers
        by their digests that may not be there yet.

        Everything that was written before the call is taken into account, by whoever it was written.
        """
        patients: set[str] = set()
        try:
            return self._settle(plan, new, patients)
        except StorageError:
            self._left_patients |= patients
            raise

    def settle_left_patients(self) -> None:
        """Bring those patients up to date that a failure of this process has left behind: the documents of the studies
        that named them may name others by now."""
        for key in sorted(self._left_patients):
            self.settle_patients([key])
            self._left_patients.discard(key)

    def _settle(
        self, plan: Mapping[str, Collection[str]], new: Mapping[str, Header], patients: set[str]
    ) -> dict[str, Shown]:
        """As `settle`. `patients` are then those that studies had or have."""
        waiting = {study: set(series) for study, series in plan.items()}
        shown: dict[str, Shown] = {}
        texts: dict[str, str] = {}
        unwritten = [header.document() for header in new.values()]
        for _ in attempts():
            if not waiting:
                break
            ids = [document_id for study, series in waiting.items() for document_id in _ids(study, series)]
            known = self._archive.get_many(ids)
            # The instances are read after the documents: if these are still so when written, nothing was overlooked.
            groups = self._groups(list(waiting))
            try:
                wanted = self._wanted(waiting, groups, known, new)
            except _Vanished:
                continue
            # Also when nothing is to be written: another one may have written the study, but not its patient yet.
            for study in waiting:
                both = (known.get(entities.study_id(study)), wanted.get(entities.study_id(study)))
                for document in both:
                    if document is not None:
                        patients.add(document["patient"])
                        texts |= _texts(document)
            lost = self._write(ids, known, wanted, beside=unwritten)
            unwritten = []
            for study, series in list(waiting.items()):
                if lost.isdisjoint(_ids(study, series)):
                    shown[study] = _shown(study, waiting.pop(study), wanted)
        self.settle_patients(patients, texts)
        return shown

    def settle_all(self, study_uid: str) -> None:
        """As `settle`, with every series that is there or should not be, and with the headers that its instances have,
        no more and no less."""
        self.settle({study_uid: self._series_in(study_uid)})
        places = {(study_uid, row["key"][1], row["key"][2]) for row in self._groups([study_uid])[study_uid]}
        with contextlib.suppress(_Vanished):
            self._headers(places)  # makes those that are missing
        self.drop_headers(study_uid)

    def _series_in(self, study_uid: str) -> set[str]:
        """The series of a study: those that have a document, and those that should have one."""
        prefix = entities.series_id(study_uid, "")
        rows = self._archive.view("_all_docs", startkey=prefix, endkey=prefix + AFTER_ID)
        series = {row["id"].removeprefix(prefix) for row in rows}
        return series | {row["key"][1] for row in self._groups([study_uid])[study_uid]}

    def wrong(self, study_uid: str) -> list[Json]:
        """The documents of a study, its series and its patient that are not what the instances say; what is missing is
        given without a revision. Documents are compared whole, whatever their mark says."""
        series = self._series_in(study_uid)
        ids = _ids(study_uid, series)
        known = self._archive.get_many(ids)
        try:
            wanted = self._wanted({study_uid: series}, self._groups([study_uid]), {})
            study = wanted.get(entities.study_id(study_uid)) or known.get(entities.study_id(study_uid))
            if study is not None:
                name = entities.patient_id(study["patient"])
                known |= self._archive.get_many([name])
                if patient := self._made_patient(study["patient"]):
                    wanted[name] = patient
                ids.append(name)
        except _Vanished:  # somebody removes meanwhile, or a header is lost
            return [known.get(entities.study_id(study_uid), {"_id": entities.study_id(study_uid)})]
        return [
            known.get(name) or {"_id": name} for name in ids if _lasting(known.get(name)) != _lasting(wanted.get(name))
        ]

    def recompute(self, study_uid: str) -> None:
        """Derive all documents that are `wrong` again, whatever they claim to be made of."""
        wrong = self.wrong(study_uid)
        self._archive.write([{**document, "mark": ""} for document in wrong if "_rev" in document])
        self.settle_all(study_uid)
        self.settle_patients([document["uid"] for document in wrong if document.get("level") == Level.PATIENT.value])

    def lonely_patients(self) -> Iterator[str]:
        """The keys of patients without a study."""
        start = PATIENT
        while rows := self._archive.view(
            "_all_docs", limit=PATIENTS_AT_ONCE, startkey=start, endkey=PATIENT + AFTER_ID, include_docs=True
        ):
            start = rows[-1]["id"] + "\0"
            found = [row["doc"]["uid"] for row in rows if row.get("doc")]
            wanted = [{"startkey": [key], "endkey": [key, keys.END], "reduce": False, "limit": 1} for key in found]
            for key, below in zip(found, self._archive.ranges("patients/patients", wanted), strict=True):
                if not below:
                    yield key

    def _made_patient(self, key: str) -> Json | None:
        wanted = [{"startkey": [key], "endkey": [key, keys.END], "group": True}]
        (rows,) = self._archive.ranges("patients/patients", wanted)
        return self._patient(key, rows, None, {}) if rows else None

    def _groups(self, studies: Sequence[str]) -> dict[str, list[Json]]:
        """The distinct headers of each study, with how many instances have each and the place of the first."""
        wanted = [{"startkey": [study], "endkey": [study, keys.END], "group": True} for study in studies]
        return dict(zip(studies, self._records.ranges("live/headers", wanted), strict=True))

    def _wanted(
        self,
        waiting: Mapping[str, Collection[str]],
        groups: Mapping[str, list[Json]],
        known: dict[str, Json],
        new: Mapping[str, Header] = MappingProxyType({}),
    ) -> dict[str, Json]:
        """The documents as they should be, by id; those that should not be are left out. Unchanged ones are `known`."""
        works: list[_Work] = []
        for study, series in waiting.items():
            rows = [(row["key"][1], row["key"][2], int(row["value"]["min"])) for row in groups[study]]
            works.append(_Work(study, None, rows))
            works += [_Work(study, uid, [row for row in rows if row[0] == uid]) for uid in series]
        works = [work for work in works if work.rows]
        stale = [work for work in works if known.get(work.document_id, {}).get("mark") != work.mark]
        places = {(work.study, *row[:2]) for work in stale for row in work.rows}
        headers = {**new, **self._headers({place for place in places if place[2] not in new})}
        wanted = {work.document_id: known[work.document_id] for work in works if work not in stale}
        return wanted | {work.document_id: work.build(headers) for work in stale}

    def _headers(self, places: set[tuple[str, str, str]]) -> dict[str, Header]:
        """The headers by digest; one whose document is missing is made again from an instance that has it."""
        found = self._archive.get_many([entities.header_id(study, digest) for study, _, digest in places])
        headers = {document["uid"]: Header.parse(document) for document in found.values()}
        missing = sorted(place for place in places if place[2] not in headers)
        if missing:
            wanted = [{"key": list(place), "reduce": False, "limit": 1, "include_docs": True} for place in missing]
            for place, rows in zip(missing, self._records.ranges("live/headers", wanted), strict=True):
                instance = rows[0].get("doc") if rows else None
                if instance is None:
                    raise _Vanished
                headers[place[2]] = header_of(instance, attributes_of(self._records, instance))
            self._archive.write([headers[place[2]].document() for place in missing])
        return headers

    def _write(
        self, ids: Sequence[str], known: dict[str, Json], wanted: dict[str, Json], *, beside: Sequence[Json] = ()
    ) -> set[str]:
        """The ids of those that another one has changed meanwhile. `beside` is written too, if it is not there."""
        changes: list[Json] = list(beside)
        for document_id in ids:
            old, new = known.get(document_id), wanted.get(document_id)
            if new is None and old is not None:
                changes.append({"_id": document_id, "_rev": old["_rev"], "_deleted": True})
            elif new is not None and new is not old:
                changes.append(new if old is None else {**new, "_rev": old["_rev"]})
        revisions = self._archive.write(changes) if changes else []
        return {each["_id"] for each, revision in zip(changes, revisions, strict=True) if revision is None}

    def settle_patients(self, patients: Collection[str], texts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Bring patients up to date with their studies, named by the keys that these have. `texts` are headers by their
        digests, which need not be read."""
        waiting = set(patients)
        for _ in attempts():
            if not waiting:
                return
            names = {entities.patient_id(key): key for key in sorted(waiting)}
            known = self._archive.get_many(list(names))
            wanted = [{"startkey": [key], "endkey": [key, keys.END], "group": True} for key in names.values()]
            groups = zip(names.items(), self._archive.ranges("patients/patients", wanted), strict=True)
            try:
                made = {
                    document_id: self._patient(key, rows, known.get(document_id), texts)
                    for (document_id, key), rows in groups
                    if rows
                }
            except _Vanished:
                continue
            lost = self._write(list(names), known, made)
            waiting = {names[document_id] for document_id in lost}

    def _patient(self, key: str, rows: Sequence[Json], old: Json | None, texts: Mapping[str, str]) -> Json:
        """The patient of these rows."""
        parts = sorted((int(row["value"]["min"]), row["key"][2]) for row in rows if row["key"][1] == "header")
        mark = entities.mark_of([*map(list, parts), *([0, *row["key"][1:]] for row in rows)])
        if old is not None and old["mark"] == mark:
            return old
        attributes = self._patient_attributes(key, [digest for _, digest in parts], texts)
        sets = {name: sorted(row["key"][2] for row in rows if row["key"][1] == name) for name in entities.SETS}
        return entities.patient_document(key, attributes, sets, mark)

    def _patient_attributes(self, key: str, digests: Sequence[str], texts: Mapping[str, str]) -> Attributes:
        """What the patient shows, from distinct headers of its studies, earliest first."""
        found = {digest: texts[digest] for digest in digests if digest in texts}
        missing = [digest for digest in digests if digest not in found]
        wanted = [
            {"key": [key, "header", digest], "reduce": False, "limit": 1, "include_docs": True} for digest in missing
        ]
        for rows in self._archive.ranges("patients/patients", wanted) if wanted else ():
            study: Any = (rows[0].get("doc") if rows else None) or {"brings": []}
            found |= _texts(study)
        if not found.keys() >= set(digests):
            raise _Vanished
        return merge(orjson.loads(found[digest]) for digest in digests)

    def drop_headers(self, study_uid: str) -> None:
        """Forget the headers that no instance of the study has any more."""
        prefix = entities.header_id(study_uid, "")
        rows = self._archive.view("_all_docs", startkey=prefix, endkey=prefix + AFTER_ID)
        if not rows:
            return
        live = {row["key"][2] for row in self._groups([study_uid])[study_uid]}
        unused = [row for row in rows if row["id"].rpartition("-")[2] not in live]
        if not unused:
            return
        self._archive.delete([{"_id": row["id"], "_rev": row["value"]["rev"]} for row in unused])
        # Somebody may have stored an instance with such a header meanwhile, and found the document still there.
        gone = {row["id"].rpartition("-")[2] for row in unused}
        places = {(study_uid, row["key"][1], row["key"][2]) for row in self._groups([study_uid])[study_uid]}
        with contextlib.suppress(_Vanished):
            self._headers({place for place in places if place[2] in gone})


def header_of(instance: Json, attributes: Attributes) -> Header:
    """The header of a stored instance."""
    header = Header.of(
        instance["study"], instance["series"], instance["sop_class"], instance["transfer_syntax"], attributes
    )
    return replace(header, digest=instance["header"])


def _texts(study: Json) -> dict[str, str]:
    """The headers that a study brings to its patient, by their digests."""
    return {item[1]: item[3] for item in study["brings"] if item[0] == "header"}


def _ids(study_uid: str, series_uids: Collection[str]) -> list[str]:
    """The study last: the patient follows from it."""
    return [*(entities.series_id(study_uid, uid) for uid in series_uids), entities.study_id(study_uid)]


def _lasting(document: Json | None) -> Any:
    """A document as it is kept, without its revision."""
    if document is None:
        return None
    return orjson.loads(orjson.dumps({name: value for name, value in document.items() if name != "_rev"}))


def _shown(study_uid: str, series_uids: Collection[str], wanted: dict[str, Json]) -> Shown:
    shown = Shown()
    if study := wanted.get(entities.study_id(study_uid)):
        shown.study = orjson.loads(study["attributes"])
    for uid in series_uids:
        if series := wanted.get(entities.series_id(study_uid, uid)):
            shown.series[uid] = orjson.loads(series["attributes"])
    return shown
