"""Files that are indexed where they are: over HTTP below allowed folders only, and by `import --link`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomweb_server.__main__ import main
from tests.http.conftest import Archive, Client, opened
from tests.samples import instance, part10, url

FILE = {"Accept": "application/dicom; transfer-syntax=*"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    return tmp_path / "images"


@pytest.fixture
def archive(make_archive: Archive, folder: Path) -> Client:
    return make_archive({"links.folders": [str(folder)]})


def put(path: Path, **attributes: Any) -> Dataset:
    ds = instance(**attributes)
    path.write_bytes(part10(ds))
    return ds


def link(archive: Client, path: object, status: int = 200) -> Any:
    return archive.post(f"/linkFolder?path={path}", status=status).json


def counts(answer: dict[str, Any]) -> dict[str, int]:
    return {key: number for key, number in answer.items() if isinstance(number, int) and number}


class TestLinkedFiles:
    def test_are_served_from_where_they_are(self, archive: Client, folder: Path, tmp_path: Path) -> None:
        ds = put(folder / "deep" / "1.dcm")
        (folder / "notes.txt").write_text("no instance")
        before = (folder / "deep" / "1.dcm").stat()
        assert counts(link(archive, folder)) == {"stored": 1, "skipped": 1}
        assert archive.get(url(ds), headers=FILE).body == part10(ds)
        frame = archive.get(f"{url(ds)}/frames/1", headers={"Accept": "application/octet-stream"})
        assert frame.body == ds.PixelData
        assert len(archive.search("/studies")) == 1
        assert (folder / "deep" / "1.dcm").stat() == before
        (kept,) = (path for path in (tmp_path / "data0" / "blobs").rglob("*") if path.is_file())
        assert kept.stat().st_size < 500

    def test_again_is_the_same(self, archive: Client, folder: Path, tmp_path: Path) -> None:
        put(folder / "1.dcm")
        link(archive, folder)
        assert counts(link(archive, folder)) == {"same": 1}
        assert len([path for path in (tmp_path / "data0" / "blobs").rglob("*") if path.is_file()]) == 1

    def test_deleting_leaves_the_file(self, archive: Client, folder: Path, tmp_path: Path) -> None:
        ds = put(folder / "1.dcm")
        link(archive, folder)
        archive.delete(f"/studies/{ds.StudyInstanceUID}", status=204)
        assert archive.search("/studies") == []
        assert (folder / "1.dcm").read_bytes() == part10(ds)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda path: path.unlink(), "is missing"),
            (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "has changed"),
            (lambda path: os.utime(path, (1, 1)), "has changed"),
        ],
    )
    def test_missing_and_changed_ones_are_told(
        self, archive: Client, folder: Path, change: Callable[[Path], None], words: str
    ) -> None:
        ds = put(folder / "1.dcm")
        link(archive, folder)
        change(folder / "1.dcm")
        for path in (url(ds), f"{url(ds)}/frames/1"):
            answer = archive.get(path, status=500).json
            assert "linked into the archive" in answer["reason"]
            assert words in answer["reason"]
            assert str(folder) not in answer["reason"]
        assert len(archive.search("/studies")) == 1

    def test_a_folder_on_the_way_that_became_a_link_is_another_one(
        self, archive: Client, folder: Path, tmp_path: Path
    ) -> None:
        ds = put(folder / "deep" / "1.dcm")
        link(archive, folder)
        (folder / "deep").rename(tmp_path / "moved")
        (folder / "deep").symlink_to(tmp_path / "moved")
        assert "is missing" in archive.get(url(ds), status=500).json["reason"]


class TestWhatIsRefused:
    def test_all_of_it_unless_folders_are_allowed(self, make_archive: Archive, folder: Path) -> None:
        assert "links.folders" in link(make_archive(), folder, status=403)["reason"]

    def test_other_folders_whether_they_exist_or_not(self, archive: Client, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "images2").mkdir()
        (folder / "out").symlink_to(tmp_path)
        for path in (tmp_path, tmp_path / "images2", tmp_path / "none", folder / "..", folder / "out", "/etc"):
            assert link(archive, path, status=403)["reason"] == "this folder may not be linked (links.folders)"

    def test_what_is_no_folder(self, archive: Client, folder: Path) -> None:
        for path in ("", "images", "images/%00"):
            link(archive, path, status=400)
        link(archive, folder / "none", status=404)

    def test_symbolic_links_zips_and_bad_files(self, archive: Client, folder: Path, tmp_path: Path) -> None:
        put(tmp_path / "secret.dcm")
        (folder / "link.dcm").symlink_to(tmp_path / "secret.dcm")
        (folder / "out").symlink_to(tmp_path)
        put(folder / "bad.dcm", SeriesInstanceUID=None)
        answer = link(archive, folder)
        assert counts(answer) == {"refused": 3}
        assert {Path(item["file"]).name: item["reason"] for item in answer["refusals"]} == {
            "link.dcm": "symbolic links are not followed here",
            "out": "symbolic links are not followed here",
            "bad.dcm": "Series Instance UID (0020,000E) is missing",
        }
        assert archive.search("/studies") == []

    def test_files_of_the_archive_itself(self, make_archive: Archive, tmp_path: Path) -> None:
        archive = make_archive({"links.folders": [str(tmp_path)]})
        archive.store(instance())
        answer = link(archive, tmp_path / "data0" / "blobs")
        assert [item["reason"] for item in answer["refusals"]] == ["this is a file of the archive itself"]

    def test_where_other_machines_could_share_the_database(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DICOMWEB__STORAGE__BACKEND", "mongodb")
        assert main(["import", str(folder), "--link"]) == 1
        assert "only into an archive on sqlite and files" in capsys.readouterr().err


def test_import_link_follows_links_and_refuses_zips(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ds = put(tmp_path / "elsewhere.dcm")
    (folder / "1.dcm").symlink_to(tmp_path / "elsewhere.dcm")
    assert main(["import", str(folder), "--link", "--jobs", "1", "--data", str(tmp_path / "data")]) == 0
    (folder / "1.dcm").unlink()  # the real path was kept
    with opened(tmp_path / "data", {}) as archive:
        assert archive.get(url(ds), headers=FILE).body == part10(ds)
    capsys.readouterr()
    assert main(["check", "--data", str(tmp_path / "data")]) == 0
    (tmp_path / "elsewhere.dcm").unlink()
    capsys.readouterr()
    assert main(["check", "--data", str(tmp_path / "data")]) != 0
    assert "linked into the archive is missing" in capsys.readouterr().out
