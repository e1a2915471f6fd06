"""OHIF in a real browser, hosted by this server: the list, and pictures compared with our own rendering."""

from __future__ import annotations

import io
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
import requests
from pydicom.uid import UID, generate_uid

from dicomweb_server.viewer.installed import find
from tests.browser import objects
from tests.browser.pictures import Visit, colourfulness, likeness, mosaic, reference, shown, visit, wait_for
from tests.browser.servers import file_server, prefix_proxy
from tests.live import ROOT, LiveServer
from tests.samples import PYDICOM_FILES, RELATED, envelope, needs_corpus

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

LIKE = 0.9
SCREENSHOTS = os.environ.get("SCREENSHOTS")
"""A folder for screenshots, for docs/images; none are taken without."""


@dataclass(frozen=True, slots=True)
class Case:
    """A file that is shown, and what is special about it."""

    name: str
    file: str
    corpus: bool = False

    def uid(self, level: str) -> str:
        """Each file is put into a study of its own: several are of one study, or one object in two forms."""
        return str(generate_uid(entropy_srcs=[self.name, level]))

    def content(self) -> bytes:
        """The file, with the UIDs of the case and a name to look for in the list."""
        ds = pydicom.dcmread((Path(os.environ["DICOM_CORPUS"]) if self.corpus else PYDICOM_FILES) / self.file)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid("study"), self.uid("series")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(self.uid("instance"))
        ds.PatientName, ds.PatientID = f"Case^{self.name}", self.name
        out = io.BytesIO()
        ds.save_as(out)
        return out.getvalue()


CASES = (
    Case("ct", "CT_small.dcm"),
    Case("mr-jpeg-ls", "MR_small_jpeg_ls_lossless.dcm"),
    Case("us-colour-rgb", "examples_rgb_color.dcm"),
    Case("us-jpeg-multi-frame", "examples_ybr_color.dcm"),
    Case("us-palette", "examples_palette.dcm"),
    Case("us-rle-multi-frame", "pydicom-data/OBXXXX1A_rle_2frame.dcm", corpus=True),
    Case("ct-jpeg-2000", "pydicom-data/693_J2KR.dcm", corpus=True),
    Case("us-jpeg-2000-colour", "pydicom-data/US1_J2KR.dcm", corpus=True),
    Case("wsi", "highdicom/sm_image_numbers.dcm", corpus=True),
)
FITTED = CASES[:-1]
WSI, WSI_TILES = CASES[-1], 25
IN_WHEEL = tuple(case for case in CASES if not case.corpus)
CT = CASES[0]


def parameters(cases: tuple[Case, ...]) -> list[object]:
    return [pytest.param(case, id=case.name, marks=[needs_corpus] if case.corpus else []) for case in cases]


@pytest.fixture(scope="module")
def stored(hosting: LiveServer) -> LiveServer:
    """The archive with every file that is there."""
    files = [case.content() for case in CASES if not case.corpus or "DICOM_CORPUS" in os.environ]
    store(hosting, *files)
    return hosting


def store(server: LiveServer, *files: bytes) -> None:
    body = envelope(files)
    answer = requests.post(f"{server.url}/studies", body, headers={"Content-Type": RELATED}, timeout=60)
    assert answer.status_code == 200, answer.text


def picture(server: LiveServer, case: Case, frame: int = 1) -> str:
    """The URL of our rendering of a frame."""
    series = f"{server.url}/studies/{case.uid('study')}/series/{case.uid('series')}"
    return f"{series}/instances/{case.uid('instance')}/frames/{frame}/rendered"


def open_study(browser: Browser, viewer: str, case: Case, **options: object) -> Visit:
    return visit(browser, f"{viewer}/viewer?StudyInstanceUIDs={case.uid('study')}", **options)  # type: ignore[arg-type]


def keep_screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")


def expect_picture(seen: Visit, url: str, name: str) -> None:
    """The picture on the page is our own rendering, and nothing went wrong."""
    expected, aspect = reference(url)
    page = seen.page
    as_rendered = wait_for(page, lambda: likeness(shown(page, aspect=aspect), expected) > LIKE)
    keep_screenshot(page, name)
    assert as_rendered, f"likeness {likeness(shown(page, aspect=aspect), expected):.2f}; {seen.failures}"
    assert seen.failures == []


def test_the_list_shows_every_study(closing: Browser, stored: LiveServer) -> None:
    seen = visit(closing, f"{stored.url}/ohif/")
    names = [
        study["00100010"]["Value"][0]["Alphabetic"].partition("^")[2]
        for study in requests.get(f"{stored.url}/studies", timeout=30).json()
    ]
    assert len(names) >= len(IN_WHEEL)
    page = seen.page
    listed = wait_for(page, lambda: all(name in page.locator("body").inner_text() for name in names))
    keep_screenshot(page, "ohif-list")
    assert listed, seen.failures
    assert seen.failures == []


@pytest.mark.parametrize("case", parameters(FITTED))
def test_a_study_shows_as_we_render_it(closing: Browser, stored: LiveServer, case: Case) -> None:
    seen = open_study(closing, f"{stored.url}/ohif", case)
    expect_picture(seen, picture(stored, case), f"ohif-{case.name}")


@pytest.mark.parametrize("case", parameters((CT, CASES[5])))
def test_by_wado_uri(closing: Browser, stored: LiveServer, case: Case) -> None:
    def by_wado_uri(page: Page) -> None:
        def change(route: Route) -> None:
            answer = route.fetch()
            text = answer.text().replace('"imageRendering": "wadors"', '"imageRendering": "wadouri"')
            assert "wadouri" in text
            route.fulfill(response=answer, body=text)

        page.route("**/app-config.js", change)

    seen = open_study(closing, f"{stored.url}/ohif", case, prepare=by_wado_uri)
    expect_picture(seen, picture(stored, case), f"ohif-wadouri-{case.name}")
    assert any(path.startswith("/wado?requestType=WADO") for path in seen.paths())


@needs_corpus
def test_the_tiles_of_a_slide(closing: Browser, stored: LiveServer) -> None:
    """The slide is drawn from its tiles at half the height of the viewport, and as it lies on the glass: upside down
    (ImageOrientationSlide, PS3.3 C.8.12.2)."""
    tiles = [reference(picture(stored, WSI, frame), part=1)[0] for frame in range(1, WSI_TILES + 1)]
    whole = mosaic(tiles, columns=5)[::-1, ::-1]
    seen = open_study(closing, f"{stored.url}/ohif", WSI)
    as_rendered = wait_for(seen.page, lambda: likeness(shown(seen.page, aspect=1, scale=0.5), whole) > LIKE)
    keep_screenshot(seen.page, "ohif-wsi")
    assert as_rendered, f"{likeness(shown(seen.page, aspect=1, scale=0.5), whole)}; {seen.failures}"
    assert seen.failures == []


def test_a_pdf(closing: Browser, stored: LiveServer) -> None:
    """It is handed to the browser's own viewer, which headless Chromium does not have: only its bytes are looked at."""
    uid = generate_uid()
    store(stored, objects.pdf(uid, "Case^pdf"))
    seen = visit(closing, f"{stored.url}/ohif/viewer?StudyInstanceUIDs={uid}")
    document = seen.page.locator("object[type='application/pdf']")
    assert wait_for(seen.page, lambda: document.count() == 1 and bool(document.get_attribute("data"))), seen.failures
    data = seen.page.evaluate(
        "async url => new TextDecoder().decode(await (await fetch(url)).arrayBuffer())", document.get_attribute("data")
    )
    keep_screenshot(seen.page, "ohif-pdf")
    assert data.startswith("%PDF-1.4")
    assert seen.failures == []


def test_a_segmentation_over_its_image(closing: Browser, stored: LiveServer) -> None:
    case = Case("seg", CT.file)
    image = case.content()
    store(stored, image, objects.segmentation(image))
    seen = open_study(closing, f"{stored.url}/ohif", case)
    page = seen.page
    expected, aspect = reference(picture(stored, case))
    assert wait_for(page, lambda: likeness(shown(page, aspect=aspect), expected) > LIKE), seen.failures
    assert colourfulness(shown(page, aspect=aspect)) < 1
    page.get_by_text("Segmentation", exact=True).first.dblclick()
    assert wait_for(page, lambda: open_segmentation(page) and colourfulness(shown(page, aspect=aspect)) > 5)
    keep_screenshot(page, "ohif-seg")
    assert seen.failures == []


def open_segmentation(page: Page) -> bool:
    """Says yes when the viewer asks whether to open it; true, so that it can stand in a condition."""
    yes = page.get_by_text("Yes", exact=True)
    if yes.count():
        yes.first.click()
    return True


def test_from_another_origin(closing: Browser, stored: LiveServer, viewer_data: Path) -> None:
    """The configuration of docs/viewers.md, on a server of files on another port."""
    blocks = re.findall(r"```js\n(.*?)```", (ROOT / "docs" / "viewers.md").read_text(encoding="utf-8"), re.DOTALL)
    config = blocks[0].replace("https://pacs.example", stored.url)
    viewer = find(viewer_data / "viewer")
    assert viewer is not None
    assert config.count(stored.url) == 3
    with file_server(viewer, config) as url:
        seen = open_study(closing, url, CT)
        expect_picture(seen, picture(stored, CT), "ohif-other-origin")


@pytest.mark.skipif(shutil.which("nginx") is None, reason="install nginx to run this")
def test_behind_a_proxy_with_a_prefix(closing: Browser, stored: LiveServer, tmp_path: Path) -> None:
    with prefix_proxy(tmp_path, stored.url, "/pacs") as url:
        seen = open_study(closing, f"{url}/pacs/ohif", CT)
        expect_picture(seen, picture(stored, CT), "ohif-prefix")
        assert all(path.startswith("/pacs/") for path in seen.paths() if not path.startswith("blob:"))
