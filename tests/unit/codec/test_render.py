"""Pictures against pydicom's own pipeline, and each step of ours on its own."""

import io
from binascii import a2b_base64
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut

from dicomweb_server.codec.decode import Decoded, decode_frame
from dicomweb_server.codec.grey import windowed
from dicomweb_server.codec.icc import profile
from dicomweb_server.codec.options import RenderOptions, Viewport, Window, WindowFunction, parse_viewport
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation import frame_attributes
from dicomweb_server.codec.render import animation, frame_milliseconds, render_frame, to_bytes
from dicomweb_server.dicom.json_model import Attributes, inline_binary
from dicomweb_server.errors import BadPixels, BadRequest, NotAcceptable
from tests.samples import needs_corpus
from tests.unit.codec.files import Sample, sample, samples

PLAIN = RenderOptions(overlays=False)


def grey(values: Any, *, bits: int = 16, **fields: Any) -> Decoded:
    array = np.array(values, f"<{'i' if fields.get('signed') else 'u'}{2 if bits > 8 else 1}")
    description = PixelDescription(
        array.shape[0],
        array.shape[1],
        bits_allocated=16 if bits > 8 else 8,
        bits_stored=bits,
        high_bit=bits - 1,
        **fields,
    )
    return Decoded(array, description)


def pixels(decoded: Decoded, attributes: Attributes | None = None, **options: Any) -> list[Any]:
    picture = render_frame(attributes or {}, decoded, options=RenderOptions(**options))
    return np.asarray(picture).tolist()  # type: ignore[no-any-return]


def values(vr: str, *numbers: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(numbers)}


def rendered(item: Sample, index: int) -> NDArray[Any]:
    decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame(index))
    flat = frame_attributes(item.header.attributes, index, fetch_bulk=item.fetch_bulk)
    return np.asarray(render_frame(flat, decoded, options=PLAIN))


def by_pydicom(item: Sample, index: int) -> NDArray[Any]:
    """The picture as floats, by pydicom's processing of its own pixels."""
    ds, array = item.dataset, item.reference(index, raw=False)
    if array.ndim == 3:
        return array * (255.0 / ((1 << item.description.bits_stored) - 1))
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colours = apply_color_lut(array, ds)
        return colours >> 8 if colours.max() > 255 else colours
    source = pydicom.Dataset()
    source.update(ds.group_dataset(0x0028))
    for groups in (
        ds.get("SharedFunctionalGroupsSequence"),
        (ds.get("PerFrameFunctionalGroupsSequence") or [])[index:],
    ):
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            if groups and keyword in groups[0]:
                source.update(groups[0][keyword].value[0])
    modal = apply_modality_lut(array, source)
    shown = apply_voi_lut(modal, source)
    kept = shown[~padded(ds, array)]
    low, high = output_range(source, item.description, kept if kept.size else shown, windowed=shown is not modal)
    out = (shown.astype(float) - low) * (255 / (high - low) if high > low else 0)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        out = 255 - out
    if padded(ds, array).any() and out.max() == 0:
        out[:] = 255  # one label beside padding
    out[padded(ds, array)] = 0
    return out


def padded(ds: pydicom.Dataset, array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which stored values are padding; pydicom's processing knows none."""
    if "PixelPaddingValue" not in ds:
        return np.zeros(array.shape, bool)
    ends = sorted((int(ds.PixelPaddingValue), int(ds.get("PixelPaddingRangeLimit", ds.PixelPaddingValue))))
    return (array >= ends[0]) & (array <= ends[1])


def output_range(
    ds: pydicom.Dataset, description: PixelDescription, shown: NDArray[Any], *, windowed: bool
) -> tuple[float, float]:
    """What black and white are in the output of apply_voi_lut."""
    if not windowed:
        return (0, 1) if description.bits_stored == 1 else (float(shown.min()), float(shown.max()))
    if "VOILUTSequence" in ds:
        return 0, (1 << ds.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if "ModalityLUTSequence" in ds:
        return 0, (1 << ds.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    half = 1 << description.bits_stored - 1
    ends = np.array((-half, half - 1) if description.signed else (0, 2 * half - 1), float)
    low, high = ends * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    return low, high


@pytest.mark.parametrize("item", samples(), ids=lambda item: item.path.name)
def test_the_picture_is_that_of_pydicoms_pipeline(item: Sample) -> None:
    try:
        expected = by_pydicom(item, 0)
    except (RuntimeError, NotImplementedError, ValueError, AttributeError):
        pytest.skip("pydicom does not decode it")
    if item.path.name.startswith("color-p"):
        pytest.skip("its pixels are no squares")
    picture = rendered(item, 0)
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).max() <= 0.501


class TestWindow:
    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            # 255 times the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3 for center 10 and width 5
            (WindowFunction.LINEAR, [32, 96, 159, 223, 255, 255]),
            (WindowFunction.LINEAR_EXACT, [26, 77, 128, 179, 230, 255]),
            (WindowFunction.SIGMOID, [43, 79, 128, 176, 212, 234]),
        ],
    )
    def test_functions(self, function: WindowFunction, expected: list[int]) -> None:
        assert pixels(grey([[8, 9, 10, 11, 12, 13]]), window=Window(10, 5, function)) == [expected]

    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("window", [(40, 400), (0.5, 2), (-600, 1500.5), (1e6, 3), (2048, 4096), (127.5, 256)])
    def test_every_stored_value_is_shown_as_the_formula_says(
        self, window: tuple[float, float], inverted: bool, signed: bool
    ) -> None:
        stored = np.arange(-2048, 2048) if signed else np.arange(4096)
        decoded = grey(stored.reshape(64, 64), bits=12, signed=signed)
        if inverted:
            decoded = Decoded(decoded.array, replace(decoded.description, photometric_interpretation="MONOCHROME1"))
        attributes = {"00281052": values("DS", -1024), "00281053": values("DS", 1.5)}
        expected = np.clip(
            np.floor(windowed(stored.astype(np.float64) * 1.5 - 1024, Window(*window)) + 0.5), 0, 255
        ).reshape(64, 64)
        shown = pixels(decoded, attributes, window=Window(*window))
        assert shown == (255 - expected if inverted else expected).tolist()
        # What lies beside the stored bits is not shown.
        beside = Decoded(decoded.array ^ np.array(0x4000, decoded.array.dtype), decoded.description)
        assert pixels(beside, attributes, window=Window(*window)) == shown

    def test_a_width_of_one_is_a_threshold(self) -> None:
        assert pixels(grey([[8, 9, 10, 11]]), window=Window(10, 1)) == [[0, 0, 255, 255]]

    def test_the_first_window_of_the_object_is_used(self) -> None:
        attributes = {"00281050": values("DS", 5, 100), "00281051": values("DS", 10, 1)}
        assert pixels(grey([[0, 20]]), attributes) == [[0, 255]]

    def test_the_clients_window_comes_first_and_is_in_rescaled_units(self) -> None:
        attributes = {
            "00281050": values("DS", 0),
            "00281051": values("DS", 1),
            "00281052": values("DS", -1024),
            "00281053": values("DS", 2),
        }
        assert pixels(grey([[512, 513]]), attributes, window=Window(1.0, 1)) == [[0, 255]]

    def test_without_one_the_range_of_the_pixels_is_shown(self) -> None:
        assert pixels(grey([[100, 150, 200]])) == [[0, 128, 255]]

    @pytest.mark.parametrize("slope", [1e30, 1e302, 4e306])
    def test_a_slope_that_is_nonsense_changes_no_shade(self, slope: float) -> None:
        assert pixels(grey([[0, 5, 10]]), {"00281053": values("DS", slope)}) == [[0, 128, 255]]

    def test_pixels_may_be_as_large_as_doubles_are(self) -> None:
        description = PixelDescription(1, 3, bits_allocated=64, bits_stored=64, high_bit=63, floating=True)
        assert pixels(Decoded(np.array([[-1.7e308, 0, 1.7e308]]), description)) == [[0, 128, 255]]

    def test_padding_does_not_count_and_is_black(self) -> None:
        attributes = {"00280120": values("US", 60000), "00280121": values("US", 65535)}
        assert pixels(grey([[100, 200, 60000, 65535]]), attributes) == [[0, 255, 0, 0]]

    def test_one_value_beside_padding_is_white(self) -> None:
        attributes = {"00280120": values("US", 0)}
        assert pixels(grey([[0, 3, 3]], bits=8), attributes) == [[0, 255, 255]]
        assert pixels(grey([[0, 0]], bits=8), attributes) == [[0, 0]]

    def test_padding_written_as_unsigned_goes_with_signed_pixels(self) -> None:
        attributes = {"00280120": values("US", 63536)}
        assert pixels(grey([[-2000, 0, 100]], signed=True), attributes) == [[0, 0, 255]]

    def test_padding_is_black_in_inverted_images_too(self) -> None:
        decoded = grey([[0, 10, 20]], photometric_interpretation="MONOCHROME1")
        assert pixels(decoded, {"00280120": values("US", 0)}) == [[0, 255, 0]]

    def test_an_image_of_one_value_is_black(self) -> None:
        assert pixels(grey([[7, 7]])) == [[0, 0]]

    def test_single_bits_are_black_and_white_whatever_occurs(self) -> None:
        decoded = Decoded(np.ones((1, 2), "u1"), PixelDescription(1, 2, bits_allocated=1, bits_stored=1, high_bit=0))
        assert pixels(decoded) == [[255, 255]]


class TestTables:
    def test_bits_outside_of_the_stored_ones_are_no_pixels(self) -> None:
        decoded = grey([[0xF000, 0x8FFF]], bits=12)
        decoded = Decoded(decoded.array, replace(decoded.description, bits_allocated=16))
        assert pixels(decoded) == [[0, 255]]

    def test_a_modality_table_then_a_window(self) -> None:
        table = {"00283002": values("US", 3, 10, 16), "00283006": values("US", 5, 50, 500)}
        attributes = {"00283000": values("SQ", table)}
        assert pixels(grey([[0, 10, 11, 12, 99]]), attributes, window=Window(50, 1)) == [[0, 0, 255, 255, 255]]

    def test_a_table_of_interest_with_8_packed_bits(self) -> None:
        data = inline_binary(bytes([0, 51, 255, 102]))
        table = {"00283002": values("US", 4, 0, 8), "00283006": {"vr": "OW", "InlineBinary": data}}
        assert pixels(grey([[0, 1, 2, 3]]), {"00283010": values("SQ", table)}) == [[0, 51, 255, 102]]

    def test_a_table_that_is_not_described_is_refused(self) -> None:
        with pytest.raises(BadPixels):
            pixels(grey([[0]]), {"00283010": values("SQ", {"00283006": values("US", 1)})})

    @pytest.mark.parametrize(
        ("photometric", "shape", "expected"),
        [("MONOCHROME1", None, [255, 0]), ("MONOCHROME1", "INVERSE", [255, 0]), ("MONOCHROME2", "INVERSE", [255, 0])],
    )
    def test_inversion_happens_once(self, photometric: str, shape: str | None, expected: list[int]) -> None:
        attributes = {"20500020": values("CS", shape)} if shape else {}
        assert pixels(grey([[0, 9]], photometric_interpretation=photometric), attributes) == [expected]

    def test_wide_and_floating_pixels(self) -> None:
        array = np.array([[0.5, np.nan, 2.5, np.inf]], "<f4")
        description = PixelDescription(1, 4, bits_allocated=32, bits_stored=32, high_bit=31, floating=True)
        assert pixels(Decoded(array, description)) == [[0, 0, 255, 0]]
        whole = np.array([[0, 1 << 30, 1 << 31]], "<u4")
        assert pixels(Decoded(whole, PixelDescription(1, 3, bits_allocated=32, bits_stored=32, high_bit=31))) == [
            [0, 128, 255]
        ]


class TestColour:
    def test_a_segmented_palette(self) -> None:
        # PS3.3 C.7.9.2: a discrete segment of one entry, then a line to 65535 in three steps
        segments = b"".join(number.to_bytes(2, "little") for number in (0, 1, 0, 1, 3, 65535))
        attributes: Attributes = {}
        for number in "123":
            attributes[f"0028110{number}"] = values("US", 4, 0, 16)
            attributes[f"0028122{number}"] = {"vr": "OW", "InlineBinary": inline_binary(segments)}
        decoded = grey([[0, 1, 2, 3, 9]], bits=8, photometric_interpretation="PALETTE COLOR")
        assert [pixel[0] for pixel in pixels(decoded, attributes)[0]] == [0, 85, 170, 255, 255]

    @pytest.mark.parametrize("words", [(1, 3, 5), (2, 1, 0, 0), (7, 7), (0, 60000)])
    def test_a_damaged_palette_is_refused_or_bounded(self, words: tuple[int, ...]) -> None:
        segments = b"".join(number.to_bytes(2, "little") for number in words)
        attributes: Attributes = {}
        for number in "123":
            attributes[f"0028110{number}"] = values("US", 4, 0, 16)
            attributes[f"0028122{number}"] = {"vr": "OW", "InlineBinary": inline_binary(segments)}
        with pytest.raises(BadPixels):
            pixels(grey([[0]], bits=8, photometric_interpretation="PALETTE COLOR"), attributes)

    def test_deep_colours_fill_the_range(self) -> None:
        array = np.array([[[0, 32768, 65535]]], "<u2")
        description = PixelDescription(1, 1, 3, 16, 16, 15, photometric_interpretation="RGB")
        assert pixels(Decoded(array, description)) == [[[0, 128, 255]]]

    @pytest.mark.parametrize("name", ["srgb", "adobergb", "rommrgb", "displayp3"])
    def test_our_profiles_are_understood(self, name: str) -> None:
        made = ImageCms.ImageCmsProfile(io.BytesIO(profile(name)))
        assert made.profile.xcolor_space.strip() == "RGB"
        white = ImageCms.profileToProfile(
            Image.new("RGB", (1, 1), (255, 255, 255)), made, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert white is not None
        assert min(white.getpixel((0, 0))) >= 254  # type: ignore[arg-type]

    def test_our_srgb_is_the_usual_one(self) -> None:
        colours = Image.fromarray(np.arange(0, 255, 5, dtype="u1").reshape(1, -1, 3))
        ours = ImageCms.ImageCmsProfile(io.BytesIO(profile("srgb")))
        same = ImageCms.profileToProfile(colours, ours, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert np.abs(np.asarray(same).astype(int) - np.asarray(colours)).max() <= 1

    @pytest.mark.parametrize("name", ["no", "yes", "srgb", "adobergb", "rommrgb", "displayp3"])
    def test_the_picture_carries_its_profile(self, name: str) -> None:
        array = np.full((2, 2, 3), (200, 40, 40), "u1")
        decoded = Decoded(array, PixelDescription(2, 2, 3, photometric_interpretation="RGB"))
        image = render_frame({}, decoded, options=RenderOptions(iccprofile=name))
        file = Image.open(io.BytesIO(to_bytes(image, "image/png")))
        assert ("icc_profile" in file.info) == (name != "no")
        changed = np.asarray(image)[0, 0].tolist() != [200, 40, 40]
        assert changed == (name in ("adobergb", "rommrgb", "displayp3"))

    @pytest.mark.parametrize("name", ["no", "yes", "srgb", "adobergb", "rommrgb", "displayp3"])
    def test_a_grey_picture_carries_a_profile_for_grey(self, name: str) -> None:
        decoded = Decoded(np.arange(256, dtype="u1").reshape(16, 16), PixelDescription(16, 16))
        flat = {"00281050": {"vr": "DS", "Value": [127.5]}, "00281051": {"vr": "DS", "Value": [256]}}
        image = render_frame(flat, decoded, options=RenderOptions(iccprofile=name))
        for media in ("image/png", "image/jpeg", "image/webp"):
            file = Image.open(io.BytesIO(to_bytes(image, media)))
            assert ("icc_profile" in file.info) == (name != "no")
            if name != "no":
                space = ImageCms.ImageCmsProfile(io.BytesIO(file.info["icc_profile"])).profile.xcolor_space
                assert space.strip() == ("GRAY" if file.mode == "L" else "RGB")
        if name == "no":
            return
        made = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        # Shown through its profile, it looks as it does without one.
        shown = ImageCms.profileToProfile(image, made, ImageCms.createProfile("sRGB"), outputMode="RGB")
        plain = np.asarray(render_frame(flat, decoded)).astype(int)
        assert np.abs(np.asarray(shown).astype(int) - plain[..., None])[plain > 8].max() <= 2
        assert (np.asarray(image) != plain).any() == (name in ("adobergb", "rommrgb"))

    @needs_corpus
    def test_a_slides_profile_is_found_in_its_optical_path(self) -> None:
        item = next(item for item in samples() if item.path.name == "sm_image.dcm")
        flat = frame_attributes(item.header.attributes, 0, fetch_bulk=item.fetch_bulk)
        assert "InlineBinary" in flat["00282000"]


class TestGeometry:
    SQUARE = grey([[0, 1], [2, 3]])

    def test_mirrored_by_negative_sizes(self) -> None:
        assert pixels(self.SQUARE, viewport=parse_viewport("2,2,0,0,-2,2")) == [[85, 0], [255, 170]]
        assert pixels(self.SQUARE, viewport=parse_viewport("2,2,0,0,2,-2")) == [[170, 255], [0, 85]]

    def test_a_source_rectangle(self) -> None:
        assert pixels(self.SQUARE, viewport=parse_viewport("1,1,1,1,1,1")) == [[255]]

    def test_aspect_is_kept_in_a_viewport(self) -> None:
        wide = grey(np.arange(8 * 16).reshape(8, 16))
        image = render_frame({}, wide, options=RenderOptions(viewport=Viewport(100, 100)))
        assert image.size == (100, 50)

    def test_rotation(self) -> None:
        assert pixels(self.SQUARE, rotation=90) == [[170, 0], [255, 85]]
        assert pixels(self.SQUARE, rotation=90, flipped=True) == [[0, 170], [85, 255]]

    @pytest.mark.parametrize(
        ("tag", "vr", "size"), [("00280034", "IS", (2, 4)), ("00280030", "DS", (2, 4)), ("00181164", "DS", (2, 4))]
    )
    def test_pixels_that_are_no_squares(self, tag: str, vr: str, size: tuple[int, int]) -> None:
        assert render_frame({tag: values(vr, 2, 1)}, self.SQUARE).size == size
        assert render_frame({tag: values(vr, 1, 2)}, self.SQUARE).size == size[::-1]

    @pytest.mark.parametrize("text", ["5,5,2,0,1,1", "5,5,0,0,3,1", "5,5,0,9"])
    def test_outside_of_the_image(self, text: str) -> None:
        with pytest.raises(BadRequest):
            pixels(self.SQUARE, viewport=parse_viewport(text))


class TestOverlays:
    def _attributes(self, *, frames: int = 1, origin: tuple[int, int] = (1, 1)) -> Attributes:
        bits = 0b0110_1001 if frames == 1 else 0b0110
        return {
            "60000010": values("US", 2),
            "60000011": values("US", 2),
            "60000040": values("CS", "G"),
            "60000050": values("SS", *origin),
            "60000100": values("US", 1),
            "60000102": values("US", 0),
            "60003000": {"vr": "OW", "InlineBinary": inline_binary(bytes([bits, 0]))},
            **({"60000015": values("IS", frames), "60000051": values("US", 2)} if frames > 1 else {}),
        }

    def test_drawn_in_white(self) -> None:
        assert pixels(grey([[0, 0], [0, 9]]), self._attributes(), window=Window(50, 100)) == [[255, 0], [0, 255]]

    def test_not_drawn_when_not_wanted(self) -> None:
        got = pixels(grey([[0, 0], [0, 0]]), self._attributes(), window=Window(50, 100), overlays=False)
        assert got == [[0, 0], [0, 0]]

    def test_an_origin_outside_of_the_image(self) -> None:
        attributes = self._attributes(origin=(0, 2))
        assert pixels(grey([[0, 0], [0, 0]]), attributes, window=Window(50, 100)) == [[0, 0], [0, 0]]
        attributes = self._attributes(origin=(2, 2))
        assert pixels(grey([[0, 0], [0, 0]]), attributes, window=Window(50, 100)) == [[0, 0], [0, 255]]

    def test_each_frame_has_its_own(self) -> None:
        attributes = self._attributes(frames=2)
        for index, expected in ((0, [[0, 0], [0, 0]]), (1, [[0, 255], [255, 0]]), (2, [[0, 0], [0, 0]])):
            flat = frame_attributes(attributes, index)
            assert pixels(grey([[0, 0], [0, 0]]), flat, window=Window(50, 100)) == expected

    def test_in_free_bits_of_the_pixels(self) -> None:
        attributes = self._attributes()
        del attributes["60003000"]
        attributes["60000102"] = values("US", 15)
        got = pixels(grey([[0x8000, 0], [0, 0x8000]], bits=12), attributes, window=Window(50, 100))
        assert got == [[255, 0], [0, 255]]


class TestFunctionalGroups:
    def test_the_frames_own_window_wins(self) -> None:
        def group(center: int) -> Attributes:
            window = {"00281050": values("DS", center), "00281051": values("DS", 1)}
            return {"00289132": values("SQ", window)}

        attributes = {
            "52009229": values("SQ", group(0)),
            "52009230": values("SQ", group(5), {}, group(50)),
        }
        shown = [pixels(grey([[0, 10, 60]]), frame_attributes(attributes, index)) for index in range(3)]
        assert shown == [[[0, 255, 255]], [[255, 255, 255]], [[0, 0, 255]]]

    def test_taking_them_out_twice_changes_nothing(self) -> None:
        for item in samples():
            flat = frame_attributes(item.header.attributes, 0, fetch_bulk=item.fetch_bulk)
            assert frame_attributes(flat, 0) == flat


class TestFiles:
    IMAGE = Image.fromarray(np.arange(0, 256, 4, dtype="u1").reshape(8, 8))

    @pytest.mark.parametrize("media", ["image/jpeg", "image/png", "image/gif", "image/webp"])
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_each_media_type(self, media: str, mode: str) -> None:
        file = Image.open(io.BytesIO(to_bytes(self.IMAGE.convert(mode), media)))
        assert file.get_format_mimetype() == media
        assert file.size == (8, 8)

    def test_quality_counts(self) -> None:
        assert len(to_bytes(self.IMAGE, "image/jpeg", quality=10)) < len(to_bytes(self.IMAGE, "image/jpeg", quality=95))

    def test_other_media_types_are_refused(self) -> None:
        with pytest.raises(NotAcceptable):
            to_bytes(self.IMAGE, "image/tiff")

    @pytest.mark.parametrize("media", ["image/gif", "image/webp"])
    def test_animation(self, media: str) -> None:
        frames = [Image.new("L", (8, 8), shade) for shade in (0, 100, 200)]
        file: Any = Image.open(io.BytesIO(animation(frames, media, milliseconds=50)))
        assert file.n_frames == 3

    def test_an_animation_is_bounded(self) -> None:
        frame = Image.new("L", (8192, 8192))
        with pytest.raises(BadRequest, match="too large"):
            animation([frame] * 5)

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [({"00181063": values("DS", 40)}, 40), ({"00180040": values("IS", 25)}, 40), ({}, 100)],
    )
    def test_speed(self, attributes: Attributes, expected: int) -> None:
        assert frame_milliseconds(attributes) == expected

    def test_lines_of_annotation_do_not_run_into_each_other(self) -> None:
        decoded = grey(np.zeros((64, 64)), bits=8)
        names, techniques = ("Name", "Identifier"), tuple(f"Technique {number}" for number in range(20))
        alone = np.array(pixels(decoded, annotation=names, window=Window(128, 256)))
        both = np.array(pixels(decoded, annotation=names, technique=techniques, window=Window(128, 256)))
        used = np.flatnonzero(alone.any(axis=1)).max()
        assert np.array_equal(both[: used + 1], alone[: used + 1])
        assert both[used + 1 :].any()

    def test_annotation_is_drawn(self) -> None:
        decoded = grey(np.zeros((64, 128), int))
        shown = np.array(pixels(decoded, annotation=("Name", "Ωmega"), technique=("CT",)))
        assert shown[:32].max() > 200
        assert shown[32:].max() > 200
        assert shown[:, 100:].max() == 0


@pytest.mark.parametrize("side", [32, 64, 100, 128])
def test_shrinking_averages_what_a_pixel_covers(side: int) -> None:
    values = np.random.default_rng(side).integers(0, 256, (256, 256), dtype="u1")
    small = render_frame(
        {}, grey(values, bits=8), options=RenderOptions(rows=side, columns=side, window=Window(128, 256))
    )
    expected = Image.fromarray(values).resize((side, side), Image.Resampling.BOX)
    difference = np.asarray(small, "i2") - np.asarray(expected, "i2")
    assert np.abs(difference).max() <= 1


def test_tables_behind_links_are_fetched() -> None:
    item = sample("examples_palette.dcm")
    decoded = decode_frame(item.description, item.transfer_syntax_uid, item.frame())
    attributes = dict(item.header.attributes)
    tables = {f"/bulkdata/0028120{n}": attributes[f"0028120{n}"]["InlineBinary"] for n in "123"}
    attributes |= {uri[-8:]: {"vr": "OW", "BulkDataURI": uri} for uri in tables}
    with pytest.raises(BadPixels, match="palette"):
        render_frame(attributes, decoded)
    flat = frame_attributes(attributes, 0, fetch_bulk=lambda uri: a2b_base64(tables[uri]))
    assert render_frame(flat, decoded) == render_frame(item.header.attributes, decoded)
