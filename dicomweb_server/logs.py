"""Where log lines go and how they look: standard error, as text for people or as JSON for a collector."""

import logging
import os
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import TextIO

import orjson

from dicomweb_server.settings import LogSettings

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(log: LogSettings, *, stream: TextIO | None = None) -> None:
    """Send the log of this server and of gunicorn to `stream` (standard error); replaces what an earlier call set."""
    handler = logging.StreamHandler(stream or sys.stderr)
    # No line shows where in the code or in which thread it was written; finding that out costs more than the line.
    vars(logging).update(_srcfile=None, logThreads=False, logMultiprocessing=False, logAsyncioTasks=False)
    handler.setFormatter(JsonFormatter() if log.format == "json" else TextFormatter())
    level = log.level.upper()
    # gunicorn tells about each start and stop of a worker at "info": of interest only to who looks for a fault.
    levels = {"dicomweb_server": level, "backends": level, "gunicorn.error": level if level != "INFO" else "WARNING"}
    for name, value in levels.items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(value)


class TextFormatter(logging.Formatter):
    """`2026-05-04T10:20:30.123Z INFO dicomweb_server.access [request id] message`, then a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as lines of text."""
        request_id = getattr(record, "request_id", "")
        where = f"{record.name} [{request_id}]" if request_id else record.name
        line = f"{_time(record)} {record.levelname} {where} {_one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, what was given as `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as one line of JSON."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": os.getpid(),
            "message": record.getMessage(),
        }
        entry |= {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


def _time(record: logging.LogRecord) -> str:
    seconds = int(record.created)
    return f"{_second(seconds)}.{int((record.created - seconds) * 1000):03}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _one_line(message: str) -> str:
    """A client must not be able to write lines of its own into the log."""
    return message if message.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
