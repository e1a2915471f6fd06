"""Rendered instances (PS3.18 8.7.4 and 10.4.1.1.3): pictures of images, and the documents that other objects hold."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from importlib import import_module
from itertools import islice

from dicomweb_server.codec.options import IMAGE_TYPES, RenderOptions, Viewport
from dicomweb_server.codec.pool import CodecPool
from dicomweb_server.codec.presentation_state import refers_to
from dicomweb_server.dicom.json_model import Attributes, first_int, first_value
from dicomweb_server.dicom.uids import is_uid, is_video
from dicomweb_server.errors import BadPixels, BadRequest, MissingCodec, NotAcceptable, NotFound
from dicomweb_server.services import documents
from dicomweb_server.services.frame_cache import ResultCache, cache_key, in_memory
from dicomweb_server.services.images import Images
from dicomweb_server.services.picture_options import PictureOptions
from dicomweb_server.services.representative import others, representative
from dicomweb_server.services.retrieve import Instance, Payload, Retrieve
from dicomweb_server.storage.base import BlobStore, Storage
from dicomweb_server.storage.records import Scope, StoredInstance

MAX_ANIMATION_FRAMES = 1000
MAX_ANIMATION_BYTES = 256 << 20
MAX_THUMBNAIL_SIDE = 1024
THUMBNAIL_SIDE = 256

_MAX_REFERENCES = 1000
_STAND_IN_SECONDS = 5.0
_ANIMATION = "image/gif"


class Kind(Enum):
    """How an instance is shown."""

    IMAGE = auto()
    VIDEO = auto()
    DOCUMENT = auto()
    REPORT = auto()
    PRESENTATION_STATE = auto()
    NOTHING = auto()


_KINDS = {
    "1.2.840.10008.5.1.4.1.1.88.": Kind.REPORT,
    "1.2.840.10008.5.1.4.1.1.104.": Kind.DOCUMENT,
    "1.2.840.10008.5.1.4.1.1.11.": Kind.PRESENTATION_STATE,
}
"""By the beginning of the SOP class, of what has no pixels."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One picture to be made: frames of an instance, several of them as an animation."""

    instance: Instance
    frames: tuple[int, ...]
    state: Instance | None = None


class Pictures:
    """Renders what is stored."""

    def __init__(
        self,
        retrieve: Retrieve,
        images: Images,
        pool: CodecPool,
        cache: ResultCache,
        *,
        storage: Storage,
        blobs: BlobStore,
    ) -> None:
        self._retrieve = retrieve
        self._images = images
        self._pool = pool
        self._cache = cache
        self._storage = storage
        self._blobs = blobs

    # What there is to see

    def kind(self, instance: Instance) -> Kind:
        """How the instance is shown."""
        stored = instance.stored
        if instance.layout.pixel_tag is not None and is_video(stored.transfer_syntax_uid):
            return Kind.VIDEO
        if instance.number_of_frames:
            return Kind.IMAGE
        for prefix, kind in _KINDS.items():
            if stored.sop_class_uid.startswith(prefix):
                return kind
        return Kind.NOTHING

    def media_types(self, instance: Instance) -> tuple[str, ...]:
        """The rendered media types of an instance, the default one first; none where it cannot be shown."""
        kind = self.kind(instance)
        if kind in (Kind.IMAGE, Kind.PRESENTATION_STATE):
            return IMAGE_TYPES
        if kind is Kind.REPORT:
            return documents.REPORT_TYPES
        if kind is Kind.VIDEO:
            return (documents.video_type(instance.stored.transfer_syntax_uid),)
        if kind is Kind.DOCUMENT:
            return documents.document_types(self._images.attributes(instance))
        return ()

    def representative(self, scope: Scope) -> Instance:
        """As `representative.representative`."""
        return representative(self._retrieve, self._storage, scope)

    def version(self, scope: Scope) -> str:
        """Changes with whatever is in scope."""
        return self._retrieve.version(scope=scope)

    def open(self, stored: StoredInstance) -> Instance:
        """An instance from its record."""
        return self._retrieve.opened(stored)

    # Pictures

    def shown(self, instance: Instance, media: str, frames: Sequence[int] = ()) -> Shown:
        """The one picture of an instance, or of some of its frames: the first frame, or all as an animation. Of a
        presentation state its first image."""
        if self.kind(instance) is Kind.PRESENTATION_STATE:
            found = next(self._referenced(instance), None)
            if found is None:
                raise NotFound("none of the images of this presentation state is stored in its study")
            return found
        indexes = tuple(frames) or tuple(range(instance.number_of_frames))
        return Shown(instance, indexes if media == _ANIMATION else indexes[:1])

    def every_one(self, instance: Instance, media: str, frames: Sequence[int] = ()) -> Iterator[Shown]:
        """All pictures of an instance: each frame, or one animation; none where it does not have this media type."""
        kind = self.kind(instance)
        if media not in self.media_types(instance):
            return
        if kind is Kind.PRESENTATION_STATE:
            yield from self._referenced(instance)
        elif kind is not Kind.IMAGE or media == _ANIMATION:
            yield self.shown(instance, media, frames)
        else:
            for index in frames or range(instance.number_of_frames):
                yield Shown(instance, (index,))

    def made(self, shown: Shown, media: str, options: PictureOptions) -> Payload:
        """The bytes of a picture, or of what else `media_types` has."""
        kind = self.kind(shown.instance)
        if kind is Kind.VIDEO:
            return documents.video(shown.instance, self._blobs)
        if kind is Kind.DOCUMENT:
            return documents.document(shown.instance, self._images.attributes(shown.instance))
        if kind is Kind.REPORT:
            return in_memory(documents.report(self._images.attributes(shown.instance), media))
        if kind is not Kind.IMAGE:
            raise NotAcceptable("this object has no picture")
        return in_memory(self._rendered(shown, media, options))

    def _rendered(self, shown: Shown, media: str, options: PictureOptions) -> bytes:
        instance, state = shown.instance, shown.state
        render = options.of(self._images.attributes(instance)) if options.annotation else options.render
        sha256 = instance.stored.blob.sha256
        key = cache_key("picture", sha256, shown.frames, media, render, state.stored.blob.sha256 if state else "")

        def make() -> bytes:
            return self._pool.render(
                self._images.attributes(instance),
                instance.stored.transfer_syntax_uid,
                self._frames(shown),
                options=render,
                media=media,
                fetch_bulk=self._images.fetch_bulk(instance),
                presentation_state=self._images.attributes(state) if state else None,
                fetch_state_bulk=self._images.fetch_bulk(state) if state else None,
            )

        return self._cache.bytes_of(key, make)

    def _frames(self, shown: Shown) -> list[tuple[int, bytes]]:
        if len(shown.frames) > MAX_ANIMATION_FRAMES:
            raise BadRequest(f"an animation has at most {MAX_ANIMATION_FRAMES} frames: ask for some of them")
        found: list[tuple[int, bytes]] = []
        total = 0
        for index in shown.frames:
            frame = self._images.frame(shown.instance, index)
            total += len(frame)
            if found and total > MAX_ANIMATION_BYTES:
                raise BadRequest("the frames are too large for an animation: ask for some of them")
            found.append((index, frame))
        return found

    # Presentation states

    def with_state(self, shown: Shown, state: Instance) -> Shown:
        """The picture with a presentation state, which has to be for this image."""
        if self.kind(state) is not Kind.PRESENTATION_STATE:
            raise BadRequest("the object that is named as presentation state is none")
        if not refers_to(self._images.attributes(state), shown.instance.stored.instance_uid):
            raise BadRequest("the presentation state is not for this image")
        return replace(shown, state=state)

    def _referenced(self, state: Instance) -> Iterator[Shown]:
        """The images that a presentation state is for, as far as its study has them."""
        stored = state.stored
        for series_uid, instance_uid, frame in _references(self._images.attributes(state)):
            scope = Scope(study_uid=stored.study_uid, series_uid=series_uid, instance_uid=instance_uid)
            try:
                instance = self._retrieve.instance(scope=scope)
            except NotFound:
                continue
            if frame < instance.number_of_frames:
                yield Shown(instance, (frame,), state)

    # What stands for a series or study

    def rendered_stand_in(
        self, scope: Scope, media: str, options: PictureOptions, *, damaged: Instance
    ) -> tuple[Instance, Payload] | None:
        """The picture of another instance of a series or study whose representative cannot be shown; None where the few
        that are tried are damaged too, or have nothing of this media type."""

        def make(instance: Instance) -> Payload | None:
            if media not in self.media_types(instance):
                return None
            return self.made(self.shown(instance, media), media, options)

        return self._instead(scope, damaged, make)

    def _instead(
        self, scope: Scope, damaged: Instance, make: Callable[[Instance], Payload | None]
    ) -> tuple[Instance, Payload] | None:
        """What can be made of one of the few that are tried, for some seconds at most."""
        until = time.monotonic() + _STAND_IN_SECONDS
        for instance in others(self._retrieve, self._storage, scope, damaged):
            try:
                made = make(instance)
            except BadPixels:
                made = None
            if made is not None:
                return instance, made
            if time.monotonic() > until:
                break
        return None

    # Thumbnails

    def thumbnail(self, instance: Instance, frame: int | None, media: str, options: PictureOptions) -> Payload:
        """A small picture of a frame, of the middle one where none is named; an icon for what has no pixels.

        It fits into a square of 256 pixels where the options have no viewport, and is then never larger than the image.
        """
        if self.kind(instance) is not Kind.IMAGE:
            return in_memory(self._icon(instance, media))
        index = instance.number_of_frames // 2 if frame is None else frame
        side = _thumbnail_side(options) if media == IMAGE_TYPES[0] else None
        try:
            if side is not None:
                return in_memory(self._small(instance, index, side))
            if options.render.viewport is None:
                description = self._images.description(instance)
                limit = min(THUMBNAIL_SIDE, max(description.rows, description.columns))
                options = replace(options, render=replace(options.render, rows=limit, columns=limit))
            return self.made(Shown(instance, (index,)), media, options)
        except MissingCodec:
            return in_memory(self._icon(instance, media))

    def stand_in(
        self, scope: Scope, media: str, options: PictureOptions, *, damaged: Instance
    ) -> tuple[Instance | None, Payload]:
        """The thumbnail of a series or study whose representative cannot be shown, and of which instance it is: a
        neighbour, or an icon (None) where those are damaged too."""
        found = self._instead(scope, damaged, lambda instance: self.thumbnail(instance, None, media, options))
        return found or (None, in_memory(self._icon(damaged, media)))

    def _small(self, instance: Instance, index: int, side: int) -> bytes:
        key = cache_key("thumbnail", instance.stored.blob.sha256, index, side)

        def make() -> bytes:
            return self._pool.thumbnail(
                self._images.attributes(instance),
                instance.stored.transfer_syntax_uid,
                (index, self._images.frame(instance, index)),
                side=side,
                fetch_bulk=self._images.fetch_bulk(instance),
            )

        return self._cache.bytes_of(key, make)

    def _icon(self, instance: Instance, media: str) -> bytes:
        try:
            icons = import_module("dicomweb_server.codec.icons")
        except ImportError as exc:
            raise MissingCodec("pictures cannot be made here: install numpy and pillow") from exc
        modality = str(first_value(self._images.attributes(instance), "00080060") or "")
        return bytes(icons.icon(instance.stored.sop_class_uid, modality, side=THUMBNAIL_SIDE, media=media))


def _thumbnail_side(options: PictureOptions) -> int | None:
    """The side of a plain thumbnail; None where the options ask for more than that."""
    view = options.render.viewport
    if options.annotation or options.render != RenderOptions(viewport=view):
        return None
    if view is None:
        return THUMBNAIL_SIDE
    return view.width if view == Viewport(view.width, view.width) and view.width <= MAX_THUMBNAIL_SIDE else None


def _references(state: Attributes) -> Iterator[tuple[str, str, int]]:
    """Series, instance and frame, from 0, of the images that a presentation state is for (PS3.3 C.11.11)."""
    found = (
        (series, image)
        for series in state.get("00081115", {}).get("Value") or ()
        for image in (series or {}).get("00081140", {}).get("Value") or ()
    )
    for series, image in islice(found, _MAX_REFERENCES):
        series_uid, instance_uid = first_value(series, "0020000E"), first_value(image or {}, "00081155")
        if (
            isinstance(series_uid, str)
            and isinstance(instance_uid, str)
            and is_uid(series_uid)
            and is_uid(instance_uid)
        ):
            yield series_uid, instance_uid, max(first_int(image, "00081160") or 1, 1) - 1
