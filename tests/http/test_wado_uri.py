"""WADO-URI: at its three places, files and pictures, and what is refused in words."""

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from tests.http.conftest import Client
from tests.http.test_rendered import PDF_CLASS, SR_CLASS, presentation_state, without_pixels
from tests.http.test_transcoding import grey, stored
from tests.http.test_wado import parts
from tests.samples import PYDICOM_FILES


@pytest.fixture(scope="module")
def archive(shared_archive: Client) -> Client:
    """The same for all tests here: decoders take their time to start."""
    return shared_archive


def asked(ds: Any, **parameters: str) -> str:
    """The query for an instance; only its UID is needed."""
    rest = "".join(f"&{name}={value}" for name, value in parameters.items())
    return f"requestType=WADO&objectUID={ds.SOPInstanceUID}{rest}"


def shown(archive: Client, query: str) -> Image.Image:
    answer = archive.get("/wado?" + query)
    image = Image.open(io.BytesIO(answer.body))
    assert answer.headers["Content-Type"] == f"image/{(image.format or '').lower()}"
    return image


class TestPlaces:
    @pytest.mark.parametrize("place", ["/wado", "/dicom-web/wado", "/", "/dicom-web", "/api/dicom/wado"])
    def test_the_same_at_each(self, archive: Client, place: str) -> None:
        ds = stored(archive, "CT_small.dcm")
        answer = archive.get(f"{place}?{asked(ds, contentType='application/dicom', transferSyntax='*')}")
        assert answer.body == (PYDICOM_FILES / "CT_small.dcm").read_bytes()
        assert answer.headers["Content-Type"] == "application/dicom"
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{ds.SOPInstanceUID}.dcm"'

    def test_the_root_is_still_the_root(self, archive: Client) -> None:
        assert archive.get("/").json["server"] == "dicomweb-server"
        assert archive.get("/?x=1").json["server"] == "dicomweb-server"

    def test_head(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        head = archive.head("/wado?" + asked(ds, contentType="application/dicom", transferSyntax="*"))
        assert head.headers["Content-Length"] == str((PYDICOM_FILES / "CT_small.dcm").stat().st_size)


class TestWhichInstance:
    def test_names_have_any_case_and_upper_uids_are_checked(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        whole = f"REQUESTTYPE=WADO&studyuid={ds.StudyInstanceUID}&SeriesUID={ds.SeriesInstanceUID}"
        archive.get(f"/wado?{whole}&objectUID={ds.SOPInstanceUID}&unknown=1")
        for wrong in (
            asked(ds, studyUID="1.2.3"),
            asked(ds, seriesUID="1.2.3"),
            asked(ds, studyUID=ds.StudyInstanceUID, seriesUID="1.2.3"),
            asked(ds, studyUID="1.2.3", seriesUID=ds.SeriesInstanceUID),
            "requestType=WADO&objectUID=1.2.3",
        ):
            assert archive.get("/wado?" + wrong, status=404).json["reason"]

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("objectUID=1.2", "requestType"),
            ("requestType=QIDO&objectUID=1.2", "requestType"),
            ("requestType=WADO", "objectUID"),
            ("requestType=WADO&objectUID=../etc", "objectUID"),
            ("requestType=WADO&objectUID=1.2&studyUID=*", "studyUID"),
            ("requestType=WADO&objectUID=1.2&anonymize=yes", "anonymize"),
            ("requestType=WADO&objectUID=1.2&transferSyntax=JPEG", "transferSyntax"),
        ],
    )
    def test_malformed(self, archive: Client, query: str, words: str) -> None:
        assert words in archive.get("/wado?" + query, status=400).json["reason"]


class TestFiles:
    def test_transfer_syntax(self, archive: Client) -> None:
        ds = stored(archive, "MR_small_RLE.dcm")
        for parameters, syntax in (
            ({}, ExplicitVRLittleEndian),
            ({"transferSyntax": "*"}, RLELossless),
            ({"transferSyntax": RLELossless}, RLELossless),
            ({"transferSyntax": JPEGLSLossless}, JPEGLSLossless),
        ):
            answer = archive.get("/wado?" + asked(ds, contentType="application%2Fdicom", **parameters))
            found = pydicom.dcmread(io.BytesIO(answer.body))
            assert found.file_meta.TransferSyntaxUID == syntax
            assert np.array_equal(found.pixel_array, ds.pixel_array)
        archive.get("/wado?" + asked(ds, contentType="application/dicom", transferSyntax="1.2.3"), status=406)

    def test_accept_decides_where_content_type_is_left_out(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        answer = archive.get("/wado?" + asked(ds), headers={"Accept": "application/dicom"})
        assert answer.headers["Content-Type"] == "application/dicom"
        answer = archive.get("/wado?" + asked(ds, contentType="image/png"), headers={"Accept": "application/dicom"})
        assert answer.headers["Content-Type"] == "image/png"

    def test_what_has_no_picture_is_a_file(self, archive: Client) -> None:
        ds = stored(archive, "rtplan.dcm")
        assert archive.get("/wado?" + asked(ds)).headers["Content-Type"] == "application/dicom"
        archive.get("/wado?" + asked(ds, contentType="image/jpeg"), status=406)


class TestFrames:
    def test_frames_as_stored(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        found = parts(archive.get("/?" + asked(ds, frame="2,1")))
        assert len(found) == 2
        assert found[0][0]["Content-Type"] == f"image/dicom-rle; transfer-syntax={RLELossless}"
        native = parts(archive.get("/wado?" + asked(ds, frame="2", transferSyntax=ExplicitVRLittleEndian)))
        assert native[0][1] == ds.pixel_array[1].tobytes()
        archive.get("/wado?" + asked(ds, frame="3"), status=404)
        archive.get("/wado?" + asked(ds, frame="0"), status=400)

    def test_a_viewer_that_leaves_frame_in_the_url_of_a_file_gets_the_file(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        query = asked(ds, contentType="application/dicom", transferSyntax="*", frame="1")
        assert archive.get("/wado?" + query).body == (PYDICOM_FILES / "SC_rgb_rle_2frame.dcm").read_bytes()


class TestPictures:
    def test_jpeg_is_the_default(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        image = shown(archive, asked(ds))
        assert (image.format, image.size) == ("JPEG", (128, 128))
        for media in ("image/png", "image/gif", "image/webp", "image%2Fjpeg"):
            assert shown(archive, asked(ds, contentType=media)).size == (128, 128)

    def test_size_region_and_window(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        assert shown(archive, asked(ds, rows="64")).size == (64, 64)
        assert shown(archive, asked(ds, rows="64", columns="32")).size == (32, 32)
        assert shown(archive, asked(ds, region="0,0,0.5,0.25")).size == (64, 32)
        whole = np.asarray(shown(archive, asked(ds, contentType="image/png")))
        part = np.asarray(shown(archive, asked(ds, contentType="image/png", region="0.5,0.5,1,1")))
        assert np.array_equal(part, whole[64:, 64:])
        dark = asked(ds, contentType="image/png", windowCenter="3000", windowWidth="100")
        assert np.asarray(shown(archive, dark)).mean() < whole.mean()

    def test_frame_number_quality_annotation_and_profile(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        second = asked(ds, frameNumber="2")
        bodies = {
            archive.get("/wado?" + query).body
            for query in (
                asked(ds),
                second,
                second + "&imageQuality=10",
                second + "&annotation=patient",
                second + "&iccprofile=srgb",
            )
        }
        assert len(bodies) == 5
        archive.get("/wado?" + asked(ds, frameNumber="3"), status=404)

    @pytest.mark.parametrize(
        "parameters",
        [
            {"frameNumber": "x"}, {"frameNumber": "0"}, {"frameNumber": "1,1"}, {"imageQuality": "0"}, {"rows": "-1"},
            {"columns": "100000"}, {"region": "0,0,2,2"}, {"region": "1"}, {"windowCenter": "1"}, {"windowWidth": "1"},
            {"windowCenter": "a", "windowWidth": "1"}, {"iccprofile": "cmyk"}, {"annotation": "name"},
            {"rows": ""}, {"region": ""}, {"frameNumber": ""}, {"windowCenter": "", "windowWidth": ""},
        ],
    )  # fmt: skip
    def test_values_that_nothing_has(self, archive: Client, parameters: dict[str, str]) -> None:
        ds = stored(archive, "CT_small.dcm")
        assert archive.get("/wado?" + asked(ds, **parameters), status=400).json["reason"]

    def test_documents(self, archive: Client) -> None:
        report = without_pixels(SR_CLASS, ValueType="CONTAINER")
        pdf = without_pixels(
            PDF_CLASS, EncapsulatedDocument=b"%PDF-1.4", MIMETypeOfEncapsulatedDocument="application/pdf"
        )
        archive.store(report, pdf)
        page = archive.get("/wado?" + asked(report))
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Content-Security-Policy"].startswith("sandbox")
        assert archive.get("/wado?" + asked(pdf)).body == b"%PDF-1.4"
        assert archive.get("/wado?" + asked(pdf, contentType="application/dicom")).body[128:132] == b"DICM"

    def test_a_presentation_state_is_applied(self, archive: Client) -> None:
        image, other = grey(), grey()
        state = presentation_state(image)
        foreign = presentation_state(other)
        foreign.StudyInstanceUID = image.StudyInstanceUID
        archive.store(image, other, state, foreign)
        query = asked(image, contentType="image/png")
        plainly = np.asarray(shown(archive, query))
        applied = f"{query}&presentationUID={state.SOPInstanceUID}&presentationSeriesUID={state.SeriesInstanceUID}"
        assert np.array_equal(np.asarray(shown(archive, applied)), plainly[:, ::-1])
        archive.get(f"/wado?{query}&presentationUID={foreign.SOPInstanceUID}", status=400)
        archive.get(f"/wado?{query}&presentationUID={image.SOPInstanceUID}", status=400)
        archive.get(f"/wado?{query}&presentationUID=1.2.3", status=404)

    def test_conditions(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        for query in (asked(ds), asked(ds, contentType="application/dicom")):
            whole = archive.get("/wado?" + query)
            again = archive.get("/wado?" + query, headers={"If-None-Match": whole.headers["ETag"]})
            assert again.status_int == 304
