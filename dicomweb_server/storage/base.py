"""The storage contract. To add a backend, implement `Storage` (and `BlobStore`, if files are to be kept there too),
run the suites of `dicomweb_server.testing` against it, and name the class in an entry point `dicomweb_server.storage`.

Rules that hold for every method of both classes, tested by those suites:

* Arguments are keyword-only, values are frozen records. No driver type and no driver error crosses: each backend
  turns its driver's errors into ours in one context manager, with the cause kept.
* A database that cannot be reached or is busy raises `StorageUnavailable`, and so does a storage that is closed or not
  yet open; a full one raises `StorageFull`, what cannot be read any more `StorageCorrupt`.
* A miss raises `NotFound`; nothing answers None for it. A limit may be 0: then nothing is given, or done.
* Every method may be called from several threads and several processes at once.
* An iterator is single use; closing it early releases what it holds. No transaction or server cursor stays open while a
  slow client reads: iterators fetch in pages by key.
* The SOP Instance UID is the identity of an instance. Its record is the only commit point: the blob is durable before
  `store` is called, and everything else (series, studies, patients, totals) is derived from the records.
* Whoever reads after `store`, `remove`, `restore` or `restore_binned` has returned sees the change, with exact totals.

What an entity shows (`Hit.attributes`)
    An instance shows its own header. A series and a study show, attribute by attribute, the value of the earliest
    stored instance below them that has a non-empty one (`attributes.select` says which attributes belong to a level;
    a series shows those of patient, study and series, a study those of patient and study, a patient those of
    patient); an attribute that is present but empty in all is shown empty. Replacing an instance keeps its place in
    the order. A study belongs to the patient named by its merged attributes (`attributes.patient_key`), a study
    without Patient ID to a patient of its own. Deleting and replacing compute all this again.

Where to begin
    The suites lead from one to the next: `StoringSuite` (with `search` of no terms), `DerivedSuite`, `SearchSuite`,
    `DocumentSuite`; they make up `StorageSuite`. Then `BinSuite` and `MovingSuite`, and `BlobSuite` for files. A class
    that lacks a method cannot be made: let those that are still to come raise NotImplementedError.

    The meaning of all that is derived is there in plain Python, for use or to compare with: `dicom.attributes` has
    `select`, `merge`, `conflicts` and `patient_key`; `dicom.matching` has `match_values` (what to keep for a search),
    `sort_key` (what to order by), and `matches` and `holds` (what a term and a condition mean), with which a first
    version can filter. `Oracle` in `testing/search_cases.py` is a whole search made of them. `storage.packing` opens
    the metadata of a record; `backends/dumping.py` cuts `dump` into parts with cursors. `backends/sqlite` is the
    shortest of ours to read beside this.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Self

from dicomweb_server.errors import StorageError
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    BinPage,
    Change,
    Document,
    DocumentPage,
    DocumentTerm,
    DocumentWrite,
    InstanceRecord,
    Metadata,
    OnDuplicate,
    Page,
    Removed,
    ReplacedVersion,
    Restored,
    SchemaState,
    Scope,
    StorageState,
    StoredInstance,
    StoreOutcome,
    Usage,
)


class Storage(ABC):
    """The index: records of instances, series, studies and patients, the change feed, and JSON documents."""

    # Life cycle

    @classmethod
    @abstractmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        """A storage for the section of the settings that belongs to it. Opens nothing and touches no disk or network.

        Raises ConfigError for an unknown key or an unusable value.
        """

    @abstractmethod
    def schema(self) -> SchemaState:
        """Which schema is there. Asked without or before `open`, changes nothing. Raises as `open`."""

    @abstractmethod
    def open(self) -> None:
        """Connect, and create, upgrade or check the schema. Called once per worker process, after the fork. Of several
        who find an older schema one upgrades it, and the others wait.

        Raises StorageUnavailable where a retry can help, ConfigError where none can.
        """

    @abstractmethod
    def close(self) -> None:
        """Release everything. May be called twice, and before `open`."""

    @abstractmethod
    def check(self) -> StorageState:
        """Whether the storage can serve now. Raises nothing; bounded to a few seconds."""

    # Instances

    @abstractmethod
    def store(self, *, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate) -> list[StoreOutcome]:
        """Make the records visible and durable; one outcome per record, in their order, as if stored one by one.

        A record whose SOP Instance UID is known is the SAME when its SHA-256, study and series are those of the stored
        one, whatever it `replaces`. Otherwise it is REFUSED, or by `OnDuplicate.REPLACE` takes its place while the old
        one is kept for `restore`. A record that `replaces` a version is REFUSED where another one is current now, or
        none.
        """

    @abstractmethod
    def get(self, *, scope: Scope) -> StoredInstance:
        """The instance that the (complete) scope names. The hot path of every frame: one indexed read."""

    @abstractmethod
    def instances(self, *, scope: Scope) -> Iterator[StoredInstance]:
        """The instances of a study or series, by series UID, then instance number, then SOP Instance UID.

        Raises NotFound on the call itself, not on the first step.
        """

    @abstractmethod
    def metadata(self, *, scope: Scope) -> Iterator[Metadata]:
        """The ready-made metadata of the instances in scope, in the order of `instances`; raises like it."""

    @abstractmethod
    def metadata_of(self, *, instance_uids: Sequence[str]) -> Mapping[str, Metadata]:
        """The ready-made metadata of at most some hundred instances, by UID; unknown ones are left out."""

    @abstractmethod
    def version(self, *, scope: Scope) -> str:
        """An opaque text of the characters [A-Za-z0-9._-] that changes whenever anything in the scope is stored,
        replaced or removed, and never takes an earlier value again."""

    @abstractmethod
    def remove(self, *, scope: Scope, keep: bool = False) -> Removed:
        """Remove a study, series or instance with its replaced versions, all or nothing visible, and recompute what
        stood above. The blobs go to the release queue; or, with `keep`, each instance goes to the bin, where nothing
        but the methods below finds it. Raises NotFound when nothing is there."""

    @abstractmethod
    def replaced(self, *, instance_uid: str) -> Sequence[ReplacedVersion]:
        """The older versions of an instance, newest first; empty when it was never replaced or is not known."""

    @abstractmethod
    def restore(self, *, instance_uid: str, version: str) -> None:
        """Bring an older version back; the current one becomes a replaced version itself."""

    @abstractmethod
    def purge_replaced(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        """Forget older versions of the instances that are stored in the scope now, of those that were replaced before
        that time, at most so many, of the whole archive the oldest first; their blobs go to the release queue. Gives
        the number: 0 when none is left."""

    # Checking what is derived

    @abstractmethod
    def is_exact(self, *, scope: Scope) -> bool:
        """Whether what is kept of a study, its series and its patient is what its instances say: numbers, sets, what
        they show and are found by. With `Scope()`: whether every patient has a study.

        For checks: may read all of the study. While others write, it may deny what is right a moment later. A study
        that is not there is exact, and so is everything in a storage that keeps nothing derived.
        """

    @abstractmethod
    def recompute(self, *, scope: Scope) -> None:
        """Derive again what `is_exact` looks at, away with it where nothing is below. Safe beside writers."""

    # The bin: removed instances that can be brought back

    @abstractmethod
    def binned(
        self, *, scope: Scope, before: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> BinPage:
        """What is in the bin, in the order of removal: of the study, series and instance that the scope names, removed
        before that time. One instance can be there several times. Raises BadRequest for a foreign cursor."""

    @abstractmethod
    def restore_binned(self, *, entries: Sequence[str]) -> list[Restored]:
        """Bring some hundred entries of the bin back with their older versions; one outcome per entry, in their order.

        An instance takes the place in the order of storing that it had; one that came here by `load` comes last.
        """

    @abstractmethod
    def purge_binned(self, *, scope: Scope, before: datetime | None = None, limit: int) -> int:
        """Forget entries of the bin for good, chosen as by `binned`, at most so many, oldest first; their blobs go to
        the release queue. Gives the number: 0 when none is left."""

    # Search

    @abstractmethod
    def search(self, *, query: Query) -> Page:
        """The hits of a query, filtered, ordered and cut by the database, not in the process."""

    @abstractmethod
    def count(self, *, query: Query) -> int:
        """How many entities the query matches, ignoring order, limit and offset."""

    # Figures

    @abstractmethod
    def usage(self, *, scope: Scope) -> Usage:
        """What the instances of a study or series take up, or with `Scope()` all; may read the records of all of them.

        Raises NotFound for a study or series that is not there.
        """

    @abstractmethod
    def stored_bytes(self) -> int:
        """The bytes of the files of all instances, of the older versions that are kept and of the bin. Asked about once
        a minute: reads numbers or an index, not whole records. May be some seconds old."""

    # Release queue: blobs that nothing references any more

    @abstractmethod
    def released(self, *, limit: int) -> Sequence[str]:
        """Keys of blobs to delete, oldest first. They stay queued until `confirm_released`."""

    @abstractmethod
    def confirm_released(self, *, keys: Iterable[str]) -> None:
        """The blobs are gone; forget the keys. Unknown keys are ignored."""

    @abstractmethod
    def known_blobs(self, *, keys: Sequence[str]) -> frozenset[str]:
        """Which of these keys a record, a replaced version, the bin or the release queue references."""

    # Change feed

    @abstractmethod
    def changes(self, *, after: str | None, limit: int) -> Sequence[Change]:
        """Entries after the cursor (None: from the beginning), at least once, ordered per instance.

        Raises BadRequest for a cursor that this storage never gave.
        """

    @abstractmethod
    def newest_change(self) -> str | None:
        """A cursor behind which `changes` gives all that is stored, replaced, restored or removed from now on; None
        where nothing ever changed, which means the same."""

    # Documents

    @abstractmethod
    def put_document(
        self,
        *,
        kind: str,
        document_id: str,
        body: Any,
        keys: Mapping[str, tuple[str, ...]],
        expected_version: int | None = None,
    ) -> Document:
        """Write a new version. expected_version: the current version must be this one (0: none exists, or it is
        deleted); None: whatever it is. Raises VersionConflict. Atomic among concurrent writers; every version is
        kept, but for what `forget_versions` forgets."""

    @abstractmethod
    def get_document(self, *, kind: str, document_id: str, version: int | None = None) -> Document:
        """The current or the named version. The current one raises NotFound when deleted; a named one never for
        that."""

    @abstractmethod
    def documents_of(self, *, names: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Document]:
        """The current versions of at most some hundred documents, by kind and id; unknown and deleted ones are left
        out. One read."""

    @abstractmethod
    def forget_versions(self, *, kind: str, document_id: str, before: int) -> None:
        """Forget the older versions of a document below this one, for documents that tell a state and no history. The
        current version stays; an unknown document is no matter."""

    @abstractmethod
    def document_history(self, *, kind: str, document_id: str) -> Sequence[Document]:
        """All versions, newest first, deletions included; empty for an unknown document."""

    @abstractmethod
    def find_documents(
        self,
        *,
        kind: str,
        terms: Sequence[DocumentTerm] = (),
        limit: int = 100,
        cursor: str | None = None,
    ) -> DocumentPage:
        """Current documents that match all terms, by document id. Deleted ones are left out."""

    @abstractmethod
    def delete_document(self, *, kind: str, document_id: str, expected_version: int | None = None) -> Document:
        """Write a deletion as the newest version and give it back. Raises NotFound, VersionConflict."""

    @abstractmethod
    def purge_documents(self, *, kind: str, terms: Sequence[DocumentTerm], limit: int) -> int:
        """Delete for good, with all their versions, current documents that match all terms, at most so many; gives how
        many. One that is written meanwhile stays, or its writer finds none there. An interruption leaves the rest for
        the next call."""

    @property
    def transacts(self) -> bool:
        """Whether `write_documents` is there: a transaction over several documents."""
        return False

    def write_documents(self, *, writes: Sequence[DocumentWrite]) -> list[Document]:
        """Write several documents, all or none of them, also to whoever reads meanwhile; the new versions in order.

        Raises VersionConflict when a current version is not the expected one (0: none exists, or it is deleted),
        StorageError where there are no transactions over documents (`transacts`).
        """
        raise StorageError("this storage has no transactions over documents")

    # Moving an archive. Nobody else writes to either of the two storages meanwhile.

    @abstractmethod
    def dump(self, *, after: str | None = None) -> Iterator[tuple[str, ArchiveEntry]]:
        """Everything but the release queue, each entry with a cursor that is valid as `after`: it goes on behind that
        entry.

        Instances come first, in the order in which they were stored; then replaced versions, those of an instance
        oldest first; then the bin, in its order; then changes, in the order of the feed; then documents by kind, id
        and version (as code points).
        Raises BadRequest, on the call itself, for a cursor that this storage never gave.
        """

    @abstractmethod
    def load(self, *, entries: Sequence[ArchiveEntry], note: str) -> None:
        """Take entries of another storage as they are, with their times (to the millisecond at least), and keep the
        note with them, in the place of the one before.

        The storage was empty before the first load, and entries come in the order of `dump`, in batches. Loading what
        is there already changes nothing, so that a batch of which it is not known whether it was loaded can be loaded
        again. Instances are visible with exact totals after this; no change entries are made but those that are loaded.
        """

    @abstractmethod
    def loaded(self) -> str | None:
        """The note of the last load; None when nothing was ever loaded here."""


class StagedBlob(ABC):
    """A blob on its way in: bytes are written to `file` as they arrive, and can be read back from it.

    Nobody else sees it. A process that dies leaves at most a temporary file that `BlobStore.open` of a later day
    sweeps.
    """

    file: BinaryIO
    """Binary, seekable, readable and writable, with a real file descriptor."""

    read_soon: bool = True
    """False, set before `BlobStore.keep`: one of very many, which nobody is about to read. A store may let the machine
    forget its bytes, once they are durable, in favour of those that are read."""

    def complete(self) -> None:
        """All bytes are written to `file`: a store that can begin to make them durable ahead of `keep` does so here."""
        self.file.flush()

    @abstractmethod
    def discard(self) -> None:
        """Give it up. May be called twice, and after `BlobStore.keep` has taken it (then nothing happens)."""


class BlobStore(ABC):
    """Where the bytes of the files are kept, apart from the index. Keys are opaque, made by the store, and safe in URLs
    and file names. A blob never changes once it is kept."""

    @classmethod
    @abstractmethod
    def from_settings(cls, *, settings: Mapping[str, Any]) -> Self:
        """As `Storage.from_settings`."""

    @abstractmethod
    def open(self) -> None:
        """As `Storage.open`; also sweeps what processes that died long ago left staged."""

    @abstractmethod
    def close(self) -> None:
        """As `Storage.close`."""

    @abstractmethod
    def check(self) -> StorageState:
        """As `Storage.check`."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """How much more fits where the blobs are kept; None where that cannot be known. Raises StorageUnavailable."""

    @abstractmethod
    def stage(self) -> StagedBlob:
        """A new, empty blob to write to. Raises StorageFull, StorageUnavailable."""

    @abstractmethod
    def keep(self, *, staged: Sequence[StagedBlob]) -> list[str]:
        """Make the blobs durable (they survive a loss of power) and give their keys, in order: all or none.

        Raises StorageFull, StorageUnavailable; the staged blobs are then still to be discarded.
        """

    @abstractmethod
    def read(self, *, key: str, start: int, length: int) -> bytes:
        """Exactly these bytes; raises StorageCorrupt when the blob is missing or shorter."""

    @abstractmethod
    def stream(self, *, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes in chunks of at most 1 MiB; length None: to the end. Opens the blob on the call itself, so that a
        missing one raises StorageCorrupt there."""

    @abstractmethod
    def open_file(self, *, key: str) -> BinaryIO | None:
        """A real local file open for reading, positioned at 0, where the store has one (it is then sent by the kernel);
        None where it has none."""

    @abstractmethod
    def size(self, *, key: str) -> int:
        """The size in bytes; raises StorageCorrupt when the blob is missing."""

    @abstractmethod
    def delete(self, *, keys: Iterable[str]) -> None:
        """Delete; unknown keys are ignored."""

    @abstractmethod
    def keys(self, *, older_than_seconds: float) -> Iterator[str]:
        """All keys kept at least so long ago, in no order: what a sweep for orphans compares with the index."""


class LinkingBlobStore(BlobStore):
    """One that can also take in files where they are, without a copy."""

    @abstractmethod
    def link(self, *, path: str) -> StagedBlob:
        """A blob whose bytes are those of the file, now at its real path; its `file` can only be read.

        Once it is kept, whoever reads it gets LinkBroken when the file is missing, or has another size or time.
        Deleting the blob leaves the file alone. Raises BadDicom for files of the store itself and for those that cannot
        be opened; `complete` raises it when the file changed meanwhile.
        """
