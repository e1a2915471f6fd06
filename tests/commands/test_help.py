"""Every command explains itself: --help with an example that its own parser takes."""

import re
import shlex
from pathlib import Path

import pytest

from dicomweb_server.__main__ import COMMANDS, main
from tests.live import ROOT

KEEPING = ("backup", "restore-backup", "check", "migrate", "rebuild", "export", "edit")


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shlex.split(_example(_help(name, capsys)))[0] == name


@pytest.mark.parametrize("name", KEEPING)
def test_help_has_the_exit_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Exit status: 0" in _help(name, capsys)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_options_in_the_documents_are_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a command with words of its own, such as `user add`, any of them may have the option."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    shown = re.findall(rf"dicomweb-server {name}(?![a-z-])(?: [^`\n#|;)]*)?", text)
    options = {option for line in shown for option in re.findall(r"--[a-z][a-z0-9-]*", line)}
    told = _help(name, capsys)
    for words in re.findall(r"\{([a-z,-]+)\}", told)[:1]:
        told += "".join(_help(f"{name} {word}", capsys) for word in words.split(","))
    assert options <= set(re.findall(r"--[a-z][a-z0-9-]*", told))


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for command in COMMANDS:
        assert f" {command.name} {command.summary}" in told


@pytest.mark.parametrize("name", KEEPING)
def test_wrong_usage(name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--no-such-option"])
    assert caught.value.code == 2


def test_arguments_may_stand_behind_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--data", str(tmp_path / "data"))
    assert main(["bin", "purge", "--before", "2026-01-31", "1.2.3", *data]) == 1
    assert "There is no archive" in capsys.readouterr().err
    assert main(["import", str(tmp_path), "--jobs", "1", *data, str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    for words in (["bin", "list", "--nothing"], ["check", "something"], ["bin", "list", *data, "1.2", "--nothing"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert "unrecognized arguments" in told
        assert f"usage: dicomweb-server {words[0]}" in told


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "copy"),
        ("check",),
        ("export", "1.2", "--to", "out"),
        ("edit", "1.2", "--set", "PatientID=1", "--reason", "why"),
        ("remove", "1.2"),
        ("restore", "1.2"),
        ("bin", "list"),
        ("fhir", "export", "1.2"),
        ("user", "list"),
        ("key", "list"),
        ("audit",),
    ],
)
def test_a_folder_without_an_archive(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--data", "misspelt"]) == 1
    assert "There is no archive in misspelt: name its folder by --data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_went_wrong_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged, file = tmp_path / "damaged", tmp_path / "file"
    damaged.mkdir()
    (damaged / "index.sqlite").write_text("no index")
    file.write_text("no folder")
    for words, advice in (
        (["check", "--data", str(damaged)], "rebuild makes the index again"),
        (
            ["rebuild", "--data", str(file)],
            f"The folder {file / 'blobs'} of the files cannot be made: Not a",
        ),
        (["import", str(tmp_path / "nothing"), "--data", str(tmp_path / "data")], "nothing"),
        (["check", "--config", str(tmp_path / "no.toml")], "cannot be read: No such file"),
    ):
        assert main(words) == 1
        assert advice in capsys.readouterr().err
    config = tmp_path / "config.toml"
    couchdb = '[storage]\nbackend = "couchdb"\n[storage.couchdb]\nurl = "http://127.0.0.1:1"\nwait_seconds = 0\n'
    config.write_text(couchdb, encoding="utf-8")
    assert main(["check", "--config", str(config)]) == 1
    told = capsys.readouterr().err
    assert "CouchDB cannot be reached" in told
    assert "Look whether the database runs" in told


def _help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def _example(told: str) -> str:
    return " ".join(told.rpartition("Example: dicomweb-server ")[2].split())
