"""`dicomweb-server import`: folders and zips of any depth, refusals, a second run, a kill, an interrupt."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.opening import open_parts
from dicomweb_server.settings import load
from dicomweb_server.storage.records import Scope
from tests.live import ROOT
from tests.samples import instance, part10

KILL_FILES = 1500


def imported(data: Path, *arguments: str | Path) -> int:
    """In this process, with one process of work."""
    return main(["import", *map(str, arguments), "--data", str(data), "--jobs", "1"])


def stored(data: Path) -> dict[str, bytes]:
    """The bytes of every instance in the archive."""
    storage, blobs = open_parts(load(overrides={"storage.directory": str(data)}, environ={}))
    try:
        return {one.instance_uid: b"".join(blobs.stream(key=one.blob.key)) for one in storage.instances(scope=Scope())}
    finally:
        storage.close()
        blobs.close()


def blob_files(data: Path) -> int:
    return sum(1 for path in (data / "blobs").rglob("*") if path.is_file())


def zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def journal(path: Path) -> list[dict[str, Any]]:
    return [line for text in path.read_bytes().splitlines() if text and "name" in (line := orjson.loads(text))]


def new_files(number: int) -> dict[str, bytes]:
    """By SOP Instance UID."""
    made = [instance("1.2.3", "1.2.3.4", f"1.2.3.4.{place + 1}", InstanceNumber=place) for place in range(number)]
    return {str(ds.SOPInstanceUID): part10(ds) for ds in made}


class TestWhatIsFound:
    def test_folders_and_zips_of_any_depth(self, tmp_path: Path) -> None:
        files = new_files(6)
        plain, deep, packed, nested, disguised, upper = files.items()
        inner = zipped({"a/b.zip": zipped({nested[0]: nested[1]}), "notes.txt": b"no instance"})
        folder = tmp_path / "in" / "x" / "y"
        folder.mkdir(parents=True)
        (tmp_path / "in" / "no extension").write_bytes(plain[1])
        (folder / "deep.dcm").write_bytes(deep[1])
        (folder / "packed.zip").write_bytes(zipped({"study/1": packed[1], "inner.zip": inner, "__MACOSX/._1": b"x"}))
        (folder / "disguised.bin").write_bytes(zipped({"1": disguised[1]}))
        (tmp_path / "OTHER.ZIP").write_bytes(zipped({"1": upper[1]}))
        log = tmp_path / "log.jsonl"
        assert imported(tmp_path / "data", tmp_path / "in", tmp_path / "OTHER.ZIP", "--log", log) == 0
        assert stored(tmp_path / "data") == files
        names = {line["name"].removeprefix(f"{tmp_path}/"): line["fate"] for line in journal(log)}
        assert names == {
            "in/no extension": "stored",
            "in/x/y/deep.dcm": "stored",
            "in/x/y/packed.zip!study/1": "stored",
            "in/x/y/packed.zip!inner.zip!a/b.zip!1.2.3.4.4": "stored",
            "in/x/y/packed.zip!inner.zip!notes.txt": "skipped",
            "in/x/y/disguised.bin!1": "stored",
            "OTHER.ZIP!1": "stored",
        }

    def test_a_folder_that_links_to_itself_is_read_once(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
        (tmp_path / "in" / "dangling").symlink_to(tmp_path / "nowhere")
        (content,) = new_files(1).values()
        (tmp_path / "in" / "1.dcm").write_bytes(content)
        log = tmp_path / "log.jsonl"
        assert imported(tmp_path / "data", tmp_path / "in", "--log", log) == 3
        assert Counter(line["fate"] for line in journal(log)) == {"stored": 1, "refused": 1}

    def test_it_is_in_the_archive_as_if_stored_by_a_client(self, tmp_path: Path) -> None:
        """The same instance again is nothing new, other bytes under its UID are refused and told."""
        ds = instance("1.2.3", "1.2.3.4", "1.2.3.4.5")
        (tmp_path / "1.dcm").write_bytes(part10(ds))
        (tmp_path / "same.dcm").write_bytes(part10(ds))
        ds.InstanceNumber = 77
        (tmp_path / "z.dcm").write_bytes(part10(ds))
        log = tmp_path / "log.jsonl"
        paths = [tmp_path / name for name in ("1.dcm", "same.dcm", "z.dcm")]
        assert imported(tmp_path / "data", *paths, "--log", log) == 3
        fates = {line["name"].rpartition("/")[2]: (line["fate"], line["reason"]) for line in journal(log)}
        assert fates["1.dcm"] == ("stored", "")
        assert fates["same.dcm"] == ("same", "")
        assert fates["z.dcm"] == (
            "refused",
            "another instance with this SOP Instance UID is stored, with other content; it was kept",
        )
        assert blob_files(tmp_path / "data") == 1


class TestRefusals:
    def test_each_has_its_reason_and_spoils_no_other(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        good = new_files(3)
        first, second, third = good.items()
        bomb = zipped({"zeros": bytes(100 << 20), second[0]: second[1]})
        encrypted = bytearray(zipped({"secret": third[1]}))
        for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            encrypted[encrypted.index(signature) + place] |= 1
        damaged = bytearray(zipped({"damaged": third[1]}))
        damaged[60] ^= 0xFF
        folder = tmp_path / "in"
        folder.mkdir()
        for name, data in {
            "1": first[1],
            "2.zip": bomb,
            "3.zip": bytes(encrypted),
            "4.zip": bytes(damaged),
            "5.dcm": part10(instance(StudyInstanceUID=None)),
            "6.dcm": third[1][:-200][:400],
            "7.zip": b"no zip at all",
            "8": third[1],
        }.items():
            (folder / name).write_bytes(data)
        log = tmp_path / "log.jsonl"
        assert imported(tmp_path / "data", folder, "--log", log) == 3
        assert stored(tmp_path / "data") == good
        refused = {
            line["name"].rpartition("/")[2]: line["reason"] for line in journal(log) if line["fate"] == "refused"
        }
        assert refused["2.zip!zeros"] == "it unpacks to more than 1000 times its size"
        assert refused["3.zip!secret"] == "encrypted in its zip"
        assert refused["4.zip!damaged"] == "the zip is damaged"
        assert refused["5.dcm"] == "Study Instance UID (0020,000D) is missing"
        assert set(refused) == {"2.zip!zeros", "3.zip!secret", "4.zip!damaged", "5.dcm", "6.dcm"}
        said = capsys.readouterr().out
        assert said.startswith("3 stored, 0 were there already, 5 refused, 1 files skipped that are no instances.\n")
        assert "  refused 1: encrypted in its zip\n" in said

    def test_a_file_that_is_named_itself_and_is_no_instance(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In a folder or a zip it is passed over; who names it wants to know that it is not in the archive."""
        ((uid, content),) = new_files(1).items()
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "notes.txt").write_text("no instance")
        (folder / "1.dcm").write_bytes(content)
        (tmp_path / "zip.bin").write_bytes(zipped({"notes.txt": b"no instance"}))
        log = tmp_path / "log.jsonl"
        (tmp_path / "named.txt").write_text("no instance")
        named = [tmp_path / "named.txt", tmp_path / "zip.bin", folder]
        for arguments in ((), ("--resume",)):
            assert imported(tmp_path / "data", *named, "--log", log, *arguments) == 3
            assert "  refused 1: not a DICOM file: truncated: " in capsys.readouterr().out
        fates = Counter((line["name"].rpartition("/")[2], line["fate"]) for line in journal(log))
        assert fates == {
            ("named.txt", "refused"): 2,
            ("notes.txt", "skipped"): 1,
            ("zip.bin!notes.txt", "skipped"): 1,
            ("1.dcm", "stored"): 1,
        }
        assert imported(tmp_path / "data", "--link", tmp_path / "named.txt") == 3
        assert stored(tmp_path / "data") == {uid: content}

    def test_a_path_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert imported(tmp_path / "data", tmp_path / "nowhere") == 1
        assert capsys.readouterr().err == f"dicomweb-server: There is no {tmp_path}/nowhere.\n"

    def test_a_number_of_processes_that_cannot_be(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["import", str(tmp_path), "--jobs", "0"])
        assert caught.value.code == 2

    def test_an_archive_that_is_full_stops_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("DICOMWEB__DISK__QUOTA_BYTES", "1")
        (tmp_path / "1.dcm").write_bytes(part10(instance()))
        assert imported(tmp_path / "data", tmp_path / "1.dcm") == 1
        said = capsys.readouterr()
        assert "reached its quota" in said.err
        assert "--resume to go on" in said.out


class TestGoingOn:
    def test_what_is_done_is_not_read_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        (folder / "bad.dcm").write_bytes(part10(instance(SeriesInstanceUID=None)))
        (folder / "readme").write_text("no instance")
        for uid, content in new_files(5).items():
            (folder / uid).write_bytes(content)
        assert imported(tmp_path / "data", folder) == 3
        (content,) = new_files(1).values()
        (folder / "bad.dcm").write_bytes(part10(instance("1.2.3", "1.2.3.4", "1.2.3.4.99")))
        (folder / "new.dcm").write_bytes(content)
        capsys.readouterr()
        assert imported(tmp_path / "data", folder, "--resume") == 0
        assert capsys.readouterr().out.startswith(
            "1 stored, 1 were there already, 0 refused.\n6 files were done before.\n"
        )

    def test_a_kill_loses_nothing(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        files = new_files(KILL_FILES)
        for place, (uid, content) in enumerate(files.items()):
            path = folder / str(place % 30) / uid
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        data, log = tmp_path / "data", tmp_path / "log.jsonl"
        with started(data, folder, "--jobs", "2", "--log", log) as process:
            wait_for_lines(log, process)
            workers = children(process.pid)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        wait_for_end(workers)
        noted = {line["instance_uid"] for line in journal_until_killed(log)}
        assert noted <= stored(data).keys()
        assert 0 < len(noted) < KILL_FILES
        assert imported(data, folder, "--resume", "--log", log) == 0
        assert stored(data) == files
        assert blob_files(data) == KILL_FILES

    def test_an_interrupt_is_noted_and_told(self, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        for uid, content in new_files(KILL_FILES).items():
            (folder / uid).write_bytes(content)
        data, log = tmp_path / "data", tmp_path / "log.jsonl"
        with started(data, folder, "--jobs", "2", "--log", log) as process:
            wait_for_lines(log, process)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            said, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert said.startswith("Not complete: ")
        assert "Traceback" not in errors
        assert {line["instance_uid"] for line in journal(log)} == stored(data).keys()


def started(data: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "dicomweb_server", "import", *map(str, arguments)]
    return subprocess.Popen(
        [*command, "--data", str(data)],
        cwd=data.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(log: Path, process: subprocess.Popen[str]) -> None:
    """Until something has been stored and noted."""
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_end(pids: list[int]) -> None:
    """Workers end by themselves when the command is gone."""
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def journal_until_killed(path: Path) -> list[dict[str, Any]]:
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [line for text in whole.splitlines() if text and "name" in (line := orjson.loads(text))]


def test_off_a_terminal_it_says_little_and_nothing_moves(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(part10(instance()))
    with started(tmp_path / "data", tmp_path / "1.dcm") as process:
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.splitlines()[0] == "1 stored, 0 were there already, 0 refused."
    assert "\r" not in said + errors
