"""The recycle bin over HTTP (an extension): list, restore, purge."""

from collections.abc import Callable, Mapping
from typing import Any

import falcon
import orjson

from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest
from dicomweb_server.http.forms import read_fields
from dicomweb_server.http.params import first_parameter
from dicomweb_server.services.recycle import RecycleBin, moment_of, shown
from dicomweb_server.storage.records import Scope

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
UIDS = ("study_uid", "series_uid", "instance_uid")


class RecycleBinResource:
    """What was removed, and is not yet gone. `released` is told when files can be deleted."""

    def __init__(self, recycle_bin: RecycleBin, *, released: Callable[[], None]) -> None:
        self._bin = recycle_bin
        self._released = released

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """A page of the bin, in the order of removal."""
        scope = _scope({name: first_parameter(req, name) for name in UIDS})
        before = moment_of(first_parameter(req, "before"))
        page = self._bin.page(
            scope=scope, before=before, limit=_limit(req), cursor=first_parameter(req, "cursor") or None
        )
        entries = [
            {
                "study_uid": entry.instance.study_uid,
                "series_uid": entry.instance.series_uid,
                "instance_uid": entry.instance.instance_uid,
                "removed_at": entry.binned_at.isoformat(timespec="milliseconds"),
                "size_bytes": entry.instance.blob.size_bytes,
                "attributes": shown(entry),
            }
            for entry in page.entries
        ]
        _send(resp, {"entries": entries, "next": page.cursor})

    def on_post_restore(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Bring back what the UIDs name; or, of what is stored, the version before."""
        fields = _fields(req, (*UIDS, "replaced"))
        scope = _scope(fields)
        if scope.level is None:
            raise BadRequest("name a study_uid, series_uid or instance_uid to restore")
        if _means_replaced(fields):
            _send(resp, {"restored": self._bin.restore_previous(scope=scope)})
            return
        done = self._bin.restore(scope=scope)
        conflicts = [
            {"study_uid": one.study_uid, "series_uid": one.series_uid, "instance_uid": one.instance_uid}
            for one in done.named
        ]
        _send(resp, {"restored": done.restored, "stored_again": done.conflicts, "instances_stored_again": conflicts})

    def on_post_purge(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Give up for good what the UIDs name, or what was removed before a time, or all; or older versions of what is
        stored."""
        fields = _fields(req, (*UIDS, "before", "all", "replaced"))
        scope, before = _scope(fields), moment_of(fields.get("before"))
        if scope.level is None and before is None and fields.get("all") != "true":
            raise BadRequest('name a study_uid, series_uid, instance_uid or before to purge, or say {"all": true}')
        purge = self._bin.purge_replaced if _means_replaced(fields) else self._bin.purge
        purged = purge(scope=scope, before=before)
        self._released()
        _send(resp, {"purged": purged})


def _scope(values: Mapping[str, str | None]) -> Scope:
    uids = {name: values.get(name) or None for name in UIDS}
    for name, uid in uids.items():
        if uid is not None and not is_uid(uid):
            raise BadRequest(f"{name} is a UID: digits and dots, at most 64 characters")
    return Scope(**uids)


def _means_replaced(fields: Mapping[str, str]) -> bool:
    """Whether older versions of what is stored are meant, not the bin."""
    text = fields.get("replaced") or "false"
    if text not in ("true", "false"):
        raise BadRequest("replaced is true or false")
    return text == "true"


def _limit(req: falcon.Request) -> int:
    text = first_parameter(req, "limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdigit() and len(text) < 10) or not 1 <= int(text) <= MAX_LIMIT:
        raise BadRequest(f"limit is a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def _fields(req: falcon.Request, names: tuple[str, ...]) -> Mapping[str, str]:
    fields = read_fields(req)
    if unknown := sorted(set(fields) - set(names)):
        raise BadRequest(f"there is no field {unknown[0]!r} here; there is {', '.join(names)}")
    return fields


def _send(resp: falcon.Response, answer: dict[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "private, no-store")
    resp.data = orjson.dumps(answer)
