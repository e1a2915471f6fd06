"""One writer at a time: what several threads want to write shares a transaction, and so one wait for the disk."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from backends.sqlite.connections import Connections
from backends.sqlite.unit import Unit

T = TypeVar("T")
_TOGETHER = 16


class _Job(Generic[T]):
    __slots__ = ("done", "error", "value", "work")

    def __init__(self, work: Callable[[Unit], T]) -> None:
        self.work = work
        self.done = False
        self.error: BaseException | None = None
        self.value: T | None = None


class Writer:
    """Runs work in write transactions, in the order it came."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        self._waiting: deque[_Job[Any]] = deque()

    def run(self, work: Callable[[Unit], T]) -> T:
        """Do the work, together with what other threads are waiting to do; returns after the commit.

        Whoever gets the lock does the waiting work of all. Where that fails, each piece is done again alone, so that
        nobody gets the error of another.
        """
        job = _Job(work)
        self._waiting.append(job)
        with self._lock:
            while not job.done:
                self._work_off([self._waiting.popleft() for _ in range(min(_TOGETHER, len(self._waiting)))])
        if job.error is not None:
            raise job.error
        return job.value  # type: ignore[return-value]

    def _work_off(self, jobs: list[_Job[Any]]) -> None:
        try:
            with self._connections.writing() as connection:
                unit = Unit(connection)
                values = [job.work(unit) for job in jobs]
                unit.flush()
        except BaseException as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._work_off([job])
                return
            jobs[0].error, jobs[0].done = error, True
            return
        for job, value in zip(jobs, values, strict=True):
            job.value, job.done = value, True
