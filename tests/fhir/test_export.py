"""`dicomweb-server fhir export`."""

from pathlib import Path

import orjson
import pytest
from fhir.resources.R4B.bundle import Bundle

from dicomweb_server.__main__ import main
from tests.fhir.conftest import ROOT, instances
from tests.http.conftest import opened
from tests.samples import part10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, ds in enumerate(instances()):
        (folder / f"{number}.dcm").write_bytes(part10(ds))
    return folder


def test_a_folder(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (folder / "notes.txt").write_text("no image")
    assert main(["fhir", "export", str(folder)]) == 0
    out, err = capfdbinary.readouterr()
    bundle = orjson.loads(out)
    Bundle.model_validate(bundle)
    kinds = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert (kinds.count("ImagingStudy"), kinds.count("Patient"), kinds.count("Endpoint")) == (5, 4, 5)
    assert b"notes.txt" in err
    first = bundle["entry"][0]["resource"]
    assert (first["numberOfSeries"], first["numberOfInstances"]) == (2, 4)
    assert first["subject"]["reference"] == "Patient/p1"


def test_files_show_what_an_archive_of_them_shows(
    folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with opened(tmp_path / "data", {}) as client:
        client.store(*instances())
    assert main(["fhir", "export", f"{ROOT}.1", f"{ROOT}.2", "--data", str(tmp_path / "data")]) == 0
    stored = {one["resource"]["id"]: one["resource"] for one in orjson.loads(capfdbinary.readouterr().out)["entry"]}
    assert main(["fhir", "export", str(folder)]) == 0
    files = orjson.loads(capfdbinary.readouterr().out)["entry"]
    for one in (entry["resource"] for entry in files):
        if one["resourceType"] == "ImagingStudy" and one["id"] in stored:
            archived = {name: value for name, value in stored[one["id"]].items() if name not in ("meta", "subject")}
            if archived["resourceType"] == "ImagingStudy":
                assert archived == {name: value for name, value in one.items() if name != "subject"}
    assert sum(one["resourceType"] == "Patient" for one in stored.values()) == 1


def test_other_forms_and_what_fails(folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    one = str(folder / "0.dcm")
    assert main(["fhir", "export", one, "--r5"]) == 0
    study = orjson.loads(capfdbinary.readouterr().out)["entry"][0]["resource"]
    assert study["modality"] == [{"coding": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}]}]
    assert main(["fhir", "export", one, "--xml"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"<?xml")
    for wrong in (["nothing.dcm"], ["1.2.3", "--data", str(tmp_path / "empty")], [one, "--r5", "--xml"]):
        assert main(["fhir", "export", *wrong]) == 1
        assert capfdbinary.readouterr().err
