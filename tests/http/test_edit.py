"""Editing over HTTP: new versions with what was there kept, and the old ones to come back."""

import io
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, add_user, bearer, log_in
from tests.live import until
from tests.samples import instance, part10, url

REASON = "wrong patient chosen at the console"


def body(reason: str = REASON, **attributes: Any) -> dict[str, Any]:
    return {"reason": reason, "attributes": attributes}


def read(archive: Client, ds: Dataset) -> Dataset:
    answer = archive.get(url(ds), headers={"Accept": "application/dicom"})
    return pydicom.dcmread(io.BytesIO(answer.body))


@pytest.fixture
def study(archive: Client) -> list[Dataset]:
    """Two series of one study, of which a second one is there."""
    uid, series = generate_uid(), generate_uid()
    some = [instance(uid, series), instance(uid, series), instance(uid)]
    archive.store(*some, instance(PatientID="OTHER"))
    return some


def test_a_study(archive: Client, study: list[Dataset]) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}"
    edit = body(PatientName="Müller^Anna", PatientID={"vr": "LO", "Value": ["P2"]}, AccessionNumber=None)
    before = archive.get(url(study[0]), headers={"Accept": "application/dicom"}).headers["ETag"]
    assert archive.patch_json(path, {**edit, "dry_run": True}).json["edited"] == 3
    assert archive.search("/studies?PatientID=P2") == []
    answer = archive.patch_json(path, edit)
    assert (answer.json["edited"], answer.json["unchanged"], answer.json["failed"]) == (3, 0, 0)
    for ds in study:
        new = read(archive, ds)
        assert (new.PatientName, new.PatientID, new.AccessionNumber) == ("Müller^Anna", "P2", "")
        assert new.PixelData == ds.PixelData
        assert new.SOPInstanceUID == ds.SOPInstanceUID
        (kept,) = new.OriginalAttributesSequence
        (old,) = kept.ModifiedAttributesSequence
        assert (old.PatientName, old.PatientID, old.AccessionNumber) == ("Doe^Jane", "P1", "A1")
        assert kept.ReasonForTheAttributeModification == "CORRECT"
    (found,) = archive.search("/studies?PatientID=P2")
    assert found["0020000D"]["Value"] == [study[0].StudyInstanceUID]
    assert archive.search("/patients?PatientID=P1") == []
    assert archive.get(url(study[0]), headers={"Accept": "application/dicom"}).headers["ETag"] != before
    kinds = [change["kind"] for change in archive.get("/changes").json["changes"]]
    assert kinds == ["stored"] * 4 + ["replaced"] * 3
    again = archive.patch_json(path, edit).json
    assert (again["edited"], again["unchanged"]) == (0, 3)
    (done,) = archive.get(path + "/edits").json["edits"]
    assert (done["reason"], done["edited"], done["state"]) == (REASON, 3, "done")
    assert "Anna" not in str(done)


def test_a_series(archive: Client, study: list[Dataset]) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}/series/{study[0].SeriesInstanceUID}"
    assert archive.patch_json(path, body(SeriesDescription="Thorax")).json["edited"] == 2
    assert read(archive, study[1]).SeriesDescription == "Thorax"
    assert "SeriesDescription" not in read(archive, study[2])
    refused = archive.patch_json(path, body(PatientName="X"), status=400)
    assert "edit the study" in refused.json["reason"]


@pytest.mark.parametrize("wrap", [lambda data_set: data_set, lambda data_set: [data_set]])
def test_a_data_set_alone_has_its_reason_in_the_query(archive: Client, study: list[Dataset], wrap: Any) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}"
    data_set = wrap({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Joan"}]}})
    json = {"Content-Type": "application/dicom+json"}
    assert "reason" in archive.patch_json(path, data_set, headers=json, status=400).json["reason"]
    assert archive.patch_json(f"{path}?reason=misspelt&dry_run=true", data_set, headers=json).json["dry_run"] is True
    assert archive.patch_json(f"{path}?reason=misspelt&code=COERCE", data_set, headers=json).json["edited"] == 3
    new = read(archive, study[0])
    assert new.PatientName == "Doe^Joan"
    assert new.OriginalAttributesSequence[0].ReasonForTheAttributeModification == "COERCE"
    assert archive.get(path + "/edits").json["edits"][0]["reason"] == "misspelt"


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (body("", PatientID="P2"), "reason"),
        (body("x" * 1025, PatientID="P2"), "reason"),
        (body("a\x00b reason", PatientID="P2"), "reason"),
        ({"attributes": {"PatientID": "P2"}}, "reason"),
        ({"reason": REASON}, "attributes"),
        (body(), "accepts"),
        (body(SOPInstanceUID="1.2"), "accepts"),
        (body(StudyInstanceUID="1.2"), "accepts"),
        (body(SOPClassUID="1.2"), "accepts"),
        (body(Rows=3), "accepts"),
        (body(TransferSyntaxUID="1.2.840.10008.1.2"), "accepts"),
        (body(SeriesDescription="X"), "edit the series"),
        (body(StudyDate="20241340"), "(0008,0020)"),
        (body(PatientID="x" * 65), "(0010,0020)"),
        ({**body(PatientID="P2"), "code": "BECAUSE"}, "CORRECT"),
        ({**body(PatientID="P2"), "dry_run": 1}, "dry_run"),
        ({**body(PatientID="P2"), "more": 1}, "more"),
        ([], "JSON object"),
    ],
)
def test_what_is_refused(archive: Client, study: list[Dataset], payload: Any, told: str) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}"
    answer = archive.patch_json(path, payload, status=400)
    assert told in answer.json["reason"]
    assert "OriginalAttributesSequence" not in read(archive, study[0])


def test_other_refusals(archive: Client, study: list[Dataset]) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}"
    archive.patch_json(f"/studies/{generate_uid()}", body(PatientID="P2"), status=404)
    archive.patch_json(f"{path}/series/{generate_uid()}", body(SeriesNumber=2), status=404)
    archive.patch_json("/studies/x", body(PatientID="P2"), status=400)
    archive.patch(path, "<x/>", headers={"Content-Type": "application/xml"}, status=415)
    archive.patch(path, "{", headers={"Content-Type": "application/dicom+json"}, status=400)
    preflight = {"Origin": "http://localhost", "Access-Control-Request-Method": "PATCH"}
    answer = archive.options(path, headers=preflight, status=204)
    assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]


def test_only_what_was_read_is_edited(archive: Client, study: list[Dataset]) -> None:
    path = f"/studies/{study[0].StudyInstanceUID}"
    tag = archive.get(path + "/metadata", headers={"Accept-Encoding": "gzip"}).headers["ETag"]
    answer = archive.patch_json(path, body(PatientID="P2"), headers={"If-Match": tag})
    archive.patch_json(path, body(PatientID="P3"), headers={"If-Match": tag}, status=412)
    new = archive.get(path + "/edits").headers["ETag"]
    assert new == answer.headers["ETag"]
    archive.patch_json(path, body(PatientID="P3"), headers={"If-Match": new})
    assert read(archive, study[0]).PatientID == "P3"
    assert len(read(archive, study[0]).OriginalAttributesSequence) == 2


def test_what_was_kept_is_asked_for_again(archive: Client, study: list[Dataset]) -> None:
    """Where known instances are refused, browsers keep pixels for a year; an edit changes all but those."""
    file = f"/wado?requestType=WADO&studyUID={study[0].StudyInstanceUID}&seriesUID={study[0].SeriesInstanceUID}"
    file += f"&objectUID={study[0].SOPInstanceUID}"
    picture = f"{url(study[0])}/rendered"
    for path in (
        f"{file}&contentType=application/dicom",
        f"{file}&annotation=patient",
        f"{picture}?annotation=patient",
    ):
        assert archive.get(path).headers["Cache-Control"] == "private, no-cache"
    assert "immutable" in archive.get(picture).headers["Cache-Control"]


def test_a_linked_file_is_never_changed(make_archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    archive, ds = make_archive({"links.folders": [str(folder)]}), instance()
    (folder / "1.dcm").write_bytes(part10(ds))
    before = (folder / "1.dcm").stat()
    archive.post(f"/linkFolder?path={folder}")
    assert archive.patch_json(f"/studies/{ds.StudyInstanceUID}", body(PatientID="P2")).json["edited"] == 1
    assert read(archive, ds).PatientID == "P2"
    after = (folder / "1.dcm").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # reading it moves its atime
    assert (folder / "1.dcm").read_bytes() == part10(ds)


class TestMerge:
    def test_two_patients_become_one(self, archive: Client, study: list[Dataset]) -> None:
        archive.store(instance(PatientID="P1", StudyDate="20250101"), instance(PatientID="P9", PatientName="Roe^Jane"))
        asked = {"source": {"patient_id": "P1"}, "target": {"patient_id": "P9"}, "reason": REASON}
        answer = archive.post_json("/patients/merge", asked).json
        assert (answer["edited"], len(answer["studies"])) == (4, 2)
        assert len(archive.search("/studies?PatientID=P9")) == 3
        assert archive.search("/patients?PatientID=P1") == []
        new = read(archive, study[0])
        assert (new.PatientID, new.PatientName, new.StudyDate) == ("P9", "Roe^Jane", "20240102")
        archive.post_json("/patients/merge", asked, status=404)

    def test_what_is_refused(self, archive: Client, study: list[Dataset]) -> None:
        def merge(source: Any, target: Any, status: int, reason: str = REASON) -> str:
            asked = {"source": source, "target": target, "reason": reason}
            return str(archive.post_json("/patients/merge", asked, status=status).json.get("reason"))

        one, other = {"patient_id": "P1"}, {"patient_id": "OTHER"}
        merge(one, {"patient_id": "NONE"}, 404)
        merge(one, one, 400)
        merge(one, {"id": "OTHER"}, 400)
        merge(one, other, 400, reason="")
        archive.store(instance(PatientID="P1", IssuerOfPatientID="North"))
        assert "issuer" in merge(one, other, 409)
        merge({**one, "issuer": "North"}, other, 200)
        assert read(archive, study[0]).PatientID == "P1"


class TestMove:
    def test_to_a_study_that_is_there(self, archive: Client, study: list[Dataset]) -> None:
        target = instance(PatientID="P9", StudyDescription="Right", AccessionNumber="A9")
        archive.store(target)
        source = f"/studies/{study[0].StudyInstanceUID}"
        path = f"{source}/series/{study[0].SeriesInstanceUID}/move"
        asked = {"study_uid": str(target.StudyInstanceUID), "reason": REASON}
        before = archive.get(source + "/metadata").headers["ETag"]
        answer = archive.post_json(path, asked).json
        assert (answer["edited"], answer["study_uid"]) == (2, target.StudyInstanceUID)
        archive.get(url(study[0]), headers={"Accept": "application/dicom"}, status=404)
        found = archive.get(f"/studies/{target.StudyInstanceUID}/metadata").json
        assert len(found) == 3
        assert {item["00100020"]["Value"][0] for item in found} == {"P9"}
        assert {item["00080050"]["Value"][0] for item in found} == {"A9"}
        assert {item["00081030"]["Value"][0] for item in found} == {"Right"}
        left = archive.get(source + "/metadata")
        assert len(left.json) == 1
        assert left.headers["ETag"] != before
        archive.post_json(path, asked, status=404)

    def test_to_a_new_study_and_the_whole_of_one(self, archive: Client, study: list[Dataset]) -> None:
        path = f"/studies/{study[2].StudyInstanceUID}/series/{study[2].SeriesInstanceUID}/move"
        answer = archive.post_json(path, {"reason": REASON, "attributes": {"PatientID": "P7"}}).json
        (found,) = archive.search("/studies?PatientID=P7")
        assert found["0020000D"]["Value"] == [answer["study_uid"]]
        new = f"/studies/{answer['study_uid']}/series/{study[2].SeriesInstanceUID}/move"
        archive.post_json(new, {"study_uid": str(study[0].StudyInstanceUID), "reason": REASON})
        assert archive.search("/studies?PatientID=P7") == []
        assert read(archive, study[2]).PatientID == "P1"

    def test_not_to_a_study_in_the_bin(self, archive: Client, study: list[Dataset]) -> None:
        removed = instance(PatientID="P9")
        archive.store(removed)
        uid = str(removed.StudyInstanceUID)
        archive.delete(f"/studies/{uid}", status=204)
        path = f"/studies/{study[0].StudyInstanceUID}/series/{study[0].SeriesInstanceUID}/move"
        asked = {"study_uid": uid, "reason": REASON}
        assert "is in the bin" in archive.post_json(path, asked, status=409).json["reason"]
        archive.post_json("/bin/restore", {"study_uid": uid})
        archive.post_json(path, asked)
        assert len(archive.get(f"/studies/{uid}/metadata").json) == 3

    @pytest.mark.parametrize("target", ["x", 3, "own"])
    def test_what_is_refused(self, archive: Client, study: list[Dataset], target: Any) -> None:
        path = f"/studies/{study[0].StudyInstanceUID}/series/{study[0].SeriesInstanceUID}/move"
        target = str(study[0].StudyInstanceUID) if target == "own" else target
        archive.post_json(path, {"study_uid": target, "reason": REASON}, status=400)


class TestRights:
    def test_what_is_told_of_it(self, make_archive: Archive) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        admin, cora = bearer(log_in(archive)["token"]), add_user(archive, "cora", "curator")
        ds = instance()
        archive.authorization = ("Bearer", admin["Authorization"].split()[1])
        archive.store(ds)
        archive.authorization = None
        path = f"/studies/{ds.StudyInstanceUID}"
        archive.patch_json(path, {**body(PatientID="P2"), "dry_run": True}, headers=cora)  # no edit
        archive.patch_json(path, body(PatientID="P2"), headers=cora)
        archive.patch_json(path, body(PatientID="P2"), status=401)
        (record,) = archive.get("/audit?action=edit&outcome=success", headers=admin).json["records"]
        assert (record["user"], record["reason"], record["patient_id"]) == ("cora", REASON, "P1")

        def tried() -> list[Any]:
            found = archive.get("/audit?action=retrieve&user=cora", headers=admin).json["records"]
            return [one["what"] for one in found]

        until(lambda: tried() == ["PATCH /studies/{study_uid} (dry run)"])

    def test_who_sees_some_studies(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.access": ["role curator: InstitutionName=North"]})
        admin, cora = bearer(log_in(archive)["token"]), add_user(archive, "cora", "curator")
        own, foreign = instance(InstitutionName="North"), instance(InstitutionName="South", PatientID="S")
        archive.authorization = ("Bearer", admin["Authorization"].split()[1])
        archive.store(own, foreign)
        archive.authorization = None
        path, series = f"/studies/{own.StudyInstanceUID}", f"/series/{own.SeriesInstanceUID}"
        archive.patch_json(path, body(PatientID="P2"), headers=cora)
        archive.patch_json(path, body(InstitutionName="South"), headers=cora, status=403)
        archive.patch_json(f"/studies/{foreign.StudyInstanceUID}", body(PatientID="P2"), headers=cora, status=404)
        move = {"study_uid": str(foreign.StudyInstanceUID), "reason": REASON}
        archive.post_json(path + series + "/move", move, headers=cora, status=409)
        archive.delete(f"/studies/{foreign.StudyInstanceUID}", headers=admin, status=204)
        answer = archive.post_json(path + series + "/move", move, headers=cora, status=409)
        assert "bin" not in answer.json["reason"]  # which is not theirs to look into
        archive.post_json("/bin/restore", {"study_uid": move["study_uid"]}, headers=admin)
        merge = {"source": {"patient_id": "P2"}, "target": {"patient_id": "S"}, "reason": REASON}
        archive.post_json("/patients/merge", merge, headers=cora, status=404)
        archive.patch_json(path, body(InstitutionName="South"), headers=admin)

    def test_the_record_of_a_merge_names_the_source_and_its_list_no_hidden_study(self, make_archive: Archive) -> None:
        archive = make_archive({**LOGIN_SETTINGS, "auth.access": ["role curator: InstitutionName=North"]})
        admin, cora = bearer(log_in(archive)["token"]), add_user(archive, "cora", "curator")
        seen = instance(InstitutionName="North", PatientID="A")
        hidden, target = instance(InstitutionName="South", PatientID="A"), instance(PatientID="B")
        archive.authorization = ("Bearer", admin["Authorization"].split()[1])
        archive.store(seen, hidden, target)
        archive.authorization = None
        merge = {"source": {"patient_id": "A"}, "target": {"patient_id": "B"}, "reason": REASON}
        assert archive.post_json("/patients/merge", merge, headers=admin).json["edited"] == 2
        records = archive.get("/audit?action=edit&outcome=success", headers=admin).json["records"]
        assert {(record["study_uid"], record["patient_id"]) for record in records} == {
            (seen.StudyInstanceUID, "A"),
            (hidden.StudyInstanceUID, "A"),
        }
        for who, uids in ((admin, {seen.StudyInstanceUID, hidden.StudyInstanceUID}), (cora, {seen.StudyInstanceUID})):
            listed = archive.get(f"/studies/{seen.StudyInstanceUID}/edits", headers=who).json["edits"]
            assert {study for study, _ in listed[0]["scopes"]} == uids
        archive.get(f"/studies/{hidden.StudyInstanceUID}/edits", headers=cora, status=404)
