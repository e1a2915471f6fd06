"""The class for a name: which storage, which blob store and which way to log in the settings mean.

A name is looked up in a table of ours, then among the entry points of the installed packages (groups
`dicomweb_server.storage`, `dicomweb_server.blobs` and `dicomweb_server.auth`), and else it is read as
`module:attribute`. Only the chosen module is imported. A name that means two things stops the start.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, cast

from dicomweb_server.auth.base import Authenticator
from dicomweb_server.errors import ConfigError
from dicomweb_server.storage.base import BlobStore, Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of plug-in: its entry point group, the class to implement, and the built-in ones."""

    label: str
    group: str
    base: type
    builtin: Mapping[str, str]


STORAGE = Kind(
    label="storage",
    group="dicomweb_server.storage",
    base=Storage,
    builtin={
        "sqlite": "backends.sqlite:SQLiteStorage",
        "mongodb": "backends.mongodb:MongoStorage",
        "couchdb": "backends.couchdb:CouchStorage",
    },
)
BLOBS = Kind(
    label="blob store",
    group="dicomweb_server.blobs",
    base=BlobStore,
    builtin={
        "files": "backends.files:FileBlobStore",
        "mongodb": "backends.mongodb:GridFSBlobStore",
        "couchdb": "backends.couchdb:CouchBlobStore",
        "s3": "backends.s3:S3BlobStore",
    },
)

AUTHENTICATORS = Kind(
    label="way to log in",
    group="dicomweb_server.auth",
    base=Authenticator,
    builtin={
        "jwt": "dicomweb_server.auth.local:LocalLogin",
        "keycloak": "dicomweb_server.auth.oidc:OidcLogin",
    },
)


def storage_class(name: str) -> type[Storage]:
    """The storage of that name; raises ConfigError when there is none, or when it cannot be imported."""
    return cast(type[Storage], find_class(name, STORAGE))


def blob_store_class(name: str) -> type[BlobStore]:
    """The blob store of that name; raises as `storage_class`."""
    return cast(type[BlobStore], find_class(name, BLOBS))


def authenticator_class(name: str) -> type[Authenticator]:
    """The way to log in of that name; raises as `storage_class`."""
    return cast(type[Authenticator], find_class(name, AUTHENTICATORS))


def find_class(name: str, kind: Kind) -> type:
    """The class that a name means, checked to be a subclass of the kind's base."""
    targets = _targets(kind)
    target = targets.get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        known = ", ".join(f'"{item}"' for item in sorted(targets))
        raise ConfigError(f'there is no {kind.label} "{name}"; known are {known}, and any class as module:attribute')
    found = _attribute(_import(module_name, name, kind), attribute, name, kind)
    if not (isinstance(found, type) and issubclass(found, kind.base)):
        raise ConfigError(f'the {kind.label} "{name}" is {target}, which is no subclass of {kind.base.__name__}')
    return found


def _targets(kind: Kind) -> dict[str, str]:
    """Every known name with its `module:attribute`; raises ConfigError for a name with two meanings."""
    targets = dict(kind.builtin)
    for entry in entry_points(group=kind.group):
        if targets.setdefault(entry.name, entry.value) != entry.value:
            both = f"{targets[entry.name]} and {entry.value}"
            raise ConfigError(f'two packages provide a {kind.label} "{entry.name}": {both}; remove one')
    return targets


def _import(module_name: str, name: str, kind: Kind) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        missing = exc.name or ""
        if f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f'the {kind.label} "{name}" is in the module {module_name}, which is not installed'
            ) from exc
        # The extra of a built-in plug-in has its name.
        hint = f": pip install 'dicomweb-server[{name}]'" if name in kind.builtin else ""
        raise ConfigError(f'the {kind.label} "{name}" needs the Python module {missing}{hint}') from exc


def _attribute(module: ModuleType, attribute: str, name: str, kind: Kind) -> Any:
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise ConfigError(f'the {kind.label} "{name}": {module.__name__} has no {attribute}')
    return found
