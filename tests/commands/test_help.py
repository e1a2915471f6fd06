"""Every command explains itself: --help with an example that its own parser takes."""

import shlex
from pathlib import Path

import pytest

from dicomweb_server.__main__ import COMMANDS, main

KEEPING = ("backup", "restore-backup", "check", "migrate", "rebuild", "export", "edit")


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_help_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shlex.split(_example(_help(name, capsys)))[0] == name


@pytest.mark.parametrize("name", KEEPING)
def test_help_has_the_exit_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Exit status: 0" in _help(name, capsys)


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
    assert "There is no study, series or instance 1.2.3 in the bin." in capsys.readouterr().err
    assert main(["import", str(tmp_path), "--jobs", "1", *data, str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    for words in (["bin", "list", "--nothing"], ["check", "something"], ["bin", "list", *data, "1.2", "--nothing"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
        told = capsys.readouterr().err
        assert "unrecognized arguments" in told
        assert f"usage: dicomweb-server {words[0]}" in told


def _help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def _example(told: str) -> str:
    return " ".join(told.rpartition("Example: dicomweb-server ")[2].split())
