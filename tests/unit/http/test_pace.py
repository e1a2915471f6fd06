"""How many requests an address may send."""

import pytest

from dicomweb_server.errors import TooManyRequests
from dicomweb_server.http.pace import Pace


def test_so_many_at_once_then_as_time_passes() -> None:
    now = [0.0]
    pace = Pace(60, clock=lambda: now[0])
    for _ in range(60):
        pace.check("10.0.0.1")
    with pytest.raises(TooManyRequests) as caught:
        pace.check("10.0.0.1")
    assert caught.value.retry_after_seconds == 2
    pace.check("10.0.0.2")
    now[0] += 2
    pace.check("10.0.0.1")
    pace.check("10.0.0.1")
    with pytest.raises(TooManyRequests):
        pace.check("10.0.0.1")


def test_only_so_many_addresses_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicomweb_server.http.pace.MAX_REMEMBERED", 2)
    pace = Pace(1, clock=lambda: 0.0)
    for address in ("a", "b"):
        pace.check(address)
        with pytest.raises(TooManyRequests):
            pace.check(address)
    pace.check("c")
    pace.check("a")  # the oldest was forgotten
    with pytest.raises(TooManyRequests):
        pace.check("c")
