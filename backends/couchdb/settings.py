"""The table `[storage.couchdb]` or `[blobs.couchdb]` of the settings."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.couchdb.session import Address
from dicomweb_server.errors import ConfigError

_DATABASE = re.compile(r"[a-z][a-z0-9_-]{0,99}")
_KEYS = ("url", "database", "tls_ca_file", "tls_cert_file", "timeout_seconds", "wait_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class CouchSettings:
    """The settings, checked. Databases are named `database`, or that with a suffix."""

    address: Address
    database: str
    timeout_seconds: float
    wait_seconds: float

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> "CouchSettings":
        """Raises ConfigError that names the key."""
        for key in settings:
            if key not in _KEYS:
                raise ConfigError(f'couchdb knows no key "{key}"; known are {", ".join(_KEYS)}.')
        database = _text(settings, "database", "dicomweb")
        if not _DATABASE.fullmatch(database):
            raise ConfigError("The database of couchdb is lower case letters, digits, - and _, a letter first.")
        url = _text(settings, "url", "http://127.0.0.1:5984")
        ca_file, cert_file = (_text(settings, key, "") or None for key in ("tls_ca_file", "tls_cert_file"))
        return cls(
            address=Address.parse(url, ca_file, cert_file),
            database=database,
            timeout_seconds=_seconds(settings, "timeout_seconds", 60, low=1),
            wait_seconds=_seconds(settings, "wait_seconds", 60, low=0),
        )


def _text(settings: Mapping[str, Any], key: str, default: str) -> str:
    value = settings.get(key, default)
    if not isinstance(value, str):
        raise ConfigError(f"The key {key} of couchdb is a text.")
    return value


def _seconds(settings: Mapping[str, Any], key: str, default: float, *, low: float) -> float:
    value = settings.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= 3600:
        raise ConfigError(f"The key {key} of couchdb is a number of seconds from {low:g} to 3600.")
    return float(value)
