"""Faults in every step of what changes an archive, as often as you like.

    python -m tests.faults [--rounds 200] [--seed 1] [--step store] [--fault kill] [--backend mongodb]

In each round an archive is copied, something is done to it, and at one of its system calls on files the process is
killed (`kill`; half of what was being written is there, in every second round), or the call fails, once or from then
on: no space is left (`full`), the disk gives an error for a change (`eio`) or for reading (`eio-read`). The calls are
those of the step in turn, from the first to the last. Afterwards all that was acknowledged must be there byte by byte,
all else as before or as after, the change feed must end with what is there, `check --deep` must find nothing; then the
step is done again, and what the background deletes is deleted.

With --backend, index and files lie in a database that stays alive: the process is killed when it sends to it (half of
what it sends gets there, in every second round), or its connections are cut (`cut`) once or from then on.
"""

import argparse
import errno
import faulthandler
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
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from dicomweb_server.errors import StorageError
from dicomweb_server.services.copy import Archive
from tests.faults import databases, shim
from tests.faults.archive import State, copied, judge, make, state_of, tidy
from tests.faults.steps import STEPS, Step, opened

LIBRARY = "FAULTS_LIBRARY"
ENDS_WITHIN_SECONDS = 120
TOLD_WITHIN_SECONDS = 20.0
FAULTS = ("kill", "full", "eio", "eio-read")
DATABASE_FAULTS = ("kill", "cut")
_ERRNOS = {"full": errno.ENOSPC, "eio": errno.EIO, "eio-read": errno.EIO, "cut": errno.ECONNRESET}
_CALLS = {
    "kill": shim.CHANGES,
    "full": shim.WRITE | shim.CREATE,
    "eio": shim.CHANGES,
    "eio-read": shim.READ,
    "cut": shim.SEND,
}


@dataclass(slots=True)
class Result:
    """Of the rounds of a step with a fault."""

    rounds: int = 0
    happened: int = 0
    acknowledged: int = 0
    calls: int = 0
    kinds: Counter[str] = field(default_factory=Counter)


class Rounds:
    """The rounds of all steps, on copies of one archive; with a backend, on archives in databases at the URL."""

    def __init__(self, folder: Path, control: shim.Control, seed: int, backend: str, url: str) -> None:
        self._folder = folder
        self._control = control
        self._log = folder / "log.txt"
        self._seed = seed
        self._backend = backend
        self._url = url
        self._template = folder / "template"
        if not backend:
            make(self._template)

    def run(self, step: Step, fault: str, rounds: int) -> Result:
        """Fails with what is wrong, and the round."""
        result = Result()
        self._prepare(step)
        before, after = self._around(step, fault, result)
        for number in range(rounds):
            chance = random.Random(f"{self._seed} {step.name} {fault} {number}")
            at = 1 + int((number + chance.random()) / rounds * result.calls)
            with self._place(step) as place:
                self._log.write_bytes(b"")
                self._arm(fault, place, at, chance)
                try:
                    told, status = self._child(step, place)
                except AssertionError as exc:
                    exc.add_note(self._log.read_text(errors="replace")[-6000:])
                    raise
                self._control.disarm()
                result.rounds += 1
                result.happened += self._control.fired
                result.acknowledged += len(told)
                if self._control.fired:
                    result.kinds[_kind(self._control.what)] += 1
                try:
                    with quiet(self._log), databases.later(self._backend):
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

    # Where it happens

    def _prepare(self, step: Step) -> None:
        """Of archives in files, what every round begins with."""
        prepared = self._folder / "prepared"
        shutil.rmtree(prepared, ignore_errors=True)
        prepared.mkdir()
        if not self._backend:
            copied(self._template, prepared / "data")
            with quiet(self._log):
                step.prepare(prepared)

    @contextmanager
    def _place(self, step: Step) -> Iterator[Path]:
        """A folder with the archive, as it is before the step."""
        place = self._folder / "round"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._folder / "prepared", place)
        if not self._backend:
            yield place
            return
        with databases.fresh(self._backend, self._url):
            with quiet(self._log):
                make(place / "data")
                step.prepare(place)
            yield place

    def _target(self, place: Path) -> Path | str:
        return databases.place_of(self._url) if self._backend else place

    def _calls(self, fault: str) -> int:
        return shim.SEND if self._backend else _CALLS[fault]

    def _arm(self, fault: str, place: Path, at: int, chance: random.Random) -> None:
        target, calls = self._target(place), self._calls(fault)
        if fault == "kill":
            action = chance.choice((shim.KILL, shim.KILL_GROUP, shim.KILL_GROUP))
            self._control.arm(target, action=action, calls=calls, at=at, torn=chance.random() < 0.5)
        else:
            times = chance.choice((1, 1, 3, shim.ALWAYS))
            torn = fault == "full" and chance.random() < 0.5
            self._control.arm(target, action=_ERRNOS[fault], calls=calls, at=at, times=times, torn=torn)

    def _around(self, step: Step, fault: str, result: Result) -> tuple[State, State]:
        """What is visible before and after, and how many calls the step makes."""
        with self._place(step) as place:
            with quiet(self._log), closing(opened(place / step.result)) as archive:
                before = state_of(archive) if not step.mends else State({}, frozenset(), 0)
            if not self._backend:  # looking has touched it
                shutil.rmtree(place)
                shutil.copytree(self._folder / "prepared", place)
            self._control.arm(self._target(place), action=shim.COUNT, calls=self._calls(fault))
            _, status = self._child(step, place)
            self._control.disarm()
            log = self._log.read_text(errors="replace")
            assert status == 0, f"{step.name} ends with {status}:\n{log}"
            result.calls = self._control.count
            with closing(opened(place / step.result)) as archive:
                return before, self._judged(archive, step)

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

    def _judged(self, archive: Archive, step: Step) -> State:
        return judge(archive, has_feed=step.has_feed, feed_seconds=TOLD_WITHIN_SECONDS if self._backend else 0.0)

    def _judge(self, step: Step, place: Path, told: dict[str, str | None], before: State, after: State) -> None:
        with closing(opened(place / step.result)) as archive:
            if not step.mends:
                found = self._judged(archive, step)
                if step.edits:
                    found, after = _without_times(found, before), _without_times(after, before)
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
            ended = self._judged(archive, step)
            shown = _without_times(ended, before) if step.edits else ended
            if step.again is not None:
                assert shown.visible == after.visible, "after it was done again, it is not as if nothing had happened"
                assert ended.fed == after.fed
            tidy(archive)
            assert state_of(archive).visible == ended.visible


def _without_times(state: State, before: State) -> State:
    """With one text for all that is not as before."""
    visible = {uid: sha256 if before.visible.get(uid) == sha256 else "new" for uid, sha256 in state.visible.items()}
    return State(visible, state.fed, state.changes)


def _kind(what: str) -> str:
    """A call and what it was on, without the names that are new in each round."""
    call, _, path = what.rpartition(" ")
    if not path:
        return call  # to the database
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
        faulthandler.dump_traceback_later(ENDS_WITHIN_SECONDS - 10, file=2)  # where it is, if it does not end
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
    parser.add_argument("--fault", action="append", choices=(*FAULTS, "cut"), help="only this one")
    parser.add_argument("--backend", choices=databases.BACKENDS, default="", help="archives in a database (in files)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if LIBRARY not in os.environ:
            return _under_the_shim(folder)
        os.environ["DICOMWEB__STOW__ON_DUPLICATE"] = "replace"
        control = shim.Control(folder / "control")
        shim.attach(Path(os.environ[LIBRARY]), control)
        with databases.running(options.backend, folder / "server") if options.backend else nullcontext("") as url:
            _run(Rounds(folder, control, options.seed, options.backend, url), options)
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
    calls = "calls to the database" if options.backend else "calls on files"
    print(f"| step | fault | {calls} | rounds | happened | acknowledged | lost |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for step in STEPS:
        if options.step and step.name not in options.step:
            continue
        if options.backend and step.of_files:
            continue
        for fault in options.fault or (DATABASE_FAULTS if options.backend else FAULTS):
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
