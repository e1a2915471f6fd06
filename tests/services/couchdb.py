"""A CouchDB for tests: the server that COUCHDB_URL names, else one of its own: of the Apache CouchDB in COUCHDB_HOME or
/opt/couchdb (where its packages put it), else PouchDB Server from npm in a cached folder.

PouchDB speaks the same protocol but is no CouchDB: it ignores Range, answers no `queries`, hides slow plans, and its
login does not work. What is tested on it is tested again on a real CouchDB wherever there is one.
"""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.services.process import OwnProcess

PACKAGE = "pouchdb-server@4.2.0"
CACHE = Path(os.environ.get("DICOMWEB_TEST_CACHE", Path.home() / ".cache" / "dicomweb-server-tests"))
USER, PASSWORD = "admin", "test-password"
INSTALL_SECONDS, START_SECONDS = 600, 60
HOW = "needs a CouchDB: name one in COUCHDB_URL, or its folder in COUCHDB_HOME, or install Node and npm (for PouchDB)"


class Unavailable(Exception):
    """No server can be had; the message says how to get one."""


class OwnServer(OwnProcess):
    """One process: an installed CouchDB, else PouchDB. It can be killed and started again over the same data."""

    stop_seconds = 10

    def __init__(self, folder: Path, *, in_memory: bool = False, cluster: "Cluster | None" = None) -> None:
        self._folder = folder
        self._in_memory = in_memory
        self._cluster = cluster or Cluster(copies=1)
        self.port = _free_port()
        login = f"{USER}:{PASSWORD}@" if installed() else ""
        self.url = f"http://{login}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers; RuntimeError with its output when it does not. Raises Unavailable."""
        self._folder.mkdir(parents=True, exist_ok=True)
        home = installed()
        command, environment = self._couchdb(home) if home else self._pouchdb()
        with (self._folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env={**os.environ, **environment}, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_SECONDS
        ready = "_up" if self._cluster.copies > 1 else "_users" if home else ""
        while not _answers(f"{self.url}/{ready}"):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"it did not start: {(self._folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(0.05)

    def _pouchdb(self) -> tuple[list[str], dict[str, str]]:
        config = self._folder / "config.json"
        config.write_text(json.dumps({"log": {"file": str(self._folder / "log.txt"), "level": "error"}}))
        command = [str(executable()), "-n", "-o", "127.0.0.1", "-p", str(self.port), "-c", str(config)]
        return [*command, *(["-m"] if self._in_memory else ["-d", str(self._folder)])], {}

    def _couchdb(self, home: Path) -> tuple[list[str], dict[str, str]]:
        """With all that it writes in the folder, and without Erlang's port mapper, which would stay behind."""
        ini, arguments = self._folder / "local.ini", self._folder / "vm.args"
        cluster = self._cluster
        ini.write_text(
            f"[couchdb]\nsingle_node = {str(cluster.copies == 1).lower()}\nuuid = {cluster.secret}\n"
            f"database_dir = {self._folder}/data\nview_index_dir = {self._folder}/data\n"
            f"[dreyfus]\nname = none\n[cluster]\nq = 2\nn = {cluster.copies}\n"
            f"[chttpd]\nport = {self.port}\nbind_address = 127.0.0.1\n"
            f"[chttpd_auth]\nsecret = {cluster.secret}\n"
            f"[log]\nwriter = file\nfile = {self._folder}/log.txt\nlevel = warning\n"
            f"[admins]\n{USER} = {PASSWORD}\n"
        )
        name, address = cluster.name_of(self)
        arguments.write_text(
            f"-name {name}@{address}\n-setcookie {cluster.secret}\n-start_epmd false\n-erl_epmd_port {cluster.port}\n"
            f"-kernel inet_dist_use_interface {{{address.replace('.', ',')}}}\n"
            "-kernel error_logger silent\n-sasl sasl_error_logger false\n-noinput\n"
        )
        files = f"{home / 'etc' / 'default.ini'} {ini}"
        return [str(home / "bin" / "couchdb")], {"COUCHDB_INI_FILES": files, "COUCHDB_ARGS_FILE": str(arguments)}


class Cluster:
    """Nodes that keep so many copies of each document. They talk to each other on one port of several addresses of this
    machine, as without a port mapper they must all have the same."""

    def __init__(self, *, copies: int) -> None:
        self.copies = copies
        self.secret = uuid.uuid4().hex
        self.port = _free_port()
        self.nodes: list[OwnServer] = []

    def name_of(self, node: OwnServer) -> tuple[str, str]:
        """The name and the address of a node."""
        number = self.nodes.index(node) + 1 if node in self.nodes else 1
        return f"test-{self.port}", f"127.0.0.{number}"

    def start(self, folder: Path) -> None:
        """Start the nodes and join them; as `OwnServer.start`."""
        for number in range(self.copies):
            self.nodes.append(OwnServer(folder / f"node{number + 1}", cluster=self))
            self.nodes[-1].start()
        first = self.nodes[0].url
        for node in self.nodes[1:]:
            _put(f"{first}/_node/_local/_nodes/{'@'.join(self.name_of(node))}", b"{}")
        for name in ("_users", "_replicator"):
            _put(f"{first}/{name}")

    def stop(self) -> None:
        """Stop the nodes."""
        for node in self.nodes:
            node.stop()


@contextlib.contextmanager
def named_or_own(folder: Path) -> Iterator[str]:
    """The server that COUCHDB_URL names, else one of one's own, stopped afterwards. Raises Unavailable."""
    if url := os.environ.get("COUCHDB_URL"):
        yield url.rstrip("/")
        return
    server = OwnServer(folder, in_memory=True)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextlib.contextmanager
def database(url: str) -> Iterator[str]:
    """A name for databases of a test; they are deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    try:
        yield name
    finally:
        for suffix in ("", "-archive", "-documents", "-blobs"):
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(_request(f"{url}/{name}{suffix}", "DELETE"), timeout=30).close()  # noqa: S310


def is_couchdb() -> bool:
    """Whether the tests run on a real CouchDB."""
    return "COUCHDB_URL" in os.environ or installed() is not None


def installed() -> Path | None:
    """The folder of an Apache CouchDB on this machine, which tests may start and kill."""
    home = Path(os.environ.get("COUCHDB_HOME", "/opt/couchdb"))
    return home if (home / "bin" / "couchdb").is_file() else None


def _put(url: str, body: bytes | None = None) -> None:
    request = _request(url, "PUT")
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, body, timeout=30).close()  # noqa: S310 - the address of our own test server


def _request(url: str, method: str) -> urllib.request.Request:
    request = urllib.request.Request(url, method=method)  # noqa: S310 - the address of our own test server
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None:
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        request = urllib.request.Request(bare.geturl(), method=method)  # noqa: S310
        login = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    return request


def executable() -> Path:
    """PouchDB Server, installed on first use. No install scripts run: its binaries are prebuilt."""
    folder = CACHE / "pouchdb-server"
    program = folder / "node_modules" / ".bin" / "pouchdb-server"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Unavailable(HOW)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode or not program.exists():
        raise Unavailable(f"{HOW}; npm said: {done.stderr[-300:]}")
    return program


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(_request(url, "GET"), timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
