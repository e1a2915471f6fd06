"""Structured reports as a page and as text."""

from html.parser import HTMLParser
from typing import Any

import pytest

from dicomweb_server.dicom.part10 import read_header
from dicomweb_server.dicom.sr_html import MAX_DEPTH, content_lines, sr_to_html, sr_to_text
from tests.samples import PYDICOM_FILES


def _code(meaning: str, value: str = "1") -> dict[str, Any]:
    return {"vr": "SQ", "Value": [{"00080100": _of("SH", value), "00080104": _of("LO", meaning)}]}


def _of(vr: str, *values: Any) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)}


def _item(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"0040A040": _of("CS", kind), "0040A043": _code(name), **{key[1:]: value for key, value in more.items()}}


def _report(*children: dict[str, Any]) -> dict[str, Any]:
    return _item("CONTAINER", "Report", t0040A730=_of("SQ", *children))


NUMBER = {"0040A30A": _of("DS", 1.7), "004008EA": _code("centimetre", "cm")}
REFERENCE = {"00081155": _of("UI", "1.2.3"), "00081160": _of("IS", 2, 5)}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (_item("TEXT", "Finding", t0040A160=_of("UT", "a <b>\n\tc")), "Finding: a <b> c"),
        (_item("CODE", "Site", t0040A168=_code("Lung")), "Site: Lung"),
        (_item("NUM", "Length", t0040A300=_of("SQ", NUMBER)), "Length: 1.7 cm"),
        (_item("NUM", "Length"), "Length: no value"),
        (_item("PNAME", "By", t0040A123=_of("PN", {"Alphabetic": "Doe^Jane"})), "By: Doe Jane"),
        (_item("DATE", "On", t0040A121=_of("DA", "20240102")), "On: 20240102"),
        (_item("UIDREF", "Id", t0040A124=_of("UI", "1.2")), "Id: 1.2"),
        (_item("IMAGE", "Image", t00081199=_of("SQ", REFERENCE)), "Image: frames 2, 5 1.2.3"),
        (_item("SCOORD", "At", t00700023=_of("CS", "POINT"), t00700022=_of("FL", 1.5, 2.0)), "At: POINT 1.5, 2"),
        (_item("SOMETHING", "New"), "New"),
    ],
)
def test_values(item: dict[str, Any], expected: str) -> None:
    assert sr_to_text(_report(item)).splitlines()[-1] == expected


def test_everything_is_escaped() -> None:
    evil = "<script>alert(1)</script>\"'&"
    report = _report(_item("TEXT", evil, t0040A160=_of("UT", evil)))
    report["00100010"] = _of("PN", {"Alphabetic": evil})
    report["0040A043"] = _code(evil)
    reference = {"00081155": _of("UI", evil)}
    report["0040A730"]["Value"].append(_item("IMAGE", "x", t00081199=_of("SQ", reference)))
    page = sr_to_html(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5


def test_the_page_is_well_formed() -> None:
    with (PYDICOM_FILES / "reportsi.dcm").open("rb") as file:
        page = sr_to_html(read_header(file).attributes)
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []
    assert "OFFIS Structured Reporting Templates" in page


def test_levels_are_indented() -> None:
    inner = _item("CONTAINER", "Section", t0040A730=_of("SQ", _item("TEXT", "A", t0040A160=_of("UT", "b"))))
    assert sr_to_text(_report(inner, _item("TEXT", "C"))).splitlines()[-3:] == ["Section", "  A: b", "C"]


def test_depth_is_bounded() -> None:
    item = _item("TEXT", "end")
    for _ in range(3 * MAX_DEPTH):
        item = _item("CONTAINER", "in", t0040A730=_of("SQ", item))
    assert max(line.depth for line in content_lines(item)) == MAX_DEPTH


@pytest.mark.parametrize("attributes", [{}, {"0040A730": {"vr": "SQ"}}, {"0040A730": _of("SQ", None, "x")}])
def test_what_is_no_report_gives_an_empty_one(attributes: dict[str, Any]) -> None:
    assert "Structured report" in sr_to_html(attributes)
    assert sr_to_text(attributes).startswith("Structured report")
