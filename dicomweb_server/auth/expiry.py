"""What is worth nothing after some time: documents of logging in, sessions, waits after failures; and what a process
remembers of them."""

from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import DocumentTerm

KEY = "expires"
"""The key of a document that says when."""
SESSION, LOGIN_WAIT = "session", "login-wait"


def is_recent(since: float, now: float, seconds: float) -> bool:
    """Whether something was at most so long ago. What lies ahead was noted by a clock that has been set back since:
    nobody knows how old it is."""
    return 0 <= now - since <= seconds


def stamp(seconds: float) -> str:
    """A time, in seconds since 1970, as the value of the key: in the order of time."""
    return f"{max(0, int(seconds)):012d}"


def purge_expired(storage: Storage, *, now: float, limit: int) -> int:
    """Delete for good what expired before now, in seconds since 1970, at most so many of each kind; gives how many."""
    term = DocumentTerm(key=KEY, high=stamp(now - 1))
    return sum(storage.purge_documents(kind=kind, terms=[term], limit=limit) for kind in (SESSION, LOGIN_WAIT))
