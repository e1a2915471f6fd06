"""MongoDB and CouchDB by TLS, where both sides show certificates: as the settings say, and refused otherwise. A proxy
in front of the servers of the other tests speaks TLS for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dicomweb_server import plugins
from dicomweb_server.errors import ConfigError, StorageUnavailable
from dicomweb_server.storage.base import Storage
from dicomweb_server.testing.blob_suite import staged
from dicomweb_server.testing.datasets import record
from dicomweb_server.testing.steps import put, study_hit
from tests.certificates import make_bundle, make_certificate
from tests.services.databases import fresh
from tests.services.tls import TLSProxy


@dataclass(frozen=True)
class Place:
    """A backend, the URL of its server by TLS, a database in it, and a folder of certificates: that of the server, of a
    client that it knows, and of one that it does not."""

    backend: str
    url: str
    database: str
    certificates: Path

    def settings(self, *, trusted: str = "server.crt", own: str = "") -> dict[str, object]:
        """With certificates by the names of their files."""
        files = {"tls_ca_file": trusted, "tls_cert_file": own}
        paths = {key: str(self.certificates / name) for key, name in files.items() if name}
        soon = {"server_selection_timeout_seconds": 0.5} if self.backend == "mongodb" else {}
        return {"url": self.url, "database": self.database, "wait_seconds": 0, **soon, **paths}

    def open(self, **settings: object) -> Storage:
        """Its storage; whoever calls this closes it."""
        storage = plugins.storage_class(self.backend).from_settings(settings=settings)
        storage.open()
        return storage


@pytest.fixture(scope="module", params=["mongodb", "couchdb"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    backend: str = request.param
    folder = tmp_path_factory.mktemp(backend)
    certificate, key = make_certificate(folder)
    for name in ("client", "stranger"):
        make_bundle(folder, name)
    with fresh(backend) as (plain, database):
        parts = urlsplit(plain)
        with TLSProxy(parts.port or 0, certificate=certificate, key=key, trusted=folder / "client.crt") as proxy:
            login = f"{parts.netloc.rpartition('@')[0]}@" if parts.username else ""
            scheme = "https" if backend == "couchdb" else "mongodb"
            url = f"{scheme}://{login}127.0.0.1:{proxy.port}{parts.path}?{parts.query}".rstrip("?")
            yield Place(backend, url, database, folder)


def test_records_and_files_go_by_tls(place: Place) -> None:
    settings = place.settings(own="client.pem")
    storage = place.open(**settings)
    one = record()
    put(storage, one)
    assert study_hit(storage, one.study_uid).number_of_instances == 1
    assert storage.check().ready
    storage.close()
    blobs = plugins.blob_store_class(place.backend).from_settings(settings=settings)
    blobs.open()
    (key,) = blobs.keep(staged=[staged(blobs, b"file")])
    assert blobs.read(key=key, start=0, length=4) == b"file"
    blobs.close()


@pytest.mark.parametrize(
    "files",
    [
        {"own": "client.pem", "trusted": ""},
        {"own": "client.pem", "trusted": "stranger.crt"},
        {"own": "stranger.pem"},
        {"own": ""},
    ],
    ids=["a server that nobody vouches for", "another authority", "a client it does not know", "no certificate"],
)
def test_without_the_right_certificates_there_is_no_connection(place: Place, files: dict[str, str]) -> None:
    with pytest.raises(StorageUnavailable) as refused:
        place.open(**place.settings(**files))
    assert "test-password" not in str(refused.value)


@pytest.mark.parametrize("own", ["missing.pem", "client.crt"])
def test_files_that_cannot_be_used_are_told(place: Place, own: str) -> None:
    with pytest.raises(ConfigError, match="TLS files"):
        place.open(**place.settings(own=own))
