"""Presentation states change how a frame looks."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dicomweb_server.codec.decode import Decoded
from dicomweb_server.codec.options import Region, RenderOptions, Window
from dicomweb_server.codec.pixels import PixelDescription
from dicomweb_server.codec.presentation_state import apply_presentation_state, refers_to
from dicomweb_server.codec.render import render_frame
from dicomweb_server.dicom.json_model import Attributes

IMAGE = "1.2.3"


def _of(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def _for(uid: str, *frames: int) -> Attributes:
    reference = {"00081155": _of("UI", uid)} | ({"00081160": _of("IS", *frames)} if frames else {})
    return {"00081140": _of("SQ", reference)}


def _attributes(rows: int, columns: int, **more: dict[str, Any]) -> Attributes:
    return {
        "00280010": _of("US", rows),
        "00280011": _of("US", columns),
        "00280004": _of("CS", "MONOCHROME1"),
        **{key[1:]: value for key, value in more.items()},
    }


def _shown(
    state: Attributes, values: Any, *, frame_index: int = 0, options: RenderOptions | None = None, **more: Any
) -> NDArray[Any]:
    array = np.array(values, "u1")
    flat = _attributes(array.shape[0], array.shape[1], **more)
    flat, options = apply_presentation_state(
        flat, options or RenderOptions(), state, instance_uid=IMAGE, frame_index=frame_index
    )
    description = PixelDescription(
        array.shape[0], array.shape[1], photometric_interpretation=flat["00280004"]["Value"][0]
    )
    return np.asarray(render_frame(flat, Decoded(array, description), options=options))


def _window(center: float) -> Attributes:
    return {"00281050": _of("DS", center), "00281051": _of("DS", 1)}


def test_which_images_it_is_for() -> None:
    state = {"00081115": _of("SQ", _for(IMAGE))}
    assert refers_to(state, IMAGE)
    assert not refers_to(state, "1.2.4")


def test_its_window_takes_the_place_of_the_images() -> None:
    state = {"00283110": _of("SQ", _for("1.2.4") | _window(1), _for(IMAGE, 2) | _window(50), _window(5))}
    assert _shown(state, [[0, 10, 60]], t00281050=_of("DS", 0), t00281051=_of("DS", 1)).tolist() == [[0, 255, 255]]
    assert _shown(state, [[0, 10, 60]], frame_index=1).tolist() == [[0, 0, 255]]


def test_what_the_client_asks_for_comes_first() -> None:
    state = {"00283110": _of("SQ", _window(5))}
    assert _shown(state, [[0, 10, 60]], options=RenderOptions(window=Window(50, 1))).tolist() == [[0, 0, 255]]


@pytest.mark.parametrize(("shape", "expected"), [("IDENTITY", [[0, 255]]), ("INVERSE", [[255, 0]])])
def test_its_shape_decides_about_inversion(shape: str, expected: list[list[int]]) -> None:
    assert _shown({"20500020": _of("CS", shape)}, [[0, 9]]).tolist() == expected


def test_its_presentation_table() -> None:
    table = {"00283002": _of("US", 3, 0, 8), "00283006": _of("US", 10, 200, 20)}
    assert _shown({"20500010": _of("SQ", table)}, [[0, 5, 10]]).tolist() == [[10, 200, 20]]


def test_its_rescaling_takes_the_place_of_the_images() -> None:
    state = {"00281052": _of("DS", 100), "00281053": _of("DS", 1), "00283110": _of("SQ", _window(105))}
    assert _shown(state, [[0, 10]], t00281052=_of("DS", -1000)).tolist() == [[0, 255]]


def test_it_turns_and_mirrors() -> None:
    state = {"00700042": _of("US", 90), "00700041": _of("CS", "Y")}
    assert _shown(state, [[0, 1], [2, 3]]).tolist() == [[0, 170], [85, 255]]


def test_its_displayed_area() -> None:
    area = {"00700052": _of("SL", 2, 1), "00700053": _of("SL", 9, 1)}
    assert _shown({"0070005A": _of("SQ", area)}, [[0, 1, 2], [3, 4, 5]]).tolist() == [[51, 102]]
    wide = {"00700052": _of("SL", -5, -5), "00700053": _of("SL", 9, 9)}
    assert _shown({"0070005A": _of("SQ", wide)}, [[0, 1], [2, 3]]).shape == (2, 2)
    region = RenderOptions(region=Region(0, 0, 0.5, 1))
    assert _shown({"0070005A": _of("SQ", area)}, [[0, 1]], options=region).shape == (1, 1)


@pytest.mark.parametrize(
    ("shape", "points", "inside"),
    [
        ("POLYLINE", (2, 5, 9, 5), (4, 5)),
        ("CIRCLE", (10, 10, 15, 10), (9, 14)),
        ("ELLIPSE", (5, 10, 15, 10, 10, 8, 10, 12), (9, 14)),
        ("POINT", (10, 10), (9, 9)),
    ],
)
def test_its_graphics_are_drawn(shape: str, points: tuple[float, ...], inside: tuple[int, int]) -> None:
    drawing = {"00700005": _of("CS", "PIXEL"), "00700023": _of("CS", shape), "00700022": _of("FL", *points)}
    state = {"00700001": _of("SQ", {"00700009": _of("SQ", drawing)})}
    picture = _shown(state, np.zeros((20, 20)))
    assert picture[inside] == 255
    assert (picture > 0).sum() < 80


def test_its_texts_are_drawn() -> None:
    text = {"00700003": _of("CS", "PIXEL"), "00700006": _of("ST", "L"), "00700010": _of("FL", 3, 3)}
    state = {"00700001": _of("SQ", {"00700008": _of("SQ", text)})}
    assert _shown(state, np.zeros((40, 40))).max() > 100
