"""Retrieving through HTTP: objects, metadata, frames, bulk data, and their conditions and ranges."""

import email
import hashlib
import io
import time
import zipfile
from typing import Any

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit, generate_uid

from tests.http.conftest import Archive, Client
from tests.samples import PYDICOM_FILES, RELATED, envelope, instance, part10, url

ANY_DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'
ANY_OCTETS = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'


def parts(answer: Any) -> list[tuple[dict[str, str], bytes]]:
    """Heads and payloads of a multipart answer, read by the standard library."""
    assert len(answer.body) == int(answer.headers["Content-Length"])
    text = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode() + answer.body
    message = email.message_from_bytes(text)
    assert message.is_multipart()
    boundary = message.get_boundary()
    assert boundary is not None
    assert answer.body.startswith(b"--" + boundary.encode())
    found = []
    for piece in answer.body.removeprefix(b"--" + boundary.encode()).split(b"\r\n--" + boundary.encode())[:-1]:
        head, _, payload = piece.partition(b"\r\n\r\n")
        found.append((dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n")), payload))
    return found


def put_file(archive: Client, data: bytes) -> pydicom.Dataset:
    archive.post("/studies", envelope([data]), headers={"Content-Type": RELATED})
    return pydicom.dcmread(io.BytesIO(data), force=True)


class TestObjects:
    def test_study_series_and_instance(self, archive: Client) -> None:
        study, series = generate_uid(), generate_uid()
        instances = [instance(study, series, InstanceNumber=n) for n in (3, 1, 2)]
        archive.store(*instances, instance(study))
        for path, number in (
            (f"/studies/{study}", 4),
            (f"/studies/{study}/series/{series}", 3),
            (url(instances[0]), 1),
        ):
            found = parts(archive.get(path, headers={"Accept": ANY_DICOM}))
            assert len(found) == number
            assert found[0][0]["Content-Type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
        in_order = [
            pydicom.dcmread(io.BytesIO(data)).InstanceNumber
            for _, data in parts(archive.get(f"/studies/{study}/series/{series}", headers={"Accept": ANY_DICOM}))
        ]
        assert in_order == [1, 2, 3]

    def test_bytes_are_those_stored(self, archive: Client) -> None:
        data = (PYDICOM_FILES / "CT_small.dcm").read_bytes()
        ds = put_file(archive, data)
        answer = archive.get(url(ds))
        assert hashlib.sha256(answer.body).digest() == hashlib.sha256(data).digest()
        assert answer.headers["Content-Type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"

    def test_unknown_and_malformed(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        assert archive.get("/studies/1.2.3", status=404).json["reason"]
        assert archive.get("/studies/1.2.x", status=400).json["reason"]
        wrong_series = f"/studies/{ds.StudyInstanceUID}/series/1.2/instances/{ds.SOPInstanceUID}"
        archive.get(wrong_series, status=404)
        archive.get(wrong_series + "/metadata", status=404)

    def test_transfer_syntax_that_cannot_be_made_is_not_offered(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.57'
        answer = archive.get(url(ds), headers={"Accept": accept}, status=406)
        assert any("1.2.840.10008.1.2.1" in offer for offer in answer.json["offered"])

    def test_conditions_and_ranges(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        whole = archive.get(url(ds))
        etag = whole.headers["ETag"]
        assert archive.get(url(ds), headers={"If-None-Match": etag}).status_int == 304
        some = archive.get(url(ds), headers={"Range": "bytes=128-131"})
        assert (some.status_int, some.body) == (206, b"DICM")
        assert some.headers["Content-Range"] == f"bytes 128-131/{len(whole.body)}"
        assert archive.get(url(ds), headers={"Range": "bytes=-4", "If-Range": etag}).body == whole.body[-4:]
        assert archive.get(url(ds), headers={"Range": "bytes=-4", "If-Range": '"other"'}).status_int == 200
        refused = archive.get(url(ds), headers={"Range": "bytes=999999-"}, status=416)
        assert refused.headers["Content-Range"] == f"bytes */{len(whole.body)}"

    def test_head(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        head, got = archive.head(url(ds)), archive.get(url(ds))
        assert head.body == b""
        for name in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges"):
            assert head.headers[name] == got.headers[name]

    def test_zip(self, archive: Client) -> None:
        study = generate_uid()
        instances = [instance(study) for _ in range(3)]
        archive.store(*instances)
        answer = archive.get(f"/studies/{study}", headers={"Accept": "application/zip"})
        with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
            assert {found.read(name) for name in found.namelist()} == {part10(ds) for ds in instances}

    def test_zip_with_dicomdir(self, archive: Client, tmp_path: Any) -> None:
        study, series = generate_uid(), generate_uid()
        archive.store(*(instance(study, series, InstanceNumber=n) for n in range(3)), instance(study))
        answer = archive.get(f"/studies/{study}?dicomdir=true", headers={"Accept": "application/zip"})
        with zipfile.ZipFile(io.BytesIO(answer.body)) as found:
            found.extractall(tmp_path)
        listed = FileSet(tmp_path / "DICOMDIR")
        assert len(listed) == 4
        assert {str(item.load().StudyInstanceUID) for item in listed} == {study}
        assert len(listed.find_values("SeriesInstanceUID")) == 2
        listed._stage["t"].cleanup()  # pydicom leaves it to the garbage collector, which warns


class TestMetadata:
    def test_levels_and_uris(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds, instance(str(ds.StudyInstanceUID)))
        assert len(archive.get(f"/studies/{ds.StudyInstanceUID}/metadata").json) == 2
        found = archive.get(url(ds) + "/metadata")
        assert found.headers["Content-Type"] == "application/dicom+json"
        uri = found.json[0]["7FE00010"]["BulkDataURI"]
        assert uri == f"http://localhost{url(ds)}/bulkdata/7FE00010"
        assert archive.get(uri, headers={"Accept": "application/octet-stream"}).body == bytes(range(64))

    def test_uris_follow_the_prefix_and_the_setting(self, make_archive: Archive) -> None:
        archive = make_archive({"http.bulkdata_uri": "path"})
        ds = instance()
        archive.store(ds)
        found = archive.get("/dicom-web" + url(ds) + "/metadata").json[0]
        assert found["7FE00010"]["BulkDataURI"] == f"/dicom-web{url(ds)}/bulkdata/7FE00010"

    def test_text_that_looks_like_a_uri_is_left_alone(self, archive: Client) -> None:
        ds = instance(StudyDescription='"BulkDataURI":"/x')
        archive.store(ds)
        assert archive.get(url(ds) + "/metadata").json[0]["00081030"]["Value"] == ['"BulkDataURI":"/x']

    def test_includefield(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        found = archive.get(url(ds) + "/metadata?includefield=PatientName,00280010").json[0]
        assert set(found) == {"00100010", "00280010", "00080016", "00080018", "0020000D", "0020000E"}

    def test_etag_changes_with_the_series(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        path = f"/studies/{ds.StudyInstanceUID}/metadata"
        etag = archive.get(path).headers["ETag"]
        assert archive.get(path, headers={"If-None-Match": etag}).status_int == 304
        archive.store(instance(str(ds.StudyInstanceUID)))
        assert archive.get(path, headers={"If-None-Match": etag}).status_int == 200

    def test_merged_accept_of_older_viewers(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        accept = "application/dicom+json, multipart/related; type=application/octet-stream; transfer-syntax=*"
        answer = archive.get(url(ds) + "/metadata", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "application/dicom+json"

    def test_xml(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        answer = archive.get(url(ds) + "/metadata", headers={"Accept": "application/dicom+xml"})
        assert answer.headers["Content-Type"].startswith('multipart/related; type="application/dicom+xml"')
        assert b"<FamilyName>Doe</FamilyName>" in answer.body


class TestFrames:
    def test_native(self, archive: Client) -> None:
        ds = instance(NumberOfFrames=2, PixelData=bytes(range(128)))
        archive.store(ds)
        for accept in (ANY_OCTETS, 'multipart/related; type="*/*"', "multipart/related; type=application/octet-stream"):
            found = parts(archive.get(url(ds) + "/frames/2", headers={"Accept": accept}))
            assert found[0][1] == bytes(range(64, 128))
            assert "transfer-syntax=1.2.840.10008.1.2.1" in found[0][0]["Content-Type"]
        both = parts(archive.get(url(ds) + "/frames/2,1", headers={"Accept": ANY_OCTETS}))
        assert [data[0] for _, data in both] == [64, 0]
        assert len(parts(archive.get(url(ds) + "/frames", headers={"Accept": ANY_OCTETS}))) == 2
        assert len(parts(archive.get(url(ds) + "/frames/1-2", headers={"Accept": ANY_OCTETS}))) == 2

    def test_encapsulated(self, archive: Client) -> None:
        frames = [b"\xff\xd8" + bytes([n]) * 20 + b"\xff\xd9" for n in range(3)]
        ds = instance(NumberOfFrames=3, PixelData=encapsulate(frames))
        ds["PixelData"].VR = "OB"
        put_file(archive, part10(ds, transfer_syntax_uid=JPEGBaseline8Bit))
        found = parts(archive.get(url(ds) + "/frames/1,3", headers={"Accept": 'multipart/related; type="*/*"'}))
        assert [data for _, data in found] == [frames[0], frames[2]]
        assert found[0][0]["Content-Type"] == f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"
        jls = 'multipart/related; type="image/jls"; transfer-syntax="1.2.840.10008.1.2.4.80"; transfer-syntax="*"'
        assert parts(archive.get(url(ds) + "/frames/1", headers={"Accept": jls}))[0][1] == frames[0]
        bulk = parts(archive.get(url(ds) + "/bulkdata/7FE00010", headers={"Accept": ANY_OCTETS}))
        assert [data for _, data in bulk] == frames
        joined = archive.get(
            url(ds) + "/bulkdata/7FE00010", headers={"Accept": "application/octet-stream; transfer-syntax=*"}
        )
        assert joined.body == b"".join(frames)

    def test_big_endian_in_little_endian(self, archive: Client) -> None:
        ds = instance(BitsAllocated=16, BitsStored=16, HighBit=15, PixelData=bytes(range(128)))
        ds["PixelData"].VR = "OW"
        put_file(archive, part10(ds, transfer_syntax_uid=ExplicitVRBigEndian))
        stored = archive.get(url(ds) + "/frames/1", headers={"Accept": "application/octet-stream; transfer-syntax=*"})
        swapped = archive.get(
            url(ds) + "/frames/1", headers={"Accept": "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"}
        )
        assert {stored.body[:2], swapped.body[:2]} == {b"\0\1", b"\1\0"}

    @pytest.mark.parametrize(
        ("numbers", "status"), [("0", 400), ("x", 400), ("-1", 400), ("3", 404), ("1,3", 404), ("2-1", 400)]
    )
    def test_refusals(self, archive: Client, numbers: str, status: int) -> None:
        ds = instance(NumberOfFrames=2, PixelData=bytes(128))
        archive.store(ds)
        answer = archive.get(url(ds) + f"/frames/{numbers}", headers={"Accept": ANY_OCTETS}, status=status)
        assert answer.json["reason"]

    def test_no_pixels(self, archive: Client) -> None:
        ds = instance(PixelData=None)
        archive.store(ds)
        archive.get(url(ds) + "/frames/1", status=404)
        archive.get(url(ds) + "/pixeldata", status=404)

    def test_other_media_type(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        accept = 'multipart/related; type="text/csv"'
        assert archive.get(url(ds) + "/frames/1", headers={"Accept": accept}, status=406).json["offered"]

    def test_several_frames_need_multipart(self, archive: Client) -> None:
        ds = instance(NumberOfFrames=2, PixelData=bytes(128))
        archive.store(ds)
        refused = archive.get(url(ds) + "/frames/1,2", headers={"Accept": "application/octet-stream"}, status=406)
        assert all(offer.startswith("multipart/related") for offer in refused.json["offered"])
        for accept in ({"Accept": "*/*"}, {}, {"Accept": "text/html, */*;q=0.5"}):
            assert [data for _, data in parts(archive.get(url(ds) + "/frames/1,2", headers=accept))] == [bytes(64)] * 2
            assert archive.get(url(ds) + "/frames/1", headers=accept).body == bytes(64)

    def test_ranges(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        path = url(ds) + "/frames/1"
        single = archive.get(path, headers={"Accept": "application/octet-stream", "Range": "bytes=10-29"})
        assert (single.status_int, single.body) == (206, bytes(range(10, 30)))
        multi = archive.get(path, headers={"Accept": ANY_OCTETS, "Range": "bytes=0-3"})
        assert multi.status_int == 206
        assert parts(multi)[0][1] == bytes(range(4))
        assert parts(multi)[0][0]["Content-Range"] == "bytes 0-3/64"

    def test_caching(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        first = archive.get(url(ds) + "/frames/1", headers={"Accept": ANY_OCTETS})
        assert "immutable" in first.headers["Cache-Control"]
        again = {"Accept": ANY_OCTETS, "If-None-Match": first.headers["ETag"]}
        assert archive.get(url(ds) + "/frames/1", headers=again).status_int == 304


class TestBulkData:
    def test_inside_sequences(self, archive: Client) -> None:
        item = pydicom.Dataset()
        item.ICCProfile = bytes(range(256)) * 8
        ds = instance(OpticalPathSequence=[item])
        archive.store(ds)
        found = archive.get(url(ds) + "/metadata").json[0]
        uri = found["00480105"]["Value"][0]["00282000"]["BulkDataURI"]
        assert archive.get(uri, headers={"Accept": "*/*"}).body == item.ICCProfile
        assert (
            archive.get(uri, headers={"Accept": 'multipart/related; type="*/*"', "Range": "bytes=0-99"}).status_int
            == 206
        )

    def test_all_of_a_study(self, archive: Client) -> None:
        study = generate_uid()
        archive.store(instance(study), instance(study))
        for name in ("bulkdata", "pixeldata"):
            found = parts(archive.get(f"/studies/{study}/{name}", headers={"Accept": ANY_OCTETS}))
            assert [data for _, data in found] == [bytes(range(64))] * 2
            assert all("Content-Location" in head for head, _ in found)

    def test_document_by_its_own_type(self, archive: Client) -> None:
        ds = instance(
            PixelData=None, EncapsulatedDocument=b"%PDF" + bytes(2000), MIMETypeOfEncapsulatedDocument="application/pdf"
        )
        archive.store(ds)
        uri = archive.get(url(ds) + "/metadata").json[0]["00420011"]["BulkDataURI"]
        wish = 'multipart/related; type="application/pdf", multipart/related; type="application/octet-stream"'
        assert parts(archive.get(uri, headers={"Accept": wish}))[0][0]["Content-Type"] == "application/pdf"
        assert archive.get(uri, headers={"Accept": "application/pdf"}).body.startswith(b"%PDF")

    def test_unknown(self, archive: Client) -> None:
        ds = instance()
        archive.store(ds)
        for key in ("00100010", "..", "7FE00010/1", "x" * 300):
            archive.get(url(ds) + f"/bulkdata/{key}", status=404)

    def test_deflated(self, archive: Client) -> None:
        data = (PYDICOM_FILES / "image_dfl.dcm").read_bytes()
        ds = put_file(archive, data)
        frame = archive.get(url(ds) + "/frames/1", headers={"Accept": "application/octet-stream; transfer-syntax=*"})
        assert frame.body == ds.PixelData[: len(frame.body)]
        assert len(frame.body) == ds.Rows * ds.Columns * ds.BitsAllocated // 8 * ds.SamplesPerPixel


class TestDelete:
    def test_each_level(self, archive: Client) -> None:
        study, series = generate_uid(), generate_uid()
        kept, gone = instance(study, series), instance(study, series)
        other = instance(study)
        archive.store(kept, gone, other)
        assert archive.delete(url(gone)).status_int == 204
        archive.get(url(gone) + "/metadata", status=404)
        assert archive.search("/studies")[0]["00201208"]["Value"] == [2]
        archive.delete(f"/studies/{study}/series/{series}")
        assert archive.search("/studies")[0]["00201206"]["Value"] == [1]
        archive.get(url(kept), status=404)
        archive.delete(f"/studies/{study}")
        assert archive.search("/studies") == []
        assert archive.search("/patients") == []
        archive.delete(f"/studies/{study}", status=404)

    def test_bytes_go_and_can_come_back(self, make_archive: Archive, tmp_path: Any) -> None:
        archive = make_archive({"remove.retention_days": 0})
        ds = instance()
        archive.store(ds)
        archive.delete(url(ds))
        deadline = time.monotonic() + 30  # in the background
        while any(p.is_file() for p in tmp_path.rglob("blobs/**/*")):
            assert time.monotonic() < deadline
        assert archive.store(ds).status_int == 200
        archive.get(url(ds))
