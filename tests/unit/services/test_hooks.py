"""Web hooks: signed, in order, retried, resumed, and delivered by one process at a time."""

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dicomweb_server.errors import ConfigError
from dicomweb_server.services.hooks import DOCUMENT_KIND, SIGNATURE_HEADER, Hook, Hooks
from dicomweb_server.services.lease import FORGET_EVERY, LEASE_SECONDS
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import ChangeKind, OnDuplicate
from dicomweb_server.testing.datasets import record
from tests.services.receiver import Receiver, receiving

SECRET = "a secret of some length"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


class Clock:
    """A clock that is set by hand."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def hook_to(receiver: Receiver, *kinds: ChangeKind) -> Hook:
    return Hook(name="one", url=receiver.url, secret=SECRET, kinds=frozenset(kinds or ChangeKind))


def put(storage: Storage, count: int = 1) -> list[str]:
    records = [record() for _ in range(count)]
    storage.store(records=records, on_duplicate=OnDuplicate.REJECT)
    return [one.instance_uid for one in records]


def test_what_comes_after_the_start_is_delivered_signed(storage: Storage, receiver: Receiver) -> None:
    put(storage, 3)
    hook, hooks = hook_to(receiver), Hooks(storage, (), clock=Clock())
    assert not hooks.step(hook)
    uids = put(storage, 150)
    while hooks.step(hook):
        pass
    assert receiver.uids() == uids
    assert len(receiver.got) == 2
    headers, body = receiver.got[0]
    parts = dict(piece.split("=") for piece in headers[SIGNATURE_HEADER].split(","))
    assert parts["t"] == "1000000"
    wanted = hmac.new(SECRET.encode(), parts["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert parts["v1"] == wanted


@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_is_not_taken_comes_again_later_and_in_order(storage: Storage, receiver: Receiver, status: int) -> None:
    clock = Clock()
    hook, hooks = hook_to(receiver), Hooks(storage, (), clock=clock)
    hooks.step(hook)
    uids = put(storage)
    receiver.answers = [status, status]
    assert not hooks.step(hook)
    uids += put(storage)
    assert not hooks.step(hook)
    assert receiver.answers == [status], "it must not be tried again at once"
    clock.now += 2.1
    assert not hooks.step(hook)
    clock.now += 2.1
    assert not hooks.step(hook)
    assert receiver.uids() == []
    clock.now += 2.1
    assert hooks.step(hook)
    assert receiver.uids() == uids
    assert storage.get_document(kind=DOCUMENT_KIND, document_id="one").body["failures"] == 0


def test_a_receiver_that_is_away_is_waited_for(storage: Storage) -> None:
    with receiving() as gone:
        hook = hook_to(gone)
    clock = Clock()
    hooks = Hooks(storage, (), clock=clock)
    hooks.step(hook)
    put(storage)
    for expected in (2, 4, 8):
        assert not hooks.step(hook)
        state = storage.get_document(kind=DOCUMENT_KIND, document_id="one").body
        assert state["retry_at"] == clock.now + expected
        assert gone.url not in state["failure"]
        clock.now = state["retry_at"]


def test_a_clock_that_is_set_back_does_not_put_the_next_attempt_off(storage: Storage, receiver: Receiver) -> None:
    clock = Clock()
    hook, hooks = hook_to(receiver), Hooks(storage, (), clock=clock)
    hooks.step(hook)
    uids = put(storage)
    receiver.answers = [500]
    assert not hooks.step(hook)
    clock.now -= 24 * 3600
    assert hooks.step(hook)
    assert receiver.uids() == uids


def test_only_the_kinds_that_are_wanted(storage: Storage, receiver: Receiver) -> None:
    hook, hooks = hook_to(receiver, ChangeKind.REMOVED), Hooks(storage, (), clock=Clock())
    hooks.step(hook)
    one = record()
    storage.store(records=[one], on_duplicate=OnDuplicate.REJECT)
    assert hooks.step(hook)
    assert not receiver.got
    storage.remove(scope=one.scope)
    assert hooks.step(hook)
    assert receiver.uids() == [one.instance_uid]


def test_another_process_goes_on_after_the_lease(storage: Storage, receiver: Receiver) -> None:
    clock = Clock()
    hook = hook_to(receiver)

    def dies(_url: str, _body: bytes, _headers: Mapping[str, str]) -> None:
        raise KeyboardInterrupt  # as kill -9: nothing is written afterwards

    first = Hooks(storage, (), post=dies, clock=clock, stopwatch=clock)
    second = Hooks(storage, (), clock=clock, stopwatch=clock)
    first.step(hook)
    uids = put(storage, 2)
    with pytest.raises(KeyboardInterrupt):
        first.step(hook)
    assert not second.step(hook), "the lease of the first still runs"
    clock.now += LEASE_SECONDS + 1
    assert second.step(hook)
    assert receiver.uids() == uids


def test_of_several_at_once_one_delivers(storage: Storage, receiver: Receiver) -> None:
    hook = hook_to(receiver)
    several = [Hooks(storage, [hook], look_every_seconds=0.01) for _ in range(4)]
    Hooks(storage, ()).step(hook)
    uids = put(storage, 250)
    for one in several:
        one.start()
    try:
        while len(receiver.uids()) < len(uids):
            assert receiver.came.wait(20)
            receiver.came.clear()
    finally:
        for one in several:
            one.close()
    assert receiver.uids() == uids


def test_the_document_of_a_hook_does_not_grow(storage: Storage, receiver: Receiver) -> None:
    hook, hooks = hook_to(receiver), Hooks(storage, (), clock=Clock())
    hooks.step(hook)
    for _ in range(FORGET_EVERY):
        put(storage)
        assert hooks.step(hook)
    assert storage.get_document(kind=DOCUMENT_KIND, document_id="one").version > 2 * FORGET_EVERY
    assert len(storage.document_history(kind=DOCUMENT_KIND, document_id="one")) <= FORGET_EVERY


class TestSettings:
    def test_secret_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(f"{SECRET}\n", encoding="utf-8")
        (tmp_path / "site.toml").write_text(
            f'[hooks.one]\nurl = "https://a.example/x"\nsecret_file = "{tmp_path}/secret"\nkinds = ["stored"]\n',
            encoding="utf-8",
        )
        settings = load(tmp_path / "site.toml", environ={})
        found = settings.hooks.named["one"]
        assert (found.url, found.secret, found.kinds) == ("https://a.example/x", SECRET, ("stored",))
        assert SECRET not in str(list(settings.items()))

    @pytest.mark.parametrize(
        ("variables", "words"),
        [
            ({"URL": "https://a.example"}, "secret"),
            ({"SECRET": SECRET}, "url"),
            ({"URL": "ftp://a.example", "SECRET": SECRET}, "http"),
            ({"URL": "https://a.example", "SECRET": "short"}, "16 characters"),
            ({"URL": "https://a.example", "SECRET": SECRET, "KINDS": '["moved"]'}, "stored"),
            ({"URL": "https://a.example", "SECRET": SECRET, "URLS": "x"}, 'did you mean "url"'),
        ],
    )
    def test_what_cannot_be_used_stops_the_start(self, variables: dict[str, str], words: str) -> None:
        environ = {f"DICOMWEB__HOOKS__ONE__{name}": value for name, value in variables.items()}
        with pytest.raises(ConfigError, match=words) as caught:
            load(environ=environ)
        assert "short" not in str(caught.value)
