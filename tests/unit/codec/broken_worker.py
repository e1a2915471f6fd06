"""A codec process with operations that go wrong, as native decoders do."""

import os
import signal
import time
from typing import Any

from dicomweb_server.codec import worker


def _crash(header: dict[str, Any], pieces: list[bytes]) -> worker.Answer:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}, []


def _hang(header: dict[str, Any], pieces: list[bytes]) -> worker.Answer:
    time.sleep(60)
    return {}, []


def _exhaust(header: dict[str, Any], pieces: list[bytes]) -> worker.Answer:
    return {}, [bytes(1 << 40)]


def _echo(header: dict[str, Any], pieces: list[bytes]) -> worker.Answer:
    return {"process": os.getpid(), "environment": sorted(os.environ)}, pieces


if __name__ == "__main__":
    worker.main({"crash": _crash, "hang": _hang, "exhaust": _exhaust, "echo": _echo})
