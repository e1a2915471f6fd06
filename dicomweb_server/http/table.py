"""What the route table is made of, and how a front end mounts it.

The application, its documentation (OpenAPI, Capabilities, the conformance statement) and the guard of permissions all
read the same entries.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import falcon

from dicomweb_server.permissions import Permission

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What a route can have. HEAD goes the way of GET; OPTIONS is answered from the table, unless an entry names it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `schema` is a JSON Schema of its value. The name `{attribute}` stands for every name of an
    attribute."""

    name: str
    meaning: str
    schema: Mapping[str, Any]
    required: bool = False
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of a route.

    responder: `resource.method`, a name among the resources of the front end.
    takes: media types of the payload. gives: media types of the answer, the default one first. statuses: of answers
    that are no error.
    """

    responder: str
    summary: str
    permission: Permission
    query: tuple[Parameter, ...] = ()
    takes: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    statuses: tuple[int, ...] = (200,)


@dataclass(frozen=True, slots=True)
class Route:
    """A URI template below its prefix, and its methods. A method that is not named is answered with 405."""

    template: str
    operations: Mapping[str, Operation]

    @property
    def allow(self) -> str:
        """The methods, for the Allow header."""
        names = [name for name in METHODS if name in self.operations]
        if "GET" in names:
            names.insert(1, "HEAD")
        return ", ".join([*names, "OPTIONS"])


def route(template: str, **operations: Operation) -> Route:
    """An entry of the table: `route("/studies", get=..., post=...)`."""
    return Route(template, MappingProxyType({name.upper(): operation for name, operation in operations.items()}))


class MountedRoute:
    """A route as Falcon sees it: a resource with a responder per method. Middleware gets it in `process_resource`."""

    def __init__(self, entry: Route, resources: object) -> None:
        self.route = entry
        for name, operation in entry.operations.items():
            responder: Callable[..., None] = attrgetter(operation.responder)(resources)
            setattr(self, f"on_{name.lower()}", responder)

    def operation(self, req: falcon.Request) -> Operation | None:
        """The entry for the method of a request; None where the table has none, as for most OPTIONS."""
        return self.route.operations.get(req.method)

    def on_options(self, _req: falcon.Request, resp: falcon.Response, **_fields: str) -> None:
        """Which methods there are (RFC 9110 9.3.7)."""
        resp.status = 204
        resp.set_header("Allow", self.route.allow)


def mount(
    app: "falcon.App[falcon.Request, falcon.Response]", routes: Iterable[Route], prefix: str, resources: object
) -> None:
    """Make the routes answer below a prefix. `resources` has the resources by the names that the entries use."""
    for entry in routes:
        app.add_route((prefix + entry.template).rstrip("/") or "/", MountedRoute(entry, resources))
