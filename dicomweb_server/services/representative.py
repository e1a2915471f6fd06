"""Which instance stands for a study or a series, in thumbnails and where one picture is asked for."""

from collections.abc import Iterator

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound
from dicomweb_server.services.retrieve import Instance, Retrieve
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Hit, Scope

_SERIES_LOOKED_AT = 100
_SERIES_TRIED = 5
_INSTANCES_LOOKED_AT = 50
_BY_INSTANCE_NUMBER = (Order("00200013", "IS"),)
_BY_SERIES_NUMBER = (Order("00200011", "IS"),)
_LATER = frozenset({"SEG", "RTDOSE", "REG", "PR", "KO", "SR", "DOC", "ECG", "RTSTRUCT", "RTPLAN", "ANN"})
"""Series of these modalities stand for a study only where it has no other."""


def representative(retrieve: Retrieve, storage: Storage, scope: Scope) -> Instance:
    """The instance in the middle of a series, of a study that of its first series of images, else of its first series;
    or the instance that is named. Raises NotFound."""
    if scope.instance_uid is not None:
        return retrieve.instance(scope=scope)
    if scope.series_uid is not None:
        count = storage.count(query=Query(level=Level.INSTANCE, scope=scope))
        return _middle(retrieve, storage, scope, count)
    query = Query(level=Level.SERIES, scope=scope, order=_BY_SERIES_NUMBER, limit=_SERIES_LOOKED_AT)
    first: Instance | None = None
    for hit in sorted(storage.search(query=query).hits, key=_is_later):
        series = Scope(study_uid=hit.study_uid, series_uid=hit.series_uid)
        found = _middle(retrieve, storage, series, hit.number_of_instances)
        if found.number_of_frames:
            return found
        first = first or found
    if first is None:
        raise NotFound("there is no such study")
    return first


def others(retrieve: Retrieve, storage: Storage, scope: Scope, instance: Instance) -> Iterator[Instance]:
    """Instances with pixels that can stand for a series or study where `representative` cannot be shown: a few of its
    own series, its neighbours first; of a study then the middle ones of its other series."""
    series = Scope(study_uid=instance.stored.study_uid, series_uid=instance.stored.series_uid)
    count = storage.count(query=Query(level=Level.INSTANCE, scope=series))
    places = (count // 2 + 1, count // 2 - 1, count // 4, 3 * count // 4, 0)
    for place in dict.fromkeys(place for place in places if 0 <= place < count):
        yield from (
            found for found in _some(retrieve, storage, series, offset=place, limit=1) if _is_other(found, instance)
        )
    if scope.series_uid is not None:
        return
    query = Query(level=Level.SERIES, scope=scope, order=_BY_SERIES_NUMBER, limit=_SERIES_TRIED)
    for hit in sorted(storage.search(query=query).hits, key=_is_later):
        if hit.series_uid != series.series_uid:
            middle = _middle(
                retrieve, storage, Scope(study_uid=hit.study_uid, series_uid=hit.series_uid), hit.number_of_instances
            )
            if middle.number_of_frames:
                yield middle


def _is_other(found: Instance, instance: Instance) -> bool:
    return bool(found.number_of_frames) and found.stored.instance_uid != instance.stored.instance_uid


def _is_later(hit: Hit) -> bool:
    values = hit.attributes.get("00080060", {}).get("Value") or [None]
    return values[0] in _LATER


def _middle(retrieve: Retrieve, storage: Storage, series: Scope, count: int) -> Instance:
    """The instance in the middle, or where that has no pixels the first that has."""
    middle = _some(retrieve, storage, series, offset=count // 2, limit=1)
    if not middle:
        raise NotFound("there is no such series")
    if middle[0].number_of_frames or count == 1:
        return middle[0]
    some = _some(retrieve, storage, series, offset=0, limit=_INSTANCES_LOOKED_AT)
    return next((instance for instance in some if instance.number_of_frames), middle[0])


def _some(retrieve: Retrieve, storage: Storage, series: Scope, *, offset: int, limit: int) -> list[Instance]:
    query = Query(level=Level.INSTANCE, scope=series, order=_BY_INSTANCE_NUMBER, limit=limit, offset=offset)
    return [
        retrieve.instance(
            scope=Scope(study_uid=hit.study_uid, series_uid=hit.series_uid, instance_uid=hit.instance_uid)
        )
        for hit in storage.search(query=query).hits
    ]
