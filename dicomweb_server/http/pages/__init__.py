"""What the pages for people have in common: one look, in light and dark, and nothing from elsewhere."""

import base64
import hashlib
import html
from importlib.resources import files

_LOOK = (
    ":root{color-scheme:light dark;--ink:#1c2733;--soft:#5b6775;--line:#d8dee6;--face:#fff;--raised:#f4f6f8;"
    "--link:#0b5cad;--bad:#a11}"
    "@media(prefers-color-scheme:dark){:root{--ink:#dde3ea;--soft:#94a1b0;--line:#36414d;--face:#161b21;"
    "--raised:#1f262e;--link:#6cb2f7;--bad:#ff8a80}}"
    "*{box-sizing:border-box}"
    "body{font:16px/1.6 system-ui,sans-serif;margin:0 auto;padding:2em 1em 4em;color:var(--ink);background:var(--face)}"
    "h1{font-size:1.5em;margin:0}h2{font-size:1.15em;margin:2em 0 .5em}small,.soft{color:var(--soft)}"
    "a{color:var(--link)}code,pre{font:14px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}"
    "pre{background:var(--raised);padding:1em;overflow:auto;border-radius:.3em}"
    ".bad{color:var(--bad)}"
    "input,button{font:inherit;color:inherit;background:var(--face);border:1px solid var(--line);border-radius:.3em;"
    "padding:.35em .6em}button{background:var(--raised);cursor:pointer}button:disabled{cursor:default;opacity:.5}"
    "table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.4em 1em .4em 0;"
    "border-top:1px solid var(--line)}"
)


def read(name: str) -> str:
    """The text of a file of this package."""
    return (files(__name__) / name).read_text(encoding="utf-8")


def page(title: str, body: str, *, width: str = "46em", style: str = "", script: str = "") -> bytes:
    """A whole page, in UTF-8. The title is plain text; body, style and script are sent as they are."""
    run = f"<script>{script}</script>" if script else ""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{html.escape(title)}</title><meta name=viewport content='width=device-width,initial-scale=1'>"
        "<link rel=icon href='data:,'>"
        f"<style>{_LOOK}body{{max-width:{width}}}{style}</style>{body}{run}</html>"
    ).encode()


def policy(*, script: str = "") -> str:
    """The Content-Security-Policy of such a page: this one script, which asks this server only; or none."""
    rules = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules += f"; script-src 'sha256-{digest}'; connect-src 'self'"
    return rules
