"""Searching: views by the index, documents by their keys, both as one list.

A view may have additions of a client. A clause then holds for what the index finds and for what the additions say: the
ids of these become one more alternative of the condition, so that one query of the index still gives page and total.
Where the index cannot decide alone, what it finds is compared as resources. Documents that stand for themselves come
after the views, or among them where an order is asked for.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dicomweb_server.dicom.attributes import vr_of
from dicomweb_server.dicom.levels import Level
from dicomweb_server.dicom.matching import AnyOf, Condition, Has, Not, Term
from dicomweb_server.errors import TooCostly
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.clauses import Clause, holds
from dicomweb_server.fhir.documents import MAX_COMPARED, Documents, kind_of, resource_of
from dicomweb_server.fhir.index.conditions import ALWAYS, Indexed, ids_term, simplified
from dicomweb_server.fhir.index.parameters import indexed, named
from dicomweb_server.fhir.matching import Kind
from dicomweb_server.fhir.requests import SearchRequest
from dicomweb_server.fhir.selection import detail_of
from dicomweb_server.fhir.tables import PARAMETERS, SORTS, VIEWS
from dicomweb_server.fhir.values import Json
from dicomweb_server.fhir.views import LEVELS, Address, Detail, Views, additions_kind
from dicomweb_server.storage.base import Storage
from dicomweb_server.storage.query import Order, Query
from dicomweb_server.storage.records import Document, Hit, Page

MAX_CHAINED = 5000
MAX_INSTANCES_OF_PAGE = 50_000
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Row:
    """A match: a hit of a view, or a document that stands for itself."""

    kind: str
    hit: Hit | None = None
    document: Document | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of matches. total: None when it was not asked for. taken: how many matches the page has, which may be
    fewer than were asked for. more: whether others follow."""

    rows: Sequence[Row]
    total: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    terms: tuple[Term, ...]
    conditions: tuple[Condition, ...]
    compared: tuple[Clause, ...]


class Search:
    """Finds resources."""

    def __init__(self, storage: Storage, views: Views, documents: Documents) -> None:
        self._storage = storage
        self._views = views
        self._documents = documents

    def run(self, request: SearchRequest, address: Address) -> Found:
        """The page that was asked for. Raises BadRequest, TooCostly."""
        return _Run(self._storage, self._views, self._documents, address).page(request)

    def all_rows(self, kind: str, clauses: Sequence[Clause], address: Address, *, limit: int) -> list[Row]:
        """At most so many matches, for conditional interactions."""
        request = SearchRequest(kind=kind, clauses=tuple(clauses), count=limit, total="none", elements=("id",))
        return list(self.run(request, address).rows)

    def studies_of_patients(self, ids: Sequence[str], address: Address, *, limit: int) -> list[Hit]:
        """The studies of these patients."""
        term = ids_term("Patient", list(ids), self._views.context(address))
        query = Query(level=Level.STUDY, terms=(term,), limit=limit, times=True)
        return list(self._storage.search(query=query).hits)

    def hits_of(self, kind: str, ids: Sequence[str], address: Address) -> list[Hit]:
        """The views with these ids, as far as they exist; one query."""
        term = ids_term(kind, list(dict.fromkeys(ids)), self._views.context(address))
        if not term.any_of:
            return []
        query = Query(level=LEVELS[kind], terms=(term,), limit=len(term.any_of), times=True)
        return list(self._storage.search(query=query).hits)


class _Run:
    """One search."""

    def __init__(self, storage: Storage, views: Views, documents: Documents, address: Address) -> None:
        self._storage = storage
        self._views = views
        self._documents = documents
        self._address = address
        self._context = views.context(address)
        self._has_additions: dict[str, bool] = {}

    def page(self, request: SearchRequest) -> Found:
        clauses = [self._resolved(request.kind, clause) for clause in request.clauses]
        standing = self._standing(request, clauses)
        if request.kind not in VIEWS:
            return self._of_documents(request, standing)
        plan = self._plan(request.kind, clauses)
        if plan.compared:
            hits = self._compared(request, plan)
            return _cut(request, self._joined(request, hits, standing), len(hits) + len(standing))
        return self._indexed(request, plan, standing)

    # Documents that stand for themselves

    def _standing(self, request: SearchRequest, clauses: Sequence[Clause]) -> list[Document]:
        if request.kind == "ImagingStudy":
            return []
        return self._documents.matching(kind_of(request.kind), clauses, self._address.fhir)

    def _of_documents(self, request: SearchRequest, standing: Sequence[Document]) -> Found:
        return _cut(request, self._joined(request, [], standing), len(standing))

    # Views

    def _indexed(self, request: SearchRequest, plan: _Plan, standing: Sequence[Document]) -> Found:
        query = self._query(request, plan)
        if request.summary == "count" or not request.count:
            counted = request.total != "none" or request.summary == "count"
            total = self._storage.count(query=query) + len(standing) if counted else None
            return Found(rows=(), total=total, more=False)
        if standing and request.sort:
            page = self._storage.search(query=replace(query, limit=request.offset + request.count + 1))
            return _cut(
                request, self._joined(request, page.hits, standing), self._total(request, query, page, standing)
            )
        page = self._storage.search(query=replace(query, limit=request.count, offset=request.offset))
        total = self._total(request, query, page, standing)
        rows = [Row(request.kind, hit=hit) for hit in page.hits]
        if not page.more and len(rows) < request.count and standing:
            behind = self._storage.count(query=query) if not rows else request.offset + len(rows)
            start = max(request.offset - behind, 0)
            room = request.count - len(rows)
            rows += [Row(request.kind, document=one) for one in standing[start : start + room]]
            return Found(rows=rows, total=total, more=start + room < len(standing))
        return _shortened(request, Found(rows=rows, total=total, more=page.more or bool(standing)))

    def _total(self, request: SearchRequest, query: Query, page: Page, standing: Sequence[Document]) -> int | None:
        """How many match; the last page of a search tells it without being asked."""
        if request.total == "none":
            return None
        if request.sort and standing:
            known = not page.more
            before = 0
        else:
            known = not page.more and bool(page.hits or not request.offset)
            before = request.offset
        views = before + len(page.hits) if known else self._storage.count(query=query)
        return views + len(standing)

    def _query(self, request: SearchRequest, plan: _Plan) -> Query:
        order = tuple(
            Order(tag, vr_of(tag), descending)
            for name, descending in request.sort
            for tag in SORTS[request.kind].get(name, ())
        )
        if not order and LEVELS[request.kind] is Level.STUDY:
            order = (Order("00080020", "DA", True), Order("00080030", "TM", True))
        return Query(level=LEVELS[request.kind], terms=plan.terms, conditions=plan.conditions, order=order, times=True)

    def _compared(self, request: SearchRequest, plan: _Plan) -> list[Hit]:
        """All hits for which the clauses hold that the index cannot decide."""
        query = self._query(request, plan)
        found: list[Hit] = []
        offset = 0
        while True:
            page = self._storage.search(query=replace(query, limit=_AT_ONCE, offset=offset))
            offset += len(page.hits)
            for hit, resource in zip(page.hits, self._bare(request.kind, page.hits, plan.compared), strict=True):
                if all(holds(clause, resource, self._address.fhir) for clause in plan.compared):
                    found.append(hit)
            if not page.more or not page.hits:
                return found
            if offset >= MAX_COMPARED:
                raise TooCostly(f"the search would look at more than {MAX_COMPARED} resources; narrow it")

    def _bare(self, kind: str, hits: Sequence[Hit], clauses: Sequence[Clause]) -> list[Json]:
        in_series = any(path.startswith(("series", "reasonCode")) for one in clauses for path in one.parameter.paths)
        return self._views.resources(
            kind,
            hits,
            additions=self._additions(kind, hits),
            address=self._address,
            detail=Detail(series=in_series, instances=False),
        )

    def _additions(self, kind: str, hits: Sequence[Hit]) -> Mapping[tuple[str, str], Document]:
        if not self._any_additions(kind):
            return {}
        return self._documents.of([(additions_kind(kind), self._views.id_of(kind, hit)) for hit in hits])

    def _any_additions(self, kind: str) -> bool:
        if kind not in self._has_additions:
            self._has_additions[kind] = self._documents.any_of(additions_kind(kind))
        return self._has_additions[kind]

    # Conditions

    def _plan(self, kind: str, clauses: Sequence[Clause]) -> _Plan:
        terms: list[Term] = []
        conditions: list[Condition] = []
        compared: list[Clause] = []
        for clause in clauses:
            made = self._condition(kind, clause)
            if not made.exact:
                compared.append(clause)
            condition = simplified(made.condition)
            if isinstance(condition, Term):
                terms.append(condition)
            elif condition != ALWAYS:
                conditions.append(condition)
        return _Plan(tuple(terms), tuple(conditions), tuple(compared))

    def _condition(self, kind: str, clause: Clause) -> Indexed:
        """The condition of a clause on views with additions."""
        made = self._of_index(kind, clause)
        condition, exact = made.condition, made.exact
        if self._any_additions(kind) and clause.chain is None and clause.reverse is None:
            ids = self._added(kind, clause)
            if ids:
                condition = AnyOf((condition, ids_term(kind, ids, self._context)))
            unsure = clause.parameter.single or clause.modifier == "missing"
            exact = exact and not unsure
        if not clause.negated:
            return Indexed(condition, exact)
        return Indexed(Not(condition)) if exact else Indexed(ALWAYS, exact=False)

    def _of_index(self, kind: str, clause: Clause) -> Indexed:
        if clause.reverse is not None:
            source, inner = clause.reverse
            below = self._condition(source, inner)
            return Indexed(Has(Level.STUDY, (below.condition,)), below.exact)
        if clause.chain is None:
            return indexed(kind, clause, self._context)
        target, inner = clause.chain
        return named(clause) if not target else self._of_index(target, inner)

    def _added(self, kind: str, clause: Clause) -> list[str]:
        """The ids of the views of whose additions the clause, without its negation, holds."""
        plain = replace(clause, modifier="") if clause.negated else clause
        found = self._documents.matching(additions_kind(kind), [plain], self._address.fhir)
        if len(found) > MAX_CHAINED:
            raise TooCostly(f"{clause.parameter.name} matches more than {MAX_CHAINED} resources; narrow it")
        return [document.document_id for document in found]

    # Chains

    def _resolved(self, kind: str, clause: Clause) -> Clause:
        """A chain as references to what it finds; as it is where the index answers it in one query."""
        if clause.reverse is not None:
            return self._resolved_reverse(kind, clause)
        if clause.chain is None or not clause.chain[0]:
            return clause
        target, inner = clause.chain
        inner = self._resolved(target, inner)
        if kind == "ImagingStudy" and target == "Patient" and self._is_direct(target, inner):
            return replace(clause, chain=(target, inner))
        rows = self._all(target, [inner])
        values = tuple(f"{target}/{self._id_of(row)}" for row in rows)
        return Clause(parameter=clause.parameter, values=values)

    def _resolved_reverse(self, kind: str, clause: Clause) -> Clause:
        source, inner = clause.reverse or ("", clause)
        inner = self._resolved(source, inner)
        by_subject = kind == "Patient" and source == "ImagingStudy" and clause.parameter.paths == ("subject",)
        if by_subject and not self._any_additions(source) and self._condition(source, inner).exact:
            return replace(clause, reverse=(source, inner))
        references: dict[str, None] = {}
        for row in self._all(source, [inner]):
            for reference in self._references(row, clause.parameter.paths[0]):
                if reference.startswith(f"{kind}/"):
                    references[reference.partition("/")[2]] = None
        values = tuple(matching.TokenValue(None, one) for one in references)
        return Clause(parameter=PARAMETERS[kind]["_id"], values=values)

    def _is_direct(self, target: str, inner: Clause) -> bool:
        """Whether a study shows what its patient is found by."""
        if self._any_additions(target) or inner.chain or inner.reverse or inner.parameter.name == "_lastUpdated":
            return False
        return inner.modifier == "" and self._of_index(target, inner).exact

    def _all(self, kind: str, clauses: Sequence[Clause]) -> list[Row]:
        request = SearchRequest(
            kind=kind, clauses=tuple(clauses), count=MAX_CHAINED + 1, total="none", elements=("id",)
        )
        found = self.page(request)
        if len(found.rows) > MAX_CHAINED:
            raise TooCostly(f"the chained part matches more than {MAX_CHAINED} resources; narrow it")
        return list(found.rows)

    def _id_of(self, row: Row) -> str:
        return row.document.document_id if row.document else self._views.id_of(row.kind, row.hit or _NO_HIT)

    def _references(self, row: Row, path: str) -> Iterator[str]:
        resource = resource_of(row.document) if row.document else self._bare(row.kind, [row.hit or _NO_HIT], ())[0]
        for reference in matching.elements(resource, path):
            if isinstance(reference, Mapping) and isinstance(reference.get("reference"), str):
                yield matching.local_reference(reference["reference"], self._address.fhir) or ""

    # One list of both

    def _joined(self, request: SearchRequest, hits: Sequence[Hit], standing: Sequence[Document]) -> list[Row]:
        views = [Row(request.kind, hit=hit) for hit in hits]
        others = [Row(request.kind, document=document) for document in standing]
        if not request.sort:
            return views + others
        others = _sorted(request, [(resource_of(row.document), row) for row in others if row.document])
        if not views or not others:
            return views or others
        keyed = [(resource, row) for resource, row in zip(self._bare(request.kind, hits, ()), views, strict=True)]
        keyed += [(resource_of(row.document), row) for row in others if row.document]
        return _sorted(request, keyed)


_NO_HIT = Hit(level=Level.STUDY, attributes={})


def _cut(request: SearchRequest, rows: Sequence[Row], total: int | None) -> Found:
    end = request.offset + request.count
    shown = () if request.summary == "count" else rows[request.offset : end]
    known = None if request.total == "none" and request.summary != "count" else total
    return _shortened(request, Found(rows=shown, total=known, more=bool(shown) and len(rows) > end))


def _shortened(request: SearchRequest, found: Found) -> Found:
    """A page whose studies have not too many instances; what is left is behind the link to the next page."""
    if request.kind != "ImagingStudy" or not detail_of(request).instances:
        return found
    total = 0
    for place, row in enumerate(found.rows):
        total += row.hit.number_of_instances if row.hit else 0
        if place and total > MAX_INSTANCES_OF_PAGE:
            return Found(rows=found.rows[:place], total=found.total, more=True)
    return found


def _sorted(request: SearchRequest, keyed: list[tuple[Json, Row]]) -> list[Row]:
    """By the parameters of the request; what has no value comes last both ways."""
    for name, descending in reversed(request.sort):
        parameter = PARAMETERS[request.kind][name]
        with_keys = [(_key(parameter.kind, parameter.paths, resource), resource, row) for resource, row in keyed]
        present = sorted((one for one in with_keys if one[0] is not None), key=lambda one: one[0], reverse=descending)
        missing = [one for one in with_keys if one[0] is None]
        keyed = [(resource, row) for _, resource, row in (*present, *missing)]
    return [row for _, row in keyed]


def _key(kind: Kind, paths: Iterable[str], resource: Json) -> Any:
    for path in paths:
        for value in matching.elements(resource, path):
            if kind is Kind.DATE:
                for span in matching.spans(value):
                    return span.low.isoformat()
            elif kind is Kind.TOKEN:
                for _, code in matching.tokens(value):
                    return code or ""
            elif kind is Kind.REFERENCE and isinstance(value, Mapping):
                return str(value.get("reference", ""))
            else:
                for text in matching.strings(value):
                    return matching.folded(text)
    return None
