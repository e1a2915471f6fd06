"""Searching through HTTP: parameters, paging, answers. What matches is the contract suite's to prove."""

import csv
import gzip
import io
import json
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from webtest import TestRequest

from tests.http.conftest import Archive, Client
from tests.samples import instance, url

STUDY_A, STUDY_B, SERIES_A, SERIES_B = (generate_uid() for _ in range(4))


@pytest.fixture
def stored(archive: Client) -> Client:
    """Study A: a CT series of two and an MR series of one. Study B: one, of a man without accession number."""
    archive.store(
        instance(STUDY_A, SERIES_A, Modality="CT", InstanceNumber=2, SeriesNumber=1, StudyDescription="Head"),
        instance(STUDY_A, SERIES_A, Modality="CT", InstanceNumber=1, SeriesNumber=1, StudyDescription="Head"),
        instance(STUDY_A, SERIES_B, Modality="MR", InstanceNumber=1, SeriesNumber=2, StudyDescription="Head"),
        instance(
            STUDY_B,
            Modality="US",
            PatientName="Müller^Jörg=山田^太郎",
            PatientID="P2",
            StudyDate="20240301",
            AccessionNumber="",
        ),
    )
    return archive


def values(hits: list[dict[str, Any]], tag: str) -> list[Any]:
    return [hit[tag].get("Value", [None])[0] for hit in hits]


def test_study_attributes_and_counts(stored: Client) -> None:
    hits = stored.search(f"/studies?StudyInstanceUID={STUDY_A}")
    assert len(hits) == 1
    hit = hits[0]
    assert hit["00201206"] == {"vr": "IS", "Value": [2]}
    assert hit["00201208"] == {"vr": "IS", "Value": [3]}
    assert hit["00080061"] == {"vr": "CS", "Value": ["CT", "MR"]}
    assert hit["00080056"] == {"vr": "CS", "Value": ["ONLINE"]}
    assert hit["00081190"]["Value"] == [f"http://localhost/studies/{STUDY_A}"]
    assert hit["00083002"]["Value"] == ["1.2.840.10008.1.2.1"]
    assert list(hit) == sorted(hit)


def test_required_attributes_are_there_when_empty(stored: Client) -> None:
    hit = stored.search(f"/studies?StudyInstanceUID={STUDY_B}")[0]
    assert hit["00080050"] == {"vr": "SH"}
    assert hit["00100030"] == {"vr": "DA"}


def test_a_study_without_modality_has_no_empty_list_of_them(archive: Client) -> None:
    archive.store(instance(Modality=None))
    assert "00080061" not in archive.search("/studies")[0]


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("/studies", 2),
        ("/series", 3),
        ("/instances", 4),
        ("/patients", 2),
        (f"/studies/{STUDY_A}/series", 2),
        (f"/studies/{STUDY_A}/instances", 3),
        (f"/studies/{STUDY_A}/series/{SERIES_A}/instances", 2),
        (f"/studies/{STUDY_B}/series/{SERIES_A}/instances", 0),
        ("/studies?PatientName=m%C3%BCller*", 1),
        ("/studies?PatientName=MULLER*", 1),
        ("/studies?00100010=%E5%B1%B1%E7%94%B0*", 1),
        ("/studies?PatientName=doe+jane&fuzzymatching=true", 1),
        ("/studies?ModalitiesInStudy=MR,US", 2),
        ("/studies?ModalitiesInStudy=MR%5CUS", 2),
        ("/studies?Modality=MR", 1),
        ("/studies?StudyDate=20240101-20240201", 1),
        ("/studies?StudyDate=20240102-20240301&StudyTime=101500-101500", 2),
        ("/studies?StudyDate=20240102-20240301&StudyTime=101501-101500", 1),
        ("/studies?AccessionNumber=%22%22&emptyvaluematching=true", 1),
        ("/studies?PatientID=P1%5CP2&multiplevaluematching=true", 2),
        ("/series?SeriesNumber=2", 1),
        ("/instances?SOPInstanceUID=1.2.3", 0),
        ("/studies?&limit=10", 2),
    ],
)
def test_number_of_hits(stored: Client, path: str, count: int) -> None:
    assert len(stored.search(path)) == count


def test_unknown_study_has_no_series(archive: Client) -> None:
    answer = archive.get("/studies/1.2.3/series")
    assert (answer.status_int, answer.body) == (200, b"[]")


def test_empty_answer_as_204_by_setting(make_archive: Archive) -> None:
    assert make_archive({"http.empty_search_status": 204}).get("/studies").status_int == 204


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "offset=-5",
        "fuzzymatching=maybe",
        "StudyDate=abc",
        "StudyDate=20240201-20240101",
        "SeriesNumber=abc",
        "PatientID=%FF",
        "PatientName=%00",
        "orderby=NoSuchThing",
        "&".join(["PatientID=1"] * 1001),
    ],
)
def test_malformed_queries(stored: Client, query: str) -> None:
    assert stored.get(f"/series?{query}", status=400).json["reason"]


def test_unknown_attributes_are_told_not_refused(stored: Client) -> None:
    answer = stored.get("/studies?PatientNam=x")
    assert len(answer.json) == 2
    assert "PatientName" in answer.headers["Warning"]
    assert answer.headers["Warning"].startswith("299 ")


def test_attributes_of_a_lower_level_are_told(stored: Client) -> None:
    answer = stored.get("/studies?InstanceNumber=1")
    assert len(answer.json) == 2
    assert "not performed" in answer.headers["Warning"]


class TestPaging:
    def test_pages_join_to_the_whole(self, stored: Client) -> None:
        whole = values(stored.search("/instances"), "00080018")
        paged = [uid for n in range(6) for uid in values(stored.search(f"/instances?limit=1&offset={n}"), "00080018")]
        assert stored.search(f"/instances?offset={2**70}") == []  # more than databases count to
        assert paged == whole

    def test_cut_is_told(self, stored: Client) -> None:
        assert "additional results" in stored.get("/instances?limit=1").headers["Warning"]
        assert "Warning" not in stored.get("/instances?limit=4").headers

    def test_maximum_of_the_server(self, make_archive: Archive) -> None:
        archive = make_archive({"search.max_results": 2})
        archive.store(*(instance() for _ in range(3)))
        answer = archive.get("/studies?limit=50")
        assert len(answer.json) == 2
        assert "maximum of 2" in answer.headers["Warning"]
        assert len(archive.search("/studies?limit=50&offset=2")) == 1

    def test_limit_zero(self, stored: Client) -> None:
        assert stored.search("/studies?limit=0") == []

    def test_order(self, stored: Client) -> None:
        assert values(stored.search("/studies"), "00080020") == ["20240301", "20240102"]
        assert values(stored.search("/studies?orderby=StudyDate"), "00080020") == ["20240102", "20240301"]
        assert values(stored.search("/patients?orderby=-PatientID"), "00100020") == ["P2", "P1"]
        path = f"/studies/{STUDY_A}/series/{SERIES_A}/instances"
        assert values(stored.search(path), "00200013") == [1, 2]
        assert values(stored.search(path + "?orderby=-InstanceNumber"), "00200013") == [2, 1]


class TestFields:
    def test_field_beyond_the_default(self, stored: Client) -> None:
        assert "00280102" not in stored.search("/instances")[0]
        assert stored.search("/instances?includefield=HighBit")[0]["00280102"] == {"vr": "US", "Value": [7]}

    def test_matched_attributes_are_returned(self, stored: Client) -> None:
        assert stored.search("/instances?HighBit=7")[0]["00280102"]["Value"] == [7]

    def test_lists_and_repeats_mean_the_same(self, stored: Client) -> None:
        comma = stored.search("/instances?includefield=HighBit,00280103")
        assert comma == stored.search("/instances?includefield=00280102&includefield=PixelRepresentation")
        assert comma[0]["00280103"]["Value"] == [0]

    def test_several_of_one_sequence_and_private_ones_with_their_creator(self, archive: Client) -> None:
        code, ds = Dataset(), instance()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-1", "SRT", "Lung"
        ds.ProcedureCodeSequence = Sequence([code])
        for data_set in (ds, code):
            data_set.private_block(0x0019, "ACME", create=True).add_new(1, "LO", "secret")
        archive.store(ds)
        sequence, secret = "ProcedureCodeSequence", {"vr": "LO", "Value": ["secret"]}
        names = f"00191001,{sequence}.CodeValue,{sequence}.00080104,{sequence}.00191001"
        (hit,) = archive.search(f"/instances?includefield={names}")
        assert (hit["00191001"], hit["00190010"]) == (secret, {"vr": "LO", "Value": ["ACME"]})
        (item,) = hit["00081032"]["Value"]
        assert list(item) == ["00080100", "00080104", "00190010", "00191001"]
        assert (item["00191001"], item["00080100"]["Value"]) == (secret, ["T-1"])
        (hit,) = archive.search(f"/instances?includefield={names}&includefield={sequence}")
        assert hit["00081032"]["Value"][0]["00080102"]["Value"] == ["SRT"]
        (item,) = archive.get(f"{url(ds)}/metadata?includefield={sequence}.CodeValue,00191001").json
        assert item["00081032"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["T-1"]}}]
        assert "00190010" in item

    def test_all(self, stored: Client) -> None:
        hit = stored.search(f"/studies/{STUDY_B}/instances?includefield=all")[0]
        assert hit["00280102"]["Value"] == [7]
        assert hit["7FE00010"]["BulkDataURI"].startswith("http://localhost/studies/")

    def test_field_inside_a_sequence(self, archive: Client) -> None:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.3", "1.2.4"
        archive.store(instance(ReferencedImageSequence=[item]))
        found = archive.search("/instances?ReferencedImageSequence.ReferencedSOPInstanceUID=1.2.4")
        assert found[0]["00081140"]["Value"] == [{"00081155": {"vr": "UI", "Value": ["1.2.4"]}}]


class TestRepresentations:
    def test_types(self, stored: Client) -> None:
        for accept, expected in (
            ("application/dicom+json", "application/dicom+json"),
            ("application/json", "application/json"),
            ("*/*", "application/dicom+json"),
            ("text/html, */*;q=0.1", "application/dicom+json"),
        ):
            assert stored.get("/studies", headers={"Accept": accept}).headers["Content-Type"] == expected

    def test_nothing_fits(self, stored: Client) -> None:
        answer = stored.get("/studies", headers={"Accept": "image/png"}, status=406)
        assert "application/dicom+json" in answer.json["offered"]

    def test_accept_parameter(self, stored: Client) -> None:
        assert stored.get("/studies?accept=text/csv").content_type == "text/csv"

    def test_xml(self, stored: Client) -> None:
        answer = stored.get("/studies", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
        assert answer.body.count(b"<NativeDicomModel") == 2

    def test_csv(self, stored: Client) -> None:
        answer = stored.get("/studies", headers={"Accept": "text/csv"})
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert rows[0]["PatientName"] == "Müller^Jörg=山田^太郎"
        assert rows[1]["ModalitiesInStudy"] == "CT\\MR"

    def test_csv_runs_no_formula(self, archive: Client) -> None:
        archive.store(instance(PatientID="=1+1"))
        assert "'=1+1" in archive.get("/studies", headers={"Accept": "text/csv"}).text

    def test_gzip_when_taken(self, stored: Client) -> None:
        coded = []
        environ = TestRequest.blank("/instances?includefield=all", headers={"Accept-Encoding": "gzip"}).environ
        body = b"".join(stored.app(environ, lambda status, headers: coded.extend(headers)))
        assert ("Content-Encoding", "gzip") in [(name.title(), value) for name, value in coded]
        assert len(json.loads(gzip.decompress(body))) == 4
