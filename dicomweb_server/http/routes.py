"""Every route, in one list. To add one: write its resource, name it here.

`{study_uid}` and its like match any text: a malformed UID is answered with 400 by the resource, an unknown one with
404.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

STUDY = "/studies/{study_uid}"
SERIES = STUDY + "/series/{series_uid}"
INSTANCE = SERIES + "/instances/{instance_uid}"


@dataclass(frozen=True, slots=True)
class Resources:
    """One of each, already connected to its services."""

    search: Any
    stow: Any
    objects: Any
    metadata: Any
    frames: Any
    bulkdata: Any
    rendered: Any
    thumbnail: Any
    wado_uri: Any
    health: Any
    home: Any
    viewer: Any


Route = tuple[str, Any, str | None]
"""URI template, resource, suffix of its responders."""


def server_routes(resources: Resources) -> Iterator[Route]:
    """Routes of the server itself, below no prefix."""
    yield "/health", resources.health, "ready"
    yield "/health/ready", resources.health, "ready"
    yield "/health/live", resources.health, "live"
    yield "/api/dicom/wado", resources.wado_uri, None


def dicomweb_routes(resources: Resources) -> Iterator[Route]:
    """Routes of DICOMweb, mounted below each prefix (PS3.18 10.1)."""
    yield "/", resources.home, None
    yield "/patients", resources.search, "patients"
    yield "/studies", Collection(resources.search, resources.stow), None
    yield "/series", resources.search, "series"
    yield "/instances", resources.search, "instances"
    yield STUDY + "/series", resources.search, "series"
    yield STUDY + "/instances", resources.search, "instances"
    yield SERIES + "/instances", resources.search, "instances"
    yield STUDY, Study(resources.objects, resources.stow), None
    yield SERIES, resources.objects, None
    yield INSTANCE, resources.objects, None
    for entity in (STUDY, SERIES, INSTANCE):
        yield entity + "/metadata", resources.metadata, None
        yield entity + "/bulkdata", resources.bulkdata, "all"
        yield entity + "/pixeldata", resources.bulkdata, "pixels"
        yield entity + "/rendered", resources.rendered, None
        yield entity + "/thumbnail", resources.thumbnail, None
    yield INSTANCE + "/bulkdata/{key:path}", resources.bulkdata, "element"
    yield INSTANCE + "/frames", resources.frames, "all"
    yield INSTANCE + "/frames/{numbers}", resources.frames, "list"
    yield INSTANCE + "/frames/{numbers}/rendered", resources.rendered, "frames"
    yield INSTANCE + "/frames/{numbers}/thumbnail", resources.thumbnail, "frame"
    yield "/wado", resources.wado_uri, None


class Collection:
    """All studies: searched by GET, stored to by POST."""

    def __init__(self, search: Any, stow: Any) -> None:
        self.on_get = search.on_get_studies
        self.on_post = stow.on_post


class Study:
    """One study: retrieved by GET, removed by DELETE, stored to by POST."""

    def __init__(self, objects: Any, stow: Any) -> None:
        self.on_get = objects.on_get
        self.on_delete = objects.on_delete
        self.on_post = stow.on_post
