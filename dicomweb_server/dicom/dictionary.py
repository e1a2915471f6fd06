"""The data dictionary (PS3.6) and the private ones, as pydicom has them.

Only its tables are loaded: `import pydicom` would import NumPy and every decoder that is installed, half a second and
30 MB for each process that reads a header.
"""

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, Final

_Entry = tuple[str, str, str, str, str]  # VR, VM, name, "Retired" or "", keyword


def _table(name: str, attribute: str) -> Any:
    """A table of a module of pydicom, which is loaded without the package around it."""
    package = importlib.util.find_spec("pydicom")
    for folder in (package.submodule_search_locations or ()) if package else ():
        place = Path(folder, f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"{__name__}.{name}", place) if place.exists() else None
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return getattr(module, attribute)
    return getattr(importlib.import_module(f"pydicom.{name}"), attribute)


_PUBLIC: Final[dict[int, _Entry]] = _table("_dicom_dict", "DicomDictionary")
_REPEATING: Final[dict[str, _Entry]] = _table("_dicom_dict", "RepeatersDictionary")
_MASKS: Final = tuple(
    (int(pattern.replace("x", "0"), 16), int("".join("0" if digit == "x" else "F" for digit in pattern), 16), entry)
    for pattern, entry in _REPEATING.items()
)

TAGS: Final[dict[str, int]] = {entry[4]: tag for tag, entry in _PUBLIC.items() if entry[4]}
"""Tags by keyword."""


def public_keyword(tag: int) -> str:
    """The keyword of a tag that is no repeating group's; "" where there is none."""
    entry = _PUBLIC.get(tag)
    return entry[4] if entry else ""


def keyword(tag: int) -> str:
    """The keyword of a tag, also of repeating groups; "" where there is none."""
    entry = _entry(tag)
    return entry[4] if entry else ""


def vr(tag: int) -> str | None:
    """The VR of a public tag, "US or SS" and the like where it depends; None for an unknown one."""
    entry = _entry(tag)
    return entry[0] if entry else None


def private_vr(tag: int, creator: str) -> str | None:
    """The VR of a private tag (PS3.5 7.8.1), whatever block its creator reserved; None for an unknown one."""
    known = _private().get(creator)
    if known is None:
        return None
    group, element = f"{tag >> 16:04X}", f"{tag & 0xFFFF:04X}"
    for key in (f"{group}{element}", f"{group}xx{element[2:]}", f"{group[:2]}xxxx{element[2:]}"):
        if key in known:
            return known[key][0]
    return None


def _entry(tag: int) -> _Entry | None:
    entry = _PUBLIC.get(tag)
    if entry is None and not tag & 0x10000:
        return next((repeating for value, mask, repeating in _MASKS if (tag ^ value) & mask == 0), None)
    return entry


@cache
def _private() -> dict[str, dict[str, tuple[str, str, str, str]]]:
    found: dict[str, dict[str, tuple[str, str, str, str]]] = _table("_private_dict", "private_dictionaries")
    return found
