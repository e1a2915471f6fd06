"""How ready-made metadata is packed: JSON in a raw deflate stream (RFC 1951), by Intel's ISA-L, which is faster than
zlib both ways. Any inflater can read it."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import orjson
from isal import igzip_lib

from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.records import Attributes, InstanceRecord, StoredInstance

AVAILABLE_SYNTAX = "00083002"
"""AvailableTransferSyntaxUID speaks of an instance, not in it. Viewers tell by it what is a video."""

_USUAL_BYTES = 16 * 1024  # the header of an image fits, so that the first buffer is the only one
_REPEATED_BYTES = 64 * 1024  # of a longer header nothing is kept for the next one

_Element = Mapping[str, Any]


def pack_metadata(attributes: Attributes, transfer_syntax_uid: str) -> bytes:
    """`InstanceRecord.metadata` from the attributes of an instance; sorted by tag, as they are (PS3.18 F.2.2)."""
    tags, elements = list(attributes), list(attributes.values())
    place = bisect_left(tags, AVAILABLE_SYNTAX)
    behind = place + (AVAILABLE_SYNTAX in attributes)
    tags[place:behind] = [AVAILABLE_SYNTAX]
    elements[place:behind] = [{"vr": "UI", "Value": [transfer_syntax_uid]}]
    return igzip_lib.compress(_writer.written(tags, elements), 1, flag=igzip_lib.COMP_DEFLATE)


class _Writer:
    """Writes JSON. Instances of a series that were read one after the other share most elements, which nobody changes
    (`dicom.plans.Plan`): only the others are written again."""

    def __init__(self) -> None:
        # Tags and elements of the header before, and the JSON of each, once another one had most of them: as one, for
        # there are threads.
        self._before: tuple[list[str], list[_Element], list[bytes]] = ([], [], [])

    def written(self, tags: list[str], elements: list[_Element]) -> bytes:
        """The text of the object with these elements."""
        tags_before, elements_before, parts = self._before
        if tags == tags_before:
            places = [place for place, element in enumerate(elements) if element is not elements_before[place]]
            if 2 * len(places) < len(tags):
                known, parts = bool(parts), parts.copy() or [b""] * len(tags)
                for place in places if known else range(len(tags)):
                    parts[place] = orjson.dumps({tags[place]: elements[place]})[1:-1]
                self._before = tags, elements, parts
                return b"{" + b",".join(parts) + b"}"
        text = orjson.dumps(dict(zip(tags, elements, strict=True)))
        self._before = (tags, elements, []) if len(text) <= _REPEATED_BYTES else ([], [], [])
        return text


_writer = _Writer()


def unpack_metadata(deflated: bytes) -> bytes:
    """The JSON text of packed metadata. Raises StorageCorrupt when it is damaged."""
    try:
        return igzip_lib.decompress(deflated, igzip_lib.DECOMP_DEFLATE, bufsize=_USUAL_BYTES)
    except igzip_lib.error as exc:  # type: ignore[misc]  # the stub gives a value where the class stands
        raise StorageCorrupt("the metadata of an instance is damaged") from exc


def header_of(deflated: bytes) -> Attributes:
    """`InstanceRecord.attributes` from packed metadata. Raises StorageCorrupt when it is damaged."""
    shown: Attributes = orjson.loads(unpack_metadata(deflated))
    return {tag: element for tag, element in shown.items() if tag != AVAILABLE_SYNTAX}


def record_of(instance: StoredInstance, metadata: bytes) -> InstanceRecord:
    """The record from which an instance was stored."""
    return InstanceRecord(
        study_uid=instance.study_uid,
        series_uid=instance.series_uid,
        instance_uid=instance.instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        attributes=header_of(metadata),
        metadata=metadata,
        blob=instance.blob,
        layout=instance.layout,
        layout_blob=instance.layout_blob,
    )
