"""Taking files from disks into the archive: batches of sources through the same `Ingest` as STOW."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum

from dicomweb_server.errors import StorageError, StorageFull
from dicomweb_server.services.ingest import Ingest, IngestRequest
from dicomweb_server.services.report import OUT_OF_RESOURCES, PROCESSING_FAILURE, Report
from dicomweb_server.services.sources import Opener, Source, SourceError
from dicomweb_server.storage.records import Stored

BATCH_SOURCES = 100
BATCH_BYTES = 64 << 20


class Fate(StrEnum):
    """What became of a file. SKIPPED: it is no instance, and nothing is wrong with that, as nobody asked for this file
    by its name."""

    STORED = "stored"
    SAME = "same"
    REPLACED = "replaced"
    REFUSED = "refused"
    SKIPPED = "skipped"


_FATES = {Stored.CREATED: Fate.STORED, Stored.SAME: Fate.SAME, Stored.REPLACED: Fate.REPLACED}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOutcome:
    """What became of one file. `reason` is empty for what is stored, unless there is something to tell."""

    name: str
    fate: Fate
    reason: str = ""
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """What became of a batch of sources; `done` are those of which all files are stored or no instances. `owners` has
    for each file the place of its source in the batch."""

    sources: int
    size_bytes: int
    files: Sequence[FileOutcome]
    owners: Sequence[int]
    done: Sequence[Source]


@dataclass(slots=True)
class Summary:
    """Counts over an import, and the refusals by reason."""

    sources: int = 0
    size_bytes: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, batch: BatchOutcome) -> None:
        """Count a batch."""
        self.sources += batch.sources
        self.size_bytes += batch.size_bytes
        for file in batch.files:
            self.add_file(file)

    def add_file(self, file: FileOutcome) -> None:
        """Count what belongs to no batch."""
        self.fates[file.fate] += 1
        if file.fate is Fate.REFUSED:
            self.reasons[file.reason] += 1


def batches(sources: Iterable[Source]) -> Iterator[list[Source]]:
    """Batches of about equal work, in order."""
    batch: list[Source] = []
    size = 0
    for source in sources:
        batch.append(source)
        size += source.size_bytes
        if len(batch) >= BATCH_SOURCES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Importer:
    """Stores batches, one at a time.

    link: leave the files where they are. folders: then only files whose real path is below one of these; None: all.
    read_soon: as in `StagedBlob`.
    """

    def __init__(
        self,
        ingest: Ingest,
        *,
        link: bool = False,
        folders: Sequence[str] | None = None,
        read_soon: bool = True,
    ) -> None:
        self._ingest = ingest
        self._link = link
        self._read_soon = read_soon
        self._folders = None if folders is None else [os.path.realpath(folder) for folder in folders]
        self._opener = Opener()

    def run(self, batch: Sequence[Source]) -> BatchOutcome:
        """Store what the sources hold; all that is reported as stored is durable and visible when this returns.

        Raises StorageError when the archive cannot take more; what is stored by then is found as SAME the next time.
        """
        request = self._ingest.begin(read_soon=self._read_soon)
        owners: list[tuple[int, str]] = []  # by the name that a file has in the request: its source, its name to people
        try:
            for place, source in enumerate(batch):
                if self._link:
                    self._link_one(request, source, label=str(len(owners)))
                    owners.append((place, source.name))
                    continue
                for name, chunks in self._opener.each(source):
                    label = str(len(owners))
                    owners.append((place, name))
                    try:
                        request.add(chunks, name=label)
                    except SourceError as exc:
                        request.refuse(exc.reason, name=label)
            report = request.finish()
        finally:
            request.abandon()
        _check_storage(report)
        wanted = {str(label) for label, (place, name) in enumerate(owners) if _is_wanted(batch[place], name)}
        skipped = {item.name for item in report.refused if item.no_instance} - wanted
        files = list(_outcomes(report, owners, skipped))
        labels = [item.name for item in report.accepted] + [item.name for item in report.refused]
        failed = {owners[int(item.name)][0] for item in report.refused if item.name not in skipped}
        return BatchOutcome(
            sources=len(batch),
            size_bytes=sum(source.size_bytes for source in batch),
            files=files,
            owners=[owners[int(label)][0] for label in labels],
            done=[source for place, source in enumerate(batch) if place not in failed],
        )

    def _link_one(self, request: IngestRequest, source: Source, *, label: str) -> None:
        if source.member is not None:
            request.refuse("a file in a zip cannot be linked", name=label)
            return
        path = source.path
        if self._folders is not None:
            # The real path is opened: a link that is turned elsewhere meanwhile leads nowhere.
            path = os.path.realpath(path)
            if not any(is_below(path, folder) for folder in self._folders):
                request.refuse("it lies outside of the folders that may be linked", name=label)
                return
        request.link(path, name=label)


def is_below(path: str, folder: str) -> bool:
    """Whether a real path is that of the folder or of something in it."""
    return os.path.commonpath((path, folder)) == folder


def _is_wanted(source: Source, name: str) -> bool:
    """Whether this file was asked for itself, not a zip with others in it."""
    return source.named and name == source.name


def _check_storage(report: Report) -> None:
    """A refusal that is no fault of the file ends the import."""
    for item in report.refused:
        if item.reason in (OUT_OF_RESOURCES, PROCESSING_FAILURE):
            raise (StorageFull if item.reason == OUT_OF_RESOURCES else StorageError)(item.message)


def _outcomes(report: Report, owners: Sequence[tuple[int, str]], skipped: Set[str]) -> Iterator[FileOutcome]:
    for item in report.accepted:
        yield FileOutcome(
            name=owners[int(item.name)][1],
            fate=_FATES[item.outcome],
            reason="; ".join(item.notes),
            study_uid=item.study_uid,
            series_uid=item.series_uid,
            instance_uid=item.instance_uid,
        )
    for refusal in report.refused:
        yield FileOutcome(
            name=owners[int(refusal.name)][1],
            fate=Fate.SKIPPED if refusal.name in skipped else Fate.REFUSED,
            reason=refusal.message,
            instance_uid=refusal.instance_uid,
        )
