"""The frozen values that cross the storage contract, in both directions.

`attributes` everywhere is the DICOM JSON model (PS3.18 Annex F) as plain Python: eight upper-case hex digits to
`{"vr": ..., "Value": [...]}`. Backends may keep it in any form, but give back equal values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import NotFound

Attributes = Mapping[str, Mapping[str, Any]]

_NOT_FOUND = {
    None: "there is nothing in this archive",
    Level.STUDY: "there is no such study in this archive",
    Level.SERIES: "there is no such series in this study",
    Level.INSTANCE: "there is no such instance in this series",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A study, a series of it or an instance of that: the resource a URL names. All empty means the whole archive.

    A scope is exact: an instance that exists, but not in this series of this study, is not found.
    """

    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None

    @property
    def level(self) -> Level | None:
        """The deepest level that is named; None for the whole archive."""
        if self.instance_uid is not None:
            return Level.INSTANCE
        if self.series_uid is not None:
            return Level.SERIES
        return Level.STUDY if self.study_uid is not None else None

    def not_found(self) -> NotFound:
        """What to raise when nothing is there: in the same words whatever the storage."""
        return NotFound(_NOT_FOUND[self.level])


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A stored file. The key is made for each store attempt, never from the content: to release one can so never race
    with storing the same bytes again."""

    key: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One instance as it is handed to `Storage.store`. Its blobs are durable already.

    attributes: the whole header, without group 2; binary above the limit as `BulkDataURI`, a path from the DICOMweb
        root ("/studies/..."), so that no host is ever stored.
    metadata: `attributes` with AvailableTransferSyntaxUID as UTF-8 JSON, raw deflate (no zlib header); made once, sent
        as it is.
    layout: where frames and bulk data lie in the blob (`dicom.layout`), opaque to a backend.
    layout_blob: the key of a second blob that holds the layout when it is too large for a record; `layout` is then
    empty.
    replaces: the blob key of the version whose place it is to take; None: whatever is there, also nothing.
    """

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    attributes: Attributes
    metadata: bytes
    blob: Blob
    layout: bytes = b""
    layout_blob: str | None = None
    replaces: str | None = None

    @property
    def scope(self) -> Scope:
        """The place of the instance."""
        return Scope(study_uid=self.study_uid, series_uid=self.series_uid, instance_uid=self.instance_uid)


class OnDuplicate(StrEnum):
    """What to do with other bytes under a known SOP Instance UID. Identical bytes are always `Stored.SAME`."""

    REJECT = "reject"
    REPLACE = "replace"


class Stored(StrEnum):
    """What became of one record."""

    CREATED = "created"
    SAME = "same"
    REPLACED = "replaced"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOutcome:
    """One outcome per record, in the order of the records.

    conflicts: tags of patient, study and series attributes whose non-empty value here differs from the one that the
        study or series shows, sorted; of CREATED and REPLACED ones only. The blobs of SAME and REFUSED records are not
        referenced by the storage: the caller releases them.
    """

    stored: Stored
    instance_uid: str
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstance:
    """What is needed to send an instance, its frames or its bulk data."""

    study_uid: str
    series_uid: str
    instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    blob: Blob
    layout: bytes
    layout_blob: str | None
    stored_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The ready-made metadata of one instance: `deflated` is as in `InstanceRecord.metadata`."""

    study_uid: str
    series_uid: str
    instance_uid: str
    deflated: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One entity found by a search.

    attributes: of a patient, study or series the merged attributes of that level and those above; of an instance at
        least those in `attributes.SUMMARY` (the rest is in its metadata).
    The numbers and sets are those of the level: number_of_studies and number_of_series of a patient, and so on; sets
        are sorted. `transfer_syntaxes` and `sop_classes` are the distinct ones below the entity (of an instance: its
        own).
    patient_key: of a patient its key (`attributes.patient_key`).
    changed_at: when anything of it was last stored, replaced or removed; None for instances, and unless the query asks.
    """

    level: Level
    attributes: Attributes
    study_uid: str | None = None
    series_uid: str | None = None
    instance_uid: str | None = None
    number_of_studies: int = 0
    number_of_series: int = 0
    number_of_instances: int = 0
    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    transfer_syntaxes: tuple[str, ...] = ()
    patient_key: str | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of hits in the order of the query. `more` is true when at least one further hit follows."""

    hits: Sequence[Hit]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How much a removal took away."""

    studies: int
    series: int
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedVersion:
    """An older version of an instance that `Storage.restore` can bring back. `version` is opaque and unique."""

    version: str
    instance: StoredInstance
    replaced_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Binned:
    """A removed instance that `Storage.restore_binned` can bring back, with the older versions it had. `entry` is
    opaque and unique. `metadata` is as in `InstanceRecord`."""

    entry: str
    instance: StoredInstance
    metadata: bytes
    binned_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BinPage:
    """Entries of the bin, those that were removed first first; `cursor` is None at the end."""

    entries: Sequence[Binned]
    cursor: str | None


class Restored(StrEnum):
    """What became of one entry of the bin. CONFLICT: its SOP Instance UID is stored again; it stays in the bin.
    MISSING: there is no such entry, or no longer."""

    RESTORED = "restored"
    CONFLICT = "conflict"
    MISSING = "missing"


class ChangeKind(StrEnum):
    """What happened to an instance."""

    STORED = "stored"
    REPLACED = "replaced"
    REMOVED = "removed"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One entry of the change feed. `cursor` is opaque; it is valid as `after` of `Storage.changes`."""

    cursor: str
    kind: ChangeKind
    study_uid: str
    series_uid: str
    instance_uid: str
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A JSON document with its version. Versions of one document grow by one from 1; a deletion is a version too.

    keys: the values it can be found by: name to a tuple of strings.
    """

    kind: str
    document_id: str
    version: int
    body: Any
    keys: Mapping[str, tuple[str, ...]]
    changed_at: datetime
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentWrite:
    """A version to write with others: as `Storage.put_document` takes it, or a deletion (without body and keys)."""

    kind: str
    document_id: str
    expected_version: int
    body: Any = None
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTerm:
    """A condition on one document key; exactly one of equal, prefix or (low, high) is used. Ranges are inclusive."""

    key: str
    equal: str | None = None
    prefix: str | None = None
    low: str | None = None
    high: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPage:
    """Documents in the order asked for; `cursor` is None at the end."""

    documents: Sequence[Document]
    cursor: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceEntry:
    """A stored instance on its way to another storage. `metadata` is as in `InstanceRecord`, with all attributes."""

    instance: StoredInstance
    metadata: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedEntry:
    """An older version of an instance on its way to another storage. `number` counts these from 1."""

    number: int
    instance: StoredInstance
    metadata: bytes
    replaced_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedEntry:
    """An entry of the bin on its way to another storage, with the older versions of the instance, oldest first.
    `number` counts the entries from 1, and that of the older ones these."""

    number: int
    instance: StoredInstance
    metadata: bytes
    binned_at: datetime
    older: Sequence[ReplacedEntry] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEntry:
    """An entry of the change feed on its way to another storage. `number` counts these from 1."""

    number: int
    kind: ChangeKind
    study_uid: str
    series_uid: str
    instance_uid: str
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentEntry:
    """A version of a document, current or older, on its way to another storage."""

    document: Document


VersionEntry = InstanceEntry | ReplacedEntry | BinnedEntry
"""What has files: `instance.blob` and, where it is not None, `instance.layout_blob`."""
ArchiveEntry = VersionEntry | ChangeEntry | DocumentEntry


def versions_in(entry: ArchiveEntry) -> Sequence[VersionEntry]:
    """The entry, if it has files, and the older versions in it, in a fixed order."""
    match entry:
        case BinnedEntry():
            return [entry, *entry.older]
        case InstanceEntry() | ReplacedEntry():
            return [entry]
        case _:
            return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How many instances of one modality and transfer syntax there are, and the bytes of their files. The modality is
    empty where the instances have none."""

    modality: str
    transfer_syntax_uid: str
    instances: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What is stored, in order of modality and transfer syntax; apart from that the older versions that are kept (also
    of instances in the bin), and the bin."""

    shares: Sequence[Share]
    replaced_instances: int
    replaced_bytes: int
    binned_instances: int = 0
    binned_bytes: int = 0

    @property
    def instances(self) -> int:
        """How many instances there are, without older versions."""
        return sum(share.instances for share in self.shares)

    @property
    def size_bytes(self) -> int:
        """The bytes of their files."""
        return sum(share.size_bytes for share in self.shares)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaState:
    """The version of the schema that the database has (None: there is no archive yet), and that of this release."""

    found: int | None
    current: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageState:
    """The answer of `Storage.check`: `detail` is one sentence without secrets."""

    ready: bool
    latency_seconds: float
    detail: str
