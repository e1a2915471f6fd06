"""Indexing the files of a folder of the server where they are (an extension, and the path of older clients)."""

from collections.abc import Callable

import falcon
import orjson

from dicomweb_server.http.params import first_parameter
from dicomweb_server.services.imports import Fate
from dicomweb_server.services.link_folder import LinkFolder


class LinkFolderResource:
    """`check` raises where this archive cannot link."""

    def __init__(self, link_folder: LinkFolder, check: Callable[[], None]) -> None:
        self._link_folder = link_folder
        self._check = check

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """How many files were stored, same, replaced, refused and skipped, and the first reasons."""
        self._check()
        linked = self._link_folder.run(first_parameter(req, "path"))
        resp.content_type = "application/json"
        resp.data = orjson.dumps(
            {
                **{fate.value: linked.summary.fates[fate] for fate in Fate},
                "refusals": [{"file": file.name, "reason": file.reason} for file in linked.refused],
            }
        )
