"""Checking a running archive: every file is there and as it was stored, totals are those of the instances, and there is
no file that nothing refers to. What is found is put right where that can be done without guessing.

Whoever stores and removes meanwhile makes things look wrong for a moment: nothing is told before a second look.
"""

import contextlib
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice

import orjson

from dicomweb_server.dicom.layout import Layout
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import LinkBroken, NotFound, StorageCorrupt
from dicomweb_server.services.remove import Remove
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import (
    ArchiveEntry,
    InstanceEntry,
    ReplacedEntry,
    Scope,
    StoredInstance,
    VersionEntry,
    versions_in,
)

GRACE_SECONDS = 24 * 3600
"""A file that nothing refers to may be on its way into the archive; after this time it is an orphan."""
ASIDE = "aside"
"""The kind of the documents that keep the records of lost files."""
_KEYS_AT_ONCE = 500
_ENTRIES_AT_ONCE = 64
_THREADS = 8
_HITS_AT_ONCE = 500
_QUEUE_LOOKED_AT = 10_000
_INDEX_LOST = "kept: most files are unknown; is the index another one, or lost? rebuild takes them in"
_FILES_LOST = "left: most files are missing; is the place where they lie there?"


class Problem(StrEnum):
    """What can be wrong."""

    MISSING = "missing file"
    LINK = "broken link"
    SIZE = "file of another size"
    DAMAGED = "damaged file"
    RECORD = "unreadable record"
    TOTALS = "wrong totals"
    ORPHAN = "orphan file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong. `what` names it: UIDs, or the key of a file. `repaired`: no longer."""

    problem: Problem
    what: str
    detail: str = ""
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckProgress:
    """How far a check is: in which step, and `done` of `total` (0: not known) things of it."""

    step: str
    done: int
    total: int


class Check:
    """One run. `deep` reads every file; `repair` puts right what can be; `told` hears how far it is."""

    def __init__(
        self,
        storage: Storage,
        blobs: BlobStore,
        *,
        deep: bool = False,
        repair: bool = False,
        told: Callable[[CheckProgress], None],
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._deep = deep
        self._repair = repair
        self._told = told
        self._grace_seconds = grace_seconds
        self._studies: set[str] = set()
        self._instances = 0

    def run(self) -> Iterator[Finding]:
        """What is wrong, while it is found."""
        version = self._version(Scope())
        yield from self._check_files()
        yield from self._check_totals(version)
        yield from self._check_orphans()
        if self._repair:
            Remove(self._storage, self._blobs).release()

    # Files

    def _check_files(self) -> Iterator[Finding]:
        total = self._storage.count(query=Query(level=Level.INSTANCE))
        entries = _versions(entry for _, entry in self._storage.dump())
        done = 0
        lost: list[tuple[Scope, str]] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            while some := list(islice(entries, _ENTRIES_AT_ONCE)):
                for entry in some:
                    if isinstance(entry, InstanceEntry):
                        self._studies.add(entry.instance.study_uid)
                        self._instances += 1
                for entry, found in zip(some, pool.map(self._examine, some), strict=True):
                    if found is None or not self._is_referred_to(entry):
                        continue
                    problem, detail = found
                    if self._repair and problem is Problem.MISSING and isinstance(entry, InstanceEntry):
                        lost.append((_scope(entry.instance), detail))
                        continue
                    if not isinstance(entry, InstanceEntry):
                        detail += " (an older version)" if isinstance(entry, ReplacedEntry) else " (in the bin)"
                    yield Finding(problem=problem, what=_words(_scope(entry.instance)), detail=detail)
                done += len(some)
                self._tell("files", done, max(total, self._instances))
        # Most of them at once are rather a disk that is not mounted.
        most = 2 * len(lost) > self._instances
        for scope, detail in lost:
            if most:
                yield Finding(problem=Problem.MISSING, what=_words(scope), detail=_FILES_LOST)
            else:
                yield from self._put_aside(scope, detail)

    def _examine(self, entry: VersionEntry) -> tuple[Problem, str] | None:
        """What is wrong with the files of a version, and its words."""
        one = entry.instance
        try:
            size = self._blobs.size(key=one.blob.key)
        except LinkBroken as exc:
            return Problem.LINK, exc.message
        except StorageCorrupt as exc:
            return Problem.MISSING, exc.message
        try:
            if one.layout_blob is not None:
                self._blobs.size(key=one.layout_blob)
        except StorageCorrupt:
            return Problem.RECORD, "the places of its frames are missing"
        if size != one.blob.size_bytes:
            return Problem.SIZE, f"{size} bytes instead of {one.blob.size_bytes}"
        return self._examine_content(entry) if self._deep else None

    def _examine_content(self, entry: VersionEntry) -> tuple[Problem, str] | None:
        one = entry.instance
        try:
            digest = hashlib.sha256()
            for chunk in self._blobs.stream(key=one.blob.key):
                digest.update(chunk)
            if digest.hexdigest() != one.blob.sha256:
                return Problem.DAMAGED, "its SHA-256 is not that of the record"
            packed = one.layout
            if one.layout_blob is not None:
                packed = b"".join(self._blobs.stream(key=one.layout_blob))
        except StorageCorrupt as exc:
            return Problem.DAMAGED, exc.message
        try:
            Layout.unpack(packed)
            orjson.loads(unpack_metadata(entry.metadata))
        except (StorageCorrupt, orjson.JSONDecodeError):
            return Problem.RECORD, "its metadata or the places of its frames cannot be read"
        return None

    def _is_referred_to(self, entry: VersionEntry) -> bool:
        """The second look: whether this version is still there."""
        one = entry.instance
        if isinstance(entry, InstanceEntry):
            try:
                return self._storage.get(scope=_scope(one)).blob.key == one.blob.key
            except NotFound:
                return False
        queued = one.blob.key in self._storage.released(limit=_QUEUE_LOOKED_AT)
        return not queued and bool(self._storage.known_blobs(keys=[one.blob.key]))

    def _put_aside(self, scope: Scope, detail: str) -> Iterator[Finding]:
        """Take the record of a lost file out of the archive, and keep it as a document."""
        try:
            one = self._storage.get(scope=scope)
            (metadata,) = self._storage.metadata(scope=scope)
        except NotFound:  # removed meanwhile
            return
        if self._storage.replaced(instance_uid=one.instance_uid):
            detail += " Left: there are older versions to restore."
            yield Finding(problem=Problem.MISSING, what=_words(scope), detail=detail)
            return
        body = {
            "study_uid": one.study_uid,
            "series_uid": one.series_uid,
            "instance_uid": one.instance_uid,
            "sop_class_uid": one.sop_class_uid,
            "transfer_syntax_uid": one.transfer_syntax_uid,
            "sha256": one.blob.sha256,
            "size_bytes": one.blob.size_bytes,
            "stored_at": one.stored_at.isoformat(),
            "metadata": b64encode(metadata.deflated).decode(),
        }
        self._storage.put_document(kind=ASIDE, document_id=one.instance_uid, body=body, keys={})
        with contextlib.suppress(NotFound):
            self._storage.remove(scope=scope)
        detail += " Its record was put aside."
        yield Finding(problem=Problem.MISSING, what=_words(scope), detail=detail, repaired=True)

    # Totals

    def _check_totals(self, version: str) -> Iterator[Finding]:
        studies = sorted(self._studies)
        if self._storage.count(query=Query(level=Level.STUDY)) != len(studies):
            studies = sorted(self._studies | set(self._listed()))
        suspects: list[tuple[Scope, str]] = []
        scopes = [*(Scope(study_uid=uid) for uid in studies), Scope()]
        for number, scope in enumerate(scopes, 1):
            before = self._version(scope)
            if not self._storage.is_exact(scope=scope):
                suspects.append((scope, before))
            self._tell("studies", number, len(scopes))
        wrong = [scope for scope, before in suspects if self._is_wrong(scope, before)]
        for scope in wrong:
            if self._repair:
                self._storage.recompute(scope=scope)
            yield Finding(
                problem=Problem.TOTALS,
                what=scope.study_uid or "patients without a study",
                repaired=self._repair and self._storage.is_exact(scope=scope),
            )
        counted = self._storage.count(query=Query(level=Level.INSTANCE))
        if not wrong and counted != self._instances and self._version(Scope()) == version:
            detail = f"{counted} instances are counted, {self._instances} are there"
            yield Finding(problem=Problem.TOTALS, what="the archive", detail=detail)

    def _is_wrong(self, scope: Scope, before: str) -> bool:
        """The second look: whether it is still wrong, although nothing happened in between; else a third one."""
        for _ in range(3):
            if self._storage.is_exact(scope=scope):
                return False
            now = self._version(scope)
            if now == before:
                return True
            before = now
        return False  # others write to it all the time, and make it exact again each time

    def _listed(self) -> Iterator[str]:
        offset = 0
        while True:
            page = self._storage.search(query=Query(level=Level.STUDY, limit=_HITS_AT_ONCE, offset=offset))
            yield from (hit.study_uid or "" for hit in page.hits)
            offset += len(page.hits)
            if not page.more:
                return

    def _version(self, scope: Scope) -> str:
        try:
            return self._storage.version(scope=scope)
        except NotFound:
            return ""

    # Orphans

    def _check_orphans(self) -> Iterator[Finding]:
        keys = iter(self._blobs.keys(older_than_seconds=self._grace_seconds))
        orphans: list[str] = []
        done = 0
        while some := list(islice(keys, _KEYS_AT_ONCE)):
            orphans += self._unknown(some)
            done += len(some)
            self._tell("orphans", done, 0)
        for start in range(0, len(orphans), _KEYS_AT_ONCE):
            some = self._unknown(orphans[start : start + _KEYS_AT_ONCE])
            # More orphans than files of records: rather the index is lost than that many files are rubbish.
            release = self._repair and 2 * len(orphans) <= done
            if release:
                self._blobs.delete(keys=some)
            detail = _INDEX_LOST if self._repair and not release else ""
            for key in some:
                yield Finding(problem=Problem.ORPHAN, what=key, detail=detail, repaired=release)

    def _unknown(self, keys: Sequence[str]) -> list[str]:
        known = self._storage.known_blobs(keys=keys)
        return [key for key in keys if key not in known]

    def _tell(self, step: str, done: int, total: int) -> None:
        self._told(CheckProgress(step=step, done=done, total=total))


def _versions(entries: Iterable[ArchiveEntry]) -> Iterator[VersionEntry]:
    """What has files; it comes first in a dump."""
    for entry in entries:
        versions = versions_in(entry)
        if not versions:
            return
        yield from versions


def _scope(one: StoredInstance) -> Scope:
    return Scope(study_uid=one.study_uid, series_uid=one.series_uid, instance_uid=one.instance_uid)


def _words(scope: Scope) -> str:
    return "/".join(uid for uid in (scope.study_uid, scope.series_uid, scope.instance_uid) if uid)
