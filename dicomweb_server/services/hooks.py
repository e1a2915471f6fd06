"""Web hooks: changes of the archive, posted to an address as they come, signed, in order, each at least once.

Where a hook stands is a document in the storage, so that a restart goes on where the last process ended. All processes
look; the one whose write of the document succeeds holds the lease and delivers a batch, the others wait.
"""

import contextlib
import hashlib
import hmac
import logging
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from http.client import HTTPException
from typing import IO

import orjson

from dicomweb_server import __version__
from dicomweb_server.errors import BadRequest, DicomwebError, NotFound, VersionConflict
from dicomweb_server.services.changes import shown
from dicomweb_server.services.lease import LeasedState
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Change, ChangeKind

SIGNATURE_HEADER = "Dicomweb-Signature"
DOCUMENT_KIND = "hook"
BATCH = 100
TIMEOUT_SECONDS = 10.0
LOOK_EVERY_SECONDS = 1.0
FIRST_RETRY_SECONDS = 2.0
LAST_RETRY_SECONDS = 300.0
COUNTED = 1000

_log = logging.getLogger("dicomweb_server.hooks")

Post = Callable[[str, bytes, Mapping[str, str]], None]
"""Sends a body to a URL with headers; raises OSError or HTTPException unless the answer is 2xx."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Where to send changes of some kinds. `base` is the DICOMweb root that URLs in it begin with; empty leaves them as
    paths."""

    name: str
    url: str
    secret: str
    kinds: frozenset[ChangeKind]
    base: str = ""


def signature(secret: str, *, timestamp: int, body: bytes) -> str:
    """The value of the signature header: HMAC-SHA256 of the time, a dot and the body, as `t=...,v1=...` in hex."""
    digest = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


class Hooks:
    """Delivers to all hooks from a thread of its own."""

    def __init__(
        self,
        storage: Storage,
        hooks: Sequence[Hook],
        *,
        post: Post | None = None,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        self._storage = storage
        self._hooks = hooks
        self._post = post or _post
        self._clock = clock
        self._look_every_seconds = look_every_seconds
        self._stopwatch = stopwatch
        self._owner = secrets.token_hex(8)
        self._leases: dict[str, LeasedState] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hooks", daemon=True)

    def start(self) -> None:
        """Begin to deliver; does nothing without hooks."""
        if self._hooks:
            self._thread.start()

    def close(self) -> None:
        """Stop after the delivery that is under way."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_SECONDS + 1)

    def waiting(self) -> dict[str, int]:
        """How many changes each hook has not got yet, up to `COUNTED`; without those that nobody has looked at yet."""
        found = {}
        for hook in self._hooks:
            with contextlib.suppress(NotFound, BadRequest):
                state = self._storage.get_document(kind=DOCUMENT_KIND, document_id=hook.name).body
                found[hook.name] = len(self._storage.changes(after=state["cursor"], limit=COUNTED))
        return found

    def _run(self) -> None:
        while not self._closed.is_set():
            busy = False
            for hook in self._hooks:
                try:
                    busy |= self.step(hook)
                except VersionConflict:
                    continue  # another process was quicker
                except DicomwebError as exc:
                    _log.warning("hook %s: %s", hook.name, exc.message)
                except Exception as exc:  # the outermost loop of this thread: the next look may go better
                    _log.error("hook %s: unexpected %s", hook.name, type(exc).__name__, exc_info=exc)
            if not busy:
                self._closed.wait(self._look_every_seconds)

    def step(self, hook: Hook) -> bool:
        """Deliver the next batch, if there is one and nobody else delivers; says whether there may be more.

        Raises VersionConflict where another process has taken over.
        """
        lease = self._lease(hook.name)
        document = lease.read(lambda: {"cursor": self._storage.newest_change(), "failures": 0, "retry_at": 0.0})
        state = document.body
        # A pause that is longer than any was begun by a clock that has been set back since.
        if 0 < state["retry_at"] - self._clock() <= LAST_RETRY_SECONDS or not lease.is_free(document):
            return False
        try:
            changes = self._storage.changes(after=state["cursor"], limit=BATCH)
        except BadRequest:
            _log.warning("hook %s: the archive is not the one it knew; it goes on with what comes now", hook.name)
            lease.give(document, {"cursor": self._storage.newest_change()})
            return False
        if not changes:
            return False
        wanted = [change for change in changes if change.kind in hook.kinds]
        done = {"cursor": changes[-1].cursor, "failures": 0, "retry_at": 0.0}
        if not wanted:
            lease.give(document, done)
            return True
        leased = lease.take(document)
        failure = self._send(hook, wanted)
        if failure is None:
            lease.give(leased, done | {"delivered_at": _time(self._clock())})
            return True
        failures = state["failures"] + 1
        pause = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 20), LAST_RETRY_SECONDS)
        _log.warning("hook %s: %s; the next attempt is in %.0f s", hook.name, failure, pause)
        lease.give(leased, {"failures": failures, "retry_at": self._clock() + pause, "failure": failure})
        return False

    def _lease(self, name: str) -> LeasedState:
        if name not in self._leases:
            self._leases[name] = LeasedState(
                self._storage, kind=DOCUMENT_KIND, name=name, owner=self._owner, stopwatch=self._stopwatch
            )
        return self._leases[name]

    def _send(self, hook: Hook, changes: Sequence[Change]) -> str | None:
        """Post a batch; gives what went wrong, without the address."""
        timestamp = int(self._clock())
        body = orjson.dumps({"hook": hook.name, "changes": [shown(change, hook.base) for change in changes]})
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"dicomweb-server/{__version__}",
            SIGNATURE_HEADER: signature(hook.secret, timestamp=timestamp, body=body),
        }
        try:
            self._post(hook.url, body, headers)
        except urllib.error.HTTPError as exc:
            exc.close()
            return f"the receiver answered {exc.code}"
        except (OSError, HTTPException) as exc:
            return f"the receiver cannot be reached ({type(exc).__name__})"
        return None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A receiver that moves is a setting to change: a redirect could lead anywhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")  # noqa: S310  http(s): settings
    with _opener.open(request, timeout=TIMEOUT_SECONDS):
        pass


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
