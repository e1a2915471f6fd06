"""`dicomweb-server export`: what it chooses, what it writes, what it refuses."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.fileset import FileSet

from dicomweb_server.__main__ import main
from dicomweb_server.storage.records import Scope
from tests.commands.archives import blob_file, opened, settings_file, store
from tests.samples import instance, part10


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients, three studies, five instances."""
    path = settings_file(tmp_path_factory.mktemp("source") / "archive")
    with opened(path) as one:
        store(
            one,
            instance("1.2.1", "1.2.1.1", "1.2.1.1.1", SeriesDescription="Scout"),
            instance("1.2.1", "1.2.1.1", "1.2.1.1.2", SeriesDescription="Scout", InstanceNumber=2),
            instance("1.2.1", "1.2.1.2", "1.2.1.2.1", SeriesDescription="Lung"),
            instance("1.2.2", "1.2.2.1", "1.2.2.1.1", StudyDate="20250101"),
            instance("1.2.3", "1.2.3.1", "1.2.3.1.1", PatientID="P2", PatientName="Müller^Ü"),
        )
    return path


def export(archive: Path, *arguments: str | Path) -> int:
    return main(["export", "--config", str(archive), *map(str, arguments)])


@contextmanager
def listing(folder: Path) -> Iterator[FileSet]:
    """What the DICOMDIR of a medium lists."""
    found = FileSet(folder / "DICOMDIR")
    yield found
    found._stage["t"].cleanup()  # pydicom leaves it to the garbage collector, which warns


def uids(folder: Path) -> set[str]:
    return {dcmread(path).SOPInstanceUID for path in (folder / "DICOM").rglob("I*")}


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (["1.2.1"], 3),
        (["1.2.1.1"], 2),
        (["1.2.1.2.1"], 1),
        (["1.2.1", "1.2.1.1", "1.2.2"], 4),
        (["PatientID=P1"], 4),
        (["PatientID=P1&StudyDate=20250101-"], 1),
        (["PatientName=m*"], 1),
        (["SeriesDescription=Scout"], 2),
        (["PatientID=P1&InstanceNumber=2"], 1),
        (["PatientID=*"], 5),
    ],
)
def test_what_is_meant(archive: Path, tmp_path: Path, words: list[str], number: int) -> None:
    assert export(archive, *words, "--to", tmp_path / "out") == 0
    assert len(uids(tmp_path / "out")) == number


def test_the_medium_can_be_read(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(archive, "PatientID=*", "--to", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("Exported 5 instances of 3 studies, ")
    with listing(tmp_path / "out") as listed:
        found = {str(item.SOPInstanceUID): Path(item.path) for item in listed}
        names = {str(one) for one in listed.find_values("PatientName")}
    assert set(found) == uids(tmp_path / "out")
    assert names == {"Doe^Jane", "Müller^Ü"}
    with opened(archive) as one:
        (stored,) = one.storage.instances(scope=Scope(study_uid="1.2.3"))
    assert hashlib.sha256(found["1.2.3.1.1"].read_bytes()).hexdigest() == stored.blob.sha256


def test_a_zip_holds_the_same(archive: Path, tmp_path: Path) -> None:
    assert export(archive, "1.2.1", "--to", tmp_path / "new" / "out.ZIP") == 0
    with zipfile.ZipFile(tmp_path / "new" / "out.ZIP") as found:
        assert found.testzip() is None
        found.extractall(tmp_path / "unpacked")
    with listing(tmp_path / "unpacked") as listed:
        assert len(listed) == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.ZIP"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("9.9.9", "There is no study, series or instance 9.9.9."),
        ("PatientID=P9", "Nothing matches 'PatientID=P9'."),
        ("PatientID", "'PatientID' is neither a UID nor a query such as PatientID=4711."),
        ("NoSuchThing=1", "'NoSuchThing=1' cannot be searched for: "),
        ("StudyDate=yesterday", "StudyDate"),
    ],
)
def test_words_that_name_nothing(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, says: str
) -> None:
    assert export(archive, word, "--to", tmp_path / "out") == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.zip").write_bytes(b"mine")
    assert export(archive, "1.2.1", "--to", tmp_path) == 1
    assert "is not empty: an export needs a folder of its own." in capsys.readouterr().err
    assert export(archive, "1.2.1", "--to", tmp_path / "mine.zip") == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_damaged_file_is_told_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = settings_file(tmp_path / "archive")
    with opened(path) as one:
        store(one, instance("1.2.4", "1.2.4.1", "1.2.4.1.1"), part10(instance("1.2.4", "1.2.4.1", "1.2.4.1.2")))
        key = [item.blob.key for item in one.storage.instances(scope=Scope(study_uid="1.2.4"))][1]
    file = blob_file(tmp_path / "archive", key)
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    place = tmp_path / "to" / name
    assert export(path, "1.2.4", "--to", place) == 1
    assert "The file of the instance 1.2.4.1.2" in (told := capsys.readouterr().err)
    assert "is damaged" in told
    assert not list((tmp_path / "to").glob("*"))
