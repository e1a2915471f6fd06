"""An interrupt that waits for a safe moment: what a command has in hand is not torn apart."""

import signal
from collections.abc import Sequence
from types import FrameType
from typing import Self


class Interrupt:
    """As a context manager it takes the signals over. The second one interrupts at once."""

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT,)) -> None:
        self.wanted = False
        self._signals = signals

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._caught) for number in self._signals}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Called at the safe moments; raises KeyboardInterrupt when one is wanted."""
        if self.wanted:
            raise KeyboardInterrupt

    def _caught(self, _number: int, _frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
