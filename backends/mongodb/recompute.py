"""Checking what is derived against the instances, and deriving it again."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import bson

from backends.mongodb.connection import Connection, Doc
from backends.mongodb.derived import Ascent
from backends.mongodb.schema import COLLECTION
from backends.mongodb.summing import series_id
from backends.mongodb.work import Work
from dicomweb_server.dicom.levels import Level
from dicomweb_server.storage.records import Scope

_BATCH = 500
_OF_THE_MOMENT = ("v", "epoch", "changed_at")


def is_exact(connection: Connection, work: Work, scope: Scope) -> bool:
    """As `Storage.is_exact`."""
    if scope.study_uid is None:
        return next(_lonely(connection), None) is None
    ascent = Ascent(connection, work, "")
    places = [(Level.SERIES, series_id(scope.study_uid, uid)) for uid in ascent.series_in(scope.study_uid)]
    study = connection.safe("studies").find_one({"_id": scope.study_uid}, {"patient": 1})
    places += [(Level.STUDY, scope.study_uid), *([(Level.PATIENT, study["patient"])] if study else [])]
    return all(_same(connection, ascent, level, identity) for level, identity in places)


def recompute(connection: Connection, work: Work, scope: Scope) -> None:
    """As `Storage.recompute`."""
    mark = work.mark([scope.study_uid] if scope.study_uid else [], silent=True)
    ascent = Ascent(connection, work, mark.token)
    if scope.study_uid is None:
        for key in _lonely(connection):
            ascent.derive(Level.PATIENT, key)
    else:
        ascent.derive_study(scope.study_uid)
    work.unmark(mark.token)


def _same(connection: Connection, ascent: Ascent, level: Level, identity: str) -> bool:
    found = connection.safe(COLLECTION[level]).find_one({"_id": identity})
    return _lasting(found) == _lasting(ascent.made(level, identity))


def _lasting(doc: Doc | None) -> dict[str, Any] | None:
    """A document as it comes back from the database, without what is new with each writing."""
    if doc is None:
        return None
    return bson.decode(bson.encode({name: value for name, value in doc.items() if name not in _OF_THE_MOMENT}))


def _lonely(connection: Connection) -> Iterator[str]:
    """Patients without a study."""
    found = iter(connection.safe("patients").find({}, {"_id": 1}).sort("_id", 1))
    while keys := [doc["_id"] for doc in islice(found, _BATCH)]:
        yield from sorted(set(keys) - _with_studies(connection, keys))


def _with_studies(connection: Connection, keys: Sequence[str]) -> set[str]:
    return set(connection.safe("studies").distinct("patient", {"patient": {"$in": list(keys)}}))
