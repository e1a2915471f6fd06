"""Making the index again from the files alone: every file is read and its record stored, as if it came in now.

What no file tells is gone: JSON documents, the change feed, times of storing, the order of storing except as far as
keys tell it, and that something was removed whose file is still there.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from dicomweb_server.dicom.layout import Layout
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.errors import BadDicom, NotFound, StorageCorrupt
from dicomweb_server.services.check import GRACE_SECONDS
from dicomweb_server.services.committing import LAYOUT_IN_RECORD_BYTES, record_of_file
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Blob, InstanceRecord, OnDuplicate, Stored

_BATCH = 100
_THREADS = 4
_IN_MEMORY_BYTES = 8 << 20
_LARGEST_LAYOUT_BYTES = 256 << 20
_KIND, _ID = "rebuild", "rebuild"


@dataclass(slots=True)
class Rebuilt:
    """What became of the files. `layouts` hold places of frames, and are not needed any more; `refused` are pairs of a
    key and why. `grace`: only files older than a day were taken."""

    outcomes: Counter[Stored] = field(default_factory=Counter)
    known: int = 0
    layouts: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)
    grace: bool = False


class Rebuild:
    """One run; it goes on where one before was interrupted. `told` hears how many of how many files are read."""

    def __init__(self, storage: Storage, blobs: BlobStore, *, told: Callable[[int, int], None]) -> None:
        self._storage = storage
        self._blobs = blobs
        self._told = told

    def run(self) -> Rebuilt:
        """Store a record of every file that the index does not know; nobody else may store meanwhile.

        An index that is empty, or the one that an interrupted run has begun, takes all files: a later version of an
        instance replaces the one before. Any other takes only what was kept more than a day ago, and replaces nothing.
        """
        rebuilt = Rebuilt(grace=not self._begin())
        keys = sorted(self._blobs.keys(older_than_seconds=GRACE_SECONDS if rebuilt.grace else 0))
        on_duplicate = OnDuplicate.REJECT if rebuilt.grace else OnDuplicate.REPLACE
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(keys), _BATCH):
                some = keys[start : start + _BATCH]
                known = self._storage.known_blobs(keys=some)
                rebuilt.known += len(known)
                unknown = [key for key in some if key not in known]
                self._store(unknown, list(pool.map(self._read, unknown)), on_duplicate, rebuilt)
                self._told(start + len(some), len(keys))
        self._end()
        return rebuilt

    def _begin(self) -> bool:
        """Whether the index is empty, or what an interrupted run left."""
        if self._storage.count(query=Query(level=Level.INSTANCE)) == 0:
            self._storage.put_document(kind=_KIND, document_id=_ID, body={}, keys={})
            return True
        try:
            self._storage.get_document(kind=_KIND, document_id=_ID)
        except NotFound:
            return False
        return True

    def _end(self) -> None:
        try:
            self._storage.delete_document(kind=_KIND, document_id=_ID)
        except NotFound:  # the index was not empty
            return

    def _store(
        self,
        keys: Sequence[str],
        found: Sequence[InstanceRecord | str | None],
        on_duplicate: OnDuplicate,
        rebuilt: Rebuilt,
    ) -> None:
        records = []
        for key, record in zip(keys, found, strict=True):
            if isinstance(record, InstanceRecord):
                records.append(record)
            elif record is None:
                rebuilt.layouts += 1
            else:
                rebuilt.refused.append((key, record))
        outcomes = self._storage.store(records=records, on_duplicate=on_duplicate) if records else []
        rebuilt.outcomes.update(outcome.stored for outcome in outcomes)

    def _read(self, key: str) -> InstanceRecord | str | None:
        """The record of a file, why it is none, or None for a file with places of frames."""
        digest, size_bytes = hashlib.sha256(), 0
        try:
            with disk_errors(), tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as spool:
                own = self._blobs.open_file(key=key)
                for chunk in self._blobs.stream(key=key):
                    digest.update(chunk)
                    size_bytes += len(chunk)
                    if own is None:
                        spool.write(chunk)
                with closing(own or cast(BinaryIO, spool)) as file:
                    file.seek(0)
                    header = read_header(file, size_bytes)
        except BadDicom as exc:
            return None if self._is_layout(key, size_bytes) else exc.message
        except StorageCorrupt as exc:
            return exc.message
        blob = Blob(key=key, size_bytes=size_bytes, sha256=digest.hexdigest())
        packed = header.layout.pack()
        layout_blob = self._keep_layout(packed) if len(packed) > LAYOUT_IN_RECORD_BYTES else None
        return record_of_file(header, blob, layout=packed, layout_blob=layout_blob)

    def _keep_layout(self, packed: bytes) -> str:
        staged = self._blobs.stage()
        try:
            with disk_errors():
                staged.file.write(packed)
                staged.complete()
            (key,) = self._blobs.keep(staged=[staged])
        except BaseException:
            staged.discard()
            raise
        return key

    def _is_layout(self, key: str, size_bytes: int) -> bool:
        if size_bytes > _LARGEST_LAYOUT_BYTES:
            return False
        try:
            Layout.unpack(self._blobs.read(key=key, start=0, length=size_bytes))
        except StorageCorrupt:
            return False
        return True
