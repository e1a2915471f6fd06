"""What `ScopedStorage` passes on: every method of the contract, and none to who does not see the study unasked."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomweb_server.app import open_parts
from dicomweb_server.auth.access import conditions
from dicomweb_server.errors import BadRequest, Forbidden, NotFound
from dicomweb_server.services.scoped import ScopedStorage, see_through
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import OnDuplicate, Scope
from dicomweb_server.testing.datasets import record

# Every method of the contract, and why who sees some studies only gets nothing of the others by it. A new method has to
# be put here: whoever does has thought about it.
LIFE_CYCLE = {"from_settings", "open", "close", "schema", "check"}
ASKS_FOR_THE_STUDY = {"get", "instances", "metadata", "version", "remove", "usage"}
LEAVES_OUT = {"metadata_of", "search", "count", "changes", "replaced", "restore", "store"}
FOR_WHO_SEES_ALL = {"binned", "restore_binned", "purge_binned", "purge_replaced", "dump"}
HIDES_DOCUMENTS_OF_FHIR = {"get_document", "documents_of", "document_history", "find_documents", "purge_documents"}
# Their callers have read the document before, and name its version.
WRITES_DOCUMENTS = {"put_document", "delete_document", "write_documents", "forget_versions", "transacts"}
# No route reaches these: commands, and the threads that clean up, have the storage itself.
OF_THE_HOUSE = {
    "is_exact",
    "recompute",
    "released",
    "confirm_released",
    "known_blobs",
    "stored_bytes",
    "newest_change",
    "load",
    "loaded",
}
ALL = (
    LIFE_CYCLE,
    ASKS_FOR_THE_STUDY,
    LEAVES_OUT,
    FOR_WHO_SEES_ALL,
    HIDES_DOCUMENTS_OF_FHIR,
    WRITES_DOCUMENTS,
    OF_THE_HOUSE,
)


def contract() -> set[str]:
    """The public methods and properties of the contract."""
    return {name for name in vars(Storage) if not name.startswith("_")}


def test_every_method_of_the_contract_is_thought_of() -> None:
    listed = [name for names in ALL for name in names]
    assert sorted(listed) == sorted(contract())


def test_every_method_is_passed_on_with_all_it_takes() -> None:
    """Also those that have an answer in the contract: it would be given instead of that of the storage."""
    for name in contract():
        own = vars(ScopedStorage).get(name)
        assert own is not None, f"{name} is not passed on"
        theirs = vars(Storage)[name]
        if inspect.isfunction(theirs):
            assert list(inspect.signature(own).parameters) == list(inspect.signature(theirs).parameters), name


NORTH = record(InstitutionName="North", PatientID="N1")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "restore_binned": {"entries": ["1"]},
    "purge_binned": {"scope": NORTH.scope, "limit": 1},
    "binned": {"scope": NORTH.scope},
    "purge_replaced": {"scope": NORTH.scope, "limit": 1},
    "dump": {},
}


@pytest.fixture
def scoped(tmp_path: Path) -> Iterator[ScopedStorage]:
    """One with a study of the North; who asks sees the South."""
    storage, blobs = open_parts(load(overrides={"storage.directory": str(tmp_path / "data")}, environ={}))
    storage.store(records=[NORTH], on_duplicate=OnDuplicate.REJECT)
    storage.put_document(kind="fhir-Organization", document_id="o", body={"name": "North"}, keys={})
    see_through(conditions("InstitutionName=South"))
    yield ScopedStorage(storage)
    see_through(())
    storage.close()
    blobs.close()


@pytest.mark.parametrize("name", sorted(ASKS_FOR_THE_STUDY))
def test_the_study_is_not_there(scoped: ScopedStorage, name: str) -> None:
    for scope in (NORTH.scope, Scope(study_uid=NORTH.study_uid), Scope()):
        with pytest.raises(NotFound):
            getattr(scoped, name)(scope=scope)


@pytest.mark.parametrize("name", sorted(FOR_WHO_SEES_ALL))
def test_what_is_for_who_sees_all(scoped: ScopedStorage, name: str) -> None:
    with pytest.raises((Forbidden, BadRequest)):
        getattr(scoped, name)(**ARGUMENTS[name])


def test_documents_of_fhir_are_not_there(scoped: ScopedStorage) -> None:
    kind, name = "fhir-Organization", "o"
    with pytest.raises(NotFound):
        scoped.get_document(kind=kind, document_id=name)
    assert scoped.documents_of(names=[(kind, name)]) == {}
    assert list(scoped.document_history(kind=kind, document_id=name)) == []
    assert list(scoped.find_documents(kind=kind).documents) == []
    assert scoped.purge_documents(kind=kind, terms=(), limit=9) == 0
