"""Who searches wants to see pictures next."""

from collections.abc import Callable, Mapping

import falcon

from dicomweb_server.http.table import MountedRoute
from dicomweb_server.permissions import Permission


class FirstLook:
    """Falcon middleware that calls `then` at the first search, once; nothing where it stays None."""

    def __init__(self) -> None:
        self.then: Callable[[], None] | None = None

    def process_resource(
        self, req: falcon.Request, _resp: falcon.Response, resource: object, _fields: Mapping[str, str]
    ) -> None:
        """Look whether this is a search that was admitted."""
        then = self.then
        if then is None or not isinstance(resource, MountedRoute):
            return
        operation = resource.operation(req)
        if operation is not None and operation.permission is Permission.SEARCH:
            self.then = None
            then()
