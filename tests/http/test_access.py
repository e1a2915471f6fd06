"""Studies that exist for some: by rules, by conditions of a user, by a share link. The others are not there."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, RTStructureSetStorage

from dicomweb_server.app import open_parts
from dicomweb_server.settings import load
from dicomweb_server.storage.base import Storage
from tests.browser.objects import pdf, segmentation
from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, Headers, add_user, bearer, log_in
from tests.samples import PYDICOM_FILES, RELATED, envelope, instance, part10, url

JSON = {"Accept": "application/dicom+json"}


def stored(archive: Client, **attributes: str) -> Dataset:
    ds = instance(**attributes)
    archive.authorization = ("Bearer", log_in(archive)["token"])
    archive.store(ds)
    archive.authorization = None
    return ds


def with_class(image: Dataset, sop_class_uid: str) -> bytes:
    """An object of another class in the study of the image."""
    ds = instance(SOPClassUID=sop_class_uid, StudyInstanceUID=image.StudyInstanceUID)
    return part10(ds)


@contextmanager
def storage_of(directory: Path) -> Iterator[Storage]:
    """The storage of an archive, beside it."""
    storage, blobs = open_parts(load(overrides={"storage.directory": str(directory)}, environ={}))
    try:
        yield storage
    finally:
        storage.close()
        blobs.close()


@pytest.fixture
def hospital(make_archive: Archive) -> Client:
    return make_archive({**LOGIN_SETTINGS, "auth.access": ["role reader: InstitutionName=North"]})


@pytest.fixture
def two(hospital: Client) -> tuple[Client, Headers, Dataset, Dataset]:
    north = stored(hospital, InstitutionName="North", PatientID="N1", PatientName="North^One")
    south = stored(hospital, InstitutionName="South", PatientID="S1", PatientName="South^One")
    return hospital, add_user(hospital, "rita", "reader"), north, south


Two = tuple[Client, Headers, Dataset, Dataset]


class TestRules:
    def test_searches_and_counts(self, two: Two) -> None:
        archive, rita, north, south = two
        for path in ("/studies", "/series", "/instances", "/patients"):
            hits = archive.get(path, headers={**JSON, **rita}).json
            assert [hit["00100020"]["Value"] if "00100020" in hit else 0 for hit in hits] in ([["N1"]], [0]), path
            assert "South" not in str(hits)
        for level in ("series", "instances"):
            path = f"/studies/{south.StudyInstanceUID}/{level}"
            assert archive.get(path, headers={**JSON, **rita}).json == []
            assert (
                len(archive.get(path.replace(south.StudyInstanceUID, north.StudyInstanceUID), headers=rita).json) == 1
            )
        assert archive.get("/studies?PatientID=S1", headers={**JSON, **rita}).json == []

    def test_nothing_by_its_uid_not_even_304(self, two: Two) -> None:
        archive, rita, north, south = two
        boss = bearer(log_in(archive)["token"])
        uid = south.StudyInstanceUID
        for path in (
            f"/studies/{uid}",
            f"/studies/{uid}/metadata",
            f"/studies/{uid}/thumbnail",
            url(south),
            f"{url(south)}/metadata",
            f"{url(south)}/frames/1",
            f"{url(south)}/rendered",
            f"{url(south)}/bulkdata/7FE00010",
            f"/wado?requestType=WADO&objectUID={south.SOPInstanceUID}",
            f"/wado?requestType=WADO&studyUID={uid}&seriesUID={south.SeriesInstanceUID}"
            f"&objectUID={south.SOPInstanceUID}&contentType=application/dicom",
        ):
            archive.get(path, headers=rita, status=404)
        seen = archive.get(f"{url(south)}/metadata", headers=boss)
        archive.get(f"{url(south)}/metadata", headers={**boss, "If-None-Match": seen.headers["ETag"]}, status=304)
        archive.get(f"{url(south)}/metadata", headers={**rita, "If-None-Match": seen.headers["ETag"]}, status=404)
        archive.get(f"{url(north)}/metadata", headers=rita)
        archive.get(url(north), headers=rita)

    def test_fhir_and_the_change_feed(self, two: Two) -> None:
        archive, rita, north, south = two
        boss = bearer(log_in(archive)["token"])
        for kind in ("ImagingStudy", "Patient"):
            path = f"/api/fhir/{kind}"
            whole = archive.get(path, headers=boss).json
            ids = {entry["resource"]["id"] for entry in whole["entry"]}
            seen = archive.get(path, headers=rita).json
            assert (whole["total"], seen["total"]) == (2, 1), kind
            (only,) = (entry["resource"]["id"] for entry in seen["entry"])
            archive.get(f"{path}/{only}", headers=rita)
            (other,) = ids - {only}
            archive.get(f"{path}/{other}", headers=boss)
            archive.get(f"{path}/{other}", headers=rita, status=404)
        changes = archive.get("/changes", headers=rita).json
        assert south.StudyInstanceUID not in str(changes)
        assert north.StudyInstanceUID in str(changes)

    def test_each_request_has_its_own_eyes(self, two: Two) -> None:
        archive, rita, _, _ = two
        boss = bearer(log_in(archive)["token"])
        for _ in range(2):
            assert len(archive.get("/studies", headers=rita).json) == 1
            assert len(archive.get("/studies", headers=boss).json) == 2

    def test_nobody_writes_into_what_is_not_there(self, make_archive: Archive) -> None:
        rules = ["role curator: InstitutionName=North"]
        archive = make_archive({**LOGIN_SETTINGS, "auth.access": rules, "stow.on_duplicate": "replace"})
        south = stored(archive, InstitutionName="South")
        curator = add_user(archive, "carl", "curator")
        archive.delete(url(south), headers=curator, status=404)
        archive.authorization = ("Bearer", curator["Authorization"].split()[1])
        south.InstitutionName = "North"
        archive.store(south, status=409)
        other = instance(InstitutionName="North")
        other.StudyInstanceUID = south.StudyInstanceUID
        archive.store(other, status=409)
        archive.store(instance(InstitutionName="North"))

    @pytest.mark.parametrize("rule", ["reader: x", "role reader: Modality=CT", "role reader: x=y", "role reader: *"])
    def test_a_rule_that_is_none_stops_the_start(self, make_archive: Archive, rule: str) -> None:
        with pytest.raises(Exception, match=r"auth\.access"):
            make_archive({**LOGIN_SETTINGS, "auth.access": [rule]})

    def test_conditions_of_users_and_of_everybody(self, make_archive: Archive) -> None:
        rules = ["anonymous: PatientID=PUB*", "user walt: PatientID=X*\\Y*"]
        archive = make_archive({**LOGIN_SETTINGS, "auth.anonymous_role": "reader", "auth.access": rules})
        for patient in ("PUB1", "X1", "Y1", "Z1"):
            stored(archive, PatientID=patient)
        walt = add_user(archive, "walt", "reader")
        zoe = add_user(archive, "zoe", "reader", access="PatientID=Z1")

        def patients(headers: Headers) -> list[str]:
            hits = archive.get("/studies?orderby=PatientID", headers={**JSON, **headers}).json
            return [hit["00100020"]["Value"][0] for hit in hits]

        assert patients({}) == ["PUB1"]
        assert patients(walt) == ["X1", "Y1"]
        assert patients(zoe) == ["Z1"]


class TestShares:
    def share(self, archive: Client, study_uid: str, **fields: object) -> dict[str, str]:
        boss = bearer(log_in(archive)["token"])
        made: dict[str, str] = archive.post_json(f"/studies/{study_uid}/shares", fields, headers=boss, status=201).json
        return made

    def test_a_link_opens_one_study(self, two: Two) -> None:
        archive, _, north, south = two
        link = self.share(archive, south.StudyInstanceUID)
        opened = archive.get(link["url"], status=303)
        assert opened.headers["Location"].endswith(f"/ohif/viewer?StudyInstanceUIDs={south.StudyInstanceUID}")
        assert "HttpOnly" in opened.headers.getall("Set-Cookie")[0]
        assert [hit["00100020"]["Value"] for hit in archive.get("/studies").json] == [["S1"]]
        archive.get(f"/studies/{south.StudyInstanceUID}")
        archive.get(f"{url(south)}/frames/1")
        archive.get(url(north), status=404)
        archive.delete(url(south), headers={"Origin": "http://localhost"}, status=403)

    def test_nothing_else_is_to_be_seen_anywhere(self, two: Two) -> None:
        """Each front end, with the cookie of a link to the study of the South."""
        archive, _, north, south = two
        boss = bearer(log_in(archive)["token"])
        patients = {
            entry["resource"]["name"][0]["family"]: entry["resource"]["id"]
            for entry in archive.get("/api/fhir/Patient", headers=boss).json["entry"]
        }
        archive.reset()
        archive.get(self.share(archive, south.StudyInstanceUID)["url"], status=303)
        for level in ("patients", "studies", "series", "instances"):
            found = archive.get(f"/{level}", headers=JSON)
            assert len(found.json) == 1, level
            assert "North" not in found.text
        for kind in ("Patient", "ImagingStudy", "Endpoint"):
            assert archive.get(f"/api/fhir/{kind}").json["total"] == 1, kind
        archive.get(f"/api/fhir/ImagingStudy/{north.StudyInstanceUID}", status=404)
        archive.get(f"/api/fhir/Patient/{patients['North']}", status=404)
        archive.get(f"/api/fhir/Patient/{patients['South']}")
        for path in ("/changes", f"/studies/{south.StudyInstanceUID}/statistics"):
            assert north.StudyInstanceUID not in archive.get(path).text
        archive.get("/statistics", status=404)
        for path in (
            f"/studies/{north.StudyInstanceUID}/statistics",
            f"/studies/{north.StudyInstanceUID}/rendered",
            f"/studies/{north.StudyInstanceUID}/thumbnail",
            f"/wado?requestType=WADO&objectUID={north.SOPInstanceUID}",
            f"/?requestType=WADO&objectUID={north.SOPInstanceUID}&studyUID={south.StudyInstanceUID}"
            f"&seriesUID={south.SeriesInstanceUID}",
        ):
            archive.get(path, status=404)
        for path in (
            "/bin",
            "/audit",
            "/api/users",
            "/api/keys",
            "/metrics",
            f"/studies/{south.StudyInstanceUID}/shares",
        ):
            archive.get(path, status=403)
        own = {"Origin": "http://localhost"}
        archive.post("/studies", b"x", headers={"Content-Type": "application/dicom", **own}, status=403)
        archive.put_json("/api/fhir/Organization/o", {"resourceType": "Organization"}, headers=own, status=403)
        archive.post("/linkFolder?path=/", headers=own, status=403)
        bundle = {
            "resourceType": "Bundle",
            "type": "batch",
            "entry": [{"request": {"method": "DELETE", "url": f"ImagingStudy/{south.StudyInstanceUID}"}}],
        }
        answer = archive.post_json("/api/fhir", bundle, headers=own).json
        assert answer["entry"][0]["response"]["status"] == "403"

    def test_what_a_viewer_fetches_whole_is_served_to_who_only_looks(self, hospital: Client) -> None:
        content = (PYDICOM_FILES / "CT_small.dcm").read_bytes()
        image = pydicom.dcmread(io.BytesIO(content))
        files = [
            content,
            segmentation(content),
            pdf(image.StudyInstanceUID, "North^One"),
            *(with_class(image, uid) for uid in (ComprehensiveSRStorage, RTStructureSetStorage)),
        ]
        boss = bearer(log_in(hospital)["token"])
        hospital.post("/studies", envelope(files), headers={"Content-Type": RELATED, **boss})
        hospital.reset()
        hospital.get(self.share(hospital, image.StudyInstanceUID, view_only=True)["url"], status=303)
        for content in files[1:]:
            ds = pydicom.dcmread(io.BytesIO(content))
            for accept in ("application/dicom", 'multipart/related; type="application/dicom"'):
                got = hospital.get(url(ds), headers={"Accept": accept})
                assert content[132:] in got.body, ds.SOPClassUID.name
            series = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
            hospital.get(series, status=403)
            hospital.get(f"/dicom-web{series}/", status=403)
        for accept in ("application/zip", "*/*, application/zip;q=0.1"):
            hospital.get(url(ds), headers={"Accept": accept}, status=403)

    def test_an_old_link_is_none(self, make_archive: Archive, tmp_path: Path) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        ds = stored(archive)
        link = self.share(archive, ds.StudyInstanceUID, days=1)
        archive.get(link["url"], status=303)
        archive.get(f"{url(ds)}/frames/1")
        with storage_of(tmp_path / "data0") as storage:
            body = storage.get_document(kind="share", document_id=link["id"]).body
            storage.put_document(kind="share", document_id=link["id"], body={**body, "expires": 1.0}, keys={})
        archive.get(f"{url(ds)}/frames/1", status=401)
        for gone in (link["url"], link["url"][:-9]):
            assert "ask for a new one" in archive.get(gone, status=401).json["reason"]

    def test_an_old_key_is_none(self, make_archive: Archive, tmp_path: Path) -> None:
        archive = make_archive(LOGIN_SETTINGS)
        boss = bearer(log_in(archive)["token"])
        made = archive.post_json("/api/keys", {"name": "x", "days": 1}, headers=boss, status=201).json
        archive.get("/studies", headers=bearer(made["key"]))
        with storage_of(tmp_path / "data0") as storage:
            document = storage.get_document(kind="api-key", document_id=made["id"])
            body = {**document.body, "expires": 1.0}
            storage.put_document(kind="api-key", document_id=made["id"], body=body, keys=document.keys)
        refused = archive.get("/studies", headers=bearer(made["key"]), status=401)
        assert "expired" in refused.json["reason"]

    def test_it_can_be_for_viewing_only(self, two: Two) -> None:
        archive, _, _, south = two
        study = f"/studies/{south.StudyInstanceUID}"
        archive.get(self.share(archive, south.StudyInstanceUID, view_only=True)["url"], status=303)
        for path in (study, f"{study}/series/{south.SeriesInstanceUID}", f"{study}/bulkdata", f"{study}/pixeldata"):
            archive.get(path, status=403)
        archive.get(url(south), headers={"Accept": "application/zip"}, status=403)
        archive.get(f"{url(south)}?accept=application%2Fzip", status=403)
        for path in (url(south), f"{study}/metadata", f"{url(south)}/rendered", f"{url(south)}/frames/1"):
            archive.get(path)

    def test_it_can_be_revoked_and_listed(self, two: Two) -> None:
        archive, rita, _, south = two
        study = f"/studies/{south.StudyInstanceUID}"
        link = self.share(archive, south.StudyInstanceUID, note="for Dr. B")
        boss = bearer(log_in(archive)["token"])
        archive.get(link["url"], status=303)
        archive.get(f"{study}/metadata")
        archive.reset()
        (listed,) = archive.get(f"{study}/shares", headers=boss).json["shares"]
        assert listed["note"] == "for Dr. B"
        assert "url" not in listed
        archive.get(f"{study}/shares", headers=rita, status=403)
        archive.delete(f"{study}/shares/{listed['id']}", headers=boss, status=204)
        archive.delete(f"{study}/shares/{listed['id']}", headers=boss, status=404)
        archive.get(link["url"], status=401)
        archive.get(f"{study}/metadata", status=401)
        archive.get("/share/rubbish", status=401)
        archive.post_json("/studies/1.2.3/shares", {}, headers=boss, status=404)
