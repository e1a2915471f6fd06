"""Where the values come from, and which of them go together."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dicomweb_server.errors import ConfigError
from dicomweb_server.settings.sections import IN_DATABASE, NO_LOGIN, PLUGIN_DEFAULTS
from dicomweb_server.settings.values import SECRET, checked, from_text, from_toml, is_secret, nearest, read_secret
from dicomweb_server.settings.whole import DEFAULT_SOURCE, SECTIONS, TYPES, Settings, keys

CONFIG_VARIABLE = "DICOMWEB_CONFIG"
VARIABLE_PREFIX = "DICOMWEB__"
SEPARATOR = "__"

# What stands below each DICOMweb prefix, and at the root of the server. A test compares them with the route table.
DICOMWEB_PATHS = (
    "/bin",
    "/changes",
    "/instances",
    "/linkFolder",
    "/openapi",
    "/openapi.json",
    "/patients",
    "/series",
    "/statistics",
    "/studies",
    "/wado",
)
SERVER_PATHS = (
    "/api/dicom",
    "/api/keys",
    "/api/profile",
    "/api/users",
    "/audit",
    "/checkIsLogin",
    "/health",
    "/login",
    "/loging",
    "/logout",
    "/metrics",
    "/register",
    "/share",
)


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
        self._values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
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
            if section not in SECTIONS:
                raise ConfigError(f'{path}: "{section}" is not known{nearest(section, SECTIONS)}')
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {section} is a table of settings, write [{section}]")
            for key, value in table.items():
                self.add(f"{section}.{key}", value, source=f"file {path}", where=str(path))

    def add_variable(self, variable: str, text: str) -> None:
        parts = [part.lower() for part in variable.removeprefix(VARIABLE_PREFIX).split(SEPARATOR)]
        section, *rest = parts
        where, source = f"the environment variable {variable}", f"environment {variable}"
        if section not in SECTIONS:
            raise ConfigError(f'{where}: the section "{section}" is not known{nearest(section, SECTIONS)}')
        if len(rest) == 2 and section in self._plugins:
            self._add_plugin_value(section, rest[0], rest[1], from_toml(text), source=source, where=where)
            return
        key = SEPARATOR.join(rest)
        value: Any = text
        if key in keys(section):
            value = from_text(text, TYPES[section][key], f"{where}: {section}.{key}")
        self.add(f"{section}.{key}", value, source=source, where=where)

    def add(self, name: str, value: Any, *, source: str, where: str) -> None:
        section, _, key = name.partition(".")
        if section in self._plugins and isinstance(value, dict):
            self._plugins[section].setdefault(key, {})
            self._plugin_places.setdefault((section, key), where)
            for plugin_key, plugin_value in value.items():
                self._add_plugin_value(section, key, plugin_key, plugin_value, source=source, where=where)
            return
        known = keys(section)
        secret = key.removesuffix("_file")
        if secret != key and secret in known and SECRET.search(secret):
            key, value = secret, read_secret(value, f"{where}: {name}")
            name = f"{section}.{key}"
        if key not in known:
            raise ConfigError(f'{where}: "{name}" is not known{nearest(key, known, section + ".")}')
        self._values[section][key] = _checked(section, key, value, f"{where}: {name}")
        self._sources[name] = source

    def _add_plugin_value(self, kind: str, plugin: str, key: str, value: Any, *, source: str, where: str) -> None:
        secret = key.removesuffix("_file")
        if secret != key and is_secret(secret):
            key, value = secret, read_secret(value, f"{where}: {kind}.{plugin}.{key}")
        self._plugin_places.setdefault((kind, plugin), where)
        self._plugins[kind].setdefault(plugin, {})[key] = value
        self._sources[f"{kind}.{plugin}.{key}"] = source

    def settings(self) -> Settings:
        parts = {section: replace(defaults, **self._values[section]) for section, defaults in SECTIONS.items()}
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
                    f"{where}: the table [{kind}.{plugin}] belongs to nothing in use{nearest(plugin, known)}"
                )
        return settings


def _checked(section: str, key: str, value: Any, name: str) -> Any:
    """The value as its dataclass wants it; raises ConfigError for a wrong type, choice or range."""
    return checked(type(SECTIONS[section]), key, value, name)


def _check_together(settings: Settings) -> None:
    _ = settings.hooks.named  # raises for a table that cannot be used
    if settings.blobs_in_database and settings.storage.backend == "sqlite":
        where = settings.sources.get("blobs.store", DEFAULT_SOURCE)
        raise ConfigError(f'{where}: blobs.store is "{IN_DATABASE}", but SQLite keeps no files; choose "files" or "s3"')
    if not settings.http.prefixes or len(set(settings.http.prefixes)) != len(settings.http.prefixes):
        where = settings.sources.get("http.prefixes", DEFAULT_SOURCE)
        raise ConfigError(f"{where}: http.prefixes must name at least one path, and each once")
    below = {prefix + path for prefix in settings.http.prefixes for path in DICOMWEB_PATHS}
    taken = {*settings.http.prefixes, *below, *SERVER_PATHS}
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
