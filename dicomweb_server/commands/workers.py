"""Processes that work through batches for a command. They are forked, and so begin at once: start them before threads.

A worker ends when the command does, in whatever way that happens: it reads the end of its pipe.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, Self, TypeVar

from dicomweb_server.errors import DicomwebError, StorageError

T = TypeVar("T")
R = TypeVar("R")

TICK_SECONDS = 0.5


class Workers(Generic[T, R]):
    """`jobs` processes. Each calls `begin` once, for what it is to do with every batch."""

    def __init__(self, jobs: int, begin: Callable[[], Callable[[T], R]]) -> None:
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: set[Connection] = set()
        context = multiprocessing.get_context("fork")
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            inherited = [*self._processes, ours]
            process = context.Process(target=_work, args=(theirs, inherited, begin), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join()

    def results(self, batches: Iterable[T]) -> Iterator[R | None]:
        """What comes of the batches, in the order in which they end; None now and then, while they are waited for.

        Raises what a worker raised, if it is one of our errors, and StorageError when one ended before its time.
        """
        free = list(self._processes)
        for batch in batches:
            self._hand_out(batch, free.pop())
            while not free:
                yield from self._collect(free)
        while self._busy:
            yield from self._collect(free)

    def rest(self) -> Iterator[R]:
        """After an error or an interrupt: the results of the batches that were begun, as far as there are any."""
        for connection in self._busy:
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                continue
            if not isinstance(answer, DicomwebError):
                yield answer
        self._busy = set()

    def _hand_out(self, batch: T, connection: Connection) -> None:
        try:
            connection.send(batch)
        except OSError:
            self._received(connection)  # it has ended, and may have told why
            raise
        self._busy.add(connection)

    def _collect(self, free: list[Connection]) -> Iterator[R | None]:
        ended = [item for item in wait(self._busy, TICK_SECONDS) if isinstance(item, Connection)]
        if not ended:
            yield None
        for connection in ended:
            self._busy.discard(connection)
            yield self._received(connection)
            free.append(connection)

    def _received(self, connection: Connection) -> R:
        try:
            answer: R | DicomwebError = connection.recv()
        except (EOFError, OSError) as exc:
            raise StorageError("A process of the import was killed; is memory short? Try fewer --jobs.") from exc
        if isinstance(answer, DicomwebError):
            raise answer
        return answer


def _work(connection: Connection, inherited: Sequence[Connection], begin: Callable[[], Callable[[T], R]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what an interrupt means
    for other in inherited:
        other.close()  # or the pipe of a sibling would stay open when the command is killed
    try:
        work = begin()
        while True:
            connection.send(work(connection.recv()))
    except DicomwebError as exc:
        with suppress(OSError):  # the command has ended already
            connection.send(exc)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
