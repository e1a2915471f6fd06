"""An OpenAPI document as one page for people, without scripts and without anything from elsewhere."""

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dicomweb_server.http import pages

_METHODS = ("get", "post", "put", "patch", "delete", "options")
_STYLE = (
    "h2{font:600 15px/1.5 ui-monospace,monospace;margin:2em 0 .3em;overflow-wrap:anywhere}"
    "details{border:1px solid var(--line);border-radius:.3em;margin:.3em 0}"
    "summary{display:flex;flex-wrap:wrap;gap:0 1em;padding:.4em .8em;cursor:pointer}"
    "summary b{min-width:5.5em}summary small{margin-left:auto}"
    "details table{margin:.3em .8em .8em}td,th{overflow-wrap:anywhere}th code{overflow-wrap:normal}"
    "@media(max-width:44em){td,th{display:block;padding:.3em 0}td{border:0;padding-top:0}}"
)
_CODE = re.compile("`([^`]+)`")


def page(document: Mapping[str, Any]) -> bytes:
    """The page, in UTF-8."""
    info = document["info"]
    head = (
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f"<p>Every address below <code>{_text(document['servers'][0]['url'])}</code>, made from the table that the "
        "server runs on; at the right stands the permission that each needs. "
        "<a href=openapi.json>openapi.json</a> is the same for programs. <a href=.>Start page</a></p>"
    )
    body = "".join(piece for path, item in document["paths"].items() for piece in _path(path, item))
    return pages.page(f"{info['title']}: every address", head + body, width="60em", style=_STYLE)


def _path(path: str, item: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2>{_text(path)}</h2>"
    for method in _METHODS:
        if method in item:
            yield from _operation(method, item[method], item.get("parameters", ()))


def _operation(method: str, operation: Mapping[str, Any], fields: Any) -> Iterator[str]:
    yield (
        f"<details><summary><b>{method.upper()}</b> {_text(operation['summary'])}"
        f"<small>{_text(operation['x-permission'])}</small></summary><table>"
    )
    for parameter in (*fields, *operation["parameters"]):
        where = "path" if parameter["in"] == "path" else "query"
        needed = ", required" if parameter["required"] and where == "query" else ""
        yield _row(f"<code>{_text(parameter['name'])}</code>", f"{_marked(parameter['description'])} ({where}{needed})")
    if "requestBody" in operation:
        yield _row("Takes", _codes(operation["requestBody"]["content"]))
    for status, answer in operation["responses"].items():
        if status != "default":
            yield _row(_text(status), _codes(answer.get("content", {})) or _text(answer["description"]))
    yield "</table></details>"


def _row(left: str, right: str) -> str:
    return f"<tr><th>{left}<td>{right}"


def _codes(media: Mapping[str, Any]) -> str:
    return " ".join(f"<code>{_text(name)}</code>" for name in media)


def _marked(text: object) -> str:
    """Text with what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", _text(text))


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)
