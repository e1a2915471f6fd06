"""Structured reports (PS3.3 C.17.3) as a page, and as plain text: the content tree from top to bottom, everything
escaped."""

import html
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from dicomweb_server.dicom.json_model import Attributes, first_value
from dicomweb_server.dicom.uids import is_uid

MAX_ITEMS: Final = 50_000
MAX_DEPTH: Final = 64

_VALUE_TYPE: Final = "0040A040"
_CHILDREN: Final = "0040A730"
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:52em;margin:2em auto;padding:0 1em;color:#222}"
    "h1{font-size:1.5em}ul{list-style:none;padding-left:1.2em;border-left:1px solid #ddd}"
    "table{border-collapse:collapse}td{padding:.1em 1em .1em 0}.n{color:#555}.r{font-family:monospace;font-size:.9em}"
)
_HEADER: Final = (
    ("Patient", "00100010"),
    ("Patient ID", "00100020"),
    ("Birth date", "00100030"),
    ("Sex", "00100040"),
    ("Accession number", "00080050"),
    ("Study", "00081030"),
    ("Content date", "00080023"),
    ("Completion", "0040A491"),
    ("Verification", "0040A493"),
)


class Line(NamedTuple):
    """A content item as it is shown. reference: the UIDs of objects that it points at."""

    depth: int
    container: bool
    name: str
    value: str
    reference: tuple[str, ...]


def content_lines(attributes: Attributes) -> Iterator[Line]:
    """The content items of a report, each before its children; at most MAX_ITEMS, and down to MAX_DEPTH."""
    stack: list[tuple[int, Attributes]] = [(0, attributes)]
    shown = 0
    while stack and shown < MAX_ITEMS:
        depth, item = stack.pop()
        shown += 1
        yield _line(depth, item)
        if depth < MAX_DEPTH:
            stack.extend((depth + 1, child) for child in reversed(_items(item, _CHILDREN)))


def sr_to_html(attributes: Attributes) -> str:
    """A whole HTML page without scripts and links. Send it with a Content-Security-Policy all the same."""
    title = html.escape(_title(attributes))
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1><table>",
    ]
    parts += [
        f"<tr><td class=n>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in _header(attributes)
    ]
    parts.append("</table>")
    depth = 0
    for line in content_lines(attributes):
        if line.depth == 0:
            continue
        while depth < line.depth:
            parts.append("<ul>")
            depth += 1
        while depth > line.depth:
            parts.append("</ul>")
            depth -= 1
        parts.append(_html_line(line))
    parts.append("</ul>" * depth + "</body></html>")
    return "\n".join(parts)


def sr_to_text(attributes: Attributes) -> str:
    """The report as plain text, indented by its levels."""
    lines = [_title(attributes), ""]
    lines += [f"{name}: {value}" for name, value in _header(attributes)]
    lines.append("")
    for line in content_lines(attributes):
        if line.depth == 0:
            continue
        value = " ".join(filter(None, (line.value, *line.reference)))
        text = f"{line.name}: {value}" if line.name and value else line.name or value
        lines.append("  " * (line.depth - 1) + " ".join(text.split()))
    return "\n".join(lines) + "\n"


def _html_line(line: Line) -> str:
    name = html.escape(line.name)
    value = html.escape(line.value).replace("\n", "<br>")
    if line.container:
        return f"<li><strong>{name}</strong> {value}</li>"
    references = "".join(f" <span class=r>{html.escape(uid)}</span>" for uid in line.reference)
    label = f"<span class=n>{name}:</span> " if name else ""
    return f"<li>{label}{value}{references}</li>"


def _title(attributes: Attributes) -> str:
    return _meaning(attributes, "0040A043") or "Structured report"


def _header(attributes: Attributes) -> Iterator[tuple[str, str]]:
    for name, tag in _HEADER:
        text = _text(first_value(attributes, tag))
        if text:
            yield name, text


def _line(depth: int, item: Attributes) -> Line:
    kind = first_value(item, _VALUE_TYPE)
    value = _VALUES[kind](item) if isinstance(kind, str) and kind in _VALUES else ""
    return Line(depth, kind == "CONTAINER", _meaning(item, "0040A043"), value, tuple(_references(item)))


# Values by their type (PS3.3 Table C.17.3-7)


def _plain(tag: str) -> Callable[[Attributes], str]:
    return lambda item: _text(first_value(item, tag))


def _code(item: Attributes) -> str:
    return _meaning(item, "0040A168")


def _number(item: Attributes) -> str:
    for measured in _items(item, "0040A300")[:1]:
        value = _text(first_value(measured, "0040A30A"))
        for unit in _items(measured, "004008EA")[:1]:
            symbol = _text(first_value(unit, "00080100"))
            value += "" if symbol in ("1", "") else f" {symbol}"
        return value
    return _meaning(item, "0040A301") or "no value"


def _coordinates(item: Attributes) -> str:
    shape = _text(first_value(item, "00700023"))
    numbers = item.get("00700022", {}).get("Value") or []
    points = ", ".join(_text(number) for number in numbers[:12])
    return f"{shape} {points}{' …' if len(numbers) > 12 else ''}".strip()


def _times(item: Attributes) -> str:
    return _text(first_value(item, "0040A130"))


def _frames(item: Attributes) -> str:
    """IMAGE: the frames that are meant, where they are named."""
    for reference in _items(item, "00081199")[:1]:
        numbers = reference.get("00081160", {}).get("Value") or []
        if numbers:
            return "frames " + ", ".join(_text(number) for number in numbers[:50])
    return ""


def _nothing(item: Attributes) -> str:
    return ""


_VALUES: Final[dict[str, Callable[[Attributes], str]]] = {
    "TEXT": _plain("0040A160"),
    "CODE": _code,
    "NUM": _number,
    "DATETIME": _plain("0040A120"),
    "DATE": _plain("0040A121"),
    "TIME": _plain("0040A122"),
    "UIDREF": _plain("0040A124"),
    "PNAME": _plain("0040A123"),
    "COMPOSITE": _nothing,
    "IMAGE": _frames,
    "WAVEFORM": _nothing,
    "SCOORD": _coordinates,
    "SCOORD3D": _coordinates,
    "TCOORD": _times,
    "CONTAINER": _nothing,
}


def _references(item: Attributes) -> Iterator[str]:
    for reference in _items(item, "00081199")[:100]:
        uid = first_value(reference, "00081155")
        if isinstance(uid, str) and is_uid(uid):
            yield uid


def _meaning(item: Attributes, tag: str) -> str:
    """The code meaning of a coded entry, or its value where that is missing."""
    for code in _items(item, tag)[:1]:
        return _text(first_value(code, "00080104")) or _text(first_value(code, "00080100"))
    return ""


def _items(item: Attributes, tag: str) -> list[Attributes]:
    return [child for child in item.get(tag, {}).get("Value") or () if isinstance(child, dict)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return str(value.get("Alphabetic") or next(iter(value.values()), "")).replace("^", " ").strip()
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)
