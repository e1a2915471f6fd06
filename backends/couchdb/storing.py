"""Storing, replacing and restoring instances."""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from backends.couchdb import keys
from backends.couchdb import records as documents
from backends.couchdb.database import Database, Json
from backends.couchdb.derive import Deriver, Shown, attempts
from backends.couchdb.entities import Header
from backends.couchdb.inflight import InFlight
from dicomweb_server.dicom.attributes import conflicts, select
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound, StorageUnavailable
from dicomweb_server.storage.records import ChangeKind, InstanceRecord, OnDuplicate, Stored, StoreOutcome

KNOWN_HEADERS = 4096
_CHANGED = (Stored.CREATED, Stored.REPLACED)


@dataclass(slots=True)
class _Item:
    """A record on its way."""

    record: InstanceRecord
    header: Header
    document: Json
    stored: Stored | None = None


@dataclass(slots=True)
class _Touched:
    """The series to derive again, by study."""

    series: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    vacated: set[str] = field(default_factory=set)

    def add(self, document: Json) -> None:
        self.series[document["study"]].add(document["series"])


class Storing:
    """What writes instances, but for removals."""

    def __init__(
        self, records: Database, archive: Database, deriver: Deriver, inflight: InFlight, clock: keys.Clock
    ) -> None:
        self._records = records
        self._archive = archive
        self._deriver = deriver
        self._inflight = inflight
        self._clock = clock
        self._headers: OrderedDict[str, None] = OrderedDict()

    # Storing

    def store(self, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        """As `Storage.store`."""
        items = [self._item(record) for record in records]
        touched = _Touched()
        with self._inflight.writing({record.study_uid for record in records}):
            parts = [part for item in items for part in documents.part_documents(item.record, item.document["attempt"])]
            self._records.write(parts)
            waiting, tries = items, attempts()
            while waiting:
                left = self._round(waiting, on_duplicate, touched)
                if len(left) == len(waiting):
                    next(tries)
                waiting = left
            new = {item.header.digest: item.header for item in items if item.stored in _CHANGED}
            new = {digest: header for digest, header in new.items() if digest not in self._headers}
            shown = self._deriver.settle(touched.series, new)
            self._remember(new)
            for study in touched.vacated:
                self._deriver.drop_headers(study)
        self._drop_parts([item for item in items if item.stored not in _CHANGED])
        return [_outcome(item, shown) for item in items]

    def _item(self, record: InstanceRecord) -> _Item:
        header = Header.of(
            record.study_uid, record.series_uid, record.sop_class_uid, record.transfer_syntax_uid, record.attributes
        )
        document = documents.instance_document(record, header.digest, keys.new_attempt(), self._clock.next())
        return _Item(record, header, document)

    def _remember(self, headers: Iterable[str]) -> None:
        """That these headers are there; one that was deleted since is made again when needed."""
        self._headers |= dict.fromkeys(headers)
        while len(self._headers) > KNOWN_HEADERS:
            self._headers.popitem(last=False)

    def _round(self, items: Sequence[_Item], on_duplicate: OnDuplicate, touched: _Touched) -> list[_Item]:
        """Write the first of each UID; what is left, in order: others of the same UID, and those to try again."""
        first: dict[str, _Item] = {}
        rest: list[_Item] = []
        for item in items:
            if item.record.instance_uid in first:
                rest.append(item)
            else:
                first[item.record.instance_uid] = item
        tried = list(first.values())
        new = [item for item in tried if item.record.replaces is None]
        revisions = self._records.write([item.document for item in new])
        refused = [item for item, revision in zip(new, revisions, strict=True) if revision is None]
        refused += [item for item in tried if item.record.replaces is not None]
        found = self._records.get_many([item.document["_id"] for item in refused])
        known = self._records.assured(found)
        for item in tried:
            if item.document["_id"] in found.keys() - known.keys():
                continue  # it may not stay
            current = known.get(item.document["_id"])
            if "_rev" in item.document:
                item.stored = Stored.CREATED
            elif current is None and item.record.replaces is not None:
                item.stored = Stored.REFUSED
            elif current is not None:
                item.stored = self._meet(item, current, on_duplicate, touched)
            if item.stored is not None and item.stored is not Stored.REFUSED:
                touched.add(item.document)
        return [item for item in tried if item.stored is None] + rest

    def _meet(self, item: _Item, current: Json, on_duplicate: OnDuplicate, touched: _Touched) -> Stored | None:
        """What becomes of a record whose UID is there; None when it changes under our hands."""
        record = item.record
        if current["attempt"] == item.document["attempt"]:
            return Stored.CREATED  # our own first try, whose answer was lost
        same = (record.blob.sha256, record.study_uid, record.series_uid)
        if (current["blob"]["sha256"], current["study"], current["series"]) == same:
            return Stored.SAME
        if on_duplicate is OnDuplicate.REJECT or record.replaces not in (None, current["blob"]["key"]):
            return Stored.REFUSED
        with self._inflight.writing({current["study"], record.study_uid}):
            done = self._replace(current, item.document, ChangeKind.REPLACED)
            if done:
                self._note(current, touched)
        return Stored.REPLACED if done else None

    def _note(self, current: Json, touched: _Touched) -> None:
        touched.add(current)
        touched.vacated.add(current["study"])

    def _replace(self, current: Json, version: Json, kind: ChangeKind) -> bool:
        """Put a version in the place of the current one, which is kept; False when that one changed meanwhile.

        The older version is written first. Until the second write it names the current attempt, and `replaced` does
        not show it; so does one that is left behind.
        """
        now = self._clock.next(after=documents.last_entry(current))
        old = documents.replaced_document(current, now)
        if not self._records.put(old):
            there = self._records.get(old["_id"])
            if there is None or not self._records.put({**old, "_rev": there["_rev"]}):
                return False
        if self._records.put(documents.successor(current, version, kind, now)):
            return True
        there = self._records.get(current["_id"])
        if there is not None and there["attempt"] == version["attempt"]:
            return True
        if there is None or there["seq"] != current["seq"]:
            left = self._records.get(old["_id"])
            self._records.delete([left] if left is not None else [])
        return False

    def _drop_parts(self, items: Sequence[_Item]) -> None:
        ids = [part for item in items for part in documents.part_ids(item.document)]
        if ids:
            self._records.delete(self._records.get_many(ids).values())

    # Older versions

    def replaced(self, instance_uid: str) -> list[Json]:
        """The older versions of an instance that is there, newest first."""
        current = self._records.get(documents.instance_id(instance_uid))
        if current is None:
            return []
        found = [
            old
            for old in self._records.with_prefix(documents.replaced_id(instance_uid, ""))
            if old["attempt"] != current["attempt"] and old["life"] == current["seq"] and not old.get("purging")
        ]
        return sorted(found, key=lambda old: (int(old["replaced_at"]), str(old["_id"])), reverse=True)

    def restore(self, instance_uid: str, version: str) -> None:
        """As `Storage.restore`."""
        for _ in attempts():
            old = next((old for old in self.replaced(instance_uid) if old["attempt"] == version), None)
            current = self._records.get(documents.instance_id(instance_uid))
            if old is None or current is None:
                raise NotFound("there is no such version of the instance")
            old = {**old, "claimed_at": int(time.time())}  # nobody purges it now
            if not self._records.put(old):
                continue
            touched = _Touched()
            with self._inflight.writing({current["study"], old["study"]}):
                if not self._replace(current, old, ChangeKind.RESTORED):
                    continue
                self._records.delete([old])
                touched.add(old)
                self._note(current, touched)
                self._deriver.settle(touched.series)
                self._deriver.drop_headers(current["study"])
            return


def _outcome(item: _Item, shown: Mapping[str, Shown]) -> StoreOutcome:
    if item.stored is None:
        raise StorageUnavailable("An instance changed too often while it was stored; try again.")
    found: tuple[str, ...] = ()
    if item.stored in _CHANGED:
        # Of attributes of patient and study what the study shows counts, of those of the series what the series shows.
        above = shown[item.record.study_uid]
        study = select(item.header.attributes, Level.STUDY)
        series = {tag: value for tag, value in item.header.attributes.items() if tag not in study}
        beside = above.series.get(item.record.series_uid, {})
        found = tuple(sorted(conflicts(above.study, study) + conflicts(beside, series)))
    return StoreOutcome(stored=item.stored, instance_uid=item.record.instance_uid, conflicts=found)
