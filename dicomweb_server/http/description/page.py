"""An OpenAPI document as one page for people, without scripts and without anything from elsewhere."""

import html
from collections.abc import Iterator, Mapping
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete", "options")
_STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;max-width:60em;margin:3em auto;padding:0 1em;color:#1c2733}"
    "h1{font-size:1.5em}h2{font:600 15px/1.5 ui-monospace,monospace;margin:2em 0 .3em;overflow-wrap:anywhere}"
    "code{font:14px/1.5 ui-monospace,monospace}a{color:#0b5cad}"
    "details{border:1px solid #dde;border-radius:.3em;margin:.3em 0}summary{padding:.4em .8em;cursor:pointer}"
    "summary b{display:inline-block;width:5em}summary small{float:right;color:#667}"
    "table{border-collapse:collapse;margin:.3em .8em .8em}"
    "td,th{padding:.2em 1em .2em 0;vertical-align:top;text-align:left;border-top:1px solid #dde}"
)


def page(document: Mapping[str, Any]) -> bytes:
    """The page, in UTF-8."""
    info = document["info"]
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{_text(info['title'])}: every address</title><style>{_STYLE}</style>"
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1>"
        f"<p>Every address below <code>{_text(document['servers'][0]['url'])}</code>, made from the table that the "
        "server runs on. <a href=openapi.json>openapi.json</a> is the same for programs.</p>"
    )
    body = "".join(piece for path, item in document["paths"].items() for piece in _path(path, item))
    return f"{head}{body}</html>".encode()


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
        yield _row(f"<code>{_text(parameter['name'])}</code>", f"{_text(parameter['description'])} ({where}{needed})")
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


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)
