"""What is stored takes up how much: all from one view, which CouchDB keeps as sums."""

from collections.abc import Sequence
from typing import Any

from backends.couchdb import keys
from backends.couchdb.database import Database, Json
from dicomweb_server.storage.records import Scope, Share, Usage

_CURRENT, _OLD, _BINNED = "instance", "replaced", "binned"


class UsageViews:
    """Reads the view `usage`: rows by type of document, then place (series, or all), modality and transfer syntax."""

    def __init__(self, records: Database) -> None:
        self._records = records

    def usage(self, scope: Scope) -> Usage:
        """As `Storage.usage`."""
        place = [uid for uid in (scope.study_uid, scope.series_uid) if uid is not None]
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for row in self._rows(_CURRENT, place):
            name = (row["key"][-2], row["key"][-1])
            count, size = sums.get(name, (0, 0))
            sums[name] = (count + int(row["value"]["count"]), size + int(row["value"]["sum"]))
        shares = [
            Share(modality=modality, transfer_syntax_uid=syntax, instances=count, size_bytes=size)
            for (modality, syntax), (count, size) in sums.items()
        ]
        if place and not shares:
            raise scope.not_found()
        old, binned = self._rows(_OLD, place), self._rows(_BINNED, place)
        return Usage(
            shares=sorted(shares, key=lambda share: (share.modality, share.transfer_syntax_uid)),
            replaced_instances=sum(int(row["value"]["count"]) for row in old),
            replaced_bytes=sum(int(row["value"]["sum"]) for row in old),
            binned_instances=sum(int(row["value"]["count"]) for row in binned),
            binned_bytes=sum(int(row["value"]["sum"]) for row in binned),
        )

    def stored_bytes(self) -> int:
        """As `Storage.stored_bytes`."""
        return sum(int(row["value"]["sum"]) for kind in (_CURRENT, _OLD, _BINNED) for row in self._rows(kind, []))

    def _rows(self, kind: str, place: Sequence[str]) -> list[Json]:
        start: list[Any] = [kind, min(len(place), 1), *place]
        return self._records.view("rest/usage", startkey=start, endkey=[*start, keys.END], group=True)
