"""Whether the server lives, and whether it can serve."""

import falcon
import orjson

from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import StorageState


class HealthResource:
    """`/health/live` says that the process answers, `/health/ready` and `/health` that its storage does too."""

    def __init__(self, storage: Storage, blobs: BlobStore) -> None:
        self._storage = storage
        self._blobs = blobs

    def on_get_live(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """200 as long as requests are answered at all."""
        _send(resp, {"status": "live"})

    def on_get_ready(self, _req: falcon.Request, resp: falcon.Response) -> None:
        """200, or 503 with the part that is not ready."""
        states = {"storage": self._storage.check(), "blobs": self._blobs.check()}
        ready = all(state.ready for state in states.values())
        resp.status = 200 if ready else 503
        if not ready:
            resp.set_header("Retry-After", "5")
        _send(
            resp,
            {"status": "ready" if ready else "not ready", **{name: _shown(state) for name, state in states.items()}},
        )


def _shown(state: StorageState) -> dict[str, object]:
    return {
        "ready": state.ready,
        "latency_ms": round(state.latency_seconds * 1000, 2),
        "detail": state.detail,
    }


def _send(resp: falcon.Response, body: dict[str, object]) -> None:
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "no-store")
    resp.data = orjson.dumps(body)
