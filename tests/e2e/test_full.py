"""A disk that takes no more: the client is told to come back, nothing half is kept, small things still fit."""

import sys
from pathlib import Path

import requests

from tests.live import running
from tests.samples import RELATED, envelope, instance, part10

LIMIT_KB = 6000  # of each file, set by the shell: the write fails as on a full disk
SIDE = 3000


def test_a_full_disk_is_a_503(tmp_path: Path) -> None:
    large = part10(instance(Rows=SIDE, Columns=SIDE, PixelData=bytes(SIDE * SIDE)))
    limited = ("bash", "-c", f'ulimit -f {LIMIT_KB}; exec "$0" -m dicomweb_server "$@"', sys.executable)
    arguments = ("serve", "--port", "0", "--data", str(tmp_path / "data"), "--workers", "1")
    with running(tmp_path, *arguments, command=limited) as server:
        for headers, body in (
            ({"Content-Type": "application/dicom"}, large),
            ({"Content-Type": RELATED}, envelope([part10(instance()), large])),
        ):
            answer = requests.post(f"{server.url}/studies", data=body, headers=headers, timeout=60)
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["Retry-After"]) > 0
            assert requests.get(f"{server.url}/instances", timeout=60).json() == []
        assert [path for path in (tmp_path / "data" / "staging").iterdir()] == []
        small = requests.post(
            f"{server.url}/studies", data=part10(instance()), headers={"Content-Type": "application/dicom"}, timeout=60
        )
        assert small.status_code == 200
