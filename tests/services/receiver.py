"""A server that web hooks are delivered to."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson


class Receiver:
    """What a hook is delivered to; answers with the statuses in `answers`, then with 204."""

    def __init__(self, url: str = "") -> None:
        self.url = url
        self.answers: list[int] = []
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.came = threading.Event()

    def uids(self) -> list[str]:
        """The instances of all changes, in order."""
        return [change["instance_uid"] for _, body in self.got for change in orjson.loads(body)["changes"]]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A real server on a free port."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = receiver.answers.pop(0) if receiver.answers else 204
            if status == 204:
                receiver.got.append((dict(self.headers), body))
            self.send_response(status)
            self.send_header("Location", f"{receiver.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            receiver.came.set()

        def log_message(self, *_args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
