"""Storing: every envelope, every outcome."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from tests.http.conftest import Archive, Client
from tests.samples import PYDICOM_FILES, RELATED, envelope, instance, part10, url

STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def post(archive: Client, body: bytes, content_type: str, path: str = "/studies", **options: Any) -> Any:
    return archive.post(path, body, headers={"Content-Type": content_type}, **options)


def reasons(answer: Any, tag: str) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json[tag]["Value"]]


class TestEnvelopes:
    def test_multipart_related(self, archive: Client) -> None:
        instances = [instance(), instance()]
        answer = archive.store(*instances)
        assert answer.status_int == 200
        assert answer.headers["Content-Type"] == "application/dicom+json"
        stored = [item["00081155"]["Value"][0] for item in answer.json["00081199"]["Value"]]
        assert stored == [ds.SOPInstanceUID for ds in instances]
        assert len(archive.search("/instances")) == 2

    @pytest.mark.parametrize(
        ("declared", "used"),
        [
            ('"frontier"', "frontier"),
            ("frontier", "frontier"),
            ("----WebKit", "----WebKit"),
            ("--already", "already"),
        ],
    )
    def test_boundaries(self, archive: Client, declared: str, used: str) -> None:
        body = envelope([part10(instance())], boundary=used)
        answer = post(archive, body, f'multipart/related; type="application/dicom"; boundary={declared}')
        assert answer.status_int == 200

    def test_leading_line_break_and_bytes_behind_the_end(self, archive: Client) -> None:
        body = b"\r\n" + envelope([part10(instance()), part10(instance())]).rstrip() + bytes(40)
        assert post(archive, body, RELATED).status_int == 200

    def test_single_file(self, archive: Client) -> None:
        ds = instance()
        assert post(archive, part10(ds), "application/dicom").status_int == 200
        assert archive.get(url(ds), headers={"Accept": "application/dicom; transfer-syntax=*"}).body == part10(ds)

    def test_form_data_with_any_field_names(self, archive: Client) -> None:
        files = [("one", "a.dcm", part10(instance())), ("two", "b.dcm", part10(instance()))]
        answer = archive.post("/studies", {"note": "not a file"}, upload_files=files)
        assert answer.status_int == 200
        assert len(answer.json["00081199"]["Value"]) == 2

    def test_xml_answer(self, archive: Client) -> None:
        body = envelope([part10(instance())])
        answer = archive.post("/studies", body, headers={"Content-Type": RELATED, "Accept": "application/dicom+xml"})
        assert answer.content_type == "application/dicom+xml"
        assert b'keyword="ReferencedSOPSequence"' in answer.body

    @pytest.mark.parametrize("content_type", ["text/plain", "application/json", "multipart/related; type=text/x"])
    def test_other_types_are_refused(self, archive: Client, content_type: str) -> None:
        answer = post(archive, b"x", content_type, status=415)
        assert "application/dicom" in answer.json["reason"]

    def test_content_coding_is_refused(self, archive: Client) -> None:
        headers = {"Content-Type": RELATED, "Content-Encoding": "gzip"}
        assert archive.post("/studies", b"x", headers=headers, status=415).json["status"] == 415

    def test_answer_that_cannot_be_given_is_refused_before_storing(self, archive: Client) -> None:
        headers = {"Content-Type": RELATED, "Accept": "image/png"}
        archive.post("/studies", envelope([part10(instance())]), headers=headers, status=406)
        assert archive.search("/instances") == []

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            (b"", RELATED),
            (b"no boundary at all", RELATED),
            (envelope([part10(instance())]), 'multipart/related; type="application/dicom"'),
            (envelope([part10(instance())])[:-600], RELATED),
            (b"--frontier--\r\n", RELATED),
        ],
    )
    def test_broken_envelopes_store_nothing(self, archive: Client, body: bytes, content_type: str) -> None:
        assert post(archive, body, content_type, status=400).json["reason"]
        assert archive.search("/instances") == []

    def test_request_limit(self, make_archive: Archive) -> None:
        archive = make_archive({"stow.max_request_bytes": 500})
        post(archive, envelope([part10(instance())]), RELATED, status=413)

    def test_part_limit(self, make_archive: Archive) -> None:
        archive = make_archive({"stow.max_parts": 2})
        post(archive, envelope([b"x"] * 3), RELATED, status=413)


class TestOutcomes:
    def test_one_bad_part_spoils_no_other(self, archive: Client) -> None:
        good = instance()
        answer = post(archive, envelope([b"rubbish", part10(good), part10(instance())[:-9]]), RELATED)
        assert answer.status_int == 202
        assert len(answer.json["00081199"]["Value"]) == 1
        assert reasons(answer, "0008119A") == [0xC000, 0xC000]
        texts = [i["00741048"]["Value"][0]["00000902"]["Value"][0] for i in answer.json["0008119A"]["Value"]]
        assert "truncated" in texts[1]
        assert [hit["00080018"]["Value"][0] for hit in archive.search("/instances")] == [good.SOPInstanceUID]

    def test_reasons_fit_their_vr_and_name_the_file_of_a_form(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        ds.PatientComments = "other bytes"
        files = [("file", "kept.dcm", part10(ds)), ("file", "scan/notes.txt", b"no image at all")]
        answer = archive.post("/studies", upload_files=files, status=409).json
        told = []
        for tag in ("00081198", "0008119A"):
            lines = [i["00000902"]["Value"][0] for i in answer[tag]["Value"][0]["00741048"]["Value"]]
            assert max(map(len, lines)) <= 64
            told.append(" ".join(lines))
        assert told[0].startswith("kept.dcm: another instance with this SOP Instance UID is stored")
        assert told[1].startswith("scan/notes.txt: not a DICOM file")

    def test_all_bad_is_a_conflict(self, archive: Client) -> None:
        assert post(archive, envelope([b"", b"rubbish"]), RELATED, status=409).json.keys() == {"0008119A"}

    @pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
    @pytest.mark.parametrize("value", [None, "../../etc/passwd", "1..2", "1." * 40 + "1", "abc"])
    @pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
    @pytest.mark.filterwarnings("ignore:The value length")
    def test_unusable_uids(self, archive: Client, keyword: str, value: str | None) -> None:
        ds = instance()
        ds[keyword].value = value or ""
        answer = post(archive, envelope([part10(ds)]), RELATED, status=409)
        assert reasons(answer, "0008119A") == [0xC000]

    def test_other_study_than_the_url(self, archive: Client) -> None:
        ds, other = instance(), instance()
        path = f"/studies/{ds.StudyInstanceUID}"
        answer = post(archive, envelope([part10(ds), part10(other)]), RELATED, path)
        assert answer.status_int == 202
        assert reasons(answer, "00081198") == [0xA900]
        failed = answer.json["00081198"]["Value"][0]
        assert failed["00081155"]["Value"] == [other.SOPInstanceUID]

    def test_malformed_study_in_the_url(self, archive: Client) -> None:
        post(archive, envelope([part10(instance())]), RELATED, "/studies/abc", status=400)

    def test_identical_bytes_again_succeed_without_change(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        before = archive.get(url(ds) + "/metadata").headers["ETag"]
        assert archive.store(ds).status_int == 200
        assert archive.get(url(ds) + "/metadata").headers["ETag"] == before

    def test_other_bytes_of_one_uid_are_refused(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        ds.PatientName = "Other"
        answer = archive.store(ds, status=409)
        assert reasons(answer, "00081198") == [0x0111]
        assert archive.search("/instances")[0]["00100010"]["Value"][0]["Alphabetic"] == "Doe^Jane"

    def test_other_bytes_replace_where_set(self, make_archive: Archive) -> None:
        archive = make_archive({"stow.on_duplicate": "replace"})
        ds = instance()
        archive.store(ds)
        ds.PatientName = "Other"
        assert archive.store(ds).status_int == 200
        assert archive.get(url(ds), headers={"Accept": STORED}).body.count(b"Other") == 1
        assert archive.search("/studies")[0]["00201208"]["Value"] == [1]

    def test_missing_patient_id(self, archive: Client) -> None:
        assert archive.store(instance(PatientID=None), instance(PatientID="")).status_int == 200
        assert len(archive.search("/patients")) == 2

    def test_conflict_with_the_study_is_a_warning(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        answer = archive.store(instance(str(ds.StudyInstanceUID), PatientName="Other^Name"))
        assert answer.status_int == 200
        assert "00100010" in answer.headers["Warning"]
        assert answer.json["00081199"]["Value"][0]["00081196"]["Value"] == [0xB000]
        assert archive.search("/studies")[0]["00100010"]["Value"][0]["Alphabetic"] == "Doe^Jane"

    def test_dicomdir_is_refused(self, archive: Client) -> None:
        ds = instance(SOPClassUID="1.2.840.10008.1.3.10")
        assert reasons(archive.store(ds, status=409), "00081198") == [0x0122]

    def test_instance_limit(self, make_archive: Archive) -> None:
        archive = make_archive({"stow.max_instance_bytes": 100})
        answer = archive.store(instance(), status=409)
        assert "100 bytes" in json.dumps(answer.json)

    def test_preamble_is_kept_unless_set(self, make_archive: Archive) -> None:
        data = b"II*\0" + bytes(124) + part10(instance())[128:]
        ds_url = "/instances"
        kept, wiped = make_archive(), make_archive({"stow.wipe_preamble": True})
        for archive, start in ((kept, b"II*\0"), (wiped, bytes(4))):
            post(archive, envelope([data]), RELATED)
            path = archive.search(ds_url)[0]["00081190"]["Value"][0]
            assert archive.get(path, headers={"Accept": "application/dicom; transfer-syntax=*"}).body[:4] == start


class TestJsonWithBulkData:
    def send(self, archive: Client, metadata: object, *bulk: tuple[str, str, bytes], **options: Any) -> Any:
        body = b"--b\r\nContent-Type: application/dicom+json\r\n\r\n" + json.dumps(metadata).encode()
        for location, media, data in bulk:
            body += f"\r\n--b\r\nContent-Type: {media}\r\nContent-Location: {location}\r\n\r\n".encode() + data
        return post(
            archive, body + b"\r\n--b--\r\n", 'multipart/related; type="application/dicom+json"; boundary=b', **options
        )

    def test_native_pixel_data(self, archive: Client) -> None:
        ds = instance()
        metadata = ds.to_json_dict(1024, lambda _: "")
        metadata["7FE00010"] = {"vr": "OW", "BulkDataURI": "bulk/1"}
        assert (
            self.send(archive, [metadata], ("bulk/1", "application/octet-stream", bytes(range(64)))).status_int == 200
        )
        frame = archive.get(url(ds) + "/frames/1", headers={"Accept": "application/octet-stream"})
        assert frame.body == bytes(range(64))
        found = archive.get(url(ds) + "/metadata").json[0]
        assert found["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}

    def test_compressed_frame(self, archive: Client) -> None:
        ds = instance()
        metadata = ds.to_json_dict(1024, lambda _: "")
        metadata["7FE00010"] = {"vr": "OB", "BulkDataURI": "1"}
        jpeg = b"\xff\xd8" + b"x" * 50 + b"\xff\xd9"
        self.send(archive, [metadata], ("1", f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}", jpeg))
        frame = archive.get(url(ds) + "/frames/1", headers={"Accept": "image/jpeg"})
        assert frame.body == jpeg
        assert frame.headers["Content-Type"] == f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"

    @pytest.mark.parametrize("metadata", [{"00080018": 1}, [{"00080018": {"vr": "XX"}}], [1], "x"])
    def test_bad_metadata(self, archive: Client, metadata: object) -> None:
        assert self.send(archive, metadata, status="4*").json
        assert archive.search("/instances") == []

    def test_bulk_data_that_is_not_there(self, archive: Client) -> None:
        metadata = instance().to_json_dict(1024, lambda _: "")
        metadata["7FE00010"] = {"vr": "OW", "BulkDataURI": "nowhere"}
        answer = self.send(archive, [metadata], status=409)
        assert "7FE0,0010" in json.dumps(answer.json)


class TestXmlWithBulkData:
    @pytest.mark.parametrize("name", ["CT_small.dcm", "rtplan.dcm", "reportsi.dcm"])
    def test_what_was_retrieved_can_be_stored_elsewhere(self, make_archive: Archive, name: str) -> None:
        source, target = make_archive(), make_archive()
        post(source, envelope([(PYDICOM_FILES / name).read_bytes()]), RELATED)
        (hit,) = source.search("/instances")
        path = hit["00081190"]["Value"][0].removeprefix("http://localhost")
        accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
        (metadata,) = re.findall(
            rb"<[?]xml.*</NativeDicomModel>", source.get(path + "/metadata", headers=accept).body, re.DOTALL
        )
        body = b"--b\r\nContent-Type: application/dicom+xml\r\n\r\n" + metadata
        for uri in re.findall(rb'<BulkData uri="([^"]+)"', metadata):
            data = source.get(uri.decode(), headers={"Accept": "application/octet-stream; transfer-syntax=*"}).body
            head = b"Content-Type: application/octet-stream\r\nContent-Location: " + uri
            body += b"\r\n--b\r\n" + head + b"\r\n\r\n" + data
        post(target, body + b"\r\n--b--\r\n", 'multipart/related; type="application/dicom+xml"; boundary=b')
        before, after = (archive.get(path + "/metadata").json[0] for archive in (source, target))
        for found in (before, after):
            found.pop("00080005", None)  # the text is in UTF-8 now
            found.pop("00083002")
        assert after == before

    def test_what_is_no_xml_is_told(self, archive: Client) -> None:
        body = b"--b\r\nContent-Type: application/dicom+xml\r\n\r\n<a\r\n--b--\r\n"
        answer = post(archive, body, 'multipart/related; type="application/dicom+xml"; boundary=b', status=400)
        assert "XML" in answer.json["reason"]


def test_nothing_stays_staged(make_archive: Archive, tmp_path: Path) -> None:
    """Whatever happens to a part, its temporary file goes."""
    archive = make_archive()
    archive.store(instance())
    post(archive, envelope([b"rubbish", part10(instance())[:-5]]), RELATED, status=409)
    post(archive, envelope([part10(instance())])[:-100], RELATED, status=400)
    left = [path for path in tmp_path.rglob("staging/*") if path.is_file()]
    assert left == []


def test_a_real_file_of_each_kind(archive: Client) -> None:
    for name in ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm"):
        data = (PYDICOM_FILES / name).read_bytes()
        answer = post(archive, envelope([data]), RELATED)
        assert answer.status_int == 200, name
    assert len(archive.search("/instances")) == 6


def test_long_batches_are_committed_as_they_come(archive: Client) -> None:
    study = generate_uid()
    instances = [instance(study, InstanceNumber=n) for n in range(230)]
    assert len(archive.store(*instances).json["00081199"]["Value"]) == 230
    assert archive.search("/studies")[0]["00201208"]["Value"] == [230]
