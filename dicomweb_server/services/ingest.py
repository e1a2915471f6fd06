"""Storing instances: bytes come in part by part, each is staged, read and checked on its own, and all are committed in
batches. What comes back is a report with one outcome per part; one bad part never spoils the others."""

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, cast

from dicomweb_server.dicom.compose import compose
from dicomweb_server.dicom.element_writer import Bulk
from dicomweb_server.dicom.part10 import Header, read_header
from dicomweb_server.errors import (
    BadDicom,
    Conflict,
    NotDicom,
    StorageError,
    StorageFull,
    StorageUnavailable,
)
from dicomweb_server.services.committing import Pending, blob_keys, keep_files, show
from dicomweb_server.services.report import (
    CANNOT_UNDERSTAND,
    DATA_SET_MISMATCH,
    DUPLICATE_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    WARNING_COERCED,
    WARNING_MISMATCH,
    Accepted,
    Refused,
    Report,
)
from dicomweb_server.services.space import Space
from dicomweb_server.storage.base import BlobStore, LinkingBlobStore, StagedBlob, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.packing import pack_metadata
from dicomweb_server.storage.records import InstanceRecord, OnDuplicate, Stored, StoreOutcome

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"  # a directory of a medium is no instance of a study

READ_BYTES = 256 * 1024  # stays in the cache of a processor
SMALL_BYTES = 16 * 1024
LOOK_EVERY_BYTES = 64 * 1024 * 1024  # of a large instance: is there still room?
BATCH_INSTANCES = 100
BATCH_BYTES = 256 * 1024 * 1024
PREAMBLE_BYTES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestLimits:
    """What is stored, and how. Sizes of 0 mean no limit."""

    on_duplicate: OnDuplicate = OnDuplicate.REJECT
    max_instance_bytes: int = 0
    wipe_preamble: bool = False


class Ingest:
    """Takes instances into the archive."""

    def __init__(self, storage: Storage, blobs: BlobStore, *, limits: IngestLimits, space: Space | None = None) -> None:
        self._storage = storage
        self._blobs = blobs
        self._limits = limits
        self._space = space

    def begin(
        self,
        *,
        study_uid: str | None = None,
        expected_bytes: int = 0,
        at_once: int = 1,
        read_soon: bool = True,
    ) -> "IngestRequest":
        """A request to store several instances; with `study_uid` all must belong to that study.

        expected_bytes: how much will come, as far as that is known. at_once: so many become visible together, where the
        storage can do that. read_soon: as in `StagedBlob`. Raises StorageFull where it does not fit.
        """
        if self._space is not None:
            self._space.require(expected_bytes)
        return IngestRequest(
            self._storage,
            self._blobs,
            limits=self._limits,
            study_uid=study_uid,
            space=self._space,
            at_once=at_once,
            read_soon=read_soon,
        )


class IngestRequest:
    """One request: `add` each part, then `finish`; or `abandon`, which takes back all that no batch has committed."""

    def __init__(
        self,
        storage: Storage,
        blobs: BlobStore,
        *,
        limits: IngestLimits,
        study_uid: str | None,
        space: Space | None = None,
        at_once: int = 1,
        read_soon: bool = True,
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._limits = limits
        self._study_uid = study_uid
        self._space = space
        self._at_once = at_once
        self._read_soon = read_soon
        self._pending: list[Pending] = []
        self._pending_bytes = 0
        self._kept: list[tuple[Pending, InstanceRecord]] = []
        self._name = ""
        self._replaces: str | None = None
        self.report = Report()

    def add(self, chunks: Iterable[bytes | memoryview], *, name: str = "", replaces: str | None = None) -> None:
        """Take one Part 10 file. A file that cannot be kept is a `Refused` in the report, which has its name.

        replaces: as in `InstanceRecord`. Raises what `chunks` raises (a broken envelope) and StorageUnavailable,
        StorageFull: then nothing of it is kept.
        """
        self._name = name
        self._replaces = replaces
        pieces = iter(_without_preamble(chunks) if self._limits.wipe_preamble else chunks)
        head, ended = _beginning(pieces)
        header = None
        if ended:  # rubbish in many small parts shall not cost a file each
            try:
                header = read_header(io.BytesIO(head), len(head))
            except BadDicom as exc:
                self._refuse(CANNOT_UNDERSTAND, exc.message, no_instance=isinstance(exc, NotDicom))
                return
        if self._refused_for_space(head, header):
            return
        with self._staging() as staged:
            sha256, size_bytes = self._receive(itertools.chain([head], pieces), staged.file)
            staged.complete()
            self._examine(staged, sha256, size_bytes, header)
        self._commit_when_full()

    def link(self, path: str, *, name: str = "") -> None:
        """Take the file at this path where it is, without a copy; as `add`. Its preamble stays as it is.

        Raises Conflict where the blob store cannot link.
        """
        if not isinstance(self._blobs, LinkingBlobStore):
            raise Conflict("the files of this archive lie elsewhere: they cannot be linked")
        self._name = name
        try:
            staged = self._blobs.link(path=path)
        except BadDicom as exc:
            self._refuse(CANNOT_UNDERSTAND, exc.message)
            return
        with self._discarding(staged):
            limit = self._limits.max_instance_bytes or float("inf")
            if os.fstat(staged.file.fileno()).st_size > limit:
                raise BadDicom(f"the instance is larger than {limit} bytes (stow.max_instance_bytes)")
            sha256 = _sha256_of(staged.file, self._buffer)
            staged.complete()
            self._examine(staged, sha256, staged.file.tell())
        self._commit_when_full()

    def compose(self, attributes: Mapping[str, Any], bulk: Bulk) -> None:
        """Take one instance that comes as DICOM JSON with its bulk data apart (PS3.18 10.5); as `add`."""
        self._name = ""
        if self._refused_for_space(b"", None):
            return
        with self._staging() as staged:
            compose(attributes, bulk, staged.file)
            staged.complete()
            sha256 = _sha256_of(staged.file, self._buffer)
            self._examine(staged, sha256, staged.file.tell())
        self._commit_when_full()

    def refuse(self, message: str, *, name: str = "") -> None:
        """Report a part that could not even be read as one."""
        self._name = name
        self._refuse(CANNOT_UNDERSTAND, message)

    def finish(self) -> Report:
        """Commit what is pending; everything accepted in the report is durable and visible when this returns."""
        self._keep_pending()
        self._show()
        return self.report

    def abandon(self) -> None:
        """Take back all that is not committed. Safe at any time, also after `finish`."""
        self._discard_pending()
        kept, self._kept = self._kept, []
        with contextlib.suppress(StorageError):  # else they are orphans, which `check` finds
            self._blobs.delete(keys=[key for _, record in kept for key in blob_keys(record)])

    @cached_property
    def _buffer(self) -> memoryview:
        """To read files through: the memory of one for all."""
        return memoryview(bytearray(READ_BYTES))

    def _discard_pending(self) -> None:
        for item in self._pending:
            item.staged.discard()
        self._pending.clear()
        self._pending_bytes = 0

    def _staging(self) -> contextlib.AbstractContextManager[StagedBlob]:
        staged = self._blobs.stage()
        staged.read_soon = self._read_soon
        return self._discarding(staged)

    @contextlib.contextmanager
    def _discarding(self, staged: StagedBlob) -> Iterator[StagedBlob]:
        """A staged blob that is discarded when what is done with it fails; bad DICOM is a refusal, not an error."""
        try:
            with disk_errors():
                yield staged
        except BadDicom as exc:
            staged.discard()
            self._refuse(CANNOT_UNDERSTAND, exc.message, no_instance=isinstance(exc, NotDicom))
        except StorageFull as exc:
            staged.discard()
            if not self.report.accepted:
                raise
            # Earlier batches are stored: their acknowledgement must reach the client.
            self._refuse(OUT_OF_RESOURCES, exc.message)
        except BaseException:
            staged.discard()
            raise

    def _refused_for_space(self, head: bytes | memoryview, header: Header | None) -> bool:
        """Where nothing more fits, refuse the instance if earlier ones of the request are stored already: their
        acknowledgement must reach the client. Otherwise StorageFull is the answer to the whole."""
        if self._space is None:
            return False
        try:
            self._space.require(self._pending_bytes + len(head))
        except StorageFull as exc:
            if not self.report.accepted:
                raise
            if header is None:
                with contextlib.suppress(BadDicom):
                    header = read_header(io.BytesIO(head), len(head))
            self._refuse(OUT_OF_RESOURCES, exc.message, header)
            return True
        return False

    def _commit_when_full(self) -> None:
        if len(self._pending) >= BATCH_INSTANCES or self._pending_bytes >= BATCH_BYTES:
            self._keep_pending()
            if len(self._kept) >= self._at_once:
                self._show()

    def _receive(self, chunks: Iterable[bytes | memoryview], file: BinaryIO) -> tuple[str, int]:
        if self._limits.wipe_preamble:
            chunks = _without_preamble(chunks)
        digest = hashlib.sha256()
        size_bytes = 0
        limit = self._limits.max_instance_bytes or float("inf")
        look_at = LOOK_EVERY_BYTES
        for chunk in chunks:
            size_bytes += len(chunk)
            if size_bytes > limit:
                raise BadDicom(f"the instance is larger than {limit} bytes (stow.max_instance_bytes)")
            digest.update(chunk)
            file.write(chunk)
            if size_bytes >= look_at and self._space is not None:
                look_at += LOOK_EVERY_BYTES
                self._space.require()
        return digest.hexdigest(), size_bytes

    def _examine(self, staged: StagedBlob, sha256: str, size_bytes: int, header: Header | None = None) -> None:
        """Read the header, unless it is known; then the file is either pending or refused (and discarded)."""
        if header is None:
            staged.file.seek(0)
            header = read_header(staged.file, size_bytes)
        if header.sop_class_uid == DICOMDIR_CLASS:
            staged.discard()
            message = "a DICOMDIR is not stored; send the files that it lists"
            self._refuse(SOP_CLASS_NOT_SUPPORTED, message, header, no_instance=True)
        elif self._study_uid is not None and header.study_uid != self._study_uid:
            staged.discard()
            message = "the Study Instance UID of the instance is not the one in the URL"
            self._refuse(DATA_SET_MISMATCH, message, header)
        else:
            metadata = pack_metadata(header.attributes, header.transfer_syntax_uid)
            layout = header.layout.pack()
            self._pending.append(
                Pending(staged, header, metadata, sha256, size_bytes, layout, self._name, self._replaces)
            )
            self._pending_bytes += size_bytes

    def _refuse(
        self,
        reason: int,
        message: str,
        header: Header | None = None,
        *,
        duplicate: bool = False,
        no_instance: bool = False,
        name: str | None = None,
    ) -> None:
        self.report.refused.append(
            Refused(
                reason=reason,
                message=message,
                sop_class_uid=header.sop_class_uid if header else None,
                instance_uid=header.instance_uid if header else None,
                duplicate=duplicate,
                no_instance=no_instance,
                name=self._name if name is None else name,
            )
        )

    def _keep_pending(self) -> None:
        """Make what is pending durable."""
        if not self._pending:
            return
        try:
            self._kept += zip(self._pending, keep_files(self._blobs, self._pending), strict=True)
        except StorageError as exc:
            if not self.report.accepted:
                raise
            self._lose(self._pending, exc)
        finally:
            self._discard_pending()

    def _show(self) -> None:
        """Make visible what is durable."""
        kept, self._kept = self._kept, []
        if not kept:
            return
        try:
            outcomes = show(self._storage, self._blobs, [record for _, record in kept], self._limits.on_duplicate)
        except StorageError as exc:
            if not self.report.accepted:
                raise
            self._lose([item for item, _ in kept], exc)
            return
        for (item, record), outcome in zip(kept, outcomes, strict=True):
            self._decide(item, record, outcome)
        if self._space is not None:
            self._space.took(sum(item.size_bytes for item, _ in kept))
        unused = (outcome.stored in (Stored.SAME, Stored.REFUSED) for outcome in outcomes)
        self._blobs.delete(
            keys=[key for (_, record), free in zip(kept, unused, strict=True) if free for key in blob_keys(record)]
        )

    def _lose(self, items: Iterable[Pending], exc: StorageError) -> None:
        """Earlier batches are stored, and their acknowledgement must reach the client: these are refused."""
        reason = OUT_OF_RESOURCES if isinstance(exc, StorageFull | StorageUnavailable) else PROCESSING_FAILURE
        for item in items:
            self._refuse(reason, exc.message, item.header, name=item.name)

    def _decide(self, item: Pending, record: InstanceRecord, outcome: StoreOutcome) -> None:
        if outcome.stored is Stored.REFUSED:
            message = "another instance with this SOP Instance UID is stored, with other content; it was kept"
            self._refuse(DUPLICATE_INSTANCE, message, item.header, duplicate=True, name=item.name)
            return
        notes = list(item.header.warnings)
        if outcome.conflicts:
            notes.append(
                "attributes differ from those of the study or series as stored: " + ", ".join(outcome.conflicts)
            )
        self.report.accepted.append(
            Accepted(
                study_uid=record.study_uid,
                series_uid=record.series_uid,
                instance_uid=record.instance_uid,
                sop_class_uid=record.sop_class_uid,
                outcome=outcome.stored,
                warning=WARNING_COERCED if outcome.conflicts else WARNING_MISMATCH if notes else None,
                notes=tuple(notes),
                name=item.name,
            )
        )


def _sha256_of(file: BinaryIO, buffer: memoryview) -> str:
    """Of the whole file, which is at its end then. It is read through the buffer."""
    digest = hashlib.sha256()
    file.seek(0)
    while count := cast(io.BufferedIOBase, file).readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def _beginning(pieces: Iterator[bytes | memoryview]) -> tuple[bytes | memoryview, bool]:
    """The first bytes, some KB of them, and whether that is all."""
    head: bytes | memoryview = b""
    for piece in pieces:
        head = piece if not head else bytes(head) + bytes(piece)
        if len(head) > SMALL_BYTES:
            return head, False
    return bytes(head), True


def _without_preamble(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same file with its first 128 bytes zeroed, if they are a preamble (they can hold a second file format)."""
    head = b""
    rest = iter(chunks)
    for chunk in rest:
        head += bytes(chunk)
        if len(head) >= PREAMBLE_BYTES + 4:
            break
    if head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        head = bytes(PREAMBLE_BYTES) + head[PREAMBLE_BYTES:]
    if head:
        yield head
    yield from rest
