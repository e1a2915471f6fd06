"""From what the index shows of a study to FHIR R4 resources. Pure: hits of searches go in, JSON comes out.

It follows the DICOM mappings of ImagingStudy (R4) and of Patient. The UIDs,
counts, sets and codes are those of the index; nothing is taken from totals that a file claims.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Any

from dicomweb_server.dicom.attributes import Attributes, patient_key
from dicomweb_server.fhir import values
from dicomweb_server.fhir.body_sites import LATERALITY, body_site
from dicomweb_server.fhir.values import DCM, URI, Json, filled, issued, items, text, texts, uid_identifier
from dicomweb_server.storage.records import Hit

_FUNCTION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
_CONNECTION = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
_GENDERS = {"M": "male", "F": "female", "O": "other"}

DOCUMENT_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
)
"""How the SOP classes begin whose instances have a title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study with what is below it, as the index shows it.

    headers: whole headers by SOP Instance UID, of the instances in `titled_instances` and of the first of each series,
    as far as they are known.
    """

    study: Hit
    series: Sequence[Hit] = ()
    instances: Sequence[Hit] = ()
    headers: Mapping[str, Attributes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What references are made of. patient: the id of a patient by its key; zone: of times in files that tell none."""

    patient: Any
    zone: tzinfo | None = None


def titled_instances(instances: Iterable[Hit]) -> list[str]:
    """The instances whose whole header the resource needs: documents for their title, and the first of each series for
    its specimen and anatomic region."""
    wanted: dict[str, None] = {}
    seen: set[tuple[str | None, str | None]] = set()
    for one in instances:
        place = (one.study_uid, one.series_uid)
        if place not in seen or any(uid.startswith(DOCUMENT_CLASSES) for uid in one.sop_classes):
            wanted[one.instance_uid or ""] = None
        seen.add(place)
    return list(wanted)


def imaging_study(what: Study, names: Names) -> Json:
    """The ImagingStudy; without series when none are given."""
    study, shown = what.study, what.study.attributes
    uid = study.study_uid or ""
    accession = _accession(shown)
    by_series: dict[str, list[Hit]] = defaultdict(list)
    for one in what.instances:
        by_series[one.series_uid or ""].append(one)
    return filled(
        resourceType="ImagingStudy",
        id=uid,
        identifier=[
            uid_identifier(uid),
            *([{"use": "usual", **accession}] if accession else []),
            *({"use": "secondary", "value": study_id} for study_id in texts(shown, "00200010")[:1]),
        ],
        status="available",
        modality=[{"system": DCM, "code": modality} for modality in study.modalities],
        subject=_subject(shown, uid, names),
        encounter=_encounter(shown),
        started=values.moment(shown, "00080020", "00080030", names.zone),
        basedOn=[{"type": "ServiceRequest", "identifier": accession}] if accession else None,
        referrer=next(iter(_people(shown, "00080090", "00080096")), None),
        interpreter=_people(shown, "00081060", "00081062"),
        endpoint=[{"reference": f"Endpoint/{uid}", "type": "Endpoint"}],
        numberOfSeries=study.number_of_series,
        numberOfInstances=study.number_of_instances,
        procedureCode=_procedures(shown),
        reasonCode=_reasons(shown, what.series),
        description=text(shown, "00081030"),
        series=[
            _series(one, by_series.get(one.series_uid or "", ()), what.headers, names)
            for one in sorted(what.series, key=_series_order)
        ],
    )


def _subject(shown: Attributes, study_uid: str, names: Names) -> Json:
    identifier = _patient_identifier(shown)
    return filled(
        reference=f"Patient/{names.patient(patient_key(shown, study_uid))}", type="Patient", identifier=identifier
    )


def _accession(shown: Attributes) -> Json | None:
    number = text(shown, "00080050")
    if not number:
        return None
    return issued(number, issuer=next(items(shown, "00080051"), None), type_="ACSN")


def _encounter(shown: Attributes) -> Json | None:
    number = text(shown, "00380010")
    if not number:
        return None
    issuer = next(items(shown, "00380014"), None)
    identifier = issued(number, issuer=issuer, name=text(shown, "00380011"), type_="VN")
    return {"type": "Encounter", "identifier": identifier}


def _people(shown: Attributes, name_tag: str, identification_tag: str) -> list[Json]:
    """Persons by name, each with the code that the identification sequence has for it."""
    identifications = list(items(shown, identification_tag))
    found = []
    for place, name in enumerate(values.person_names(shown, name_tag)):
        code = next(items(identifications[place], "00401101"), None) if place < len(identifications) else None
        coded = values.coding(code) if code else {}
        identifier = filled(system=coded.get("system"), value=coded.get("code"))
        found.append(filled(type="Practitioner", identifier=identifier, display=name))
    return found


def _procedures(shown: Attributes) -> list[Json]:
    """What was done, or else what was asked for."""
    performed = values.concepts(shown, "00081032") or values.concepts(shown, "00321064")
    if performed:
        return performed
    asked = text(shown, "00321060")
    return [{"text": asked}] if asked else []


def _reasons(shown: Attributes, series: Sequence[Hit]) -> list[Json]:
    found = [*values.concepts(shown, "00401012"), *values.concepts(shown, "00321067")]
    found += [{"text": reason} for reason in texts(shown, "00321066")]
    for one in series:
        for request in items(one.attributes, "00400275"):
            found += values.concepts(request, "0040100A")
            found += [{"text": reason} for reason in texts(request, "00401002")]
    distinct: list[Json] = []
    for reason in found:
        if reason not in distinct:
            distinct.append(reason)
    return distinct


# Series and instances


def _series_order(one: Hit) -> tuple[int, str]:
    number = values.whole_number(one.attributes, "00200011")
    return (2**31 if number is None else number), one.series_uid or ""


def _instance_order(one: Hit) -> tuple[int, str]:
    number = values.whole_number(one.attributes, "00200013")
    return (2**31 if number is None else number), one.instance_uid or ""


def _series(one: Hit, instances: Sequence[Hit], headers: Mapping[str, Attributes], names: Names) -> Json:
    shown = one.attributes
    ordered = sorted(instances, key=_instance_order)
    header = next((headers[i.instance_uid] for i in instances if i.instance_uid and i.instance_uid in headers), {})
    modality = text(shown, "00080060")
    region = next((values.coding(item) for item in items(header, "00082218")), {})
    word = text(shown, "00180015")
    return filled(
        uid=one.series_uid,
        number=values.whole_number(shown, "00200011"),
        # R4 wants a modality of every series: "other" where a broken file has none.
        modality={"system": DCM, "code": modality or "OT"},
        description=text(shown, "0008103E"),
        numberOfInstances=one.number_of_instances,
        bodySite=region if "code" in region else body_site(word) if word else region,
        laterality=LATERALITY.get(text(shown, "00200060")),
        specimen=_specimens(header),
        started=values.moment(shown, "00080021", "00080031", names.zone),
        performer=_performers(shown),
        instance=[_instance(each, headers) for each in ordered],
    )


def _performers(shown: Attributes) -> list[Json]:
    found = []
    for code, name_tag, identification_tag in (("PRF", "00081050", "00081052"), ("SPRF", "00081070", "00081072")):
        function = {"coding": [{"system": _FUNCTION, "code": code}]}
        found += [{"function": function, "actor": actor} for actor in _people(shown, name_tag, identification_tag)]
    institution = text(shown, "00080080")
    if institution:
        found.append({"actor": {"type": "Organization", "display": institution}})
    return found


def _specimens(header: Attributes) -> list[Json]:
    found = []
    for item in items(header, "00400560"):
        number = text(item, "00400551")
        identifier = issued(number, issuer=next(items(item, "00400562"), None)) if number else {}
        uid = text(item, "00400554")
        if not identifier and uid:
            identifier = {"system": values.DICOM_UID, "value": f"urn:oid:{uid}"}
        specimen = filled(type="Specimen", identifier=identifier, display=text(item, "00400600"))
        if identifier:
            found.append(specimen)
    return found


def _instance(one: Hit, headers: Mapping[str, Attributes]) -> Json:
    sop_class = next(iter(one.sop_classes), "")
    title = _title(headers.get(one.instance_uid or "", {})) if sop_class.startswith(DOCUMENT_CLASSES) else ""
    return filled(
        uid=one.instance_uid,
        sopClass={"system": URI, "code": f"urn:oid:{sop_class}"},
        number=values.whole_number(one.attributes, "00200013"),
        title=title,
    )


def _title(header: Attributes) -> str:
    """Document title, concept name of the root, or content label or description, whichever there is."""
    concept = next((text(item, "00080104") for item in items(header, "0040A043")), "")
    return text(header, "00420010") or concept or text(header, "00700081") or text(header, "00700080")


# Patient and Endpoint


def patient(hit: Hit, patient_id: str) -> Json:
    """The Patient of a hit on the level of patients."""
    shown = hit.attributes
    others = [
        issued(number, issuer=next(items(item, "00100024"), None), name=text(item, "00100021"), use="secondary")
        for item in items(shown, "00101002")
        if (number := text(item, "00100020"))
    ]
    own = _patient_identifier(shown)
    return filled(
        resourceType="Patient",
        id=patient_id,
        identifier=[*([own] if own else []), *others],
        active=True,
        name=[
            *values.human_names(shown, "00100010", "official"),
            *values.human_names(shown, "00101001", "old"),
            *values.human_names(shown, "00101005", "maiden"),
        ],
        telecom=[
            {"system": "phone", "value": number} for part in texts(shown, "00102154") for number in part.split("\\")
        ],
        gender=_GENDERS.get(text(shown, "00100040").upper(), "unknown"),
        birthDate=values.date(shown, "00100030"),
        address=_addresses(shown),
    )


def _patient_identifier(shown: Attributes) -> Json:
    number = text(shown, "00100020")
    if not number:
        return {}
    issuer = next(items(shown, "00100024"), None)
    return issued(number, issuer=issuer, name=text(shown, "00100021"), use="usual", type_="MR")


def _addresses(shown: Attributes) -> list[Json]:
    region, country = text(shown, "00102152"), text(shown, "00102150")
    found = [filled(text=address, state=region, country=country) for address in texts(shown, "00101040")]
    return found or ([filled(state=region, country=country)] if region or country else [])


def endpoint(study_uid: str, address: str) -> Json:
    """Where the images of a study are: `address` is the DICOMweb root, to which a client adds /studies/{uid}."""
    return {
        "resourceType": "Endpoint",
        "id": study_uid,
        "identifier": [uid_identifier(study_uid)],
        "status": "active",
        "connectionType": {"system": _CONNECTION, "code": "dicom-wado-rs", "display": "DICOM WADO-RS"},
        "name": "DICOMweb (WADO-RS)",
        "payloadType": [{"text": "DICOM"}],
        "payloadMimeType": ["application/dicom", "application/octet-stream", "image/jpeg", "application/dicom+json"],
        "address": address,
    }


# R5


def to_r5(resource: Json) -> Json:
    """An R4 ImagingStudy in the form of R5: modalities, body sites and performers are of other types there."""
    study = dict(resource)
    study["modality"] = [{"coding": [coding]} for coding in study.pop("modality", ())]
    study["procedure"] = [{"concept": concept} for concept in study.pop("procedureCode", ())]
    study["reason"] = [{"concept": concept} for concept in study.pop("reasonCode", ())]
    study["reason"] += [{"reference": reference} for reference in study.pop("reasonReference", ())]
    if procedure := study.pop("procedureReference", None):
        study["procedure"].append({"reference": procedure})
    interpreters = study.pop("interpreter", ())
    study["series"] = [_series_to_r5(series, interpreters) for series in study.pop("series", ())]
    return filled(**study)


def _series_to_r5(series: Json, interpreters: Sequence[Json]) -> Json:
    """R5 has no interpreter of the study: readers are performers of its series."""
    found = dict(series)
    found["modality"] = {"coding": [series["modality"]]}
    for name in ("bodySite", "laterality"):
        if name not in series:
            continue
        site = series[name]
        concept: dict[str, Any] = {"coding": [site]} if "code" in site else {"text": site.get("display")}
        found[name] = {"concept": concept} if name == "bodySite" else concept
    verifier = {"coding": [{"system": _FUNCTION, "code": "VRF"}]}
    found["performer"] = [
        *series.get("performer", ()),
        *({"function": verifier, "actor": actor} for actor in interpreters),
    ]
    return filled(**found)
