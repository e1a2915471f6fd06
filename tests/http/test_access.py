"""Studies that exist for some: by rules, by conditions of a user, by a share link. The others are not there."""

import pytest
from pydicom.dataset import Dataset

from tests.http.conftest import Archive, Client
from tests.http.identities import LOGIN_SETTINGS, Headers, add_user, bearer, log_in
from tests.samples import instance, url

JSON = {"Accept": "application/dicom+json"}


def stored(archive: Client, **attributes: str) -> Dataset:
    ds = instance(**attributes)
    archive.authorization = ("Bearer", log_in(archive)["token"])
    archive.store(ds)
    archive.authorization = None
    return ds


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
