"""What a viewer shows, as numbers: the part of the page where the picture is, and how like a reference it is."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

SHOWN_SECONDS = 40.0
STEP_MILLISECONDS = 300
SIDE = 48
MIDDLE = 0.7  # texts and rulers lie at the edges

_LARGEST_CANVAS = """() => [...document.querySelectorAll('canvas')].map(canvas => canvas.getBoundingClientRect())
  .map(({x, y, width, height}) => ({x, y, width, height})).filter(box => box.width * box.height > 10000)
  .sort((a, b) => b.width * b.height - a.width * a.height)[0] ?? null"""

# The viewer greets first visits with a tour. Documents in the page have no storage.
_NO_FIRST_VISIT = """try { localStorage.setItem('shownTours', '["basicViewerTour"]') } catch {}"""

Pixels = NDArray[np.float64]


@dataclass(slots=True)
class Visit:
    """A page, what went wrong on it, and the addresses of this machine that it asked."""

    page: Page
    failures: list[str] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def paths(self) -> list[str]:
        """The paths and queries that were answered."""
        return [urlsplit(answer.url)._replace(scheme="", netloc="").geturl() for answer in self.answers]


def visit(browser: Browser, url: str, prepare: Callable[[Page], None] | None = None) -> Visit:
    """Open a page in a context of its own. Other hosts than this machine are refused, and counted as failures."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, service_workers="block")
    context.add_init_script(_NO_FIRST_VISIT)
    seen = Visit(context.new_page())
    page = seen.page

    def answered(response: Response) -> None:
        seen.answers.append(response)
        if response.status >= 400:
            seen.failures.append(f"{response.status} {response.url}")

    def broken(request: Request) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # the viewer gave it up itself
            seen.failures.append(f"{request.failure} {request.url}")

    def told(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            seen.failures.append(message.text)

    def is_foreign(address: str) -> bool:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and parts.hostname not in ("localhost", "127.0.0.1")

    context.route(is_foreign, lambda route: route.abort())
    page.on("response", answered)
    page.on("requestfailed", broken)
    page.on("pageerror", lambda error: seen.failures.append(f"uncaught {error}"))
    page.on("console", told)
    if prepare:
        prepare(page)
    page.goto(url)
    return seen


def wait_for(page: Page, probe: Callable[[], bool], *, seconds: float = SHOWN_SECONDS) -> bool:
    """Whether the probe comes true in time."""
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            return False
        page.wait_for_timeout(STEP_MILLISECONDS)
    return True


def shown(page: Page, *, aspect: float, scale: float = 1) -> Pixels | None:
    """The middle of the picture that is fitted into the largest canvas, None without one. `aspect` is its width by its
    height, `scale` its size by the largest that fits; the whole is taken of a smaller one."""
    box = page.evaluate(_LARGEST_CANVAS)
    if box is None:
        return None
    part = MIDDLE if scale == 1 else scale
    width = min(box["width"], box["height"] * aspect) * part
    height = width / aspect
    clip = {
        "x": box["x"] + (box["width"] - width) / 2,
        "y": box["y"] + (box["height"] - height) / 2,
        "width": width,
        "height": height,
    }
    return _pixels(Image.open(io.BytesIO(page.screenshot(clip=clip))))  # type: ignore[arg-type]


def reference(url: str, *, part: float = MIDDLE) -> tuple[Pixels, float]:
    """The middle of our own rendering, and its aspect."""
    answer = requests.get(url, headers={"Accept": "image/png"}, timeout=60)
    answer.raise_for_status()
    image = Image.open(io.BytesIO(answer.content))
    return middle(image, part), image.width / image.height


def middle(image: Image.Image, part: float = MIDDLE) -> Pixels:
    """The middle of an image, as `shown` takes it of the page."""
    left, top = image.width * (1 - part) / 2, image.height * (1 - part) / 2
    return _pixels(image.crop((round(left), round(top), round(image.width - left), round(image.height - top))))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)


def likeness(one: Pixels | None, other: Pixels) -> float:
    """The correlation of the two, colours included: 1 is the same but for contrast, 0 is nothing alike. A flat or
    missing picture is 0."""
    if one is None or one.std() < 1 or other.std() < 1:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def mosaic(tiles: list[Pixels], *, columns: int) -> Pixels:
    """The tiles side by side, row by row, in the size of one picture."""
    rows = [np.concatenate(tiles[start : start + columns], axis=1) for start in range(0, len(tiles), columns)]
    return _pixels(Image.fromarray(np.concatenate(rows).astype(np.uint8)))


def colourfulness(picture: Pixels | None) -> float:
    """How far the channels lie apart on average; 0 for grey."""
    return 0.0 if picture is None else float((picture.max(axis=2) - picture.min(axis=2)).mean())
