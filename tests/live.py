"""A server as users run it: a process of its own, on a free port, with a folder of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

READY_SECONDS = 30.0
STOP_SECONDS = 30.0
_STEP_SECONDS = 0.02

ROOT = Path(__file__).parents[1]
_ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "DICOMWEB__CODEC__WARM_UP": "false"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveServer:
    """A running server. `url` is the root without a slash at the end; output and log are files that grow."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path
    log: Path

    @property
    def pid(self) -> int:
        """The process that starts the workers."""
        return self.process.pid

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self.url.rpartition(":")[2])

    def worker_pids(self) -> list[int]:
        """The worker processes of this moment."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in children.split()]

    def all_workers(self, number: int = 2) -> list[int]:
        """The same, once there are so many: the URL answers as soon as the first one is up."""
        deadline = time.monotonic() + READY_SECONDS
        while len(found := self.worker_pids()) < number:
            _check_deadline(self.process, deadline, self.log)
            time.sleep(0.02)
        return found

    def stop(self) -> int:
        """Ask it to stop as a service manager does; gives the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def running(
    folder: Path, *arguments: str, command: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[LiveServer]:
    """A server that is ready: `python -m dicomweb_server` with the arguments (or another command), its working
    directory, output and log in `folder`. It is stopped at the end, whatever happens. Decoders are started when
    they are needed, unless the environment says otherwise: most tests need none."""
    folder.mkdir(parents=True, exist_ok=True)
    output, log = folder / "output.txt", folder / "log.txt"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DICOMWEB")}
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [*(command or (sys.executable, "-m", "dicomweb_server")), *arguments],
            cwd=folder,
            env={**inherited, **_ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        url = _ready_url(process, output, log)
        yield LiveServer(url=url, process=process, output=output, log=log)
    finally:
        _end(process)


@contextmanager
def serving(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[LiveServer]:
    """`serve` on a free port, with its data in `folder`."""
    data = str(folder / "data")
    with running(folder, "serve", "--port", "0", "--data", data, *arguments, environment=environment) as server:
        yield server


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the server answers that it is ready; fails with the log when it ends before, or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if requests.get(f"{url}/health/ready", timeout=READY_SECONDS).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        _check_deadline(process, deadline, log)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what other threads or processes bring about; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def _ready_url(process: subprocess.Popen[bytes], output: Path, log: Path) -> str:
    """The address that the server prints once it serves."""
    deadline = time.monotonic() + READY_SECONDS
    while (
        found := re.search(r"^DICOMweb\s+(https?://[^/\s]+)", output.read_text(encoding="utf-8"), re.MULTILINE)
    ) is None:
        _check_deadline(process, deadline, log)
    wait_until_ready(process, found[1], log)
    return found[1]


def _check_deadline(process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        state = "still runs" if process.poll() is None else f"ended with status {process.returncode}"
        raise AssertionError(f"the server never came up and {state}; its log:\n{log.read_text(encoding='utf-8')}")
    time.sleep(_STEP_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
