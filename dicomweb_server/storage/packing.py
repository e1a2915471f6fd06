"""How ready-made metadata is packed: JSON in a raw deflate stream (RFC 1951), by Intel's ISA-L, which is faster than
zlib both ways. Any inflater can read it."""

import orjson
from isal import igzip_lib

from dicomweb_server.errors import StorageCorrupt
from dicomweb_server.storage.records import Attributes, InstanceRecord, StoredInstance

_USUAL_BYTES = 16 * 1024  # the header of an image fits, so that the first buffer is the only one


def pack_metadata(attributes: Attributes) -> bytes:
    """`InstanceRecord.metadata` from the attributes of an instance."""
    return igzip_lib.compress(orjson.dumps(attributes), 1, flag=igzip_lib.COMP_DEFLATE)


def unpack_metadata(deflated: bytes) -> bytes:
    """The JSON text of packed metadata. Raises StorageCorrupt when it is damaged."""
    try:
        return igzip_lib.decompress(deflated, igzip_lib.DECOMP_DEFLATE, bufsize=_USUAL_BYTES)
    except igzip_lib.error as exc:  # type: ignore[misc]  # the stub gives a value where the class stands
        raise StorageCorrupt("the metadata of an instance is damaged") from exc


def record_of(instance: StoredInstance, metadata: bytes) -> InstanceRecord:
    """The record from which an instance was stored."""
    return InstanceRecord(
        study_uid=instance.study_uid,
        series_uid=instance.series_uid,
        instance_uid=instance.instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        attributes=orjson.loads(unpack_metadata(metadata)),
        metadata=metadata,
        blob=instance.blob,
        layout=instance.layout,
        layout_blob=instance.layout_blob,
    )
