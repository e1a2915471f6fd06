"""Progress of a long command on standard error: one line that changes on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Self

MEGABYTE = 1_000_000
TELL_EVERY_SECONDS = 0.2
TELL_LOG_EVERY_SECONDS = 5.0
_BAR_WIDTH = 24


def counted(number: int, thing: str, plural: str = "") -> str:
    """The number and what it counts: 1 file, 2 files."""
    return f"{number} {thing if number == 1 else plural or f'{thing}s'}"


class ProgressLine:
    """The line; used as a context manager, which leaves it at the end."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told = 0.0 if self._terminal else time.monotonic()
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def tell(self, text: Callable[[], str]) -> None:
        """Show what the function gives, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._told < (TELL_EVERY_SECONDS if self._terminal else TELL_LOG_EVERY_SECONDS):
            return
        self._told = now
        if not self._terminal:
            print(text(), file=sys.stderr, flush=True)
            return
        shown = text()
        print(f"\r{shown:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(shown)

    def end(self) -> None:
        """Leave the line."""
        if self._width:
            print(file=sys.stderr)
            self._width = 0


class Pace:
    """How far work of a known or growing total is, and when it will end if it goes on like this."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def per_second(self, done: float) -> float:
        """The rate since the beginning."""
        return done / max(time.monotonic() - self._began, 1e-6)

    def left(self, done: float, total: float) -> str:
        """The time left, in words; empty when nothing can be said yet."""
        if done <= 0 or total < done:
            return ""
        return f", {duration((time.monotonic() - self._began) * (total / done - 1))} left"


def bar(done: float, total: float) -> str:
    """A bar and the percentage."""
    part = min(done / total, 1.0) if total else 1.0
    filled = int(part * _BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {int(100 * part):3d} %"


def duration(seconds: float) -> str:
    """Seconds as a person says it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
