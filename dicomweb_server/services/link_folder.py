"""Linking a folder that a client names: only below the folders that the settings allow."""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dicomweb_server.errors import BadRequest, Busy, Forbidden, NotFound
from dicomweb_server.services.imports import Fate, FileOutcome, Importer, Summary, batches, is_below
from dicomweb_server.services.ingest import Ingest
from dicomweb_server.services.sources import Source, walk

MAX_TOLD = 100


@dataclass(slots=True)
class Linked:
    """What became of the files, and the first of those that were refused."""

    summary: Summary = field(default_factory=Summary)
    refused: list[FileOutcome] = field(default_factory=list)

    def add(self, files: Sequence[FileOutcome]) -> None:
        """Count files."""
        for file in files:
            self.summary.add_file(file)
            if file.fate is Fate.REFUSED and len(self.refused) < MAX_TOLD:
                self.refused.append(file)


class LinkFolder:
    """Links, one folder at a time. `folders` are those that may be linked, with all below them."""

    def __init__(self, ingest: Ingest, folders: Sequence[str]) -> None:
        self._ingest = ingest
        self._folders = folders
        self._lock = threading.Lock()

    def run(self, path: str | None) -> Linked:
        """Index the files of the folder where they are. Raises BadRequest, Forbidden, NotFound, Busy, and as
        `Importer.run`; what is linked by then stays."""
        folder = self._checked(path)
        if not self._lock.acquire(blocking=False):
            raise Busy("a folder is being linked already; try again when that has ended")
        try:
            return self._link(folder)
        finally:
            self._lock.release()

    def _checked(self, path: str | None) -> str:
        """The real path; of others nothing is told, not even whether they exist."""
        if not self._folders:
            raise Forbidden("no folder may be linked here (links.folders)")
        if not path or not os.path.isabs(path) or "\0" in path:
            raise BadRequest("path must be the absolute path of a folder of the server")
        real = os.path.realpath(path)
        if not any(is_below(real, os.path.realpath(folder)) for folder in self._folders):
            raise Forbidden("this folder may not be linked (links.folders)")
        if not os.path.isdir(real):
            raise NotFound("there is no such folder")
        return real

    def _link(self, folder: str) -> Linked:
        linked = Linked()
        importer = Importer(self._ingest, link=True, folders=self._folders)
        for batch in batches(_sources(folder, linked)):
            linked.add(importer.run(batch).files)
        return linked


def _sources(folder: str, linked: Linked) -> Iterator[Source]:
    for item in walk([folder], follow_links=False):  # they could lead anywhere
        if isinstance(item, Source):
            yield item
        else:
            linked.add([FileOutcome(name=item.name, fate=Fate.REFUSED, reason=item.reason)])
