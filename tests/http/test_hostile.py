"""Bad input at random: a clear 4xx or an ordinary answer, never a 5xx, and nothing left behind."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from tests.http.conftest import Client
from tests.samples import RELATED, envelope, instance, part10, url

relaxed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ATTRIBUTES = ["PatientName", "PatientID", "StudyDate", "StudyTime", "StudyInstanceUID", "SeriesNumber", "00100010"]
SEQUENCES = ["RequestAttributesSequence", "RequestAttributesSequence.ScheduledProcedureStepID", "PixelData", "00091001"]
CONTROLS = ["limit", "offset", "orderby", "includefield", "fuzzymatching", "multiplevaluematching", "accept", "charset"]
KEYS = st.sampled_from(
    [*ATTRIBUTES, *SEQUENCES, *CONTROLS, "ModalitiesInStudy", "emptyvaluematching", "Unknown", "0010001"]
)
VALUES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="0123456789-.*?\\,\"'%", max_size=20),
    st.sampled_from(["", "*", "-", "20240101-", "-1200", '""', "all", "1e400", "nan", "true", "1" * 70]),
)
FILE = part10(instance())


@relaxed
@given(
    pairs=st.lists(st.tuples(KEYS, VALUES), max_size=5),
    level=st.sampled_from(["patients", "studies", "series", "instances"]),
)
def test_queries(archive: Client, pairs: list[tuple[str, str]], level: str) -> None:
    answer = archive.get(f"/{level}", pairs, status="*")
    assert answer.status_int in (200, 400, 406), answer.text
    json.loads(answer.text) if "json" in answer.content_type else None


@relaxed
@given(
    accept=st.one_of(
        st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=80),
        st.text(alphabet='*/;,="q.01 multiparelcdo+jsn-syx', max_size=80),
    )
)
def test_accept_headers(archive: Client, accept: str) -> None:
    ds = instance("1.2.3", "1.2.3.4", "1.2.3.4.5")
    archive.store(ds)
    for path in ("/studies", "/studies/1.2.3", "/studies/1.2.3/metadata", url(ds), url(ds) + "/frames/1"):
        answer = archive.get(path, headers={"Accept": accept}, status="*")
        assert answer.status_int in (200, 406), (path, answer.text)


@relaxed
@given(data=st.data())
def test_damaged_files(archive: Client, data: st.DataObject) -> None:
    damaged = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(132, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(damaged) - 1)))
    answer = archive.post("/studies", envelope([bytes(damaged[:cut])]), headers={"Content-Type": RELATED}, status="*")
    assert answer.status_int in (200, 409), answer.text
    if answer.status_int == 200:
        archive.get(answer.json["00081199"]["Value"][0]["00081190"]["Value"][0] + "/metadata")


@relaxed
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.sampled_from([b"--frontier", b"--", b"\r\n", b"\r\n\r\n", b"Content-Type: a/b", b"x", FILE[:400]]),
            max_size=14,
        ).map(b"".join),
    ),
    content_type=st.sampled_from(
        [
            RELATED,
            "multipart/form-data; boundary=frontier",
            "application/dicom",
            'multipart/related; type="application/dicom+json"; boundary=frontier',
        ]
    ),
)
def test_envelopes(archive: Client, body: bytes, content_type: str) -> None:
    answer = archive.post("/studies", body, headers={"Content-Type": content_type}, status="*")
    assert 400 <= answer.status_int < 500, answer.text
    assert archive.search("/instances") == []


@pytest.mark.parametrize(
    "piece",
    [
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%252e%252e",
        "1.2.3%00",
        "%FF%FE",
        "*",
        "'%20OR%201",
        "$where",
        "1" * 5000,
        "~root",
        "%0d%0aX:1",
    ],
)
def test_paths(archive: Client, piece: str) -> None:
    for path in (
        f"/studies/{piece}",
        f"/studies/{piece}/metadata",
        f"/studies/1.2/series/{piece}/instances",
        f"/studies/1.2/series/1.3/instances/{piece}/frames/1",
        f"/studies/1.2/series/1.3/instances/1.4/bulkdata/{piece}",
    ):
        assert archive.get(path, status="4*").json["reason"]


def test_ten_thousand_tiny_parts(archive: Client) -> None:
    answer = archive.post("/studies", envelope([b"x"] * 10_000), headers={"Content-Type": RELATED}, status=409)
    assert len(answer.json["0008119A"]["Value"]) == 10_000


def test_a_part_header_without_end(archive: Client) -> None:
    body = b"--frontier\r\n" + b"A: b\r\n" * 50_000
    archive.post("/studies", body, headers={"Content-Type": RELATED}, status=400)


def test_many_values_and_stars(archive: Client) -> None:
    archive.store(instance())
    uids = ",".join(generate_uid() for _ in range(2000))
    assert archive.search(f"/studies?StudyInstanceUID={uids}") == []
    archive.get("/studies?PatientName=" + "*a" * 500, status=400)
    assert len(archive.search("/studies?PatientName=" + "*" * 3000)) == 1


def test_a_length_that_no_upload_has(archive: Client) -> None:
    """It is no matter of free space, though no disk has so much of it."""
    headers = {"Content-Type": RELATED, "Content-Length": str(10**15)}
    assert "Content-Length" in archive.post("/studies", b"--frontier\r\n", headers=headers, status=413).json["reason"]
