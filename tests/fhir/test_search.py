"""Searching: every parameter, modifiers, prefixes, chains, pages, what comes along."""

from typing import Any
from urllib.parse import quote

import pytest
from fhir.resources.R4B.bundle import Bundle

from backends.sqlite import SQLiteStorage
from dicomweb_server.fhir.requests import parse_search
from dicomweb_server.fhir.tables import PARAMETERS, TYPES
from tests.fhir.conftest import BASE, ROOT, Fhir
from tests.fhir.searches import ALL, PATIENT_SEARCHES, STUDY_SEARCHES


@pytest.mark.parametrize(("query", "expected"), STUDY_SEARCHES)
def test_studies(shared_fhir: Fhir, query: str, expected: list[str]) -> None:
    assert sorted(shared_fhir.ids(f"ImagingStudy?{query}")) == expected


@pytest.mark.parametrize(("query", "expected"), PATIENT_SEARCHES)
def test_patients(shared_fhir: Fhir, query: str, expected: set[str] | None) -> None:
    if expected is None:
        shared_fhir.get(f"Patient?{query}", status=400)
        return
    path = f"Patient?{quote(query, safe='=&:|,.')}"
    assert shared_fhir.names(path) == expected
    assert shared_fhir.get(path)["total"] == len(expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ALL),
        (f"_id={ROOT}.1", ["1"]),
        (f"identifier=urn:oid:{ROOT}.1", ["1"]),
        ("status=active", ALL),
        ("status=off", []),
        ("connection-type=dicom-wado-rs", ALL),
        ("connection-type:not=dicom-wado-rs", []),
        ("payload-type=DICOM", ALL),
        ("name=dicomweb", ALL),
        ("name:missing=true", []),
        ("organization:missing=true", ALL),
    ],
)
def test_endpoints(shared_fhir: Fhir, query: str, expected: list[str]) -> None:
    assert sorted(shared_fhir.ids(f"Endpoint?{query}")) == expected


def test_patients_by_id_and_reference(shared_fhir: Fhir) -> None:
    jane = shared_fhir.patient("Doe")
    assert shared_fhir.names(f"Patient?_id={jane}") == {"Doe"}
    for query in (f"patient={jane}", f"subject=Patient/{jane}", f"patient=http://localhost{BASE}/Patient/{jane}"):
        assert sorted(shared_fhir.ids(f"ImagingStudy?{query}")) == ["1", "2"]
    assert sorted(shared_fhir.ids(f"ImagingStudy?subject:Patient={jane}&modality=SR")) == ["1"]
    assert sorted(shared_fhir.ids(f"ImagingStudy?patient._id={jane}")) == ["1", "2"]
    assert shared_fhir.ids("ImagingStudy?patient=Patient/nobody") == []


def test_pages_hold_everything_once(shared_fhir: Fhir) -> None:
    path, seen, links = "ImagingStudy?_count=2&started:missing=false&_sort=-started", [], []
    while path:
        bundle = shared_fhir.get(path)
        Bundle.model_validate(bundle)
        assert bundle["total"] == 4
        seen += [entry["resource"]["id"].removeprefix(f"{ROOT}.") for entry in bundle["entry"]]
        relations = {link["relation"]: link["url"] for link in bundle["link"]}
        links.append(set(relations))
        assert "started%3Amissing=false" in relations["self"]
        path = relations.get("next", "").removeprefix(f"http://localhost{BASE}/")
    assert seen[0] == "2"
    assert sorted(seen) == ["1", "2", "3", "4"]
    assert links == [{"self", "next"}, {"self", "previous", "first"}]


def test_totals_and_counts(shared_fhir: Fhir) -> None:
    assert "total" not in shared_fhir.get("ImagingStudy?_total=none&_count=1")
    counted = shared_fhir.get("ImagingStudy?_summary=count&modality=CT")
    assert counted["total"] == 2
    assert "entry" not in counted
    none = shared_fhir.get("Patient?_count=0")
    assert (none["total"], none.get("entry")) == (4, None)
    beyond = shared_fhir.get("ImagingStudy?_offset=99")
    assert (beyond["total"], beyond.get("entry")) == (5, None)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("started", ["3", "1", "4", "2", "5"]),
        ("-_id", ["5", "4", "3", "2", "1"]),
        ("identifier", ["1", "2", "3", "4", "5"]),
        ("_lastUpdated,_id", None),
    ],
)
def test_order(shared_fhir: Fhir, sort: str, expected: list[str] | None) -> None:
    found = shared_fhir.ids(f"ImagingStudy?_sort={sort}")
    assert sorted(found) == ALL
    assert expected is None or found == expected


def test_order_of_patients(shared_fhir: Fhir) -> None:
    entries = shared_fhir.get("Patient?_sort=-family")["entry"]
    names = [entry["resource"].get("name", [{}])[0].get("family") for entry in entries]
    assert names == ["Yamada", "Müller", "Doe", None]


def included(bundle: dict[str, Any]) -> list[str]:
    found = [entry for entry in bundle["entry"] if entry["search"]["mode"] == "include"]
    return sorted(entry["resource"]["resourceType"] for entry in found)


def test_includes(shared_fhir: Fhir) -> None:
    bundle = shared_fhir.get("ImagingStudy?_include=ImagingStudy:patient&_include=ImagingStudy:endpoint")
    Bundle.model_validate(bundle)
    assert included(bundle) == ["Endpoint"] * 5 + ["Patient"] * 4
    assert bundle["total"] == 5
    assert included(shared_fhir.get("ImagingStudy?modality=MR&_include=*")) == ["Endpoint", "Patient"]
    assert included(shared_fhir.get("ImagingStudy?modality=MR&_include=ImagingStudy:subject:Patient")) == ["Patient"]
    reverse = shared_fhir.get("Patient?family=doe&_revinclude=ImagingStudy:patient")
    assert included(reverse) == ["ImagingStudy"] * 2
    assert included(shared_fhir.get("Endpoint?_count=1&_revinclude=ImagingStudy:endpoint")) == ["ImagingStudy"]


def test_an_include_costs_one_query(shared_fhir: Fhir, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("search", "count", "documents_of", "find_documents", "get_document", "metadata_of"):
        original = getattr(SQLiteStorage, name)

        def counted(self: Any, *, _name: str = name, _original: Any = original, **arguments: Any) -> Any:
            calls.append(_name)
            return _original(self, **arguments)

        monkeypatch.setattr(SQLiteStorage, name, counted)

    def cost(path: str) -> int:
        calls.clear()
        shared_fhir.get(path)
        return len(calls)

    alone = cost("ImagingStudy?modality=CT,MR,US")
    assert cost("ImagingStudy?modality=CT,MR,US&_include=ImagingStudy:patient") == alone + 1
    assert cost("ImagingStudy?modality=MR") == cost("ImagingStudy?modality=MR,CT,US,OT")


def test_search_by_post(shared_fhir: Fhir) -> None:
    answer = shared_fhir.client.post(f"{BASE}/Patient/_search?gender=female", {"name": "doe"})
    assert answer.json["total"] == 1
    assert shared_fhir.client.post(f"{BASE}/Patient/_search", {"name": "nobody"}).json["total"] == 0
    refused = shared_fhir.client.post(f"{BASE}/Patient/_search", "{}", content_type="application/json", status=415)
    assert refused.json["resourceType"] == "OperationOutcome"


def test_parts_in_a_search(shared_fhir: Fhir) -> None:
    (entry,) = shared_fhir.get(f"ImagingStudy?_id={ROOT}.1&_elements=started")["entry"]
    assert "series" not in entry["resource"]
    (entry,) = shared_fhir.get(f"ImagingStudy?_id={ROOT}.1&_summary=true")["entry"]
    assert [series["numberOfInstances"] for series in entry["resource"]["series"]] == [2, 2]


def test_unknown_parameters_may_be_passed_over(shared_fhir: Fhir) -> None:
    answer = shared_fhir.client.get(f"{BASE}/Patient?shoe=44&name=doe", headers={"Prefer": "handling=lenient"})
    assert answer.json["total"] == 1
    assert "shoe" not in answer.json["link"][0]["url"]


def test_every_parameter_is_understood() -> None:
    for kind in TYPES:
        for name in PARAMETERS[kind]:
            parse_search(kind, [(f"{name}:missing", "true")], max_count=10)
