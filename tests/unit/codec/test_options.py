"""What clients write in a query is read as the standard says, and refused with a reason otherwise."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.codec.annotation import parse_annotation, patient_lines, technique_lines
from dicomweb_server.codec.options import (
    Region,
    RenderOptions,
    Viewport,
    Window,
    WindowFunction,
    make_window,
    parse_quality,
    parse_region,
    parse_side,
    parse_viewport,
    parse_window,
)
from dicomweb_server.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40,400", Window(40, 400)),
        ("-40.5,1e3,linear", Window(-40.5, 1000)),
        ("0.5,0.1,linear-exact", Window(0.5, 0.1, WindowFunction.LINEAR_EXACT)),
        (" 1 , 2 , SIGMOID ", Window(1, 2, WindowFunction.SIGMOID)),
    ],
)
def test_windows(text: str, expected: Window) -> None:
    assert parse_window(text) == expected


@pytest.mark.parametrize(
    "text", ["", "40", "40,0", "40,-1", "40,0.5,linear", "40,400,cubic", "nan,1", "inf,1", "1,1e999", "4_0,1", "١,1"]
)
def test_windows_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512,256", Viewport(512, 256)),
        ("10,10,1.5,2,3,4", Viewport(10, 10, 1.5, 2, 3, 4)),
        ("10,10,,,3,4", Viewport(10, 10, 0, 0, 3, 4)),
        ("10,10,5,6", Viewport(10, 10, 5, 6)),
        ("10,10,0,0,-3,4", Viewport(10, 10, 0, 0, 3, 4, mirror_columns=True)),
        ("8192,8192,0,0,3,-4", Viewport(8192, 8192, 0, 0, 3, 4, mirror_rows=True)),
    ],
)
def test_viewports(text: str, expected: Viewport) -> None:
    assert parse_viewport(text) == expected


@pytest.mark.parametrize(
    "text", ["", "1", "0,5", "-1,5", "100000,100000", "8193,1", "1,1,1", "1,1,0,0,0,1", "a,b", "1.5,1", "1,1,x,0,1,1"]
)
def test_viewports_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_viewport(text)


def test_regions() -> None:
    assert parse_region("0,0.25,1,0.5") == Region(0, 0.25, 1, 0.5)
    for text in ("0,0,1", "0,0,2,1", "0.5,0,0.5,1", "1,0,0,1", "-0.1,0,1,1"):
        with pytest.raises(BadRequest):
            parse_region(text)


def test_quality_and_sides() -> None:
    assert parse_quality("100") == 100
    assert parse_side("8192") == 8192
    for text in ("0", "101", "-1", "1.5", "x", ""):
        with pytest.raises(BadRequest):
            parse_quality(text)
    for text in ("0", "8193", "x", "9" * 50):
        with pytest.raises(BadRequest):
            parse_side(text)


def test_options_are_checked() -> None:
    wrong: dict[str, Any]
    for wrong in ({"rows": 0}, {"quality": 0}, {"iccprofile": "cmyk"}, {"rotation": 45}):
        with pytest.raises(BadRequest):
            RenderOptions.from_dict(wrong)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (parse_window, parse_viewport, parse_region, parse_quality, parse_side, parse_annotation):
        try:
            read(text)
        except BadRequest:
            continue


def test_options_survive_the_way_to_another_process() -> None:
    options = RenderOptions(
        window=make_window("1", "2", WindowFunction.SIGMOID),
        viewport=parse_viewport("5,6,1,1,-2,2"),
        region=Region(0, 0, 1, 1),
        annotation=("a", "b"),
        iccprofile="yes",
        rotation=90,
    )
    assert RenderOptions.from_dict(orjson.loads(orjson.dumps(options.to_dict()))) == options


def test_annotation() -> None:
    attributes: dict[str, dict[str, Any]] = {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00100020": {"vr": "LO", "Value": ["1"]},
        "00180050": {"vr": "DS", "Value": [2.50]},
        "00080060": {"vr": "CS"},
    }
    assert patient_lines(attributes) == ("Doe Jane", "ID 1")
    assert technique_lines(attributes) == ("Slice thickness 2.5",)
    assert parse_annotation("Patient, technique") == {"patient", "technique"}
    with pytest.raises(BadRequest):
        parse_annotation("all")
