"""A worker killed at any moment of a STOW: what was acknowledged is there, whole; nothing half is visible."""

import json
import os
import random
import signal
import threading
from contextlib import suppress
from pathlib import Path

import requests
from pydicom.uid import generate_uid

from tests.live import LiveServer, serving
from tests.samples import RELATED, envelope, instance, part10

KILLS = 50
WRITERS = 4
TIMEOUT_SECONDS = 30


class Writer(threading.Thread):
    """Stores batches into one study until told to stop; remembers what it sent and what was acknowledged."""

    def __init__(self, server: LiveServer, study_uid: str, stop: threading.Event, seed: int) -> None:
        super().__init__()
        self.sent: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self._server, self._study_uid, self._ended, self._random = server, study_uid, stop, random.Random(seed)

    def run(self) -> None:
        while not self._ended.is_set():
            side = self._random.choice((8, 64, 300))
            batch = [
                instance(self._study_uid, Rows=side, Columns=side, PixelData=self._random.randbytes(side * side))
                for _ in range(self._random.randint(1, 5))
            ]
            files = {str(ds.SOPInstanceUID): part10(ds) for ds in batch}
            self.sent |= files
            with suppress(requests.ConnectionError):
                answer = requests.post(
                    f"{self._server.url}/studies",
                    data=envelope(list(files.values())),
                    headers={"Content-Type": RELATED},
                    timeout=TIMEOUT_SECONDS,
                )
                if answer.status_code in (200, 202):
                    stored = answer.json()["00081199"]["Value"]
                    self.acknowledged |= {item["00081155"]["Value"][0] for item in stored}


def kill_a_worker(server: LiveServer, chance: random.Random) -> None:
    """SIGKILL to one of the workers, as soon as there is one."""
    while True:
        workers = server.worker_pids()
        if workers:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(workers), signal.SIGKILL)
                return


def test_a_worker_killed_fifty_times_loses_nothing(tmp_path: Path) -> None:
    study_uid, stop, chance = generate_uid(), threading.Event(), random.Random(1)
    with serving(tmp_path, "--workers", "2") as server:
        writers = [Writer(server, study_uid, stop, seed) for seed in range(WRITERS)]
        for writer in writers:
            writer.start()
        for _ in range(KILLS):
            stop.wait(chance.uniform(0.05, 0.4))
            kill_a_worker(server, chance)
        stop.set()
        for writer in writers:
            writer.join()
        sent = {uid: data for writer in writers for uid, data in writer.sent.items()}
        acknowledged = {uid for writer in writers for uid in writer.acknowledged}
        study = f"{server.url}/studies/{study_uid}"
        hits: list[dict[str, dict[str, list[str]]]] = []
        while page := requests.get(f"{study}/instances?limit=500&offset={len(hits)}", timeout=TIMEOUT_SECONDS).json():
            hits += page
        listed = {hit["00080018"]["Value"][0]: hit["00081190"]["Value"][0] for hit in hits}
        assert len(listed) == len(hits)
        assert acknowledged <= listed.keys()
        assert len(acknowledged) > KILLS
        session = requests.Session()
        for uid, url in listed.items():
            got = session.get(url, headers={"Accept": "application/dicom; transfer-syntax=*"}, timeout=TIMEOUT_SECONDS)
            assert got.content == sent[uid]
        row = json.loads(requests.get(f"{server.url}/studies?StudyInstanceUID={study_uid}", timeout=30).text)[0]
        assert row["00201208"]["Value"] == [len(listed)]
        assert len(requests.get(f"{study}/metadata", timeout=TIMEOUT_SECONDS).json()) == len(listed)
