"""Reading: a resource by its id, its versions, and searches with what comes along with them."""

from collections.abc import Mapping, Sequence

from dicomweb_server.errors import Gone, NotFound
from dicomweb_server.fhir import bundles, matching
from dicomweb_server.fhir.documents import Documents, kind_of, resource_of
from dicomweb_server.fhir.requests import Include, SearchRequest
from dicomweb_server.fhir.search import Row, Search
from dicomweb_server.fhir.selection import detail_of, selected
from dicomweb_server.fhir.tables import VIEWS
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import WHOLE, Address, Detail, Views, additions_kind
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.records import Document, Hit

MAX_INCLUDED = 1000
MAX_ROUNDS = 3
_WITHOUT_INSTANCES = Detail(series=True, instances=False)


class Reading:
    """Reads and searches."""

    def __init__(self, storage: Storage, views: Views, documents: Documents, search: Search) -> None:
        self._storage = storage
        self._views = views
        self._documents = documents
        self._search = search

    def read(self, kind: str, resource_id: str, address: Address, detail: Detail = WHOLE) -> Json:
        """The resource. Raises NotFound, Gone for one that was deleted."""
        if kind in VIEWS:
            try:
                return self._view(kind, resource_id, address, detail)
            except NotFound:
                if kind == "ImagingStudy":
                    raise
        try:
            return resource_of(self._storage.get_document(kind=kind_of(kind), document_id=resource_id))
        except NotFound:
            if self._storage.document_history(kind=kind_of(kind), document_id=resource_id):
                raise Gone(f"this {kind} was deleted") from None
            raise NotFound(f"there is no {kind} with this id") from None

    def is_view(self, kind: str, resource_id: str) -> bool:
        """Whether the archive has this resource itself."""
        if kind not in VIEWS:
            return False
        try:
            self._views.hit(kind, resource_id)
        except NotFound:
            return False
        return True

    def _view(self, kind: str, resource_id: str, address: Address, detail: Detail) -> Json:
        hit = self._views.hit(kind, resource_id)
        additions = self._documents.of([(additions_kind(kind), resource_id)])
        return self._views.resources(kind, [hit], additions=additions, address=address, detail=detail)[0]

    def without_additions(self, kind: str, resource_id: str, address: Address) -> Json:
        """A view as the archive alone has it, without series. Raises NotFound."""
        hit = self._views.hit(kind, resource_id)
        bare = Detail(series=False, instances=False)
        return self._views.resources(kind, [hit], additions={}, address=address, detail=bare)[0]

    def version(self, kind: str, resource_id: str, version: str, address: Address) -> Json:
        """A version of a resource; of a view only the current one. Raises NotFound."""
        if self.is_view(kind, resource_id):
            current = self.read(kind, resource_id, address)
            if current["meta"]["versionId"] == version:
                return current
            raise NotFound("a view of the archive has its current version only")
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise NotFound("the resource has no such version")
        document = self._storage.get_document(kind=kind_of(kind), document_id=resource_id, version=int(version))
        if document.deleted:
            raise Gone("this version is a deletion")
        return resource_of(document)

    def history(self, kind: str, resource_id: str, address: Address) -> Json:
        """All versions, newest first, as a Bundle. Raises NotFound."""
        if self.is_view(kind, resource_id):
            current = self.read(kind, resource_id, address)
            entry = {
                "fullUrl": f"{address.fhir}/{kind}/{resource_id}",
                "resource": current,
                "request": {"method": "PUT", "url": f"{kind}/{resource_id}"},
                "response": {"status": "200", "etag": bundles.etag(current["meta"]["versionId"])},
            }
            return bundles.history(kind, address.fhir, [entry], total=1)
        documents = self._storage.document_history(kind=kind_of(kind), document_id=resource_id)
        if not documents:
            raise NotFound(f"there is no {kind} with this id")
        entries = [
            bundles.version_entry(
                address.fhir,
                kind,
                resource_id,
                None if document.deleted else resource_of(document),
                document.version,
                document.changed_at,
            )
            for document in documents
        ]
        return bundles.history(kind, address.fhir, entries, total=len(entries))

    # Search

    def search(self, request: SearchRequest, address: Address) -> Json:
        """The Bundle of a search."""
        found = self._search.run(request, address)
        detail = detail_of(request)
        # What is included of studies follows from their hits, so that the additions of all can be read at once.
        patients = self._patients_to_include(request, found.rows)
        additions = self._additions(request.kind, found.rows, patients)
        matches = self._resources(found.rows, additions, address, detail)
        included = self._included(request, found.rows, matches, patients, additions, address)
        return bundles.searchset(
            request,
            base=address.fhir,
            matches=[selected(resource, request) for resource in matches],
            included=included,
            outcome=None,
            total=found.total,
            more=found.more,
        )

    def _patients_to_include(self, request: SearchRequest, rows: Sequence[Row]) -> list[str]:
        if not any(include.target == "Patient" for include in request.includes if include.source == "ImagingStudy"):
            return []
        studies = (row.hit for row in rows if row.kind == "ImagingStudy" and row.hit is not None)
        return list(dict.fromkeys(self._views.subject_of(hit) for hit in studies))

    def _additions(self, kind: str, rows: Sequence[Row], patients: Sequence[str]) -> Mapping[tuple[str, str], Document]:
        names = [(additions_kind(kind), self._views.id_of(kind, row.hit)) for row in rows if row.hit is not None]
        names += [(additions_kind("Patient"), one) for one in patients]
        return self._documents.of(names) if names else {}

    def _resources(
        self,
        rows: Sequence[Row],
        additions: Mapping[tuple[str, str], Document],
        address: Address,
        detail: Detail,
    ) -> list[Json]:
        if not rows:
            return []
        hits = [row.hit for row in rows if row.hit is not None]
        made = iter(
            self._views.resources(rows[0].kind, hits, additions=additions, address=address, detail=detail)
            if hits
            else ()
        )
        return [resource_of(row.document) if row.document is not None else next(made) for row in rows]

    # Included

    def _included(
        self,
        request: SearchRequest,
        rows: Sequence[Row],
        matches: Sequence[Json],
        patients: Sequence[str],
        additions: Mapping[tuple[str, str], Document],
        address: Address,
    ) -> list[Json]:
        found: dict[tuple[str, str], Json] = {}
        seen = {(one["resourceType"], one["id"]) for one in matches}
        if patients:
            hits = self._search.hits_of("Patient", patients, address)
            for one in self._views.resources("Patient", hits, additions=additions, address=address):
                found[one["resourceType"], one["id"]] = one
        current: Sequence[Json] = [*matches]
        for round_number in range(MAX_ROUNDS):
            includes = [one for one in request.includes if one.iterate or round_number == 0]
            wanted = _wanted(includes, current, address.fhir) - seen - set(found)
            new = self._by_reference(sorted(wanted)[:MAX_INCLUDED], address)
            if round_number == 0:
                new += self._referring(request.revincludes, matches, address)
                new = [*found.values(), *new]
            new = [one for one in new if (one["resourceType"], one["id"]) not in seen]
            found |= {(one["resourceType"], one["id"]): one for one in new}
            if not new or not any(one.iterate for one in request.includes):
                break
            current = new
        return list(found.values())

    def _by_reference(self, wanted: Sequence[tuple[str, str]], address: Address) -> list[Json]:
        """The resources with these types and ids, as far as they exist; a query for each type, one for documents."""
        found: list[Json] = []
        left = set(wanted)
        for kind in VIEWS:
            ids = [resource_id for each, resource_id in wanted if each == kind]
            hits: list[Hit] = self._search.hits_of(kind, ids, address) if ids else []
            additions = self._documents.of([(additions_kind(kind), one) for one in ids]) if hits else {}
            made = self._views.resources(kind, hits, additions=additions, address=address, detail=_WITHOUT_INSTANCES)
            left -= {(kind, one["id"]) for one in made}
            found += made
        documents = self._documents.of([(kind_of(kind), resource_id) for kind, resource_id in sorted(left)])
        return found + [resource_of(document) for document in documents.values()]

    def _referring(self, revincludes: Sequence[Include], matches: Sequence[Json], address: Address) -> list[Json]:
        """What refers to the matches."""
        found: list[Json] = []
        for include in revincludes:
            ids = [one["id"] for one in matches if one["resourceType"] == include.target]
            if not ids:
                continue
            if include.source == "ImagingStudy":
                found += self._studies_of(include, ids, address)
            if include.source in VIEWS:
                found += self._referring_views(include, ids, address)
            if include.source != "ImagingStudy":
                found += [
                    resource_of(document)
                    for document in self._documents.each(kind_of(include.source))
                    if _refers(resource_of(document), include, ids, address.fhir)
                ]
        return found[:MAX_INCLUDED]

    def _studies_of(self, include: Include, ids: Sequence[str], address: Address) -> list[Json]:
        if include.target == "Patient":
            hits = self._search.studies_of_patients(ids, address, limit=MAX_INCLUDED)
        elif include.target == "Endpoint":
            hits = self._search.hits_of("ImagingStudy", ids, address)
        else:
            return []
        names = [(additions_kind("ImagingStudy"), hit.study_uid or "") for hit in hits]
        additions = self._documents.of(names)
        return self._views.resources(
            "ImagingStudy", hits, additions=additions, address=address, detail=_WITHOUT_INSTANCES
        )

    def _referring_views(self, include: Include, ids: Sequence[str], address: Address) -> list[Json]:
        """Views that refer to the matches by what a client added."""
        kind = additions_kind(include.source)
        names = [
            (include.source, document.document_id)
            for document in self._documents.each(kind)
            if _refers(document.body, include, ids, address.fhir)
        ]
        return self._by_reference(names[:MAX_INCLUDED], address)


def _wanted(includes: Sequence[Include], resources: Sequence[Json], base: str) -> set[tuple[str, str]]:
    found = set()
    for include in includes:
        for resource in resources:
            if resource["resourceType"] == include.source:
                for reference in _references(resource, include, base):
                    kind, _, resource_id = reference.partition("/")
                    if kind == include.target:
                        found.add((kind, resource_id))
    return found


def _references(resource: Json, include: Include, base: str) -> list[str]:
    found = []
    for path in include.parameter.paths:
        for value in matching.elements(resource, path):
            text = value.get("reference") if isinstance(value, Mapping) else None
            if isinstance(text, str) and (reference := matching.local_reference(text, base)):
                found.append(reference)
    return found


def _refers(resource: Json, include: Include, ids: Sequence[str], base: str) -> bool:
    return any(
        reference in {f"{include.target}/{one}" for one in ids} for reference in _references(resource, include, base)
    )
