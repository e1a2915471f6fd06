"""Blobs on their way to a database or S3: in memory while they are small and few, in files else."""

from backends.staging import ROOM_BYTES, SMALL_BYTES, TemporaryBlob


def in_memory(blob: TemporaryBlob) -> bool:
    return not blob.file._rolled  # type: ignore[attr-defined]


def filled(size: int) -> TemporaryBlob:
    blob = TemporaryBlob()
    blob.file.write(bytes(size))
    blob.complete()
    return blob


def test_a_small_blob_stays_in_memory_and_a_larger_one_does_not() -> None:
    small, large = filled(SMALL_BYTES), filled(SMALL_BYTES + 1)
    assert (in_memory(small), in_memory(large)) == (True, False)
    assert (small.size(), large.size()) == (SMALL_BYTES, SMALL_BYTES + 1)
    assert large.file.fileno() >= 0
    for blob in (small, large):
        blob.discard()


def test_memory_is_bounded_and_given_back() -> None:
    for _ in range(2):
        blobs = [filled(SMALL_BYTES // 2) for _ in range(2 * ROOM_BYTES // SMALL_BYTES + 5)]
        assert sum(SMALL_BYTES // 2 for blob in blobs if in_memory(blob)) in range(
            ROOM_BYTES - SMALL_BYTES, ROOM_BYTES + 1
        )
        assert all(blob.size() == SMALL_BYTES // 2 for blob in blobs)
        for blob in blobs:
            blob.discard()
            blob.discard()


def test_a_blob_that_is_forgotten_gives_its_memory_back() -> None:
    for _ in range(ROOM_BYTES // SMALL_BYTES + 1):
        blob = TemporaryBlob()
        assert in_memory(blob)
        del blob


def test_a_blob_in_memory_is_read_without_a_copy() -> None:
    blob = TemporaryBlob()
    for _ in range(3):
        blob.file.write(bytes(100_000))
    blob.complete()
    blob.file.seek(0)
    first = blob.file.read(SMALL_BYTES)
    blob.file.seek(0)
    assert len(first) == 300_000
    assert blob.file.read(SMALL_BYTES) is first
