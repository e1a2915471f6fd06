"""The change feed (an extension): pages with a long poll, and server-sent events."""

from collections.abc import Callable, Iterator
from typing import cast

import falcon
import orjson
from falcon.typing import ReadableIO

from dicomweb_server.errors import BadRequest, Unauthenticated
from dicomweb_server.http.params import first_parameter
from dicomweb_server.services.changes import ChangeFeed, ChangePage, WaitingPlace, shown

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_WAIT_SECONDS = 60
HEARTBEAT_SECONDS = 15.0
EVENTS_SECONDS = 600.0  # a client then comes again by itself, and may reach another process
RECONNECT_MILLISECONDS = 2000
NEWEST = "newest"


class ChangesResource:
    """What was stored, replaced, restored and removed, in order, each at least once. `admitted` says of a request that
    has waited whether who asked may still ask."""

    def __init__(self, feed: ChangeFeed, *, admitted: Callable[[falcon.Request], bool]) -> None:
        self._feed = feed
        self._admitted = admitted

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The changes behind a cursor. With `wait` the answer comes when there is one, or after that time."""
        after = self._start(first_parameter(req, "after"))
        limit = _number(req, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        wait = _number(req, "wait", 0, 0, MAX_WAIT_SECONDS)
        if wait:
            with self._feed.place():
                page = self._feed.wait(after=after, limit=limit, seconds=wait)
            if not self._admitted(req):
                raise Unauthenticated("the login ended meanwhile; log in again")
        else:
            page = self._feed.read(after=after, limit=limit)
        base = req.context.address.dicomweb
        resp.content_type = "application/json"
        resp.set_header("Cache-Control", "private, no-store")
        resp.data = orjson.dumps(
            {
                "changes": [shown(change, base) for change in page.changes],
                "next": page.next,
                "more": page.more,
            }
        )

    def on_get_events(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The changes from now on, or behind the cursor that the client has, as server-sent events."""
        given = req.get_header("Last-Event-ID") or first_parameter(req, "after")
        after = self._start(NEWEST if given is None else given)
        self._feed.read(after=after, limit=1)  # refuses a cursor while there still is a status
        resp.content_type = "text/event-stream"
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Accel-Buffering", "no")  # nginx
        place = self._feed.place()
        pages = self._feed.follow(
            after=after,
            limit=DEFAULT_LIMIT,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            seconds=EVENTS_SECONDS,
            admitted=lambda: self._admitted(req),
        )
        resp.stream = cast(ReadableIO, _Events(pages, place, req.context.address.dicomweb))

    def _start(self, cursor: str | None) -> str | None:
        return self._feed.newest() if cursor == NEWEST else cursor or None


class _Events:
    """The body of an event stream. It gives its place back however it ends, also when it never began."""

    def __init__(self, pages: Iterator[ChangePage], place: WaitingPlace, base: str) -> None:
        self._blocks = _blocks(pages, base)
        self.close = place.close

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._blocks
        finally:
            self.close()


def _blocks(pages: Iterator[ChangePage], base: str) -> Iterator[bytes]:
    yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
    for page in pages:
        events = [
            b"id: %b\nevent: %b\ndata: %b\n\n"
            % (change.cursor.encode(), change.kind.value.encode(), orjson.dumps(shown(change, base)))
            for change in page.changes
        ]
        yield b"".join(events) or b":\n\n"


def _number(req: falcon.Request, name: str, default: int, low: int, high: int) -> int:
    text = first_parameter(req, name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not low <= int(text) <= high:
        raise BadRequest(f"{name} is a whole number from {low} to {high}")
    return int(text)
