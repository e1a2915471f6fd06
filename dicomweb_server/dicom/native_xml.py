"""The Native DICOM Model (PS3.19 A.1): XML from the DICOM JSON model."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from dicomweb_server.dicom.dictionary import public_keyword

NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")

_Elements = Mapping[str, Mapping[str, Any]]


def to_native_xml(attributes: _Elements) -> bytes:
    """The XML document of one data set in UTF-8. Characters that XML cannot hold are left out."""
    body = "".join(_attributes(attributes))
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">{body}</NativeDicomModel>'.encode()


def _attributes(attributes: _Elements) -> Iterator[str]:
    for tag in sorted(attributes):
        element = attributes[tag]
        yield f"<DicomAttribute tag={_quoted(tag)} vr={_quoted(element['vr'])}{_names(attributes, tag)}>"
        if "BulkDataURI" in element:
            yield f"<BulkData uri={_quoted(element['BulkDataURI'])}/>"
        elif "InlineBinary" in element:
            yield f"<InlineBinary>{_text(element['InlineBinary'])}</InlineBinary>"
        else:
            for number, value in enumerate(element.get("Value", ()), 1):
                yield _value(element["vr"], number, value)
        yield "</DicomAttribute>"


def _names(attributes: _Elements, tag: str) -> str:
    """The keyword of a public tag, the creator of a private one."""
    number = int(tag, 16)
    if number & 0x10000 == 0:
        keyword = public_keyword(number)
        return f" keyword={_quoted(keyword)}" if keyword else ""
    creators = attributes.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value")
    if number & 0xFFFF <= 0xFF or not creators or not isinstance(creators[0], str):
        return ""
    return f" privateCreator={_quoted(creators[0])}"


def _value(vr: str, number: int, value: Any) -> str:
    """One value. An empty one among others keeps its number, and is left out."""
    if vr == "SQ":
        return f'<Item number="{number}">{"".join(_attributes(value or {}))}</Item>'
    if value is None:
        return ""
    if vr == "PN":
        return f'<PersonName number="{number}">{_person(value)}</PersonName>'
    return f'<Value number="{number}">{_text(_number(value))}</Value>'


def _number(value: Any) -> Any:
    """Infinity as XML Schema spells it; NaN is the same in both."""
    return {"Infinity": "INF", "-Infinity": "-INF"}.get(value, value) if isinstance(value, str) else value


def _person(groups: Mapping[str, str]) -> str:
    parts = []
    for group in ("Alphabetic", "Ideographic", "Phonetic"):
        if text := groups.get(group):
            named = zip(_COMPONENTS, text.split("^"), strict=False)
            inside = "".join(f"<{name}>{_text(part)}</{name}>" for name, part in named if part)
            parts.append(f"<{group}>{inside}</{group}>")
    return "".join(parts)


def _text(value: Any) -> str:
    # A carriage return as such would reach the reader as a line feed.
    return escape(_FORBIDDEN.sub("", str(value)), {"\r": "&#13;"})


def _quoted(value: Any) -> str:
    return quoteattr(_FORBIDDEN.sub("", str(value)))
