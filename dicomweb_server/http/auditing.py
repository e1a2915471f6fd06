"""What the guard saw, as records of the audit trail."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import falcon

from dicomweb_server.audit.record import DENIED, FAILED, SUCCESS, AuditRecord
from dicomweb_server.audit.trail import AuditTrail
from dicomweb_server.auth.rights import Identity
from dicomweb_server.errors import Forbidden
from dicomweb_server.http.table import Operation
from dicomweb_server.permissions import Permission

# Public routes that let somebody in or out.
_LOGINS = {
    "login.on_post": "login",
    "login.on_post_legacy_token": "login",
    "login.on_get_callback": "login",
    "login.on_post_refresh": "login",
    "login.on_get_share": "login",
    "login.on_logout": "logout",
    "users.on_post_register": "admin",
}
_OBJECTS = ("name", "key_id", "share_id", "resource_id")
_CHANGES = frozenset({Permission.DELETE, Permission.EDIT})
_DENIALS = frozenset({401, 403, 429})


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a request that asks for several things: what it does to which resource, and what became of it."""

    permission: Permission
    resource: str
    study_uid: str
    patient_id: str
    outcome: str


def step(req: falcon.Request, permission: Permission, kind: str, resource_id: str) -> AbstractContextManager[None]:
    """While a part of a request is done that has a record of its own: a write to a FHIR resource ("" for a new one)."""
    told = getattr(req.context, "audit_step", None)
    found: AbstractContextManager[None] = told(permission, kind, resource_id) if told else nullcontext()
    return found


class AuditWitness:
    """Writes a record for each request that touches data of patients, rights, or is denied."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    def sees_coming(self, req: falcon.Request, operation: Operation) -> None:
        """Whose data is about to go: afterwards nobody could tell."""
        study_uid = _study_of(getattr(req.context, "fields", {}))
        if operation.permission in _CHANGES and study_uid:
            req.context.audited_patient = self._trail.patient_of(study_uid)
        steps: list[_Step] = []

        @contextmanager
        def told(permission: Permission, kind: str, resource_id: str) -> Iterator[None]:
            study_uid = resource_id if kind == "ImagingStudy" else ""
            patient = self._trail.patient_of(study_uid) if study_uid and permission is Permission.DELETE else ""
            outcome = FAILED
            try:
                yield
                outcome = SUCCESS
            except Forbidden:
                outcome = DENIED
                raise
            finally:
                steps.append(_Step(permission, f"{kind}/{resource_id}".rstrip("/"), study_uid, patient, outcome))

        req.context.audit_steps, req.context.audit_step = steps, told

    def saw(self, req: falcon.Request, resp: falcon.Response, identity: Identity, operation: Operation) -> None:
        """Note it; of what was stored, one record for each study."""
        context = req.context
        action = _LOGINS.get(operation.responder)
        denied = resp.status_code in _DENIALS
        if denied and identity.is_anonymous and getattr(context, "password_tried", False):
            action = action or "login"  # with HTTP Basic
        if action is None and operation.permission is Permission.PUBLIC:
            return
        if operation.permission is Permission.METRICS and not denied:
            return
        fields = getattr(context, "fields", {})
        outcome = DENIED if denied else SUCCESS if resp.status_code < 400 else FAILED
        whole = AuditRecord(
            time=self._trail.now(),
            action=action or str(getattr(context, "audited_as", operation.permission)),
            user=identity.name,
            kind=identity.kind,
            address=context.client_address,
            outcome=outcome,
            what=f"{req.env.get('dicomweb.method', req.method)} {req.uri_template or ''}{_note(context)}",
            series_uid=fields.get("series_uid", "")[:64] if outcome == SUCCESS else "",
            patient_id=getattr(context, "audited_patient", ""),
            object_id=next((fields[name] for name in _OBJECTS if fields.get(name)), "")[:128],
            status=resp.status_code,
            request_id=context.request_id,
            reason=getattr(context, "reason", ""),
        )
        for study_uid in getattr(context, "studies", ()) or (_study_of(fields),):
            self._trail.note(replace(whole, study_uid=study_uid[:64]))
        for one in getattr(context, "audit_steps", ()):
            self._trail.note(
                replace(
                    whole,
                    action=str(one.permission),
                    outcome=FAILED if outcome != SUCCESS and one.outcome == SUCCESS else one.outcome,
                    study_uid=one.study_uid[:64],
                    patient_id=one.patient_id,
                    object_id=one.resource[:128],
                )
            )


def _note(context: object) -> str:
    return " (dry run)" if hasattr(context, "audited_as") else ""


def _study_of(fields: Mapping[str, str]) -> str:
    """The study that a URL names; an ImagingStudy of FHIR has its UID."""
    named = fields.get("study_uid", "")
    return fields.get("resource_id", "") if not named and fields.get("kind") == "ImagingStudy" else named
