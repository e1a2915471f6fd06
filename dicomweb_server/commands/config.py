"""`dicomweb-server config`: every setting, as TOML, so that the output can be kept as a settings file."""

import argparse
from pathlib import Path
from typing import Any

import orjson

from dicomweb_server.settings import Settings

EXAMPLE = "config --config site.toml"


def run(settings: Settings, _options: argparse.Namespace) -> None:
    """Print the settings with where each comes from."""
    lines: list[tuple[str, str]] = []
    table = ""
    for name, value, source in settings.items():
        section, _, key = name.rpartition(".")
        if section != table:
            table = section
            lines += [("", ""), (f"[{section}]", "")]
        lines.append((f"{key} = {_toml(value)}", source))
    width = max(len(text) for text, source in lines if source)
    for text, source in lines[1:]:
        print(f"{text:<{width}}  # {source}" if source else text)


def _toml(value: Any) -> str:
    """A value in TOML: its booleans, numbers, texts and lists are written as in JSON."""
    return orjson.dumps(str(value) if isinstance(value, Path) else value).decode()
