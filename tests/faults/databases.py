"""Archives of faults whose index and files lie in a database. The database stays alive; what dies, or loses its
connections, is the process that writes to it. Each round has a database of its own."""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults.archive import patched
from tests.services import couchdb, mongodb

BACKENDS = ("mongodb", "couchdb")
_SERVICES = {"mongodb": mongodb, "couchdb": couchdb}
_QUICK = {"mongodb": {"SERVER_SELECTION_TIMEOUT_SECONDS": "0.5", "WAIT_SECONDS": "0"}, "couchdb": {"WAIT_SECONDS": "0"}}
_PASSED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "mongodb": {
        "backends.mongodb.removing": ("READ_AFTER_SECONDS", "LEASE_SECONDS", "TAGGING_SECONDS"),
        "backends.mongodb.claims": ("LEASE_SECONDS",),
        "backends.mongodb.binned": ("FORGOTTEN_SECONDS",),
    },
    "couchdb": {
        "backends.couchdb.removal": ("RESUMED_AFTER_SECONDS",),
        "backends.couchdb.binned": ("CLAIMED_SECONDS",),
    },
}


@contextmanager
def running(backend: str, folder: Path) -> Iterator[str]:
    """The URL of a server. Raises Unavailable of its service."""
    with _SERVICES[backend].named_or_own(folder) as url:
        yield url


def place_of(url: str) -> str:
    """How the shim calls connections to the server."""
    return f"tcp:{url.rpartition(':')[2].partition('/')[0]}"


@contextmanager
def fresh(backend: str, url: str) -> Iterator[None]:
    """A database of one's own, which the settings of this process and of those that it starts name."""
    with _SERVICES[backend].database(url) as name:
        section = f"DICOMWEB__STORAGE__{backend.upper()}__"
        named = {"URL": url, "DATABASE": name, **_QUICK[backend]}
        os.environ.update({"DICOMWEB__STORAGE__BACKEND": backend, **{section + key: named[key] for key in named}})
        try:
            yield
        finally:
            for key in named:
                del os.environ[section + key]
            del os.environ["DICOMWEB__STORAGE__BACKEND"]


@contextmanager
def later(backend: str) -> Iterator[None]:
    """As if so much time had passed that nobody waits for a process that died."""
    with ExitStack() as stack:
        for module, names in _PASSED.get(backend, {}).items():
            for name in names:
                stack.enter_context(patched(importlib.import_module(module), name, -60))
        yield
