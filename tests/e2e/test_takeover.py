"""Who holds the lease of the release is killed, or stopped for longer than it lasts: another takes over, and the first
one does no harm when it wakes up."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomweb_server.services.check import Check
from dicomweb_server.storage.records import Scope
from tests.commands.archives import in_database, opened, settings_file, store
from tests.e2e.test_backends import BACKENDS
from tests.live import ROOT
from tests.samples import instance
from tests.services.releaser import BATCH

GONE, AGAIN, KEPT = "1.2.3.1", "1.2.3.2", "1.2.3.3"
INSTANCES = 2 * BATCH + 1
ENDS_WITHIN_SECONDS = 60


@contextmanager
def releasing(settings: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.services.releaser", str(settings)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=ENDS_WITHIN_SECONDS)


@pytest.mark.parametrize(
    ("backend", "how"), [*((backend, signal.SIGSTOP) for backend in BACKENDS), ("sqlite", signal.SIGKILL)]
)
def test_another_takes_over(tmp_path: Path, backend: str, how: signal.Signals) -> None:
    if backend == "sqlite":
        _take_over(settings_file(tmp_path / "data"), how)
    else:
        with in_database(backend) as text:
            _take_over(settings_file(tmp_path / "data", text), how)


def _take_over(settings: Path, how: signal.Signals) -> None:
    with opened(settings) as archive:
        for study in (GONE, AGAIN, KEPT):
            store(archive, *(instance(study, f"{study}.0", f"{study}.{number}") for number in range(INSTANCES)))
        for study in (GONE, AGAIN):
            archive.storage.remove(scope=Scope(study_uid=study))
    with releasing(settings) as first:
        assert first.stdout
        assert [first.stdout.readline() for _ in range(2)] == ["ready\n", f"deleting {BATCH}\n"]
        first.send_signal(how)
        with releasing(settings) as second:
            told, _ = second.communicate("\n" * 4 * INSTANCES, timeout=ENDS_WITHIN_SECONDS)
        assert told.endswith(f"released {2 * INSTANCES}\nnothing is left\n"), told
        # What was deleted is stored again, and more is deleted, before the first one wakes up.
        with opened(settings) as archive:
            store(archive, *(instance(AGAIN, f"{AGAIN}.0", f"{AGAIN}.{number}") for number in range(INSTANCES)))
            if how is signal.SIGSTOP:
                archive.storage.remove(scope=Scope(instance_uid=f"{AGAIN}.0"))
                first.send_signal(signal.SIGCONT)
                told, _ = first.communicate("\n" * 4 * INSTANCES, timeout=ENDS_WITHIN_SECONDS)
                assert told == "overtaken\ndeleting 1\nreleased 1\nnothing is left\n"
            left = {KEPT: INSTANCES, AGAIN: INSTANCES - (how is signal.SIGSTOP)}
            for study, number in left.items():
                assert len(list(archive.storage.instances(scope=Scope(study_uid=study)))) == number
            assert len(list(archive.blobs.keys(older_than_seconds=0))) == sum(left.values())
            check = Check(archive.storage, archive.blobs, deep=True, told=lambda _: None, grace_seconds=0)
            assert list(check.run()) == []
