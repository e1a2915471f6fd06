"""The check for known vulnerabilities, on advisories made up about what is installed here."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.live import ROOT

PYDICOM = version("pydicom")
YAML = """id: PYSEC-2000-1
aliases:
- CVE-2000-1
details: "Of what is installed."
affected:
- package: {{ecosystem: PyPI, name: {name}}}
  ranges:
  - type: ECOSYSTEM
    events:
    - introduced: "0"
    - {end}: "{bound}"
"""


def check(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / ".ci" / "advisories.py"), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def advisory(**package: Any) -> str:
    entry = {"package": {"ecosystem": "PyPI", "name": "PyDicom"}, **package}
    return json.dumps({"id": "GHSA-xxxx", "affected": [entry]}, indent=2)


def test_an_affected_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "one.yaml").write_text(
        YAML.format(name="pydicom", end="fixed", bound="99.1"), encoding="utf-8"
    )
    status, told = check(tmp_path)
    assert status == 1
    assert f"installed: pydicom {PYDICOM}: PYSEC-2000-1, CVE-2000-1, fixed in 99.1" in told
    assert "allowed by setup.cfg: pydicom 3.0.2: PYSEC-2000-1" in told
    assert check(tmp_path, "--ignore", "CVE-2000-1")[0] == 0


def test_a_file_of_several(tmp_path: Path) -> None:
    path = tmp_path / "known.yaml"
    documents = [
        YAML.format(name="numpy", end="fixed", bound="0.1"),
        YAML.format(name="pydicom", end="fixed", bound="99"),
    ]
    path.write_text("---\n".join(documents), encoding="utf-8")
    status, told = check(path)
    assert (status, "against 2 advisories" in told, f"installed: pydicom {PYDICOM}" in told) == (1, True, True)


@pytest.mark.parametrize(
    "text",
    [
        YAML.format(name="pydicom", end="fixed", bound="3.0.2"),
        YAML.format(name="pydicom", end="last_affected", bound="3.0.1"),
        YAML.format(name="pydicom-seg", end="fixed", bound="99.1"),
        YAML.format(name="pydicom", end="fixed", bound="99.1") + "withdrawn: 2001-01-01T00:00:00Z\n",
        advisory(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]),
        advisory(package={"ecosystem": "npm", "name": "pydicom"}, versions=[PYDICOM]),
        advisory(ranges=[{"type": "ECOSYSTEM", "events": [{"introduced": "99"}, {"introduced": "0"}, {"fixed": "2"}]}]),
    ],
)
def test_what_is_mended_or_another_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.json").write_text(text, encoding="utf-8")
    status, told = check(tmp_path)
    assert (status, told.endswith("against 1 advisories: 0 affected.\n")) == (0, True), told


@pytest.mark.parametrize(
    "package",
    [{"versions": [PYDICOM]}, {"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": PYDICOM}]}]}],
)
def test_json_of_github(tmp_path: Path, package: dict[str, Any]) -> None:
    (tmp_path / "one.json").write_text(advisory(**package), encoding="utf-8")
    status, told = check(tmp_path)
    assert status == 1
    assert f"pydicom {PYDICOM}: GHSA-xxxx, fixed in no version yet" in told


def test_a_folder_without_advisories(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    status, told = check(tmp_path)
    assert (status, "holds no advisories" in told) == (2, True)
