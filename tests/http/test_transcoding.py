"""Frames and whole instances in other transfer syntaxes, checked by pydicom, and what is refused."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from dicomweb_server.codec import syntaxes
from tests.http.conftest import Archive, Client
from tests.http.test_wado import parts, put_file
from tests.samples import PYDICOM_FILES, RELATED, envelope, instance, part10, sample_files, url

OCTETS = 'multipart/related; type="application/octet-stream"'
DICOM = 'multipart/related; type="application/dicom"'
LOSSLESS = (JPEGLSLossless, JPEG2000Lossless, RLELossless)
SINGLE_BYTES = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def archive(shared_archive: Client) -> Client:
    """The same for all tests here: decoders take their time to start."""
    return shared_archive


def stored(archive: Client, name: str) -> Dataset:
    """A sample of pydicom's wheel, put into the archive."""
    return put_file(archive, (PYDICOM_FILES / name).read_bytes())


def grey(**attributes: Any) -> Dataset:
    """An image of 32 x 32 pixels: encoders do not take the smallest."""
    return instance(**{"Rows": 32, "Columns": 32, "PixelData": SINGLE_BYTES, **attributes})


def fetched(archive: Client, path: str, syntax: str | None) -> Dataset:
    """The whole object as a single part."""
    accept = "application/dicom" + (f"; transfer-syntax={syntax}" if syntax else "")
    answer = archive.get(path, headers={"Accept": accept})
    assert len(answer.body) == int(answer.headers["Content-Length"])
    ds = pydicom.dcmread(io.BytesIO(answer.body))
    assert answer.headers["Content-Type"] == f"application/dicom; transfer-syntax={ds.file_meta.TransferSyntaxUID}"
    return ds


def broken() -> bytes:
    """A file whose frames are no JPEG."""
    ds = instance(PixelData=encapsulate([b"\xff\xd8no image\xff\xd9"]))
    ds["PixelData"].VR = "OB"
    return part10(ds, transfer_syntax_uid=JPEGBaseline8Bit)


class TestMissingCodecs:
    """What is asked for by name and needs a package that is not there is refused with the name of it."""

    ACCEPTS = (
        ("/frames/1", 'multipart/related; type="application/octet-stream"; transfer-syntax={}'),
        ("", "application/dicom; transfer-syntax={}"),
    )

    @pytest.mark.parametrize(("path", "accept"), ACCEPTS)
    def test_a_decoder(self, archive: Client, monkeypatch: pytest.MonkeyPatch, path: str, accept: str) -> None:
        ds = stored(archive, "MR_small_jpeg_ls_lossless.dcm")
        monkeypatch.setattr(syntaxes, "_installed", lambda module: module == "numpy")
        for syntax in (ExplicitVRLittleEndian, JPEG2000Lossless):
            refused = archive.get(url(ds) + path, headers={"Accept": accept.format(syntax)}, status=406)
            assert "no decoder for JPEG-LS Lossless" in refused.json["reason"]
            assert "install pyjpegls" in refused.json["reason"]
        # Where none is named it goes out as it is stored.
        assert archive.get(url(ds) + path, headers={"Accept": "*/*"}).status_int == 200

    def test_an_encoder(self, archive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        ds = grey()
        archive.store(ds)
        monkeypatch.setattr(syntaxes, "_installed", lambda module: module != "imagecodecs")
        wado = f"/wado?requestType=WADO&objectUID={ds.SOPInstanceUID}&contentType=application/dicom&transferSyntax="
        htj2k = archive.get(wado + syntaxes.HTJ2K_LOSSLESS, status=406).json["reason"]
        assert "no encoder for HTJ2K Lossless" in htj2k
        assert "install imagecodecs" in htj2k
        none = archive.get(wado + syntaxes.JPEG_LOSSLESS_SV1, status=406).json["reason"]
        assert none.startswith("there is no encoder for JPEG Lossless")
        assert "install" not in none


class TestFrames:
    @pytest.mark.parametrize(
        "name", ["SC_rgb_rle_2frame.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "MR_small_jpeg_ls_lossless.dcm"]
    )
    def test_explicit_little_endian_is_the_default(self, archive: Client, name: str) -> None:
        ds = stored(archive, name)
        wanted = np.reshape(ds.pixel_array, (-1, *ds.pixel_array.shape[-2 - (ds.SamplesPerPixel > 1) :]))
        for accept in (OCTETS, f"{OCTETS}; transfer-syntax={ExplicitVRLittleEndian}"):
            ((head, data),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": accept}))
            assert head["Content-Type"] == f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
            assert data == wanted[0].astype(wanted.dtype.newbyteorder("<")).tobytes()
        single = archive.get(url(ds) + "/frames/1", headers={"Accept": "application/octet-stream"})
        assert single.body == data

    @pytest.mark.parametrize("accept", ["*/*", 'multipart/related; type="*/*"', f"{OCTETS}; transfer-syntax=*"])
    def test_wildcards_mean_as_stored(self, archive: Client, accept: str) -> None:
        ds = stored(archive, "MR_small_RLE.dcm")
        answer = archive.get(url(ds) + "/frames/1", headers={"Accept": accept})
        syntax = answer.headers["Content-Type"] if accept == "*/*" else parts(answer)[0][0]["Content-Type"]
        assert syntax.endswith(f"transfer-syntax={RLELossless}")

    @pytest.mark.parametrize("syntax", LOSSLESS)
    def test_encoded_when_named(self, archive: Client, syntax: str) -> None:
        ds = stored(archive, "MR_small.dcm")
        accept = f'multipart/related; type="application/octet-stream"; transfer-syntax={syntax}'
        ((head, data),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": accept}))
        assert head["Content-Type"] == f"application/octet-stream; transfer-syntax={syntax}"
        wanted = ds.pixel_array
        again = grey(Rows=ds.Rows, Columns=ds.Columns, PixelData=encapsulate([data]))
        for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
            setattr(again, keyword, ds[keyword].value)
        again["PixelData"].VR = "OB"
        found = pydicom.dcmread(io.BytesIO(part10(again, transfer_syntax_uid=syntax)))
        assert np.array_equal(found.pixel_array, wanted)

    def test_the_type_alone_means_its_lossless_default(self, archive: Client) -> None:
        ds = stored(archive, "MR_small.dcm")
        accept = 'multipart/related; type="image/jls"'
        ((head, _),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": accept}))
        assert head["Content-Type"] == f"image/jls; transfer-syntax={JPEGLSLossless}"

    def test_lossy_only_by_name(self, archive: Client) -> None:
        ds = grey()
        archive.store(ds)
        refused = archive.get(
            url(ds) + "/frames/1", headers={"Accept": 'multipart/related; type="image/jpeg"'}, status=406
        )
        assert not any(JPEGBaseline8Bit in offer for offer in refused.json["offered"])
        accept = f'multipart/related; type="image/jpeg"; transfer-syntax={JPEGBaseline8Bit}'
        ((head, data),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": accept}))
        assert head["Content-Type"] == f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"
        assert data.startswith(b"\xff\xd8")

    def test_sixteen_bits_do_not_fit_jpeg_baseline(self, archive: Client) -> None:
        ds = stored(archive, "MR_small.dcm")
        accept = f'multipart/related; type="image/jpeg"; transfer-syntax={JPEGBaseline8Bit}'
        archive.get(url(ds) + "/frames/1", headers={"Accept": accept}, status=406)
        archive.get(url(ds), headers={"Accept": f"application/dicom; transfer-syntax={JPEGBaseline8Bit}"}, status=406)

    def test_the_request_of_ohif_for_jpeg_ls(self, archive: Client) -> None:
        ds = stored(archive, "MR_small.dcm")
        accept = f'multipart/related; type="image/jls"; transfer-syntax="{JPEGLSLossless}"; transfer-syntax="*"'
        ((head, _),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": accept}))
        assert head["Content-Type"] == f"image/jls; transfer-syntax={JPEGLSLossless}"

    def test_lists_have_an_exact_length(self, archive: Client) -> None:
        ds = stored(archive, "SC_rgb_rle_2frame.dcm")
        wanted = ds.pixel_array
        found = parts(archive.get(url(ds) + "/frames/2,1,2", headers={"Accept": OCTETS}))
        assert [data for _, data in found] == [wanted[index].tobytes() for index in (1, 0, 1)]
        assert found[0][0]["Content-Location"].endswith("/frames/2")
        accept = f'multipart/related; type="image/jls"; transfer-syntax={JPEGLSLossless}'
        assert len(parts(archive.get(url(ds) + "/frames/1,2", headers={"Accept": accept}))) == 2

    def test_what_cannot_be_decoded_goes_out_as_stored_unless_named(self, archive: Client) -> None:
        ds = put_file(archive, broken())
        ((head, data),) = parts(archive.get(url(ds) + "/frames/1", headers={"Accept": OCTETS}))
        assert head["Content-Type"] == f"application/octet-stream; transfer-syntax={JPEGBaseline8Bit}"
        assert data.startswith(b"\xff\xd8no image")
        refused = archive.get(
            url(ds) + "/frames/1",
            headers={"Accept": f"{OCTETS}; transfer-syntax={ExplicitVRLittleEndian}"},
            status=422,
        )
        assert "JPEG Baseline" in refused.json["reason"]

    def test_conditions_ranges_and_head(self, archive: Client) -> None:
        ds = stored(archive, "MR_small_RLE.dcm")
        headers = {"Accept": "application/octet-stream"}
        whole = archive.get(url(ds) + "/frames/1", headers=headers)
        other = archive.get(url(ds) + "/frames/1", headers={"Accept": "*/*"})
        assert whole.headers["ETag"] != other.headers["ETag"]
        again = archive.get(url(ds) + "/frames/1", headers={**headers, "If-None-Match": whole.headers["ETag"]})
        assert again.status_int == 304
        part = archive.get(url(ds) + "/frames/1", headers={**headers, "Range": "bytes=10-19"})
        assert (part.status_int, part.body) == (206, whole.body[10:20])
        head = archive.head(url(ds) + "/frames/1", headers=headers)
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]

    def test_results_are_kept_but_not_reached_after_a_delete(self, make_archive: Archive, tmp_path: Path) -> None:
        archive = make_archive({"codec.cache_directory": str(tmp_path / "cache")})
        ds = stored(archive, "MR_small_RLE.dcm")
        archive.get(url(ds) + "/frames/1", headers={"Accept": OCTETS})
        kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert len(kept) == 1
        assert kept[0].stat().st_mode & 0o077 == 0
        archive.delete(url(ds))
        archive.get(url(ds) + "/frames/1", headers={"Accept": OCTETS}, status=404)


PIXELS = {
    "PhotometricInterpretation", "PlanarConfiguration", "PixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "DataSetTrailingPadding",
}  # fmt: skip


class TestWholeInstances:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name)
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=["native", "encoded"])
    def test_every_sample_is_the_same_object(self, archive: Client, path: Path, syntax: str) -> None:
        data = path.read_bytes()
        archive.post("/studies", envelope([data]), headers={"Content-Type": RELATED}, expect_errors=True)
        ds = pydicom.dcmread(path)
        accept = f"application/dicom; transfer-syntax={syntax}"
        answer = archive.get(url(ds), headers={"Accept": accept}, expect_errors=True)
        if answer.status_int != 200:
            assert answer.status_int in (404, 406, 422)  # refused at store; pixels of another kind; broken
            return
        found = pydicom.dcmread(io.BytesIO(answer.body))
        for element in ds:
            if (
                element.keyword in PIXELS
                or element.tag.element == 0
                or ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
            ):
                continue
            assert found[element.tag].value == element.value, element.tag
        try:
            wanted = ds.pixel_array
        except Exception:  # no pixels, or such that pydicom does not decode
            return
        assert np.array_equal(found.pixel_array, wanted)

    def test_the_default_is_explicit_little_endian(self, archive: Client) -> None:
        for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
            ds = grey(PixelData=bytes(2048), BitsAllocated=16, BitsStored=12, HighBit=11)
            ds["PixelData"].VR = "OW"
            ds.PixelData = np.arange(1024, dtype=">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
            data = part10(ds, transfer_syntax_uid=syntax)
            put_file(archive, data)
            found = fetched(archive, url(ds), None)
            assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert found.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
            assert np.array_equal(found.pixel_array.ravel(), np.arange(1024))
            as_stored = archive.get(url(ds), headers={"Accept": f"{DICOM}; transfer-syntax=*"})
            assert parts(as_stored)[0][1] == data
            assert archive.get(url(ds)).body == data

    def test_objects_without_pixels(self, archive: Client) -> None:
        ds = instance(PixelData=None, Rows=None, Columns=None, BitsAllocated=None)
        ds.ContentSequence = Sequence([Dataset(), Dataset()])
        ds.ContentSequence[0].TextValue = "grün"
        put_file(archive, part10(ds, transfer_syntax_uid=ImplicitVRLittleEndian))
        for syntax in (None, ExplicitVRLittleEndian, JPEGLSLossless):
            found = fetched(archive, url(ds), syntax)
            assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert found.ContentSequence[0].TextValue == "grün"

    def test_what_stands_behind_the_pixels_stays(self, archive: Client) -> None:
        ds = grey()
        ds.private_block(0x7FE1, "ACME", create=True).add_new(1, "LO", "behind")
        archive.store(ds)
        for syntax in (ImplicitVRLittleEndian, *LOSSLESS):
            found = fetched(archive, url(ds), syntax)
            assert found.private_block(0x7FE1, "ACME")[1].value in ("behind", b"behind")
            assert found.pixel_array.tobytes() == SINGLE_BYTES

    @pytest.mark.parametrize("frames", [1, 3])
    def test_encapsulated_has_an_offset_table(self, archive: Client, frames: int) -> None:
        ds = grey(NumberOfFrames=frames)
        ds.PixelData = SINGLE_BYTES * frames
        archive.store(ds)
        found = fetched(archive, url(ds), RLELossless)
        assert found.pixel_array.tobytes() == SINGLE_BYTES * frames
        offsets = pydicom.encaps.parse_basic_offsets(found.PixelData)
        assert len(offsets) == frames
        assert "LossyImageCompression" not in found
        again = put_file(archive, archive.get(url(ds)).body)
        assert fetched(archive, url(again), ExplicitVRLittleEndian).PixelData == ds.PixelData

    def test_lossy_says_so(self, archive: Client) -> None:
        ds = grey(
            LossyImageCompression="01", LossyImageCompressionRatio="2.5", LossyImageCompressionMethod="ISO_15444_1"
        )
        archive.store(ds)
        found = fetched(archive, url(ds), JPEGBaseline8Bit)
        assert found.SOPInstanceUID == ds.SOPInstanceUID
        assert found.LossyImageCompression == "01"
        assert list(found.LossyImageCompressionMethod) == ["ISO_15444_1", "ISO_10918_1"]
        assert float(found.LossyImageCompressionRatio[0]) == 2.5
        assert float(found.LossyImageCompressionRatio[1]) > 0

    def test_decoded_jpeg_stays_marked_as_lossy(self, archive: Client) -> None:
        ds = pydicom.dcmread(PYDICOM_FILES / "SC_rgb_small_odd_jpeg.dcm")
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            ds.pop(keyword, None)
        ds.SOPInstanceUID = generate_uid()
        put_file(archive, part10(ds, transfer_syntax_uid=JPEGBaseline8Bit))
        found = fetched(archive, url(ds), None)
        assert found.LossyImageCompression == "01"
        assert found.LossyImageCompressionMethod == "ISO_10918_1"
        assert found.PhotometricInterpretation in ("YBR_FULL", "RGB")
        assert len(found.PixelData) == 28  # 3 x 3 pixels, padded

    def test_single_bits_share_bytes(self, archive: Client) -> None:
        bits = np.random.default_rng(1).integers(0, 2, (3, 5, 5), np.uint8)
        frames = []
        for frame in bits:
            packed = np.packbits(frame.ravel(), bitorder="little").tobytes()
            frames.append(b"\1\0\0\0\x40\0\0\0" + bytes(56) + bytes([len(packed) - 1]) + packed)
        ds = instance(Rows=5, Columns=5, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0)
        ds.PixelData = encapsulate(frames)
        ds["PixelData"].VR = "OB"
        put_file(archive, part10(ds, transfer_syntax_uid=RLELossless))
        found = fetched(archive, url(ds), None)
        assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert np.array_equal(found.pixel_array, bits)

    def test_a_study_with_one_broken_image_is_given_whole(self, archive: Client) -> None:
        study = generate_uid()
        good = grey(StudyInstanceUID=study)
        put_file(archive, part10(good, transfer_syntax_uid=ImplicitVRLittleEndian))
        bad = pydicom.dcmread(io.BytesIO(broken()))
        bad.StudyInstanceUID = study
        put_file(archive, part10(bad, transfer_syntax_uid=JPEGBaseline8Bit))
        answer = archive.get(f"/studies/{study}", headers={"Accept": DICOM})
        pieces = answer.body.split(b"Content-Type: application/dicom; transfer-syntax=")[1:]
        assert sorted(piece.split(b"\r\n")[0].decode() for piece in pieces) == [
            ExplicitVRLittleEndian, JPEGBaseline8Bit,
        ]  # fmt: skip
        named = f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
        archive.get(url(bad), headers={"Accept": named}, status=422)

    def test_conditions_ranges_and_head(self, archive: Client) -> None:
        ds = stored(archive, "MR_small_RLE.dcm")
        headers = {"Accept": "application/dicom"}
        whole = archive.get(url(ds), headers=headers)
        assert whole.headers["ETag"] != archive.get(url(ds)).headers["ETag"]
        again = archive.get(url(ds), headers={**headers, "If-None-Match": whole.headers["ETag"]})
        assert again.status_int == 304
        part = archive.get(url(ds), headers={**headers, "Range": "bytes=128-131"})
        assert (part.status_int, part.body) == (206, b"DICM")
        assert archive.head(url(ds), headers=headers).headers["Content-Length"] == str(len(whole.body))

    def test_without_a_cache(self, make_archive: Archive) -> None:
        archive = make_archive({"codec.cache_bytes": 0})
        ds = stored(archive, "MR_small_RLE.dcm")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(fetched(archive, url(ds), None).pixel_array, ds.pixel_array)
