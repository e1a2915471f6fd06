"""The audit trail in the storage: append-only documents. Only time takes them away, and a command, which is audited.

What changes something, what lets somebody in and what is denied is there before the answer is sent. Reads are one
record for each user, study and minute, written within a second; a record of reads that went on gets its final count
when the minute is over. What is denied again and again in one minute is counted like reads, and who is refused too many
different things is told in one record, so that nobody fills the storage.
"""

import itertools
import logging
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from dicomweb_server.audit.record import DENIED, SUCCESS, AuditRecord
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import BadRequest, DicomwebError
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Document, DocumentTerm, Scope

KIND = "audit"
FLUSH_SECONDS = 1.0
MAX_PENDING = 50_000
MAX_REFUSALS_OF_ADDRESS = 50  # told one by one, in a minute
MAX_REFUSING_ADDRESSES = 1000
PURGED_AT_ONCE = 500
READS = frozenset({"search", "retrieve"})
_NOBODY = "anonymous"  # the kind of who is not logged in
_FOUND_BY = {"user": "user", "study": "study_uid", "patient": "patient_id", "action": "action", "outcome": "outcome"}
_READ_AS_ONE = ("user", "address", "action", "outcome", "study_uid")
_REFUSED_AS_ONE = (*_READ_AS_ONE, "what")
_MOMENT = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}([T ][0-9:.+Z -]{0,30})?)?)?$", re.ASCII)
_SEVERAL = "(several)"

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
        self._refusals: dict[tuple[str, str], int] = {}  # how many different ones, by minute and address
        self._dropped = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def now(self) -> str:
        """The time of a record made now."""
        return self._clock().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def note(self, record: AuditRecord) -> None:
        """Keep a record. Raises StorageError where that cannot be, for what has to be kept before the answer."""
        if record.action in READS and record.outcome != DENIED:
            self._count(replace(record, series_uid=""), _READ_AS_ONE, written=0)
        elif record.outcome != SUCCESS or record.kind == _NOBODY:
            if (first := self._count(record, _REFUSED_AS_ONE, written=1)) is not None:
                self._write(first.record, first.document_id)
        else:
            self._write(record)

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
        for text in filter(None, (since, until)):
            if not _MOMENT.match(text):
                raise BadRequest(f"since and until are days or times like 2026-01-31T12:00, not {text[:40]!r}")
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
            found, cursor = self.find(criteria, since=since, until=until, limit=1000, cursor=cursor)
            yield from found
            if cursor is None:
                return

    def purge(self, *, before: str, user: str, kind: str) -> int:
        """Delete for good all records of before this day or time; gives how many. That it was done, by whom, is a
        record. Raises BadRequest for what is no time of the past."""
        before = _past(before, self._clock())
        purged = 0
        try:
            while some := self._purge(before):
                purged += some
        finally:
            self._write(self._of_purge(before, purged, user=user, kind=kind))
        return purged

    def purge_older(self, *, days: int) -> int:
        """Delete for good some of the records that are older; gives how many. Of each minute in which that happened
        there is a record."""
        before = (self._clock() - timedelta(days=days)).date().isoformat()
        purged = self._purge(before)
        if purged:
            record = self._of_purge(before, 1, user="", kind="server")
            self._count(record, (*_READ_AS_ONE, "what"), written=0, times=purged)
        return purged

    def _purge(self, before: str) -> int:
        term = DocumentTerm(key="time", high=before)
        return self._storage.purge_documents(kind=KIND, terms=[term], limit=PURGED_AT_ONCE)

    def _of_purge(self, before: str, count: int, *, user: str, kind: str) -> AuditRecord:
        return AuditRecord(
            time=self.now(),
            action="audit",
            user=user,
            kind=kind,
            address="",
            outcome=SUCCESS,
            what=f"purged records of before {before}",
            count=count,
        )

    def flush(self) -> None:
        """Write what is counted and not written yet."""
        minute = self.now()[:16]
        with self._lock:
            due = [(key, reads) for key, reads in self._reads.items() if not reads.written or key[0] < minute]
            for key, _ in due:
                if key[0] < minute:
                    del self._reads[key]
            self._refusals = {key: told for key, told in self._refusals.items() if key[0] >= minute}
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

    def _count(self, record: AuditRecord, alike: Sequence[str], *, written: int, times: int = 1) -> _Reads | None:
        """Count it with those of the same minute that are alike in these values; gives the first of them."""
        with self._lock:
            self._start()
            minute = record.time[:16]
            key = _key(minute, record, alike)
            if key not in self._reads and record.outcome != SUCCESS:
                record = self._told_in_short(minute, record)
                key = _key(minute, record, alike)
            found = self._reads.get(key)
            if found is not None:
                found.count += times
                return None
            if len(self._reads) >= MAX_PENDING:
                self._dropped += 1
                return None
            self._reads[key] = first = _Reads(record, _document_id(record), written, count=times)
            return first

    def _told_in_short(self, minute: str, record: AuditRecord) -> AuditRecord:
        """The record of a refusal; without what differs where its address was refused too many things already."""
        address = record.address
        if (minute, address) not in self._refusals and len(self._refusals) >= MAX_REFUSING_ADDRESSES:
            address = ""
        told = self._refusals.get((minute, address), 0)
        self._refusals[minute, address] = told + 1
        if told < MAX_REFUSALS_OF_ADDRESS:
            return record
        user = "" if record.kind == _NOBODY else record.user
        return replace(record, address=address, user=user, study_uid="", object_id="", what=_SEVERAL)

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

    def _write(self, record: AuditRecord, document_id: str = "") -> None:
        if record.study_uid and not record.patient_id and record.outcome != DENIED:
            record = replace(record, patient_id=self.patient_of(record.study_uid))
        keys = {name: (str(getattr(record, attribute)),) for name, attribute in _FOUND_BY.items()}
        self._storage.put_document(
            kind=KIND,
            document_id=document_id or _document_id(record),
            body=record.as_json(),
            keys={**{name: values for name, values in keys.items() if values[0]}, "time": (record.time,)},
        )
        for sink in self._sinks:
            sink.send(record)


def _key(minute: str, record: AuditRecord, alike: Sequence[str]) -> tuple[str, ...]:
    return (minute, *(str(getattr(record, name)) for name in alike))


def _document_id(record: AuditRecord) -> str:
    """In the order of time; in one process also within a millisecond."""
    return f"{record.time}-{next(_numbers) % 1_000_000:06d}{secrets.token_hex(5)}".replace(":", "").replace(".", "")


def _past(text: str, now: datetime) -> str:
    """The day or time, UTC where it names no zone, as records have it. Raises BadRequest."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f'"{text}" is no day or time like 2016-01-01') from None
    time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    if time > now:
        raise BadRequest(f"{text} is in the future")
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _record(document: Document) -> AuditRecord:
    return AuditRecord(**document.body)
