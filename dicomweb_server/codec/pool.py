"""Decoding, encoding and rendering in processes with limits.

Native decoders are written in C: they crash and hang on broken streams. Here that costs the request a named error, and
a process that is replaced. Native frames, where only numpy and pillow are at work, stay in the process of the caller.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from dicomweb_server import errors
from dicomweb_server.codec import wire
from dicomweb_server.codec.given_up import GivenUp
from dicomweb_server.codec.options import RenderOptions, check_media
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import FetchBulk, frame_attributes
from dicomweb_server.codec.presentation_state import apply_presentation_state
from dicomweb_server.codec.syntaxes import require_decoder, require_encoder
from dicomweb_server.dicom.json_model import Attributes, first_value
from dicomweb_server.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, is_encapsulated
from dicomweb_server.errors import CodecBusy, CodecError, DecoderFailed, MissingCodec

if TYPE_CHECKING:
    from dicomweb_server.codec.decode import Decoded
    from dicomweb_server.codec.encode import Encoded

WORKER_MODULE: Final = "dicomweb_server.codec.worker"

_START_SECONDS: Final = 60.0
_DEFAULT_MEMORY_BYTES: Final = 4 << 30
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "VIRTUAL_ENV")
_ONE_THREAD: Final = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPJ_NUM_THREADS"), "1"
)
_KINDS: Final = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
}


class CodecPool:
    """A few processes that are started when they are first needed. Safe across threads; a pool that was made before a
    fork starts its own processes in each child.

    processes: how many tasks run at a time, the others wait. timeout_seconds: for one task. memory_bytes: the address
    space of a process. queue_seconds: how long a task waits for a free process before it is CodecBusy. watch: entered
    around each task.
    """

    def __init__(
        self,
        *,
        processes: int = 2,
        timeout_seconds: float = 30.0,
        memory_bytes: int = _DEFAULT_MEMORY_BYTES,
        queue_seconds: float = 60.0,
        worker_module: str = WORKER_MODULE,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._processes = processes
        self._timeout_seconds = timeout_seconds
        self._memory_bytes = memory_bytes
        self._queue_seconds = queue_seconds
        self._worker_module = worker_module
        self._watch = watch
        self._given_up = GivenUp()
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._closed = False
        self._all: set[_Process] = set()
        # The last one used is the first one taken: few tasks at a time need one process only.
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()
        for _ in range(self._processes):
            self._free.put(None)

    # What is done with frames. Errors: MissingCodec, BadPixels (DecoderFailed for a crash), CodecBusy, CodecError.

    def decode(
        self, description: PixelDescription, transfer_syntax_uid: str, frame: bytes, *, rgb: bool = False
    ) -> "Decoded":
        """As `decode.decode_frame`."""
        if not is_encapsulated(transfer_syntax_uid):
            found: Decoded = _tasks().decode(description, transfer_syntax_uid, frame, rgb=rgb)
            return found
        require_decoder(transfer_syntax_uid)
        tasks = _tasks()
        header = {
            "operation": "decode",
            "description": description.to_dict(),
            "transfer_syntax_uid": transfer_syntax_uid,
            "rgb": rgb,
        }
        answer, pieces = self.run(header, [frame])
        decoded: Decoded = tasks.decoded_from_bytes(
            PixelDescription.from_dict(answer["description"]), pieces[0], dtype=answer["dtype"], shape=answer["shape"]
        )
        return decoded

    def transcode(
        self,
        description: PixelDescription,
        transfer_syntax_uid: str,
        frame: bytes,
        *,
        target: str = EXPLICIT_VR_LITTLE_ENDIAN,
        quality: int = 90,
        rgb: bool = False,
    ) -> "Encoded":
        """A frame in another transfer syntax, and how its pixels are now described.

        frame: as for `decode.decode_frame`. rgb: YBR colours become RGB; otherwise those of JPEG become YBR_FULL in a
        native target. quality: of lossy targets, see `encode.encode_frame`.
        """
        options = {"target": target, "quality": quality, "rgb": rgb}
        if is_encapsulated(target):
            require_encoder(target, description)
        elif not is_encapsulated(transfer_syntax_uid):
            made: Encoded = _tasks().transcode(description, transfer_syntax_uid, frame, **options)
            return made
        require_decoder(transfer_syntax_uid)
        tasks = _tasks()
        header = {
            "operation": "transcode",
            "description": description.to_dict(),
            "transfer_syntax_uid": transfer_syntax_uid,
            **options,
        }
        answer, pieces = self.run(header, [frame])
        encoded: Encoded = tasks.Encoded(pieces[0], PixelDescription.from_dict(answer["description"]))
        return encoded

    def render(
        self,
        attributes: Attributes,
        transfer_syntax_uid: str,
        frames: Sequence[tuple[int, bytes]],
        *,
        options: RenderOptions | None = None,
        media: str = "image/jpeg",
        fetch_bulk: FetchBulk | None = None,
        presentation_state: Attributes | None = None,
        fetch_state_bulk: FetchBulk | None = None,
    ) -> bytes:
        """A picture of one frame, or an animation (`image/gif`, `image/webp`) of several.

        attributes: DICOM JSON of the instance. frames: the index of each, from 0, and its bytes. fetch_bulk: gives the
        values behind links: palettes, look-up tables, overlays, profiles. presentation_state: DICOM JSON of a softcopy
        presentation state to apply; fetch_state_bulk: for links in it.
        """
        check_media(media)
        options = options or RenderOptions()
        flat = [frame_attributes(attributes, index, fetch_bulk=fetch_bulk) for index, _ in frames]
        if presentation_state is not None:
            pairs = [
                apply_presentation_state(
                    one,
                    options,
                    presentation_state,
                    instance_uid=str(first_value(attributes, "00080018") or ""),
                    frame_index=index,
                    fetch_bulk=fetch_state_bulk,
                )
                for one, (index, _) in zip(flat, frames, strict=True)
            ]
            flat = [pair[0] for pair in pairs]
            options = pairs[0][1] if pairs else options
        pieces = [frame for _, frame in frames]
        if not is_encapsulated(transfer_syntax_uid):
            return bytes(_tasks().render(flat, transfer_syntax_uid, pieces, options=options, media=media))
        require_decoder(transfer_syntax_uid)
        _tasks()
        header = {
            "operation": "render",
            "attributes": flat,
            "transfer_syntax_uid": transfer_syntax_uid,
            "options": options.to_dict(),
            "media": media,
        }
        return self.run(header, pieces)[1][0]

    def thumbnail(
        self,
        attributes: Attributes,
        transfer_syntax_uid: str,
        frame: tuple[int, bytes],
        *,
        side: int = 256,
        fetch_bulk: FetchBulk | None = None,
    ) -> bytes:
        """A JPEG that fits into a square of `side` pixels. For objects without pixels see `icons.icon`."""
        flat = frame_attributes(attributes, frame[0], fetch_bulk=fetch_bulk)
        if not is_encapsulated(transfer_syntax_uid):
            return bytes(_tasks().thumbnail(flat, transfer_syntax_uid, frame[1], side=side))
        require_decoder(transfer_syntax_uid)
        _tasks()
        header = {
            "operation": "thumbnail",
            "attributes": flat,
            "transfer_syntax_uid": transfer_syntax_uid,
            "side": side,
        }
        return self.run(header, [frame[1]])[1][0]

    # Processes

    def run(self, header: dict[str, Any], pieces: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """Let a process do one operation of its module. What it failed on is not tried again for a minute."""
        self._given_up.check(header["operation"], pieces)
        with self._watch():
            try:
                with self._process() as process:
                    answer = process.call(header, pieces, time.monotonic() + self._timeout_seconds)
                name = answer[0].get("error")
                if name is not None:
                    raise _KINDS.get(name, CodecError)(answer[0]["message"])
            except DecoderFailed as exc:
                self._given_up.note(header["operation"], pieces, exc)
                raise
            return answer

    def warm_up(self) -> None:
        """Load what pictures need into this process, and start one of the pool, so that the first request does not
        wait for that (about half a second)."""
        _tasks().rehearse()
        with self._process():
            pass

    def warm_up_beside(self) -> None:
        """Do that in a thread of its own."""

        def warm_up() -> None:
            # What is missing or does not start is said to the request that needs it.
            with suppress(MissingCodec, CodecError, CodecBusy):
                self.warm_up()

        threading.Thread(target=warm_up, name="codec-warm-up", daemon=True).start()

    def pids(self) -> list[int]:
        """The processes that were started."""
        with self._lock:
            return sorted(process.pid for process in self._all)

    def close(self) -> None:
        """End all processes. The pool cannot be used afterwards."""
        with self._lock:
            self._closed = True
            mine = self._all if self._owner == os.getpid() else set()
            processes, self._all = list(mine), set()
        for process in processes:
            process.kill()

    @contextmanager
    def _process(self) -> "Iterator[_Process]":
        """A process for one task; one that failed is not used again."""
        with self._lock:
            if self._owner != os.getpid():
                self._reset()
            if self._closed:
                raise CodecError("the codec pool is closed")
        try:
            process = self._free.get(timeout=self._queue_seconds)
        except queue.Empty as exc:
            raise CodecBusy("all codec processes are busy; try again later") from exc
        try:
            if process is None or not process.alive():
                if process is not None:
                    self._forget(process)
                process = self._started()
            yield process
        except BaseException:
            if process is not None:
                self._forget(process)
                process = None
            raise
        finally:
            self._free.put(process)

    def _started(self) -> "_Process":
        process = _Process(self._worker_module, self._memory_bytes, self._timeout_seconds)
        with self._lock:
            if self._closed:
                process.kill()
                raise CodecError("the codec pool is closed")
            self._all.add(process)
        return process

    def _forget(self, process: "_Process") -> None:
        with self._lock:
            self._all.discard(process)
        process.kill()


class _Process:
    """One process of the pool, and the socket to it."""

    def __init__(self, module: str, memory_bytes: int, timeout_seconds: float) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            wire.prepare(end)
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _ONE_THREAD
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        command = [sys.executable, "-m", module, str(memory_bytes), str(timeout_seconds)]
        self._channel = ours
        try:
            with theirs:
                self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
        except OSError as exc:
            ours.close()
            raise CodecError("a codec process could not be started") from exc
        try:
            wire.receive(ours, time.monotonic() + _START_SECONDS)
        except (wire.Broken, wire.Late) as exc:
            self.kill()
            raise CodecError("a codec process did not start") from exc

    def call(
        self, header: dict[str, Any], pieces: Sequence[bytes], deadline: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a task and wait for its answer. The process is of no use after an error."""
        started = time.monotonic()
        try:
            wire.send(self._channel, header, pieces, deadline)
            return wire.receive(self._channel, deadline)
        except wire.Late as exc:
            seconds = round(time.monotonic() - started, 1)
            raise DecoderFailed(f"these pixels took longer than {seconds} seconds, and were given up") from exc
        except wire.Broken as exc:
            raise DecoderFailed(f"a codec crashed on these pixels ({self._end()})") from exc

    @property
    def pid(self) -> int:
        """The process."""
        return self._popen.pid

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End the process at once."""
        self._channel.close()
        self._popen.kill()
        self._popen.wait()

    def _end(self) -> str:
        """How the process ended, in a word."""
        try:
            code = self._popen.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return "no answer"
        if code >= 0:
            return f"exit code {code}"
        names = {number.value: number.name for number in signal.Signals}
        return names.get(-code, f"signal {-code}")


def _tasks() -> ModuleType:
    """The module with the work, which needs numpy and pillow."""
    try:
        return import_module("dicomweb_server.codec.tasks")
    except ImportError as exc:
        package = {"PIL": "pillow"}.get((exc.name or "").partition(".")[0], exc.name or "numpy")
        raise MissingCodec(f"pixels cannot be decoded or rendered here: install {package}") from exc
