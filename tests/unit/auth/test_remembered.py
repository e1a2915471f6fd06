"""What a process remembers of logins: for so long, so much, and not of a future that a clock set back has made."""

import pytest

from dicomweb_server.auth import verified
from dicomweb_server.auth.remembered import PasswordKeys, Remembered
from dicomweb_server.auth.verified import Verified


def test_a_value_is_good_for_its_time() -> None:
    kept: Remembered[str, int] = Remembered(seconds=10, most=5)
    kept.put("a", 1, 100.0)
    assert (kept.get("a", 100.0), kept.get("a", 110.0)) == (1, 1)
    assert kept.get("a", 110.1) is None
    assert kept.get("a", 99.9) is None
    kept.forget("a")
    assert kept.get("a", 100.0) is None
    kept.forget("a")


def test_the_oldest_goes_first() -> None:
    kept: Remembered[str, int] = Remembered(seconds=10, most=2)
    for number, key in enumerate("abac"):
        kept.put(key, number, 0.0)
    assert [kept.get(key, 0.0) for key in "abc"] == [2, None, 3]


def test_passwords_are_told_apart_and_differ_between_processes() -> None:
    keys = PasswordKeys()
    assert keys.of("anna", "secret") == keys.of("anna", "secret")
    assert len({keys.of("anna", "secret"), keys.of("annas", "ecret"), PasswordKeys().of("anna", "secret")}) == 3


def test_a_verified_token_is_good_under_the_key_that_verified_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "MAX_REMEMBERED", 2)
    tokens, key = Verified(), object()
    tokens.add("a", key, {"sub": "anna"})
    assert tokens.get("a", key) == {"sub": "anna"}
    assert tokens.get("a", object()) is None
    assert tokens.get("b", key) is None
    tokens.add("b", key, {})
    tokens.add("c", key, {})
    assert tokens.get("a", key) is None
