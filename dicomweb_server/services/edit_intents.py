"""Edits that have begun: which studies they hold meanwhile, and what is left to do when their process dies.

An intent is a document, written before the first instance changes and closed after the last. Who works on it holds the
lease of each of its studies; once that is over, anybody may go on: what is done already is found unchanged.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from dicomweb_server.dicom.edited_file import Change
from dicomweb_server.errors import Conflict, NotFound, StorageError, StorageUnavailable, VersionConflict
from dicomweb_server.services.lease import LEASE_SECONDS, LeasedState
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.paging import all_documents
from dicomweb_server.storage.records import Document, DocumentTerm, Scope

INTENT, HOLD = "edit", "edit-hold"
OPEN, DONE = "open", "done"
STUDY_UID = "0020000D"
MAX_NAMED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The same changes to some studies, or to a series."""

    scopes: tuple[Scope, ...]
    changes: tuple[Change, ...]

    def study_uid_after(self, scope: Scope) -> str:
        """The study that the instances belong to afterwards."""
        moved = next((change.values[0] for change in self.changes if change.tag == STUDY_UID), None)
        return str(moved or scope.study_uid)

    @property
    def studies(self) -> set[str]:
        """All that change."""
        own = {scope.study_uid for scope in self.scopes if scope.study_uid is not None}
        return own | {self.study_uid_after(scope) for scope in self.scopes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What is to be done. `reason` is in words, `code` as in `FileEdit`; `verb` is what the one who asked called it."""

    intent_id: str
    made_at: datetime
    verb: str
    reason: str
    code: str
    user: str
    task: Task

    @property
    def studies(self) -> list[str]:
        """All that change, sorted."""
        return sorted(self.task.studies)

    def body(self) -> dict[str, Any]:
        """As it is kept while it is open."""
        return {
            **self.summary(),
            "changes": [
                {"tag": change.tag, "vr": change.vr, "values": list(change.values), "stays": change.stays}
                for change in self.task.changes
            ],
        }

    def summary(self) -> dict[str, Any]:
        """What stays: everything but the values."""
        return {
            "made_at": self.made_at.isoformat(),
            "verb": self.verb,
            "reason": self.reason,
            "code": self.code,
            "user": self.user,
            "tags": [change.tag for change in self.task.changes],
            "scopes": [[scope.study_uid, scope.series_uid] for scope in self.task.scopes],
        }

    @classmethod
    def of(cls, document: Document) -> Self:
        """From an open document."""
        body = document.body
        return cls(
            intent_id=document.document_id,
            made_at=datetime.fromisoformat(body["made_at"]),
            verb=body["verb"],
            reason=body["reason"],
            code=body["code"],
            user=body["user"],
            task=Task(
                scopes=tuple(Scope(study_uid=study, series_uid=series) for study, series in body["scopes"]),
                changes=tuple(Change(**change) for change in body["changes"]),
            ),
        )


def new_intent_id(made_at: datetime) -> str:
    """In the order of time."""
    return f"{made_at:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


class Intents:
    """The documents."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def write(self, intent: Intent) -> Document:
        """From now on it is carried out, whatever happens."""
        return self._put(intent, OPEN, intent.body(), 0)

    def close(self, document: Document, intent: Intent, counts: Mapping[str, Any]) -> None:
        """It is done; the values that it set are forgotten here."""
        closed = self._put(intent, DONE, {**intent.summary(), **counts}, document.version)
        self._storage.forget_versions(kind=INTENT, document_id=intent.intent_id, before=closed.version)

    def open(self, study_uids: Iterable[str] = ()) -> list[Document]:
        """Those that are not done: of these studies, or all."""
        state = DocumentTerm(key="state", equal=OPEN)
        of_studies: list[tuple[DocumentTerm, ...]] = [
            (state, DocumentTerm(key="study", equal=uid)) for uid in study_uids
        ]
        found = {}
        for terms in of_studies or [(state,)]:
            for document in self._find(*terms):
                found[document.document_id] = document
        return [found[name] for name in sorted(found)]

    def is_open(self, intent_id: str) -> bool:
        """Whether it is not done."""
        try:
            return bool(self._storage.get_document(kind=INTENT, document_id=intent_id).body["state"] == OPEN)
        except NotFound:
            return False

    def of_study(self, study_uid: str) -> list[Document]:
        """All that a study ever saw, oldest first."""
        return list(self._find(DocumentTerm(key="study", equal=study_uid)))

    def _find(self, *terms: DocumentTerm) -> Iterator[Document]:
        return all_documents(self._storage, kind=INTENT, terms=terms)

    def _put(self, intent: Intent, state: str, body: dict[str, Any], expected: int) -> Document:
        return self._storage.put_document(
            kind=INTENT,
            document_id=intent.intent_id,
            body={"state": state, **body},
            keys={"state": (state,), "study": tuple(intent.studies)},
            expected_version=expected,
        )


class Hold:
    """The leases of some studies, of which no other edit can take place meanwhile. Raises Conflict on entry."""

    def __init__(self, storage: Storage, study_uids: Sequence[str], *, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._study_uids = sorted(study_uids)
        self._clock = clock
        self._owner = secrets.token_hex(8)
        self._held: dict[str, tuple[LeasedState, Document]] = {}
        self._taken_at = 0.0

    def __enter__(self) -> Self:
        self._taken_at = self._clock()
        try:
            for uid in self._study_uids:
                state = LeasedState(self._storage, kind=HOLD, name=uid, owner=self._owner, clock=self._clock)
                document = state.read(dict)
                if not state.is_free(document):
                    raise Conflict("another edit of this study is under way; try again when it is done")
                self._held[uid] = (state, state.take(document))
        except VersionConflict as exc:
            self._give()
            raise Conflict("another edit of this study is under way; try again when it is done") from exc
        except BaseException:
            self._give()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give()

    def prolong(self) -> None:
        """Called now and then. Raises StorageUnavailable where another process has taken over."""
        if abs(self._clock() - self._taken_at) < LEASE_SECONDS / 3:  # also where the clock was set
            return
        try:
            for uid, (state, document) in self._held.items():
                self._held[uid] = (state, state.take(document))
        except VersionConflict as exc:
            raise StorageUnavailable("another process goes on with this edit") from exc
        self._taken_at = self._clock()

    def _give(self) -> None:
        for uid, (_, document) in self._held.items():
            with suppress(VersionConflict, NotFound, StorageError):
                gone = self._storage.delete_document(kind=HOLD, document_id=uid, expected_version=document.version)
                self._storage.forget_versions(kind=HOLD, document_id=uid, before=gone.version)
        self._held.clear()
