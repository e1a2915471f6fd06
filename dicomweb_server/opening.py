"""What the settings name, opened: the storage, the blob store, and the way in. Light to import: the processes of
commands begin with it."""

from dicomweb_server.errors import Conflict, NotFound
from dicomweb_server.plugins import blob_store_class, storage_class
from dicomweb_server.services.ingest import Ingest, IngestLimits
from dicomweb_server.services.space import Space
from dicomweb_server.settings import Settings
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import OnDuplicate


def import_parts(settings: Settings) -> None:
    """Import what `open_parts` needs: before a fork, so that it is done once."""
    storage_class(settings.storage.backend)
    blob_store_class(settings.blob_store)


def open_parts(settings: Settings) -> tuple[Storage, BlobStore]:
    """The storage and the blob store that the settings name, opened. Called in each worker, after the fork."""
    storage = storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    blobs = blob_store_class(settings.blob_store).from_settings(settings=settings.blobs_section)
    blobs.open()
    storage.open()
    return storage, blobs


def open_existing(settings: Settings) -> tuple[Storage, BlobStore]:
    """As `open_parts`, for who works on an archive that is there. Raises NotFound where there is none."""
    require_archive(settings)
    return open_parts(settings)


def require_archive(settings: Settings) -> None:
    """Raises NotFound where there is no archive: a misspelt folder is no empty one."""
    storage = storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
    if storage.schema().found is None:
        in_files = settings.storage.backend == "sqlite"
        place = settings.storage.directory if in_files else f"the {settings.storage.backend} database of the settings"
        raise NotFound(
            f"There is no archive in {place}: name its folder by --data, or its settings by --config"
            + ("; where only the index was lost, rebuild makes it again." if in_files else ".")
        )


def ingest_of(settings: Settings, storage: Storage, blobs: BlobStore, *, edits: bool = False) -> Ingest:
    """The one way in of instances, with the limits of the settings; `edits`: that of an `Editor`, which replaces."""
    limits = IngestLimits(
        on_duplicate=OnDuplicate.REPLACE if edits else OnDuplicate(settings.stow.on_duplicate),
        max_instance_bytes=0 if edits else settings.stow.max_instance_bytes,
        wipe_preamble=settings.stow.wipe_preamble,
    )
    space = Space(
        free=blobs.free_bytes,
        used=storage.stored_bytes,
        floor_bytes=settings.disk.floor_bytes,
        quota_bytes=settings.disk.quota_bytes,
    )
    return Ingest(storage, blobs, limits=limits, space=space)


def check_linking(settings: Settings) -> None:
    """Raises Conflict unless the whole archive is on this machine, where a path means one file."""
    if (settings.storage.backend, settings.blob_store) != ("sqlite", "files"):
        raise Conflict(
            "Files can be linked only into an archive on sqlite and files: other machines that share a database would "
            "not find them."
        )
