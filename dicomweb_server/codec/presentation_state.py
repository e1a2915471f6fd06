"""A softcopy presentation state (PS3.3 A.33, PS3.4 Annex N) applied to a frame: its look-up tables take the place of
those of the image, it turns the picture and chooses the part of it, and its graphics are drawn."""

from dataclasses import replace
from typing import Any, Final

from dicomweb_server.codec.options import Graphic, Region, RenderOptions
from dicomweb_server.codec.presentation import FetchBulk, fetched, items
from dicomweb_server.dicom.json_model import Attributes, first_int, first_value

MAX_GRAPHICS: Final = 500
MAX_POINTS: Final = 2000

_MODALITY: Final = ("00281052", "00281053", "00281054", "00283000")
_VOI: Final = ("00281050", "00281051", "00281056", "00283010")
_SHAPES: Final = frozenset({"POINT", "POLYLINE", "INTERPOLATED", "CIRCLE", "ELLIPSE"})


def refers_to(state: Attributes, instance_uid: str) -> bool:
    """Whether the presentation state is for this image."""
    return any(
        first_value(image, "00081155") == instance_uid
        for series in items(state, "00081115")
        for image in items(series, "00081140")
    )


def apply_presentation_state(
    flat: Attributes,
    options: RenderOptions,
    state: Attributes,
    *,
    instance_uid: str,
    frame_index: int,
    fetch_bulk: FetchBulk | None = None,
) -> tuple[Attributes, RenderOptions]:
    """The attributes and options with which the frame looks as the state says.

    flat: what `frame_attributes` gives. What the client asked for in the options goes before the state: a window, a
    viewport, a region. fetch_bulk: for links in the state.
    """
    shown = {tag: element for tag, element in flat.items() if tag not in (*_MODALITY, *_VOI, "20500010", "20500020")}
    taken = _taken(state, _MODALITY)
    if not taken:
        taken = {tag: flat[tag] for tag in _MODALITY if tag in flat}
    for item in _applying(state, "00283110", instance_uid, frame_index)[:1]:
        taken |= _taken(item, _VOI)
    taken |= _taken(state, ("20500010", "20500020"))
    shown |= {tag: fetched(element, fetch_bulk) for tag, element in taken.items()}
    if first_value(flat, "00280004") == "MONOCHROME1":
        # The state says all about inversion (PS3.3 C.11.6.1.2).
        shown["00280004"] = {"vr": "CS", "Value": ["MONOCHROME2"]}
    rotation = (first_int(state, "00700042") or 0) % 360
    options = replace(
        options,
        rotation=rotation if rotation in (90, 180, 270) else 0,
        flipped=first_value(state, "00700041") == "Y",
        region=options.region or _displayed_area(state, flat, instance_uid, frame_index),
        graphics=_graphics(state, instance_uid, frame_index),
    )
    return shown, options


def _taken(attributes: Attributes, tags: tuple[str, ...]) -> Attributes:
    return {tag: attributes[tag] for tag in tags if tag in attributes}


def _applying(state: Attributes, tag: str, instance_uid: str, frame_index: int) -> list[Attributes]:
    """The items for this image and frame; those that name no image are for all."""
    return [item for item in items(state, tag) if _names(item, instance_uid, frame_index)]


def _names(item: Attributes, instance_uid: str, frame_index: int) -> bool:
    images = items(item, "00081140")
    for image in images:
        frames = image.get("00081160", {}).get("Value") or []
        if first_value(image, "00081155") == instance_uid and (not frames or frame_index + 1 in frames):
            return True
    return not images


def _displayed_area(state: Attributes, flat: Attributes, instance_uid: str, frame_index: int) -> Region | None:
    """PS3.3 C.10.4: corners are pixels of the unrotated image, from 1, and may lie outside of it."""
    rows, columns = first_int(flat, "00280010"), first_int(flat, "00280011")
    for item in _applying(state, "0070005A", instance_uid, frame_index)[:1]:
        start, end = ([n for n in item.get(tag, {}).get("Value") or [] if _is_number(n)] for tag in _CORNERS)
        if len(start) != 2 or len(end) != 2 or not rows or not columns:
            return None
        left, right = sorted((start[0], end[0]))
        top, bottom = sorted((start[1], end[1]))
        left, top = max(0, left - 1), max(0, top - 1)
        right, bottom = min(columns, right), min(rows, bottom)
        whole = (left, top, right, bottom) == (0, 0, columns, rows)
        if whole or left >= right or top >= bottom:
            return None
        return Region(left / columns, top / rows, right / columns, bottom / rows)
    return None


_CORNERS: Final = ("00700052", "00700053")


def _graphics(state: Attributes, instance_uid: str, frame_index: int) -> tuple[Graphic, ...]:
    """The annotations in pixels of the image (PS3.3 C.10.5); those in units of a screen have no place here."""
    found: list[Graphic] = []
    for item in _applying(state, "00700001", instance_uid, frame_index):
        for drawing in items(item, "00700009"):
            shape = first_value(drawing, "00700023")
            points = _points(drawing, "00700022")
            if shape in _SHAPES and first_value(drawing, "00700005") in ("PIXEL", None) and points:
                found.append(Graphic(shape, points, filled=first_value(drawing, "00700024") == "Y"))
        for text in items(item, "00700008"):
            place = _points(text, "00700010") if first_value(text, "00700003") in ("PIXEL", None) else ()
            if not place and first_value(text, "00700004") in ("PIXEL", None):
                place = _points(text, "00700014")
            if place:
                found.append(Graphic("TEXT", place[:1], text=str(first_value(text, "00700006") or "")[:500]))
    return tuple(found[:MAX_GRAPHICS])


def _points(attributes: Attributes, tag: str) -> tuple[tuple[float, float], ...]:
    numbers = [number for number in attributes.get(tag, {}).get("Value") or [] if _is_number(number)]
    pairs = zip(numbers[: 2 * MAX_POINTS : 2], numbers[1 : 2 * MAX_POINTS : 2], strict=False)
    return tuple((float(x), float(y)) for x, y in pairs if abs(x) < 1e6 and abs(y) < 1e6)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
