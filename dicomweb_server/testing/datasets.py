"""Data for tests: instance records, and small Part 10 files written by hand."""

import hashlib
import itertools
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dicomweb_server.dicom.attributes import Attributes, resolve, vr_of
from dicomweb_server.storage.records import Blob, InstanceRecord

ROOT = "1.2.826.0.1.3680043.10.9999"
"""The UIDs of this module lie below this one."""

CT_IMAGE, MR_IMAGE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"

_numbers: Iterator[int] = itertools.count(1)
_TEXT_PADS_ZERO = frozenset(("UI",))
_LONG = frozenset(("OB", "OW", "OD", "OF", "OL", "OV", "UC", "UR", "UN", "UT", "SQ"))
_PACKED = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d"}


def new_uid() -> str:
    """A UID that this process did not give before."""
    return f"{ROOT}.{next(_numbers)}"


def attribute(name: str, *values: Any, vr: str | None = None) -> dict[str, Any]:
    """One attribute of the JSON model. Names may be text with "=" between the groups; no value makes it empty."""
    vr = vr or vr_of(resolve(name)[-1])
    if not values:
        return {"vr": vr}
    if vr == "PN":
        values = tuple(person_name(value) if isinstance(value, str) else value for value in values)
    return {"vr": vr, "Value": list(values)}


def person_name(text: str) -> dict[str, str]:
    """A name in the JSON model."""
    names = ("Alphabetic", "Ideographic", "Phonetic")
    return {name: group for name, group in zip(names, text.split("="), strict=False) if group}


def header(**values: Any) -> dict[str, Any]:
    """Attributes by keyword: a value, a list of values, None for empty, or a ready attribute."""
    attributes: dict[str, Any] = {}
    for keyword, value in values.items():
        (tag,) = resolve(keyword)
        if isinstance(value, Mapping):
            attributes[tag] = dict(value)
        else:
            listed = value if isinstance(value, list) else [] if value is None else [value]
            attributes[tag] = attribute(keyword, *listed)
    return dict(sorted(attributes.items()))


def record(
    study_uid: str | None = None,
    series_uid: str | None = None,
    *,
    instance_uid: str | None = None,
    sop_class_uid: str = CT_IMAGE,
    transfer_syntax_uid: str = EXPLICIT,
    content: bytes | None = None,
    more: Attributes | None = None,
    layout: bytes = b"layout",
    layout_blob: str | None = None,
    **values: Any,
) -> InstanceRecord:
    """A record as `Storage.store` takes it. Values are as in `header`; `more` is of the JSON model. UIDs left out are
    new; the blob key is always new, its SHA-256 is that of `content` or of the header."""
    study_uid, series_uid = study_uid or new_uid(), series_uid or new_uid()
    instance_uid = instance_uid or new_uid()
    attributes = header(
        SOPClassUID=sop_class_uid,
        SOPInstanceUID=instance_uid,
        StudyInstanceUID=study_uid,
        SeriesInstanceUID=series_uid,
        **{"Modality": "CT", "PatientID": "P1", "PatientName": "Doe^Jane", **values},
    )
    attributes = dict(sorted({**attributes, **(more or {})}.items()))
    json = orjson.dumps(attributes)
    content = json if content is None else content
    return InstanceRecord(
        study_uid=study_uid,
        series_uid=series_uid,
        instance_uid=instance_uid,
        sop_class_uid=sop_class_uid,
        transfer_syntax_uid=transfer_syntax_uid,
        attributes=attributes,
        metadata=deflated(json),
        blob=Blob(key=f"blob-{next(_numbers)}", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
        layout=layout,
        layout_blob=layout_blob,
    )


def deflated(data: bytes) -> bytes:
    """Raw deflate, as metadata is kept."""
    packer = zlib.compressobj(level=1, wbits=-15)
    return packer.compress(data) + packer.flush()


def part10(attributes: Attributes, *, transfer_syntax_uid: str = EXPLICIT, preamble: bytes = bytes(128)) -> bytes:
    """A file with these attributes, explicit VR little endian: text, numbers, sequences; InlineBinary as bytes."""
    meta = {
        "00020001": {"vr": "OB", "InlineBinary": b"\0\1"},
        "00020002": attributes["00080016"],
        "00020003": attributes["00080018"],
        "00020010": {"vr": "UI", "Value": [transfer_syntax_uid]},
        "00020012": {"vr": "UI", "Value": [ROOT]},
    }
    group = _encoded(meta)
    length = _element("00020000", {"vr": "UL", "Value": [len(group)]})
    return preamble + b"DICM" + length + group + _encoded(attributes)


def _encoded(attributes: Attributes) -> bytes:
    return b"".join(_element(tag, value) for tag, value in sorted(attributes.items()))


def _element(tag: str, attribute_: Mapping[str, Any]) -> bytes:
    vr = attribute_["vr"]
    data = _value(vr, attribute_)
    if len(data) % 2:
        data += b"\0" if vr in _TEXT_PADS_ZERO or vr in _LONG else b" "
    start: bytes = struct.pack("<HH", int(tag[:4], 16), int(tag[4:], 16)) + vr.encode()
    if vr in _LONG:
        return start + struct.pack("<HI", 0, len(data)) + data
    return start + struct.pack("<H", len(data)) + data


def _value(vr: str, attribute_: Mapping[str, Any]) -> bytes:
    if "InlineBinary" in attribute_:
        return bytes(attribute_["InlineBinary"])
    values = attribute_.get("Value", [])
    if vr == "SQ":
        items = [_encoded(item) for item in values]
        return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    if vr in _PACKED:
        return b"".join(struct.pack(_PACKED[vr], value) for value in values)
    if vr == "PN":
        values = ["=".join(value.values()) for value in values]
    return "\\".join(str(value) for value in values).encode()
