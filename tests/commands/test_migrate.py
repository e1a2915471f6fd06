"""`dicomweb-server migrate`, and that of several who start on an older schema one upgrades and the others wait."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from backends.sqlite import SQLiteStorage
from dicomweb_server.__main__ import main
from dicomweb_server.storage.records import Scope
from tests.commands.archives import opened, settings_file, store
from tests.contract.older import to_schema_1
from tests.live import ROOT
from tests.samples import instance

# Stops itself (SIGSTOP) between two steps of the upgrade.
STOPS = """
import os, signal, sys
from backends.sqlite import schema
from dicomweb_server.__main__ import main

upgrade = schema._add_bin

def stopping(connection):
    os.kill(os.getpid(), signal.SIGSTOP)
    upgrade(connection)

schema._add_bin = stopping
sys.exit(main(["migrate", "--config", sys.argv[1]]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive of schema 1."""
    path = settings_file(tmp_path / "archive")
    with opened(path) as archive:
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1"))
    to_schema_1(tmp_path / "archive" / "index.sqlite")
    return path


def migrate(path: Path, *options: str) -> int:
    return main(["migrate", "--config", str(path), *options])


def version(path: Path) -> int:
    with closing(sqlite3.connect(path.with_suffix("") / "index.sqlite")) as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    return int(found)


def test_an_older_schema(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate(path, "--dry-run") == 0
    assert capsys.readouterr().out.startswith("The archive would be upgraded from schema 1 to ")
    assert version(path) == 1
    assert migrate(path) == 0
    assert capsys.readouterr().out.startswith("The archive was upgraded from schema 1 to ")
    assert migrate(path) == 0
    assert capsys.readouterr().out.endswith("nothing is to do.\n")
    with opened(path) as archive:
        assert archive.storage.is_exact(scope=Scope(study_uid="1.2.3"))


def test_no_archive_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate(settings_file(tmp_path / "none")) == 0
    assert "There is no archive yet" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_newer_schema_is_refused_in_a_sentence(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(path.with_suffix("") / "index.sqlite")) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    for options in ((), ("--dry-run",)):
        assert migrate(path, *options) == 1
        told = capsys.readouterr().err
        assert told.startswith(
            "dicomweb-server: The archive was written by a newer release: it has schema 99, this one "
        )
        assert told.count("\n") == 1


def test_others_wait_for_the_one_that_upgrades(path: Path) -> None:
    """Longer than they wait for other writers: an upgrade of a large archive takes its time."""
    index = path.with_suffix("") / "index.sqlite"
    storages = [SQLiteStorage(str(index), busy_timeout_seconds=0.3) for _ in range(4)]
    with closing(sqlite3.connect(index, isolation_level=None)) as upgrading:
        upgrading.execute("BEGIN IMMEDIATE")
        threads = [threading.Thread(target=storage.open) for storage in storages]
        for thread in threads:
            thread.start()
        threads[0].join(1)
        assert all(thread.is_alive() for thread in threads)
        upgrading.execute("ROLLBACK")
    for thread in threads:
        thread.join(60)
    for storage in storages:
        with closing(storage):
            assert len(list(storage.instances(scope=Scope(study_uid="1.2.3")))) == 1


@pytest.mark.parametrize("goes_on", [True, False], ids=["goes on", "killed"])
def test_others_wait_for_one_that_is_stopped_in_the_midst_of_it(path: Path, goes_on: bool) -> None:
    storage = SQLiteStorage(str(path.with_suffix("") / "index.sqlite"), busy_timeout_seconds=0.1)
    with subprocess.Popen([sys.executable, "-W", "error", "-c", STOPS, str(path)], cwd=ROOT) as process:
        try:
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            waiting = threading.Thread(target=storage.open)
            waiting.start()
            waiting.join(0.5)  # longer than for other writers
            assert waiting.is_alive()
            assert version(path) == 1
            process.send_signal(signal.SIGCONT if goes_on else signal.SIGKILL)
            assert process.wait(60) == (0 if goes_on else -signal.SIGKILL)
            waiting.join(60)
        finally:
            process.kill()
    with closing(storage):
        assert len(list(storage.instances(scope=Scope(study_uid="1.2.3")))) == 1
        assert storage.is_exact(scope=Scope(study_uid="1.2.3"))
    assert version(path) > 1
