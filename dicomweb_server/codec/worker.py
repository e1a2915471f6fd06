"""A codec process: takes tasks from its standard input, which is a socket, one after the other, until that is closed.

Started by the pool as `python -m dicomweb_server.codec.worker MEMORY_BYTES SECONDS`. It has no secrets and no files of
the archive: a decoder that a hostile stream takes over finds nothing here.
"""

import logging
import socket
import sys
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, Final

import numpy as np
from PIL import Image

from dicomweb_server import errors
from dicomweb_server.codec import tasks, wire
from dicomweb_server.codec.options import RenderOptions
from dicomweb_server.codec.pixels import PixelDescription

try:
    import resource
except ImportError:  # Windows: the pool's deadline is all there is
    resource = None  # type: ignore[assignment]

Answer = tuple[dict[str, Any], list[bytes]]
Operation = Callable[[dict[str, Any], list[bytes]], Answer]


def main(more: Mapping[str, Operation] | None = None) -> None:
    """Serve until the pool closes the socket. more: further operations by name."""
    memory_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    logging.disable(logging.CRITICAL)
    channel = socket.socket(fileno=sys.stdin.fileno())
    _warm_up()
    _limit(memory_bytes)
    operations = {**OPERATIONS, **(more or {})}
    wire.send(channel, {"ready": True}, [])
    while True:
        try:
            header, pieces = wire.receive(channel)
        except wire.Broken:
            return
        _limit_time(seconds)
        wire.send(channel, *_answer(operations, header, pieces))


def _answer(operations: Mapping[str, Operation], header: dict[str, Any], pieces: list[bytes]) -> Answer:
    try:
        return operations[header["operation"]](header, pieces)
    except errors.DicomwebError as exc:
        return {"error": type(exc).__name__, "message": exc.message}, []
    except MemoryError:
        return {"error": "DecoderFailed", "message": "these pixels need more memory than a codec process may use"}, []
    except Exception as exc:
        return {"error": "CodecError", "message": f"the codec failed with {type(exc).__name__}"}, []


def _decode(header: dict[str, Any], pieces: list[bytes]) -> Answer:
    description = PixelDescription.from_dict(header["description"])
    array, found = tasks.decode(description, header["transfer_syntax_uid"], pieces[0], rgb=header["rgb"])
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    answer = {"description": found.to_dict(), "shape": array.shape, "dtype": little.dtype.str}
    return answer, [np.ascontiguousarray(little).tobytes()]


def _transcode(header: dict[str, Any], pieces: list[bytes]) -> Answer:
    description = PixelDescription.from_dict(header["description"])
    options = {key: header[key] for key in ("target", "quality", "rgb")}
    data, found = tasks.transcode(description, header["transfer_syntax_uid"], pieces[0], **options)
    return {"description": found.to_dict()}, [data]


def _render(header: dict[str, Any], pieces: list[bytes]) -> Answer:
    options = RenderOptions.from_dict(header["options"])
    data = tasks.render(
        header["attributes"], header["transfer_syntax_uid"], pieces, options=options, media=header["media"]
    )
    return {}, [data]


def _thumbnail(header: dict[str, Any], pieces: list[bytes]) -> Answer:
    data = tasks.thumbnail(header["attributes"], header["transfer_syntax_uid"], pieces[0], side=header["side"])
    return {}, [data]


OPERATIONS: Final[dict[str, Operation]] = {
    "decode": _decode,
    "transcode": _transcode,
    "render": _render,
    "thumbnail": _thumbnail,
}


def _warm_up() -> None:
    """Load the formats of pillow before the first task; the decoders are there by the imports."""
    Image.preinit()


def _limit(memory_bytes: int) -> None:
    if resource is None or memory_bytes <= 0:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def _limit_time(seconds: float) -> None:
    """Processor time for the next task; the pool's deadline comes first unless the pool is gone."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


if __name__ == "__main__":
    main()
