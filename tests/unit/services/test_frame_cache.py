"""The cache of results: made once, kept up to a size, given up oldest first, and never trusted when cut short."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from dicomweb_server.errors import BadPixels
from dicomweb_server.services.frame_cache import ResultCache, cache_key

MIB = 1 << 20


def giving(data: bytes, calls: list[str]) -> Callable[[], bytes]:
    def make() -> bytes:
        calls.append("made")
        return data

    return make


def kept_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_a_result_is_made_once_and_shared_by_processes(tmp_path: Path) -> None:
    calls: list[str] = []
    key = cache_key("frame", "sha", 1)
    for cache in (ResultCache(tmp_path, max_bytes=MIB), ResultCache(tmp_path, max_bytes=MIB)):
        assert cache.bytes_of(key, giving(b"pixels", calls)) == b"pixels"
    assert calls == ["made"]
    assert ResultCache(tmp_path, max_bytes=MIB).bytes_of(cache_key("frame", "sha", 2), lambda: b"other") == b"other"


def test_those_who_want_it_at_once_wait_for_one_making(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=0)
    started, go_on = threading.Event(), threading.Event()
    calls: list[str] = []
    found: list[bytes] = []

    def slow() -> bytes:
        calls.append("made")
        started.set()
        assert go_on.wait(10)
        return b"pixels"

    threads = [threading.Thread(target=lambda: found.append(cache.bytes_of("ab" * 32, slow))) for _ in range(5)]
    threads[0].start()
    assert started.wait(10)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert found == [b"pixels"] * 5
    # Those that came late enough to find nothing under way have made it again: nothing is kept here.
    assert 1 <= len(calls) <= 5


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)

    def fail() -> bytes:
        raise BadPixels("broken")

    with pytest.raises(BadPixels):
        cache.bytes_of("ab" * 32, fail)
    assert cache.bytes_of("ab" * 32, lambda: b"whole") == b"whole"


def test_the_least_recently_used_are_given_up(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)
    keys = [cache_key(number) for number in range(40)]
    for age, key in enumerate(keys):
        cache.bytes_of(key, lambda: bytes(64 * 1024))
        path = tmp_path / key[:1] / key[1:]
        if path.exists():
            os.utime(path, (1_000_000 + age, 1_000_000 + age))
    assert sum(path.stat().st_size for path in kept_files(tmp_path)) <= MIB
    calls: list[str] = []
    cache.bytes_of(keys[-1], giving(b"", calls))
    assert calls == []
    cache.bytes_of(keys[0], giving(b"", calls))
    assert calls == ["made"]


def test_what_is_read_again_is_young_again(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)
    cache.bytes_of("ab" * 32, lambda: b"x")
    (path,) = kept_files(tmp_path)
    os.utime(path, (1_000_000, 1_000_000))
    cache.bytes_of("ab" * 32, lambda: b"x")
    assert path.stat().st_mtime > 1_000_000


def test_a_file_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)
    cache.bytes_of("ab" * 32, lambda: bytes(1000))
    (path,) = kept_files(tmp_path)
    for size in (500, 10, 0):
        os.truncate(path, size)
        assert cache.bytes_of("ab" * 32, lambda: bytes(1000)) == bytes(1000)


@pytest.mark.parametrize("max_bytes", [0, MIB, 1000], ids=["off", "kept", "too-large-to-keep"])
def test_large_results_are_files(tmp_path: Path, max_bytes: int) -> None:
    cache = ResultCache(tmp_path, max_bytes=max_bytes)
    calls: list[str] = []

    def write(out: BinaryIO) -> None:
        calls.append("made")
        out.write(b"0123456789" * 100)

    for _ in range(2):
        payload = cache.file_of("ab" * 32, write)
        assert payload.size_bytes == 1000
        assert b"".join(payload.chunks(998, 2)) == b"89"
        assert b"".join(payload.whole()) == b"0123456789" * 100
        opened = payload.open_file()
        assert opened is not None
        file, start = opened
        with file:
            file.seek(start + 5)
            assert file.read(3) == b"567"
    assert len(calls) == (1 if max_bytes == MIB else 2)
    assert len(kept_files(tmp_path)) == (1 if max_bytes == MIB else 0)


def test_a_file_in_use_outlives_its_place_in_the_cache(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)

    def write(out: BinaryIO) -> None:
        out.write(b"whole")

    payload = cache.file_of("ab" * 32, write)
    (path,) = kept_files(tmp_path)
    path.unlink()
    assert b"".join(payload.whole()) == b"whole"


def test_a_failed_file_leaves_nothing(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=MIB)

    def fail(out: BinaryIO) -> None:
        out.write(b"half")
        raise BadPixels("broken")

    with pytest.raises(BadPixels):
        cache.file_of("ab" * 32, fail)
    assert kept_files(tmp_path) == []


def test_a_directory_that_cannot_be_written_costs_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert ResultCache(tmp_path / "file", max_bytes=MIB).bytes_of("ab" * 32, lambda: b"pixels") == b"pixels"


def test_a_directory_that_was_removed_is_made_again(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path / "cache", max_bytes=MIB)
    cache.bytes_of("ab" * 32, lambda: b"pixels")
    shutil.rmtree(tmp_path / "cache")
    calls: list[str] = []
    for _ in range(4):
        assert cache.bytes_of("ab" * 32, giving(b"pixels", calls)) == b"pixels"
    assert len(calls) == 1
    shutil.rmtree(tmp_path / "cache")
    assert b"".join(cache.file_of("cd" * 32, lambda out: None).whole()) == b""
