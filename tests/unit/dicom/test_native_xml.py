"""The Native DICOM Model (PS3.19 A.1)."""

import xml.etree.ElementTree as ET

from dicomweb_server.dicom.native_xml import NAMESPACE, to_native_xml

NS = {"d": NAMESPACE}


def _tree(attributes: dict[str, dict[str, object]]) -> ET.Element:
    return ET.fromstring(to_native_xml(attributes))  # noqa: S314


def _one(attributes: dict[str, dict[str, object]]) -> ET.Element:
    (found,) = _tree(attributes)
    return found


def test_values_have_numbers_and_empty_ones_keep_theirs() -> None:
    element = _one({"00080008": {"vr": "CS", "Value": ["A", None, "B"]}})
    assert element.attrib == {"tag": "00080008", "vr": "CS", "keyword": "ImageType"}
    assert [(value.attrib["number"], value.text) for value in element] == [("1", "A"), ("3", "B")]


def test_numbers() -> None:
    element = _one({"00189087": {"vr": "FD", "Value": [0.1, 2, "NaN", "-Infinity"]}})
    assert [value.text for value in element] == ["0.1", "2", "NaN", "-INF"]


def test_person_names_have_groups_and_components() -> None:
    element = _one({"00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B^^Dr", "Ideographic": "山田^太郎"}]}})
    alphabetic, ideographic = element[0]
    assert [(part.tag.partition("}")[2], part.text) for part in alphabetic] == [
        ("FamilyName", "A"),
        ("GivenName", "B"),
        ("NamePrefix", "Dr"),
    ]
    assert [part.text for part in ideographic] == ["山田", "太郎"]


def test_sequences_nest() -> None:
    element = _one({"00081111": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X"]}}, {}]}})
    assert [item.attrib["number"] for item in element.findall("d:Item", NS)] == ["1", "2"]
    value = element.find("d:Item/d:DicomAttribute/d:Value", NS)
    assert value is not None
    assert value.text == "X"


def test_bulk_and_inline_data() -> None:
    tree = _tree({"7FE00010": {"vr": "OW", "BulkDataURI": "/a?b&c"}, "00281201": {"vr": "OW", "InlineBinary": "AQ=="}})
    inline, bulk = tree
    assert inline[0].text == "AQ=="
    assert bulk[0].attrib == {"uri": "/a?b&c"}


def test_private_elements_name_their_creator_and_have_no_keyword() -> None:
    tree = _tree({"00990010": {"vr": "LO", "Value": ["ACME"]}, "00991001": {"vr": "LO", "Value": ["x"]}})
    assert tree[0].attrib == {"tag": "00990010", "vr": "LO"}
    assert tree[1].attrib == {"tag": "00991001", "vr": "LO", "privateCreator": "ACME"}


def test_text_is_escaped_and_what_xml_forbids_is_left_out() -> None:
    element = _one({"00104000": {"vr": "LT", "Value": ['<a> & "b"\x00\x1b\ufffe\r\n  end 😀']}})
    assert element[0].text == '<a> & "b"\r\n  end 😀'


def test_an_empty_element() -> None:
    assert list(_one({"00100010": {"vr": "PN"}})) == []
