"""What must change in OHIF's build, which is made for `/`, so that it runs below any path of any host.

Scripts and styles are changed once, at install, to find their neighbours by themselves: a page tells its base in
`window.PUBLIC_URL`, a worker knows its own address. Only the page itself holds the base, so it is made per request
(`page`); moving the viewer to another path, or behind a proxy with a prefix, needs no new install.
"""

import re
from collections.abc import Callable, Mapping

from dicomweb_server.errors import BadRequest

BASE_MARK = "{{base}}"

# A worker has no window and no PUBLIC_URL; it is loaded from the folder in which its neighbours lie.
_PUBLIC_PATH = b'__webpack_require__.p = (self.PUBLIC_URL || self.location.pathname.replace(/[^/]*$/, ""))'
# A page that is always online has no use for the service worker, and its script ends those of all other pages of the
# same origin.
_SERVICE_WORKER = re.compile(rb"<script[^>]*init-service-worker\.js[^>]*></script>")


def _script(data: bytes) -> bytes:
    data = data.replace(b'__webpack_require__.p = "/"', _PUBLIC_PATH)
    return data.replace(b"browserImportFunction('/", b"browserImportFunction(window.PUBLIC_URL+'")


def _style(data: bytes) -> bytes:
    return data.replace(b"url(/", b"url(")


def _manifest(data: bytes) -> bytes:
    return data.replace(b'"/assets/', b'"assets/')


def _index(data: bytes) -> bytes:
    if b'window.PUBLIC_URL="/"' not in data or b'src="/app-config.js"' not in data:
        raise BadRequest("this build of the viewer is not laid out as that of OHIF 3.13, it cannot be hosted")
    mark = BASE_MARK.encode()
    data = _SERVICE_WORKER.sub(b"", data).replace(b'window.PUBLIC_URL="/"', b'window.PUBLIC_URL="' + mark + b'"')
    return re.sub(rb'(src|href|content)="/(?!/)', rb'\1="' + mark, data)


_BY_NAME: Mapping[str, Callable[[bytes], bytes]] = {"index.html": _index, "manifest.json": _manifest}
_BY_SUFFIX: Mapping[str, Callable[[bytes], bytes]] = {".js": _script, ".css": _style}


def rewritten(path: str, data: bytes) -> bytes:
    """A file of the build, named from its root, as it is installed. Raises BadRequest for a page of another layout."""
    suffix = path[path.rfind(".") :] if "." in path else ""
    change = _BY_NAME.get(path) or _BY_SUFFIX.get(suffix)
    return change(data) if change else data


def page(index: str, base: str) -> str:
    """The page for viewers below `base`, a path that begins and ends with a slash."""
    return index.replace(BASE_MARK, base)
