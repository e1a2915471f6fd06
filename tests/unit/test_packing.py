"""Packed metadata: what it says besides the header."""

import orjson

from dicomweb_server.storage.packing import header_of, pack_metadata, unpack_metadata
from dicomweb_server.storage.records import Attributes

HEADER: Attributes = {
    "00080018": {"vr": "UI", "Value": ["1.2.3"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
}
JPEG_LS = "1.2.840.10008.1.2.4.80"


def test_the_transfer_syntax_stands_in_its_place() -> None:
    """PS3.18 F.2.2: attributes are in the order of their tags."""
    packed = pack_metadata(HEADER, JPEG_LS)
    shown = orjson.loads(unpack_metadata(packed))
    assert list(shown) == ["00080018", "00083002", "00100010"]
    assert shown["00083002"] == {"vr": "UI", "Value": [JPEG_LS]}
    assert header_of(packed) == HEADER


def test_a_file_does_not_say_it_itself() -> None:
    header = {**HEADER, "00083002": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1"]}}
    packed = pack_metadata(dict(sorted(header.items())), JPEG_LS)
    assert orjson.loads(unpack_metadata(packed))["00083002"]["Value"] == [JPEG_LS]
    assert list(orjson.loads(unpack_metadata(packed))) == sorted(header)


def test_what_is_repeated_of_the_header_before_makes_no_difference() -> None:
    """Instances share elements; the others, their number and the transfer syntax change at any place."""
    shared: Attributes = {f"0010{number:04X}": {"vr": "LO", "Value": [f"é {number}"]} for number in range(20)}
    headers = []
    for number in range(12):
        header = {"00080018": {"vr": "UI", "Value": [f"1.2.{number}"]}, **shared, "00200013": {"vr": "IS"}}
        if number % 4 == 3:
            header["00104000"] = {"vr": "LT", "Value": ["one more"]}
        if number in (5, 6):
            header = {tag: dict(element) for tag, element in header.items()}
        headers.append(dict(sorted(header.items())))
    syntaxes = [JPEG_LS if number % 5 else "1.2.840.10008.1.2.1" for number in range(12)]
    for header, syntax in zip(headers, syntaxes, strict=True):
        packed = pack_metadata(header, syntax)
        assert header_of(packed) == header
        shown = orjson.loads(unpack_metadata(packed))
        assert list(shown) == sorted(shown)
        assert shown["00083002"]["Value"] == [syntax]
