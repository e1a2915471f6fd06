"""From the package of the npm registry to a folder that can be served.

Only regular files below `package/dist/` with harmless names are written, so that nothing lands outside the folder;
number and size are bounded. Each text is compressed here once: workers then send files as they are.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import orjson
from isal import igzip

from dicomweb_server.errors import BadRequest, TooLarge
from dicomweb_server.viewer.rewrite import rewritten

MAX_FILES = 5000
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BYTES = 512 * 1024 * 1024
COMPRESS_ABOVE_BYTES = 1024

PACKAGED = (".js", ".mjs", ".css", ".html", ".json", ".jsonc", ".svg", ".wasm", ".xml")

_DIST = "package/dist/"
_PIECE = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9._@ -]*")
# The ONNX runtime (136 MB, for segmentation in the browser), and what only hosting services of others read.
_LEFT_OUT_FOLDERS = ("ort/",)
_LEFT_OUT_NAMES = frozenset(
    {"_headers", "_redirects", "serve.json", "sw.js", "init-service-worker.js", "app-config.js"}
)
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}(-[A-Za-z0-9.-]{1,40})?")


def unpack(package: Path, folder: Path, *, told: Callable[[int, int], None]) -> str:
    """Write what is served into `folder`; gives the version that the package says it is. `told` gets the bytes of the
    package that are read and their total. Raises BadRequest for what is no package of the viewer, TooLarge.
    """
    version, pages, total = "", 0, package.stat().st_size
    try:
        with package.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|gz") as archive:
            for member in _bounded(archive):
                told(raw.tell(), total)
                if member.name == "package/package.json":
                    version = _version(_content(archive, member))
                elif member.name == "package/LICENSE":
                    (folder / "LICENSE").write_bytes(_content(archive, member))
                elif (path := _served_path(member)) is not None:
                    pages += path == "index.html"
                    _write(folder, path, rewritten(path, _content(archive, member)))
    except (tarfile.TarError, EOFError, zlib.error, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        raise BadRequest("the file is no complete package (a .tgz as `npm pack` makes it)") from exc
    if not version or not pages:
        raise BadRequest("the package is none of @ohif/app: it has no package.json or no dist/index.html")
    return version


def _bounded(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The regular files, as long as they stay within the limits; what is left out counts too."""
    total = 0
    for number, member in enumerate(archive, start=1):
        total += member.size
        if number > MAX_FILES or member.size > MAX_FILE_BYTES or total > MAX_TOTAL_BYTES:
            raise TooLarge("the package is larger than any build of the viewer")
        if member.isreg():
            yield member


def _served_path(member: tarfile.TarInfo) -> str | None:
    """The path below the root of the viewer, or None for what is not served. Raises BadRequest for an unsafe name."""
    if not member.name.startswith(_DIST):
        return None
    path = member.name.removeprefix(_DIST)
    if not all(_PIECE.fullmatch(piece) for piece in path.split("/")):
        raise BadRequest("the package holds a file with a name that is not safe; nothing was installed")
    if path.endswith(".map") or path.startswith(_LEFT_OUT_FOLDERS) or path in _LEFT_OUT_NAMES:
        return None
    return path


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] = archive.extractfile(member) or io.BytesIO()
    return file.read()


def _version(package_json: bytes) -> str:
    try:
        described = orjson.loads(package_json)
    except orjson.JSONDecodeError:
        described = None
    if not isinstance(described, dict) or described.get("name") != "@ohif/app":
        raise BadRequest("the package is not @ohif/app")
    version = described.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise BadRequest("the package does not say its version")
    return version


def is_version(text: str) -> bool:
    """Whether the text is a version as packages have them."""
    return bool(_VERSION.fullmatch(text))


def _write(folder: Path, path: str, data: bytes) -> None:
    target = folder / "files" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    if path.endswith(PACKAGED) and len(data) > COMPRESS_ABOVE_BYTES:
        packed = folder / "packed" / f"{path}.gz"
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(igzip.compress(data, compresslevel=3))
