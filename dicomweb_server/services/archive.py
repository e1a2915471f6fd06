"""Studies, series and instances as a zip, with a DICOMDIR if wished, streamed member by member."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

import orjson

from dicomweb_server.dicom.dicomdir import DirectoryEntry, dicomdir
from dicomweb_server.services.retrieve import Retrieve
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.records import Scope, StoredInstance

# The zip format begins in 1980; a fixed date makes the same study give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


class _Outlet:
    """A file that is only written to; what arrives is taken out again piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, []
        yield from pieces


def zip_archive(
    retrieve: Retrieve,
    found: Sequence[StoredInstance],
    *,
    with_directory: bool,
    read: Callable[[StoredInstance], Iterator[bytes]] | None = None,
) -> Iterator[bytes]:
    """The bytes of a zip of these instances, not compressed: pixel data hardly shrinks.

    Members are STUDY/SERIES/INSTANCE.dcm by UID; with a DICOMDIR they have the names of eight letters that media need
    (PS3.10 8.2) and DICOMDIR is the last member. `read` gives the bytes of a file where they are to be looked at.
    """
    read = read or (lambda item: retrieve.file(item).whole())
    names = [media_name(n) if with_directory else _uid_name(item) for n, item in enumerate(found)]
    chunks = _members(retrieve, found, names, read, with_directory=with_directory)
    first = next(chunks, b"")  # what cannot be opened fails before the first byte is sent

    def body() -> Iterator[bytes]:
        yield first
        yield from chunks

    return body()


def media_name(number: int) -> str:
    """The name of the file of this number, from 0, on a medium: at most eight letters a part, and not too many files in
    a folder."""
    return f"DICOM/D{number // 1000:07d}/I{number:07d}"


def media_directory(retrieve: Retrieve, found: Sequence[StoredInstance]) -> bytes:
    """The DICOMDIR of a medium whose files have the names of `media_name`, in this order."""
    return dicomdir(_entries(retrieve, found))


def _members(
    retrieve: Retrieve,
    found: Sequence[StoredInstance],
    names: Sequence[str],
    read: Callable[[StoredInstance], Iterator[bytes]],
    *,
    with_directory: bool,
) -> Iterator[bytes]:
    outlet = _Outlet()
    with zipfile.ZipFile(cast(BinaryIO, outlet), "w") as archive:  # a file that can only be written to is enough
        for item, name in zip(found, names, strict=True):
            info = zipfile.ZipInfo(name, _DATE)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=True) as member:
                for chunk in read(item):
                    member.write(chunk)
                    yield from outlet.take()
        if with_directory:
            archive.writestr(zipfile.ZipInfo("DICOMDIR", _DATE), media_directory(retrieve, found))
    yield from outlet.take()


def _entries(retrieve: Retrieve, found: Sequence[StoredInstance]) -> Iterator[DirectoryEntry]:
    for number, item in enumerate(found):
        scope = Scope(study_uid=item.study_uid, series_uid=item.series_uid, instance_uid=item.instance_uid)
        for metadata in retrieve.metadata(scope=scope):
            yield DirectoryEntry(
                file_id=tuple(media_name(number).split("/")),
                attributes=orjson.loads(unpack_metadata(metadata.deflated)),
                transfer_syntax_uid=item.transfer_syntax_uid,
            )


def _uid_name(item: StoredInstance) -> str:
    return f"{item.study_uid}/{item.series_uid}/{item.instance_uid}.dcm"
