"""The page at the root in a real browser: files are dropped, found, looked at and fetched; a login is asked for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.http.identities import ADMIN, PASSWORD
from tests.live import LiveServer, serving
from tests.samples import RELATED, envelope, instance, part10

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LOGIN = {"DICOMWEB__AUTH__METHOD": "jwt", "DICOMWEB__AUTH__FIRST_ADMIN_PASSWORD": PASSWORD}
WAIT_MILLISECONDS = 30_000


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own that may log no error."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(WAIT_MILLISECONDS)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    yield opened
    context.close()
    assert not [text for text in wrong if "401" not in text]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """An empty archive where one has to log in."""
    with serving(tmp_path_factory.mktemp("home"), "--workers", "1", environment=LOGIN) as started:
        yield started


def test_files_are_stored_found_and_fetched(page: Page, server: LiveServer, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("ct.dcm", "discs.zip", "notes.txt")]
    paths[0].write_bytes(part10(instance(PatientName="Doe^Jane", PatientID="1", StudyDate="20240131", Modality="CT")))
    mr = part10(instance(PatientName="<b>Roe</b>=山田^太郎", PatientID="2", StudyDate="20230131", Modality="MR"))
    with zipfile.ZipFile(inner := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as disc:
        disc.writestr("DICOM/I0", mr)
        disc.writestr("__MACOSX/._I0", b"not looked at")
    with zipfile.ZipFile(paths[1], "w", zipfile.ZIP_STORED) as discs:
        discs.writestr("discs/1.zip", inner.getvalue())
    paths[2].write_text("no image", encoding="utf-8")
    page.goto(server.url)
    page.get_by_text("Log in to see the studies.").wait_for()
    page.get_by_role("link", name="Log in").click()
    page.fill("[name=username]", ADMIN)
    page.fill("[name=password]", PASSWORD)
    page.click("button")
    page.get_by_text("The archive is empty").wait_for()
    page.set_input_files("#files", paths)
    page.get_by_text("2 stored, 1 not.").wait_for()
    assert page.inner_text("#told").startswith("notes.txt: not a DICOM file")
    rows = page.locator("#list tbody tr")
    assert rows.all_inner_texts() == [
        "Doe Jane\t1\t2024-01-31\tCT\t\t1\tZip · Delete",
        "<b>Roe</b> 山田 太郎\t2\t2023-01-31\tMR\t\t1\tZip · Delete",
    ]
    page.fill("[name=StudyDate]", "2023-01-01-2023-12-31")
    page.press("[name=StudyDate]", "Enter")
    page.get_by_text("1 to 1").wait_for()
    with page.expect_response("**/thumbnail?**") as answer:
        page.locator("#list .open").click()
    assert answer.value.ok
    page.locator(".series img").wait_for()
    assert "MR · 1 image" in page.inner_text(".series")
    with page.expect_download() as download:
        page.get_by_role("link", name="Zip").click()
    assert download.value.suggested_filename.endswith(".zip")
    page.once("dialog", lambda dialog: dialog.accept())
    rows.get_by_role("button", name="Delete").click()
    page.get_by_text("The study of <b>Roe</b> 山田 太郎 is deleted.").wait_for()
    page.get_by_text("No study is like that.").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.get_by_text("1 to 1").wait_for()
    page.fill("[name=PatientName]", "nobody")
    page.press("[name=PatientName]", "Enter")
    page.get_by_text("No study is like that.").wait_for()
    page.get_by_text("Log out").click()
    page.get_by_text("Log in to see the studies.").wait_for()
    assert not page.locator("#drop").is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_long_words_stay_on_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    word = "Wolfeschlegelsteinhausenbergerdorffwelchevoralternwareng"
    study = {"study_uid": "1.2.3", "PatientName": word, "PatientID": word, "StudyDescription": word}
    files = [part10(instance(**study, SeriesDescription="A series of many words", Modality=f"M{i}")) for i in range(12)]
    with serving(tmp_path, "--workers", "1") as server:
        requests.post(f"{server.url}/studies", data=envelope(files), headers={"Content-Type": RELATED}, timeout=30)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(server.url)
        page.locator("#list .open").click()
        page.locator(".series figure").nth(11).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        captions = page.locator(".series figcaption").evaluate_all(
            "all => all.map(one => one.scrollWidth - one.clientWidth)"
        )
        assert captions == [0] * 12
        page.close()
