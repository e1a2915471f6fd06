"""A round of each step of `python -m tests.faults`; run it by hand for more, and for the other faults."""

import os
import subprocess
import sys

import pytest

from tests.live import ROOT

ROUNDS = os.environ.get("FAULT_ROUNDS", "1")


@pytest.mark.parametrize("fault", ["kill", "eio"])
def test_a_fault_at_any_call_loses_nothing(fault: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--rounds", ROUNDS, "--fault", fault],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
