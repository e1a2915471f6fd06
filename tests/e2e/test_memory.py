"""A large instance passes through: the worker's memory does not grow with it."""

from collections.abc import Iterator
from pathlib import Path

import requests

from tests.live import serving
from tests.samples import instance, part10, url

MEGABYTE = 1024 * 1024
SIZE_MB = 400
GROWTH_MB = 64


def peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def test_memory_stays_flat(tmp_path: Path) -> None:
    ds = instance(Rows=1024, Columns=1024, NumberOfFrames=SIZE_MB, PixelData=bytes(MEGABYTE))
    small = part10(ds)
    # The same header with the length of all frames; the value follows in the stream.
    head = small[: -MEGABYTE - 4] + (SIZE_MB * MEGABYTE).to_bytes(4, "little")

    def body() -> Iterator[bytes]:
        yield head
        for number in range(SIZE_MB):
            yield bytes([number % 256]) * MEGABYTE

    with serving(tmp_path, "--workers", "1") as server:
        (worker,) = server.worker_pids()
        requests.post(
            f"{server.url}/studies", data=part10(instance()), headers={"Content-Type": "application/dicom"}, timeout=60
        )
        before = peak_mb(worker)
        stored = requests.post(
            f"{server.url}/studies", data=body(), headers={"Content-Type": "application/dicom"}, timeout=300
        )
        assert stored.status_code == 200, stored.text
        for accept in ("application/dicom; transfer-syntax=*", 'multipart/related; type="application/dicom"'):
            with requests.get(server.url + url(ds), headers={"Accept": accept}, stream=True, timeout=300) as answer:
                assert sum(map(len, answer.iter_content(MEGABYTE))) >= SIZE_MB * MEGABYTE
        frame = requests.get(
            f"{server.url}{url(ds)}/frames/300", headers={"Accept": "application/octet-stream"}, timeout=60
        )
        assert frame.content == bytes([299 % 256]) * MEGABYTE
        assert peak_mb(worker) - before < GROWTH_MB
