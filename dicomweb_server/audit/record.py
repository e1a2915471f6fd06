"""One entry of the audit trail, and the three forms in which others read it: JSON, a DICOM audit message (PS3.15 A.5),
a FHIR AuditEvent."""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

SUCCESS, DENIED, FAILED = "success", "denied", "failed"
_DCM = "DCM"
_SOURCE = "dicomweb-server"

# PS3.15 A.5.1: event, and its kind of action (create, read, update, delete, execute).
_EVENTS: Mapping[str, tuple[str, str, str]] = {
    "login": ("110114", "User Authentication", "E"),
    "logout": ("110114", "User Authentication", "E"),
    "search": ("110112", "Query", "E"),
    "retrieve": ("110103", "DICOM Instances Accessed", "R"),
    "store": ("110104", "DICOM Instances Transferred", "C"),
    "edit": ("110103", "DICOM Instances Accessed", "U"),
    "delete": ("110103", "DICOM Instances Accessed", "D"),
    "restore": ("110103", "DICOM Instances Accessed", "C"),
    "share": ("110106", "Export", "R"),
    "admin": ("110113", "Security Alert", "E"),
    "audit": ("110101", "Audit Log Used", "R"),
}
_STUDY_DELETED = ("110105", "DICOM Study Deleted", "D")
_ALERT = ("110113", "Security Alert", "E")
_TYPES: Mapping[str, tuple[str, str]] = {
    "login": ("110122", "Login"),
    "logout": ("110123", "Logout"),
    "admin": ("110137", "User Security Attributes Changed"),
}
_APPLICATION = ("110150", "Application")
_SOURCE_ROLE, _DESTINATION_ROLE = ("110153", "Source Role ID"), ("110152", "Destination Role ID")
_PROGRAMS = frozenset({"key", "server"})
# Of who asks and of the server (PS3.15 A.5.3.6, A.5.3.7, A.5.3.10).
_ROLES: Mapping[str, tuple[tuple[str, str] | None, tuple[str, str] | None]] = {
    "search": (_SOURCE_ROLE, _DESTINATION_ROLE),
    "store": (_SOURCE_ROLE, _DESTINATION_ROLE),
    "share": (_SOURCE_ROLE, None),
}
_RESTRICTED = ("110132", "Use of Restricted Function")
_OUTCOMES = {SUCCESS: "0", DENIED: "4", FAILED: "8"}


# Control characters, and those that turn the direction of what follows.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """What somebody did, or tried.

    time: UTC, as ISO 8601 with milliseconds; of reads the first of the minute. count: how many requests it stands for.
    what: method and route. object_id: what an administrator changed. reason: why, in the words of who edited.
    """

    time: str
    action: str
    user: str
    kind: str
    address: str
    outcome: str
    what: str
    study_uid: str = ""
    series_uid: str = ""
    patient_id: str = ""
    object_id: str = ""
    status: int = 0
    count: int = 1
    request_id: str = ""
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def plain(record: AuditRecord) -> AuditRecord:
    """The record without characters that XML cannot hold, and that terminals obey: names that were tried, and what
    stands in URLs, is what strangers sent."""
    texts = {name: value for name, value in asdict(record).items() if isinstance(value, str)}
    found: dict[str, Any] = {
        name: _OBEYED.sub("\ufffd", value) for name, value in texts.items() if _OBEYED.search(value)
    }
    return replace(record, **found) if found else record


def _event(record: AuditRecord) -> tuple[str, str, str]:
    if record.outcome == DENIED and record.action not in ("login", "logout"):
        return _ALERT
    if record.action == "delete" and record.study_uid and not record.series_uid:
        return _STUDY_DELETED
    return _EVENTS.get(record.action, _ALERT)


def _type(record: AuditRecord) -> tuple[str, str] | None:
    if record.outcome == DENIED and record.action not in ("login", "logout"):
        return _RESTRICTED
    return _TYPES.get(record.action)


def to_message(record: AuditRecord, *, host: str) -> bytes:
    """The AuditMessage in XML (PS3.15 A.5.1)."""
    record = plain(record)
    code, meaning, action = _event(record)
    root = Element("AuditMessage")
    event = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=record.time,
        EventOutcomeIndicator=_OUTCOMES[record.outcome],
    )
    _coded(event, "EventID", code, meaning)
    if (kind := _type(record)) is not None:
        _coded(event, "EventTypeCode", *kind)
    theirs, ours = _ROLES.get(record.action, (None, None)) if record.outcome != DENIED else (None, None)
    who = {"UserID": record.user or "anonymous", "UserIsRequestor": "true"}
    if record.address:
        who |= {"NetworkAccessPointID": record.address, "NetworkAccessPointTypeCode": "2"}
    _participant(root, who, theirs or (_APPLICATION if record.kind in _PROGRAMS else None))
    server = {"UserID": _SOURCE, "UserIsRequestor": "false", "NetworkAccessPointID": host}
    _participant(root, {**server, "NetworkAccessPointTypeCode": "1"}, ours)
    source = SubElement(root, "AuditSourceIdentification", AuditSourceID=_SOURCE)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    for uid, kind_of in (
        (record.study_uid, ("110180", "Study Instance UID")),
        (record.series_uid, ("113015", "Series")),
    ):
        if uid:
            found = SubElement(
                root,
                "ParticipantObjectIdentification",
                ParticipantObjectID=uid,
                ParticipantObjectTypeCode="2",
                ParticipantObjectTypeCodeRole="3",
            )
            _coded(found, "ParticipantObjectIDTypeCode", *kind_of)
            if record.reason:
                value = b64encode(record.reason.encode()).decode()
                SubElement(found, "ParticipantObjectDetail", type="Reason", value=value)
    if record.patient_id:
        found = SubElement(
            root,
            "ParticipantObjectIdentification",
            ParticipantObjectID=record.patient_id,
            ParticipantObjectTypeCode="1",
            ParticipantObjectTypeCodeRole="1",
        )
        SubElement(
            found,
            "ParticipantObjectIDTypeCode",
            {"csd-code": "2", "codeSystemName": "RFC-3881", "originalText": "Patient Number"},
        )
    message: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return message


def _participant(root: Element, attributes: dict[str, str], role: tuple[str, str] | None) -> None:
    found = SubElement(root, "ActiveParticipant", attributes)
    if role is not None:
        _coded(found, "RoleIDCode", *role)


def _coded(parent: Element, name: str, code: str, meaning: str) -> None:
    SubElement(parent, name, {"csd-code": code, "codeSystemName": _DCM, "originalText": meaning})


def to_audit_event(record: AuditRecord, *, event_id: str) -> dict[str, Any]:
    """The AuditEvent of FHIR R4."""
    record = plain(record)
    code, meaning, action = _event(record)
    entities: list[dict[str, Any]] = []
    if record.study_uid:
        entities.append(
            {
                "what": {"identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{record.study_uid}"}},
                "type": _coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "2", "System Object"),
            }
        )
    if record.patient_id:
        entities.append(
            {
                "what": {"identifier": {"value": record.patient_id}},
                "type": _coding("http://terminology.hl7.org/CodeSystem/audit-entity-type", "1", "Person"),
            }
        )
    agent: dict[str, Any] = {"who": {"identifier": {"value": record.user or "anonymous"}}, "requestor": True}
    if record.address:
        agent["network"] = {"address": record.address, "type": "2"}
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": event_id,
        "type": _coding("http://dicom.nema.org/resources/ontology/DCM", code, meaning),
        "action": action,
        "recorded": record.time,
        "outcome": _OUTCOMES[record.outcome],
        "agent": [agent],
        "source": {"observer": {"display": _SOURCE}},
    }
    if (kind := _type(record)) is not None:
        event["subtype"] = [_coding("http://dicom.nema.org/resources/ontology/DCM", *kind)]
    if record.reason:
        event["purposeOfEvent"] = [{"text": record.reason}]
    return event | ({"entity": entities} if entities else {})


def _coding(system: str, code: str, display: str) -> dict[str, str]:
    return {"system": system, "code": code, "display": display}
