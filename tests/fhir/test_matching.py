"""When a resource matches a search value."""

from typing import Any

import pytest

from dicomweb_server.errors import BadRequest
from dicomweb_server.fhir import matching
from dicomweb_server.fhir.matching import TokenValue
from dicomweb_server.fhir.merging import merged, version_of


@pytest.mark.parametrize(
    ("wanted", "value", "expected"),
    [
        ("2024-03", "2024-03-05", True),
        ("eq2024-03-05", "2024-03-05T10:00:00+01:00", True),
        ("ne2024-03", "2024-03-05", False),
        ("ne2024-03", "2024-04", True),
        ("gt2024-03-05", "2024-03-06", True),
        ("gt2024-03-05", "2024-03-05", False),
        ("gt2024-03-05", "2024-03", True),
        ("ge2024-03-05", "2024-03-05", True),
        ("lt2024-03-05", "2024-03-04T23:59:59Z", True),
        ("le2024-03-05T10:00:00Z", "2024-03-05T11:00:00+02:00", True),
        ("sa2024", "2025-01-01", True),
        ("sa2024", "2024-12-31", False),
        ("eb2024", "2023-12-31", True),
        ("ap2024-03-05", "2024-03-06", True),
        ("ap9999-12-31", "0001-01-01", False),
    ],
)
def test_dates(wanted: str, value: str, expected: bool) -> None:
    (span,) = matching.spans(value)
    assert matching.date_matches(matching.date_value("birthdate", wanted), span) is expected


@pytest.mark.parametrize("text", ["", "2024-13", "2024-02-30", "xx2024", "2024-1-1", "gt", "20240305", "2024-03-05T10"])
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(BadRequest, match="birthdate"):
        matching.date_value("birthdate", text)


@pytest.mark.parametrize(
    ("text", "token", "expected"),
    [
        ("a", ("s", "a"), True),
        ("s|a", ("s", "a"), True),
        ("|a", ("s", "a"), False),
        ("|a", (None, "a"), True),
        ("s|", ("s", "b"), True),
        ("t|a", ("s", "a"), False),
        (r"a\|b", (None, "a|b"), True),
    ],
)
def test_tokens(text: str, token: matching.Token, expected: bool) -> None:
    assert TokenValue.parse(text).matches(token) is expected


def test_lists_and_escapes() -> None:
    assert matching.split_values(r"a\,b,c,,d") == [r"a\,b", "c", "d"]
    assert matching.unescaped(r"a\,b\\") == "a,b\\"


def test_references() -> None:
    base = "http://localhost/api/fhir"
    assert matching.local_reference(f"{base}/Patient/1", base) == "Patient/1"
    assert matching.local_reference("1", base, ("Patient",)) == "Patient/1"
    assert matching.local_reference("http://other/Patient/1", base) is None
    have = {"reference": "Patient/1"}
    assert matching.reference_matches("1", have, base, ("Group", "Patient"))
    assert matching.reference_matches(f"{base}/Patient/1", have, base, ())
    assert not matching.reference_matches("http://other/Patient/1", have, base, ())


def test_additions_never_hide_what_the_archive_knows() -> None:
    view: dict[str, Any] = {
        "resourceType": "Patient",
        "id": "p",
        "active": True,
        "identifier": [{"system": "s", "value": "1", "use": "usual"}],
        "birthDate": "2000-01-01",
        "gender": "unknown",
    }
    client: dict[str, Any] = {
        "resourceType": "Patient",
        "id": "other",
        "active": False,
        "identifier": [{"system": "s", "value": "1"}, {"system": "t", "value": "2"}],
        "birthDate": "1999-01-01",
        "gender": "female",
        "telecom": [{"system": "phone", "value": "1"}],
        "meta": {"tag": [{"code": "vip"}], "versionId": "9"},
    }
    found = merged(view, client)
    assert found["identifier"] == [view["identifier"][0], client["identifier"][1]]
    assert (found["id"], found["birthDate"], found["gender"]) == ("p", "2000-01-01", "unknown")
    assert found["active"] is False
    assert found["telecom"] == client["telecom"]
    assert found["meta"] == {"tag": [{"code": "vip"}]}
    assert merged(view, found) == found
    assert version_of(found) != version_of(view)
