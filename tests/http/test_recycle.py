"""Deleting puts into the recycle bin, from where studies come back or go for good."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, add_user, bearer, log_in
from tests.samples import instance


@pytest.fixture
def some() -> list[Dataset]:
    """Two instances of one study."""
    study = generate_uid()
    return [instance(study, PatientName="Doe^Jane"), instance(study)]


def study_of(some: list[Dataset]) -> str:
    return str(some[0].StudyInstanceUID)


def removed(archive: Client, some: list[Dataset]) -> str:
    archive.store(*some)
    archive.delete(f"/studies/{study_of(some)}", status=204)
    return study_of(some)


def entries(archive: Client, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = archive.get(f"/bin?{query}").json["entries"]
    return found


def test_deleted_can_be_restored(archive: Client, some: list[Dataset]) -> None:
    study = removed(archive, some)
    archive.get(f"/studies/{study}/metadata", status=404)
    assert archive.search(f"/studies?StudyInstanceUID={study}") == []
    found = entries(archive, f"study_uid={study}")
    assert {entry["instance_uid"] for entry in found} == {ds.SOPInstanceUID for ds in some}
    assert any(entry["attributes"]["00100010"]["Value"][0]["Alphabetic"] == "Doe^Jane" for entry in found)
    figures = archive.get("/statistics").json
    assert (figures["instances"], figures["binned_instances"]) == (0, 2)
    assert figures["binned_bytes"] == sum(entry["size_bytes"] for entry in found)
    answer = archive.post_json("/bin/restore", {"study_uid": study}).json
    assert answer == {"restored": 2, "stored_again": 0, "instances_stored_again": []}
    assert len(archive.get(f"/studies/{study}/metadata").json) == 2
    assert entries(archive) == []
    kinds = [change["kind"] for change in archive.get("/changes").json["changes"]]
    assert kinds == ["stored"] * 2 + ["removed"] * 2 + ["restored"] * 2


def test_what_is_stored_again_is_a_conflict(archive: Client, some: list[Dataset]) -> None:
    study = removed(archive, some)
    archive.store(some[0])
    answer = archive.post_json("/bin/restore", {"study_uid": study}).json
    assert (answer["restored"], answer["stored_again"]) == (1, 1)
    assert answer["instances_stored_again"][0]["instance_uid"] == some[0].SOPInstanceUID
    assert "stored again" in archive.post_json("/bin/restore", {"study_uid": study}, status=409).json["reason"]
    archive.post_json("/bin/restore", {"study_uid": generate_uid()}, status=404)


def test_a_purge_is_for_good(archive: Client, some: list[Dataset]) -> None:
    study = removed(archive, some)
    day = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    assert archive.post_json("/bin/purge", {"before": day}).json == {"purged": 0}
    assert archive.post_json("/bin/purge", {"instance_uid": some[0].SOPInstanceUID}).json == {"purged": 1}
    assert archive.post_json("/bin/purge", {"all": True}).json == {"purged": 1}
    archive.post_json("/bin/restore", {"study_uid": study}, status=404)
    assert entries(archive) == []


def test_pages(archive: Client) -> None:
    study = generate_uid()
    removed(archive, [instance(study) for _ in range(5)])
    seen: list[str] = []
    cursor = ""
    while cursor is not None:
        page = archive.get(f"/bin?limit=2&cursor={cursor}").json
        seen += [entry["instance_uid"] for entry in page["entries"]]
        cursor = page["next"]
    assert len(set(seen)) == len(seen) == 5


def stored_three_times(archive: Client) -> Dataset:
    """An instance with two older versions."""
    ds = instance(PatientName="First^Name")
    for name in ("First^Name", "Second^Name", "Third^Name"):
        ds.PatientName = name
        archive.store(ds)
    return ds


def test_the_version_before_comes_back(make_archive: Archive) -> None:
    archive = make_archive({"stow.on_duplicate": "replace"})
    ds, other = stored_three_times(archive), stored_three_times(archive)

    def name(one: Dataset) -> str:
        (hit,) = archive.search(f"/studies?StudyInstanceUID={one.StudyInstanceUID}")
        return str(hit["00100010"]["Value"][0]["Alphabetic"])

    answer = archive.post_json("/bin/restore", {"series_uid": ds.SeriesInstanceUID, "replaced": True}).json
    assert answer == {"restored": 1}
    assert (name(ds), name(other)) == ("Second^Name", "Third^Name")
    archive.post_json("/bin/restore", {"study_uid": "1.2", "replaced": True}, status=404)
    elsewhere = {"study_uid": other.StudyInstanceUID, "series_uid": ds.SeriesInstanceUID, "replaced": True}
    archive.post_json("/bin/restore", elsewhere, status=404)


def test_older_versions_are_purged(make_archive: Archive) -> None:
    archive = make_archive({"stow.on_duplicate": "replace"})
    ds, other = stored_three_times(archive), stored_three_times(archive)

    def purged(**fields: Any) -> int:
        return int(archive.post_json("/bin/purge", {**fields, "replaced": True}).json["purged"])

    study = {"study_uid": ds.StudyInstanceUID}
    assert purged(**study, before="2001-01-01") == 0
    assert purged(**study) == 2
    assert purged(**study) == 0
    archive.post_json("/bin/restore", {**study, "replaced": True}, status=404)
    assert archive.get("/statistics").json["replaced_instances"] == 2
    assert purged(instance_uid=other.SOPInstanceUID) == 2
    stored_three_times(archive)
    assert purged(all=True) == 2
    archive.post_json("/bin/purge", {"study_uid": "1.2", "replaced": True}, status=404)
    assert archive.get("/statistics").json["instances"] == 3


def test_without_a_bin_deleted_is_gone(make_archive: Archive, some: list[Dataset]) -> None:
    archive = make_archive({"remove.retention_days": 0})
    study = removed(archive, some)
    assert entries(archive) == []
    archive.post_json("/bin/restore", {"study_uid": study}, status=404)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("get", "/bin?study_uid=x", None),
        ("get", "/bin?limit=0", None),
        ("get", "/bin?limit=1001", None),
        ("get", "/bin?before=yesterday", None),
        ("get", "/bin?cursor=x", None),
        ("post", "/bin/restore", {}),
        ("post", "/bin/restore", {"study_uid": "a/b"}),
        ("post", "/bin/restore", {"study": "1.2"}),
        ("post", "/bin/restore", []),
        ("post", "/bin/restore", {"replaced": True}),
        ("post", "/bin/purge", {}),
        ("post", "/bin/purge", {"replaced": True}),
        ("post", "/bin/purge", {"replaced": "perhaps", "all": True}),
        ("post", "/bin/purge", {"all": False}),
        ("post", "/bin/purge", {"before": "2026-13-01"}),
    ],
)
def test_bad_requests(archive: Client, method: str, path: str, body: Any) -> None:
    if method == "get":
        archive.get(path, status=400)
    else:
        archive.post_json(path, body, status=400)


class TestRights:
    def test_who_sees_some_studies_does_not_see_the_bin(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.access": ["role curator: InstitutionName=North"]})
        cora = add_user(archive, "cora", "curator")
        archive.get("/bin", headers=cora, status=403)
        archive.post_json("/bin/restore", {"study_uid": "1.2"}, headers=cora, status=403)
        archive.get("/bin", headers=bearer(log_in(archive)["token"]), status=200)

    def test_who_deletes_restores_but_does_not_purge(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        curator, reader = add_user(archive, "cora", "curator"), add_user(archive, "rita", "reader")
        archive.get("/bin", headers=curator, status=200)
        archive.post_json("/bin/restore", {"study_uid": "1.2"}, headers=curator, status=404)
        archive.post_json("/bin/purge", {"all": True}, headers=curator, status=403)
        archive.get("/bin", headers=reader, status=403)
        archive.get("/bin", status=401)
