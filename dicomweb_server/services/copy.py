"""Copying a whole archive into an empty one, whatever keeps either.

The entries of the source are read in batches. The files of a batch are copied first, each compared with the SHA-256 of
its record while it passes; then the batch is loaded together with a note that says how far the copy is. Who runs it
again goes on from the note: files that were copied but not loaded are deleted, entries that were loaded are not loaded
twice. At the end everything is read back from the target, and counts and checksums of all entries are compared.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

import orjson

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import Conflict, NotFound, StorageCorrupt
from dicomweb_server.storage.base import BlobStore, StagedBlob, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinnedEntry,
    Blob,
    ChangeEntry,
    DocumentEntry,
    InstanceEntry,
    ReplacedEntry,
    Scope,
    StoredInstance,
    VersionEntry,
    versions_in,
)

BATCH_ENTRIES = 100
BATCH_BYTES = 64 * 1024 * 1024
KEYS_AT_ONCE = 500
_DIGEST_BITS = 256

Item = TypeVar("Item")

NAMES = {
    InstanceEntry: "instances",
    ReplacedEntry: "replaced versions",
    BinnedEntry: "instances in the bin",
    ChangeEntry: "changes",
    DocumentEntry: "document versions",
}


@dataclass(frozen=True, slots=True)
class Archive:
    """An opened storage and the opened blob store that goes with it."""

    storage: Storage
    blobs: BlobStore


class SourceStorage(Protocol):
    """What is asked of the storage of a source; methods are those of `Storage`."""

    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """All entries."""

    def version(self, *, scope: Scope) -> str:
        """What changes when the source does."""

    def count(self, *, query: Query) -> int:
        """How many instances there are."""


class SourceBlobs(Protocol):
    """What is asked of the blobs of a source."""

    def stream(self, *, key: str) -> Iterator[bytes]:
        """The bytes of a blob."""


class Source(Protocol):
    """What can be copied: an archive, or a backup of one."""

    @property
    def storage(self) -> SourceStorage:
        """Its index."""

    @property
    def blobs(self) -> SourceBlobs:
        """Its files."""


@dataclass(slots=True)
class Tally:
    """What was seen of an archive: counts by name, bytes of files, and a checksum over the contents of all entries.

    The checksum is a sum, so that it can go on from a note; only of instances the order is in it.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES.values(), 0))
    size_bytes: int = 0
    digest: str = "0"

    def add(self, entry: ArchiveEntry, layouts: Sequence[str | None]) -> None:
        """Count an entry; for each of `versions_in` the SHA-256 of the layout that lies in a blob of its own."""
        name = NAMES[type(entry)]
        self.counts[name] = self.counts.get(name, 0) + 1
        content = [name, *_content(entry, self.counts[name]), *(layouts or [None])]
        own = hashlib.sha256(orjson.dumps(content, default=dict, option=orjson.OPT_SORT_KEYS)).digest()
        total = (int(self.digest, 16) + int.from_bytes(own, "big")) % (1 << _DIGEST_BITS)
        self.digest = f"{total:x}"
        self.size_bytes += sum(version.instance.blob.size_bytes for version in versions_in(entry))


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a copy is: `instances` of `total` have been copied, or (verifying) found in the target."""

    verifying: bool
    instances: int
    total: int
    size_bytes: int


@dataclass(slots=True, kw_only=True)
class _State:
    """What the note in the target says."""

    source: str
    version: str
    cursor: str | None = None
    done: bool = False
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def parse(cls, note: str) -> "_State":
        try:
            values = orjson.loads(note)
            return cls(**{**values, "tally": Tally(**values["tally"])})
        except (ValueError, TypeError, KeyError) as exc:
            raise Conflict("The target holds a copy that a newer release began; finish it with that one.") from exc

    def note(self) -> str:
        return orjson.dumps(asdict(self)).decode()


class Copy:
    """One run. `told` hears after every batch how far it is; `read_back` reads every file from the target again."""

    def __init__(
        self, source: Source, target: Archive, *, told: Callable[[Progress], None], read_back: bool = False
    ) -> None:
        self._source = source
        self._target = target
        self._told = told
        self._read_back = read_back
        self._total = 0

    def run(self) -> tuple[Tally, bool]:
        """Copy what is not copied yet, and verify; gives what the target holds, and whether there was anything to do.

        Raises Conflict when the target holds something else or the source has changed, NotFound when the source is
        empty, StorageCorrupt when a file is not what its record says, or when the target is not equal in the end.
        """
        state, begun = self._begin()
        if state.done:
            return state.tally, False
        self._total = self._source.storage.count(query=Query(level=Level.INSTANCE))
        if begun:
            self._sweep()
        for batch in self._batches(state.cursor):
            self._copy(batch, state)
            self._tell(state.tally)
        self._verify(state)
        state.done = True
        self._target.storage.load(entries=[], note=state.note())
        return state.tally, True

    # The beginning

    def _begin(self) -> tuple[_State, bool]:
        """Where to go on, and whether another run has begun before."""
        storage = self._source.storage
        first = _first(storage.dump())
        if first is None:
            raise NotFound("There is nothing in the source: is it the right one?")
        identity = [type(storage).__qualname__, *_content(first[1], 1)]
        source = hashlib.sha256(orjson.dumps(identity, default=dict, option=orjson.OPT_SORT_KEYS)).hexdigest()
        version = storage.version(scope=Scope())
        note = self._target.storage.loaded()
        if note is None:
            self._check_empty()
            state = _State(source=source, version=version)
            self._target.storage.load(entries=[], note=state.note())
            return state, False
        state = _State.parse(note)
        if state.source != source:
            raise Conflict("The target holds a copy of another archive; a copy needs an empty target.")
        if state.version != version:
            raise Conflict(_CHANGED)
        return state, True

    def _check_empty(self) -> None:
        if _first(self._target.storage.dump()) is not None:
            raise Conflict("The target is not empty: an archive is copied into an empty one only.")
        if _first(self._target.blobs.keys(older_than_seconds=0)) is not None:
            raise Conflict("The place for the files of the target holds other files; name an empty one.")

    def _sweep(self) -> None:
        """Delete the files that an interrupted run has copied, but not loaded."""
        for keys in _chunked(self._target.blobs.keys(older_than_seconds=0), KEYS_AT_ONCE):
            known = self._target.storage.known_blobs(keys=keys)
            self._target.blobs.delete(keys=[key for key in keys if key not in known])

    # Copying

    def _batches(self, after: str | None) -> Iterator[list[tuple[str, ArchiveEntry]]]:
        batch: list[tuple[str, ArchiveEntry]] = []
        size = 0
        for cursor, entry in self._source.storage.dump(after=after):
            batch.append((cursor, entry))
            size += sum(one.instance.blob.size_bytes + len(one.metadata) for one in versions_in(entry))
            if len(batch) >= BATCH_ENTRIES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _copy(self, batch: Sequence[tuple[str, ArchiveEntry]], state: _State) -> None:
        staged: list[StagedBlob] = []
        layouts: list[list[str | None]] = []
        try:
            for _, entry in batch:
                layouts.append([self._stage(version, staged) for version in versions_in(entry)])
            keys = iter(self._target.blobs.keep(staged=staged) if staged else ())
        except BaseException:
            for blob in staged:
                blob.discard()
            raise
        entries = [_with_keys(entry, keys) for _, entry in batch]
        for entry, found in zip(entries, layouts, strict=True):
            state.tally.add(entry, found)
        state.cursor = batch[-1][0]
        self._target.storage.load(entries=entries, note=state.note())

    def _stage(self, entry: VersionEntry, staged: list[StagedBlob]) -> str | None:
        """Stage the file of an entry, and its layout when that is a blob; gives the SHA-256 of the layout."""
        one = entry.instance
        found = self._stage_one(one.blob.key, staged)
        if found != (one.blob.sha256, one.blob.size_bytes):
            raise StorageCorrupt(
                f"The file of the instance {one.instance_uid} in the source is not what its record says: its SHA-256 "
                "differs. Remove the instance, or bring the file back, and run the copy again."
            )
        return self._stage_one(one.layout_blob, staged)[0] if one.layout_blob is not None else None

    def _stage_one(self, key: str, staged: list[StagedBlob]) -> tuple[str, int]:
        """Stage the bytes of a blob; gives their SHA-256 and number."""
        blob = self._target.blobs.stage()
        staged.append(blob)
        digest, size_bytes = hashlib.sha256(), 0
        for chunk in self._source.blobs.stream(key=key):
            digest.update(chunk)
            size_bytes += len(chunk)
            with disk_errors():
                blob.file.write(chunk)
        with disk_errors():
            blob.complete()
        return digest.hexdigest(), size_bytes

    def _tell(self, tally: Tally, *, verifying: bool = False) -> None:
        progress = Progress(
            verifying=verifying, instances=tally.counts["instances"], total=self._total, size_bytes=tally.size_bytes
        )
        self._told(progress)

    # The end

    def _verify(self, state: _State) -> None:
        """Compare what is in the target now with what was read from the source."""
        found = Tally()
        for number, (_, entry) in enumerate(self._target.storage.dump(), 1):
            layouts = []
            for version in versions_in(entry):
                one = version.instance
                layouts.append(self._read(one.layout_blob))
                if self._read_back and self._read(one.blob.key) != one.blob.sha256:
                    raise StorageCorrupt(f"The file of the instance {one.instance_uid} arrived damaged.")
            found.add(entry, layouts)
            if number % BATCH_ENTRIES == 0:
                self._tell(found, verifying=True)
        self._tell(found, verifying=True)
        if self._source.storage.version(scope=Scope()) != state.version:
            raise Conflict(_CHANGED)
        wrong = [name for name, count in found.counts.items() if state.tally.counts.get(name, 0) != count]
        if wrong:
            raise StorageCorrupt(f"The target has not as many {' and '.join(wrong)} as the source.")
        if found != state.tally:
            raise StorageCorrupt("The target has as many entries as the source, but their checksum differs.")

    def _read(self, key: str | None) -> str | None:
        if key is None:
            return None
        digest = hashlib.sha256()
        for chunk in self._target.blobs.stream(key=key):
            digest.update(chunk)
        return digest.hexdigest()


_CHANGED = "The source has changed since the copy began. Let nobody write to it, and begin again with an empty target."


def _content(entry: ArchiveEntry, place: int) -> list[Any]:
    """What two archives must have in common: everything but blob keys, and times to the millisecond. Of instances the
    order counts, too."""
    match entry:
        case InstanceEntry():
            return [place, *_content_of_version(entry)]
        case ReplacedEntry():
            return [*_content_of_version(entry), _milliseconds(entry.replaced_at)]
        case BinnedEntry():
            older = [_content(version, place) for place, version in enumerate(entry.older, 1)]
            return [*_content_of_version(entry), _milliseconds(entry.binned_at), older]
        case ChangeEntry():
            uids = (entry.study_uid, entry.series_uid, entry.instance_uid)
            return [entry.kind.value, *uids, _milliseconds(entry.changed_at)]
        case DocumentEntry():
            one = entry.document
            names = sorted((name, list(values)) for name, values in one.keys.items())
            return [one.kind, one.document_id, one.version, one.deleted, one.body, names, _milliseconds(one.changed_at)]


def _content_of_version(entry: VersionEntry) -> list[Any]:
    one = entry.instance
    return [
        *(one.study_uid, one.series_uid, one.instance_uid, one.sop_class_uid, one.transfer_syntax_uid),
        *(one.blob.size_bytes, one.blob.sha256, one.layout.hex(), _milliseconds(one.stored_at)),
        hashlib.sha256(entry.metadata).hexdigest(),
    ]


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp()) * 1000 + time.microsecond // 1000


def _with_keys(entry: ArchiveEntry, keys: Iterator[str]) -> ArchiveEntry:
    """The entry with the next keys of the target, in the order in which `_stage` has taken its blobs."""
    match entry:
        case InstanceEntry():
            return replace(entry, instance=_instance_with_keys(entry.instance, keys))
        case ReplacedEntry():
            return _replaced_with_keys(entry, keys)
        case BinnedEntry():
            instance = _instance_with_keys(entry.instance, keys)
            return replace(entry, instance=instance, older=[_replaced_with_keys(each, keys) for each in entry.older])
        case _:
            return entry


def _replaced_with_keys(entry: ReplacedEntry, keys: Iterator[str]) -> ReplacedEntry:
    return replace(entry, instance=_instance_with_keys(entry.instance, keys))


def _instance_with_keys(one: StoredInstance, keys: Iterator[str]) -> StoredInstance:
    blob = Blob(key=next(keys), size_bytes=one.blob.size_bytes, sha256=one.blob.sha256)
    return replace(one, blob=blob, layout_blob=next(keys) if one.layout_blob is not None else None)


def _first(iterator: Iterator[Item]) -> Item | None:
    """The first item of an iterator that is left early; None when there is none."""
    first = next(iterator, None)
    getattr(iterator, "close", lambda: None)()
    return first


def _chunked(items: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
