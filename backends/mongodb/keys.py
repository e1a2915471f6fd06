"""What documents are found and ordered by.

Every document has an array `a` of strings, one for each value to compare, with one multikey index over it:

    00100020=4711                    a text value, date, time or UID, as `matching.match_values` gives it
    00200013#c000000000000000        a number, as 16 hex digits that sort like the numbers
    00400275.00400009=SPS1           an attribute inside a sequence
    00080020+00080030=2024...        a combined date-time
    00100010~smith, 00100010~#s530   a word of a name, and what it sounds like
    00089215!                        has a value, but none to compare: a sequence, binary, a date that is none

So equality, lists, prefixes, ranges and fuzzy names are ranges of one index, for any attribute. The usual sort keys are
also fields, once so that a missing one is last going up (`asc`), once going down (`desc`). The usual texts are also in
`t`, one string per attribute, all in one narrow index: there patterns without a fixed beginning run.

An instance has hundreds of values, and there are many instances: only `USUAL` attributes are in the array with the
index, the others in an array `b` without. Those are compared by the server, document by document; inside a study or
series that is a few.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dicomweb_server.dicom.attributes import DATE_TIME_PAIRS, MAX_DEPTH, SUMMARY, Attributes, is_empty, vr_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import match_values
from dicomweb_server.dicom.names import sound, words

TEXT, NUMBER, PRESENT, WORD, SOUND = "=", "#", "!", "~", "~#"
FENCE = "\U0010ffff"
"""Stands between the values in `t`; no character of any text (a noncharacter of Unicode)."""
MISSING_LAST_UP, MISSING_LAST_DOWN = "~", ""

MAX_PER_PATH = 1000
MAX_ENTRIES = 20_000
"""Values of one attribute, and of one header, that take part in matching: the functional groups of large multi-frame
objects have more, and a document must stay below 16 MB."""

STUDY_UID, SERIES_UID, INSTANCE_UID = "0020000D", "0020000E", "00080018"
MODALITIES, SOP_CLASSES, TRANSFER_SYNTAXES = "00080061", "00080062", "00083002"

SORTED: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: ("00100010", "00100020"),
    Level.STUDY: ("00080020", "00080030", "00100010", "00100020", "00080050", "00081030"),
    Level.SERIES: ("00200011", "00080020"),
    Level.INSTANCE: (),
}
"""The tags of the fields `asc` and `desc`; instances have a field `position` instead."""

TEXTS: Mapping[Level, tuple[str, ...]] = {
    Level.PATIENT: ("00100010", "00100020"),
    Level.STUDY: ("00100010", "00100020", "00080050", "00081030", "00080090", "00200010"),
    Level.SERIES: ("00100010", "00100020", "00080050", "00081030", "0008103E"),
    Level.INSTANCE: (),
}
"""The tags of the fields `t`."""

_CACHED, _CACHED_LENGTH, _CACHED_VALUES = 65_536, 512, 16
_cache: dict[Any, tuple[str, ...]] = {}
_SEEN = 16_384
_seen: dict[tuple[str, int], tuple[Any, tuple[str, ...]]] = {}
_seen_pairs: dict[tuple[str, int, int], tuple[Any, Any, tuple[str, ...]]] = {}
"""By path and identity of the attribute: the reader of headers gives one object for equal short values. The object is
held here too, so that no other can have its identity."""
_OWN_FIELDS = frozenset((STUDY_UID, SERIES_UID, INSTANCE_UID, MODALITIES, SOP_CLASSES, TRANSFER_SYNTAXES))


_FURTHER = (
    "00080008 00080012 00080013 00080022 00080023 0008002A 00080032 00080033 00080080 00081010 00081070 00080070 "
    "00081090 00181030 00200012 00200052 00080068 00102160 00101040"
)
USUAL = frozenset((*SUMMARY, *_FURTHER.split()))
"""The attributes of instances that are found by an index wherever they are, and what is inside of them."""


def array_of(path: str, level: Level) -> str:
    """The array that holds the values of an attribute."""
    return "a" if level is not Level.INSTANCE or path[:8] in USUAL else "b"


def search_fields(attributes: Attributes, level: Level) -> dict[str, Any]:
    """The fields of a document that shows these attributes."""
    listed = SORTED[level]
    values = {tag: match_values(attributes, (tag,)) for tag in dict.fromkeys((*listed, *TEXTS[level]))}
    first = {tag: encoded(values[tag][0]) for tag in listed if values[tag]}
    found = entries(attributes)
    fields: dict[str, Any] = {"a": found}
    if level is Level.INSTANCE:
        usual: list[str] = []
        other: list[str] = []
        for entry in found:
            (usual if entry[:8] in USUAL else other).append(entry)
        fields = {"a": usual, "b": other}
    if listed:
        fields["asc"] = {tag: first.get(tag, MISSING_LAST_UP) for tag in listed}
        fields["desc"] = {tag: first.get(tag, MISSING_LAST_DOWN) for tag in listed}
        fields["t"] = {tag: joined(values[tag]) for tag in TEXTS[level] if values[tag]}
    several = [tag for tag in listed if len(values[tag]) > 1]
    if several:
        fields["several"] = several
    return fields


def encoded(value: str | float) -> str:
    """A value without its tag, as it stands in `a`, `asc` and `desc`."""
    return TEXT + value if isinstance(value, str) else NUMBER + sortable(value)


def sortable(number: float) -> str:
    """A number as hex digits that sort like numbers do."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))  # one zero only
    bits = bits ^ 0xFFFFFFFFFFFFFFFF if bits >> 63 else bits | 1 << 63
    return f"{bits:016x}"


def behind(prefix: str) -> str:
    """The first text behind all that begin with the prefix, in the order of code points, which is that of MongoDB."""
    bare = prefix.rstrip(FENCE)
    last = ord(bare[-1]) + 1
    return bare[:-1] + chr(0xE000 if last == 0xD800 else last)


def joined(values: Iterable[str | float]) -> str:
    """The text values of an attribute in one string, with a fence around each."""
    return FENCE + FENCE.join(value for value in values if isinstance(value, str)) + FENCE


def entries(attributes: Attributes) -> list[str]:
    """The array `a` of a header, in the order of its attributes and their values."""
    found: list[str] = []
    _collect(attributes, "", 1, found, {})
    return list(dict.fromkeys(found))


def _collect(attributes: Attributes, above: str, depth: int, found: list[str], counts: dict[str, int]) -> None:
    for tag, attribute in attributes.items():
        path = above + tag if above else tag
        if not above and (seen := _seen.get((tag, id(attribute)))) is not None:
            found += seen[1]
        elif "Value" not in attribute:
            if "InlineBinary" in attribute or "BulkDataURI" in attribute:
                found.append(path + PRESENT)
        elif attribute["vr"] == "SQ":
            _collect_items(path, attribute, depth, found, counts)
        elif above:
            _collect_nested(path, tag, attribute, found, counts)
        elif tag not in _OWN_FIELDS:
            found += _of_attribute(path, tag, attribute)
    for date, time in DATE_TIME_PAIRS.items():
        if date in attributes:
            found += _of_pair(f"{above}{date}+{time}", attributes[date], attributes.get(time))


def _collect_items(
    path: str, attribute: Mapping[str, Any], depth: int, found: list[str], counts: dict[str, int]
) -> None:
    if depth < MAX_DEPTH and len(found) < MAX_ENTRIES:
        for item in filter(None, attribute["Value"]):
            _collect(item, f"{path}.", depth + 1, found, counts)
    if not is_empty(attribute):
        found.append(path + PRESENT)


def _collect_nested(
    path: str, tag: str, attribute: Mapping[str, Any], found: list[str], counts: dict[str, int]
) -> None:
    """The items of a sequence may be many; only so many of their values take part."""
    count = counts.get(path, 0)
    if count < MAX_PER_PATH and len(found) < MAX_ENTRIES:
        found += _of_attribute(path, tag, attribute)
        counts[path] = count + len(attribute["Value"])


def _of_attribute(path: str, tag: str, attribute: Mapping[str, Any]) -> tuple[str, ...]:
    key = (path, id(attribute))
    seen = _seen.get(key)
    if seen is not None:
        return seen[1]
    made = _of_values(path, tag, attribute["Value"])
    if sum(map(len, made)) <= _CACHED_LENGTH:
        if len(_seen) >= _SEEN:
            _seen.clear()
        _seen[key] = attribute, made
    return made


def _of_pair(path: str, date: Mapping[str, Any], time: Mapping[str, Any] | None) -> tuple[str, ...]:
    key = (path, id(date), id(time))
    seen = _seen_pairs.get(key)
    if seen is None:
        names = path[-17:-9], path[-8:]
        values = match_values({names[0]: date, names[1]: time or {}}, (path[-17:],))
        seen = date, time, tuple(f"{path}{TEXT}{value}" for value in values)
        if len(_seen_pairs) >= _SEEN:
            _seen_pairs.clear()
        _seen_pairs[key] = seen
    return seen[2]


def _of_values(path: str, tag: str, values: list[Any]) -> tuple[str, ...]:
    """Headers of a series differ in few values: what was worked out once is remembered."""
    key: Any = (path, values[0]) if len(values) == 1 else (path, *values) if len(values) <= _CACHED_VALUES else None
    try:
        known = _cache.get(key)
    except TypeError:  # a name, which is a mapping
        return _entries(path, tag, values[:MAX_PER_PATH])
    if known is None:
        known = _entries(path, tag, values[:MAX_PER_PATH])
        if key is not None and sum(map(len, known)) <= _CACHED_LENGTH:
            if len(_cache) >= _CACHED:
                _cache.clear()
            _cache[key] = known
    return known


def _entries(path: str, tag: str, values: Sequence[Any]) -> tuple[str, ...]:
    comparable = match_values({tag: {"Value": values}}, (tag,))
    if not comparable:
        return () if is_empty({"Value": values}) else (path + PRESENT,)
    made = [path + encoded(value) for value in comparable]
    if vr_of(tag) == "PN":
        for word in dict.fromkeys(word for value in comparable if isinstance(value, str) for word in words(value)):
            made.append(f"{path}{WORD}{word}")
            if code := sound(word):
                made.append(f"{path}{SOUND}{code}")
    return tuple(made)
