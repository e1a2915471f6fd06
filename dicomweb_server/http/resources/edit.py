"""Editing over HTTP (an extension): attributes of a study or series, patients who are one, a series to move."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import falcon
import orjson

from dicomweb_server.dicom.uids import is_uid
from dicomweb_server.errors import BadRequest, PreconditionFailed, UnsupportedMedia
from dicomweb_server.http.conditional import etag_matches
from dicomweb_server.http.forms import payload
from dicomweb_server.http.params import first_parameter, scope_of, truth
from dicomweb_server.http.resources.metadata import metadata_tags
from dicomweb_server.permissions import Permission
from dicomweb_server.services.edit import Cause, Edit, PatientName
from dicomweb_server.services.edit_intents import Intent
from dicomweb_server.storage.records import Scope

TAKES = ("application/json", "application/dicom+json")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_CAUSE = ("reason", "code", "dry_run")


class EditResource:
    """Changes what is stored; the versions before are kept."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit

    def on_patch(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """Other values for attributes of a study or series: {"reason": ..., "attributes": DICOM JSON}, or the
        DICOM JSON alone with the reason in the query."""
        scope = scope_of(**uids)
        body = _body(req, ("attributes",), bare=True)
        intent = self._edit.attributes(scope, _attributes(body, required=True), _cause(req, body))
        self._carry_out(req, resp, intent, body, check=lambda: self._check(req, scope))
        resp.set_header("ETag", f'"{self._edit.version(scope)}"')

    def on_post_merge(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All studies of the source patient become those of the target."""
        body = _body(req, ("source", "target"))
        source = _patient(body, "source")
        req.context.audited_patient = source.patient_id[:64]  # afterwards nobody could tell
        intent = self._edit.merge(source, _patient(body, "target"), _cause(req, body))
        self._carry_out(req, resp, intent, body)

    def on_post_move(self, req: falcon.Request, resp: falcon.Response, **uids: str) -> None:
        """A series goes to another study, a new one where no UID is given."""
        scope = scope_of(**uids)
        body = _body(req, ("study_uid", "attributes"))
        target = body.get("study_uid")
        if target is not None and not (isinstance(target, str) and is_uid(target)):
            raise BadRequest("study_uid is the UID of the target study: digits and dots, at most 64 characters")
        intent = self._edit.move(scope, target, _attributes(body, required=False), _cause(req, body))
        answer = {"study_uid": intent.task.study_uid_after(scope)}
        self._carry_out(req, resp, intent, body, more=answer, check=lambda: self._check(req, scope))

    def on_get(self, _req: falcon.Request, resp: falcon.Response, study_uid: str) -> None:
        """The edits of a study, oldest first; no values."""
        scope = scope_of(study_uid=study_uid)
        _send(resp, {"edits": self._edit.history(study_uid)})
        resp.set_header("ETag", f'"{self._edit.version(scope)}"')

    def _carry_out(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        intent: Intent,
        body: Mapping[str, Any],
        *,
        more: Mapping[str, Any] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        dry_run = body.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise BadRequest("dry_run is true or false")
        req.context.studies = intent.studies
        if dry_run:
            req.context.audited_as = Permission.RETRIEVE  # it reads, and changes nothing
        report = self._edit.survey(intent, check=check) if dry_run else self._edit.run(intent, check=check)
        answer = {
            "edited": report.edited,
            "unchanged": report.unchanged,
            "failed": report.failures,
            "failures": [{"instance_uid": uid, "reason": reason} for uid, reason in report.failed],
            "studies": intent.studies,
            **(more or {}),
        }
        _send(resp, answer | ({"dry_run": True} if dry_run else {}))

    def _check(self, req: falcon.Request, scope: Scope) -> None:
        """If-Match has an entity tag of an edit, of the list of edits, or of the metadata."""
        asked = req.get_header("If-Match")
        if asked is None:
            return
        version = self._edit.version(scope)
        if not any(etag_matches(asked, tag) for tag in (f'"{version}"', *metadata_tags(req, version))):
            raise PreconditionFailed("it has changed since: read it again, and edit what is there now")


def _body(req: falcon.Request, names: tuple[str, ...], *, bare: bool = False) -> Mapping[str, Any]:
    kind = (req.content_type or "").partition(";")[0].strip().lower()
    data = payload(req)
    if kind not in TAKES and (data or kind):
        raise UnsupportedMedia(f"the payload is {' or '.join(TAKES)}")
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadRequest("the payload is no JSON") from None
    if bare and _is_data_set(body):
        texts = {name: first_parameter(req, name) for name in ("reason", "code")}
        given = {name: text for name, text in texts.items() if text is not None}
        return {"attributes": body, "dry_run": truth(req, "dry_run"), **given}
    known = (*names, *_CAUSE)
    if not isinstance(body, dict):
        raise BadRequest(f"the payload is a JSON object with {', '.join(known)}")
    if unknown := sorted(set(body) - set(known)):
        raise BadRequest(f"there is no field {unknown[0][:64]!r} here; there is {', '.join(known)}")
    return body


def _is_data_set(body: Any) -> bool:
    """Whether it is DICOM JSON without anything around it: tags, as an object or a list of one."""
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    return isinstance(body, dict) and bool(body) and all(_TAG.fullmatch(name) for name in body)


def _cause(req: falcon.Request, body: Mapping[str, Any]) -> Cause:
    reason, code = body.get("reason", ""), body.get("code", "CORRECT")
    cause = Cause(
        reason=reason if isinstance(reason, str) else "",
        code=code if isinstance(code, str) else "",
        user=req.context.identity.name,
    )
    req.context.reason = cause.reason.strip()
    return cause


def _attributes(body: Mapping[str, Any], *, required: bool) -> Mapping[str, Any]:
    found = body.get("attributes")
    if isinstance(found, list) and len(found) == 1:
        (found,) = found  # DICOM JSON is a list of data sets
    if found is None and not required:
        return {}
    if not isinstance(found, dict):
        raise BadRequest('attributes is a data set in DICOM JSON: {"00100010": {"vr": "PN", "Value": [...]}}')
    return found


def _patient(body: Mapping[str, Any], role: str) -> PatientName:
    found = body.get(role)
    texts = found if isinstance(found, dict) else {}
    patient_id, issuer = texts.get("patient_id"), texts.get("issuer")
    if not isinstance(patient_id, str) or not isinstance(issuer, str | None) or set(texts) - {"patient_id", "issuer"}:
        raise BadRequest(f'{role} is {{"patient_id": ..., "issuer": ...}}; the issuer only where there are several')
    return PatientName(patient_id=patient_id, issuer=issuer)


def _send(resp: falcon.Response, answer: Mapping[str, Any]) -> None:
    resp.content_type = "application/json"
    resp.set_header("Cache-Control", "private, no-store")
    resp.data = orjson.dumps(answer)
