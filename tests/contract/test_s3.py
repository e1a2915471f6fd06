"""The S3 blob store passes the contract suite on a real S3 server; what only it has is tested here."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("obstore", reason="pip install 'dicomweb-server[s3]'")

from backends.s3 import S3BlobStore
from dicomweb_server.errors import ConfigError, StorageUnavailable
from dicomweb_server.storage.base import BlobStore
from dicomweb_server.testing.blob_suite import BlobSuite, kept, staged
from tests.services import s3
from tests.services.databases import missing


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3Server]:
    try:
        with s3.running(tmp_path_factory.mktemp("s3")) as running:
            yield running
    except s3.Unavailable as exc:
        missing("s3", exc)


def opened(server: s3.S3Server, **settings: object) -> S3BlobStore:
    blobs = S3BlobStore.from_settings(settings={**server.settings, **settings})
    blobs.open()
    return blobs


class TestS3(BlobSuite):
    @pytest.fixture
    def blobs(self, server: s3.S3Server) -> Iterator[BlobStore]:
        server.empty()
        self.server = server
        blobs = opened(server)
        yield blobs
        blobs.close()

    def reopen(self, blobs: BlobStore) -> BlobStore:
        blobs.close()
        return opened(self.server)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bucket": ""},
        {"bucket": "a/b"},
        {"bucket": "archive", "prefix": "a/../b"},
        {"bucket": "archive", "prefix": 5},
        {"bucket": "archive", "endpoint": "127.0.0.1:9000"},
        {"bucket": "archive", "endpoint": "http://127.0.0.1:9000"},
        {"bucket": "archive", "endpoint": "https://user:pass@host", "allow_http": True},
        {"bucket": "archive", "access_key_id": "only"},
        {"bucket": "archive", "allow_http": "yes"},
        {"bucket": "archive", "wait_seconds": -1},
        {"bucket": "archive", "buket": "x"},
    ],
)
def test_unusable_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        S3BlobStore.from_settings(settings=settings)


def test_a_prefix_keeps_archives_apart(server: s3.S3Server) -> None:
    server.empty()
    one, other = opened(server, prefix="one"), opened(server, prefix="deep/other")
    key = kept(one, b"abc")
    assert list(one.keys(older_than_seconds=0)) == [key]
    assert list(other.keys(older_than_seconds=0)) == []
    other.delete(keys=[key])
    assert one.size(key=key) == 3
    one.close()
    other.close()


@pytest.mark.parametrize("wrong", [{"access_key_id": "nobody"}, {"secret_access_key": "wrong"}, {"bucket": "missing"}])
def test_wrong_keys_and_buckets_are_told_at_the_start(server: s3.S3Server, wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(server, wait_seconds=0, **wrong)
    assert s3.SECRET not in str(caught.value)
    assert str(server.port) not in str(caught.value)


def test_a_server_that_is_away_is_unavailable_and_comes_back(tmp_path: Path, server: s3.S3Server) -> None:
    with s3.running(tmp_path) as own:
        blobs = opened(own)
        key = kept(blobs, b"abc")
        own.kill()
        waiting = staged(blobs, b"later")
        assert not blobs.check().ready
        started = time.monotonic()
        for call in (lambda: blobs.size(key=key), lambda: blobs.keep(staged=[waiting])):
            with pytest.raises(StorageUnavailable):
                call()
        assert time.monotonic() - started < 30
        own.start()
        assert blobs.check().ready
        assert blobs.read(key=key, start=0, length=3) == b"abc"
        (late,) = blobs.keep(staged=[waiting])
        assert blobs.size(key=late) == 5
        blobs.close()


def test_a_large_blob_goes_up_in_parts_and_comes_back(server: s3.S3Server) -> None:
    blobs = opened(server)
    data = os.urandom(1 << 20) * 40
    key = kept(blobs, data)
    assert blobs.size(key=key) == len(data)
    assert b"".join(blobs.stream(key=key)) == data
    blobs.close()
