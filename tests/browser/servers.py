"""Other ways in which viewers are put on the web: files on an origin of their own, nginx in front of the archive."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dicomweb_server.viewer.installed import Viewer
from dicomweb_server.viewer.rewrite import page

TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".svg": "image/svg+xml"}
START_SECONDS = 10.0
STEP_SECONDS = 0.02


@contextmanager
def file_server(viewer: Viewer, config: str) -> Iterator[str]:
    """The files of the viewer at the root of an origin, with this configuration; gives its URL."""
    assets, index = viewer.assets(), page(viewer.index(), "/")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/")
            kind, body = "text/html", index.encode()
            if path == "app-config.js":
                kind, body = TYPES[".js"], config.encode()
            elif path in assets:
                kind, body = TYPES.get(Path(path).suffix, "image/png"), assets[path].file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def prefix_proxy(folder: Path, upstream: str, prefix: str) -> Iterator[str]:
    """nginx with the archive below a prefix; gives its URL, without the prefix."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    paths = "\n".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"""daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0;
  {paths}
  server {{
    listen 127.0.0.1:{port};
    location {prefix}/ {{
      proxy_pass {upstream}/;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Prefix {prefix};
      proxy_buffering off;
    }}
  }}
}}
""",
        encoding="utf-8",
    )
    executable = shutil.which("nginx")
    assert executable is not None
    process = subprocess.Popen([executable, "-p", str(folder), "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(port, process)
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_open(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError("nginx did not start") from None
        time.sleep(STEP_SECONDS)
