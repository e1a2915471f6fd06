"""The sections of the settings: their keys, defaults and bounds."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dicomweb_server.errors import ConfigError
from dicomweb_server.settings.values import checked, choice, nearest, number, text, texts

MAX_WORKERS_BY_DEFAULT = 4
# The name of no blob store of its own: the files lie in the database that keeps the index, with the settings of that.
IN_DATABASE = "database"

# The default blob store of a storage, and the defaults of the tables that belong to plug-ins.
BLOBS_OF_STORAGE = {"sqlite": "files", "mongodb": IN_DATABASE, "couchdb": IN_DATABASE}
NO_LOGIN = "none"
PLUGIN_DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "storage": {"sqlite": {"path": "{directory}/index.sqlite"}},
    "blobs": {"files": {"directory": "{directory}"}},
    "hooks": {},
    "auth": {"jwt": {}, "keycloak": {}},
}

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_HOST = re.compile(r"\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")

Sections = Mapping[str, Mapping[str, Any]]

MIN_SECRET_CHARACTERS = 16
CHANGE_KINDS = ("stored", "replaced", "removed", "restored")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_zone(value: str) -> bool:
    try:
        return not value or bool(ZoneInfo(value))
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False


def processors() -> int:
    """The processors this process may use, which a container or taskset can restrict."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_root_url(value: str) -> bool:
    """An http URL with a host, without user, query or slash at the end."""
    try:
        parts = urlsplit(value)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and named and not re.search(r"[@?#\s]|/$", value)


def _is_origin(value: str) -> bool:
    return value == "*" or (_is_root_url(value) and not urlsplit(value).path)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """The listening process. `workers` 0 means one per processor, at most four. `timeout_seconds` is how long a client
    may be silent in the middle of a request or an answer, `drain_seconds` how long a stopping server waits for running
    requests. `tls_certificate` and `tls_key` are PEM files; with both the server speaks HTTPS.
    """

    host: str = "127.0.0.1"
    port: int = number(5985, 0, 65535)
    workers: int = number(0, 0, 256)
    threads: int = number(8, 1, 1024)
    timeout_seconds: int = number(300, 1)
    keepalive_seconds: int = number(75, 1)
    drain_seconds: int = number(30, 1)
    allow_public_without_login: bool = False
    tls_certificate: str = ""
    tls_key: str = ""

    @property
    def worker_count(self) -> int:
        """How many worker processes to start."""
        return self.workers or min(MAX_WORKERS_BY_DEFAULT, processors())

    @property
    def is_public(self) -> bool:
        """Whether other machines can reach the address that the server listens on."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpSettings:
    """The front door: paths, names, who is trusted, and the forms of answers that differ between sites."""

    prefixes: tuple[str, ...] = texts(
        ("", "/dicom-web"), lambda value: bool(_PREFIX.fullmatch(value)), 'paths like "/dicom-web", or "" for the root'
    )
    public_url: str = text(
        "",
        lambda value: not value or _is_root_url(value),
        "an http or https URL without query and slash at the end, or empty",
    )
    trusted_proxies: tuple[str, ...] = texts(("127.0.0.1", "::1"), _is_address, "IP addresses")
    allowed_hosts: tuple[str, ...] = texts(
        ("localhost", "127.0.0.1", "[::1]"),
        lambda value: bool(_HOST.fullmatch(value)),
        "host names without port, or *",
    )
    allowed_origins: tuple[str, ...] = texts((), _is_origin, 'origins like "https://viewer.example", or "*"')
    empty_search_status: int = choice(200, 200, 204)
    bulkdata_uri: str = choice("absolute", "absolute", "path")
    max_requests_per_minute: int = number(0, 0)
    hsts_seconds: int = number(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageSettings:
    """Which storage keeps the index. `sections` are the tables of the plug-ins, by plug-in."""

    backend: str = "sqlite"
    directory: Path = Path("./dicomweb-data")
    sections: Sections = field(default_factory=lambda: PLUGIN_DEFAULTS["storage"])


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobSettings:
    """Which store keeps the files; empty means the one that goes with the storage. `IN_DATABASE` is the blob store that
    has the name of the storage, with the table of the storage."""

    store: str = ""
    sections: Sections = field(default_factory=lambda: PLUGIN_DEFAULTS["blobs"])


@dataclass(frozen=True, kw_only=True, slots=True)
class StowSettings:
    """What is accepted. A limit of 0 bytes means none."""

    on_duplicate: str = choice("reject", "reject", "replace")
    max_request_bytes: int = number(0, 0)
    max_instance_bytes: int = number(0, 0)
    max_parts: int = number(100_000, 1)
    max_metadata_bytes: int = number(64 * 1024 * 1024, 1024)
    wipe_preamble: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How much one search may answer; a client goes on with `offset`."""

    max_results: int = number(1000, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSettings:
    """Decoding and rendering: `processes` of each worker, with a limit of time for one task and of memory for a
    process; with `warm_up` the first of them starts at the first search. Results are kept in `cache_directory`, in
    which `{directory}` stands for `storage.directory`, up to `cache_bytes` (0: none are kept).
    """

    processes: int = number(2, 1, 64)
    timeout_seconds: int = number(30, 1)
    memory_bytes: int = number(4 * 1024 * 1024 * 1024, 256 * 1024 * 1024)
    cache_bytes: int = number(2 * 1024 * 1024 * 1024, 0)
    cache_directory: str = text("{directory}/cache", bool, "a path")
    warm_up: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewerSettings:
    """The viewer that is hosted below `path` once `viewer install` has put it into `directory`, in which `{directory}`
    stands for `storage.directory`. `image_rendering` is how it fetches images.
    """

    enabled: bool = True
    path: str = text("/ohif", lambda value: bool(value and _PREFIX.fullmatch(value)), 'a path like "/ohif"')
    directory: str = "{directory}/viewer"
    image_rendering: str = choice("wadors", "wadors", "wadouri")
    cross_origin_isolation: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FhirSettings:
    """FHIR below `base`. `timezone` is that of times in files which tell none: an IANA name; empty: unknown."""

    enabled: bool = True
    base: str = text("/api/fhir", lambda value: bool(value and _PREFIX.fullmatch(value)), 'a path like "/api/fhir"')
    timezone: str = text("", _is_zone, 'a time zone like "Europe/Berlin", or ""')
    max_request_bytes: int = number(50 * 1024 * 1024, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskSettings:
    """When nothing more is stored: with less free space than `floor_bytes` where the files lie (as far as the blob
    store can tell), or with more than `quota_bytes` of files in the archive. 0 is none.
    """

    floor_bytes: int = number(256 * 1024 * 1024, 0)
    quota_bytes: int = number(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinksSettings:
    """Files that are read where they are. `folders` are those that `/linkFolder` may link files of; none: it is off."""

    folders: tuple[str, ...] = texts((), os.path.isabs, "absolute paths of folders")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoveSettings:
    """How many days what was deleted stays in the recycle bin (0: it is gone at once), and older versions of what is
    stored (0: for ever)."""

    retention_days: int = number(7, 0, 36_500)
    replaced_days: int = number(0, 0, 36_500)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangesSettings:
    """The change feed. `max_waiting` is how many clients of each worker may wait for changes; half of its threads at
    most do."""

    max_waiting: int = number(4, 0, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class HookSettings:
    """A web hook, `[hooks.NAME]`: who is told of changes of these kinds, and the secret that the messages are signed
    with, of 16 characters at least."""

    url: str = text("", lambda value: _is_root_url(value.rstrip("/")), "an http or https URL without user and query")
    secret: str = ""
    kinds: tuple[str, ...] = texts(CHANGE_KINDS, CHANGE_KINDS.__contains__, f"some of {', '.join(CHANGE_KINDS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class HooksSettings:
    """The web hooks by name. `sections` are their tables as they were written."""

    sections: Sections = field(default_factory=lambda: PLUGIN_DEFAULTS["hooks"])

    @property
    def named(self) -> Mapping[str, HookSettings]:
        """The checked tables; raises ConfigError."""
        return {name: _hook(name, table) for name, table in self.sections.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthSettings:
    """Who may do what. `method` is "none" (nobody logs in), "jwt" (users of this server), "keycloak" (an OpenID Connect
    issuer) or the name of a plug-in; each has a table of its own. `secret` signs tokens; empty: one is made and kept in
    `storage.directory`. `anonymous_role` is the role of who is not logged in; empty: all must log in.
    """

    method: str = text(NO_LOGIN, bool, "the name of a way to log in")
    secret: str = ""
    anonymous_role: str = ""
    bearer: str = choice("lenient", "lenient", "strict")
    basic: bool = True
    access_seconds: int = number(600, 30, 86_400)
    refresh_seconds: int = number(7 * 86_400, 300, 366 * 86_400)
    share_seconds: int = number(30 * 86_400, 60, 3660 * 86_400)
    registration: bool = False
    first_admin: str = "admin"
    first_admin_password: str = ""
    roles: tuple[str, ...] = texts((), bool, 'texts like "technician=search,retrieve,store"')
    role_map: tuple[str, ...] = texts((), bool, 'texts like "pacs-admins=admin"')
    access: tuple[str, ...] = texts((), bool, 'texts like "role reader: InstitutionName=North Hospital"')
    sections: Sections = field(default_factory=lambda: PLUGIN_DEFAULTS["auth"])


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSettings:
    """The audit trail, kept in the storage where people log in, and sent to a syslog server as DICOM audit messages.
    `retention_days` is for how long (0: for ever). `syslog` is udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT."""

    enabled: bool = True
    retention_days: int = number(0, 0, 36_500)
    syslog: str = text("", lambda value: not value or "://" in value, "udp://HOST:PORT, tcp://... or tls://...")
    syslog_ca_file: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    """What is written to standard error."""

    level: str = choice("info", "debug", "info", "warning", "error")
    format: str = choice("text", "text", "json")


def _hook(name: str, table: Mapping[str, Any]) -> HookSettings:
    where = f"hooks.{name}"
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise ConfigError(f"{where}: the name of a hook is made of letters, digits, - and _")
    known = [item.name for item in fields(HookSettings)]
    for key in table:
        if key not in known:
            raise ConfigError(f'{where}: "{key}" is not known{nearest(key, known)}')
    missing = [key for key in ("url", "secret") if key not in table]
    if missing:
        raise ConfigError(f"{where}: {' and '.join(missing)} must be set ({where}.secret_file names a file of it)")
    if not isinstance(table["secret"], str) or len(table["secret"]) < MIN_SECRET_CHARACTERS:
        raise ConfigError(f"{where}.secret must be a text of at least {MIN_SECRET_CHARACTERS} characters")
    return HookSettings(**{key: checked(HookSettings, key, value, f"{where}.{key}") for key, value in table.items()})
