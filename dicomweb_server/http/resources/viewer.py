"""The hosted viewer: its page for every path that is no file of it, its files as they lie on disk, and a configuration
made from where this request found the server."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import PurePosixPath
from typing import cast
from urllib.parse import urlsplit

import falcon
import orjson
from falcon.typing import ReadableIO

from dicomweb_server.errors import NotFound
from dicomweb_server.http.answers import not_modified, tag, takes_gzip
from dicomweb_server.viewer.installed import Viewer
from dicomweb_server.viewer.rewrite import page

ASK_FIRST = "no-cache"
FOR_EVER = "public, max-age=31536000, immutable"

_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".jsonc": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webapp": "application/manifest+json",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}

# OHIF's decoders (Emscripten's embind) and its volume code make functions from text: without unsafe-eval no JPEG shows.
# Everything else comes from this origin; nothing may be sent to another.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' 'wasm-unsafe-eval' blob: {hashes}; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; media-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; font-src 'self' data:; object-src 'self' blob: data:; "
    "frame-src 'self' blob: data:; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)

# Set in the browser: the origin that it sees is true whatever proxies tell us.
_CONFIGURE = """window.config = %s;
for (const { configuration } of window.config.dataSources) {
  for (const root of ['wadoUriRoot', 'qidoRoot', 'wadoRoot']) {
    configuration[root] = window.location.origin + configuration[root];
  }
}
window.config.httpErrorHandler = error => console.warn('DICOMweb request failed', error && error.status);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewerOptions:
    """How the viewer is hosted. `path` is where, below the root of the server; `dicomweb` the prefix that it uses.

    image_rendering: wadors or wadouri, how images are fetched.
    cross_origin_isolation: send the headers that give its pages SharedArrayBuffer.
    """

    path: str
    dicomweb: str
    image_rendering: str
    cross_origin_isolation: bool


class ViewerResource:
    """The viewer below its path. Only files that are there when the server starts are served."""

    def __init__(self, viewer: Viewer | None, *, options: ViewerOptions) -> None:
        self._options = options
        self._assets = viewer.assets() if viewer else {}
        self._index = viewer.index() if viewer else ""
        self.installed = viewer is not None

    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str = "") -> None:
        """A file, the configuration, or the page. Raises NotFound."""
        if not self.installed:
            raise NotFound("the viewer is not installed here: run `dicomweb-server viewer install`, then start again")
        self._isolate(resp)
        if path == "app-config.js":
            self._send_config(req, resp)
        elif path in self._assets:
            self._send_asset(req, resp, path)
        elif not path or "text/html" in (req.get_header("Accept") or ""):
            self._send_page(req, resp)
        else:
            raise NotFound("the viewer has no such file")

    def _isolate(self, resp: falcon.Response) -> None:
        if self._options.cross_origin_isolation:
            resp.set_header("Cross-Origin-Opener-Policy", "same-origin")
            resp.set_header("Cross-Origin-Embedder-Policy", "require-corp")

    def _send_page(self, req: falcon.Request, resp: falcon.Response) -> None:
        text, policy = _page(self._index, _base(req, self._options.path))
        resp.set_header("Content-Security-Policy", policy)
        resp.set_header("Referrer-Policy", "same-origin")
        if not not_modified(req, resp, etag=tag(text), cache=ASK_FIRST):
            resp.content_type = _TYPES[".html"]
            resp.data = text.encode()

    def _send_config(self, req: falcon.Request, resp: falcon.Response) -> None:
        text = configuration(_path(req.context.address.root), self._options)
        if not not_modified(req, resp, etag=tag(text), cache=ASK_FIRST):
            resp.content_type = _TYPES[".js"]
            resp.data = text.encode()

    def _send_asset(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        asset = self._assets[path]
        resp.append_header("Vary", "Accept-Encoding")
        packed = asset.packed if takes_gzip(req) else None
        etag = f'"{asset.etag}-gzip"' if packed else f'"{asset.etag}"'
        cache = FOR_EVER if asset.immutable else ASK_FIRST
        suffix = PurePosixPath(path).suffix
        if suffix in (".js", ".html"):  # the policy of a worker is that of its script, not of the page
            resp.set_header("Content-Security-Policy", _POLICY.format(hashes=""))
        if not_modified(req, resp, etag=etag, cache=cache):
            return
        resp.content_type = _TYPES.get(suffix, "application/octet-stream")
        if packed:
            resp.set_header("Content-Encoding", "gzip")
        try:
            file = (packed or asset.file).open("rb")
        except OSError as exc:
            raise NotFound("the viewer was changed since the server started; start it again") from exc
        resp.stream = cast(ReadableIO, file)
        resp.content_length = asset.packed_bytes if packed else asset.size_bytes


def configuration(root: str, options: ViewerOptions) -> str:
    """OHIF's app-config.js for a server whose root has this path (empty, or the prefix that a proxy adds)."""
    source = {
        "friendlyName": "dicomweb-server",
        "name": "dicomweb-server",
        "wadoUriRoot": f"{root}/wado",
        "qidoRoot": root + options.dicomweb,
        "wadoRoot": root + options.dicomweb,
        "qidoSupportsIncludeField": True,
        "imageRendering": options.image_rendering,
        "thumbnailRendering": "thumbnail",
        "thumbnailRequestStrategy": "fetch",
        "enableStudyLazyLoad": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "dicomUploadEnabled": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True},
        "singlepart": "video",  # from /rendered by ranges, instead of the whole as multipart
    }
    config = {
        "routerBasename": root + options.path,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": False,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "dicomweb",
                "configuration": source,
            }
        ],
    }
    return _CONFIGURE % orjson.dumps(config, option=orjson.OPT_INDENT_2).decode()


def _base(req: falcon.Request, path: str) -> str:
    return f"{_path(req.context.address.root)}{path}/"


def _path(url: str) -> str:
    return urlsplit(url).path.rstrip("/")


@lru_cache(maxsize=16)
def _page(index: str, base: str) -> tuple[str, str]:
    """The page for a base, and the policy that allows the scripts in it, by their hashes."""
    text = page(index, base)
    digests = (base64.b64encode(sha256(script.encode()).digest()).decode() for script in _INLINE.findall(text))
    return text, _POLICY.format(hashes=" ".join(f"'sha256-{digest}'" for digest in digests))
