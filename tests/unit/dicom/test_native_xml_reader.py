"""The Native DICOM Model (PS3.19 A.1) as clients send it."""

from typing import Any

import pytest

from dicomweb_server.dicom.native_xml import NAMESPACE, to_native_xml
from dicomweb_server.dicom.native_xml_reader import from_native_xml
from dicomweb_server.errors import BadDicom


def document(inside: str) -> bytes:
    return f'<NativeDicomModel xmlns="{NAMESPACE}">{inside}</NativeDicomModel>'.encode()


def test_what_is_written_is_read() -> None:
    attributes: dict[str, dict[str, Any]] = {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00080008": {"vr": "CS", "Value": ["A", None, "B"]},
        "00081111": {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["X <&> Y"]}}, {}]},
        "00090010": {"vr": "LO", "Value": ["MINE"]},
        "00091001": {"vr": "UN", "InlineBinary": "AQI="},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B^^Dr", "Ideographic": "山田^太郎"}]},
        "00100020": {"vr": "LO"},
        "00104000": {"vr": "LT", "Value": [" two\r\nlines "]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "/a?b&c"},
    }
    assert from_native_xml(to_native_xml(attributes)) == attributes


def test_other_prefixes_encodings_and_white_space() -> None:
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
    <d:NativeDicomModel xmlns:d="{NAMESPACE}">
      <d:DicomAttribute tag="0008103e" vr="LO"><d:Value number="1">Schädel</d:Value></d:DicomAttribute>
      <d:DicomAttribute tag="00281201" vr="OW"><d:InlineBinary>
        AQ==
      </d:InlineBinary></d:DicomAttribute>
    </d:NativeDicomModel>"""
    assert from_native_xml(text.encode("iso-8859-1").lstrip()) == {
        "0008103E": {"vr": "LO", "Value": ["Schädel"]},
        "00281201": {"vr": "OW", "InlineBinary": "AQ=="},
    }


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"no xml",
        b"<a/>",
        b"<NativeDicomModel>",
        b'<?xml version="1.0" encoding="klingon"?><NativeDicomModel/>',
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><NativeDicomModel/>',
        document("<Value>1</Value>"),
        document("<InlineBinary>AQ==</InlineBinary>"),
        document('<DicomAttribute tag="00080008" vr="CS"><DicomAttribute/></DicomAttribute>'),
        document('<DicomAttribute tag="00080008" vr="CS"/>' * 2),
        document('<DicomAttribute tag="00080008" vr="CS"><Value number="999999999">A</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00080008" vr="CS"><Value number="0">A</Value></DicomAttribute>'),
        document('<DicomAttribute tag="00081111" vr="SQ"><Item number="1">' * 500),
    ],
)
def test_what_is_no_such_document_is_refused(bad: bytes) -> None:
    with pytest.raises(BadDicom):
        from_native_xml(bad)
