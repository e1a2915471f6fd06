"""Ids of patients in URLs."""

from pathlib import Path

import pytest

from backends.sqlite import SQLiteStorage
from dicomweb_server.dicom.attributes import patient_digest
from dicomweb_server.fhir.identity import PatientIds


@pytest.fixture
def storage(tmp_path: Path) -> SQLiteStorage:
    storage = SQLiteStorage(str(tmp_path / "index.sqlite"))
    storage.open()
    return storage


def test_an_id_leads_back_to_the_digest_and_tells_nothing(storage: SQLiteStorage) -> None:
    ids = PatientIds(storage)
    for key in ("id\\\\4711", "id\\HOSPITAL\\山田", "study\\1.2.3"):
        found = ids.id_of(key)
        assert len(found) == 32
        assert found.isalnum()
        assert ids.digest_of(found) == patient_digest(key)
        assert patient_digest(key) not in found


def test_ids_stay_the_same_for_whoever_opens_the_archive(storage: SQLiteStorage, tmp_path: Path) -> None:
    found = PatientIds(storage).id_of("id\\\\1")
    assert PatientIds(storage).id_of("id\\\\1") == found
    other = SQLiteStorage(str(tmp_path / "other.sqlite"))
    other.open()
    assert PatientIds(other).id_of("id\\\\1") != found


@pytest.mark.parametrize("text", ["", "a", "4711", "A" * 32, "a" * 31, "é" * 32, "1" * 32, "a" * 64])
def test_what_cannot_be_an_id(storage: SQLiteStorage, text: str) -> None:
    assert PatientIds(storage).digest_of(text) is None
