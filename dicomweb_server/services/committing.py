"""From instances that were received to records that everybody sees: their files are durable before they are shown."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from dicomweb_server.dicom.part10 import Header
from dicomweb_server.errors import OutcomeUnknown, StorageError
from dicomweb_server.storage.base import BlobStore, StagedBlob, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.packing import pack_metadata
from dicomweb_server.storage.records import Blob, InstanceRecord, OnDuplicate, StoreOutcome

LAYOUT_IN_RECORD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Pending:
    """An instance that was received and read, and is still to be kept."""

    staged: StagedBlob
    header: Header
    metadata: bytes
    sha256: str
    size_bytes: int
    layout: bytes
    name: str
    replaces: str | None


def record_of_file(
    header: Header,
    blob: Blob,
    *,
    layout: bytes,
    layout_blob: str | None,
    metadata: bytes | None = None,
    replaces: str | None = None,
) -> InstanceRecord:
    """The record of a file that is kept. `layout_blob`: where the layout lies if not in the record; `metadata` where it
    is packed already."""
    return InstanceRecord(
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        instance_uid=header.instance_uid,
        sop_class_uid=header.sop_class_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        attributes=header.attributes,
        metadata=pack_metadata(header.attributes, header.transfer_syntax_uid) if metadata is None else metadata,
        blob=blob,
        layout=b"" if layout_blob is not None else layout,
        layout_blob=layout_blob,
        replaces=replaces,
    )


def keep_files(blobs: BlobStore, pending: Sequence[Pending]) -> list[InstanceRecord]:
    """Make the files durable, and beside them the layouts that are too large for a record; their records, in order."""
    beside: dict[int, StagedBlob] = {}
    for index, item in enumerate(pending):
        if len(item.layout) > LAYOUT_IN_RECORD_BYTES:
            beside[index] = blobs.stage()
    try:
        with disk_errors():
            for index, staged in beside.items():
                staged.file.write(pending[index].layout)
                staged.complete()
        keys = blobs.keep(staged=[item.staged for item in pending] + list(beside.values()))
    except BaseException:
        for extra in beside.values():
            extra.discard()
        raise
    layout_keys = dict(zip(beside, keys[len(pending) :], strict=True))
    return [
        record_of_file(
            item.header,
            Blob(key=keys[index], size_bytes=item.size_bytes, sha256=item.sha256),
            metadata=item.metadata,
            layout=item.layout,
            layout_blob=layout_keys.get(index),
            replaces=item.replaces,
        )
        for index, item in enumerate(pending)
    ]


def show(
    storage: Storage, blobs: BlobStore, records: Sequence[InstanceRecord], on_duplicate: OnDuplicate
) -> list[StoreOutcome]:
    """Make records visible; their files are given up where the index surely does not hold them. Raises StorageError."""
    try:
        return storage.store(records=records, on_duplicate=on_duplicate)
    except OutcomeUnknown:
        raise  # what is known now says nothing: files without a record are found by `check` after a day
    except StorageError:
        # The commit may have happened all the same: only what the index surely does not hold is given back.
        keys = [key for record in records for key in blob_keys(record)]
        with contextlib.suppress(StorageError):
            known = storage.known_blobs(keys=keys)
            blobs.delete(keys=[key for key in keys if key not in known])
        raise


def blob_keys(record: InstanceRecord) -> list[str]:
    """All that a record refers to."""
    return [record.blob.key] + ([record.layout_blob] if record.layout_blob else [])
