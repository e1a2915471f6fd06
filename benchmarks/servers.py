"""The servers under test as child processes, and what they cost: processor time and memory of a whole process tree."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.connection import Connection

_ORTHANC = "/usr/sbin/Orthanc"
_ORTHANC_PLUGINS = Path("/usr/share/orthanc/plugins")
_LARGE_STACKS = Path(__file__).with_name("large_stacks.c")
_READY_WITHIN_SECONDS = 60
OUR_COMMAND = f"{shlex.quote(sys.executable)} -m dicomweb_server serve --port {{port}} --data {{data}}"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its DICOMweb root and the first process of its tree."""

    url: str
    pid: int
    version: str


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def orthanc(folder: Path | None = None) -> Iterator[Server]:
    """Debian's Orthanc with its DICOMweb plugin on a free port, storing below a new folder inside `folder`.

    Where there is a C compiler its threads get larger stacks; without, it can crash on JPEG 2000 (`large_stacks.c`).
    """
    port = free_port()
    plugins = [path for name in ("DicomWeb", "Gdcm") if (path := _ORTHANC_PLUGINS / f"libOrthanc{name}.so").exists()]
    settings = {
        "Name": "benchmark",
        "StorageDirectory": "storage",
        "IndexDirectory": "storage",
        "Plugins": [str(path) for path in plugins],
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "OverwriteInstances": True,
        "StableAge": 1,
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "Host": f"127.0.0.1:{port}",
            "Ssl": False,
            "StudiesMetadata": "Full",
            "SeriesMetadata": "Full",
        },
    }
    version = subprocess.run([_ORTHANC, "--version"], capture_output=True, text=True, check=True).stdout
    name = " ".join(version.splitlines()[0].split())
    with tempfile.TemporaryDirectory(prefix="orthanc-", dir=folder) as data:
        (Path(data) / "orthanc.json").write_text(json.dumps(settings))
        url, environment = f"http://127.0.0.1:{port}/dicom-web", _with_large_stacks(Path(data))
        with running([_ORTHANC, "orthanc.json"], Path(data), url, name, environment=environment) as server:
            yield server


def _with_large_stacks(folder: Path) -> dict[str, str]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        print("without a C compiler Orthanc keeps its small stacks, and can crash on JPEG 2000", file=sys.stderr)
        return {}
    library = folder / "large_stacks.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _LARGE_STACKS], check=True)
    return {"LD_PRELOAD": str(library)}


@contextlib.contextmanager
def ours(command: str, folder: Path | None = None) -> Iterator[Server]:
    """The server that `command` starts; `{port}` and `{data}` in it stand for a free port and a new folder."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dicomweb-", dir=folder) as data:
        words = shlex.split(command.replace("{port}", str(port)).replace("{data}", shlex.quote(data)))
        with running(words, Path.cwd(), f"http://127.0.0.1:{port}", "dicomweb-server") as server:
            yield server


@contextlib.contextmanager
def ours_on(backend: str, url: str, folder: Path | None = None) -> Iterator[Server]:
    """Our server on a new database of that server; SQLite needs no URL."""
    text = f'[storage]\nbackend = "{backend}"\n'
    if url:
        text += f'[storage.{backend}]\nurl = "{url}"\ndatabase = "benchmark-{uuid.uuid4().hex[:12]}"\n'
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(text)
        config.flush()
        with ours(f"{OUR_COMMAND} --config {config.name}", folder) as server:
            yield server


@contextlib.contextmanager
def running(
    words: list[str], folder: Path, url: str, version: str, *, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Server]:
    """The server of a command line, once it answers searches at its DICOMweb root; stopped in the end. environment:
    variables besides our own."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            words, cwd=folder, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **environment}
        )
        try:
            if not _ready(process, url):
                log.seek(0)
                raise RuntimeError(f"{words[0]} did not start:\n{log.read().decode(errors='replace')[-2000:]}")
            yield Server(url, process.pid, version)
        finally:
            _stop(process)


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + _READY_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), Connection(url) as connection:
            if connection.get("/studies?limit=1", "application/dicom+json").status in (200, 204):
                return True
        time.sleep(0.02)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def process_tree(pid: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    tree = [pid]
    for parent in tree:
        tree += children.get(parent, [])
    return tree


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: the name before them may hold blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time that the process tree has used, with its children that ended."""
    total = 0
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            total += sum(int(ticks) for ticks in _stat(member)[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def reset_peak_memory(pid: int) -> dict[int, int]:
    """Sets the peak of each process of the tree to what it uses now, and gives that in bytes by process."""
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{member}/clear_refs").write_text("5")
    return peak_memory(pid)


def peak_memory(pid: int) -> dict[int, int]:
    """The peak resident size (VmHWM) in bytes of each process of the tree."""
    peaks = {}
    for member in process_tree(pid):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{member}/status").read_text()
            peaks[member] = next(
                int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")
            )
    return peaks
