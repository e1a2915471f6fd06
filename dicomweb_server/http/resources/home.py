"""The root: a page for people who open the address in a browser, a list of what is here for programs."""

import html

import falcon
import orjson

from dicomweb_server import __version__

_PLACES = (
    ("{base}/studies", "Search for studies (QIDO-RS), store (STOW-RS)"),
    ("{base}/patients", "Search for patients"),
    ("{base}/series", "Search for series"),
    ("{base}/instances", "Search for instances"),
    ("{base}/wado", "One instance or picture, named by query parameters (WADO-URI)"),
    ("{base}/openapi", "Every address, for people; openapi.json for programs"),
    ("{root}/health", "Health"),
)

_STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:46em;margin:3em auto;padding:0 1em;color:#1c2733}"
    "h1{font-size:1.5em;margin-bottom:0}p.v{color:#667;margin-top:0}"
    "table{border-collapse:collapse;width:100%}td{padding:.4em .8em .4em 0;border-top:1px solid #dde}"
    "code,pre{font:14px/1.5 ui-monospace,monospace}pre{background:#f4f6f8;padding:1em;overflow:auto}"
    "a{color:#0b5cad}"
)

_VIEWER_HINT = (
    "<p>No viewer is installed. <code>dicomweb-server viewer install</code>, and a restart, bring OHIF to this address."
)


class HomeResource:
    """The root of the server, and of each DICOMweb prefix. `viewer` is the path of the hosted viewer, None without;
    then a `hint` says how to get one, where one may be."""

    def __init__(self, *, viewer: str | None = None, hint: bool = False) -> None:
        self._hint = _VIEWER_HINT if hint and not viewer else ""
        self._places = (((f"{{root}}{viewer}/", "Look at studies (OHIF)"),) if viewer else ()) + _PLACES

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A page, or JSON where the client does not ask for a page."""
        address = req.context.address
        places = [(place.format(base=address.dicomweb, root=address.root), what) for place, what in self._places]
        resp.append_header("Vary", "Accept")
        if "text/html" in (req.get_header("Accept") or ""):
            resp.content_type = "text/html; charset=utf-8"
            resp.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
            resp.data = _page(address.dicomweb, places, self._hint).encode()
        else:
            resp.content_type = "application/json"
            resp.data = orjson.dumps(
                {"server": "dicomweb-server", "version": __version__, "resources": [url for url, _ in places]}
            )


def _page(base: str, places: list[tuple[str, str]], hint: str) -> str:
    rows = "".join(
        f"<tr><td><a href='{html.escape(url, quote=True)}'><code>{html.escape(url)}</code></a><td>{html.escape(what)}"
        for url, what in places
    )
    shown = html.escape(base)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>dicomweb-server</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<style>{_STYLE}</style><h1>dicomweb-server</h1><p class=v>version {__version__}</p>"
        f"<p>A medical image archive. DICOMweb is at <code>{shown}</code>.</p><table>{rows}</table>"
        "<h2>Try it</h2><pre>"
        f"curl '{shown}/studies?limit=5'\n"
        f"dicomweb_client --url {shown} search studies\n"
        f"dicomweb_client --url {shown} store instances image.dcm</pre>{hint}</html>"
    )
