"""The rows that one write transaction works on, each loaded once."""

import sqlite3

import orjson

from backends.sqlite import entities
from backends.sqlite.entities import Entity, Header
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import StorageCorrupt


class Rows:
    """Patients, studies, series and headers by id and by what names them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.sequence: int = connection.execute("SELECT sequence FROM archive").fetchone()[0]
        self.patients: dict[int, Entity] = {}
        self.patient_ids: dict[str, int] = {}
        self.studies: dict[int, Entity] = {}
        self.study_ids: dict[str, int] = {}
        self.series: dict[int, Entity] = {}
        self.series_ids: dict[tuple[int, str], int] = {}
        self.headers: dict[int, Header] = {}
        self.header_ids: dict[tuple[int, bytes], int] = {}

    def next_id(self) -> int:
        """A number that no row had before: ids grow in the order of storing, change numbers in that of changing."""
        self.sequence += 1
        return self.sequence

    def study(self, study_uid: str) -> Entity:
        """The study, made if it is new."""
        study_id = self.study_ids.get(study_uid)
        if study_id is not None:
            return self.studies[study_id]
        study = entities.load(self.connection, Level.STUDY, "uid = ?", study_uid)
        if study is None:
            study = Entity.created(Level.STUDY, self.next_id(), study_uid, 0)
        return self._keep_study(study)

    def study_by_id(self, study_id: int) -> Entity:
        """A study that is there."""
        known = self.studies.get(study_id)
        return known or self._keep_study(_present(entities.load(self.connection, Level.STUDY, "id = ?", study_id)))

    def _keep_study(self, study: Entity) -> Entity:
        self.studies[study.id] = study
        self.study_ids[study.uid] = study.id
        if study.parent and study.parent not in self.patients:
            patient = _present(entities.load(self.connection, Level.PATIENT, "id = ?", study.parent))
            self.patients[patient.id] = patient
            self.patient_ids[patient.uid] = patient.id
        return study

    def series_of(self, study: Entity, series_uid: str) -> Entity:
        """The series of a study, made and counted if it is new."""
        series_id = self.series_ids.get((study.id, series_uid))
        if series_id is not None:
            return self.series[series_id]
        series = entities.load(self.connection, Level.SERIES, "study = ? AND uid = ?", study.id, series_uid)
        if series is None:
            series = Entity.created(Level.SERIES, self.next_id(), series_uid, study.id)
            self.above(study, series=1)
        self.series[series.id] = series
        self.series_ids[study.id, series_uid] = series.id
        return series

    def series_by_id(self, series_id: int) -> Entity:
        """A series that is there."""
        if series_id not in self.series:
            series = _present(entities.load(self.connection, Level.SERIES, "id = ?", series_id))
            self.series[series.id] = series
            self.series_ids[series.parent, series.uid] = series.id
        return self.series[series_id]

    def patient(self, key: str) -> Entity:
        """The patient, made if it is new."""
        if key not in self.patient_ids:
            patient = entities.load(self.connection, Level.PATIENT, "uid = ?", key)
            if patient is None:
                patient = Entity.created(Level.PATIENT, self.next_id(), key, 0)
            self.patients[patient.id] = patient
            self.patient_ids[key] = patient.id
        return self.patients[self.patient_ids[key]]

    def known_header(self, series: Entity, digest: bytes) -> Header | None:
        """The header of a series with this digest."""
        header_id = self.header_ids.get((series.id, digest))
        if header_id is not None:
            return self.headers[header_id]
        if series.new:
            return None
        row = self.connection.execute(
            "SELECT id FROM header WHERE series = ? AND digest = ?", (series.id, digest)
        ).fetchone()
        return self.header_by_id(row[0]) if row else None

    def header_by_id(self, header_id: int) -> Header:
        """A header that is there, with the rows above it."""
        if header_id not in self.headers:
            row = self.connection.execute(
                "SELECT series, study, digest, sop_class, transfer_syntax, attributes, instances, first "
                "FROM header WHERE id = ?",
                (header_id,),
            ).fetchone()
            header = Header(
                id=header_id,
                series=self.series_by_id(row[0]),
                study=self.study_by_id(row[1]),
                digest=row[2],
                sop_class=row[3],
                transfer_syntax=row[4],
                attributes=orjson.loads(row[5]),
                instances=row[6],
                first=row[7],
            )
            self.headers[header_id] = header
            self.header_ids[header.series.id, header.digest] = header_id
        return self.headers[header_id]

    def above(self, study: Entity, **differences: int) -> None:
        """Add to the numbers of a study and of its patient."""
        study.count(**differences)
        if study.parent:
            self.patients[study.parent].count(**differences)


def _present(entity: Entity | None) -> Entity:
    if entity is None:
        raise StorageCorrupt("The record above an instance is gone.")
    return entity
