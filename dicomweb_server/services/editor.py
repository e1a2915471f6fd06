"""Carrying out an edit: each instance gets a new version, and none is left behind.

All instances are looked at first, so that what cannot be done, or has no room, changes nothing. Then the intent is
written, and the new versions are stored in batches as everything is stored. A process that dies in
between leaves an intent, and whoever sees it next goes on.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from dicomweb_server.dicom.edited_file import EditedFile, FileEdit, edit_file
from dicomweb_server.dicom.part10 import data_set_start, inflate_from
from dicomweb_server.dicom.source import ReadAt, read_at, size_of
from dicomweb_server.dicom.uids import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN
from dicomweb_server.errors import (
    CallerError,
    Conflict,
    NotFound,
    StorageCorrupt,
    StorageError,
    StorageUnavailable,
    VersionConflict,
)
from dicomweb_server.services.edit_intents import MAX_NAMED, Hold, Intent, Intents
from dicomweb_server.services.ingest import Ingest
from dicomweb_server.services.report import OUT_OF_RESOURCES, PROCESSING_FAILURE, Report
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import Document, Scope, StoredInstance

SYSTEM = "dicomweb-server"
AT_ONCE = 1000
ROUNDS = 20

_log = logging.getLogger("dicomweb_server.edit")


@dataclass(slots=True, kw_only=True)
class EditReport:
    """What became of the instances. `failed` ones were stored while the edit ran, or could not be read to their end: at
    most `MAX_NAMED` with the reason."""

    intent_id: str = ""
    edited: int = 0
    unchanged: int = 0
    failures: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, instance_uid: str, reason: str) -> None:
        """One more that is as it was."""
        self.failures += 1
        if len(self.failed) < MAX_NAMED:
            self.failed.append((instance_uid, reason))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What an edit would do."""

    edited: int
    unchanged: int
    size_bytes: int


class Editor:
    """Makes new versions. `ingest` is told to replace."""

    def __init__(
        self, storage: Storage, blobs: BlobStore, ingest: Ingest, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._ingest = ingest
        self._clock = clock
        self.intents = Intents(storage)

    def run(self, intent: Intent, *, check: Callable[[], None] = lambda: None) -> EditReport:
        """Carry it out. `check` is called once nobody else can edit these studies any more.

        Raises NotFound, Conflict where another edit is under way, StorageFull, what `check` raises: then nothing has
        changed; StorageUnavailable also where it has begun, and goes on by itself.
        """
        for document in self.intents.open(intent.studies):
            self._go_on(document)
        with Hold(self._storage, intent.studies, clock=self._clock) as hold:
            if self.intents.open(intent.studies):
                raise Conflict("another edit of this study has begun and is not done; try again in a minute")
            check()
            survey = self._look(intent, hold)
            if not survey.edited:
                return EditReport(intent_id=intent.intent_id, unchanged=survey.unchanged)
            self._ingest.begin(expected_bytes=survey.size_bytes).abandon()
            document = self.intents.write(intent)
            try:
                return self._finish(document, intent, hold)
            except StorageError as exc:
                message = f"the edit has begun, and goes on as soon as it can: {exc.message}"
                raise StorageUnavailable(message, getattr(exc, "retry_after_seconds", 30)) from exc

    def survey(self, intent: Intent, *, check: Callable[[], None] = lambda: None) -> EditReport:
        """What it would do, without doing it. Raises as `run`."""
        with Hold(self._storage, intent.studies, clock=self._clock) as hold:
            check()
            found = self._look(intent, hold)
        return EditReport(edited=found.edited, unchanged=found.unchanged)

    def resume(self) -> int:
        """Go on with all edits that nobody works on; gives the number of those that are done now.

        Raises StorageError.
        """
        done = 0
        failure: StorageError | None = None
        for document in self.intents.open():
            try:
                done += self._go_on(document)
            except Conflict:
                continue  # somebody works on it
            except StorageError as exc:  # the others may fare better
                failure = failure or exc
        if failure is not None:
            raise failure
        return done

    def _go_on(self, document: Document) -> bool:
        intent = Intent.of(document)
        with Hold(self._storage, intent.studies, clock=self._clock) as hold:
            if not self.intents.is_open(intent.intent_id):
                return False
            report = self._finish(document, intent, hold)
        _log.info("finished edit %s, which had been interrupted: %d instances", intent.intent_id, report.edited)
        return True

    # One edit

    def _look(self, intent: Intent, hold: Hold) -> _Survey:
        """Prepare every instance once, without writing. Raises NotFound, Conflict, BadDicom, StorageCorrupt."""
        edited = unchanged = size_bytes = 0
        for scope in intent.task.scopes:
            for stored in list(self._storage.instances(scope=scope)):
                hold.prolong()
                with self._opened(stored, intent) as file:
                    if file.changed:
                        edited += 1
                        size_bytes += file.size_bytes
                    else:
                        unchanged += 1
        return _Survey(edited=edited, unchanged=unchanged, size_bytes=size_bytes)

    def _finish(self, document: Document, intent: Intent, hold: Hold) -> EditReport:
        report = EditReport(intent_id=intent.intent_id)
        for scope in intent.task.scopes:
            self._scope(scope, intent, hold, report)
        counts = {"edited": report.edited, "unchanged": report.unchanged, "failed": report.failures}
        with suppress(VersionConflict):  # another process has closed it
            self.intents.close(document, intent, counts)
        return report

    def _scope(self, scope: Scope, intent: Intent, hold: Hold, report: EditReport) -> None:
        """All instances of a study or series, also those that are stored while this runs."""
        seen: set[str] = set()
        for _ in range(ROUNDS):
            try:
                found = [one for one in self._storage.instances(scope=scope) if one.instance_uid not in seen]
            except NotFound:
                return  # removed meanwhile, or all of it moved
            if not found:
                return
            again = self._batch(found, scope, intent, hold, report)
            seen |= {one.instance_uid for one in found} - again

    def _batch(
        self, found: Sequence[StoredInstance], scope: Scope, intent: Intent, hold: Hold, report: EditReport
    ) -> set[str]:
        """Store the new versions; gives the UIDs of those that somebody else replaced or removed meanwhile."""
        request = self._ingest.begin(study_uid=intent.task.study_uid_after(scope), at_once=min(AT_ONCE, len(found)))
        try:
            for stored in found:
                hold.prolong()
                try:
                    with self._opened(stored, intent) as file:
                        if file.changed:
                            chunks = _holding(file.chunks(), hold)
                            request.add(chunks, name=stored.instance_uid, replaces=stored.blob.key)
                        else:
                            report.unchanged += 1
                except (CallerError, StorageCorrupt) as exc:
                    report.fail(stored.instance_uid, exc.message)
            done = request.finish()
        finally:
            request.abandon()
        report.edited += len(done.accepted)
        return _refused(done, report)

    @contextmanager
    def _opened(self, stored: StoredInstance, intent: Intent) -> Iterator[EditedFile]:
        """An instance, edited; its file is open meanwhile."""
        edit = FileEdit(changes=intent.task.changes, made_at=intent.made_at, system=SYSTEM, code=intent.code)
        size = stored.blob.size_bytes
        local = self._blobs.open_file(key=stored.blob.key)
        try:
            read = read_at(local) if local is not None else self._reader(stored)
            start, encoding = data_set_start(read, size)
            if stored.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
                yield edit_file(edit, read=read, size=size, start=start, encoding=encoding)
                return
            with inflate_from(read, size) as data_set:
                inflated = (read_at(data_set), size_of(data_set))
                yield edit_file(edit, read=read, size=size, start=start, encoding=encoding, inflated=inflated)
        finally:
            if local is not None:
                local.close()

    def _reader(self, stored: StoredInstance) -> ReadAt:
        key, size = stored.blob.key, stored.blob.size_bytes

        def read(start: int, length: int) -> bytes:
            length = min(length, size - start)
            return self._blobs.read(key=key, start=start, length=length) if length > 0 else b""

        return read


def _holding(chunks: Iterator[bytes], hold: Hold) -> Iterator[bytes]:
    for chunk in chunks:
        hold.prolong()
        yield chunk


def _refused(done: Report, report: EditReport) -> set[str]:
    again = set()
    for refused in done.refused:
        if refused.duplicate:
            again.add(refused.name)
        elif refused.reason in (OUT_OF_RESOURCES, PROCESSING_FAILURE):
            raise StorageUnavailable(refused.message, 30)
        else:
            report.fail(refused.name, refused.message)
    return again
