"""A video in OHIF's own viewport: it plays, stops, goes to a frame, and is fetched by ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom.uid import generate_uid

from tests.browser import film, objects
from tests.browser.film import needs_ffmpeg
from tests.browser.pictures import STEP_MILLISECONDS, Visit, likeness, shown, visit, wait_for
from tests.browser.test_ohif import keep_screenshot, store
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LIKE = 0.98
ASPECT = film.COLUMNS / film.ROWS

# The viewport draws from a player that is no part of the page.
REMEMBER_PLAYERS = """(() => {
  const create = document.createElement.bind(document);
  window.players = [];
  document.createElement = (name, ...rest) => {
    const made = create(name, ...rest);
    if (String(name).toLowerCase() === 'video') window.players.push(made);
    return made;
  };
})()"""


def remember_players(page: Page) -> None:
    page.add_init_script(REMEMBER_PLAYERS)


def player(page: Page, attribute: str) -> float:
    """A property of the only player, as a number; -1 without one."""
    value: float = page.evaluate(f"window.players.length === 1 ? Number(window.players[0].{attribute}) : -1")
    return value


def shows_its_time(page: Page) -> bool:
    """Whether the picture is that of the player's time, and neither of a fifth of a second before nor after."""
    seconds = player(page, "currentTime")
    seen = shown(page, aspect=ASPECT)
    now, *others = (likeness(seen, film.picture_at(seconds + apart)) for apart in (0, -0.2, 0.2))
    return now > LIKE and now > max(others)


def one_frame_back(page: Page) -> bool:
    """Turns the wheel; true, so that it can stand in a condition."""
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(STEP_MILLISECONDS)
    return True


def watch(seen: Visit) -> None:
    """Play the video of the page that is opening, stop it, go on frame by frame; nothing goes wrong meanwhile."""
    page = seen.page
    assert wait_for(page, lambda: likeness(shown(page, aspect=ASPECT), film.picture_at(0)) > LIKE), seen.failures
    assert player(page, "duration") == pytest.approx(film.SECONDS, abs=0.1)
    page.locator("[data-cy=MoreTools-split-button-secondary]").click()
    page.locator("[data-cy=Cine]").click()
    begin_or_stop = page.locator("[data-cy=cine-player-play-pause]")
    begin_or_stop.click()
    assert wait_for(page, lambda: player(page, "currentTime") > 0.5), "it does not play"
    first = player(page, "currentTime")
    assert wait_for(page, lambda: player(page, "currentTime") != first), "it does not go on"
    assert wait_for(page, lambda: likeness(shown(page, aspect=ASPECT), film.picture_at(0)) < LIKE), "it does not move"
    begin_or_stop.click()
    assert wait_for(page, lambda: player(page, "paused") == 1)
    page.mouse.move(640, 450)
    stopped = player(page, "currentTime")
    assert wait_for(page, lambda: one_frame_back(page) and shows_its_time(page)), player(page, "currentTime")
    assert player(page, "currentTime") != stopped
    keep_screenshot(page, "ohif-video")
    answers = [answer for answer in seen.answers if answer.url.endswith("/rendered")]
    assert {answer.status for answer in answers} == {206}
    begins = [int(answer.headers["content-range"].split()[1].partition("-")[0]) for answer in answers]
    assert begins[0] == 0
    assert max(begins) > film.UNUSED_BYTES / 2, "the index at the end was not asked for by its place"
    assert seen.failures == []


@needs_ffmpeg
def test_a_video_plays_in_its_viewport(closing: Browser, hosting: LiveServer) -> None:
    uid = generate_uid()
    store(hosting, objects.video(uid, "Case^video", fragments=3))
    watch(visit(closing, f"{hosting.url}/ohif/viewer?StudyInstanceUIDs={uid}", remember_players))
