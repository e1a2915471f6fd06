"""README.md: its commands run against a live server and print what it shows; its settings exist, and what all pages
link to."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from dicomweb_server.settings import Settings
from tests.live import ROOT, LiveServer, running

README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SHOWN_URL = "http://localhost:5985"
TIMEOUT_SECONDS = 60


@pytest.fixture(scope="module")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with running(tmp_path_factory.mktemp("demo"), "demo", "--port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Path:
    """The reader's own folder: two DICOM files and one that is none."""
    folder = tmp_path_factory.mktemp("reader")
    images = folder / "images"
    images.mkdir()
    shutil.copy(sample_folder / "examples_rgb_color.dcm", images / "colour.dcm")
    shutil.copy(sample_folder / "reportsi.dcm", images / "report.DCM")
    (images / "notes.txt").write_text("not an image\n", encoding="utf-8")
    return folder


def console_sessions() -> list[tuple[str, str]]:
    """Every command of the README's console blocks with the output that it shows, in order."""
    text = README.read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = session.partition("\n")
            found.append((command, output))
    return found


def pattern_of(output: str) -> str:
    """The shown output as a regular expression: `...` stands for anything, blanks count as one."""
    pieces = [r"\s+".join(map(re.escape, piece.split())) for piece in output.split("...")]
    return r"\s*" + r".*?".join(rf"\s*{piece}\s*" for piece in pieces) + r"\s*"


def test_the_commands_print_what_is_shown(demo_server: LiveServer, folder: Path) -> None:
    """One shell runs them in order, as a reader would; variables of one are there in the next."""
    sessions = console_sessions()
    assert len(sessions) >= 10
    separator = "=== next ==="
    script = "".join(f"{command}\necho '{separator}'\n" for command, _ in sessions)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace(SHOWN_URL, demo_server.url)],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    printed = done.stdout.replace(demo_server.url, SHOWN_URL).split(f"{separator}\n")
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{demo_server.log.read_text(encoding='utf-8')}"
    for (command, shown), output in zip(sessions, printed, strict=False):
        assert re.fullmatch(pattern_of(shown), output, re.DOTALL), f"$ {command}\n{output}"


def test_the_settings_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| `(.*?)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    in_code = {name: str(value) if isinstance(value, Path) else value for name, value, _ in Settings().items()}
    shown = {name: orjson.loads(value) for name, value in rows if name in in_code or name.count(".")}
    shown["storage.directory"] = str(Path(shown["storage.directory"]))
    assert shown == {name: list(value) if isinstance(value, tuple) else value for name, value in in_code.items()}


def anchors_of(document: Path) -> set[str]:
    """What a link into the document can name: its headings, as they are shown."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    for name, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", text):
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            missing.append(f"{name}#{anchor}")
    files = re.findall(r"`((?:(?:dicomweb_server|backends|tests)/|config/(?=\w+\.toml))[A-Za-z0-9_./]+)`", text)
    missing += [name for name in files if "NAME" not in name and not (ROOT / name).exists()]
    assert not missing


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z0-9]+)", README.read_text(encoding="utf-8")))
    assert named >= {"run", "test"}
    assert named <= set(re.findall(r"^([a-z0-9]+):", makefile, re.MULTILINE))
