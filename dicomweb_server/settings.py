"""The settings: what can be set, its default, and where each value came from.

A value is taken from, each before the one after it: the command line, the environment (`DICOMWEB__SECTION__KEY`), a
TOML file (`--config` or `DICOMWEB_CONFIG`), the defaults below. A key that is not known, a value of the wrong type or
out of its range, and a pair of settings that is dangerous stop the start. No other module reads the environment.

The tables `[storage.NAME]` and `[blobs.NAME]` belong to the plug-in of that name and are passed to it as they are,
except that `{directory}` in a text stands for `storage.directory`. `[hooks.NAME]` are web hooks. In all of them a
secret `KEY` may be given as `KEY_file`.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dicomweb_server.errors import ConfigError

CONFIG_VARIABLE = "DICOMWEB_CONFIG"
VARIABLE_PREFIX = "DICOMWEB__"
SEPARATOR = "__"
MAX_WORKERS_BY_DEFAULT = 4

DEFAULT_SOURCE = "default"

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

_ROUTES = (
    "patients",
    "studies",
    "series",
    "instances",
    "wado",
    "changes",
    "bin",
    "statistics",
    "openapi",
    "openapi.json",
)
_SECRET = re.compile(r"(^|_)(password|passphrase|secret|token|api_key|private_key|secret_access_key)$")
_ADDRESS = re.compile(r"(^|_)(url|uri|dsn)$")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_HOST = re.compile(r"\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")

Sections = Mapping[str, Mapping[str, Any]]

MIN_SECRET_CHARACTERS = 16
CHANGE_KINDS = ("stored", "replaced", "removed", "restored")


def _choice(default: Any, *choices: Any) -> Any:
    return field(default=default, metadata={"choices": choices})


def _number(default: int, low: int, high: int | None = None) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _list(default: Sequence[str], check: Callable[[str], bool], what: str) -> Any:
    return field(default=tuple(default), metadata={"check": check, "what": what})


def _text(default: str, check: Callable[[str], bool], what: str) -> Any:
    return field(default=default, metadata={"check": check, "what": what})


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
    port: int = _number(5985, 0, 65535)
    workers: int = _number(0, 0, 256)
    threads: int = _number(8, 1, 1024)
    timeout_seconds: int = _number(300, 1)
    keepalive_seconds: int = _number(75, 1)
    drain_seconds: int = _number(30, 1)
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

    prefixes: tuple[str, ...] = _list(
        ("", "/dicom-web"), lambda value: bool(_PREFIX.fullmatch(value)), 'paths like "/dicom-web", or "" for the root'
    )
    public_url: str = _text(
        "",
        lambda value: not value or _is_root_url(value),
        "an http or https URL without query and slash at the end, or empty",
    )
    trusted_proxies: tuple[str, ...] = _list(("127.0.0.1", "::1"), _is_address, "IP addresses")
    allowed_hosts: tuple[str, ...] = _list(
        ("localhost", "127.0.0.1", "[::1]"),
        lambda value: bool(_HOST.fullmatch(value)),
        "host names without port, or *",
    )
    allowed_origins: tuple[str, ...] = _list((), _is_origin, 'origins like "https://viewer.example", or "*"')
    empty_search_status: int = _choice(200, 200, 204)
    bulkdata_uri: str = _choice("absolute", "absolute", "path")
    max_requests_per_minute: int = _number(0, 0)
    hsts_seconds: int = _number(0, 0)


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

    on_duplicate: str = _choice("reject", "reject", "replace")
    max_request_bytes: int = _number(0, 0)
    max_instance_bytes: int = _number(0, 0)
    max_parts: int = _number(100_000, 1)
    max_metadata_bytes: int = _number(64 * 1024 * 1024, 1024)
    wipe_preamble: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """How much one search may answer; a client goes on with `offset`."""

    max_results: int = _number(1000, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecSettings:
    """Decoding and rendering: `processes` of each worker, with a limit of time for one task and of memory for a
    process. Results are kept in `cache_directory`, in which `{directory}` stands for `storage.directory`, up to
    `cache_bytes` (0: none are kept).
    """

    processes: int = _number(2, 1, 64)
    timeout_seconds: int = _number(30, 1)
    memory_bytes: int = _number(4 * 1024 * 1024 * 1024, 256 * 1024 * 1024)
    cache_bytes: int = _number(2 * 1024 * 1024 * 1024, 0)
    cache_directory: str = _text("{directory}/cache", bool, "a path")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewerSettings:
    """The viewer that is hosted below `path` once `viewer install` has put it into `directory`, in which `{directory}`
    stands for `storage.directory`. `image_rendering` is how it fetches images.
    """

    enabled: bool = True
    path: str = _text("/ohif", lambda value: bool(value and _PREFIX.fullmatch(value)), 'a path like "/ohif"')
    directory: str = "{directory}/viewer"
    image_rendering: str = _choice("wadors", "wadors", "wadouri")
    cross_origin_isolation: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FhirSettings:
    """FHIR below `base`. `timezone` is that of times in files which tell none: an IANA name; empty: unknown."""

    enabled: bool = True
    base: str = _text("/api/fhir", lambda value: bool(value and _PREFIX.fullmatch(value)), 'a path like "/api/fhir"')
    timezone: str = _text("", _is_zone, 'a time zone like "Europe/Berlin", or ""')
    max_request_bytes: int = _number(50 * 1024 * 1024, 1024)


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskSettings:
    """When nothing more is stored: with less free space than `floor_bytes` where the files lie (as far as the blob
    store can tell), or with more than `quota_bytes` of files in the archive. 0 is none.
    """

    floor_bytes: int = _number(256 * 1024 * 1024, 0)
    quota_bytes: int = _number(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinksSettings:
    """Files that are read where they are. `folders` are those that `/linkFolder` may link files of; none: it is off."""

    folders: tuple[str, ...] = _list((), os.path.isabs, "absolute paths of folders")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoveSettings:
    """How many days what was deleted stays in the recycle bin (0: it is gone at once), and older versions of what is
    stored (0: for ever)."""

    retention_days: int = _number(7, 0, 36_500)
    replaced_days: int = _number(0, 0, 36_500)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangesSettings:
    """The change feed. `max_waiting` is how many clients of each worker may wait for changes; half of its threads at
    most do."""

    max_waiting: int = _number(4, 0, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class HookSettings:
    """A web hook, `[hooks.NAME]`: who is told of changes of these kinds, and the secret that the messages are signed
    with, of 16 characters at least."""

    url: str = _text("", lambda value: _is_root_url(value.rstrip("/")), "an http or https URL without user and query")
    secret: str = ""
    kinds: tuple[str, ...] = _list(CHANGE_KINDS, CHANGE_KINDS.__contains__, f"some of {', '.join(CHANGE_KINDS)}")


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

    method: str = _text(NO_LOGIN, bool, "the name of a way to log in")
    secret: str = ""
    anonymous_role: str = ""
    bearer: str = _choice("lenient", "lenient", "strict")
    basic: bool = True
    access_seconds: int = _number(600, 30, 86_400)
    refresh_seconds: int = _number(7 * 86_400, 300, 366 * 86_400)
    share_seconds: int = _number(30 * 86_400, 60, 3660 * 86_400)
    registration: bool = False
    first_admin: str = "admin"
    first_admin_password: str = ""
    roles: tuple[str, ...] = _list((), bool, 'texts like "technician=search,retrieve,store"')
    role_map: tuple[str, ...] = _list((), bool, 'texts like "pacs-admins=admin"')
    access: tuple[str, ...] = _list((), bool, 'texts like "role reader: InstitutionName=North Hospital"')
    sections: Sections = field(default_factory=lambda: PLUGIN_DEFAULTS["auth"])


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSettings:
    """The audit trail, kept in the storage where people log in, and sent to a syslog server as DICOM audit messages.
    `retention_days` is for how long (0: for ever). `syslog` is udp://HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT."""

    enabled: bool = True
    retention_days: int = _number(0, 0, 36_500)
    syslog: str = _text("", lambda value: not value or "://" in value, "udp://HOST:PORT, tcp://... or tls://...")
    syslog_ca_file: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    """What is written to standard error."""

    level: str = _choice("info", "debug", "info", "warning", "error")
    format: str = _choice("text", "text", "json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All settings. `sources` says for each key (`server.port`) where its value came from; a key without one has its
    default. Made by `load`; tests make them directly.
    """

    server: ServerSettings = ServerSettings()
    http: HttpSettings = HttpSettings()
    storage: StorageSettings = StorageSettings()
    blobs: BlobSettings = BlobSettings()
    stow: StowSettings = StowSettings()
    search: SearchSettings = SearchSettings()
    codec: CodecSettings = CodecSettings()
    viewer: ViewerSettings = ViewerSettings()
    fhir: FhirSettings = FhirSettings()
    disk: DiskSettings = DiskSettings()
    links: LinksSettings = LinksSettings()
    remove: RemoveSettings = RemoveSettings()
    changes: ChangesSettings = ChangesSettings()
    hooks: HooksSettings = HooksSettings()
    auth: AuthSettings = AuthSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def blobs_in_database(self) -> bool:
        """Whether the files lie in the database of the index."""
        return (self.blobs.store or BLOBS_OF_STORAGE.get(self.storage.backend)) == IN_DATABASE

    @property
    def blob_store(self) -> str:
        """The name of the blob store in use."""
        if self.blobs_in_database:
            return self.storage.backend
        return self.blobs.store or BLOBS_OF_STORAGE.get(self.storage.backend, "files")

    @property
    def cache_directory(self) -> Path:
        """The folder of decoded and rendered results."""
        return Path(self.codec.cache_directory.replace("{directory}", str(self.storage.directory.absolute())))

    @property
    def viewer_directory(self) -> Path:
        """The folder of the installed viewer."""
        return Path(self.viewer.directory.replace("{directory}", str(self.storage.directory.absolute())))

    @property
    def storage_section(self) -> Mapping[str, Any]:
        """The table of the storage in use, as the plug-in gets it."""
        return self._section(self.storage.sections, self.storage.backend)

    @property
    def blobs_section(self) -> Mapping[str, Any]:
        """The table of the blob store in use, as the plug-in gets it."""
        if self.blobs_in_database:
            return self.storage_section
        return self._section(self.blobs.sections, self.blob_store)

    @property
    def auth_section(self) -> Mapping[str, Any]:
        """The table of the way to log in, as the plug-in gets it."""
        return self._section(self.auth.sections, self.auth.method)

    @property
    def host_names(self) -> frozenset[str]:
        """The host names that a request may carry, in lower case, IPv6 addresses in brackets: `http.allowed_hosts`, the
        address listened on and the host of `http.public_url`. Holds `*` when any is allowed."""
        names = {name.lower() for name in self.http.allowed_hosts}
        for name in (self.server.host, urlsplit(self.http.public_url).hostname or ""):
            if name:
                names.add(f"[{name.lower()}]" if ":" in name else name.lower())
        return frozenset(names)

    def items(self) -> Iterator[tuple[str, Any, str]]:
        """Every key with its value and source, in the order of this module; secrets are masked."""
        for section in _SECTIONS:
            values = getattr(self, section)
            for key in _keys(section):
                name = f"{section}.{key}"
                value = getattr(values, key)
                yield name, _masked(key, value) if value else value, self.sources.get(name, DEFAULT_SOURCE)
            for plugin, table in getattr(values, "sections", {}).items():
                for key, value in table.items():
                    name = f"{section}.{plugin}.{key}"
                    yield name, _masked(key, value), self.sources.get(name, DEFAULT_SOURCE)

    def _section(self, sections: Sections, name: str) -> Mapping[str, Any]:
        directory = str(self.storage.directory.absolute())
        return {
            key: value.replace("{directory}", directory) if isinstance(value, str) else value
            for key, value in sections.get(name, {}).items()
        }


_SECTIONS: Mapping[str, Any] = {item.name: item.default for item in fields(Settings) if item.name != "sources"}
_TYPES = {section: get_type_hints(type(defaults)) for section, defaults in _SECTIONS.items()}


def load(
    config: Path | None = None,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings of this process. `overrides` are values of the command line by key (`server.port`); `environ` is the
    environment of the process when it is None. Raises ConfigError with one sentence that names what to mend."""
    environ = os.environ if environ is None else environ
    loader = _Loader()
    path = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if path is not None:
        loader.add_file(path)
    for variable, text in sorted(environ.items()):
        if variable.startswith(VARIABLE_PREFIX):
            loader.add_variable(variable, text)
    for name, value in overrides.items():
        loader.add(name, value, source="command line", where="the command line")
    settings = loader.settings()
    _check_together(settings)
    return settings


class _Loader:
    """Collects values by key, the later ones replacing the earlier."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        self._plugins = {
            kind: {name: dict(table) for name, table in tables.items()} for kind, tables in PLUGIN_DEFAULTS.items()
        }
        self._sources: dict[str, str] = {}
        self._plugin_places: dict[tuple[str, str], str] = {}

    def add_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                document = tomllib.load(file)
        except OSError as exc:
            raise ConfigError(f"the settings file {path} cannot be read: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the settings file {path} is not valid TOML: {exc}") from exc
        for section, table in document.items():
            if section not in _SECTIONS:
                raise ConfigError(f'{path}: "{section}" is not known{_nearest(section, _SECTIONS)}')
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {section} is a table of settings, write [{section}]")
            for key, value in table.items():
                self.add(f"{section}.{key}", value, source=f"file {path}", where=str(path))

    def add_variable(self, variable: str, text: str) -> None:
        parts = [part.lower() for part in variable.removeprefix(VARIABLE_PREFIX).split(SEPARATOR)]
        section, *rest = parts
        where, source = f"the environment variable {variable}", f"environment {variable}"
        if section not in _SECTIONS:
            raise ConfigError(f'{where}: the section "{section}" is not known{_nearest(section, _SECTIONS)}')
        if len(rest) == 2 and section in self._plugins:
            self._add_plugin_value(section, rest[0], rest[1], _from_toml(text), source=source, where=where)
            return
        key = SEPARATOR.join(rest)
        value: Any = text
        if key in _keys(section):
            value = _from_text(text, _TYPES[section][key], f"{where}: {section}.{key}")
        self.add(f"{section}.{key}", value, source=source, where=where)

    def add(self, name: str, value: Any, *, source: str, where: str) -> None:
        section, _, key = name.partition(".")
        if section in self._plugins and isinstance(value, dict):
            self._plugins[section].setdefault(key, {})
            self._plugin_places.setdefault((section, key), where)
            for plugin_key, plugin_value in value.items():
                self._add_plugin_value(section, key, plugin_key, plugin_value, source=source, where=where)
            return
        known = _keys(section)
        secret = key.removesuffix("_file")
        if secret != key and secret in known and _SECRET.search(secret):
            key, value = secret, _read_secret(value, f"{where}: {name}")
            name = f"{section}.{key}"
        if key not in known:
            raise ConfigError(f'{where}: "{name}" is not known{_nearest(key, known, section + ".")}')
        self._values[section][key] = _checked(section, key, value, f"{where}: {name}")
        self._sources[name] = source

    def _add_plugin_value(self, kind: str, plugin: str, key: str, value: Any, *, source: str, where: str) -> None:
        secret = key.removesuffix("_file")
        if secret != key and _is_secret(secret):
            key, value = secret, _read_secret(value, f"{where}: {kind}.{plugin}.{key}")
        self._plugin_places.setdefault((kind, plugin), where)
        self._plugins[kind].setdefault(plugin, {})[key] = value
        self._sources[f"{kind}.{plugin}.{key}"] = source

    def settings(self) -> Settings:
        parts = {section: replace(defaults, **self._values[section]) for section, defaults in _SECTIONS.items()}
        parts["storage"] = replace(parts["storage"], sections=self._plugins["storage"])
        parts["blobs"] = replace(parts["blobs"], sections=self._plugins["blobs"])
        parts["hooks"] = replace(parts["hooks"], sections=self._plugins["hooks"])
        parts["auth"] = replace(parts["auth"], sections=self._plugins["auth"])
        settings = Settings(**parts, sources=self._sources)
        chosen = {
            "storage": settings.storage.backend,
            "blobs": IN_DATABASE if settings.blobs_in_database else settings.blob_store,
            "auth": settings.auth.method,
        }
        for (kind, plugin), where in self._plugin_places.items():
            if kind == "hooks":
                continue
            known = {*PLUGIN_DEFAULTS[kind], chosen[kind]}
            if plugin not in known:
                raise ConfigError(
                    f"{where}: the table [{kind}.{plugin}] belongs to nothing in use{_nearest(plugin, known)}"
                )
        return settings


def _hook(name: str, table: Mapping[str, Any]) -> HookSettings:
    where = f"hooks.{name}"
    if not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise ConfigError(f"{where}: the name of a hook is made of letters, digits, - and _")
    known = [item.name for item in fields(HookSettings)]
    for key in table:
        if key not in known:
            raise ConfigError(f'{where}: "{key}" is not known{_nearest(key, known)}')
    missing = [key for key in ("url", "secret") if key not in table]
    if missing:
        raise ConfigError(f"{where}: {' and '.join(missing)} must be set ({where}.secret_file names a file of it)")
    if not isinstance(table["secret"], str) or len(table["secret"]) < MIN_SECRET_CHARACTERS:
        raise ConfigError(f"{where}.secret must be a text of at least {MIN_SECRET_CHARACTERS} characters")
    return HookSettings(
        **{key: _checked_value(HookSettings, key, value, f"{where}.{key}") for key, value in table.items()}
    )


def _keys(section: str) -> list[str]:
    return [item.name for item in fields(_SECTIONS[section]) if item.name != "sections"]


def _nearest(word: str, known: Mapping[str, Any] | Sequence[str] | set[str], prefix: str = "") -> str:
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if found:
        return f'; did you mean "{prefix}{found[0]}"?'
    return f"; known are {', '.join(sorted(known))}"


# By the type in the dataclass: the type in TOML, its name, and the way from the one to the other.
_KINDS: Mapping[Any, tuple[type, str, Callable[[Any], Any]]] = {
    bool: (bool, "true or false", bool),
    int: (int, "a whole number", int),
    str: (str, "a text", str),
    Path: (str, "a path", Path),
    tuple[str, ...]: (list, "a list of texts", tuple),
}


def _checked(section: str, key: str, value: Any, name: str) -> Any:
    """The value as its dataclass wants it; raises ConfigError for a wrong type, choice or range."""
    return _checked_value(type(_SECTIONS[section]), key, value, name)


def _checked_value(owner: type, key: str, value: Any, name: str) -> Any:
    kind = get_type_hints(owner)[key]
    wanted, words, convert = _KINDS[kind]
    value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)) or (kind is Path and not value):
        shown = "" if _SECRET.search(key) else f", not {value!r}"
        raise ConfigError(f"{name} must be {words}{shown}")
    rules = next(item for item in fields(owner) if item.name == key).metadata
    if "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{name} must be {' or '.join(map(str, rules['choices']))}, not {value!r}")
    if "low" in rules:
        _check_range(value, rules["low"], rules["high"], name)
    if "check" in rules:
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not rules["check"](item):
                raise ConfigError(f"{name} must be {rules['what']}, not {item!r}")
    return convert(value)


def _check_range(value: Any, low: int, high: int | None, name: str) -> None:
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{name} must be {bounds}, not {value}")


def _from_text(text: str, kind: Any, name: str) -> Any:
    """A value of the environment: a list is a TOML array, or its items with commas between."""
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(f"{name} must be true or false, not {text!r}")
        return text.lower() in ("true", "1", "yes", "on")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number, not {text!r}") from None
    if kind == tuple[str, ...]:
        if text.startswith("["):
            return _from_toml(text)
        return [item.strip() for item in text.split(",")] if text else []
    return text


def _from_toml(text: str) -> Any:
    """The TOML value (no date) that the text is, or else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str | list) and "\n" not in text else text


def _is_secret(key: str) -> bool:
    return bool(_SECRET.search(key) or _ADDRESS.search(key))


def _read_secret(path: Any, name: str) -> str:
    if not isinstance(path, str):
        raise ConfigError(f"{name} must be the path of a file, not {path!r}")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name}: the file {path} cannot be read") from exc


def _masked(key: str, value: Any) -> Any:
    if _SECRET.search(key):
        return "***"
    if _ADDRESS.search(key) and isinstance(value, str):
        return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", value)
    return value


def _check_together(settings: Settings) -> None:
    _ = settings.hooks.named  # raises for a table that cannot be used
    if settings.blobs_in_database and settings.storage.backend == "sqlite":
        where = settings.sources.get("blobs.store", DEFAULT_SOURCE)
        raise ConfigError(f'{where}: blobs.store is "{IN_DATABASE}", but SQLite keeps no files; choose "files" or "s3"')
    if not settings.http.prefixes or len(set(settings.http.prefixes)) != len(settings.http.prefixes):
        where = settings.sources.get("http.prefixes", DEFAULT_SOURCE)
        raise ConfigError(f"{where}: http.prefixes must name at least one path, and each once")
    taken = {*settings.http.prefixes, *(f"{p}/{name}" for p in settings.http.prefixes for name in _ROUTES), "/health"}
    if settings.viewer.enabled and any(f"{settings.viewer.path}/".startswith(f"{path}/") for path in taken - {""}):
        where = settings.sources.get("viewer.path", DEFAULT_SOURCE)
        raise ConfigError(f"{where}: viewer.path is {settings.viewer.path}, where other resources are; choose another")
    if settings.fhir.enabled and any(
        f"{settings.fhir.base}/".startswith(f"{path}/") for path in (*(taken - {""}), settings.viewer.path)
    ):
        where = settings.sources.get("fhir.base", DEFAULT_SOURCE)
        raise ConfigError(f"{where}: fhir.base is {settings.fhir.base}, where other resources are; choose another")
    refuse_public_without_login(settings, settings.server.host, public=settings.server.is_public)
    if bool(settings.server.tls_certificate) != bool(settings.server.tls_key):
        raise ConfigError("server.tls_certificate and server.tls_key go together: set both, or none")


def refuse_public_without_login(settings: Settings, host: str, *, public: bool) -> None:
    """Raise ConfigError for an address that other machines can reach while nobody has to log in."""
    if public and settings.auth.method == NO_LOGIN and not settings.server.allow_public_without_login:
        raise ConfigError(
            f"server.host is {host}, which other machines can reach, and there is no login: anyone there could read "
            'and delete everything. Set auth.method = "jwt" (docs/auth.md); or, if a proxy or the network keeps them '
            "out, server.allow_public_without_login = true"
        )
