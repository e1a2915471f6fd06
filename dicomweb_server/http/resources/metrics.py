"""Figures for Prometheus."""

import falcon

from dicomweb_server.metrics import Metrics


class MetricsResource:
    """What all processes counted, and what is measured now."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All of it, as text."""
        resp.data, resp.content_type = self._metrics.text(req.get_header("Accept") or "")
        resp.set_header("Cache-Control", "no-store")
