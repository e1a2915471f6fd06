"""What is needed to show one frame, taken out of the attributes of its instance.

The result is DICOM JSON again, small and flat: functional groups (PS3.3 C.7.6.16) are resolved for the frame and stand
where a single-frame object has them, values that are links are fetched, overlays are cut to the frame. It can be sent
to another process.
"""

import binascii
from collections.abc import Callable
from itertools import chain
from typing import Any, Final

from dicomweb_server.dicom.json_model import Attributes, Element, first_int, inline_binary
from dicomweb_server.errors import BadPixels

FetchBulk = Callable[[str], bytes]
"""Gives the value that a BulkDataURI of the attributes names, as little endian."""

MAX_BULK_BYTES: Final = 32 << 20
"""Longer tables, overlays and profiles are left out."""

_PLAIN: Final = frozenset(
    {
        "00080008", "00080016", "00080060", "00080070", "00080020", "00080030", "0008103E", "00081030", "00082144",
        "00100010", "00100020", "00100030", "00100040", "00180040", "00180050", "00180060", "00181063", "00181151",
        "00181152", "00181164", "00182010", "00200010", "00200011", "00200013", "00200020", "00200062", "00201041",
        "00280002", "00280004", "00280006", "00280008", "00280010", "00280011", "00280030", "00280034", "00280100",
        "00280101", "00280102", "00280103", "00280120", "00280121", "00280122", "00280123", "00280124", "00280125",
        "00281050", "00281051", "00281052", "00281053", "00281054", "00281055", "00281056", "00281101", "00281102",
        "00281103", "20500020", "7FE00008", "7FE00009", "7FE00010",
    }
)  # fmt: skip
_TABLES: Final = frozenset(
    {
        "00281201", "00281202", "00281203", "00281221", "00281222", "00281223", "00282000", "00283000", "00283010",
        "20500010",
    }
)  # fmt: skip
_MACROS: Final = ("00289145", "00289132", "00289110")
"""Pixel Value Transformation, Frame VOI LUT, Pixel Measures: their items hold what single-frame objects have."""
OVERLAY_ROWS: Final = frozenset(f"60{number:02X}0010" for number in range(0, 32, 2))
"""Overlay Rows (PS3.3 C.9.2), which every overlay has, of the sixteen that there can be."""
_OVERLAY_PARTS: Final = ("0010", "0011", "0015", "0040", "0050", "0051", "0100", "0102", "3000")


def frame_attributes(attributes: Attributes, frame_index: int, *, fetch_bulk: FetchBulk | None = None) -> Attributes:
    """The attributes that decide how a frame, counted from 0, looks.

    fetch_bulk: without it, values behind a link are left out. Doing it twice changes nothing.
    """
    found: Attributes = {tag: attributes[tag] for tag in _PLAIN & attributes.keys()}
    for tag in ("7FE00008", "7FE00009", "7FE00010"):
        if tag in found:
            found[tag] = {"vr": found[tag].get("vr", "OW")}
    for macro in _macros(attributes, frame_index):
        found.update({tag: macro[tag] for tag in (_PLAIN | _TABLES) & macro.keys()})
    for tag in _TABLES & attributes.keys():
        found[tag] = attributes[tag]
    if "00282000" not in found:
        found.update(_profile_of_optical_path(attributes))
    for tag in _TABLES & found.keys():
        found[tag] = fetched(found[tag], fetch_bulk)
    for rows in OVERLAY_ROWS & attributes.keys():
        found.update(_overlay(attributes, rows[:4], frame_index, fetch_bulk))
    return found


def items(attributes: Attributes, tag: str) -> list[Attributes]:
    """The items of a sequence."""
    return [item for item in attributes.get(tag, {}).get("Value") or () if isinstance(item, dict)]


def binary(element: Element | None) -> bytes:
    """The bytes of an inline binary value; of numbers (US, SS) as 16-bit little endian."""
    if element is None:
        return b""
    if "InlineBinary" in element:
        try:
            return binascii.a2b_base64(element["InlineBinary"])
        except (binascii.Error, ValueError, TypeError) as exc:
            raise BadPixels("a binary value of the instance is damaged") from exc
    values = element.get("Value") or ()
    return b"".join((int(value) & 0xFFFF).to_bytes(2, "little") for value in values if isinstance(value, int))


def _macros(attributes: Attributes, frame_index: int) -> list[Attributes]:
    """The items of the functional groups of a frame: those of all frames, then its own, which win."""
    per_frame = attributes.get("52009230", {}).get("Value") or ()
    own = per_frame[frame_index : frame_index + 1] if frame_index >= 0 else ()
    groups = chain(items(attributes, "52009229")[:1], (item for item in own if isinstance(item, dict)))
    return [item for group in groups for macro in _MACROS for item in items(group, macro)[:1]]


def _profile_of_optical_path(attributes: Attributes) -> Attributes:
    """Whole-slide images have their ICC profile in Optical Path Sequence (PS3.3 C.8.12.5)."""
    for path in items(attributes, "00480105")[:1]:
        if "00282000" in path:
            return {"00282000": path["00282000"]}
    return {}


def fetched(element: Element, fetch_bulk: FetchBulk | None) -> Element:
    """The element with links, in it and in its items, replaced by their values."""
    if element.get("vr") == "SQ":
        nested = [
            {tag: fetched(child, fetch_bulk) for tag, child in item.items()}
            for item in element.get("Value") or ()
            if isinstance(item, dict)
        ]
        return {"vr": "SQ", "Value": nested}
    uri = element.get("BulkDataURI")
    if uri is None:
        return element
    data = fetch_bulk(uri) if fetch_bulk else b""
    if not data or len(data) > MAX_BULK_BYTES:
        return {"vr": element.get("vr", "OW")}
    return {"vr": element.get("vr", "OW"), "InlineBinary": inline_binary(data)}


def _overlay(attributes: Attributes, group: str, frame_index: int, fetch_bulk: FetchBulk | None) -> Attributes:
    """The overlay plane (PS3.3 C.9.2) as that frame has it; nothing where the frame has none."""
    found: dict[str, Any] = {
        group + part: attributes[group + part] for part in _OVERLAY_PARTS if group + part in attributes
    }
    data = found.pop(f"{group}3000", None)
    if data is None:
        return found
    planes = first_int(attributes, f"{group}0015") or 1
    plane = frame_index + 1 - (first_int(attributes, f"{group}0051") or 1) if planes > 1 else 0
    rows, columns = (first_int(attributes, group + part) or 0 for part in ("0010", "0011"))
    bits = rows * columns
    if not 0 <= plane < planes or not 0 < bits <= 8 * MAX_BULK_BYTES:
        return {}
    bytes_ = binary(fetched(data, fetch_bulk))
    first = plane * bits
    piece = bytes_[first // 8 : (first + bits + 7) // 8]
    if len(piece) * 8 < bits:
        return {}
    if first % 8:
        shifted = int.from_bytes(piece, "little") >> first % 8
        piece = shifted.to_bytes(len(piece), "little")
    found.pop(f"{group}0015", None)
    found.pop(f"{group}0051", None)
    found[f"{group}3000"] = {"vr": "OW", "InlineBinary": inline_binary(piece[: (bits + 7) // 8])}
    return found
