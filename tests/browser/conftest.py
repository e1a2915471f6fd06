"""A headless Chromium, and an archive that hosts the viewer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.live import ROOT, LiveServer, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOW_TO_GET_THE_VIEWER = "run `npm pack @ohif/app@3.13.2` and set OHIF_TGZ to the file to run this"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to run this")
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        pytest.skip("install Chromium (Debian: apt install chromium) to run this")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def closing(browser: Browser) -> Iterator[Browser]:
    """The browser; what a test opened in it is closed."""
    yield browser
    for context in browser.contexts:
        context.close()


@pytest.fixture(scope="session")
def viewer_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder into which the viewer is installed from the package that OHIF_TGZ names."""
    package = os.environ.get("OHIF_TGZ")
    if not package:
        pytest.skip(HOW_TO_GET_THE_VIEWER)
    data = tmp_path_factory.mktemp("viewer") / "data"
    subprocess.run(
        [sys.executable, "-m", "dicomweb_server", "viewer", "install", "--from", package, "--data", str(data)],
        check=True,
        cwd=ROOT,
    )
    return data


@pytest.fixture(scope="session")
def hosting(viewer_data: Path) -> Iterator[LiveServer]:
    """The archive, empty at first; pages of other ports of this machine may use it too."""
    environment = {"DICOMWEB__HTTP__ALLOWED_ORIGINS": "*"}
    with serving(viewer_data.parent, "--workers", "2", environment=environment) as server:
        yield server
