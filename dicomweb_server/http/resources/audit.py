"""Reading the audit trail."""

from urllib.parse import urlencode

import falcon
import orjson

from dicomweb_server.audit.record import to_audit_event
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.dicom.media import Offer, choose
from dicomweb_server.errors import BadRequest, NotFound
from dicomweb_server.http.params import accepted, query_parameters

JSON, FHIR = "application/json", "application/fhir+json"
MAX_LIMIT = 1000
_CONTROL = frozenset({"since", "until", "limit", "cursor", "accept"})


class AuditResource:
    """`/audit`. `trail` is None where nothing is audited."""

    def __init__(self, trail: AuditTrail | None) -> None:
        self._trail = trail

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Records as JSON, or as a Bundle of AuditEvents; `user`, `study`, `patient`, `action`, `outcome`, `since` and
        `until` choose, `cursor` goes on."""
        if self._trail is None:
            raise NotFound("nothing is audited here (auth.method, audit.enabled)")
        offer = choose(accepted(req), (Offer(JSON), Offer(FHIR)))
        parameters = dict(query_parameters(req))
        limit = parameters.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:6]) <= MAX_LIMIT):
            raise BadRequest(f"limit is a whole number from 1 to {MAX_LIMIT}")
        found, cursor = self._trail.find(
            {name: value for name, value in parameters.items() if name not in _CONTROL},
            since=parameters.get("since", ""),
            until=parameters.get("until", ""),
            limit=int(limit),
            cursor=parameters.get("cursor"),
        )
        resp.set_header("Cache-Control", "no-store")
        resp.content_type = offer.media
        if offer.media == FHIR:
            entries = [{"resource": to_audit_event(record, event_id=name[:64])} for name, record in found]
            url = req.context.address.root + req.path
            links = [{"relation": "self", "url": f"{url}?{urlencode(parameters)}" if parameters else url}]
            if cursor is not None:
                links.append({"relation": "next", "url": f"{url}?{urlencode({**parameters, 'cursor': cursor})}"})
            bundle = {"resourceType": "Bundle", "type": "searchset", "link": links}
            resp.data = orjson.dumps(bundle | ({"entry": entries} if entries else {}))
        else:
            records = [record.as_json() for _, record in found]
            resp.data = orjson.dumps({"records": records, "cursor": cursor})
