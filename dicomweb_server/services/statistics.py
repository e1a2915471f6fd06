"""How much is stored, and of what."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicomweb_server.dicom.levels import Level
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Scope, Share, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Figures of the whole archive, or of one study (then without patients and studies)."""

    patients: int | None
    studies: int | None
    series: int
    usage: Usage

    def by_modality(self) -> list[tuple[str, int, int]]:
        """Modality, instances and bytes; the modality is empty for instances without one."""
        return _summed([(share.modality, share) for share in self.usage.shares])

    def by_transfer_syntax(self) -> list[tuple[str, int, int]]:
        """Transfer Syntax UID, instances and bytes."""
        return _summed([(share.transfer_syntax_uid, share) for share in self.usage.shares])


def statistics(storage: Storage, *, scope: Scope) -> Statistics:
    """The figures of everything (`Scope()`) or of a study. Raises NotFound for a study that is not there."""
    usage = storage.usage(scope=scope)
    whole = scope.level is None
    return Statistics(
        patients=storage.count(query=Query(level=Level.PATIENT)) if whole else None,
        studies=storage.count(query=Query(level=Level.STUDY)) if whole else None,
        series=storage.count(query=Query(level=Level.SERIES, scope=scope)),
        usage=usage,
    )


def _summed(named: Sequence[tuple[str, Share]]) -> list[tuple[str, int, int]]:
    names = sorted({name for name, _ in named})
    return [
        (
            name,
            sum(share.instances for other, share in named if other == name),
            sum(share.size_bytes for other, share in named if other == name),
        )
        for name in names
    ]
