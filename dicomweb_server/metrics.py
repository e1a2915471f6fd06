"""Figures for Prometheus. Labels are route templates, methods, statuses and kinds of outcomes; nothing of a patient.

Each process counts for itself. Where several serve, `share` gives them a folder in which the library keeps the figures
of all, so that whichever is asked answers for all. Without prometheus_client nothing is counted.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from dicomweb_server import __version__
from dicomweb_server.errors import DicomwebError, NotFound
from dicomweb_server.storage.records import StorageState

# The library reads it when it is first imported.
_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MISSING = "metrics need prometheus_client: pip install 'dicomweb-server[metrics]'"


@contextlib.contextmanager
def share(memory: Path | None) -> Iterator[None]:
    """Let the processes that are forked inside the block count together, in a folder of their own below `memory` (or
    where temporary files are), which goes with the process that made it."""
    if os.environ.get(_FOLDER_VARIABLE) or find_spec("prometheus_client") is None:
        yield
        return
    starter = os.getpid()
    folder = tempfile.mkdtemp(prefix="dicomweb-metrics-", dir=memory)
    os.environ[_FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        if os.getpid() == starter:
            os.environ.pop(_FOLDER_VARIABLE, None)
            shutil.rmtree(folder, ignore_errors=True)


def forget_process(pid: int) -> None:
    """A process that shared its figures has ended: what it counted stays, what it had under way does not."""
    if os.environ.get(_FOLDER_VARIABLE) and find_spec("prometheus_client") is not None:
        import_module("prometheus_client.multiprocess").mark_process_dead(pid)


class Metrics:
    """What is counted. Asked when somebody looks are `checks`, the state of each part of the archive, and `queues`, how
    long each queue is. `directory` is where the disk is measured; None where the data lies elsewhere."""

    def __init__(
        self,
        *,
        checks: Mapping[str, Callable[[], StorageState]],
        queues: Callable[[], Mapping[str, int]] = dict,
        directory: Path | None,
    ) -> None:
        self._checks = checks
        self._queues = queues
        self._directory = directory
        self._library: ModuleType | None = None
        if find_spec("prometheus_client") is not None:
            self._library = import_module("prometheus_client")
            self._make(self._library)

    def _make(self, library: ModuleType) -> None:
        self._registry = library.CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry, "namespace": "dicomweb"}
        counter, histogram = library.Counter, library.Histogram
        self._requests = counter("requests", "Requests that were answered", ("method", "route", "status"), **own)
        self._seconds = histogram(
            "request_seconds", "Time from request to answer", ("method", "route"), buckets=_SECONDS, **own
        )
        self._received = counter("received_bytes", "Bytes of payloads that came in", ("route",), **own)
        self._sent = counter("sent_bytes", "Bytes of payloads that went out", ("route",), **own)
        self._stored = counter("store_instances", "Instances of store requests", ("outcome", "reason"), **own)
        self._tasks = library.Gauge(
            "codec_tasks", "Codec tasks that run or wait for a process", multiprocess_mode="livesum", **own
        )
        self._task_seconds = histogram(
            "codec_task_seconds", "Time of codec tasks, with waiting", ("outcome",), buckets=_SECONDS, **own
        )
        self._children: dict[tuple[Any, ...], Any] = {}

    # Counting

    def request(self, *, method: str, route: str, status: int, seconds: float, received: int, sent: int) -> None:
        """A request was answered. `route` is a template."""
        if self._library is None:
            return
        method = method if method in _METHODS else "other"
        self._child(self._requests, method, route, str(status)).inc()
        self._child(self._seconds, method, route).observe(seconds)
        if received:
            self._child(self._received, route).inc(received)
        if sent:
            self._child(self._sent, route).inc(sent)

    def stored(self, outcome: str, reason: int | None = None) -> None:
        """A part of a store request was stored, was known, or was refused for a reason of PS3.18 Table I.2-2."""
        if self._library is not None:
            self._child(self._stored, outcome, "" if reason is None else f"{reason:04X}").inc()

    @contextlib.contextmanager
    def codec_task(self) -> Iterator[None]:
        """Around a task of the codec pool."""
        if self._library is None:
            yield
            return
        begin, outcome = time.perf_counter(), "ok"
        self._tasks.inc()
        try:
            yield
        except Exception as exc:
            outcome = type(exc).__name__
            raise
        finally:
            self._tasks.dec()
            self._child(self._task_seconds, outcome).observe(time.perf_counter() - begin)

    def _child(self, metric: Any, *labels: str) -> Any:
        # The library looks a label up under a lock; routes are few.
        key = (id(metric), *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    # Telling

    def text(self, accept: str) -> tuple[bytes, str]:
        """All figures, and their media type: the text format of Prometheus, or OpenMetrics where Accept asks for that.

        Raises NotFound where the library is missing.
        """
        if self._library is None:
            raise NotFound(_MISSING)
        registry = self._registry
        if os.environ.get(_FOLDER_VARIABLE):
            registry = self._library.CollectorRegistry()
            import_module("prometheus_client.multiprocess").MultiProcessCollector(registry)
        encode, media = import_module("prometheus_client.exposition").choose_encoder(accept)
        return encode(_All(registry, list(self._measured()))), media

    def _measured(self) -> Iterator[Any]:
        """What is measured at this moment, once for all processes."""
        gauge = import_module("prometheus_client.core").GaugeMetricFamily
        build = gauge("dicomweb_build_info", "The version that runs", labels=("version",))
        build.add_metric((__version__,), 1.0)
        yield build
        ready = gauge("dicomweb_ready", "Whether a part of the archive can serve", labels=("part",))
        seconds = gauge("dicomweb_check_seconds", "How long that part took to say so", labels=("part",))
        for part, check in self._checks.items():
            state = check()
            ready.add_metric((part,), float(state.ready))
            seconds.add_metric((part,), state.latency_seconds)
        yield from (ready, seconds)
        with contextlib.suppress(DicomwebError):  # a storage that is away is told by the checks
            queues = gauge("dicomweb_queue", "What waits in each queue, counted up to 1000", labels=("queue",))
            for name, length in self._queues().items():
                queues.add_metric((name,), length)
            yield queues
        if self._directory is not None:
            with contextlib.suppress(OSError):  # a disk that is away is told by the checks
                usage = shutil.disk_usage(self._directory)
                yield gauge("dicomweb_disk_free_bytes", "Free space where the data lies", value=usage.free)
                yield gauge("dicomweb_disk_size_bytes", "Size of that disk", value=usage.total)


class _All:
    """A registry and families beside it, as the encoders of the library take them."""

    def __init__(self, registry: Any, families: list[Any]) -> None:
        self._registry = registry
        self._families = families

    def collect(self) -> Iterator[Any]:
        yield from self._families
        yield from self._registry.collect()
