"""The directory of a medium: a DICOMDIR (PS3.3 Annex F, PS3.10 8) over files by their DICOM JSON."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from dicomweb_server.dicom.compose import IMPLEMENTATION_CLASS_UID
from dicomweb_server.dicom.uids import new_uid

_KEYS: Mapping[str, tuple[str, ...]] = {  # the keys of each record type that every profile asks for, PS3.3 F.5
    "PATIENT": ("00100020", "00100010"),
    "STUDY": ("00080020", "00080030", "00080050", "00081030", "0020000D", "00200010"),
    "SERIES": ("00080060", "0020000E", "00200011"),
    "IMAGE": ("00200013",),
}
# SOP classes whose records are no images (PS3.3 Table F.4-1), by a part of the class UID.
_RECORD_TYPES = (
    ("1.2.840.10008.5.1.4.1.1.88.59", "KEY OBJECT DOC"),
    ("1.2.840.10008.5.1.4.1.1.88.", "SR DOCUMENT"),
    ("1.2.840.10008.5.1.4.1.1.11.", "PRESENTATION"),
    ("1.2.840.10008.5.1.4.1.1.9.", "WAVEFORM"),
    ("1.2.840.10008.5.1.4.1.1.481.2", "RT DOSE"),
    ("1.2.840.10008.5.1.4.1.1.481.3", "RT STRUCTURE SET"),
    ("1.2.840.10008.5.1.4.1.1.481.5", "RT PLAN"),
    ("1.2.840.10008.5.1.4.1.1.104.", "ENCAP DOC"),
    ("1.2.840.10008.5.1.4.1.1.66.4", "SEGMENTATION"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """One file of the medium: where it is, its header as DICOM JSON, its transfer syntax."""

    file_id: tuple[str, ...]
    attributes: Mapping[str, Any]
    transfer_syntax_uid: str


@dataclass(slots=True)
class _Node:
    record: Dataset
    children: dict[str, "_Node"] = field(default_factory=dict)


def dicomdir(entries: Iterable[DirectoryEntry]) -> bytes:
    """A DICOMDIR file that lists the entries below their patients, studies and series."""
    root = _Node(Dataset())
    for entry in entries:
        node = root
        for kind, key in (
            ("PATIENT", _patient(entry)),
            ("STUDY", _text(entry, "0020000D")),
            ("SERIES", _text(entry, "0020000E")),
        ):
            node = node.children.setdefault(key, _Node(_record(kind, entry)))
        node.children[_text(entry, "00080018")] = _Node(_file_record(entry))
    nodes = list(_walk(root))
    directory = _directory([node.record for node in nodes])
    if nodes:
        _link(directory, root, _offsets(directory, [node.record for node in nodes]))
    return _written(directory)


def _patient(entry: DirectoryEntry) -> str:
    return f"{_text(entry, '00100021')}|{_text(entry, '00100020') or _text(entry, '0020000D')}"


def _text(entry: DirectoryEntry, tag: str) -> str:
    values = entry.attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _record(kind: str, entry: DirectoryEntry) -> Dataset:
    keys = {tag: entry.attributes[tag] for tag in _KEYS.get(kind, ()) if tag in entry.attributes}
    record = Dataset.from_json(keys)
    for tag in _KEYS.get(kind, ()):
        if int(tag, 16) not in record:
            record.add_new(int(tag, 16), {"00100010": "PN", "0020000D": "UI", "0020000E": "UI"}.get(tag, "LO"), "")
    record.OffsetOfTheNextDirectoryRecord = 0
    record.RecordInUseFlag = 0xFFFF
    record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    record.DirectoryRecordType = kind
    record.SpecificCharacterSet = "ISO_IR 192"
    return record


def _file_record(entry: DirectoryEntry) -> Dataset:
    sop_class = _text(entry, "00080016")
    kind = next((kind for start, kind in _RECORD_TYPES if sop_class.startswith(start)), "IMAGE")
    record = _record(kind, entry)
    if "00200013" in entry.attributes and kind != "IMAGE":
        record.InstanceNumber = _text(entry, "00200013")
    record.ReferencedFileID = list(entry.file_id)
    record.ReferencedSOPClassUIDInFile = sop_class
    record.ReferencedSOPInstanceUIDInFile = _text(entry, "00080018")
    record.ReferencedTransferSyntaxUIDInFile = entry.transfer_syntax_uid
    return record


def _walk(node: _Node) -> Iterator[_Node]:
    for child in node.children.values():
        yield child
        yield from _walk(child)


def _directory(records: Sequence[Dataset]) -> Dataset:
    directory = Dataset()
    directory.FileSetID = ""
    directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    directory.FileSetConsistencyFlag = 0
    directory.DirectoryRecordSequence = DicomSequence(records)
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = UID(new_uid())
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return directory


def _written(directory: Dataset) -> bytes:
    out = BytesIO()
    dcmwrite(out, directory, enforce_file_format=True)
    return out.getvalue()


def _offsets(directory: Dataset, records: Sequence[Dataset]) -> dict[int, int]:
    """Where each record will begin in the file: offsets have fixed width, so that setting them moves nothing."""
    data = _written(directory)
    # The sequence is the last element of the file and of defined length: its items end where the file ends.
    sizes = [len(_item(record)) for record in records]
    position = len(data) - sum(sizes)
    found = {}
    for record, size in zip(records, sizes, strict=True):
        found[id(record)] = position
        position += size
    return found


def _item(record: Dataset) -> bytes:
    """The record as it stands in the file, item header included."""
    lone = Dataset()
    lone.DirectoryRecordSequence = DicomSequence([record])
    out = BytesIO()
    dcmwrite(out, lone, implicit_vr=False, little_endian=True)
    return out.getvalue()[12:]  # behind tag, VR, two reserved bytes and length of the sequence


def _link(directory: Dataset, root: _Node, offsets: Mapping[int, int]) -> None:
    top = list(root.children.values())
    directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = offsets[id(top[0].record)]
    directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = offsets[id(top[-1].record)]
    for node in (root, *_walk(root)):
        children = list(node.children.values())
        for child, following in pairwise(children):
            child.record.OffsetOfTheNextDirectoryRecord = offsets[id(following.record)]
        if children and node is not root:
            node.record.OffsetOfReferencedLowerLevelDirectoryEntity = offsets[id(children[0].record)]
