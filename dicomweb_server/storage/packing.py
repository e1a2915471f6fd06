"""How ready-made metadata is packed: JSON in a raw deflate stream (RFC 1951), by Intel's ISA-L, which is faster than
zlib both ways. Any inflater can read it."""

from bisect import bisect_left
from operator import itemgetter

import orjson
from isal import igzip_lib

from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.records import Attributes, InstanceRecord, StoredInstance

AVAILABLE_SYNTAX = "00083002"
"""AvailableTransferSyntaxUID speaks of an instance, not in it. Viewers tell by it what is a video."""

_USUAL_BYTES = 16 * 1024  # the header of an image fits, so that the first buffer is the only one


def pack_metadata(attributes: Attributes, transfer_syntax_uid: str) -> bytes:
    """`InstanceRecord.metadata` from the attributes of an instance; sorted by tag, as they are (PS3.18 F.2.2)."""
    elements = list(attributes.items())
    place = bisect_left(elements, AVAILABLE_SYNTAX, key=itemgetter(0))
    behind = place + (AVAILABLE_SYNTAX in attributes)
    elements[place:behind] = [(AVAILABLE_SYNTAX, {"vr": "UI", "Value": [transfer_syntax_uid]})]
    shown = dict(elements)
    return igzip_lib.compress(orjson.dumps(shown), 1, flag=igzip_lib.COMP_DEFLATE)


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
