"""What a failure of this process left half-way is finished by itself as soon as CouchDB answers again.

A store or a removal whose connection breaks between the instance and what is derived from it is not acknowledged, but
the instance may be there, and totals and lists are not what they should be. Its study is tried again, after a moment
and then at growing intervals, until it is whole. If the process ends before, whoever opens the archive next does it
(`inflight`).
"""

import logging
import threading
from collections.abc import Callable

from backends.couchdb.inflight import InFlight
from dicomweb_server.errors import StorageError

logger = logging.getLogger(__name__)

FIRST_SECONDS, LONGEST_SECONDS = 0.2, 5.0
CLOSING_SECONDS = 2.0


class Mending:
    """A thread that is there as long as something is left half-way. `finish` finishes a study, and raises StorageError
    as long as that is not possible."""

    def __init__(self, inflight: InFlight, finish: Callable[[str], None]) -> None:
        self._inflight = inflight
        self._finish = finish
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        inflight.when_left = self._begin

    def close(self) -> None:
        """Try no more; what is left is named in the entry of the process."""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(CLOSING_SECONDS)

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="couchdb-mending", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause = FIRST_SECONDS
        while not self._closed.wait(pause):
            pause = min(2 * pause, LONGEST_SECONDS)
            self._mend()
            with self._lock:
                if not self._inflight.left():
                    self._thread = None
                    return

    def _mend(self) -> None:
        try:
            for study, failures in self._inflight.left().items():
                self._finish(study)
                self._inflight.mended(study, failures)
                logger.info("What a failure left half-way in a study is finished.")
        except StorageError as exc:
            logger.warning("A study was left half-way, and cannot be finished yet: %s", exc.message)
