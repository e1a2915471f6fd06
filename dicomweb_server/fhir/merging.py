"""What a client adds to a view of the archive. Pure.

The rule: an element that the archive knows is never hidden. Of elements with several values, those of the client that
the archive does not have follow its own; of single elements the archive's stands, and the client's shows where the
archive has none. What the archive computes (`OWN`) is not the client's to say; `active` is only assumed by the archive,
so that a client may say otherwise.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from dicomweb_server.fhir.values import Json

OWN: Mapping[str, frozenset[str]] = {
    "ImagingStudy": frozenset({"status", "modality", "subject", "numberOfSeries", "numberOfInstances", "series"}),
    "Patient": frozenset({"gender"}),
    "Endpoint": frozenset({"status", "connectionType", "name", "payloadType", "payloadMimeType", "address"}),
}
ASSUMED = frozenset({"active"})
_META_LISTS = ("profile", "security", "tag")


def merged(view: Json, additions: Mapping[str, Any]) -> Json:
    """The view with what a client added."""
    own = OWN.get(view["resourceType"], frozenset()) | {"resourceType", "id", "meta"}
    found = dict(view)
    for name, value in additions.items():
        if name in own or name.lstrip("_") in own:
            continue
        if name in ASSUMED or name not in found:
            found[name] = value
        elif isinstance(found[name], list) and isinstance(value, list):
            found[name] = joined(found[name], value)
    meta = {name: additions["meta"][name] for name in _META_LISTS if name in (additions.get("meta") or {})}
    if meta:
        found["meta"] = {**meta, **found.get("meta", {})}
    return found


def difference(view: Json, body: Mapping[str, Any]) -> Json:
    """What a client wrote over a view without what the view says itself, so that it does not outlive it there."""
    own = OWN.get(view["resourceType"], frozenset())
    found: Json = {}
    for name, value in body.items():
        known = view.get(name)
        if name in own or name.lstrip("_") in own:
            continue
        if isinstance(value, list) and isinstance(known, list):
            if added := joined(known, value)[len(known) :]:
                found[name] = added
        elif value != known or name in ("resourceType", "id"):
            found[name] = value
    return found


def joined(known: list[Any], added: list[Any]) -> list[Any]:
    """The values of both, without repeating one: identifiers are the same by system and value, references by what they
    refer to, all others by all they say."""
    seen = {_identity(value) for value in known}
    found = list(known)
    for value in added:
        if _identity(value) not in seen:
            seen.add(_identity(value))
            found.append(value)
    return found


def _identity(value: Any) -> bytes:
    if isinstance(value, Mapping):
        if "reference" in value:
            value = {"reference": value["reference"]}
        elif "value" in value and "system" in value:
            value = {"system": value["system"], "value": value["value"]}
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def version_of(resource: Json) -> str:
    """The version id of a view: another one whenever it says something else."""
    content = {name: value for name, value in resource.items() if name != "meta"}
    meta = {name: value for name, value in resource.get("meta", {}).items() if name in _META_LISTS}
    return hashlib.blake2b(orjson.dumps([content, meta], option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
