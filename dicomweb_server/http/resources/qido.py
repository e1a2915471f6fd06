"""Search, QIDO-RS (PS3.18 10.6)."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import falcon
import orjson

from dicomweb_server.dicom.attributes import keyword_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.media import Offer, choose
from dicomweb_server.dicom.native_xml import to_native_xml
from dicomweb_server.http.answers import JSON, XML, send_json_list, send_xml_parts, warn
from dicomweb_server.http.params import accepted, entity_url, query_parameters, scope_of
from dicomweb_server.services.search import Found, Search
from dicomweb_server.storage.records import Hit, Scope

_OFFERS = (Offer(JSON), Offer(XML, multipart=True), Offer("text/csv"))


class SearchResource:
    """A collection of patients, studies, series or instances, as a whole or below a study or series."""

    def __init__(self, search: Search, *, empty_status: int) -> None:
        self._search = search
        self._empty_status = empty_status

    def on_get_patients(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Search for patients (an extension)."""
        self._answer(req, resp, Level.PATIENT, Scope())

    def on_get_studies(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Search for studies."""
        self._answer(req, resp, Level.STUDY, Scope())

    def on_get_series(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Search for series, everywhere or in a study."""
        self._answer(req, resp, Level.SERIES, scope_of(**uids))

    def on_get_instances(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Search for instances, everywhere, in a study or in a series."""
        self._answer(req, resp, Level.INSTANCE, scope_of(**uids))

    def _answer(self, req: falcon.Request, resp: falcon.Response, level: Level, scope: Scope) -> None:
        offer = choose(accepted(req), _OFFERS)
        plan = self._search.plan(level=level, scope=scope, parameters=query_parameters(req))
        found = self._search.run(plan)
        warn(resp, found.warnings)
        resp.set_header("Cache-Control", "private, no-store")
        resp.append_header("Vary", "Accept")
        if not found.count and self._empty_status == 204:
            resp.status = 204
            return
        items = _with_urls(found, req.context.address.dicomweb)
        if offer.media == XML:
            send_xml_parts(resp, (to_native_xml(item) for item in items))
        elif offer.media == "text/csv":
            resp.content_type = "text/csv; charset=utf-8"
            resp.stream = _csv(items)
        else:
            send_json_list(req, resp, map(orjson.dumps, items), media=offer.media)


def _with_urls(found: Found, base: str) -> Iterator[dict[str, Any]]:
    for hit, item in found.items:
        item["00081190"] = {"vr": "UR", "Value": [_url(hit, base)]}
        for value in item.values():
            if "BulkDataURI" in value:
                value["BulkDataURI"] = base + value["BulkDataURI"]
        yield dict(sorted(item.items()))


def _url(hit: Hit, base: str) -> str:
    if hit.study_uid is None:
        return f"{base}/patients"
    return entity_url(base, Scope(study_uid=hit.study_uid, series_uid=hit.series_uid, instance_uid=hit.instance_uid))


def _csv(items: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """A header line of keywords, then a line per hit; columns are those of the first hits that came together."""
    columns: list[str] = []
    out = io.StringIO()
    writer = csv.writer(out)
    for item in items:
        if not columns:
            columns = list(item)
            writer.writerow([keyword_of(tag) or tag for tag in columns])
        writer.writerow([_cell(item.get(tag, {})) for tag in columns])
        yield out.getvalue().encode()
        out.seek(0)
        out.truncate()


def _cell(element: dict[str, Any]) -> str:
    values = []
    for value in element.get("Value", []):
        if isinstance(value, dict):
            groups = [value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
            values.append("=".join(groups).rstrip("="))
        else:
            values.append("" if value is None else str(value))
    text = "\\".join(values) if element.get("vr") != "SQ" else f"{len(values)} item(s)" if values else ""
    # A spreadsheet runs a cell that begins like a formula.
    return f"'{text}" if text[:1] in ("=", "+", "@") or (text[:1] == "-" and not _is_number(text)) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
