"""The secret of this server, and the keys that are made from it."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dicomweb_server.errors import ConfigError

MIN_CHARACTERS = 32
FILE_NAME = "auth-secret"


def server_secret(configured: str, directory: Path) -> str:
    """The secret of the settings; where they have none the one that is kept in the folder of the data, made there the
    first time. Raises ConfigError."""
    if configured:
        if len(configured) < MIN_CHARACTERS:
            raise ConfigError(f"auth.secret has at least {MIN_CHARACTERS} characters; `openssl rand -hex 32` makes one")
        return configured
    path = directory / FILE_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make(path)
        found = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the secret for tokens cannot be kept in {path}; set auth.secret_file instead") from exc
    if len(found) < MIN_CHARACTERS:
        raise ConfigError(f"{path} does not hold a secret; delete it, and log in again")
    return found


def _make(path: Path) -> None:
    """Whole or not at all, readable by this user only; of several processes the first one wins."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def derived_key(secret: str, purpose: str) -> bytes:
    """A key for one purpose (RFC 5869): what is signed for one is worth nothing for another."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"dicomweb-server {purpose}".encode()).derive(
        secret.encode()
    )
