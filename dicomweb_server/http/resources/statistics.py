"""How much is stored, and of what (an extension)."""

import falcon
import orjson

from dicomweb_server.http.params import scope_of
from dicomweb_server.services.statistics import statistics
from dicomweb_server.storage.base import Storage


class StatisticsResource:
    """Figures of the archive and of a study. A study's are read at once; those of the archive take its records."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def on_get(self, _req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Instances and bytes, by modality and transfer syntax."""
        found = statistics(self._storage, scope=scope_of(**uids))
        usage = found.usage
        above = {"patients": found.patients, "studies": found.studies} if found.studies is not None else {}
        resp.content_type = "application/json"
        resp.set_header("Cache-Control", "private, no-store")
        resp.data = orjson.dumps(
            {
                **above,
                "series": found.series,
                "instances": usage.instances,
                "bytes": usage.size_bytes,
                "replaced_instances": usage.replaced_instances,
                "replaced_bytes": usage.replaced_bytes,
                "binned_instances": usage.binned_instances,
                "binned_bytes": usage.binned_bytes,
                "by_modality": [
                    {"modality": name, "instances": instances, "bytes": size}
                    for name, instances, size in found.by_modality()
                ],
                "by_transfer_syntax": [
                    {"transfer_syntax_uid": name, "instances": instances, "bytes": size}
                    for name, instances, size in found.by_transfer_syntax()
                ],
            }
        )
