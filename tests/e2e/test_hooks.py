"""Web hooks of a live server with several workers, over a restart."""

import hashlib
import hmac
from pathlib import Path

import pytest
import requests

from tests.live import LiveServer, serving
from tests.samples import RELATED, envelope, instance, part10
from tests.services.receiver import Receiver, receiving

pytest.importorskip("prometheus_client", reason="pip install 'dicomweb-server[metrics]'")

SECRET = "a secret of some length"


def store(server: LiveServer, count: int) -> list[str]:
    """STOW, one request each; gives the UIDs."""
    instances = [instance() for _ in range(count)]
    for ds in instances:
        body = envelope([part10(ds)])
        requests.post(
            f"{server.url}/studies", data=body, headers={"Content-Type": RELATED}, timeout=30
        ).raise_for_status()
    return [str(ds.SOPInstanceUID) for ds in instances]


def wait_for(receiver: Receiver, count: int) -> None:
    """Until so many changes have come."""
    while len(receiver.uids()) < count:
        assert receiver.came.wait(30), f"{len(receiver.uids())} of {count} changes came"
        receiver.came.clear()


def test_each_change_once_in_order_over_a_restart(tmp_path: Path) -> None:
    with receiving() as receiver:
        environment = {
            "DICOMWEB__HOOKS__ONE__URL": receiver.url,
            "DICOMWEB__HOOKS__ONE__SECRET": SECRET,
        }
        with serving(tmp_path, "--workers", "3", environment=environment) as server:
            wait_until_known(server)
            uids = store(server, 5)
            wait_for(receiver, 5)
            receiver.answers = [500]  # what comes now waits for its second attempt
            uids += store(server, 1)
            assert receiver.came.wait(30)
        with serving(tmp_path, "--workers", "3", environment=environment) as server:
            uids += store(server, 5)
            wait_for(receiver, 11)
            assert SECRET not in server.log.read_text(encoding="utf-8")
    assert receiver.uids() == uids
    for headers, body in receiver.got:
        sent = dict(piece.split("=") for piece in headers["Dicomweb-Signature"].split(","))
        wanted = hmac.new(SECRET.encode(), sent["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(wanted, sent["v1"])
        assert b'"url":"/studies/' in body


def wait_until_known(server: LiveServer) -> None:
    """Until the hook has its place in the feed: a new one begins with what comes then."""
    known = 'dicomweb_queue{queue="hook one"} 0.0'
    while known not in requests.get(f"{server.url}/metrics", timeout=30).text:
        assert server.process.poll() is None
