"""The shim (shim.c): built once for a run, loaded before libc by LD_PRELOAD, and told what to do by a mapped file."""

import ctypes
import mmap
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

WRITE, SYNC, RENAME, UNLINK, CREATE, READ, SEND = 1, 2, 4, 8, 16, 32, 64
CHANGES = WRITE | SYNC | RENAME | UNLINK | CREATE
COUNT, KILL, KILL_GROUP = 0, -1, -2  # else an errno
ALWAYS = 1 << 30

_TEXT = 512
CONTROL = "FAULTS_CONTROL"


class NoCompiler(Exception):
    """The shim cannot be built here."""


def build(folder: Path) -> Path:
    """Compile it into the folder. Raises NoCompiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or os.uname().sysname != "Linux":
        raise NoCompiler("faults need Linux and a C compiler (Debian: apt install gcc libc6-dev)")
    library = folder / "shim.so"
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NoCompiler(f"the shim of the faults cannot be compiled here: {done.stderr[:500]}")
    return library


class _Layout(ctypes.Structure):
    _fields_ = [
        ("clock_offset_ns", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("active", "action", "calls", "at", "times", "torn", "count", "fired")),
        ("path", ctypes.c_char * _TEXT),
        ("what", ctypes.c_char * _TEXT),
    ]


class Control:
    """What the shim is to do, in every process that has the file mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(ctypes.sizeof(_Layout)))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._layout = _Layout.from_buffer(self._map)

    def arm(
        self, folder: Path | str, *, action: int, calls: int, at: int = 1, times: int = 1, torn: bool = False
    ) -> None:
        """From now on count such calls below the folder, or to "tcp:" and a port; at the `at`-th it happens, `times`
        times."""
        one = self._layout
        one.active = 0
        one.action, one.calls, one.at, one.times, one.torn = action, calls, at, times, torn
        one.count = one.fired = 0
        one.path, one.what = os.fsencode(folder), b""
        one.active = 1

    def disarm(self) -> None:
        """Let everything pass."""
        self._layout.active = 0

    @property
    def count(self) -> int:
        """How many calls there were."""
        return int(self._layout.count)

    @property
    def fired(self) -> bool:
        """Whether it has happened."""
        return bool(self._layout.fired)

    @property
    def what(self) -> str:
        """The call that it happened to."""
        return bytes(self._layout.what).decode("utf-8", "replace")

    def set_clock(self, seconds: float) -> None:
        """The clock is so far from the right time."""
        self._layout.clock_offset_ns = int(seconds * 1e9)

    def environment(self, library: Path) -> Mapping[str, str]:
        """What a server gets to be under control from its start."""
        return {"LD_PRELOAD": str(library), CONTROL: str(self.path)}


def attach(library: Path, control: Control) -> None:
    """Put this process, which was started with LD_PRELOAD, and all that it will fork, under control."""
    if ctypes.CDLL(str(library)).faults_attach(os.fsencode(control.path)):
        raise OSError("the file of the faults cannot be mapped")
