"""The stores of blobs pass the contract suite; what only files have is tested here."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.files import FileBlobStore
from dicomweb_server.errors import ConfigError, StorageFull, StorageUnavailable
from dicomweb_server.storage.base import BlobStore
from dicomweb_server.testing.blob_suite import BlobSuite, kept, staged


def opened(directory: Path) -> FileBlobStore:
    blobs = FileBlobStore.from_settings(settings={"directory": str(directory)})
    blobs.open()
    return blobs


class TestFiles(BlobSuite):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Iterator[BlobStore]:
        self.directory = tmp_path / "files"
        blobs = opened(self.directory)
        yield blobs
        blobs.close()

    def reopen(self, blobs: BlobStore) -> BlobStore:
        blobs.close()
        return opened(self.directory)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileBlobStore]:
    blobs = opened(tmp_path)
    yield blobs
    blobs.close()


def all_files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("settings", [{}, {"directory": ""}, {"directory": 5}, {"directory": "x", "dir": "y"}])
def test_unusable_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FileBlobStore.from_settings(settings=settings)


def test_settings_touch_no_disk(tmp_path: Path) -> None:
    FileBlobStore.from_settings(settings={"directory": str(tmp_path / "new")})
    assert not (tmp_path / "new").exists()


def test_only_the_owner_reads(files: FileBlobStore, tmp_path: Path) -> None:
    kept(files, b"abc")
    blob = staged(files, b"abc")
    assert {stat.S_IMODE(path.stat().st_mode) for path in all_files(tmp_path)} == {0o600}
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
    blob.discard()


def test_old_staged_files_are_swept_and_young_ones_are_not(files: FileBlobStore, tmp_path: Path) -> None:
    old, young = staged(files, b"old"), staged(files, b"young")
    key = kept(files, b"kept")
    for path in (old.path, os.path.join(tmp_path, "blobs", key)):  # type: ignore[attr-defined]
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    again = opened(tmp_path)
    assert [path.name for path in (tmp_path / "staging").iterdir()] == [os.path.basename(young.path)]  # type: ignore[attr-defined]
    assert again.size(key=key) == 4
    old.discard()
    young.discard()
    again.close()


def test_a_clock_that_is_set_back_is_harmless(files: FileBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [time.struct_time((year, 1, 1, 0, 0, 0, 0, 1, 0)) for year in (1999, 1999, 2040)]
    monkeypatch.setattr(time, "gmtime", clock.pop)
    first = kept(files, b"1")
    second, third = kept(files, b"2"), kept(files, b"3")
    assert [files.read(key=key, start=0, length=1) for key in (first, second, third)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageUnavailable)]
)
@pytest.mark.parametrize("call", ["fdatasync", "rename", "fsync"])
def test_a_failing_disk_keeps_nothing(
    files: FileBlobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    error: type[Exception],
) -> None:
    kept(files, b"makes the directory")
    blobs = [staged(files, b"one"), staged(files, b"two")]
    whole, calls = getattr(os, call), []

    def failing(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == (2 if call != "fsync" else 1):
            raise OSError(code, "injected")
        return whole(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(error) as caught:
        files.keep(staged=blobs)
    assert str(tmp_path) not in str(caught.value)
    assert len(list(files.keys(older_than_seconds=0))) == 1
    for blob in blobs:
        blob.discard()
    assert len(all_files(tmp_path)) == 1


def test_a_link_in_place_of_a_blob_is_not_followed(files: FileBlobStore, tmp_path: Path) -> None:
    key = kept(files, b"abc")
    place, secret = tmp_path / "blobs" / key, tmp_path / "secret"
    secret.write_bytes(b"secret")
    place.unlink()
    place.symlink_to(secret)
    with pytest.raises(StorageUnavailable):
        files.read(key=key, start=0, length=1)


def test_a_directory_that_cannot_be_is_a_mistake_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be made: Not a directory"):
        opened(tmp_path / "file" / "below")
