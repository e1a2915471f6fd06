"""The suite of `BlobStore`. A backend subclasses `BlobSuite` and gives it one fixture, as in `storage_suite`."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from dicomweb_server.errors import StorageCorrupt, StorageError, StorageUnavailable
from dicomweb_server.storage.base import BlobStore, StagedBlob

MIB = 1 << 20


def staged(blobs: BlobStore, data: bytes) -> StagedBlob:
    """A staged blob with these bytes."""
    blob = blobs.stage()
    blob.file.write(data)
    return blob


def kept(blobs: BlobStore, data: bytes) -> str:
    """The key of a kept blob with these bytes."""
    (key,) = blobs.keep(staged=[staged(blobs, data)])
    return key


class BlobSuite:
    """Everything that `BlobStore` promises."""

    @pytest.fixture
    def blobs(self) -> Iterator[BlobStore]:
        """An empty, opened store."""
        raise NotImplementedError

    def reopen(self, blobs: BlobStore) -> BlobStore:
        """Close the store and open the same data again."""
        raise NotImplementedError

    def test_bytes_come_back(self, blobs: BlobStore) -> None:
        data = os.urandom(3 * MIB + 17)
        key = kept(blobs, data)
        assert blobs.size(key=key) == len(data)
        assert blobs.read(key=key, start=0, length=len(data)) == data
        assert blobs.read(key=key, start=5, length=7) == data[5:12]
        assert blobs.read(key=key, start=len(data), length=0) == b""
        chunks = list(blobs.stream(key=key))
        assert b"".join(chunks) == data
        assert max(map(len, chunks)) <= MIB
        assert b"".join(blobs.stream(key=key, start=MIB - 1, length=MIB + 2)) == data[MIB - 1 : 2 * MIB + 1]
        assert list(blobs.stream(key=key, start=3, length=0)) == []

    def test_a_local_file_is_at_its_start(self, blobs: BlobStore) -> None:
        file = blobs.open_file(key=kept(blobs, b"abc"))
        if file is not None:
            with file:
                assert (file.tell(), os.fstat(file.fileno()).st_size, file.read()) == (0, 3, b"abc")

    def test_an_empty_blob(self, blobs: BlobStore) -> None:
        key = kept(blobs, b"")
        assert (blobs.size(key=key), list(blobs.stream(key=key))) == (0, [])

    def test_a_staged_blob_can_be_read_back_and_is_seen_by_nobody(self, blobs: BlobStore) -> None:
        blob = staged(blobs, b"0123456789")
        blob.file.seek(3)
        assert blob.file.read(4) == b"3456"
        assert blob.file.fileno() >= 0
        assert list(blobs.keys(older_than_seconds=0)) == []
        blob.discard()
        blob.discard()
        assert list(blobs.keys(older_than_seconds=0)) == []

    def test_complete_is_no_end(self, blobs: BlobStore) -> None:
        blob = staged(blobs, b"abc")
        blob.complete()
        blob.file.write(b"d")
        blob.complete()
        (key,) = blobs.keep(staged=[blob])
        assert blobs.read(key=key, start=0, length=4) == b"abcd"

    def test_kept_together_in_order(self, blobs: BlobStore) -> None:
        several = [staged(blobs, bytes([number]) * 9) for number in range(20)]
        keys = blobs.keep(staged=several)
        assert [blobs.read(key=key, start=0, length=9)[0] for key in keys] == list(range(20))
        assert len(set(keys)) == 20
        assert blobs.keep(staged=[]) == []

    def test_what_is_not_read_soon_is_read_all_the_same(self, blobs: BlobStore) -> None:
        several = [staged(blobs, bytes([number]) * 70_000) for number in range(40)]
        for blob in several:
            blob.read_soon = False
        keys = blobs.keep(staged=several)
        assert [blobs.read(key=key, start=69_990, length=10) for key in keys] == [bytes([n]) * 10 for n in range(40)]

    def test_what_was_kept_cannot_be_given_up(self, blobs: BlobStore) -> None:
        blob = staged(blobs, b"abc")
        (key,) = blobs.keep(staged=[blob])
        blob.discard()
        assert blobs.read(key=key, start=0, length=3) == b"abc"

    def test_all_or_none_are_kept(self, blobs: BlobStore) -> None:
        good, bad = staged(blobs, b"good"), staged(blobs, b"bad")
        bad.discard()
        with pytest.raises(StorageError):
            blobs.keep(staged=[good, bad])
        assert list(blobs.keys(older_than_seconds=0)) == []
        assert len(blobs.keep(staged=[good])) == 1

    def test_the_same_bytes_get_another_key(self, blobs: BlobStore) -> None:
        first, second = kept(blobs, b"abc"), kept(blobs, b"abc")
        assert first != second
        blobs.delete(keys=[first])
        assert blobs.size(key=second) == 3

    def test_delete(self, blobs: BlobStore) -> None:
        key, other = kept(blobs, b"abc"), kept(blobs, b"other")
        blobs.delete(keys=[key, key, "unknown", "../../etc/passwd", ""])
        assert list(blobs.keys(older_than_seconds=0)) == [other]

    @pytest.mark.parametrize(
        "call",
        [
            lambda blobs, key: blobs.read(key=key, start=0, length=1),
            lambda blobs, key: blobs.stream(key=key),
            lambda blobs, key: blobs.size(key=key),
        ],
    )
    def test_a_missing_blob_is_corrupt_on_the_call(
        self, blobs: BlobStore, call: Callable[[BlobStore, str], Any]
    ) -> None:
        key = kept(blobs, b"abc")
        blobs.delete(keys=[key])
        for wrong in (key, "unknown", "../x", "/etc/passwd", "", "a\0b", key + "/..", f"{key}\n"):
            with pytest.raises(StorageCorrupt):
                call(blobs, wrong)

    def test_a_blob_that_is_too_short_is_corrupt(self, blobs: BlobStore) -> None:
        key = kept(blobs, b"abc")
        with pytest.raises(StorageCorrupt):
            blobs.read(key=key, start=1, length=3)
        with pytest.raises(StorageCorrupt):
            list(blobs.stream(key=key, start=0, length=4))

    def test_a_stream_may_be_left_or_closed_early(self, blobs: BlobStore) -> None:
        key = kept(blobs, bytes(2 * MIB))
        stream = blobs.stream(key=key)
        next(stream)
        getattr(stream, "close", lambda: None)()
        blobs.stream(key=key)
        assert sum(map(len, blobs.stream(key=key))) == 2 * MIB

    def test_a_stream_outlives_the_removal_or_fails_as_corrupt(self, blobs: BlobStore) -> None:
        key = kept(blobs, bytes(3 * MIB))
        stream = blobs.stream(key=key)
        next(stream)
        blobs.delete(keys=[key])
        with suppress(StorageCorrupt):
            assert sum(map(len, stream)) == 2 * MIB

    def test_keys_are_told_by_age(self, blobs: BlobStore) -> None:
        keys = {kept(blobs, b"1"), kept(blobs, b"2")}
        assert set(blobs.keys(older_than_seconds=0)) == keys
        assert list(blobs.keys(older_than_seconds=3600)) == []

    def test_keys_are_safe_in_urls_and_names(self, blobs: BlobStore) -> None:
        key = kept(blobs, b"1")
        assert key
        assert not key.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/")
        assert ".." not in key

    def test_reopening_keeps_everything(self, blobs: BlobStore) -> None:
        key = kept(blobs, b"abc")
        again = self.reopen(blobs)
        assert again.read(key=key, start=0, length=3) == b"abc"
        again.close()

    def test_check_and_close(self, blobs: BlobStore) -> None:
        key = kept(blobs, b"abc")
        assert blobs.check().ready
        free = blobs.free_bytes()
        assert free is None or free > 0
        blobs.close()
        blobs.close()
        assert not blobs.check().ready
        for call in (
            blobs.stage,
            lambda: blobs.keep(staged=[]),
            lambda: blobs.read(key=key, start=0, length=1),
            lambda: blobs.stream(key=key),
            lambda: blobs.open_file(key=key),
            lambda: blobs.size(key=key),
            lambda: blobs.delete(keys=[key]),
            lambda: list(blobs.keys(older_than_seconds=0)),
        ):
            with pytest.raises(StorageUnavailable):
                call()

    def test_many_threads(self, blobs: BlobStore) -> None:
        def work(number: int) -> bool:
            data = bytes([number]) * 1000
            key = kept(blobs, data)
            return blobs.read(key=key, start=0, length=1000) == data

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(64)))
        assert len(list(blobs.keys(older_than_seconds=0))) == 64
