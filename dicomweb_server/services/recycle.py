"""The recycle bin: what was removed is looked through, brought back, or given up for good."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from dicomweb_server.errors import BadRequest, Conflict, NotFound
from dicomweb_server.services.export import chosen_scopes
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.records import Binned, BinPage, Restored, Scope

BATCH = 500
PAGE = 100
MAX_NAMED = 100
SHOWN = ("00100010", "00100020", "00080020", "00081030", "00080060", "00080050")
"""What tells a person which study it was: patient, date, description, modality, accession number."""


@dataclass(slots=True, kw_only=True)
class Recovery:
    """What became of a restoration: instances that are back, and those whose UID is stored again, which stay in the
    bin; of these at most `MAX_NAMED` are named."""

    restored: int = 0
    conflicts: int = 0
    named: list[Scope] = field(default_factory=list)


class RecycleBin:
    """What `Remove` has kept."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def page(self, *, scope: Scope, before: datetime | None, limit: int, cursor: str | None) -> BinPage:
        """As `Storage.binned`."""
        return self._storage.binned(scope=scope, before=before, limit=limit, cursor=cursor)

    def entries(self, *, scope: Scope, before: datetime | None = None) -> Iterator[Binned]:
        """All of it, page by page."""
        cursor = None
        while True:
            page = self._storage.binned(scope=scope, before=before, limit=PAGE, cursor=cursor)
            yield from page.entries
            cursor = page.cursor
            if cursor is None:
                return

    def restore(self, *, scope: Scope) -> Recovery:
        """Bring a study, series or instance back: of each instance what was removed last.

        Raises NotFound when nothing of it is in the bin, Conflict when all of it is stored again.
        """
        latest = {entry.instance.instance_uid: (entry.entry, _scope(entry)) for entry in self.entries(scope=scope)}
        done = Recovery()
        chosen = list(latest.values())
        for start in range(0, len(chosen), BATCH):
            some = chosen[start : start + BATCH]
            outcomes = self._storage.restore_binned(entries=[entry for entry, _ in some])
            done.restored += outcomes.count(Restored.RESTORED)
            there = [place for (_, place), one in zip(some, outcomes, strict=True) if one is Restored.CONFLICT]
            done.conflicts += len(there)
            done.named = (done.named + there)[:MAX_NAMED]
        if done.conflicts and not done.restored:
            raise Conflict("it is stored again: remove what is there first, then restore")
        if not done.restored:
            raise NotFound("there is nothing of it in the bin")
        return done

    def restore_previous(self, *, scope: Scope) -> int:
        """Bring the version before the current one back of each instance of a stored study, series or instance that was
        replaced; gives their number. Done twice it is undone. Raises NotFound when nothing was replaced."""
        total = 0
        for whole in self._stored(scope):
            for one in list(self._storage.instances(scope=whole)):
                versions = self._storage.replaced(instance_uid=one.instance_uid)
                if versions:
                    self._storage.restore(instance_uid=one.instance_uid, version=versions[0].version)
                    total += 1
        if not total:
            raise NotFound("nothing of it was replaced")
        return total

    def purge(self, *, scope: Scope, before: datetime | None = None) -> int:
        """Give up for good what the scope names and was removed before the time; gives the number of entries."""
        total = 0
        while number := self._storage.purge_binned(scope=scope, before=before, limit=BATCH):
            total += number
        return total

    def purge_replaced(self, *, scope: Scope, before: datetime | None = None) -> int:
        """Give up for good the older versions of what is stored in the scope, those that were replaced before the time;
        gives their number. Raises NotFound when nothing of it is stored."""
        total = 0
        for whole in self._stored(scope):
            while number := self._storage.purge_replaced(scope=whole, before=before, limit=BATCH):
                total += number
        return total

    def _stored(self, scope: Scope) -> list[Scope]:
        """What is stored of a scope, whose upper UIDs may be missing. Raises NotFound."""
        uid = scope.instance_uid or scope.series_uid or scope.study_uid
        if uid is None:
            return [scope]
        found = [one for one in chosen_scopes(self._storage, [uid]) if _lies_in(one, scope)]
        if not found:
            raise scope.not_found()
        return found


def shown(entry: Binned) -> dict[str, Any]:
    """The attributes that tell a person what it is, as DICOM JSON."""
    attributes = orjson.loads(unpack_metadata(entry.metadata))
    return {tag: attributes[tag] for tag in SHOWN if tag in attributes}


def moment_of(text: str | None) -> datetime | None:
    """A day or time in ISO 8601, without zone in UTC. Raises BadRequest."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise BadRequest("before is a day or a time, as 2026-01-31 or 2026-01-31T12:00:00Z") from exc
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def text_of(attributes: dict[str, Any], tag: str) -> str:
    """The first value as text, a name without its other spellings; empty where there is none."""
    values: Sequence[Any] = attributes.get(tag, {}).get("Value") or [""]
    value = values[0].get("Alphabetic", "") if isinstance(values[0], dict) else values[0]
    return str(value or "")


def _lies_in(one: Scope, scope: Scope) -> bool:
    return (
        one.level is scope.level
        and scope.study_uid in (None, one.study_uid)
        and scope.series_uid in (None, one.series_uid)
    )


def _scope(entry: Binned) -> Scope:
    one = entry.instance
    return Scope(study_uid=one.study_uid, series_uid=one.series_uid, instance_uid=one.instance_uid)
