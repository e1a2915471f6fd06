"""What commands say of folders that this user may not read or write: in one sentence what to do, with the path."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomweb_server.__main__ import main
from tests.samples import instance, part10

STUDY = "1.2.3"
_CAPABILITIES_V3 = 0x20080522
_OVERRIDE = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: by these root opens everything

ON_THE_ARCHIVE = [
    ("import", "{}/in"),
    ("watch", "{}/in", "--once"),
    ("check",),
    ("rebuild",),
    ("migrate",),
    ("migrate", "--dry-run"),
    ("backup", "{}/new"),
    ("restore-backup", "{}/backup"),
    ("export", STUDY, "--to", "{}/new"),
    ("remove", STUDY),
    ("restore", STUDY),
    ("bin", "list"),
    ("edit", STUDY, "--set", "PatientName=A^B", "--reason", "wrong"),
    ("user", "list"),
    ("key", "list"),
    ("audit",),
]
ON_OTHERS = [
    ("backup", "{}/closed/new"),
    ("backup", "{}/closed"),
    ("restore-backup", "{}/closed"),
    ("export", STUDY, "--to", "{}/closed/new"),
    ("export", STUDY, "--to", "{}/closed/new.zip"),
    ("import", "{}/in", "--log", "{}/closed/log"),
    ("import", "{}/closed/in"),
]


@contextmanager
def as_others_are() -> Iterator[None]:
    """Permissions count also for root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, held)
    without = (ctypes.c_uint32 * 6)(held[0] & ~_OVERRIDE, *held[1:])
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive in `data`, with one study, a backup of it in `backup`, and a folder that is closed."""
    folder = tmp_path_factory.mktemp("permissions")
    (folder / "in").mkdir()
    (folder / "in" / "1.dcm").write_bytes(part10(instance(STUDY)))
    data = ("--data", str(folder / "data"))
    assert main(["import", str(folder / "in"), "--jobs", "1", *data]) == 0
    assert main(["backup", str(folder / "backup"), *data]) == 0
    (folder / "closed").mkdir(mode=0)
    return folder


@contextmanager
def mode(top: Path, *, folders: int, files: int) -> Iterator[None]:
    """The tree with these permissions, and as before in the end."""
    paths = [*top.rglob("*"), top]
    before = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(folders if path.is_dir() else files)
    try:
        yield
    finally:
        for path in reversed(paths):
            path.chmod(before[path])


def said(folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    jobs = ("--jobs", "1") if words[0] == "import" else ()
    capsys.readouterr()
    with as_others_are():
        status = main([*(word.format(folder) for word in words), *jobs, "--data", str(folder / "data")])
    return status, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("words", ON_THE_ARCHIVE, ids=" ".join)
def test_an_archive_of_somebody_else(folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for folders, files in ((0o000, 0o000), (0o555, 0o444)):
        with mode(folder / "data", folders=folders, files=files):
            status, lines = said(folder, words, capsys)
        assert status == 1
        assert lines[-1].startswith(f"This user may not use {folder}/data")
        assert lines[-1].endswith(": run it as the user whose files these are, or change their permissions.")
        assert len(lines) == 2
        assert "no archive" not in lines[0]


@pytest.mark.parametrize("words", ON_OTHERS, ids=" ".join)
def test_another_folder_of_somebody_else(
    folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = said(folder, words, capsys)
    assert status == 1
    assert len(lines) == 2
    assert lines[-1].startswith(f"This user may not use {folder}/closed")
