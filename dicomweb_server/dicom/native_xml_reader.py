"""The DICOM JSON model from XML of the Native DICOM Model (PS3.19 A.1), as clients send it."""

from typing import Any, Final
from xml.parsers import expat

from dicomweb_server.dicom.plans import MAX_DEPTH
from dicomweb_server.errors import BadDicom

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS: Final = {
    "FamilyName": 0,
    "GivenName": 1,
    "MiddleName": 2,
    "NamePrefix": 3,
    "NameSuffix": 4,
}
_LARGEST_GAP = 1000  # of values that are empty, and so left out


def from_native_xml(document: bytes) -> dict[str, Any]:
    """The attributes of the one data set. Values stay texts, also numbers; what they are worth is not looked at.

    Raises BadDicom for what is no such document, also for one with a document type.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _no_doctype
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, ValueError, LookupError) as exc:  # an encoding that is not known is a LookupError
        raise BadDicom("the metadata part is no XML") from exc
    if reader.root is None:
        raise BadDicom("the metadata part has no NativeDicomModel")
    return reader.root


def _no_doctype(*_: object) -> None:
    raise BadDicom("the metadata part has a document type, which none needs")


class _Reader:
    def __init__(self) -> None:
        self.root: dict[str, Any] | None = None
        self._sets: list[dict[str, Any]] = []
        self._elements: list[dict[str, Any]] = []
        self._person: dict[str, list[str]] = {}
        self._group = ""
        self._number = ""
        self._text: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._text.clear()
        if name == "NativeDicomModel" and self.root is None:
            self.root = {}
            self._sets.append(self.root)
        elif self.root is None:
            raise BadDicom("the metadata part has no NativeDicomModel")
        elif name == "DicomAttribute":
            self._begin(attributes)
        elif name == "Item":
            item: dict[str, Any] = {}
            self._add(attributes.get("number", ""), item)
            self._sets.append(item)
            if len(self._sets) > MAX_DEPTH + 1:
                raise BadDicom(f"sequences are nested deeper than {MAX_DEPTH}")
        elif name in ("Value", "PersonName"):
            self._number = attributes.get("number", "")
            self._person = {}
        elif name in _GROUPS:
            self._group = name
            self._person[name] = [""] * len(_COMPONENTS)
        elif name == "BulkData":
            self._element()["BulkDataURI"] = attributes.get("uri") or attributes.get("uuid", "")

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        text = "".join(self._text)
        self._text.clear()
        if name == "DicomAttribute":
            self._elements.pop()
        elif name == "Item":
            self._sets.pop()
        elif name == "Value":
            self._add(self._number, text or None)
        elif name in _COMPONENTS and self._group in self._person:
            self._person[self._group][_COMPONENTS[name]] = text
        elif name == "PersonName":
            groups = {group: "^".join(parts).rstrip("^") for group, parts in self._person.items()}
            self._add(self._number, {group: joined for group, joined in groups.items() if joined} or None)
        elif name == "InlineBinary":
            self._element()["InlineBinary"] = "".join(text.split())

    def text(self, data: str) -> None:
        self._text.append(data)

    def _begin(self, attributes: dict[str, str]) -> None:
        tag = attributes.get("tag", "").upper()
        if len(self._elements) >= len(self._sets) or tag in self._sets[-1]:
            raise BadDicom("an attribute stands inside another one, or twice")
        element: dict[str, Any] = {"vr": attributes.get("vr", "")}
        self._sets[-1][tag] = element
        self._elements.append(element)

    def _element(self) -> dict[str, Any]:
        if len(self._elements) != len(self._sets):
            raise BadDicom("a value stands outside of an attribute")
        return self._elements[-1]

    def _add(self, number: str, value: object) -> None:
        """A value at its place, which begins with 1; those that are left out before it are empty."""
        values: list[object] = self._element().setdefault("Value", [])
        place = int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else len(values) + 1
        if not len(values) < place <= len(values) + _LARGEST_GAP:
            raise BadDicom("the numbers of values, or of items, do not go upwards from 1")
        values += [None] * (place - len(values) - 1)
        values.append(value)
