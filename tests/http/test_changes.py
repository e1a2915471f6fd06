"""The change feed: pages, long polls, server-sent events, and how many may wait."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, add_user, bearer, log_in
from tests.live import LiveServer, serving
from tests.samples import RELATED, envelope, instance, part10, url


def stored(archive: Client, count: int) -> list[str]:
    """Store so many instances; gives their UIDs."""
    instances = [instance() for _ in range(count)]
    for ds in instances:
        archive.store(ds)
    return [str(ds.SOPInstanceUID) for ds in instances]


class TestPages:
    def test_every_change_once_in_order(self, archive: Client) -> None:
        uids = stored(archive, 5)
        found: list[str] = []
        cursor, more = "", True
        while more:
            page = archive.get(f"/changes?limit=2&after={cursor}").json
            found += [change["instance_uid"] for change in page["changes"]]
            cursor, more = page["next"], page["more"]
        assert found == uids
        assert archive.get(f"/changes?after={cursor}").json == {"changes": [], "next": cursor, "more": False}

    def test_a_change_tells_what_and_where(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        archive.delete(url(ds))
        first, second = archive.get("/dicom-web/changes").json["changes"]
        assert first["url"] == f"http://localhost/dicom-web{url(ds)}"
        assert (first["kind"], second["kind"]) == ("stored", "removed")
        assert "url" not in second
        assert second["study_uid"] == ds.StudyInstanceUID
        assert first["changed_at"] <= second["changed_at"]

    def test_newest_leaves_out_what_was(self, archive: Client) -> None:
        assert archive.get("/changes?after=newest").json == {"changes": [], "next": None, "more": False}
        stored(archive, 2)
        page = archive.get("/changes?after=newest").json
        assert page["changes"] == []
        (uid,) = stored(archive, 1)
        assert [c["instance_uid"] for c in archive.get(f"/changes?after={page['next']}").json["changes"]] == [uid]

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "wait=61", "wait=-1", "after=x", "after=99"])
    def test_what_cannot_be_is_refused(self, archive: Client, query: str) -> None:
        assert archive.get(f"/changes?{query}", status=400).json["reason"]


class TestWithLogin:
    """Who may see some studies only gets the changes of these, and still gets on."""

    def test_changes_of_others_are_passed_over(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.access": ["role reader: InstitutionName=North"]})
        boss = bearer(log_in(archive)["token"])
        names = ["South"] * 3 + ["North"] + ["South"] * 4 + ["North"]
        instances = [instance(InstitutionName=name) for name in names]
        for ds in instances:
            archive.store(ds, extra_environ={"HTTP_AUTHORIZATION": boss["Authorization"]})
        reader = add_user(archive, "rita", "reader")
        archive.get("/changes", status=401)
        found: list[str] = []
        cursor, more, pages = "", True, 0
        while more:
            page = archive.get(f"/changes?limit=2&after={cursor}", headers=reader).json
            found += [change["instance_uid"] for change in page["changes"]]
            cursor, more, pages = page["next"], page["more"], pages + 1
        assert found == [str(ds.SOPInstanceUID) for ds, name in zip(instances, names, strict=True) if name == "North"]
        assert pages == 5
        (first, *_) = archive.get("/changes?limit=2&wait=20", headers=reader).json["changes"]
        assert first["instance_uid"] == found[0], "a wait goes on over what is not seen"
        assert len(archive.get("/changes", headers=boss).json["changes"]) == len(names)


class TestWaiting:
    def test_comes_back_with_the_first_change(self, archive: Client) -> None:
        answers: list[dict[str, Any]] = []
        waiting = threading.Thread(target=lambda: answers.append(archive.get("/changes?wait=30").json))
        waiting.start()
        (uid,) = stored(archive, 1)
        waiting.join(20)
        assert not waiting.is_alive()
        assert [change["instance_uid"] for change in answers[0]["changes"]] == [uid]

    def test_comes_back_empty(self, archive: Client) -> None:
        assert archive.get("/changes?wait=1").json["changes"] == []

    def test_one_too_many_is_sent_away(self, make_archive: Archive) -> None:
        archive = make_archive({"changes.max_waiting": 0})
        for path in ("/changes?wait=1", "/changes/events"):
            assert int(archive.get(path, status=503).headers["Retry-After"]) > 0
        archive.get("/changes")

    def test_places_are_given_back(self, make_archive: Archive) -> None:
        archive = make_archive({"changes.max_waiting": 1})
        stored(archive, 1)
        for _ in range(3):
            archive.get("/changes?wait=1&after=x", status=400)
            archive.get("/changes?wait=1")
            archive.head("/changes/events")


class TestEvents:
    def test_a_foreign_cursor_is_an_error(self, archive: Client) -> None:
        archive.get("/changes/events", headers={"Last-Event-ID": "x"}, status=400)

    def test_changes_come_as_events(self, live_server: LiveServer) -> None:
        first, second = instance(), instance()
        store(live_server, first)
        with requests.get(f"{live_server.url}/changes/events?after=", stream=True, timeout=30) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            events = read_events(answer.iter_lines())
            assert next(events)["data"].count(str(first.SOPInstanceUID))
            store(live_server, second)
            seen = next(events)
            assert seen["event"] == "stored"
            assert str(second.SOPInstanceUID) in seen["data"]
        headers = {"Last-Event-ID": seen["id"]}
        third = instance()
        with requests.get(f"{live_server.url}/changes/events", headers=headers, stream=True, timeout=30) as answer:
            events = read_events(answer.iter_lines())
            store(live_server, third)
            assert str(third.SOPInstanceUID) in next(events)["data"]

    def test_a_stopping_server_lets_them_go(self, tmp_path: Path) -> None:
        with (
            serving(tmp_path, "--workers", "1") as server,
            requests.get(f"{server.url}/changes/events", stream=True, timeout=30) as answer,
        ):
            lines = answer.iter_lines()
            assert next(lines).startswith(b"retry")
            begin = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begin < 10, "it waited for the stream"
            assert b"event" not in b"".join(lines)


def store(server: LiveServer, ds: object) -> None:
    """STOW to a live server."""
    body = envelope([part10(ds)])  # type: ignore[arg-type]
    requests.post(f"{server.url}/studies", data=body, headers={"Content-Type": RELATED}, timeout=30).raise_for_status()


def read_events(lines: Iterator[bytes]) -> Iterator[dict[str, str]]:
    """The events of a stream, as a browser reads them."""
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode().partition(": ")
        if name in ("id", "event", "data"):
            event[name] = value
        elif not line and event:
            yield event
            event = {}
