"""Taking studies, series and instances out of the archive as a medium (PS3.10): a folder or a zip with a DICOMDIR."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl

from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest, Conflict, NotFound, StorageCorrupt
from dicomweb_server.services.archive import media_directory, media_name, zip_archive
from dicomweb_server.services.retrieve import Retrieve
from dicomweb_server.services.search import Search
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.disk import disk_errors
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Hit, Scope, StoredInstance

PAGE_HITS = 500
_ALL = 1 << 31
_LEVELS = (Level.STUDY, Level.SERIES, Level.INSTANCE)
_UID_TAGS = {Level.SERIES: "0020000E", Level.INSTANCE: "00080018"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportProgress:
    """How far an export is."""

    instances: int
    total_instances: int
    size_bytes: int
    total_bytes: int


class Export:
    """Chooses instances and writes them. `told` hears now and then how far it is."""

    def __init__(self, storage: Storage, blobs: BlobStore, *, told: Callable[[ExportProgress], None]) -> None:
        self._storage = storage
        self._retrieve = Retrieve(storage, blobs)
        self._told = told
        self._progress = ExportProgress(instances=0, total_instances=0, size_bytes=0, total_bytes=0)

    def choose(self, words: Sequence[str]) -> list[StoredInstance]:
        """The instances that the words name, each once: the UID of a study, series or instance, or query parameters as
        in a URL (`PatientID=4711&StudyDate=20240101-`).

        A query means studies, or else series or instances, where its attributes are of those. Raises NotFound when a
        word names nothing, BadRequest for one that cannot be understood.
        """
        found: dict[str, StoredInstance] = {}
        for word in words:
            for scope in chosen_scopes(self._storage, [word]):
                for item in self._retrieve.instances(scope=scope):
                    found[item.instance_uid] = item
        return list(found.values())

    def to_folder(self, found: Sequence[StoredInstance], folder: Path) -> None:
        """Write a medium into a folder that is empty or not there; after an error nothing of it is left.

        Raises Conflict for a folder with something in it, StorageCorrupt when a file is not what its record says.
        """
        if folder.is_dir() and any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty: an export needs a folder of its own.")
        if folder.exists() and not folder.is_dir():
            raise Conflict(f"{folder} is no folder.")
        self._begin(found)
        try:
            with disk_errors():
                for number, item in enumerate(found):
                    path = folder / media_name(number)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("xb") as file:
                        for chunk in self._checked(item):
                            file.write(chunk)
                part = folder / "DICOMDIR.part"
                part.write_bytes(media_directory(self._retrieve, found))
                part.rename(folder / "DICOMDIR")  # what has a directory is whole
        except BaseException:
            shutil.rmtree(folder / "DICOM", ignore_errors=True)
            with contextlib.suppress(OSError):
                (folder / "DICOMDIR.part").unlink(missing_ok=True)
                (folder / "DICOMDIR").unlink(missing_ok=True)
                folder.rmdir()
            raise

    def to_zip(self, found: Sequence[StoredInstance], path: Path) -> None:
        """Write a medium as a zip, which has its name only when it is whole; raises as `to_folder`."""
        if path.exists():
            raise Conflict(f"{path} is there already: name another file, or remove it.")
        self._begin(found)
        part = path.with_name(f"{path.name}.part")
        try:
            with disk_errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                with part.open("wb") as file:
                    for chunk in zip_archive(self._retrieve, found, with_directory=True, read=self._checked):
                        file.write(chunk)
                os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise

    # Reading

    def _begin(self, found: Sequence[StoredInstance]) -> None:
        self._progress = ExportProgress(
            instances=0,
            total_instances=len(found),
            size_bytes=0,
            total_bytes=sum(item.blob.size_bytes for item in found),
        )

    def _checked(self, item: StoredInstance) -> Iterator[bytes]:
        """The bytes of a file; raises StorageCorrupt in the end when they are not those that were stored."""
        digest = hashlib.sha256()
        for chunk in self._retrieve.file(item).whole():
            digest.update(chunk)
            self._progress = replace(self._progress, size_bytes=self._progress.size_bytes + len(chunk))
            self._told(self._progress)
            yield chunk
        if digest.hexdigest() != item.blob.sha256:
            raise StorageCorrupt(
                f"The file of the instance {item.instance_uid} is damaged: its SHA-256 is not that of its record."
            )
        self._progress = replace(self._progress, instances=self._progress.instances + 1)


def _scope(hit: Hit) -> Scope:
    return Scope(study_uid=hit.study_uid, series_uid=hit.series_uid, instance_uid=hit.instance_uid)


def chosen_scopes(storage: Storage, words: Sequence[str]) -> list[Scope]:
    """What the words name, as `Export.choose`; raises like it."""
    return [scope for word in words for scope in (_named(storage, word) if is_uid(word) else _searched(storage, word))]


def _named(storage: Storage, uid: str) -> Iterator[Scope]:
    study = Scope(study_uid=uid)
    if storage.count(query=Query(level=Level.SERIES, scope=study)):
        yield study
        return
    for level, tag in _UID_TAGS.items():
        term = parse_term((tag,), uid)
        scopes = list(_hits(storage, Query(level=level, terms=(term,) if term else (), limit=_ALL)))
        yield from scopes
        if scopes:
            return
    raise NotFound(f"There is no study, series or instance {uid}.")


def _searched(storage: Storage, text: str) -> Iterator[Scope]:
    parameters = parse_qsl(text, keep_blank_values=True)
    if "=" not in text or not parameters:
        raise BadRequest(f"{text!r} is neither a UID nor a query such as PatientID=4711.")
    search = Search(storage, max_results=_ALL)
    plans = [search.plan(level=level, scope=Scope(), parameters=parameters) for level in _LEVELS]
    plan = next((plan for plan in plans if not plan.warnings), None)
    if plan is None:
        raise BadRequest(f"{text!r} cannot be searched for: {plans[-1].warnings[0]}.")
    none = True
    for scope in _hits(storage, plan.query):
        none = False
        yield scope
    if none:
        raise NotFound(f"Nothing matches {text!r}.")


def _hits(storage: Storage, query: Query) -> Iterator[Scope]:
    end = query.offset + query.limit
    for start in range(query.offset, end, PAGE_HITS):
        page = storage.search(query=replace(query, offset=start, limit=min(PAGE_HITS, end - start)))
        yield from map(_scope, page.hits)
        if not page.more:
            return
