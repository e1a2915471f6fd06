"""The folder of installed viewers: `ohif-VERSION`, with `files/` as they are served and `packed/` the same in gzip.

It is named only when it is complete, so what is found can be served.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from dicomweb_server.errors import ConfigError
from dicomweb_server.viewer.unpack import unpack

_NAME = re.compile(r"ohif-(\d+\.\d+\.\d+)(-[A-Za-z0-9.-]+)?")
# Names that hold a hash of what the file was built from.
_HASHED = re.compile(r"(?:.*\.bundle\.)?[0-9a-f]{16}\.(?:js|wasm|woff2)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file that may be served. `packed` is the same in gzip, where that is worth it."""

    file: Path
    size_bytes: int
    packed: Path | None
    packed_bytes: int
    etag: str
    immutable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """An installed viewer."""

    version: str
    folder: Path

    def index(self) -> str:
        """The page, with marks where its base belongs (`rewrite.page`)."""
        return (self.folder / "files" / "index.html").read_text(encoding="utf-8")

    def assets(self) -> dict[str, Asset]:
        """Every file by its path below the root of the viewer, but for the page."""
        root, packed_root = self.folder / "files", self.folder / "packed"
        found = {}
        for file in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
            path = file.relative_to(root).as_posix()
            if path == "index.html":
                continue
            state = file.stat()
            packed = packed_root / f"{path}.gz"
            has_packed = packed.is_file()
            seed = f"{self.version}|{path}|{state.st_size}|{state.st_mtime_ns}"
            found[path] = Asset(
                file=file,
                size_bytes=state.st_size,
                packed=packed if has_packed else None,
                packed_bytes=packed.stat().st_size if has_packed else 0,
                etag=blake2b(seed.encode(), digest_size=12).hexdigest(),
                immutable=bool(_HASHED.fullmatch(file.name)),
            )
        return found

    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def find(directory: Path) -> Viewer | None:
    """The viewer that is installed in the directory, the newest of several."""
    if not directory.is_dir():
        return None
    found = [(path, match) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name)) and path.is_dir()]
    if not found:
        return None
    path, _ = max(found, key=lambda item: ([int(n) for n in item[1][1].split(".")], item[1][2] is None, item[0].name))
    return Viewer(version=path.name.removeprefix("ohif-"), folder=path)


def install(package: Path, directory: Path, *, told: Callable[[int, int], None]) -> Viewer:
    """Unpack a package into the directory; it takes the place of every other version at once, or nothing changes.

    Raises BadRequest and TooLarge as `unpack`, ConfigError where the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="unpacking-", dir=directory))
    except OSError as exc:
        raise ConfigError(f"the folder {directory} cannot be written: {exc.strerror}") from exc
    try:
        version = unpack(package, folder, told=told)
        folder.chmod(0o755)
        earlier = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
        aside = [path.rename(folder.with_name(f"{folder.name}-{number}")) for number, path in enumerate(earlier)]
        target = folder.rename(directory / f"ohif-{version}")
    except OSError as exc:
        raise ConfigError(f"the viewer cannot be written to {directory}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for path in aside:
        shutil.rmtree(path, ignore_errors=True)
    return Viewer(version=version, folder=target)


def remove(directory: Path) -> list[str]:
    """Delete every installed viewer and what an interrupted install left behind; gives the versions."""
    if not directory.is_dir():
        return []
    gone = []
    for path in sorted(directory.iterdir()):
        if path.is_dir() and (_NAME.fullmatch(path.name) or path.name.startswith("unpacking-")):
            shutil.rmtree(path)
            if _NAME.fullmatch(path.name):
                gone.append(path.name.removeprefix("ohif-"))
    return gone
