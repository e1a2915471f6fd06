"""The real clients against a live server: dicomweb_client as library and command, curl, every sample file."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.live import LiveServer
from tests.samples import PYDICOM_FILES, instance, part10, sample_files, url

COMMAND = str(Path(sys.executable).with_name("dicomweb_client"))
STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@pytest.fixture(scope="module")
def client(live_server: LiveServer) -> DICOMwebClient:
    return DICOMwebClient(live_server.url)


@pytest.fixture(scope="module")
def held(client: DICOMwebClient) -> Dataset:
    """A CT slice that is stored."""
    ds = pydicom.dcmread(PYDICOM_FILES / "CT_small.dcm")
    client.store_instances([ds])
    return ds


def uids(ds: Dataset) -> tuple[str, str, str]:
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)


class TestLibrary:
    @pytest.mark.parametrize("side", [64, 1200])  # below and above the size from which it sends chunks without length
    def test_store_and_retrieve(self, client: DICOMwebClient, side: int) -> None:
        ds = pydicom.dcmread(io.BytesIO(part10(instance(Rows=side, Columns=side, PixelData=bytes(side * side)))))
        assert len(client.store_instances([ds]).ReferencedSOPSequence) == 1
        assert client.retrieve_instance(*uids(ds)).PixelData == ds.PixelData
        assert len(client.retrieve_series(*uids(ds)[:2])) == 1
        assert len(list(client.iter_study(uids(ds)[0]))) == 1

    def test_store_to_another_study_is_refused(self, client: DICOMwebClient) -> None:
        ds = pydicom.dcmread(io.BytesIO(part10(instance())))
        with pytest.raises(requests.HTTPError, match="409"):
            client.store_instances([ds], study_instance_uid=generate_uid())

    def test_search(self, client: DICOMwebClient, held: Dataset) -> None:
        study = uids(held)[0]
        for fuzzy in (True, False):
            found = client.search_for_studies(
                search_filters={"StudyInstanceUID": study}, fields=["StudyDescription", "00080060"], fuzzymatching=fuzzy
            )
            assert len(found) == 1
        assert len(client.search_for_instances(study_instance_uid=study, limit=1)) == 1

    def test_remaining_pages(self, client: DICOMwebClient) -> None:
        study = generate_uid()
        client.store_instances([pydicom.dcmread(io.BytesIO(part10(instance(study)))) for _ in range(5)])
        found = client.search_for_instances(study_instance_uid=study, limit=2, get_remaining=True)
        assert len({item["00080018"]["Value"][0] for item in found}) == 5

    def test_metadata_frames_and_bulk_data(self, client: DICOMwebClient, held: Dataset) -> None:
        metadata = client.retrieve_instance_metadata(*uids(held))
        assert metadata["00080018"]["Value"] == [held.SOPInstanceUID]
        assert client.retrieve_instance_frames(*uids(held), frame_numbers=[1])[0] == held.PixelData
        uri = metadata["7FE00010"]["BulkDataURI"]
        assert b"".join(client.retrieve_bulkdata(uri)) == held.PixelData
        assert b"".join(client.retrieve_bulkdata(uri, byte_range=(0, 99))) == held.PixelData[:100]

    @pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
    def test_frames_of_any_syntax_by_default(self, client: DICOMwebClient, name: str) -> None:
        ds = pydicom.dcmread(PYDICOM_FILES / name)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        client.store_instances([ds])
        stored = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
        assert client.retrieve_instance_frames(*uids(ds), frame_numbers=[1]) == [stored]

    def test_delete(self, client: DICOMwebClient) -> None:
        ds = pydicom.dcmread(io.BytesIO(part10(instance())))
        client.store_instances([ds])
        client.delete_instance(*uids(ds))
        with pytest.raises(requests.HTTPError, match="404"):
            client.retrieve_instance_metadata(*uids(ds))


class TestCommand:
    """The lines of the README, as users type them."""

    def run(self, server: LiveServer, *words: str) -> str:
        done = subprocess.run(
            [COMMAND, "--url", server.url, *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_search(self, live_server: LiveServer, held: Dataset) -> None:
        assert json.loads(self.run(live_server, "search", "studies"))
        found = self.run(live_server, "search", "studies", "--filter", f"PatientID={held.PatientID}", "--fuzzy")
        assert len(json.loads(found)) == 1
        assert json.loads(self.run(live_server, "search", "series", "--study", uids(held)[0]))

    def test_store_by_find_and_xargs(self, live_server: LiveServer, tmp_path: Path) -> None:
        study = generate_uid()
        for number in range(30):
            (tmp_path / f"{number}.DCM").write_bytes(part10(instance(study, InstanceNumber=number)))
        files = f"find '{tmp_path}' -iname '*.dcm' -print0"
        line = f"{files} | xargs -0 -n25 '{COMMAND}' --url {live_server.url} store instances"
        subprocess.run(["bash", "-c", line], check=True, timeout=120)
        hit = requests.get(f"{live_server.url}/studies?StudyInstanceUID={study}", timeout=30).json()[0]
        assert hit["00201208"]["Value"] == [30]

    def test_retrieve(self, live_server: LiveServer, held: Dataset, tmp_path: Path) -> None:
        study, series, sop = uids(held)
        save = ("--save", "--output-dir", str(tmp_path))
        one = ("retrieve", "instances", "--study", study, "--series", series, "--instance", sop)
        assert json.loads(self.run(live_server, "retrieve", "studies", "--study", study, "metadata"))
        self.run(live_server, "retrieve", "studies", "--study", study, "full", *save)
        self.run(live_server, "retrieve", "series", "--study", study, "--series", series, "full", *save)
        assert self.run(live_server, *one, "metadata", "--dicomize")
        self.run(live_server, *one, "full", *save, "--media-type", "application/dicom")
        assert pydicom.dcmread(tmp_path / f"{sop}.dcm").PixelData == held.PixelData
        self.run(live_server, *one, "frames", "--numbers", "1", *save)
        assert any(path.read_bytes() == held.PixelData for path in tmp_path.glob(f"{sop}_*"))


@pytest.mark.skipif(shutil.which("curl") is None, reason="install curl to run this")
class TestCurl:
    def test_form_upload_and_range(self, live_server: LiveServer, tmp_path: Path) -> None:
        ds = instance()
        file = tmp_path / "a.dcm"
        file.write_bytes(part10(ds))
        answer = subprocess.run(
            ["curl", "-sS", "-F", f"anything=@{file}", f"{live_server.url}/studies"], capture_output=True, check=True
        )
        assert json.loads(answer.stdout)["00081199"]["Value"][0]["00081155"]["Value"] == [ds.SOPInstanceUID]
        part = subprocess.run(
            ["curl", "-sS", "-r", "128-131", live_server.url + url(ds)], capture_output=True, check=True
        )
        assert part.stdout == b"DICM"


@pytest.mark.filterwarnings("ignore")  # pydicom's opinion on its samples
def test_every_sample_file_comes_back_as_it_was(live_server: LiveServer) -> None:
    session = requests.Session()
    differing, refused = [], []
    for path in sample_files():
        data = path.read_bytes()
        headers = {"Content-Type": "application/dicom"}
        answer = session.post(f"{live_server.url}/studies", data=data, headers=headers, timeout=60)
        if answer.status_code != 200:
            refused.append(f"{path.name}: {answer.text}")
            continue
        item = answer.json()["00081199"]["Value"][0]
        got = session.get(item["00081190"]["Value"][0], headers={"Accept": STORED}, timeout=60)
        body = got.content.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
        if hashlib.sha256(body).digest() != hashlib.sha256(data).digest():
            differing.append(path.name)
    assert differing == []
    # What is refused is cut short or damaged, and the answer says how.
    assert all("C000" in text or "49152" in text or "273" in text for text in refused), refused
    assert len(refused) < 12, refused
