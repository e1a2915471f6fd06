"""Every command explains itself: --help with an example that its own parser takes."""

import shlex

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


def _help(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def _example(told: str) -> str:
    return " ".join(told.rpartition("Example: dicomweb-server ")[2].split())
