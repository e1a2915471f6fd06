"""The form of stored values, and when a query value matches them."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.attributes import resolve
from dicomweb_server.dicom.matching import (
    match_values,
    matches,
    sort_key,
    wildcard_matches,
)
from dicomweb_server.dicom.query_values import parse_term
from dicomweb_server.testing.datasets import attribute, header


def found(name: str, text: str, *values: Any, **options: bool) -> bool:
    term = parse_term(resolve(name), text, **options)
    return term is None or matches(term, header(**{name: attribute(name, *values)}))


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientName", "Müller^Jürgen^^", ["muller^jurgen", "muller^jurgen^^"]),
        ("PatientName", "Yamada^T=山田^太郎=や", ["yamada^t", "山田^太郎", "や", "yamada^t=山田^太郎=や"]),
        ("PatientName", "^^", ["^^"]),
        ("PatientName", "홍^길동", ["홍^길동"]),
        ("PatientName", "ﾔﾏﾀﾞ", ["ヤマタ", "ﾔﾏﾀﾞ"]),
        ("StudyDate", "1997.04.23", ["19970423"]),
        ("StudyDate", "1997", []),
        ("StudyTime", "10", ["100000000000"]),
        ("StudyTime", "10:30:15.5", ["103015500000"]),
        ("StudyTime", "1", []),
        ("AcquisitionDateTime", "20240101003000+0100", ["20231231233000000000"]),
        ("AcquisitionDateTime", "202401", ["20240101000000000000"]),
        ("AcquisitionDateTime", "20241399+0100", []),
        ("SeriesNumber", "7", [7.0]),
        ("SeriesNumber", "seven", []),
        ("SliceThickness", "NaN", []),
        ("PatientID", "  a B \0", ["a B"]),
        ("PatientComments", "x" * 3000, ["x" * 1024]),
        ("FrameIncrementPointer", "0018106a", ["0018106A"]),
        ("PatientID", 5, [5.0]),
    ],
)
def test_stored_values(keyword: str, value: Any, expected: list[Any]) -> None:
    assert match_values(header(**{keyword: value}), resolve(keyword)) == expected


def test_values_of_private_attributes_follow_what_is_stored() -> None:
    stored = {
        "00091001": attribute("00091001", "x", vr="LO"),
        "00091002": attribute("00091002", 1.5, 2, vr="DS"),
        "00091003": {"vr": "PN", "Value": [{"Alphabetic": "A^B", "Ideographic": "C"}]},
        "00091004": {"vr": "UN", "InlineBinary": "AA=="},
    }
    values = [match_values(stored, (tag,)) for tag in sorted(stored)]
    assert values == [["x"], [1.5, 2.0], ["A^B", "C", "A^B=C"], []]


def test_values_in_all_items_of_a_sequence() -> None:
    items = [{"00400009": attribute("ScheduledProcedureStepID", "a")}, None, {"00400009": {"vr": "SH"}}]
    items.append({"00400009": attribute("ScheduledProcedureStepID", "b")})
    path = resolve("RequestAttributesSequence.ScheduledProcedureStepID")
    assert match_values({"00400275": {"vr": "SQ", "Value": items}}, path) == ["a", "b"]


def test_combined_values() -> None:
    path = ("00080020+00080030",)
    assert match_values(header(StudyDate="20230101", StudyTime="1030"), path) == ["20230101103000000000"]
    assert match_values(header(StudyDate="20230101"), path) == ["20230101000000000000"]
    assert match_values(header(StudyTime="1030"), path) == []


@pytest.mark.parametrize(
    ("name", "text", "value", "expected"),
    [
        ("PatientName", "MÜLLER^*", "Müller^Jürgen", True),
        ("PatientName", "山*", "Yamada^Tarou=山田^太郎", True),
        ("PatientName", "smith john", "Smith^John", False),
        ("PatientName", "ﾔﾏﾀ?^*", "ﾔﾏﾀﾞ^ﾀﾛｳ", True),
        ("PatientID", "a", "A", False),
        ("PatientID", "?", "é", True),
        ("PatientID", "[ab]", "a", False),
        ("StudyTime", "1015", "101530", True),
        ("StudyTime", "-101530", "101530.5", True),
        ("StudyDate", "2023", "2023.05.01", True),
        ("StudyDate", "20230501-20230503", "20230501", True),
        ("StudyDate", "20230501-20230503", "20230503", True),
        ("StudyDate", "20230501-20230503", "20230430", False),
        ("StudyDate", "20230501-20230503", "20230504", False),
        ("StudyDate", "-20230501", "20230501", True),
        ("StudyDate", "20230501-", "20230501", True),
        ("SeriesNumber", "7.0", 7, True),
        ("PatientComments", "x" * 1500, "x" * 1500, True),
    ],
)
def test_matching(name: str, text: str, value: Any, expected: bool) -> None:
    assert found(name, text, value) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("john smith", True),
        ("smi", True),
        ("smyth", True),
        ("jon", True),
        ("smith peter", False),
        ("mith", False),
        ("s*th^*", True),
        ("x*th", False),
    ],
)
def test_fuzzy(text: str, expected: bool) -> None:
    assert found("PatientName", text, "Smith^John", fuzzy=True) is expected


def test_empty() -> None:
    term = parse_term(resolve("PatientID"), '""', empty=True)
    assert term
    assert matches(term, {})
    assert matches(term, header(PatientID=None))
    assert not matches(term, header(PatientID="x"))
    binary = parse_term(("00091001",), '""', empty=True)
    assert binary
    assert not matches(binary, {"00091001": {"vr": "UN", "InlineBinary": "AA=="}})


def test_sort_key_is_the_first_value() -> None:
    assert sort_key(header(StudyDate=["20230102", "20220101"]), "00080020") == "20230102"
    assert sort_key({}, "00080020") is None


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab", max_size=12))
def test_wildcards_agree_with_their_definition(pattern: str, value: str) -> None:
    def defined(at: int, position: int) -> bool:
        if at == len(pattern):
            return position == len(value)
        if pattern[at] == "*":
            return any(defined(at + 1, end) for end in range(position, len(value) + 1))
        return position < len(value) and pattern[at] in ("?", value[position]) and defined(at + 1, position + 1)

    pattern = pattern[:6]
    assert wildcard_matches(pattern, value) is defined(0, 0)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="*?=\\"), max_size=20))
def test_a_name_is_found_by_itself_in_any_case(name: str) -> None:
    if name.strip("^ \0") and match_values(header(PatientName=name), ("00100010",)):
        assert found("PatientName", name, name)
        assert found("PatientName", name.casefold(), name)


def test_many_stars_end_soon() -> None:
    started = time.perf_counter()
    assert not wildcard_matches("*a" * 32 + "*b", "a" * 1024)
    assert time.perf_counter() - started < 1
