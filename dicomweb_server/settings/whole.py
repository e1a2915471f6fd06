"""All settings together, as one frozen record."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from dicomweb_server.settings.sections import (
    BLOBS_OF_STORAGE,
    IN_DATABASE,
    AuditSettings,
    AuthSettings,
    BlobSettings,
    ChangesSettings,
    CodecSettings,
    DiskSettings,
    FhirSettings,
    HooksSettings,
    HttpSettings,
    LinksSettings,
    LogSettings,
    RemoveSettings,
    SearchSettings,
    Sections,
    ServerSettings,
    StorageSettings,
    StowSettings,
    ViewerSettings,
)
from dicomweb_server.settings.values import masked

DEFAULT_SOURCE = "default"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All settings. `sources` says for each key (`server.port`) where its value came from; a key without one has its
    default. Made by `load`; tests make them directly.
    """

    server: ServerSettings = field(default_factory=ServerSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    blobs: BlobSettings = field(default_factory=BlobSettings)
    stow: StowSettings = field(default_factory=StowSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    codec: CodecSettings = field(default_factory=CodecSettings)
    viewer: ViewerSettings = field(default_factory=ViewerSettings)
    fhir: FhirSettings = field(default_factory=FhirSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    links: LinksSettings = field(default_factory=LinksSettings)
    remove: RemoveSettings = field(default_factory=RemoveSettings)
    changes: ChangesSettings = field(default_factory=ChangesSettings)
    hooks: HooksSettings = field(default_factory=HooksSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    log: LogSettings = field(default_factory=LogSettings)
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
        for section in SECTIONS:
            values = getattr(self, section)
            for key in keys(section):
                name = f"{section}.{key}"
                value = getattr(values, key)
                yield name, masked(key, value) if value else value, self.sources.get(name, DEFAULT_SOURCE)
            for plugin, table in getattr(values, "sections", {}).items():
                for key, value in table.items():
                    name = f"{section}.{plugin}.{key}"
                    yield name, masked(key, value), self.sources.get(name, DEFAULT_SOURCE)

    def _section(self, sections: Sections, name: str) -> Mapping[str, Any]:
        directory = str(self.storage.directory.absolute())
        return {
            key: value.replace("{directory}", directory) if isinstance(value, str) else value
            for key, value in sections.get(name, {}).items()
        }


SECTIONS: Mapping[str, Any] = {name: kind() for name, kind in get_type_hints(Settings).items() if name != "sources"}
TYPES = {section: get_type_hints(type(defaults)) for section, defaults in SECTIONS.items()}


def keys(section: str) -> list[str]:
    """The keys of a section, without the tables of plug-ins."""
    return [item.name for item in fields(SECTIONS[section]) if item.name != "sections"]
