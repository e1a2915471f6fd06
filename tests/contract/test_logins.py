"""What logging in keeps in the storage, and the rules that hide studies: alike on every storage."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dicomweb_server.audit.record import AuditRecord
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.auth.access import conditions
from dicomweb_server.auth.failures import FREE_FAILURES, Failures
from dicomweb_server.auth.keys import ApiKeys
from dicomweb_server.auth.sessions import Sessions
from dicomweb_server.auth.users import Users, new_user
from dicomweb_server.dicom.levels import Level
from dicomweb_server.errors import Conflict, NotFound, TooManyRequests, Unauthenticated
from dicomweb_server.plugins import storage_class
from dicomweb_server.services.scoped import ScopedStorage, see_through
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import OnDuplicate, Scope
from dicomweb_server.testing.datasets import record
from tests.services.databases import fresh

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module", params=["sqlite", "mongodb", "couchdb"])
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """One storage for all tests: they use names of their own."""
    kind, folder = str(request.param), tmp_path_factory.mktemp("logins")
    with ExitStack() as stack:
        opened = storage_class(kind).from_settings(settings=_settings(kind, folder, stack))
        opened.open()
        yield opened
        opened.close()


def _settings(kind: str, folder: Path, stack: ExitStack) -> dict[str, object]:
    if kind == "sqlite":
        return {"path": str(folder / "index.sqlite")}
    url, name = stack.enter_context(fresh(kind))
    return {"url": url, "database": name, "wait_seconds": 5}


def test_users(storage: Storage) -> None:
    users = Users(storage)
    assert not users.has_admin()
    anna = users.add(new_user("Anna", PASSWORD, roles=("admin",)))
    users.add(new_user("walt", PASSWORD, roles=("writer",)))
    with pytest.raises(Conflict):
        users.add(anna)
    assert [user.name for user in users.all()] == ["anna", "walt"]
    assert users.has_admin()
    changed = users.change("walt", lambda user: replace(user, disabled=True))
    assert (users.get("WALT"), changed.generation) == (changed, 2)
    users.remove("walt")
    assert users.find("walt") is None
    with pytest.raises(NotFound):
        users.remove("walt")
    users.add(new_user("walt", PASSWORD, roles=("reader",)))


def test_sessions_and_keys(storage: Storage) -> None:
    sessions, keys = Sessions(storage), ApiKeys(storage)
    session, first = sessions.begin("anna", seconds=1000, facts={"generation": 1})
    assert sessions.get(session.session_id).facts == {"generation": 1}
    _, second = sessions.renew(first)
    with pytest.raises(Unauthenticated):
        sessions.renew(first)
    with pytest.raises(Unauthenticated):
        sessions.renew(second)
    key, text = keys.make("script", roles=("writer",), permissions=("store",))
    assert keys.verify(text) == key
    assert key in list(keys.all())
    keys.revoke(key.key_id)
    with pytest.raises(Unauthenticated):
        keys.verify(text)


def test_waits_hold_in_every_process(storage: Storage) -> None:
    one, other = Failures(storage), Failures(storage)
    for _ in range(FREE_FAILURES + 3):
        one.failed("anna", "10.0.0.1")
    for failures in (one, other):
        with pytest.raises(TooManyRequests):
            failures.check("anna", "10.0.0.1")
    other.check("anna", "10.0.0.2")


def test_audit(storage: Storage) -> None:
    trail = AuditTrail(storage)
    for number, action in enumerate(("store", "delete", "delete")):
        trail.note(
            AuditRecord(
                time=f"2026-05-0{number + 1}T10:00:00.000Z",
                action=action,
                user="anna",
                kind="user",
                address="10.0.0.1",
                outcome="success",
                what="test",
            )
        )
    found, _ = trail.find({"action": "delete", "user": "anna"}, since="2026-05-03")
    assert [one.time for _, one in found] == ["2026-05-03T10:00:00.000Z"]
    assert [one.time[:10] for _, one in trail.all({}, until="2026-05-02")] == ["2026-05-01", "2026-05-02"]


def test_rules_hide_studies(storage: Storage) -> None:
    scoped = ScopedStorage(storage)
    north, south = (
        record(PatientID=place, InstitutionName=f"{place} Hospital", StudyDescription="x")
        for place in ("North", "South")
    )
    storage.store(records=[north, south], on_duplicate=OnDuplicate.REJECT)
    see_through(conditions("InstitutionName=North*"))
    try:
        for level in Level:
            hits = scoped.search(query=Query(level=level)).hits
            assert len(hits) == scoped.count(query=Query(level=level)) == 1, level
            assert hits[0].study_uid in (None, north.study_uid)
        scoped.get(scope=north.scope)
        for read in (scoped.get, scoped.version, scoped.instances, scoped.metadata, scoped.remove):
            with pytest.raises(NotFound):
                read(scope=south.scope)
        with pytest.raises(NotFound):
            scoped.instances(scope=Scope(study_uid=south.study_uid))
        assert list(scoped.metadata_of(instance_uids=[north.instance_uid, south.instance_uid])) == [north.instance_uid]
        assert {change.study_uid for change in scoped.changes(after=None, limit=10)} == {north.study_uid}
    finally:
        see_through(())
    assert len(scoped.search(query=Query(level=Level.STUDY)).hits) == 2
