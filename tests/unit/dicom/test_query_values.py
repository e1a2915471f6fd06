"""The grammar of query values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomweb_server.dicom.attributes import resolve
from dicomweb_server.dicom.matching import Empty, Equal, Pattern, Range, Wildcard, Words, matches
from dicomweb_server.dicom.query_values import parse_combined, parse_term
from dicomweb_server.errors import BadRequest
from dicomweb_server.testing.datasets import header

NAMES = "PatientName StudyDate StudyTime AcquisitionDateTime Modality Rows 00091001 StudyInstanceUID"


def patterns(name: str, text: str, **options: bool) -> tuple[Pattern, ...] | None:
    term = parse_term(resolve(name), text, **options)
    return term.any_of if term else None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("StudyDate", "2023", (Range("20230101", "20231231"),)),
        ("StudyDate", "20230105", (Equal("20230105"),)),
        ("StudyDate", "202301-2024", (Range("20230101", "20241231"),)),
        ("StudyDate", "-20230105", (Range(None, "20230105"),)),
        ("StudyDate", "20230105-", (Range("20230105", None),)),
        ("StudyTime", "10", (Range("100000000000", "105959999999"),)),
        ("StudyTime", "10:30:00", (Range("103000000000", "103000999999"),)),
        ("StudyTime", "-1030", (Range(None, "103059999999"),)),
        ("StudyTime", "103015.123456", (Equal("103015123456"),)),
        ("AcquisitionDateTime", "2023-0500", (Range("20230101050000000000", "20240101045959999999"),)),
        ("AcquisitionDateTime", "202302-0500", (Range("20230201050000000000", "20230301045959999999"),)),
        ("AcquisitionDateTime", "2023-2024", (Range("20230101000000000000", "20241231235959999999"),)),
        ("AcquisitionDateTime", "20230101-0500-", (Range("20230101050000000000", None),)),
        ("StudyInstanceUID", "1.2,1.3\\1.4", (Equal("1.2"), Equal("1.3"), Equal("1.4"))),
        ("Modality", "CT, M?", (Equal("CT"), Wildcard("M?"))),
        ("SeriesNumber", "1,2.5", (Equal(1.0), Equal(2.5))),
        ("PatientID", "a,b", (Equal("a,b"),)),
        ("PatientID", "a**b", (Wildcard("a*b"),)),
        ("PatientID", '""', (Equal('""'),)),
        ("PatientName", "Doe^Ä*", (Wildcard("doe^a*"),)),
        ("PatientName", "Doe ^^", (Equal("doe"),)),
        ("00091001", "42", (Equal("42"), Equal(42.0))),
        ("PatientAge", "0?0Y", (Equal("0?0Y"),)),
        ("PatientID", "", None),
        ("PatientID", " ** ", None),
        ("StudyDate", "*", None),
        ("Modality", "CT,*", None),
    ],
)
def test_query_values(name: str, text: str, expected: tuple[Pattern, ...] | None) -> None:
    assert patterns(name, text) == expected


def test_options() -> None:
    assert patterns("PatientID", 'a\\b\\""', multiple=True, empty=True) == (Equal("a"), Equal("b"), Empty())
    assert patterns("StudyDate", "2023\\20240101", multiple=True) == (Range("20230101", "20231231"), Equal("20240101"))
    assert patterns("PatientName", "John Smith", fuzzy=True) == (Words(("john", "smith")),)
    assert patterns("PatientName", "Sm*", fuzzy=True) == (Words(("sm",)), Wildcard("sm*"))
    assert patterns("PatientName", '""', fuzzy=True, empty=True) == (Empty(),)
    assert patterns("RequestAttributesSequence", '""', empty=True) == (Empty(),)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("StudyDate", "-"),
        ("StudyDate", "20240101-20230101"),
        ("StudyDate", "2024-01-01"),
        ("StudyDate", "yesterday"),
        ("StudyDate", "٢٠٢٣"),
        ("StudyTime", "11-10"),
        ("StudyTime", "1"),
        ("StudyTime", "10.5"),
        ("AcquisitionDateTime", "20239901+0100"),
        ("AcquisitionDateTime", "20230101+0160"),
        ("SeriesNumber", "one"),
        ("Rows", "1e999"),
        ("Rows", "nan"),
        ("RequestAttributesSequence", "x"),
        ("PixelData", "x"),
        ("PatientID", "a\0b"),
        ("PatientID", "\ud800"),
        ("PatientID", "*a" * 500),
        ("PatientID", "a" * 70_000),
        ("PatientID", "a" * 2000 + "*"),
        ("PatientName", "a" * 2000 + "*"),
        ("StudyInstanceUID", "1," * 6000 + "1"),
    ],
)
def test_unusable_query_values(name: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        patterns(name, text)
    assert len(caught.value.message) < 200
    assert "20240101" not in caught.value.message


def test_two_thousand_uids() -> None:
    uids = [f"1.2.840.113619.2.55.3.604688119.969.1268071029.{number}" for number in range(2000)]
    assert patterns("SOPInstanceUID", ",".join(uids)) == tuple(Equal(uid) for uid in uids)


def test_combined_queries() -> None:
    path = ("00080020+00080030",)
    term = parse_combined(path, "20230101-20230103", "10-1230")
    assert term is not None
    assert term.any_of == (Range("20230101100000000000", "20230103123059999999"),)
    assert parse_combined(path, "", "") is None
    with pytest.raises(BadRequest):
        parse_combined(path, "20230101", "12-10")
    assert parse_combined(path, "20230101-20230102", "12-10") is not None


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    st.sampled_from(NAMES.split()),
    st.text(max_size=30) | st.text(alphabet='0123456789-+.:*?,\\"', max_size=30),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_any_text_is_a_term_or_refused(name: str, text: str, fuzzy: bool, multiple: bool, empty: bool) -> None:
    try:
        term = parse_term(resolve(name), text, fuzzy=fuzzy, multiple=multiple, empty=empty)
    except BadRequest:
        return
    if term is not None:
        assert term.any_of
        matches(term, header(PatientName="a", StudyDate="20230101", StudyTime="10", Modality="CT", Rows=1))
