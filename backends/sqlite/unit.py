"""Everything that changes inside one write transaction: a unit of work over instances and what is derived from them."""

import sqlite3
import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from operator import is_
from typing import Any

import orjson

from backends.sqlite import entities, schema
from backends.sqlite.entities import Entity, Header
from backends.sqlite.rows import Rows
from dicomweb_server.dicom.attributes import SUMMARY, Attributes, conflicts, level_of, merge, patient_key, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values
from dicomweb_server.errors import NotFound
from dicomweb_server.storage.packing import header_of
from dicomweb_server.storage.records import (
    Blob,
    ChangeKind,
    InstanceRecord,
    OnDuplicate,
    Removed,
    Scope,
    Stored,
    StoreOutcome,
)

_OWN_SUMMARY = sorted(tag for tag in SUMMARY if level_of(tag) is Level.INSTANCE)
_NO_POSITION = float("inf")
_OLD = (
    "i.uid, h.study_uid, h.series_uid, h.sop_class, h.transfer_syntax, i.stored_at, i.blob_key, i.size_bytes, "
    "i.sha256, i.layout_blob, c.layout, c.metadata"
)
_FROM_INSTANCE = "FROM instance i JOIN header h ON h.id = i.header JOIN content c ON c.id = i.id"


def microseconds() -> int:
    """Now, as it is kept in the tables: since 1970, UTC."""
    return time.time_ns() // 1000


class Unit(Rows):
    """Holds the rows that one transaction works on. `flush` writes them; nothing is derived twice before that."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.now = microseconds()
        self._found_conflicts: dict[int, tuple[str, ...]] = {}
        self._digested: tuple[tuple[str, str], list[str], list[Mapping[str, Any]], bytes] | None = None

    # Storing

    def store(self, record: InstanceRecord, on_duplicate: OnDuplicate) -> StoreOutcome:
        """As `Storage.store`, for one record."""
        known = self.connection.execute(
            "SELECT i.id, i.blob_key, i.sha256, h.study_uid, h.series_uid "
            "FROM instance i JOIN header h ON h.id = i.header WHERE i.uid = ?",
            (record.instance_uid,),
        ).fetchone()
        if known is None and record.replaces is None:
            return self._create(record)
        if known is not None and known[2:] == (record.blob.sha256, record.study_uid, record.series_uid):
            return StoreOutcome(stored=Stored.SAME, instance_uid=record.instance_uid)
        replaces = None if known is None else known[1]
        if known is None or on_duplicate is OnDuplicate.REJECT or record.replaces not in (None, replaces):
            return StoreOutcome(stored=Stored.REFUSED, instance_uid=record.instance_uid)
        found = self._replace(known[0], record, ChangeKind.REPLACED, stored_at=self.now)
        return StoreOutcome(stored=Stored.REPLACED, instance_uid=record.instance_uid, conflicts=found)

    def add(self, record: InstanceRecord, stored_at: int, *, instance_id: int | None = None) -> Header:
        """Make an instance that is new the latest of all, or put it at the place of an id that it had before."""
        last = instance_id is None
        if instance_id is None:
            instance_id = self.next_id()
        header = self._header(record, instance_id, last=last)
        self._count(header, 1)
        if not last:
            self._outdate(header)
        row = self._instance_row(record, header, stored_at)
        entities.insert(self.connection, "instance", {"id": instance_id, "uid": record.instance_uid, **row})
        self.connection.execute(
            "INSERT INTO content (id, layout, metadata) VALUES (?, ?, ?)", (instance_id, record.layout, record.metadata)
        )
        return header

    def _create(self, record: InstanceRecord) -> StoreOutcome:
        header = self.add(record, self.now)
        self.note(ChangeKind.STORED, record.study_uid, record.series_uid, record.instance_uid)
        return StoreOutcome(stored=Stored.CREATED, instance_uid=record.instance_uid, conflicts=self._conflicts(header))

    def _replace(
        self, instance_id: int, record: InstanceRecord, kind: ChangeKind, *, stored_at: int
    ) -> tuple[str, ...]:
        self.flush()
        self.connection.execute(
            "INSERT INTO replaced (id, uid, study_uid, series_uid, sop_class, transfer_syntax, stored_at, blob_key, "
            "size_bytes, sha256, layout_blob, layout, metadata, replaced_at) "
            f"SELECT ?, {_OLD}, ? {_FROM_INSTANCE} WHERE i.id = ?",
            (self.next_id(), self.now, instance_id),
        )
        (old_id,) = self.connection.execute("SELECT header FROM instance WHERE id = ?", (instance_id,)).fetchone()
        old = self.header_by_id(old_id)
        new = self._header(record, instance_id, last=False)
        for header, difference in ((old, -1), (new, 1)):
            self._count(header, difference)
            self._outdate(header)
        entities.update(self.connection, "instance", instance_id, self._instance_row(record, new, stored_at))
        self.connection.execute(
            "UPDATE content SET layout = ?, metadata = ? WHERE id = ?", (record.layout, record.metadata, instance_id)
        )
        if (old.study.uid, old.series.uid) != (record.study_uid, record.series_uid):
            self.note(ChangeKind.REMOVED, old.study.uid, old.series.uid, record.instance_uid)
        self.note(kind, record.study_uid, record.series_uid, record.instance_uid)
        self.flush()
        return self._conflicts(new)

    def _instance_row(self, record: InstanceRecord, header: Header, stored_at: int) -> dict[str, Any]:
        numbers = match_values(record.attributes, ("00200013",))
        summary = {tag: record.attributes[tag] for tag in _OWN_SUMMARY if tag in record.attributes}
        return {
            "series": header.series.id,
            "header": header.id,
            "position": numbers[0] if numbers else _NO_POSITION,
            "changed": self.next_id(),
            "stored_at": stored_at,
            "blob_key": record.blob.key,
            "size_bytes": record.blob.size_bytes,
            "sha256": record.blob.sha256,
            "layout_blob": record.layout_blob,
            "summary": orjson.dumps(summary, default=dict),
        }

    def _conflicts(self, header: Header) -> tuple[str, ...]:
        """Of attributes of patient and study with what the study shows, of the series' with what that shows."""
        if header.id not in self._found_conflicts:
            own_study = select(header.attributes, Level.STUDY)
            own_series = {tag: value for tag, value in header.attributes.items() if tag not in own_study}
            found = conflicts(header.study.attributes, own_study) + conflicts(header.series.attributes, own_series)
            self._found_conflicts[header.id] = tuple(sorted(found))
        return self._found_conflicts[header.id]

    def note(self, kind: ChangeKind, study_uid: str, series_uid: str, instance_uid: str) -> None:
        """Tell the change feed."""
        self.connection.execute(
            "INSERT INTO change (id, kind, study_uid, series_uid, instance_uid, changed_at) VALUES (?, ?, ?, ?, ?, ?)",
            (self.next_id(), kind.value, study_uid, series_uid, instance_uid, self.now),
        )

    # The rows above an instance

    def _header(self, record: InstanceRecord, instance_id: int, *, last: bool) -> Header:
        """The header of a record, with everything above it. `last`: the instance is the latest of all, so that what is
        shown can be merged with what was shown; otherwise it is derived again."""
        study = self.study(record.study_uid)
        series = self.series_of(study, record.series_uid)
        attributes = select(record.attributes, Level.SERIES)
        digest = self._digest((record.sop_class_uid, record.transfer_syntax_uid), attributes)
        header = self.known_header(series, digest)
        if header is None:
            header = Header(
                id=self.next_id(),
                series=series,
                study=study,
                digest=digest,
                sop_class=record.sop_class_uid,
                transfer_syntax=record.transfer_syntax_uid,
                attributes=attributes,
                instances=0,
                first=instance_id,
            )
            entities.insert_header(self.connection, header)
            self.headers[header.id] = header
            self.header_ids[series.id, digest] = header.id
            if last:
                self._show(header)
        return header

    def _digest(self, classes: tuple[str, str], attributes: Attributes) -> bytes:
        """Of what makes a header. Instances of a series that were read one after the other share the very elements."""
        tags, elements = list(attributes), list(attributes.values())
        if self._digested is not None:
            classes_before, tags_before, elements_before, digest = self._digested
            if (classes, tags) == (classes_before, tags_before) and all(map(is_, elements, elements_before)):
                return digest
        packed = orjson.dumps((*classes, attributes), default=dict, option=orjson.OPT_SORT_KEYS)
        digest = blake2b(packed, digest_size=16).digest()
        self._digested = classes, tags, elements, digest
        return digest

    def _show(self, header: Header) -> None:
        """Let series, study and patient show what a header brings that none before it had."""
        study, series = header.study, header.series
        self._found_conflicts.clear()
        self._merge_into(series, header.attributes)
        self._merge_into(study, select(header.attributes, Level.STUDY))
        for entity in (series, study):
            self._include(entity, header)
        key = patient_key(study.attributes, study.uid)
        if study.parent and self.patients[study.parent].uid != key:
            self._move(study, key)
            return
        patient = self.patient(key)
        if not study.parent:
            study.parent = patient.id
            patient.count(studies=1, series=study.numbers["series"], instances=study.numbers["instances"])
        self._merge_into(patient, select(header.attributes, Level.PATIENT))
        self._include(patient, header)

    def _include(self, entity: Entity, header: Header) -> None:
        modalities = _modalities(header.attributes)
        entity.include(modalities=modalities, sop_class=header.sop_class, transfer_syntax=header.transfer_syntax)

    def _merge_into(self, entity: Entity, attributes: Attributes) -> None:
        merged = merge((entity.attributes, attributes))
        if merged != entity.attributes:
            entity.attributes, entity.shown = merged, True

    def _move(self, study: Entity, key: str) -> None:
        """The study turned out to be another patient's."""
        source, target = self.patients[study.parent], self.patient(key)
        study.parent, study.shown = target.id, True
        for entity in (study, source, target):
            entity.stale = True

    def _count(self, header: Header, difference: int) -> None:
        header.instances += difference
        header.touched = True
        header.series.count(instances=difference)
        self.above(header.study, instances=difference)

    def _outdate(self, header: Header) -> None:
        header.stale = header.series.stale = header.study.stale = True
        if header.study.parent:
            self.patients[header.study.parent].stale = True

    # Writing

    def flush(self) -> None:
        """Write all rows, deriving again what is stale, bottom up."""
        if not self.studies:
            return
        self._found_conflicts.clear()
        stamp = self.next_id()
        for header in list(self.headers.values()):
            self._flush_header(header)
        for series in list(self.series.values()):
            if series.stale:
                self._derive_series(series)
        for study in list(self.studies.values()):
            if study.stale:
                self._derive_study(study)
        for study in self.studies.values():  # their patients are derived by way of them
            self._save(study, stamp)
        for patient in list(self.patients.values()):
            if patient.stale:
                self._derive_patient(patient)
        for entity in (*self.patients.values(), *self.series.values()):
            self._save(entity, stamp)
        self.connection.execute("UPDATE archive SET sequence = ?", (self.sequence,))

    def _save(self, entity: Entity, stamp: int) -> None:
        if entity.touched or entity.shown:
            entity.changed, entity.changed_at = stamp, schema.digits_of(self.now)
            entities.save(self.connection, entity)

    def _flush_header(self, header: Header) -> None:
        if header.stale and header.instances:
            (header.first,) = self.connection.execute(
                "SELECT min(id) FROM instance WHERE header = ?", (header.id,)
            ).fetchone()
            header.touched = True
        header.stale = False
        if header.touched:
            entities.save_header(self.connection, header)
        if not header.instances:
            del self.headers[header.id], self.header_ids[header.series.id, header.digest]

    def _derive_series(self, series: Entity) -> None:
        if not derived(self.connection, series, "series = ?", series.id):
            del self.series[series.id], self.series_ids[series.parent, series.uid]
            entities.delete(self.connection, series)
            self.study_by_id(series.parent).stale = True

    def _derive_study(self, study: Entity) -> None:
        found = derived(self.connection, study, "study = ?", study.id)
        old = self.patients.get(study.parent)
        if old is not None:
            old.stale = True
        if not found:
            del self.studies[study.id], self.study_ids[study.uid]
            entities.delete(self.connection, study)
            return
        patient = self.patient(patient_key(study.attributes, study.uid))
        patient.stale, study.parent = True, patient.id

    def _derive_patient(self, patient: Entity) -> None:
        below = "study IN (SELECT id FROM study WHERE patient = ?)"
        if not derived(self.connection, patient, below, patient.id):
            del self.patients[patient.id], self.patient_ids[patient.uid]
            entities.delete(self.connection, patient)

    # Removing and restoring

    def remove(self, scope: Scope, *, keep: bool) -> Removed:
        """As `Storage.remove`."""
        chosen, values = scope_condition(scope)
        rows = self.connection.execute(
            "SELECT i.id, i.uid, i.header, h.study_uid, h.series_uid "  # noqa: S608
            f"FROM instance i JOIN header h ON h.id = i.header WHERE {chosen}",
            values,
        ).fetchall()
        if not rows:
            raise scope.not_found()
        series, studies = set(), set()
        for instance_id, uid, header_id, study_uid, series_uid in rows:
            header = self.header_by_id(header_id)
            self._count(header, -1)
            self._outdate(header)
            series.add(header.series)
            studies.add(header.study)
            if keep:
                self._put_in_bin(instance_id, uid)
            else:
                self._release_versions(uid)
                self.release(
                    self.connection.execute("SELECT blob_key, layout_blob FROM instance WHERE id = ?", (instance_id,))
                )
            self.connection.execute("DELETE FROM instance WHERE id = ?", (instance_id,))
            self.connection.execute("DELETE FROM content WHERE id = ?", (instance_id,))
            self.note(ChangeKind.REMOVED, study_uid, series_uid, uid)
        self.flush()
        return Removed(
            studies=sum(study.id not in self.studies for study in studies),
            series=sum(entity.id not in self.series for entity in series),
            instances=len(rows),
        )

    def _put_in_bin(self, instance_id: int, uid: str) -> None:
        # Behind what was removed of it before, also where the clock was set back: the last one is restored.
        (before,) = self.connection.execute("SELECT max(binned_at) FROM binned WHERE uid = ?", (uid,)).fetchone()
        self.connection.execute(
            "INSERT INTO binned (id, uid, study_uid, series_uid, sop_class, transfer_syntax, stored_at, blob_key, "
            f"size_bytes, sha256, layout_blob, layout, metadata, binned_at) SELECT ?, {_OLD}, ? {_FROM_INSTANCE} "
            "WHERE i.id = ?",
            (instance_id, max(self.now, (before or 0) + 1), instance_id),
        )
        self.connection.execute("UPDATE replaced SET binned = ? WHERE uid = ? AND binned IS NULL", (instance_id, uid))

    def _release_versions(self, instance_uid: str) -> None:
        versions = "FROM replaced WHERE uid = ? AND binned IS NULL"
        self.release(self.connection.execute(f"SELECT blob_key, layout_blob {versions}", (instance_uid,)))
        self.connection.execute(f"DELETE {versions}", (instance_uid,))

    def release(self, rows: Iterable[tuple[str | None, ...]]) -> None:
        """Queue the blobs that the rows name."""
        keys = [(key,) for row in list(rows) for key in row if key is not None]
        self.connection.executemany("INSERT OR IGNORE INTO released (blob_key) VALUES (?)", keys)

    def restore(self, instance_uid: str, version: str) -> None:
        """As `Storage.restore`."""
        row = None
        if version.isascii() and version.isdigit() and len(version) < 19:
            row = self.connection.execute(
                "SELECT r.study_uid, r.series_uid, r.sop_class, r.transfer_syntax, r.stored_at, r.blob_key, "
                "r.size_bytes, r.sha256, r.layout_blob, r.layout, r.metadata, i.id "
                "FROM replaced r JOIN instance i ON i.uid = r.uid WHERE r.id = ? AND r.uid = ? AND r.binned IS NULL",
                (int(version), instance_uid),
            ).fetchone()
        if row is None:
            raise NotFound("there is no such version of the instance")
        record = InstanceRecord(
            study_uid=row[0],
            series_uid=row[1],
            instance_uid=instance_uid,
            sop_class_uid=row[2],
            transfer_syntax_uid=row[3],
            attributes=header_of(row[10]),
            metadata=row[10],
            blob=Blob(key=row[5], size_bytes=row[6], sha256=row[7]),
            layout=row[9],
            layout_blob=row[8],
        )
        self.connection.execute("DELETE FROM replaced WHERE id = ?", (int(version),))
        self._replace(row[11], record, ChangeKind.RESTORED, stored_at=row[4])


def scope_condition(scope: Scope) -> tuple[str, tuple[str, ...]]:
    """The condition on `instance i` that a scope means."""
    conditions, values = [], []
    if scope.instance_uid is not None:
        conditions.append("i.uid = ?")
        values.append(scope.instance_uid)
    chosen = []
    if scope.study_uid is not None:
        chosen.append("study = (SELECT id FROM study WHERE uid = ?)")
        values.append(scope.study_uid)
    if scope.series_uid is not None:
        chosen.append("uid = ?")
        values.append(scope.series_uid)
    if chosen:
        conditions.append(f"i.series IN (SELECT id FROM series WHERE {' AND '.join(chosen)})")  # noqa: S608
    return " AND ".join(conditions) or "1", tuple(values)


def derived(connection: sqlite3.Connection, entity: Entity, condition: str, value: int) -> bool:
    """Let an entity show and hold what the headers of the condition make, earliest first; False where there are none.
    The condition is a constant of the caller."""
    rows = connection.execute(
        "SELECT series, study, sop_class, transfer_syntax, instances, attributes FROM header "  # noqa: S608
        f"WHERE {condition} ORDER BY first",
        (value,),
    ).fetchall()
    if not rows:
        return False
    parsed = [orjson.loads(row[5]) for row in rows]
    entity.attributes = merge(select(attributes, entity.level) for attributes in parsed)
    entity.sets = {
        "modalities": {value for attributes in parsed for value in _modalities(attributes)},
        "sop_classes": {row[2] for row in rows},
        "transfer_syntaxes": {row[3] for row in rows},
    }
    numbers = {
        "studies": len({row[1] for row in rows}),
        "series": len({row[0] for row in rows}),
        "instances": sum(row[4] for row in rows),
    }
    entity.numbers = {name: numbers[name] for name in entity.numbers}
    entity.shown = entity.touched = True
    entity.stale = False
    return True


def _modalities(attributes: Attributes) -> list[str]:
    return [str(value) for value in match_values(attributes, ("00080060",))]
