"""Reading the table of a way to log in, `[auth.NAME]`, with errors that name the key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dicomweb_server.errors import ConfigError


class Table:
    """A table. Raises ConfigError for a key that is not known."""

    def __init__(self, values: Mapping[str, Any], label: str, known: Sequence[str]) -> None:
        self._values = values
        self._label = label
        for key in values:
            if key not in known:
                raise ConfigError(f'auth.{label} knows no key "{key}"; known are {", ".join(known)}')

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        value = self._values.get(key, default)
        if not isinstance(value, str):
            raise ConfigError(f"auth.{self._label}.{key} is a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; one text is a list of one."""
        value = self._values.get(key, [])
        listed = [value] if isinstance(value, str) and value else value or []
        if not isinstance(listed, list | tuple) or not all(isinstance(item, str) for item in listed):
            raise ConfigError(f"auth.{self._label}.{key} is a list of texts")
        return tuple(listed)

    def truth(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"auth.{self._label}.{key} is true or false")
        return value

    def number(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number between both ends."""
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"auth.{self._label}.{key} is a whole number from {low} to {high}")
        return value

    def url(self, key: str) -> str:
        """An http or https URL."""
        value = self.text(key).rstrip("/")
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ConfigError(f"auth.{self._label}.{key} is an http or https URL")
        return value

    def file(self, key: str) -> str:
        """What the file of that path holds."""
        try:
            return Path(self.text(key)).read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"auth.{self._label}.{key}: the file cannot be read") from exc
