"""A new database for a test, on a server that all tests of a run share; and what becomes of a test without one."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from tests.services import couchdb, mongodb

_SERVICES = {"mongodb": mongodb, "couchdb": couchdb}


@contextmanager
def fresh(backend: str) -> Iterator[tuple[str, str]]:
    """The URL of the server, and the name of a database that is dropped at the end. Skips as `missing` does."""
    try:
        url = shared_url(backend)
    except (mongodb.Unavailable, couchdb.Unavailable) as exc:
        missing(backend, exc)
    with _SERVICES[backend].database(url) as name:
        yield url, name


def missing(backend: str, exc: Exception) -> NoReturn:
    """Skip the test; fail it where REQUIRE_BACKENDS names what is missing."""
    if backend in os.environ.get("REQUIRE_BACKENDS", "").split(","):
        pytest.fail(str(exc))
    pytest.skip(str(exc))


@cache
def shared_url(backend: str) -> str:
    """The server that MONGODB_URL or COUCHDB_URL names, else one that runs until this process ends. Raises
    Unavailable of its service."""
    folder = Path(tempfile.mkdtemp(prefix=f"{backend}-"))
    running = ExitStack()
    running.callback(shutil.rmtree, folder, ignore_errors=True)
    start = {"mongodb": mongodb.named_or_own, "couchdb": couchdb.named_or_own}[backend]
    try:
        url = running.enter_context(start(folder))
    except BaseException:
        running.close()
        raise
    atexit.register(_end, running, os.getpid())
    return url


def _end(running: ExitStack, pid: int) -> None:
    if os.getpid() == pid:  # and not a process that it has forked
        running.close()
