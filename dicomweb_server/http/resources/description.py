"""What the server says about itself: OpenAPI, the page of it, and the Capabilities Description (PS3.18 8.9)."""

from collections.abc import Sequence
from typing import Any

import falcon
import orjson

from dicomweb_server.dicom.media import Offer, choose, parse_accept
from dicomweb_server.http import pages
from dicomweb_server.http.description import wadl
from dicomweb_server.http.description.openapi import MEDIA_TYPE, openapi
from dicomweb_server.http.description.page import page
from dicomweb_server.http.table import Route

_CAPABILITIES = (Offer(wadl.MEDIA_TYPE), Offer("application/xml"), Offer(MEDIA_TYPE), Offer("application/json"))
_XML = (wadl.MEDIA_TYPE, "application/xml", "text/xml")


class DescriptionResource:
    """The route table for programs and people.

    services: the DICOMweb routes, described below the prefix that the client came by. others: all other routes, with
    the prefixes they are mounted at. logins: as of `openapi`.
    """

    def __init__(
        self, services: Sequence[Route], *, others: Sequence[tuple[str, Sequence[Route]]], logins: Sequence[str]
    ) -> None:
        self._services = services
        self._others = others
        self._logins = logins

    def on_get_openapi(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The OpenAPI document."""
        resp.content_type = "application/json"
        resp.data = orjson.dumps(self._document(req))

    def on_get_page(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The document as a page."""
        resp.content_type = "text/html; charset=utf-8"
        resp.set_header("Content-Security-Policy", pages.policy())
        resp.data = page(self._document(req))

    def on_options(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The Capabilities Description of the service, as WADL or as OpenAPI."""
        resp.set_header("Allow", req.context.route.allow)
        resp.append_header("Vary", "Accept")
        media = choose(parse_accept(req.get_header("Accept")), _CAPABILITIES).media
        resp.content_type = media
        if media in _XML:
            resp.data = wadl.wadl(self._services, base=req.context.address.dicomweb)
        else:
            resp.data = orjson.dumps(self._document(req))

    def _document(self, req: falcon.Request) -> dict[str, Any]:
        address = req.context.address
        prefix = address.dicomweb.removeprefix(address.root)
        return openapi([(prefix, self._services), *self._others], server_url=address.root, logins=self._logins)
