"""The root: the studies for people who open the address in a browser, a list of what is here for programs."""

import html
from urllib.parse import urlsplit

import falcon
import orjson

from dicomweb_server import __version__
from dicomweb_server.http import pages

_PLACES = (
    ("{base}/studies", "Search for studies (QIDO-RS), store (STOW-RS)"),
    ("{base}/patients", "Search for patients"),
    ("{base}/series", "Search for series"),
    ("{base}/instances", "Search for instances"),
    ("{base}/wado", "One instance or picture, named by query parameters (WADO-URI)"),
    ("{base}/openapi", "Every address, for people; openapi.json for programs"),
    ("{root}/health", "Health"),
)

_VIEWER_HINT = (
    "<p>No viewer is installed. <code>dicomweb-server viewer install</code>, and a restart, bring OHIF to this address."
)

_STUDIES = """
<div id=drop hidden><p>Drop DICOM files, folders or zips here, or
<button type=button id=choose-files>choose files</button> <button type=button id=choose-folder>a folder</button>
<input id=files type=file multiple hidden><input id=folder type=file webkitdirectory hidden>
<progress id=progress hidden></progress><p id=state role=status></p><ul id=told></ul></div>
<form id=search role=search><input name=PatientName placeholder='Patient name' aria-label='Patient name'>
<input name=PatientID placeholder='Patient ID' aria-label='Patient ID'>
<input name=StudyDate placeholder='Date or range' aria-label='Study date'
title='2024-01-31, or from and to: 2024-01-01-2024-12-31'>
<input name=ModalitiesInStudy placeholder=Modality aria-label=Modality><button>Search</button></form>
<p id=removed role=status></p>
<table id=list><thead><tr><th>Patient<th>ID<th>Date<th>Modality<th>Description<th>Images<th></thead><tbody></tbody>
</table>
<nav><button type=button id=back disabled>Previous</button><span id=where class=soft role=status></span>
<button type=button id=on disabled>Next</button></nav>
<noscript><p>The list of studies needs JavaScript; programs need none of it.</noscript>
"""


class HomeResource:
    """The root of the server, and of each DICOMweb prefix. `viewer` is the path of the hosted viewer, None without;
    then a `hint` says how to get one, where one may be. `login`: whether people log in here."""

    def __init__(self, *, viewer: str | None = None, hint: bool = False, login: bool = False) -> None:
        self._viewer = viewer
        self._login = login
        self._hint = _VIEWER_HINT if hint and not viewer else ""
        self._places = (((f"{{root}}{viewer}/", "Look at studies (OHIF)"),) if viewer else ()) + _PLACES
        self._script, self._style = pages.read("studies.js"), pages.read("studies.css")
        self._policy = pages.policy(script=self._script)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A page, or JSON where the client does not ask for a page."""
        address = req.context.address
        places = [(place.format(base=address.dicomweb, root=address.root), what) for place, what in self._places]
        resp.append_header("Vary", "Accept")
        if "text/html" in (req.get_header("Accept") or ""):
            resp.content_type = "text/html; charset=utf-8"
            resp.set_header("Content-Security-Policy", self._policy)
            body = self._body(address.root, address.dicomweb, places)
            resp.data = pages.page("dicomweb-server", body, width="72em", style=self._style, script=self._script)
        else:
            resp.content_type = "application/json"
            resp.data = orjson.dumps(
                {"server": "dicomweb-server", "version": __version__, "resources": [url for url, _ in places]}
            )

    def _body(self, root: str, base: str, places: list[tuple[str, str]]) -> str:
        rows = "".join(
            f"<tr><td><a href='{_text(url)}'><code>{_text(url)}</code></a><td>{about}" for url, about in places
        )
        above = urlsplit(root).path
        paths = {"base": urlsplit(base).path, "viewer": "", "root": above, "login": "on" if self._login else ""}
        look = ""
        if self._viewer:
            paths["viewer"] = f"{above}{self._viewer}"
            look = f"<a href='{_text(paths['viewer'])}/'>OHIF viewer</a>"
        data = " ".join(f"data-{name}='{_text(path)}'" for name, path in paths.items())
        shown = _text(base)
        return (
            f"<body {data}>"
            f"<header><h1>dicomweb-server</h1><span class=soft>version {__version__}</span>{look}"
            f"<a href='{shown}/openapi'>Every address</a><span id=who></span></header>{_STUDIES}"
            f"<h2>For programs</h2><p>DICOMweb is at <code>{shown}</code>.</p><table id=places>{rows}</table>"
            f"<pre>curl '{shown}/studies?limit=5'\n"
            f"dicomweb_client --url {shown} search studies\n"
            f"dicomweb_client --url {shown} store instances image.dcm</pre>{self._hint}"
        )


def _text(text: str) -> str:
    return html.escape(text, quote=True)
