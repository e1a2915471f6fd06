"""Fetching the viewer's package from an npm registry, and being sure that it is what was published."""

import base64
import binascii
import hashlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from dicomweb_server.errors import BadRequest, ConfigError, TooLarge

PACKAGE = "@ohif/app"
DEFAULT_VERSION = "3.13.2"
DEFAULT_REGISTRY = "https://registry.npmjs.org"
# What the registry published; a registry that says otherwise is not believed.
PUBLISHED: Mapping[str, str] = {
    "3.13.2": "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
}

MAX_PACKAGE_BYTES = 256 * 1024 * 1024
MAX_DESCRIPTION_BYTES = 4 * 1024 * 1024
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 256 * 1024

_LINE = re.compile(r"^\s*(@ohif:)?registry\s*=\s*[\"']?(https?://[^\s\"']+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package that a registry offers; `sha512` is the digest of its file."""

    version: str
    url: str
    sha512: bytes


def registry_url(environ: Mapping[str, str], npmrc: str) -> str:
    """The registry that npm would ask: a line for the @ohif scope in ~/.npmrc, the environment, another line, or the
    public one. Without a slash at the end.
    """
    lines = {bool(scope): url for scope, url in _LINE.findall(npmrc)}
    named = next((value for key, value in environ.items() if key.lower() == "npm_config_registry" and value), None)
    return (lines.get(True) or named or lines.get(False) or DEFAULT_REGISTRY).rstrip("/")


def digest_of(integrity: str) -> bytes:
    """The digest in a text of the form `sha512-BASE64`, or of 128 hexadecimal digits. Raises BadRequest."""
    try:
        if re.fullmatch(r"[0-9A-Fa-f]{128}", integrity):
            return bytes.fromhex(integrity)
        found = next((piece for piece in integrity.split() if piece.startswith("sha512-")), "")
        digest = base64.b64decode(found.removeprefix("sha512-"), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != hashlib.sha512().digest_size:
        raise BadRequest("a checksum is 128 hexadecimal digits, or sha512- and base64 as npm shows it")
    return digest


def shown(digest: bytes) -> str:
    """A digest as npm shows it."""
    return f"sha512-{base64.b64encode(digest).decode()}"


def published(registry: str, version: str) -> Package:
    """What the registry offers as this version. Raises ConfigError where it cannot be reached or has none."""
    url = f"{registry}/{quote(PACKAGE, safe='@')}/{quote(version, safe='')}"
    try:
        with _open(url) as answer:
            described: Any = orjson.loads(answer.read(MAX_DESCRIPTION_BYTES))
        dist = described["dist"]
        package = Package(
            version=str(described["version"]), url=str(dist["tarball"]), sha512=digest_of(dist["integrity"])
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, BadRequest) as exc:
        raise ConfigError(f"{registry} does not describe {PACKAGE} {version} as an npm registry does") from exc
    if version in PUBLISHED and package.sha512 != digest_of(PUBLISHED[version]):
        raise ConfigError(f"{registry} offers another {PACKAGE} {version} than the one that was published")
    return package


def download(url: str, file: Path, *, told: Callable[[int, int], None]) -> None:
    """Fetch a file; `told` gets the bytes so far and their total, 0 where that is not known."""
    done = 0
    with _open(url) as answer, file.open("wb") as out:
        total = int(answer.headers.get("Content-Length") or 0)
        try:
            while block := answer.read(BLOCK_BYTES):
                done += len(block)
                if done > MAX_PACKAGE_BYTES:
                    raise TooLarge("the package is larger than any build of the viewer")
                out.write(block)
                told(done, total)
        except (OSError, http.client.HTTPException) as exc:
            raise ConfigError(f"the download from {urlsplit(url).hostname} broke off: {type(exc).__name__}") from exc
    if total and done != total:
        raise ConfigError(f"the download from {urlsplit(url).hostname} broke off after {done} of {total} bytes")


def sha512_of(file: Path) -> bytes:
    """The digest of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha512").digest()


def _open(url: str) -> Any:
    host = urlsplit(url).hostname
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError("a registry is reached by http or https")
    context = ssl.create_default_context()
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context)  # noqa: S310 - checked above
    except urllib.error.HTTPError as exc:
        what = "does not have this version" if exc.code == 404 else f"answered {exc.code}"
        raise ConfigError(f"the registry {host} {what}") from exc
    except (urllib.error.URLError, TimeoutError, OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", exc)
        raise ConfigError(
            f"the registry {host} cannot be reached ({reason}). On a machine without network take a package that "
            f"`npm pack {PACKAGE}@{DEFAULT_VERSION}` made elsewhere: viewer install --from FILE.tgz"
        ) from exc
