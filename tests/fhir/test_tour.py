"""The FHIR tour of README.md, run by a client that others wrote."""

import re
import subprocess
import sys
from pathlib import Path

from tests.live import ROOT, running

SHOWN_URL = "http://localhost:5985"


def test_the_tour_prints_what_is_shown(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tour,) = [block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if "fhirpy" in block]
    shown = [line.removeprefix("# ") for line in tour.splitlines() if line.startswith("# ")]
    with running(tmp_path, "demo", "--port", "0") as server:
        done = subprocess.run(
            [sys.executable, "-c", tour.replace(SHOWN_URL, server.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.splitlines() == shown, done.stderr
