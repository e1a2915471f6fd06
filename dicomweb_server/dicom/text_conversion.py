"""The texts of a data set in another character set: UTF-8, with all that is nested in it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dicomweb_server.dicom.charset import ESCAPE, NAME_DELIMITERS, TEXT_DELIMITERS, Charset, Notes
from dicomweb_server.dicom.charset_encoding import TEXT_VRS
from dicomweb_server.dicom.element_places import ElementPlaces, Place
from dicomweb_server.dicom.elements import private_vr
from dicomweb_server.dicom.json_model import UTF8
from dicomweb_server.dicom.plans import CHARSET, SEQUENCE, UNKNOWN, Encoding
from dicomweb_server.dicom.splices import Splice, element_bytes, group_length, longer
from dicomweb_server.errors import BadDicom, Conflict

_CHARSET: Final = "00080005"
_FAR: Final = 1 << 62


class TextConversion:
    """Encodes texts again. Raises Conflict for one that cannot be read."""

    def __init__(self, places: ElementPlaces) -> None:
        self._places = places

    def splices(
        self,
        start: int,
        end: int,
        encoding: Encoding,
        charset: bytes,
        *,
        depth: int = 0,
        skip: frozenset[str] = frozenset(),
    ) -> list[Splice]:
        """The replacements of a data set or item."""
        found: list[Splice] = []
        creators: dict[str, Any] = {}
        lengths: dict[str, Place] = {}
        for place in self._places.elements(start, end, encoding, depth=depth):
            if place.tag in skip:
                continue
            if place.tag[4:] == "0000":
                lengths[place.tag] = place
            elif place.plan.kind == CHARSET:
                charset = self._places.bytes_at(place.start, place.end)
                utf8 = element_bytes(_CHARSET, "CS", UTF8.encode("ascii"), place.encoding)
                found.append(Splice(place.begin, place.end, utf8))
            else:
                vr = self._vr(place, creators, charset)
                if vr in TEXT_VRS:
                    found += self._text(place, vr, charset)
                elif place.plan.kind == SEQUENCE or (place.plan.kind == UNKNOWN and vr in ("SQ", "UN")):
                    found += self._sequence(place, charset, depth)
        return found if depth == 0 else found + _lengths_in_item(self._places, lengths, found)

    def items(self, place: Place, charset: bytes, *, depth: int = 0) -> list[Splice]:
        """The replacements in the items of a sequence, with the lengths of those; not with its own."""
        found: list[Splice] = []
        for item in self._places.items(place, depth=depth):
            inside = self.splices(item.start, item.elements_end, place.items_encoding, charset, depth=depth + 1)
            found += inside
            if inside and not item.is_open:
                found.append(longer(item.begin + 4, item.end - item.start, inside, place.encoding))
        return found

    def _sequence(self, place: Place, charset: bytes, depth: int) -> list[Splice]:
        try:
            found = self.items(place, charset, depth=depth)
        except BadDicom:
            if place.plan.kind == UNKNOWN:  # no sequence after all
                return []
            raise
        if found and not place.is_open:
            found.append(longer(place.length_at, place.end - place.start, found, place.encoding))
        return found

    def _vr(self, place: Place, creators: dict[str, Any], charset: bytes) -> str:
        """The VR as the reader takes it: that of private elements comes from their creator (PS3.5 7.8.1)."""
        plan = place.plan
        if int(plan.key[:4], 16) & 1 and plan.vr == "LO" and plan.key[4:6] == "00":
            raw = self._places.bytes_at(place.start, place.end)
            name = Charset(charset, Notes()).decode(raw, TEXT_DELIMITERS).strip(" \0")
            creators[plan.key] = {"vr": "LO", "Value": [name]}
        if plan.kind == UNKNOWN and plan.vr == "UN":
            return private_vr(creators, plan.key)
        return plan.vr

    def _text(self, place: Place, vr: str, charset: bytes) -> Iterator[Splice]:
        raw = self._places.bytes_at(place.start, place.end)
        if raw.isascii() and ESCAPE not in raw:
            return
        notes = Notes()
        text = Charset(charset, notes).decode(raw, NAME_DELIMITERS if vr == "PN" else TEXT_DELIMITERS)
        if notes.warnings:
            tag = f"({place.tag[:4]},{place.tag[4:]})"
            raise Conflict(
                f"a new value does not fit the character set of the file, and {tag} cannot be read to be converted"
            )
        yield Splice(place.begin, place.end, element_bytes(place.tag, vr, text.rstrip(" \0").encode(), place.encoding))


def _lengths_in_item(places: ElementPlaces, lengths: Mapping[str, Place], splices: Sequence[Splice]) -> list[Splice]:
    """Those of the groups of an item; each group ends where the next begins."""
    ends = [*(place.begin for place in lengths.values()), _FAR][1:]
    return [
        splice
        for place, end in zip(lengths.values(), ends, strict=True)
        for splice in group_length(places, place, end, splices)
    ]
