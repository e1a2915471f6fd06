"""Faults in every step of what changes an archive, as often as you like.

    python -m tests.faults [--rounds 200] [--seed 1] [--step store] [--fault kill]

In each round an archive is copied, something is done to it, and at one of its system calls on files the process is
killed (`kill`; half of what was being written is there, in every second round), or the call fails, once or from then
on: no space is left (`full`), the disk gives an error for a change (`eio`) or for reading (`eio-read`). The calls are
those of the step in turn, from the first to the last. Afterwards all that was acknowledged must be there byte by byte,
all else as before or as after, the change feed must end with what is there, `check --deep` must find nothing; then the
step is done again, and what the background deletes is deleted.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from dicomweb_server.errors import StorageError
from tests.faults import shim
from tests.faults.archive import State, copied, judge, make, state_of, tidy
from tests.faults.steps import STEPS, Step, opened

LIBRARY = "FAULTS_LIBRARY"
ENDS_WITHIN_SECONDS = 120
FAULTS = ("kill", "full", "eio", "eio-read")
_ERRNOS = {"full": errno.ENOSPC, "eio": errno.EIO, "eio-read": errno.EIO}
_CALLS = {"kill": shim.CHANGES, "full": shim.WRITE | shim.CREATE, "eio": shim.CHANGES, "eio-read": shim.READ}


@dataclass(slots=True)
class Result:
    """Of the rounds of a step with a fault."""

    rounds: int = 0
    happened: int = 0
    acknowledged: int = 0
    calls: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


class Rounds:
    """The rounds of all steps, on copies of one archive."""

    def __init__(self, folder: Path, control: shim.Control, seed: int) -> None:
        self._folder = folder
        self._control = control
        self._log = folder / "log.txt"
        self._seed = seed
        self._template = folder / "template"
        make(self._template)

    def run(self, step: Step, fault: str, rounds: int) -> Result:
        """Fails with what is wrong, and the round."""
        result = Result()
        prepared = self._folder / "prepared"
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.mkdir()
        copied(self._template, prepared / "data")
        with quiet(self._log):
            step.prepare(prepared)
        before, after = self._around(step, prepared, fault, result)
        for number in range(rounds):
            chance = random.Random(f"{self._seed} {step.name} {fault} {number}")
            at = 1 + int((number + chance.random()) / rounds * result.calls)
            place = self._folder / "round"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(prepared, place)
            self._log.write_bytes(b"")
            self._arm(fault, place, at, chance)
            told, status = self._child(step, place)
            self._control.disarm()
            result.rounds += 1
            result.happened += self._control.fired
            result.acknowledged += len(told)
            if self._control.fired:
                result.kinds[_kind(self._control.what)] += 1
            try:
                with quiet(self._log):
                    self._judge(step, place, told, before, after)
                if not (fault == "kill" and self._control.fired):
                    _check_end(status, self._log, traced=fault == "eio-read")
            except BaseException as exc:
                log = self._log.read_text(errors="replace")
                exc.add_note(
                    f"{step.name}, {fault} at call {at} ({self._control.what}), round {number}:\n{log[-3000:]}"
                )
                raise
        return result

    def _arm(self, fault: str, place: Path, at: int, chance: random.Random) -> None:
        if fault == "kill":
            action = chance.choice((shim.KILL, shim.KILL_GROUP, shim.KILL_GROUP))
            self._control.arm(place, action=action, calls=_CALLS[fault], at=at, torn=chance.random() < 0.5)
        else:
            times = chance.choice((1, 1, 3, shim.ALWAYS))
            torn = fault == "full" and chance.random() < 0.5
            self._control.arm(place, action=_ERRNOS[fault], calls=_CALLS[fault], at=at, times=times, torn=torn)

    def _around(self, step: Step, prepared: Path, fault: str, result: Result) -> tuple[State, State]:
        """What is visible before and after, and how many calls the step makes."""
        place = self._folder / "round"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(prepared, place)
        with quiet(self._log), closing(opened(place / step.result)) as archive:
            before = state_of(archive) if not step.mends else State({}, frozenset(), 0)
        shutil.rmtree(place)
        shutil.copytree(prepared, place)
        self._control.arm(place, action=shim.COUNT, calls=_CALLS[fault])
        _, status = self._child(step, place)
        self._control.disarm()
        log = self._log.read_text(errors="replace")
        assert status == 0, f"{step.name} ends with {status}:\n{log}"
        result.calls = self._control.count
        with closing(opened(place / step.result)) as archive:
            return before, judge(archive, has_feed=step.has_feed)

    def _child(self, step: Step, place: Path) -> tuple[dict[str, str | None], int]:
        """Do the step in a process of its own; gives what it acknowledged, and its exit status (negative: signal)."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.setsid()
            _do(step, place, self._log, writing)
        os.close(writing)
        deadline = time.monotonic() + ENDS_WITHIN_SECONDS
        try:
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    break
                if time.monotonic() > deadline:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    raise AssertionError(f"{step.name} does not end: {self._control.what}")
                time.sleep(0.002)
            with os.fdopen(reading, "rb") as told:
                lines = told.read().splitlines()
        finally:
            _end_group(pid)
        told_all: dict[str, str | None] = {}
        for line in lines:
            told_all |= orjson.loads(line)
        return told_all, os.waitstatus_to_exitcode(status)

    def _judge(self, step: Step, place: Path, told: dict[str, str | None], before: State, after: State) -> None:
        with closing(opened(place / step.result)) as archive:
            if not step.mends:
                found = judge(archive, has_feed=step.has_feed)
                for uid, sha256 in told.items():
                    assert found.visible.get(uid) == sha256, f"{uid} was acknowledged"
                for uid in {*found.visible, *before.visible, *after.visible}:
                    allowed = (before.visible.get(uid), after.visible.get(uid))
                    assert found.visible.get(uid) in allowed, f"{uid} is neither as before nor as after"
                for study in step.at_once:
                    some = {uid for uid in found.visible if uid.startswith(f"{study}.")}
                    whole = [{uid for uid in state.visible if uid.startswith(f"{study}.")} for state in (before, after)]
                    assert some in whole, f"a part of {study} is visible"
        step.check(place, False)
        if step.again is not None:
            status = step.again(place)
            assert status == 0, f"again it ends with {status}"
            step.check(place, True)
        with closing(opened(place / step.result)) as archive:
            ended = judge(archive, has_feed=step.has_feed)
            if step.again is not None:
                assert ended.visible == after.visible, "after it was done again, it is not as if nothing had happened"
                assert ended.fed == after.fed
            tidy(archive)
            assert state_of(archive).visible == ended.visible


def _kind(what: str) -> str:
    """A call and what it was on, without the names that are new in each round."""
    call, _, path = what.rpartition(" ")
    parts = [part for part in path.split("/") if part]
    place = parts[1] if parts[:1] == ["data"] and len(parts) > 1 else (parts or ["the folder"])[0]
    return f"{call} {place.removesuffix('-wal').removesuffix('-shm').removesuffix('-journal')}"


def _do(step: Step, place: Path, log: Path, writing: int) -> None:
    """In the new process."""
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = step.act(place, lambda content: _tell(writing, content))
    except StorageError as exc:  # as a server that cannot start
        print(exc.message)
    except BaseException:  # nothing of it may go on in this process
        sys.excepthook(*sys.exc_info())
        status = 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _tell(writing: int, content: dict[str, str | None]) -> None:
    os.write(writing, orjson.dumps(content) + b"\n")


def _end_group(pid: int) -> None:
    """What the process has left behind."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _check_end(status: int, log: Path, *, traced: bool) -> None:
    """A command says in a sentence what is wrong; a server may log where it found that the index cannot be read."""
    text = log.read_text(errors="replace")
    assert status in (0, 1, 3), f"it ends with {status}:\n{text}"
    assert traced or "Traceback" not in text, text


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What is printed inside goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, old in zip((1, 2), kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


def main() -> int:
    """Run the rounds and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="of each step with each fault (200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--step", action="append", choices=[step.name for step in STEPS], help="only this one")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if LIBRARY not in os.environ:
            return _under_the_shim(folder)
        os.environ["DICOMWEB__STOW__ON_DUPLICATE"] = "replace"
        control = shim.Control(folder / "control")
        shim.attach(Path(os.environ[LIBRARY]), control)
        _run(Rounds(folder, control, options.seed), options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _under_the_shim(folder: Path) -> int:
    """Start this again, with the shim loaded."""
    try:
        library = shim.build(folder)
    except shim.NoCompiler as exc:
        print(exc, file=sys.stderr)
        return 77  # as test programs say that they were skipped
    environment = {**os.environ, "LD_PRELOAD": str(library), LIBRARY: str(library)}
    command = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
    return subprocess.run(command, env=environment, check=False).returncode


def _run(rounds: Rounds, options: argparse.Namespace) -> None:
    print("| step | fault | calls on files | rounds | happened | acknowledged | lost |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for step in STEPS:
        if options.step and step.name not in options.step:
            continue
        for fault in options.fault or FAULTS:
            if step.goes_around and fault == "eio-read":
                continue
            result = rounds.run(step, fault, options.rounds)
            print(
                f"| {step.name} | {fault} | {result.calls} | {result.rounds} | {result.happened} | "
                f"{result.acknowledged} | 0 |",
                flush=True,
            )
            print(f"  {dict(result.kinds)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
