"""The views: resources that are computed from the index when they are asked for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo

import orjson

from dicomweb_server.dicom.attributes import Attributes, patient_key
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import Equal, Term
from dicomweb_server.errors import NotFound
from dicomweb_server.fhir import mapping
from dicomweb_server.fhir.identity import PatientIds
from dicomweb_server.fhir.index.conditions import STUDY_UID, Context, ids_term
from dicomweb_server.fhir.mapping import Names, Study
from dicomweb_server.fhir.merging import merged, version_of
from dicomweb_server.fhir.values import Json, instant
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.query import Query
from dicomweb_server.storage.records import Document, Hit, Scope

LEVELS: Mapping[str, Level] = {"ImagingStudy": Level.STUDY, "Patient": Level.PATIENT, "Endpoint": Level.STUDY}
"""What each type is a view of."""

HEADERS_AT_ONCE = 200
_SPARE = 1000  # what may be stored between two reads


@dataclass(frozen=True, slots=True)
class Address:
    """Where this server is, as the client sees it: the roots of FHIR and of DICOMweb."""

    fhir: str
    dicomweb: str


@dataclass(frozen=True, slots=True)
class Detail:
    """How much of an ImagingStudy is wanted."""

    series: bool = True
    instances: bool = True


WHOLE = Detail()


def additions_kind(kind: str) -> str:
    """The kind of the documents that hold what clients add to views."""
    return f"fhir-{kind}-additions"


class Views:
    """Reads views. `zone` is that of times in files that tell none."""

    def __init__(self, storage: Storage, *, zone: tzinfo | None) -> None:
        self._storage = storage
        self._ids = PatientIds(storage)
        self._names = Names(patient=self._ids.id_of, zone=zone)
        self.zone = zone

    def context(self, address: Address) -> Context:
        """What conditions on the index depend on."""
        return Context(base=address.fhir, digest_of=self._ids.digest_of, zone=self.zone)

    def hit(self, kind: str, resource_id: str) -> Hit:
        """The hit of a view by its id. Raises NotFound."""
        term = ids_term(kind, [resource_id], Context(base="", digest_of=self._ids.digest_of))
        if not term.any_of:
            raise NotFound(f"there is no {kind} with this id")
        hits = self._storage.search(query=Query(level=LEVELS[kind], terms=(term,), limit=1, times=True)).hits
        if not hits:
            raise NotFound(f"there is no {kind} with this id")
        return hits[0]

    def id_of(self, kind: str, hit: Hit) -> str:
        """The id of the resource of a hit."""
        return self._patient_id(hit) if kind == "Patient" else hit.study_uid or ""

    def subject_of(self, hit: Hit) -> str:
        """The id of the patient of a study."""
        return self._ids.id_of(patient_key(hit.attributes, hit.study_uid or ""))

    def _patient_id(self, hit: Hit) -> str:
        return self._ids.id_of(hit.patient_key or "")

    def resources(
        self,
        kind: str,
        hits: Sequence[Hit],
        *,
        additions: Mapping[tuple[str, str], Document],
        address: Address,
        detail: Detail = WHOLE,
    ) -> list[Json]:
        """The resources of hits, in their order, with what clients added."""
        if kind == "ImagingStudy":
            made = self._imaging_studies(hits, detail)
        elif kind == "Patient":
            made = [mapping.patient(hit, self._patient_id(hit)) for hit in hits]
        else:
            made = [mapping.endpoint(hit.study_uid or "", address.dicomweb) for hit in hits]
        return [
            _finished(resource, hit, additions.get((additions_kind(kind), resource["id"])))
            for resource, hit in zip(made, hits, strict=True)
        ]

    # Studies

    def _imaging_studies(self, hits: Sequence[Hit], detail: Detail) -> list[Json]:
        series = self._below(Level.SERIES, hits) if detail.series else {}
        instances = self._below(Level.INSTANCE, hits) if detail.series and detail.instances else {}
        headers = self._headers([one for some in instances.values() for one in some])
        return [
            mapping.imaging_study(
                Study(
                    study=hit,
                    series=series.get(hit.study_uid or "", ()),
                    instances=instances.get(hit.study_uid or "", ()),
                    headers=headers,
                ),
                self._names,
            )
            for hit in hits
        ]

    def _below(self, level: Level, hits: Sequence[Hit]) -> dict[str, list[Hit]]:
        """What is below these studies, by study; one query for all."""
        if not hits:
            return {}
        uids = [hit.study_uid or "" for hit in hits]
        total = sum(hit.number_of_series if level is Level.SERIES else hit.number_of_instances for hit in hits)
        query = Query(
            level=level,
            scope=Scope(study_uid=uids[0]) if len(uids) == 1 else Scope(),
            terms=() if len(uids) == 1 else (Term((STUDY_UID,), "UI", tuple(map(Equal, uids))),),
            limit=total + _SPARE,
        )
        found: dict[str, list[Hit]] = defaultdict(list)
        for hit in self._storage.search(query=query).hits:
            found[hit.study_uid or ""].append(hit)
        return found

    def _headers(self, instances: Sequence[Hit]) -> dict[str, Attributes]:
        wanted = mapping.titled_instances(instances)
        found: dict[str, Attributes] = {}
        for start in range(0, len(wanted), HEADERS_AT_ONCE):
            some = self._storage.metadata_of(instance_uids=wanted[start : start + HEADERS_AT_ONCE])
            found |= {uid: orjson.loads(unpack_metadata(metadata.deflated)) for uid, metadata in some.items()}
        return found


def _finished(view: Json, hit: Hit, additions: Document | None) -> Json:
    """The view with what a client added to it, its version and its time."""
    resource = view if additions is None else merged(view, additions.body)
    times = [time for time in (hit.changed_at, additions.changed_at if additions else None) if time is not None]
    meta = {"versionId": version_of(resource), **({"lastUpdated": instant(max(times))} if times else {})}
    return {
        "resourceType": resource["resourceType"],
        "id": resource["id"],
        **resource,
        "meta": meta | resource.get("meta", {}),
    }
