"""What is measured of a DICOMweb server, and how its answers are checked."""

import contextlib
import hashlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.connection import Connection, UnexpectedAnswer
from benchmarks.servers import cpu_seconds, peak_memory, process_tree, reset_peak_memory
from benchmarks.studies import FRAME_BYTES, Instance, LargeInstance, Round, StudyMaker

JSON = "application/dicom+json"
FILES = 'multipart/related; type="application/dicom"; transfer-syntax=*'
FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_BOUNDARY = "benchmark-0f3cf5c070e041efbaefc6f9f65ec3e1"
_STUDY_FIELDS = "00081030%2C00080060%2C00080090%2C00100030"


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure: `goal` is how many times better than Orthanc we want it."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False
    goal: float | None = None


MEASURES = (
    Measure("store_per_second", "store", "instances/s", True, 4),
    Measure("cpu_seconds_per_200_stored", "server CPU per 200 stored", "s"),
    Measure("study_search_ms", "study search", "ms", False, 2),
    Measure("instance_search_ms", "search of a series' instances", "ms", False, 40),
    Measure("metadata_first_ms", "series metadata, first read", "ms", False, 30),
    Measure("metadata_ms", "series metadata, again", "ms", False, 30),
    Measure("series_plain_mb_per_second", "series retrieve, read by http.client", "MB/s", True, 2),
    Measure("series_mb_per_second", "series retrieve, read into kept memory", "MB/s", True),
    Measure("frames_per_second", "frames", "frames/s", True, 4),
)
"""The goals stand in docs/benchmarks.md; they hold in one run with Orthanc 1.10.1 on the same machine."""


@dataclass(frozen=True, slots=True)
class Load:
    """How hard the server is driven. `pid` is the first process of its tree, where its processor time is wanted."""

    instances: int = 200
    clients: int = 4
    batch: int = 25
    rounds: int = 3
    pid: int | None = None


def measure(url: str, load: Load, *, note: Callable[[str], None]) -> dict[str, list[float]]:
    """The figures by key, one for each round; every round stores instances of its own and reads only those."""
    maker = StudyMaker()
    figures: dict[str, list[float]] = {}
    for number in range(load.rounds):
        note(f"round {number + 1} of {load.rounds}")
        stored = maker.round(load.instances)
        for key, value in {**store_all(url, stored.instances, load), **_read(url, stored, load)}.items():
            figures.setdefault(key, []).append(value)
    return figures


def medians(figures: dict[str, list[float]]) -> dict[str, float]:
    """The median of each figure over its rounds."""
    return {key: statistics.median(values) for key, values in figures.items()}


def expect(holds: bool, message: str) -> None:
    """Raises UnexpectedAnswer unless it holds."""
    if not holds:
        raise UnexpectedAnswer(message)


def together(clients: int, work: Callable[[int], None]) -> float:
    """Runs `work(number)` in so many threads that begin at once; the seconds until the last one ended."""
    failures: list[BaseException] = []
    gate = threading.Barrier(clients + 1)

    def run(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - began


def _envelope(batch: Sequence[Instance]) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + instance.blob + b"\r\n" for instance in batch) + f"--{_BOUNDARY}--\r\n".encode()


def _store_headers() -> dict[str, str]:
    return {"Accept": JSON, "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'}


def store_all(url: str, instances: Sequence[Instance], load: Load) -> dict[str, float]:
    """Stores them in batches, by all clients at once; how fast that was, by key."""
    batches = [instances[start : start + load.batch] for start in range(0, len(instances), load.batch)]
    bodies = [_envelope(batch) for batch in batches]
    answers: list[bytes] = [b""] * len(bodies)

    def client(number: int) -> None:
        with Connection(url) as connection:
            for place in range(number, len(bodies), load.clients):
                length = {"Content-Length": str(len(bodies[place]))}
                head = connection.prepared("POST", "/studies", {**_store_headers(), **length})
                answer = connection.send(head, bodies[place])
                expect(answer.status == 200, f"store: status {answer.status}")
                answers[place] = bytes(answer.body)

    cpu_before = cpu_seconds(load.pid) if load.pid else 0.0
    seconds = together(load.clients, client)
    figures = {"store_per_second": len(instances) / seconds}
    if load.pid:
        spent = cpu_seconds(load.pid) - cpu_before
        figures["cpu_seconds_per_200_stored"] = spent * 200 / len(instances)
    for batch, body in zip(batches, answers, strict=True):
        kept = {item["00081155"]["Value"][0] for item in json.loads(body)["00081199"]["Value"]}
        expect(kept == {instance.instance_uid for instance in batch}, "store: not every instance is acknowledged")
    return figures


def _read(url: str, stored: Round, load: Load) -> dict[str, float]:
    series = stored.series
    path = f"/studies/{series[0].study_uid}/series/{series[0].series_uid}"
    studies = (
        f"/studies?limit=101&offset=0&fuzzymatching=false&includefield={_STUDY_FIELDS}&00100020={stored.patients}*"
    )
    with Connection(url) as connection:
        metadata = _times(connection, path + "/metadata", hits=len(series), repeats=8)
        listed = _times(connection, studies, hits=stored.studies, repeats=30)
        searched = _times(connection, path + "/instances", hits=len(series), repeats=8)
    return {
        "study_search_ms": statistics.median(listed),
        "instance_search_ms": statistics.median(searched),
        "metadata_first_ms": metadata[0],
        "metadata_ms": statistics.median(metadata[1:]),
        "frames_per_second": _frames(url, series, load),
        **_retrieve_series(url, path, series),
    }


def _times(connection: Connection, path: str, *, hits: int, repeats: int) -> list[float]:
    """Milliseconds of each of the equal requests, after checking that the answer holds so many items."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        answer = connection.get(path, JSON)
        found.append((time.perf_counter() - began) * 1000)
        expect(answer.status == 200, f"{path}: status {answer.status}")
        expect(len(json.loads(bytes(answer.body))) == hits, f"{path}: not {hits} hits")
    return found


def _retrieve_series(url: str, path: str, series: Sequence[Instance]) -> dict[str, float]:
    """MB/s (10^6 bytes) of the whole series as stored.

    Read twice over: into memory that is used again, which shows what the server can do, and by Python's http.client as
    most programs do, which pays for fresh memory and is twice as fast where the answer has a Content-Length.
    """
    with Connection(url) as connection:
        answer = connection.get(path, FILES)
        expect(answer.status == 200, f"{path}: status {answer.status}")
        found = parts(answer.body, answer.headers.get("content-type", ""))
        expect(len(found) == len(series), f"{path}: {len(found)} parts instead of {len(series)}")
        wanted = {hashlib.sha256(instance.blob).digest() for instance in series}
        expect({hashlib.sha256(part).digest() for part in found} == wanted, f"{path}: the files are not those stored")
        least = sum(len(instance.blob) for instance in series)
        lean = [_megabytes_per_second(lambda: len(connection.get(path, FILES).body), least) for _ in range(5)]
    plain = [_megabytes_per_second(lambda: _plain_get(url, path), least) for _ in range(3)]
    return {
        "series_mb_per_second": statistics.median(lean),
        "series_plain_mb_per_second": statistics.median(plain),
    }


def _megabytes_per_second(read: Callable[[], int], least: int) -> float:
    began = time.perf_counter()
    size = read()
    seconds = time.perf_counter() - began
    expect(size > least, f"series: {size} bytes are less than its files")
    return size / seconds / 1e6


def _plain_get(url: str, path: str) -> int:
    connection, root = _http_connection(url)
    with contextlib.closing(connection):
        connection.request("GET", root + path, headers={"Accept": FILES})
        return len(connection.getresponse().read())


def parts(body: memoryview, content_type: str) -> list[bytes]:
    """The payloads of a multipart answer."""
    boundary = content_type.partition("boundary=")[2].partition(";")[0].strip().strip('"')
    expect(bool(boundary), "the answer is not multipart")
    pieces = bytes(body).split(f"--{boundary}".encode())
    return [piece.partition(b"\r\n\r\n")[2][:-2] for piece in pieces[1:-1]]


def _frames(url: str, series: Sequence[Instance], load: Load) -> float:
    """Frames per second; each client asks every frame of the series twice, beginning elsewhere."""
    paths = [
        f"/studies/{instance.study_uid}/series/{instance.series_uid}/instances/{instance.instance_uid}/frames/1"
        for instance in series
    ]

    def client(number: int) -> None:
        with Connection(url) as connection:
            requests = [connection.prepared("GET", path, {"Accept": FRAMES}) for path in paths]
            turn = number * len(paths) // load.clients
            for place, request in enumerate((requests[turn:] + requests[:turn]) * 2):
                answer = connection.send(request)
                expect(answer.status == 200, f"frame: status {answer.status}")
                expect(FRAME_BYTES < len(answer.body) < FRAME_BYTES + 2000, f"frame: {len(answer.body)} bytes")
                if place == 0:
                    found = parts(answer.body, answer.headers.get("content-type", ""))
                    expect(found == [series[turn].blob[-FRAME_BYTES:]], "the frame is not the one stored")

    return len(paths) * 2 * load.clients / together(load.clients, client)


@dataclass(frozen=True, slots=True)
class LargeFigures:
    """How one large instance went; memory in bytes by process is what the peak grew by, None without a pid."""

    size: int
    store_seconds: float
    retrieve_seconds: float
    grown: dict[int, int] | None


def measure_large(url: str, large: LargeInstance, *, pid: int | None) -> LargeFigures:
    """Stores the instance with a chunked upload and fetches it back; both are compared by SHA-256."""
    before = reset_peak_memory(pid) if pid else {}
    began = time.perf_counter()
    sent = _upload(url, large)
    stored = time.perf_counter()
    got = _download(url, large)
    done = time.perf_counter()
    expect(got == sent, "the instance came back different")
    grown = None
    if pid:
        expect(before.keys() <= set(process_tree(pid)), "a process of the server ended on the way")
        grown = {member: peak - before.get(member, 0) for member, peak in peak_memory(pid).items()}
    return LargeFigures(large.size, stored - began, done - stored, grown)


def _http_connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.netloc, timeout=600), parts.path.rstrip("/")


def _upload(url: str, large: LargeInstance) -> bytes:
    """Sends the instance in pieces of about 1 MiB; the SHA-256 of its file."""
    digest = hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        for chunk in large.chunks():
            digest.update(chunk)
            yield chunk
        yield f"\r\n--{_BOUNDARY}--\r\n".encode()

    connection, root = _http_connection(url)
    with contextlib.closing(connection):
        headers = {**_store_headers(), "Transfer-Encoding": "chunked"}
        connection.request("POST", root + "/studies", body(), headers, encode_chunked=True)
        answer = connection.getresponse()
        text = answer.read()
        expect(answer.status == 200, f"store: status {answer.status} {text[:500]!r}")
        expect(large.instance_uid.encode() in text, "store: the instance is not acknowledged")
    return digest.digest()


def _download(url: str, large: LargeInstance) -> bytes:
    """Fetches the instance; the SHA-256 of the file inside the one part."""
    connection, root = _http_connection(url)
    path = f"{root}/studies/{large.study_uid}/series/{large.series_uid}/instances/{large.instance_uid}"
    digest = hashlib.sha256()
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": FILES})
        answer = connection.getresponse()
        expect(answer.status == 200, f"retrieve: status {answer.status}")
        while answer.readline().strip():
            pass
        left = large.size
        block = memoryview(bytearray(1 << 20))
        while left and (size := answer.readinto(block[: min(left, len(block))])):
            digest.update(block[:size])
            left -= size
        expect(left == 0, f"retrieve: {left} bytes are missing")
        expect(b"--" in answer.read(), "retrieve: no closing boundary")
    return digest.digest()
