"""A mixed load on one archive on SQLite: writers, readers, edits, deletions into the bin and for good, restorations,
and backup and check beside them. Nothing may answer 5xx; memory, handles and threads may not grow, the log of the index
not above what it is cut to, and totals are exact at the end.

    python benchmarks/mixed.py [--minutes 15] [--writers 8 --readers 16]

The first half lets caches fill; growth is what the second half adds, by the line through its samples.
"""

import argparse
import http.client
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from anywhere

from benchmarks import servers
from dicomweb_server.testing.datasets import new_uid, part10, record

STUDIES = 200
IN_REQUEST = 4
SAMPLE_EVERY_SECONDS = 2.0
BESIDE_EVERY_SECONDS = 20.0
BOUNDARY = "mixed"
GROWTH = {"memory (MB)": 20.0, "file handles": 10.0, "threads": 4.0}
"""How much the line through the second half may rise in all."""
WAL_MB = 80.0
"""SQLite cuts the log to 67 MB when it begins it again; it is longer while a reader keeps it from that."""


class Load:
    """What all threads share: which studies there should be, with how many instances, and what was answered."""

    def __init__(self, url: str) -> None:
        self.host, self.port = "127.0.0.1", int(url.rpartition(":")[2])
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.answers: Counter[str] = Counter()
        self.errors: list[str] = []
        self.studies: dict[str, int] = {}
        self.busy: set[str] = set()

    def thread(self, work: Callable[["Load", "Client", random.Random], None], seed: int) -> threading.Thread:
        """A thread that does the work again and again until the end."""

        def run() -> None:
            client, chance = Client(self), random.Random(seed)  # noqa: S311  no secret
            while not self.ended.is_set():
                work(self, client, chance)

        return threading.Thread(target=run)

    def take(self, chance: random.Random) -> str | None:
        """A study that nobody else changes, for a while."""
        with self.lock:
            free = [uid for uid in self.studies if uid not in self.busy]
            if not free:
                return None
            uid = chance.choice(free)
            self.busy.add(uid)
            return uid

    def give(self, uid: str) -> None:
        """Let others have it."""
        with self.lock:
            self.busy.discard(uid)


class Client:
    """A connection that counts answers."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._connection = http.client.HTTPConnection(load.host, load.port, timeout=120)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        try:
            self._connection.request(
                method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
            )
            answer = self._connection.getresponse()
            status, data = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            status, data = 599, type(exc).__name__.encode()
        with self._load.lock:
            self._load.answers[f"{method} {status}"] += 1
            if status >= 500:
                self._load.errors.append(f"{method} {path.partition('?')[0]}: {status} {data[:200]!r}")
        return status, data


def write(load: Load, client: Client, chance: random.Random) -> None:
    """Store some instances into a new study or one that is there."""
    with load.lock:
        full = len(load.studies) >= STUDIES
    uid = load.take(chance) if full or chance.random() < 0.3 else None
    study = uid or new_uid()
    series = f"{study}.1"
    files = [part10(record(study, series, Rows=64, Columns=64).attributes) for _ in range(IN_REQUEST)]
    head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    status, _ = client.ask("POST", "/studies", body, Content_Type=kind)
    with load.lock:
        if status == 200:
            load.studies[study] = load.studies.get(study, 0) + IN_REQUEST
        load.busy.discard(study)
    time.sleep(0.02)


def read(load: Load, client: Client, chance: random.Random) -> None:
    """Search, and read metadata and a study as a zip."""
    with load.lock:
        uid = chance.choice(list(load.studies)) if load.studies else None
    paths = ["/studies?limit=50", "/studies?PatientName=*a*&limit=20", "/instances?limit=20", "/statistics", "/changes"]
    if uid:
        paths += [f"/studies/{uid}/metadata", f"/studies/{uid}/series", f"/studies/{uid}/instances"]
        if chance.random() < 0.2:
            client.ask("GET", f"/studies/{uid}", Accept="application/zip")
    client.ask("GET", chance.choice(paths))
    time.sleep(0.02)


def edit(load: Load, client: Client, chance: random.Random) -> None:
    """Give a study another description, with a reason: new versions of all its instances."""
    uid = load.take(chance)
    if uid is not None:
        change = {"reason": "a mixed load", "attributes": {"StudyDescription": f"Edited {chance.randrange(10**9)}"}}
        client.ask("PATCH", f"/studies/{uid}", json.dumps(change).encode(), Content_Type="application/json")
        load.give(uid)
    time.sleep(0.5)


def delete(load: Load, client: Client, chance: random.Random) -> None:
    """Delete a study into the bin; then bring it back, or give it up for good."""
    uid = load.take(chance)
    if uid is None:
        time.sleep(0.2)
        return
    status, _ = client.ask("DELETE", f"/studies/{uid}")
    body = json.dumps({"study_uid": uid}).encode()
    back = chance.random() < 0.3
    if status == 204 and back:
        client.ask("POST", "/bin/restore", body, Content_Type="application/json")
    elif status == 204:
        client.ask("POST", "/bin/purge", body, Content_Type="application/json")
        with load.lock:
            del load.studies[uid]
    load.give(uid)
    time.sleep(0.1)


def beside(load: Load, folder: Path) -> None:
    """Backup and check, in turn, as an operator runs them."""
    commands = (["backup", str(folder / "backup"), "--keep", "2"], ["check", "--deep"])
    number = 0
    while not load.ended.wait(BESIDE_EVERY_SECONDS if number else 3):
        words = [sys.executable, "-m", "dicomweb_server", *commands[number % 2], "--data", str(folder / "data")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        with load.lock:
            load.answers[f"{commands[number % 2][0]} {done.returncode}"] += 1
            if done.returncode:
                load.errors.append(f"{commands[number % 2][0]}: {done.stdout[-300:]} {done.stderr[-300:]}")
        number += 1


def sample(pid: int, data: Path) -> dict[str, float]:
    """What all processes of the server use."""
    memory = handles = threads = 0
    for process in servers.process_tree(pid):
        try:
            status = Path(f"/proc/{process}/status").read_text()
            values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            memory += int(values["RssAnon"].split()[0])
            threads += int(values["Threads"])
            handles += len(os.listdir(f"/proc/{process}/fd"))
        except (OSError, KeyError):
            continue
    wal = data / "index.sqlite-wal"
    size = wal.stat().st_size if wal.exists() else 0
    return {"memory (MB)": memory / 1e3, "file handles": handles, "threads": threads, "WAL (MB)": size / 1e6}


def growth(values: list[float]) -> float:
    """How much the line through the values rises from the first to the last."""
    count = len(values)
    if count < 3:
        return 0.0
    middle, mean = (count - 1) / 2, sum(values) / count
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    return slope / sum((place - middle) ** 2 for place in range(count)) * (count - 1)


def exact(load: Load) -> list[str]:
    """What the totals of the archive say otherwise than what was stored and deleted."""
    client, wrong = Client(load), []
    for uid, number in load.studies.items():
        _, data = client.ask("GET", f"/studies?StudyInstanceUID={uid}&includefield=00201208")
        found = [hit["00201208"]["Value"][0] for hit in json.loads(data)]
        if found != [number]:
            wrong.append(f"{uid}: {found} instead of {number}")
    _, data = client.ask("GET", "/statistics")
    if json.loads(data)["instances"] != sum(load.studies.values()):
        wrong.append("the sum of all instances")
    return wrong


def main() -> int:
    """Run the load and print a table; the status is 1 where a goal was missed."""
    parser = argparse.ArgumentParser(description="A mixed load, and whether anything grows.")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mixed-") as name:
        folder, port = Path(name), servers.free_port()
        command = f"{shlex.quote(sys.executable)} -m dicomweb_server serve --port {port} --data {folder / 'data'}"
        with servers.running(shlex.split(command), Path.cwd(), f"http://127.0.0.1:{port}", "ours") as server:
            return _run(Load(server.url), server.pid, folder, options)


def _run(load: Load, pid: int, folder: Path, options: argparse.Namespace) -> int:
    works = [write] * options.writers + [read] * options.readers + [delete, edit] * 2
    threads = [load.thread(work, seed) for seed, work in enumerate(works)]
    threads.append(threading.Thread(target=beside, args=(load, folder)))
    for thread in threads:
        thread.start()
    end, samples = time.monotonic() + options.minutes * 60, []
    while time.monotonic() < end:
        time.sleep(SAMPLE_EVERY_SECONDS)
        samples.append(sample(pid, folder / "data"))
    load.ended.set()
    for thread in threads:
        thread.join()
    wrong = exact(load)
    half = samples[len(samples) // 2 :]
    print("| | start of the second half | end | growth | allowed |\n| --- | ---: | ---: | ---: | ---: |")
    missed = False
    for what, allowed in GROWTH.items():
        values = [one[what] for one in half]
        rise = growth(values)
        missed |= rise > allowed
        print(f"| {what} | {values[0]:.1f} | {values[-1]:.1f} | {rise:.1f} | {allowed:.0f} |")
    values = [one["WAL (MB)"] for one in half]
    missed |= max(values) > WAL_MB
    print(f"| WAL (MB) | {values[0]:.1f} | {values[-1]:.1f} | {growth(values):.1f} | never above {WAL_MB:.0f} |")
    print("\n" + ", ".join(f"{count} x {what}" for what, count in sorted(load.answers.items())))
    print(f"{len(load.errors)} errors, totals {'wrong: ' + '; '.join(wrong[:5]) if wrong else 'exact'}")
    for text in load.errors[:10]:
        print(f"  {text}")
    return int(missed or bool(load.errors) or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
