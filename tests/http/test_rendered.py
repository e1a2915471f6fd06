"""Rendered resources and thumbnails through HTTP: media types, parameters, what stands for a study, what is refused."""

import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import MPEG4HP41, JPEGBaseline8Bit, generate_uid

from tests.http.conftest import Archive, Client
from tests.http.test_transcoding import broken, grey, stored
from tests.http.test_wado import parts, put_file
from tests.samples import PYDICOM_FILES, instance, part10, sample_files, url

JPEGS = 'multipart/related; type="image/jpeg"'
OHIF_THUMBNAIL = 'multipart/related; type="application/octet-stream"'
SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.11"
PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
CDA_CLASS = "1.2.840.10008.5.1.4.1.1.104.2"
PR_CLASS = "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(scope="module")
def archive(shared_archive: Client) -> Client:
    """The same for all tests here: decoders take their time to start."""
    return shared_archive


def picture(answer: Any) -> Image.Image:
    """The image of an answer, whose type is what it says."""
    image = Image.open(io.BytesIO(answer.body))
    assert answer.headers["Content-Type"] == f"image/{(image.format or '').lower()}"
    return image


def plain(archive: Client, path: str, **headers: str) -> Image.Image:
    return picture(archive.get(path, headers={"Accept": "image/png", **headers}))


def without_pixels(sop_class: str, **attributes: Any) -> Dataset:
    ds = instance(PixelData=None, Rows=None, Columns=None, SOPClassUID=sop_class)
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def presentation_state(image: Dataset, **attributes: Any) -> Dataset:
    """A state for an image: mirrored, unless other attributes say more."""
    ds = without_pixels(PR_CLASS, StudyInstanceUID=image.StudyInstanceUID, Modality="PR")
    series, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedImageSequence = image.SeriesInstanceUID, Sequence([reference])
    ds.ReferencedSeriesSequence = Sequence([series])
    ds.ImageHorizontalFlip, ds.ImageRotation = "Y", 0
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


class TestImages:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name)
    def test_every_sample_is_a_picture_or_says_why_not(self, archive: Client, path: Path) -> None:
        ds = put_file(archive, path.read_bytes())
        answer = archive.get(url(ds) + "/rendered", headers={"Accept": "image/*"}, expect_errors=True)
        if answer.status_int == 200:
            image = picture(answer)
            assert max(image.size) >= max(ds.Rows, ds.Columns)
        else:
            assert answer.status_int in (404, 406, 422)
            assert answer.json["reason"]
        thumbnail = archive.get(url(ds) + "/thumbnail", expect_errors=True)
        if answer.status_int in (200, 406):
            assert picture(thumbnail).format == "JPEG"
            assert max(picture(thumbnail).size) <= 256

    @pytest.mark.parametrize(
        ("accept", "media"),
        [
            ("*/*", "image/jpeg"),
            ("image/png", "image/png"),
            ("image/gif", "image/gif"),
            ("image/webp", "image/webp"),
            ("image/avif,image/webp,image/apng,*/*;q=0.8", "image/webp"),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "image/jpeg"),
            ("image/jpeg;q=0.5, image/png", "image/png"),
        ],
    )
    def test_media_types(self, archive: Client, accept: str, media: str) -> None:
        ds = stored(archive, "CT_small.dcm")
        answer = archive.get(url(ds) + "/rendered", headers={"Accept": accept})
        assert answer.headers["Content-Type"] == media
        assert picture(answer).size == (128, 128)
        by_parameter = archive.get(url(ds) + f"/rendered?accept={media}", headers={"Accept": "text/csv"})
        assert by_parameter.body == answer.body

    def test_what_is_not_offered(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        refused = archive.get(url(ds) + "/rendered", headers={"Accept": "application/pdf"}, status=406)
        assert "image/jpeg" in refused.json["offered"]
        rt_plan = stored(archive, "rtplan.dcm")
        assert archive.get(url(rt_plan) + "/rendered", status=406).json["reason"]

    def test_dcmtk_agrees(self, archive: Client, tmp_path: Path) -> None:
        program = shutil.which("dcmj2pnm")
        if program is None:
            pytest.skip("needs dcmj2pnm of DCMTK")
        for name, window in (("CT_small.dcm", "0,500"), ("MR_small.dcm", "600,1200")):
            ds = stored(archive, name)
            out = tmp_path / f"{name}.pgm"
            command = [program, "+Ww", *window.split(","), str(PYDICOM_FILES / name), str(out)]
            subprocess.run(command, check=True, capture_output=True)
            wanted = np.asarray(Image.open(out), int)
            found = np.asarray(plain(archive, url(ds) + f"/rendered?window={window},linear"), int)
            assert np.abs(found - wanted).max() <= 1

    @pytest.mark.parametrize(
        ("query", "size"),
        [
            ("viewport=64,64", (64, 64)),
            ("viewport=64,32", (32, 32)),
            ("viewport=64,64,0,0,64,32", (64, 32)),
            ("viewport=20,20,,,,", (20, 20)),
            ("viewport=256,256", (256, 256)),
        ],
    )
    def test_viewport(self, archive: Client, query: str, size: tuple[int, int]) -> None:
        ds = stored(archive, "CT_small.dcm")
        assert plain(archive, url(ds) + "/rendered?" + query).size == size

    def test_viewport_mirrors(self, archive: Client) -> None:
        ds = grey()
        archive.store(ds)
        whole = np.asarray(plain(archive, url(ds) + "/rendered"))
        mirrored = np.asarray(plain(archive, url(ds) + "/rendered?viewport=32,32,0,0,-32,32"))
        turned = np.asarray(plain(archive, url(ds) + "/rendered?viewport=32,32,0,0,32,-32"))
        assert np.array_equal(mirrored, whole[:, ::-1])
        assert np.array_equal(turned, whole[::-1])

    def test_parameters_change_the_picture(self, archive: Client) -> None:
        ds = stored(archive, "CT_small.dcm")
        seen = {archive.get(url(ds) + "/rendered").body}
        for query in (
            "window=40,400,linear",
            "window=40,400,sigmoid",
            "quality=10",
            "annotation=patient",
            "annotation=technique",
            "annotation=patient,technique",
        ):
            answer = archive.get(url(ds) + "/rendered?" + query)
            assert answer.body not in seen, query
            seen.add(answer.body)
        assert archive.get(url(ds) + "/rendered?unknown=").body in seen

    def test_colour_profiles(self, archive: Client) -> None:
        ds = stored(archive, "examples_rgb_color.dcm")
        assert "icc_profile" not in picture(archive.get(url(ds) + "/rendered")).info
        assert picture(archive.get(url(ds) + "/rendered?iccprofile=SRGB")).info["icc_profile"]

    @pytest.mark.parametrize(
        "query",
        [
            "window=1", "window=1,2,round", "window=a,b", "window=1,0.5,linear", "window=nan,1",
            "viewport=0,10", "viewport=100000,100000", "viewport=10", "viewport=10,10,500,500,1,1", "viewport=-5,5",
            "quality=0", "quality=101", "quality=x", "annotation=name", "iccprofile=cmyk",
            "window=", "viewport=", "viewport", "quality=", "annotation=", "iccprofile=%20",
        ],
    )  # fmt: skip
    def test_values_that_nothing_has(self, archive: Client, query: str) -> None:
        ds = stored(archive, "CT_small.dcm")
        assert archive.get(url(ds) + "/rendered?" + query, status=400).json["reason"]

    def test_broken_pixels(self, archive: Client) -> None:
        ds = put_file(archive, broken())
        for path in ("/rendered", "/thumbnail", "/frames/1/rendered"):
            assert "JPEG" in archive.get(url(ds) + path, status=422).json["reason"]

    def test_a_bomb_is_refused(self, archive: Client) -> None:
        ds = instance(Rows=65535, Columns=65535, PixelData=encapsulate([b"\xff\xd8\xff\xd9"]))
        ds["PixelData"].VR = "OB"
        put_file(archive, part10(ds, transfer_syntax_uid=JPEGBaseline8Bit))
        for path in ("/rendered", "/thumbnail"):
            archive.get(url(ds) + path, status=422)

    def test_pixel_data_that_is_too_short_is_told_apart_from_none(self, archive: Client) -> None:
        ds = put_file(archive, part10(instance(PixelData=bytes(2))))
        for path, status in (("/rendered", 422), ("/frames/1", 404), ("/frames/1/rendered", 404)):
            assert "does not hold the frames" in archive.get(url(ds) + path, status=status).json["reason"]
        assert picture(archive.get(url(ds) + "/thumbnail")).format == "JPEG"

    def test_conditions_and_head(self, make_archive: Archive) -> None:
        archive = make_archive()
        ds = stored(archive, "CT_small.dcm")
        for path in ("/rendered", "/thumbnail"):
            whole = archive.get(url(ds) + path)
            assert "immutable" in whole.headers["Cache-Control"]
            again = archive.get(url(ds) + path, headers={"If-None-Match": whole.headers["ETag"]})
            assert (again.status_int, again.headers["ETag"]) == (304, whole.headers["ETag"])
            head = archive.head(url(ds) + path)
            assert head.headers["Content-Length"] == str(len(whole.body))
            other = archive.get(url(ds) + path + "?viewport=9,9")
            assert other.headers["ETag"] != whole.headers["ETag"]

    def test_unknown_and_malformed(self, archive: Client) -> None:
        for path in ("/rendered", "/thumbnail"):
            for place in ("/studies/1.2.3", "/studies/1.2.3/series/1.2", "/studies/1.2.3/series/1.2/instances/1"):
                archive.get(place + path, status=404)
            archive.get("/studies/x" + path, status=400)


class TestFrames:
    def test_single_list_and_animation(self, archive: Client) -> None:
        ds = stored(archive, "examples_ybr_color.dcm")
        frames = url(ds) + "/frames/"
        first, third = (archive.get(f"{frames}{n}/rendered").body for n in (1, 3))
        assert first != third
        assert archive.get(url(ds) + "/rendered").body == first
        found = parts(archive.get(f"{frames}3,1/rendered", headers={"Accept": JPEGS}))
        assert [data for _, data in found] == [third, first]
        assert found[0][0]["Content-Location"] == "http://localhost" + frames + "3/rendered"
        assert archive.get(f"{frames}3,1/rendered").body == third
        gif = picture(archive.get(f"{frames}1-5/rendered", headers={"Accept": "image/gif"}))
        assert getattr(gif, "n_frames", 1) == 5
        assert (
            getattr(picture(archive.get(url(ds) + "/rendered?accept=image/gif&viewport=64,64")), "n_frames", 1) > 20
        )  # alike ones are one

    def test_instance_as_multipart_has_every_frame(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        answer = archive.get(url(ds) + "/rendered", headers={"Accept": JPEGS})
        assert len(parts(answer)) == 2

    @pytest.mark.parametrize(("numbers", "status"), [("0", 400), ("x", 400), ("3", 404), ("1,3", 404)])
    def test_refusals(self, archive: Client, numbers: str, status: int) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        archive.get(f"{url(ds)}/frames/{numbers}/rendered", status=status)
        if "," not in numbers:
            archive.get(f"{url(ds)}/frames/{numbers}/thumbnail", status=status)
        archive.get(f"{url(ds)}/frames/1,2/thumbnail", status=400)

    def test_another_image_stands_for_a_series_whose_middle_is_damaged(self, archive: Client) -> None:
        study, series = generate_uid(), generate_uid()
        middle = pydicom.dcmread(io.BytesIO(broken()))
        middle.StudyInstanceUID, middle.SeriesInstanceUID, middle.InstanceNumber = study, series, 2
        ends = [grey(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number) for number in (1, 3)]
        for file in (*map(part10, ends), part10(middle, transfer_syntax_uid=JPEGBaseline8Bit)):
            put_file(archive, file)
        neighbour = archive.get(url(ends[1]) + "/thumbnail").body
        for path in (f"/studies/{study}", f"/studies/{study}/series/{series}"):
            first = archive.get(path + "/thumbnail")
            assert first.body == neighbour
            again = {"If-None-Match": first.headers["ETag"]}
            assert archive.get(path + "/thumbnail", headers=again).status_int == 304
        # What is asked for by its name is not replaced.
        assert "decoded" in archive.get(url(middle) + "/thumbnail", status=422).json["reason"]

    def test_another_picture_stands_for_a_series_whose_middle_is_damaged(self, archive: Client) -> None:
        study, series = generate_uid(), generate_uid()
        middle = pydicom.dcmread(io.BytesIO(broken()))
        middle.StudyInstanceUID, middle.SeriesInstanceUID, middle.InstanceNumber = study, series, 2
        places = (f"/studies/{study}", f"/studies/{study}/series/{series}")
        put_file(archive, part10(middle, transfer_syntax_uid=JPEGBaseline8Bit))
        for path in places:
            assert "decoded" in archive.get(path + "/rendered", status=422).json["reason"]
        ends = [grey(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=number) for number in (1, 3)]
        archive.store(*ends)
        for path in places:
            shown = archive.get(path + "/rendered?window=40,80", headers={"Accept": "image/png"})
            expected = archive.get(url(ends[1]) + "/rendered?window=40,80", headers={"Accept": "image/png"})
            assert shown.body == expected.body
            assert "damaged" in shown.headers["Warning"]
            assert shown.headers["Cache-Control"] == "private, no-cache"
            assert len(parts(archive.get(path + "/rendered", headers={"Accept": JPEGS}))) == 2
        archive.get(url(middle) + "/rendered", status=422)

    def test_another_series_stands_for_a_study_whose_first_is_damaged(self, archive: Client) -> None:
        first = pydicom.dcmread(io.BytesIO(broken()))
        first.SeriesNumber = 1
        second = grey(StudyInstanceUID=first.StudyInstanceUID, SeriesNumber=2)
        put_file(archive, part10(first, transfer_syntax_uid=JPEGBaseline8Bit))
        study = f"/studies/{first.StudyInstanceUID}"
        alone = archive.get(study + "/thumbnail")
        assert picture(alone).size == (256, 256)  # an icon
        put_file(archive, part10(second))
        found = archive.get(study + "/thumbnail", headers={"If-None-Match": alone.headers["ETag"]})
        assert found.body == archive.get(url(second) + "/thumbnail").body
        series = f"{study}/series/{first.SeriesInstanceUID}/thumbnail"
        assert archive.get(series, headers={"Accept": "image/png"}).headers["Content-Type"] == "image/png"

    def test_thumbnail_of_a_frame(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        second = archive.get(f"{url(ds)}/frames/2/thumbnail").body
        assert archive.get(f"{url(ds)}/frames/1/thumbnail").body != second
        assert archive.get(f"{url(ds)}/thumbnail").body == second  # the middle one


class TestStudies:
    def test_the_middle_stands_for_a_series_and_its_study(self, archive: Client) -> None:
        study, series = generate_uid(), generate_uid()
        images = [
            grey(StudyInstanceUID=study, SeriesInstanceUID=series, InstanceNumber=n, PixelData=bytes([40 * n]) * 1024,
                 WindowCenter=128, WindowWidth=256, SeriesNumber=2)
            for n in (5, 1, 3, 2, 4)
        ]  # fmt: skip
        report = without_pixels(SR_CLASS, StudyInstanceUID=study, SeriesNumber=1, Modality="SR")
        archive.store(*images, report)
        middle = url(images[2])
        for place in (f"/studies/{study}", f"/studies/{study}/series/{series}"):
            assert archive.get(place + "/thumbnail").body == archive.get(middle + "/thumbnail").body
            assert archive.get(place + "/rendered").body == archive.get(middle + "/rendered").body
            every = archive.get(place + "/rendered", headers={"Accept": JPEGS})
            pieces = every.body.split(b"Content-Type: image/jpeg\r\n")[1:]
            assert len(pieces) == 5
            assert b"Content-Location: http://localhost" + url(images[1]).encode() in pieces[0]

    def test_new_instances_change_the_tag(self, archive: Client) -> None:
        study = generate_uid()
        archive.store(grey(StudyInstanceUID=study))
        before = archive.get(f"/studies/{study}/rendered")
        assert before.headers["Cache-Control"] == "private, no-cache"
        archive.store(grey(StudyInstanceUID=study))
        assert archive.get(f"/studies/{study}/rendered").headers["ETag"] != before.headers["ETag"]

    def test_one_broken_image_is_left_out(self, archive: Client) -> None:
        study = generate_uid()
        bad = pydicom.dcmread(io.BytesIO(broken()))
        bad.StudyInstanceUID = study
        put_file(archive, part10(bad, transfer_syntax_uid=JPEGBaseline8Bit))
        archive.get(f"/studies/{study}/rendered", headers={"Accept": JPEGS}, status=422)
        archive.store(grey(StudyInstanceUID=study))
        answer = archive.get(f"/studies/{study}/rendered", headers={"Accept": JPEGS})
        assert len(parts(answer)) == 1


class TestThumbnails:
    @pytest.mark.parametrize("accept", [OHIF_THUMBNAIL, "application/json", "text/html", "rubbish", "*/*"])
    def test_never_406(self, archive: Client, accept: str) -> None:
        ds = stored(archive, "CT_small.dcm")
        for query in ("", "?accept=image%2Fjpeg"):
            answer = archive.get(url(ds) + "/thumbnail" + query, headers={"Accept": accept})
            assert picture(answer).format == "JPEG"

    @pytest.mark.parametrize(
        ("query", "side"),
        [("", 256), ("viewport=64,64", 64), ("viewport=64,32", 64), ("viewport=9,9&accept=image/png", 9)],
    )
    def test_sizes(self, archive: Client, query: str, side: int) -> None:
        ds = stored(archive, "examples_palette.dcm")
        assert max(picture(archive.get(f"{url(ds)}/thumbnail?{query}")).size) == side

    @pytest.mark.parametrize("media", ["image/jpeg", "image/png"])
    def test_a_small_image_is_not_enlarged(self, archive: Client, media: str) -> None:
        ds = stored(archive, "CT_small.dcm")
        assert picture(archive.get(url(ds) + "/thumbnail", headers={"Accept": media})).size == (128, 128)

    @pytest.mark.parametrize("name", ["rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm"])
    def test_an_icon_for_what_has_no_pixels(self, archive: Client, name: str) -> None:
        ds = stored(archive, name)
        for place in (url(ds), f"/studies/{ds.StudyInstanceUID}"):
            assert picture(archive.get(place + "/thumbnail")).size == (256, 256)
            assert plain(archive, place + "/thumbnail").format == "PNG"


class TestDocuments:
    def test_reports_are_escaped_and_sandboxed(self, archive: Client) -> None:
        ds = without_pixels(SR_CLASS, ValueType="CONTAINER", ContinuityOfContent="SEPARATE")
        item = Dataset()
        item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "<script>alert('ü')</script>"
        ds.ContentSequence = Sequence([item])
        archive.store(ds)
        page = archive.get(url(ds) + "/rendered")
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert page.headers["Content-Security-Policy"].startswith("sandbox")
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(&#x27;ü&#x27;)" in page.text
        text = archive.get(url(ds) + "/rendered", headers={"Accept": "text/plain"})
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "<script>" in text.text

    def test_pdf(self, archive: Client) -> None:
        pdf = b"%PDF-1.4 " + bytes(range(256)) * 9
        ds = without_pixels(
            PDF_CLASS, EncapsulatedDocument=pdf + b"\0", MIMETypeOfEncapsulatedDocument="application/pdf"
        )
        ds.EncapsulatedDocumentLength = len(pdf)
        archive.store(ds)
        answer = archive.get(url(ds) + "/rendered", headers={"Accept": "text/html,application/pdf;q=0.9"})
        assert (answer.headers["Content-Type"], answer.body) == ("application/pdf", pdf)
        assert "Content-Security-Policy" not in answer.headers
        part = archive.get(url(ds) + "/rendered", headers={"Range": "bytes=0-3"})
        assert (part.status_int, part.body) == (206, b"%PDF")

    def test_cda_is_sandboxed_and_without_padding(self, archive: Client) -> None:
        for xml in (b"<ClinicalDocument/>", b"<ClinicalDocument>" + b" " * 2001 + b"</ClinicalDocument>"):
            ds = without_pixels(CDA_CLASS, EncapsulatedDocument=xml, MIMETypeOfEncapsulatedDocument="text/XML")
            archive.store(ds)
            answer = archive.get(url(ds) + "/rendered")
            assert (answer.headers["Content-Type"], answer.body) == ("text/xml", xml)
            assert answer.headers["Content-Security-Policy"].startswith("sandbox")

    def test_other_documents_are_not_shown(self, archive: Client) -> None:
        ds = without_pixels(PDF_CLASS, EncapsulatedDocument=b"<script/>", MIMETypeOfEncapsulatedDocument="text/html")
        archive.store(ds)
        archive.get(url(ds) + "/rendered", status=406)

    @pytest.mark.parametrize("fragments", [1, 3])
    def test_video_by_ranges(self, archive: Client, fragments: int) -> None:
        video = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 20
        ds = instance(
            Rows=480, Columns=640, NumberOfFrames=30, PixelData=encapsulate([video], fragments_per_frame=fragments)
        )
        ds["PixelData"].VR = "OB"
        put_file(archive, part10(ds, transfer_syntax_uid=MPEG4HP41))
        for accept in ("*/*", "video/webm,video/ogg,video/*;q=0.9,*/*;q=0.5", "video/mp4"):
            answer = archive.get(url(ds) + "/rendered", headers={"Accept": accept})
            assert answer.headers["Content-Type"] == "video/mp4"
            assert answer.body.rstrip(b"\0") == video.rstrip(b"\0")
        whole = archive.get(url(ds) + "/rendered", headers={"Range": "bytes=0-"})
        assert (whole.status_int, whole.body) == (206, answer.body)
        part = archive.get(url(ds) + "/rendered", headers={"Range": "bytes=1700-1800"})
        assert part.body == answer.body[1700:1801]
        archive.get(url(ds) + "/rendered", headers={"Accept": "image/jpeg"}, status=406)
        assert picture(archive.get(url(ds) + "/thumbnail")).size == (256, 256)


class TestPresentationStates:
    def test_a_state_shows_its_image(self, archive: Client) -> None:
        image = grey()
        state = presentation_state(image)
        archive.store(image, state)
        plainly = np.asarray(plain(archive, url(image) + "/rendered"))
        assert np.array_equal(np.asarray(plain(archive, url(state) + "/rendered")), plainly[:, ::-1])
        assert np.asarray(plain(archive, url(state) + "/rendered?viewport=16,16")).shape == (16, 16)

    def test_a_state_without_its_image(self, archive: Client) -> None:
        state = presentation_state(grey())
        archive.store(state)
        before = archive.get(url(state) + "/rendered", status=404)
        assert before.json["reason"]
        assert archive.get(url(state) + "/thumbnail").status_int == 200


def test_the_results_of_one_version_serve_all(make_archive: Archive, tmp_path: Path) -> None:
    archive = make_archive({"codec.cache_directory": str(tmp_path / "cache")})
    ds = stored(archive, "MR_small_RLE.dcm")
    first = archive.get(url(ds) + "/rendered").body
    (kept,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    data = bytearray(kept.read_bytes())
    data[-1] ^= 255
    kept.write_bytes(bytes(data))
    assert archive.get(url(ds) + "/rendered").body == first[:-1] + bytes([first[-1] ^ 255])
