"""A server that the tests start, as a process of their own."""

import signal
import subprocess


class OwnProcess:
    """What all of them have in common is how they end; `_process` is None while there is none, `stop_seconds`
    how long one may take to end before it is killed."""

    stop_seconds: float
    _process: "subprocess.Popen[bytes] | None" = None

    def kill(self) -> None:
        """End it at once, as a crash or a loss of power would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(self.stop_seconds)
