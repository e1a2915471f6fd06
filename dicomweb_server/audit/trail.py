"""The audit trail in the storage: append-only documents.

What changes something, what lets somebody in and what is denied is there before the answer is sent. Reads are one
record for each user, study and minute, written within a second; a record of reads that went on gets its final count
when the minute is over. What is denied again and again in one minute is counted like reads, so that nobody fills the
storage.
"""

import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from dicomweb_server.audit.record import DENIED, AuditRecord
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest, DicomwebError
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Document, DocumentTerm, Scope

KIND = "audit"
FLUSH_SECONDS = 1.0
MAX_PENDING = 50_000
READS = frozenset({"search", "retrieve"})
_FOUND_BY = {"user": "user", "study": "study_uid", "patient": "patient_id", "action": "action", "outcome": "outcome"}
_READ_AS_ONE = ("user", "address", "action", "outcome", "study_uid")
_DENIED_AS_ONE = (*_READ_AS_ONE, "what")

_numbers = itertools.count()
_log = logging.getLogger("dicomweb_server.audit")


class Sink(Protocol):
    """Who else is told of each record."""

    def send(self, record: AuditRecord) -> None:
        """Take it; never waits."""

    def close(self) -> None:
        """Send what is left, for a moment."""


@dataclass(slots=True)
class _Reads:
    """Reads of one minute: the first of them, how many, and how many are written."""

    record: AuditRecord
    document_id: str
    written: int = 0
    count: int = field(default=1)


class AuditTrail:
    """Writes and reads it. `clock` gives the time in UTC."""

    def __init__(
        self, storage: Storage, *, sinks: Sequence[Sink] = (), clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._storage = storage
        self._sinks = tuple(sinks)
        self._clock = clock
        self._lock = threading.Lock()
        self._reads: dict[tuple[str, ...], _Reads] = {}
        self._dropped = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def now(self) -> str:
        """The time of a record made now."""
        return self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def note(self, record: AuditRecord) -> None:
        """Keep a record. Raises StorageError where that cannot be, for what has to be kept before the answer."""
        minute = record.time[:16]
        if record.action in READS and record.outcome != DENIED:
            record = replace(record, series_uid="")
            self._count((minute, *(str(getattr(record, name)) for name in _READ_AS_ONE)), record, written=0)
        elif record.outcome == DENIED:
            key = (minute, *(str(getattr(record, name)) for name in _DENIED_AS_ONE))
            if self._count(key, record, written=1):
                self._write(record, self._reads[key].document_id)
        else:
            self._write(record, _document_id(record))

    def patient_of(self, study_uid: str) -> str:
        """The Patient ID of a study; empty where there is none."""
        hits = self._storage.search(query=Query(level=Level.STUDY, scope=Scope(study_uid=study_uid), limit=1)).hits
        values = hits[0].attributes.get("00100020", {}).get("Value") if hits else None
        return str(values[0]) if values else ""

    def find(
        self,
        criteria: Mapping[str, str],
        *,
        since: str = "",
        until: str = "",
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[tuple[str, AuditRecord]], str | None]:
        """Records with their ids, oldest first, and where to go on. Raises BadRequest for an unknown criterion."""
        terms = []
        for name, value in criteria.items():
            if name not in _FOUND_BY:
                raise BadRequest(f"records are found by {', '.join(_FOUND_BY)}, since and until, not by {name}")
            terms.append(DocumentTerm(key=name, equal=value))
        if since or until:
            # "~" comes after everything in a time: a day as the end means all of it.
            terms.append(DocumentTerm(key="time", low=since or "0", high=until + "~" if until else "9"))
        page = self._storage.find_documents(kind=KIND, terms=terms, limit=limit, cursor=cursor)
        return [(document.document_id, _record(document)) for document in page.documents], page.cursor

    def all(
        self, criteria: Mapping[str, str], *, since: str = "", until: str = ""
    ) -> Iterator[tuple[str, AuditRecord]]:
        """All that match, page by page."""
        cursor = None
        while True:
            found, cursor = self.find(criteria, since=since, until=until, cursor=cursor)
            yield from found
            if cursor is None:
                return

    def flush(self) -> None:
        """Write what is counted and not written yet."""
        minute = self.now()[:16]
        with self._lock:
            due = [(key, reads) for key, reads in self._reads.items() if not reads.written or key[0] < minute]
            for key, _ in due:
                if key[0] < minute:
                    del self._reads[key]
            work = [(reads, reads.count) for _, reads in due if reads.count != reads.written]
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.error("%d reads were not audited: more came than could be written", dropped)
        for reads, count in work:
            self._write(replace(reads.record, count=count), reads.document_id)
            reads.written = count

    def close(self) -> None:
        """Write all, and end the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        with self._lock:
            work = [reads for reads in self._reads.values() if reads.count != reads.written]
            self._reads.clear()
        for reads in work:
            self._write_or_log(replace(reads.record, count=reads.count), reads.document_id)
        for sink in self._sinks:
            sink.close()

    def _count(self, key: tuple[str, ...], record: AuditRecord, *, written: int) -> bool:
        """Count it; true for the first of its minute."""
        with self._lock:
            self._start()
            found = self._reads.get(key)
            if found is not None:
                found.count += 1
                return False
            if len(self._reads) >= MAX_PENDING:
                self._dropped += 1
                return False
            self._reads[key] = _Reads(record, _document_id(record), written)
            return True

    def _start(self) -> None:
        """The thread that flushes, begun with the first read, which is after the fork."""
        if self._thread is None and not self._stop.is_set():
            self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except DicomwebError as exc:
                _log.error("reads cannot be audited: %s", exc.message)

    def _write_or_log(self, record: AuditRecord, document_id: str) -> None:
        try:
            self._write(record, document_id)
        except DicomwebError as exc:
            _log.error("reads cannot be audited: %s", exc.message)

    def _write(self, record: AuditRecord, document_id: str) -> None:
        if record.study_uid and not record.patient_id and record.outcome != DENIED:
            record = replace(record, patient_id=self.patient_of(record.study_uid))
        keys = {name: (str(getattr(record, attribute)),) for name, attribute in _FOUND_BY.items()}
        self._storage.put_document(
            kind=KIND,
            document_id=document_id,
            body=record.as_json(),
            keys={**{name: values for name, values in keys.items() if values[0]}, "time": (record.time,)},
        )
        for sink in self._sinks:
            sink.send(record)


def _document_id(record: AuditRecord) -> str:
    """In the order of time; in one process also within a millisecond."""
    return f"{record.time}-{next(_numbers) % 1_000_000:06d}{secrets.token_hex(5)}".replace(":", "").replace(".", "")


def _record(document: Document) -> AuditRecord:
    return AuditRecord(**document.body)
