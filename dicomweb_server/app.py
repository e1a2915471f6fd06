"""Where the parts meet: settings, storage and blobs go in, the WSGI application comes out."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import falcon

from dicomweb_server.authenticating import Login, open_login
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.errors import DicomwebError
from dicomweb_server.fhir.batches import Batches
from dicomweb_server.fhir.documents import Documents
from dicomweb_server.fhir.outcome import OutcomeFront
from dicomweb_server.fhir.reading import Reading
from dicomweb_server.fhir.resources import FhirResource
from dicomweb_server.fhir.search import Search as FhirSearch
from dicomweb_server.fhir.views import Views
from dicomweb_server.fhir.writing import Writing
from dicomweb_server.http.address import AddressRules
from dicomweb_server.http.answers import REVALIDATE
from dicomweb_server.http.auditing import AuditWitness
from dicomweb_server.http.errors import handle_falcon_error, handle_our_error, handle_unexpected
from dicomweb_server.http.first_look import FirstLook
from dicomweb_server.http.front import FrontDoor, HeadAsGet
from dicomweb_server.http.guard import Guard
from dicomweb_server.http.pace import Pace
from dicomweb_server.http.resources.accounts import KeysResource, SharesResource, UsersResource
from dicomweb_server.http.resources.audit import AuditResource
from dicomweb_server.http.resources.bulkdata import BulkDataResource
from dicomweb_server.http.resources.changes import ChangesResource
from dicomweb_server.http.resources.description import DescriptionResource
from dicomweb_server.http.resources.edit import EditResource
from dicomweb_server.http.resources.frames import FramesResource
from dicomweb_server.http.resources.health import HealthResource
from dicomweb_server.http.resources.home import HomeResource
from dicomweb_server.http.resources.link_folder import LinkFolderResource
from dicomweb_server.http.resources.login import LoginResource
from dicomweb_server.http.resources.metadata import MetadataResource
from dicomweb_server.http.resources.metrics import MetricsResource
from dicomweb_server.http.resources.objects import ObjectsResource
from dicomweb_server.http.resources.qido import SearchResource
from dicomweb_server.http.resources.recycle import RecycleBinResource
from dicomweb_server.http.resources.rendered import RenderedResource
from dicomweb_server.http.resources.statistics import StatisticsResource
from dicomweb_server.http.resources.stow import StowResource
from dicomweb_server.http.resources.thumbnail import ThumbnailResource
from dicomweb_server.http.resources.viewer import ViewerOptions, ViewerResource
from dicomweb_server.http.resources.wado_uri import WadoUriResource
from dicomweb_server.http.routes import TABLE, Place, Resources
from dicomweb_server.http.table import mount
from dicomweb_server.metrics import Metrics
from dicomweb_server.opening import check_linking, ingest_of, open_parts
from dicomweb_server.services.changes import ChangeFeed
from dicomweb_server.services.edit import Edit
from dicomweb_server.services.editor import Editor
from dicomweb_server.services.frame_cache import ResultCache
from dicomweb_server.services.hooks import COUNTED, Hook, Hooks
from dicomweb_server.services.images import Images
from dicomweb_server.services.link_folder import LinkFolder
from dicomweb_server.services.pictures import Pictures
from dicomweb_server.services.recycle import RecycleBin
from dicomweb_server.services.release import Release, Retention
from dicomweb_server.services.remove import Remove
from dicomweb_server.services.retrieve import Retrieve
from dicomweb_server.services.scoped import ScopedStorage
from dicomweb_server.services.search import Search
from dicomweb_server.services.transcode import Transcode
from dicomweb_server.settings import NO_LOGIN, Settings
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import ChangeKind, OnDuplicate
from dicomweb_server.viewer import installed

__all__ = ["Application", "WsgiApp", "create_app", "open_parts"]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

# Pixels of one UID never change where other bytes are refused, also not by an edit; a viewer need not ask twice.
IMMUTABLE = "private, max-age=31536000, immutable"


class Application:
    """The WSGI application, and what it has to close itself: the processes that decode, who waits for changes and the
    threads that deliver them and that release files."""

    def __init__(
        self,
        wsgi: WsgiApp,
        *,
        pool: CodecPool,
        feed: ChangeFeed,
        hooks: Hooks,
        release: Release,
        login: Login,
        first_look: FirstLook,
    ) -> None:
        self._wsgi = wsgi
        self._first_look = first_look
        self._login = login
        self._pool = pool
        self._feed = feed
        self._hooks = hooks
        self._release = release

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI entry."""
        return self._wsgi(environ, start_response)

    def warm_up_at_first_look(self) -> None:
        """Load what pictures need, and start a decoder, beside the first search that is answered."""
        self._first_look.then = self._pool.warm_up_beside

    def drain(self) -> None:
        """The server stops: let go who waits for changes, so that only requests that do something are waited for."""
        self._feed.close()

    def close(self) -> None:
        """End all that. The processes end by themselves, too, when this one does."""
        self._feed.close()
        self._hooks.close()
        self._release.close()
        self._pool.close()
        self._login.close()


def create_app(settings: Settings, storage: Storage, blobs: BlobStore) -> Application:
    """The WSGI application over an opened storage and blob store, which stay the caller's to close."""
    rules = AddressRules(
        public_url=settings.http.public_url.rstrip("/"),
        trusted_proxies=tuple(settings.http.trusted_proxies),
        allowed_hosts=settings.host_names,
        prefixes=tuple(settings.http.prefixes),
    )
    hooks = Hooks(storage, _hooks(settings))
    retention = Retention(bin_days=settings.remove.retention_days, replaced_days=settings.remove.replaced_days)
    login = open_login(settings, storage)
    editor = Editor(storage, blobs, ingest_of(settings, storage, blobs, edits=True))
    release = Release(storage, blobs, retention, chores=[login.purge], resume=editor.resume)

    def queues() -> dict[str, int]:
        waiting = {f"hook {name}": length for name, length in hooks.waiting().items()}
        return {"release": len(storage.released(limit=COUNTED)), **waiting}

    metrics = Metrics(
        queues=queues,
        checks={"storage": storage.check, "blobs": blobs.check},
        directory=settings.storage.directory if settings.storage.directory.is_dir() else None,
    )
    scoped = ScopedStorage(storage)
    # Half of the threads at most: those who wait must not keep others from being served.
    waiting = min(settings.changes.max_waiting, settings.server.threads // 2)
    feed = ChangeFeed(storage, sees=scoped.sees, max_waiting=waiting)
    origins = frozenset(settings.http.allowed_origins)
    front = FrontDoor(rules=rules, allowed_origins=origins, metrics=metrics, hsts_seconds=settings.http.hsts_seconds)
    guard = Guard(
        login.gate,
        trusted_proxies=rules.trusted_proxies,
        listed_origins=origins,
        witness=AuditWitness(login.trail) if login.trail else None,
        pace=Pace(settings.http.max_requests_per_minute) if settings.http.max_requests_per_minute else None,
    )
    first_look = FirstLook()
    app: falcon.App[falcon.Request, falcon.Response] = falcon.App(
        middleware=[*([OutcomeFront(settings.fhir.base)] if settings.fhir.enabled else []), front, guard, first_look]
    )
    app.req_options.strip_url_path_trailing_slash = True
    app.add_error_handler(Exception, handle_unexpected)
    app.add_error_handler(falcon.HTTPError, handle_falcon_error)
    app.add_error_handler(DicomwebError, handle_our_error)
    pool = CodecPool(
        processes=settings.codec.processes,
        timeout_seconds=settings.codec.timeout_seconds,
        memory_bytes=settings.codec.memory_bytes,
        watch=metrics.codec_task,
    )
    places = _prefixes(settings)
    edit = Edit(scoped, editor, whole=storage, sees=scoped.sees, would_see=scoped.would_see)
    resources = _resources(settings, scoped, blobs, pool, places, feed, metrics, login, guard, release, edit)
    for place, prefixes in places.items():
        for prefix in prefixes:
            mount(app, TABLE[place], prefix, resources)
    hooks.start()
    release.start()
    return Application(
        HeadAsGet(app), pool=pool, feed=feed, hooks=hooks, release=release, login=login, first_look=first_look
    )


def _hooks(settings: Settings) -> list[Hook]:
    base = settings.http.public_url + settings.http.prefixes[0]
    kinds = {name: frozenset(map(ChangeKind, hook.kinds)) for name, hook in settings.hooks.named.items()}
    return [
        Hook(name=name, url=hook.url, secret=hook.secret, kinds=kinds[name], base=base)
        for name, hook in settings.hooks.named.items()
    ]


def _prefixes(settings: Settings) -> dict[Place, tuple[str, ...]]:
    """Below which paths each part of the route table is mounted."""
    return {
        Place.SERVER: ("",),
        Place.VIEWER: (settings.viewer.path,) if settings.viewer.enabled else (),
        Place.DICOMWEB: settings.http.prefixes,
        Place.FHIR: (settings.fhir.base,) if settings.fhir.enabled else (),
    }


def _resources(
    settings: Settings,
    storage: Storage,
    blobs: BlobStore,
    pool: CodecPool,
    places: Mapping[Place, tuple[str, ...]],
    feed: ChangeFeed,
    metrics: Metrics,
    login: Login,
    guard: Guard,
    release: Release,
    edit: Edit,
) -> Resources:
    retrieve = Retrieve(storage, blobs)

    def removing(storage: Storage) -> Remove:
        return Remove(storage, blobs, keep=settings.remove.retention_days > 0, released=release.wake)

    images = Images(retrieve, storage)
    results = ResultCache(settings.cache_directory, max_bytes=settings.codec.cache_bytes)
    transcode = Transcode(retrieve, images, pool, results)
    pictures = Pictures(retrieve, images, pool, results, storage=storage, blobs=blobs)
    cache = IMMUTABLE if settings.stow.on_duplicate == OnDuplicate.REJECT else REVALIDATE
    ingest = ingest_of(settings, storage, blobs)
    viewer = ViewerResource(
        installed.find(settings.viewer_directory) if settings.viewer.enabled else None,
        options=ViewerOptions(
            path=settings.viewer.path,
            dicomweb=max(settings.http.prefixes, key=bool),
            image_rendering=settings.viewer.image_rendering,
            cross_origin_isolation=settings.viewer.cross_origin_isolation,
        ),
    )
    frames = FramesResource(retrieve, transcode, cache=cache)
    return Resources(
        search=SearchResource(
            Search(storage, max_results=settings.search.max_results), empty_status=settings.http.empty_search_status
        ),
        stow=StowResource(
            ingest,
            blobs,
            max_request_bytes=settings.stow.max_request_bytes,
            max_parts=settings.stow.max_parts,
            max_metadata_bytes=settings.stow.max_metadata_bytes,
            metrics=metrics,
        ),
        objects=ObjectsResource(retrieve, removing(storage), transcode, cache=REVALIDATE),
        metadata=MetadataResource(retrieve, absolute_uris=settings.http.bulkdata_uri == "absolute"),
        frames=frames,
        bulkdata=BulkDataResource(retrieve, cache=cache),
        rendered=RenderedResource(retrieve, pictures, cache=cache),
        thumbnail=ThumbnailResource(pictures, cache=cache),
        wado_uri=WadoUriResource(retrieve, images, pictures, transcode, frames, cache=cache),
        health=HealthResource(storage, blobs),
        home=HomeResource(
            viewer=settings.viewer.path if viewer.installed else None,
            hint=settings.viewer.enabled,
            login=settings.auth.method != NO_LOGIN,
        ),
        viewer=viewer,
        fhir=_fhir(settings, storage, removing),
        changes=ChangesResource(feed, admitted=guard.still_admits),
        metrics=MetricsResource(metrics),
        statistics=StatisticsResource(storage),
        link_folder=LinkFolderResource(LinkFolder(ingest, settings.links.folders), lambda: check_linking(settings)),
        edit=EditResource(edit),
        recycle=RecycleBinResource(RecycleBin(storage), released=release.wake),
        description=DescriptionResource(
            TABLE[Place.DICOMWEB],
            others=[
                (prefix, TABLE[place])
                for place, prefixes in places.items()
                if place is not Place.DICOMWEB
                for prefix in prefixes
            ],
            logins=() if login.gate is None else ("bearer", "basic") if login.gate.rules.basic else ("bearer",),
        ),
        login=LoginResource(login.gate, guard, viewer=settings.viewer.path),
        users=UsersResource(storage, login.roles, login.gate, registration=settings.auth.registration),
        keys=KeysResource(login.roles, login.gate),
        audit=AuditResource(login.trail),
        shares=SharesResource(login.gate, retrieve, seconds=settings.auth.share_seconds),
    )


def _fhir(settings: Settings, storage: Storage, removing: Callable[[Storage], Remove]) -> FhirResource:
    zone = ZoneInfo(settings.fhir.timezone) if settings.fhir.timezone else None

    def over(storage: Storage) -> tuple[Reading, Writing]:
        views, documents = Views(storage, zone=zone), Documents(storage)
        search = FhirSearch(storage, views, documents)
        reading = Reading(storage, views, documents, search)
        writing = Writing(
            storage,
            views=views,
            documents=documents,
            search=search,
            reading=reading,
            remove=removing(storage),
            max_bytes=settings.fhir.max_request_bytes,
        )
        return reading, writing

    reading, writing = over(storage)
    return FhirResource(
        reading,
        writing,
        Batches(storage, over, max_count=settings.search.max_results),
        transactions=storage.transacts,
        routes=TABLE[Place.FHIR],
        base=settings.fhir.base,
        dicomweb=max(settings.http.prefixes, key=bool),
        max_count=settings.search.max_results,
        max_request_bytes=settings.fhir.max_request_bytes,
    )
