"""Known vulnerabilities of what is installed here, and of the oldest versions that setup.cfg allows, without a network.

    python .ci/advisories.py FOLDER|FILE [--ignore ID]...

FOLDER holds advisories in the OSV format, as YAML or JSON, at any depth: a checkout of pypa/advisory-database or
github/advisory-database on GitHub, or PyPI/all.zip of osv.dev, unpacked. FILE holds one, or several YAML documents, as
known.yaml beside this does. Ends with 1 when a version is affected, with 2 when there are no advisories.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

ECOSYSTEM = "PyPI"
OURS = "dicomweb-server"
OF_THE_ENVIRONMENT = frozenset({"pip", "setuptools"})  # venv brings its own, nothing here needs them to run


@dataclass(frozen=True, order=True)
class Affected:
    """A version that an advisory is about, and the versions in which it is mended."""

    name: str
    version: Version
    advisory: str
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version}: {self.advisory}, fixed in {', '.join(self.fixed) or 'no version yet'}"


def installed() -> dict[str, Version]:
    """The version of each distribution of this environment, without this one and what installs it."""
    found = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions()}
    return {name: Version(version) for name, version in found.items() if name not in {OURS, *OF_THE_ENVIRONMENT}}


def oldest_allowed() -> dict[str, Version]:
    """The lowest version of each direct dependency, extras included, that may be installed with this one."""
    found = {}
    for text in requires(OURS) or []:
        requirement = Requirement(text)
        bounds = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==", "~=")]
        if bounds:
            found[canonicalize_name(requirement.name)] = max(bounds)
    return found


def advisories(place: Path, names: Iterable[str]) -> Iterator[Mapping[str, Any] | None]:
    """Those in a file or below a folder that may be about one of the names; None for each other, which is not read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    words = (re.escape(name).replace(r"\-", "[-_.]") for name in names)
    wanted = re.compile(rf"""\bname["']?\s*:\s*["']?(?:{"|".join(words)})["']?\s*[,}}\r\n]""", re.IGNORECASE)
    for file in [place] if place.is_file() else sorted(place.rglob("*")):
        if file.suffix not in (".yaml", ".yml", ".json") or not file.is_file():
            continue
        for text in file.read_text(encoding="utf-8").split("\n---\n"):
            if re.search(r"""^\s*["']?affected["']?\s*:""", text, re.MULTILINE) is None:
                continue
            # YAML is nearly a superset of JSON, and as quick.
            yield yaml.load(text, loader) if wanted.search(text) else None  # noqa: S506


def affected(advisory: Mapping[str, Any], versions: Mapping[str, Version]) -> Iterator[Affected]:
    """Which of the versions it is about."""
    if advisory.get("withdrawn"):
        return
    shown = ", ".join([advisory["id"], *advisory.get("aliases", [])])
    for entry in advisory.get("affected", []):
        package = entry.get("package", {})
        name = canonicalize_name(str(package.get("name", "")))
        if package.get("ecosystem") != ECOSYSTEM or name not in versions:
            continue
        ranges = [one["events"] for one in entry.get("ranges", []) if one.get("type") == "ECOSYSTEM"]
        version = versions[name]
        listed = any(version == known for known in map(_version, entry.get("versions", [])))
        if listed or any(_within(version, events) for events in ranges):
            fixed = (str(event["fixed"]) for events in ranges for event in events if "fixed" in event)
            yield Affected(name, version, shown, tuple(text for text in fixed if (_version(text) or version) > version))


def _within(version: Version, events: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a version lies in a range: events in the order of versions, of which the last one below it counts."""
    inside = False
    for kind, bound in sorted(_bounds(events), key=lambda event: event[1]):
        if kind == "introduced" and version >= bound:
            inside = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            inside = False
    return inside


def _bounds(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Version]]:
    for event in events:
        for kind, text in event.items():
            bound = _version("0.dev0" if str(text) == "0" else text)
            if bound is not None:
                yield kind, bound


def _version(text: Any) -> Version | None:
    try:
        return Version(str(text))
    except InvalidVersion:
        return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, metavar="FOLDER|FILE")
    parser.add_argument("--ignore", metavar="ID", action="append", default=[], help="leave this advisory out")
    options = parser.parse_args(arguments)
    here, oldest = installed(), oldest_allowed()
    number, found = 0, set()
    for advisory in advisories(options.place, here.keys() | oldest.keys()):
        number += 1
        if advisory is None or {advisory["id"], *advisory.get("aliases", [])} & set(options.ignore):
            continue
        found |= {f"installed: {one}" for one in affected(advisory, here)}
        found |= {f"allowed by setup.cfg: {one}" for one in affected(advisory, oldest)}
    if not number:
        print(f"{options.place} holds no advisories in the OSV format", file=sys.stderr)
        return 2
    for line in sorted(found):
        print(line)
    looked_at = f"{len(here)} installed packages and {len(oldest)} lower bounds against {number} advisories"
    print(f"Looked at {looked_at}: {len(found)} affected.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
