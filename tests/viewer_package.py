"""A package like that of @ohif/app, small enough to make for each test."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

INDEX = (
    b'<!doctype html><html><head><meta content="/assets/tile.png"><script>window.PUBLIC_URL="/"</script>'
    b'<link rel="icon" href="/assets/favicon.ico"><script src="/app-config.js"></script>'
    b'<script rel="preload" as="script" type="module" src="/init-service-worker.js"></script>'
    b'<script defer src="/app.bundle.0123456789abcdef.js"></script></head></html>'
)
SCRIPT = b'__webpack_require__.p = "/";\n' + b"// the rest of the application\n" * 100
FILES: Mapping[str, bytes] = {
    "package.json": b'{"name": "@ohif/app", "version": "3.13.2"}',
    "LICENSE": b"MIT",
    "dist/index.html": INDEX,
    "dist/app.bundle.0123456789abcdef.js": SCRIPT,
    "dist/app.bundle.css": b"@font-face{src:url(/a.woff2)}",
    "dist/app.bundle.0123456789abcdef.js.map": b"{}",
    "dist/0123456789abcdef.wasm": b"\0asm" + bytes(2000),
    "dist/manifest.json": b'{"icons": [{"src": "/assets/a.png"}]}',
    "dist/assets/favicon.ico": b"icon",
    "dist/ort/model.wasm": b"left out",
    "dist/sw.js": b"left out",
    "dist/init-service-worker.js": b"left out",
    "dist/app-config.js": b"left out",
}


def package(path: Path, files: Mapping[str, bytes] = FILES, *, links: Mapping[str, str] | None = None) -> Path:
    """A .tgz of the files, and of links by their targets."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"package/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def ignore(_done: int, _total: int) -> None:
    """Progress that nobody watches."""
