"""Every command explains itself: --help with an example that its own parser takes."""

import shlex

import pytest

from dicomweb_server.__main__ import main

KEEPING = ("backup", "restore-backup", "check", "migrate", "rebuild", "export")


@pytest.mark.parametrize("name", KEEPING)
def test_help_has_an_example_and_the_exit_status(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    example = " ".join(told.rpartition("Example: dicomweb-server ")[2].split())
    assert shlex.split(example)[0] == name
    assert "Exit status: 0" in told


@pytest.mark.parametrize("name", KEEPING)
def test_wrong_usage(name: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--no-such-option"])
    assert caught.value.code == 2
