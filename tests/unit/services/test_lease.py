"""Of all processes one at a time has a lease, for as long as it writes; who dies is followed by another."""

import pytest

from dicomweb_server.errors import NotFound, VersionConflict
from dicomweb_server.services.lease import FORGET_EVERY, LEASE_SECONDS, LeasedState
from dicomweb_server.storage.base import Storage


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def leased(storage: Storage, clock: Clock, *, by_day: Clock | None = None) -> LeasedState:
    return LeasedState(storage, kind="work", name="one", stopwatch=clock, clock=by_day)


def test_whoever_saw_no_write_for_the_time_of_a_lease_takes_over(storage: Storage) -> None:
    clock = Clock()
    holder, other = leased(storage, clock), leased(storage, clock)
    held = holder.take(holder.read(dict))
    assert not other.is_free(other.read(dict))
    clock.now += LEASE_SECONDS - 1
    assert not other.is_free(other.read(dict))
    held = holder.prolong(held)  # its half is over: it writes
    clock.now += LEASE_SECONDS - 1
    assert not other.is_free(other.read(dict)), "what it saw was new then"
    clock.now += LEASE_SECONDS
    document = other.read(dict)
    assert other.is_free(document)
    other.take(document)
    with pytest.raises(VersionConflict):
        holder.give(held, {})


def test_its_own_lease_is_free_and_prolonged_only_when_half_of_it_is_over(storage: Storage) -> None:
    clock = Clock()
    holder = leased(storage, clock)
    held = holder.take(holder.read(dict))
    assert holder.is_free(held)
    clock.now += LEASE_SECONDS / 2 - 1
    assert holder.prolong(held) is held
    clock.now += 1
    assert holder.prolong(held).version == held.version + 1


def test_one_that_is_given_up_is_free_at_once_and_keeps_where_the_work_stands(storage: Storage) -> None:
    clock = Clock()
    holder, other = leased(storage, clock), leased(storage, clock)
    holder.give(holder.take(holder.read(lambda: {"done": 0})), {"done": 7})
    document = other.read(dict)
    assert other.is_free(document)
    assert document.body["done"] == 7


@pytest.mark.parametrize(
    ("later", "free"),
    [(LEASE_SECONDS - 1, False), (LEASE_SECONDS, True), (-1.0, True)],
    ids=["in its time", "its time is over", "the clock was set back"],
)
def test_who_looks_once_goes_by_the_time_of_day(storage: Storage, later: float, free: bool) -> None:
    day = Clock()
    holder = leased(storage, Clock(), by_day=day)
    holder.take(holder.read(dict))
    day.now += later
    other = leased(storage, Clock(), by_day=day)
    assert other.is_free(other.read(dict)) is free


def test_old_versions_do_not_pile_up(storage: Storage) -> None:
    clock = Clock()
    holder = leased(storage, clock)
    for _ in range(FORGET_EVERY):
        holder.give(holder.take(holder.read(dict)), {})
    assert holder.read(dict).version > FORGET_EVERY
    with pytest.raises(NotFound):
        storage.get_document(kind="work", document_id="one", version=1)
