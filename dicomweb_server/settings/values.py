"""A value of a setting: what it may be, and how it is read from TOML and from the environment."""

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, get_type_hints

from dicomweb_server.errors import ConfigError

SECRET = re.compile(r"(^|_)(password|passphrase|secret|token|api_key|private_key|secret_access_key)$")
_ADDRESS = re.compile(r"(^|_)(url|uri|dsn)$")


def choice(default: Any, *choices: Any) -> Any:
    """A key that has one of the choices."""
    return field(default=default, metadata={"choices": choices})


def number(default: int, low: int, high: int | None = None) -> Any:
    """A key with a whole number between `low` and `high`, both included."""
    return field(default=default, metadata={"low": low, "high": high})


def texts(default: Sequence[str], check: Callable[[str], bool], what: str) -> Any:
    """A key with a list of texts, each of which passes `check`; `what` says in a message what those are."""
    return field(default=tuple(default), metadata={"check": check, "what": what})


def text(default: str, check: Callable[[str], bool], what: str) -> Any:
    """A key with a text that passes `check`; `what` says in a message what such a text is."""
    return field(default=default, metadata={"check": check, "what": what})


def nearest(word: str, known: Mapping[str, Any] | Sequence[str] | set[str], prefix: str = "") -> str:
    """The end of a message about a word that is not known: the nearest that is, or all that are."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if found:
        return f'; did you mean "{prefix}{found[0]}"?'
    return f"; known are {', '.join(sorted(known))}"


# By the type in the dataclass: the type in TOML, its name, and the way from the one to the other.
_KINDS: Mapping[Any, tuple[type, str, Callable[[Any], Any]]] = {
    bool: (bool, "true or false", bool),
    int: (int, "a whole number", int),
    str: (str, "a text", str),
    Path: (str, "a path", Path),
    tuple[str, ...]: (list, "a list of texts", tuple),
}


def checked(owner: type, key: str, value: Any, name: str) -> Any:
    """The value as the dataclass `owner` wants it; raises ConfigError for a wrong type, choice or range."""
    kind = get_type_hints(owner)[key]
    wanted, words, convert = _KINDS[kind]
    value = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)) or (kind is Path and not value):
        shown = "" if SECRET.search(key) else f", not {value!r}"
        raise ConfigError(f"{name} must be {words}{shown}")
    rules = next(item for item in fields(owner) if item.name == key).metadata
    if "choices" in rules and value not in rules["choices"]:
        raise ConfigError(f"{name} must be {' or '.join(map(str, rules['choices']))}, not {value!r}")
    if "low" in rules:
        _check_range(value, rules["low"], rules["high"], name)
    if "check" in rules:
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str) or not rules["check"](item):
                raise ConfigError(f"{name} must be {rules['what']}, not {item!r}")
    return convert(value)


def _check_range(value: Any, low: int, high: int | None, name: str) -> None:
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{name} must be {bounds}, not {value}")


def from_text(text: str, kind: Any, name: str) -> Any:
    """A value of the environment: a list is a TOML array, or its items with commas between."""
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ConfigError(f"{name} must be true or false, not {text!r}")
        return text.lower() in ("true", "1", "yes", "on")
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{name} must be a whole number, not {text!r}") from None
    if kind == tuple[str, ...]:
        if text.startswith("["):
            return from_toml(text)
        return [item.strip() for item in text.split(",")] if text else []
    return text


def from_toml(text: str) -> Any:
    """The TOML value (no date) that the text is, or else the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str | list) and "\n" not in text else text


def is_secret(key: str) -> bool:
    """Whether a file may hold the value of this key: a secret, or an address that can hold one."""
    return bool(SECRET.search(key) or _ADDRESS.search(key))


def read_secret(path: Any, name: str) -> str:
    """The text of the file, without the end of its last line; raises ConfigError."""
    if not isinstance(path, str):
        raise ConfigError(f"{name} must be the path of a file, not {path!r}")
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name}: the file {path} cannot be read") from exc


def masked(key: str, value: Any) -> Any:
    """The value as it may be shown."""
    if SECRET.search(key):
        return "***"
    if _ADDRESS.search(key) and isinstance(value, str):
        return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", value)
    return value
