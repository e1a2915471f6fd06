"""The commands that keep an archive, on the databases: check, backup and back, rebuild."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomweb_server.__main__ import main
from dicomweb_server.storage.records import Scope
from tests.commands.archives import in_database, opened, settings_file, store
from tests.samples import instance


@pytest.fixture(params=["mongodb", "couchdb"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An archive whose index and files lie in a database."""
    with in_database(request.param, tmp_path) as text:
        yield settings_file(tmp_path / "archive", text)


def test_check_backup_and_back(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(path) as archive:
        store(archive, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in range(1, 6)))
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", InstanceNumber=7))
        store(archive, instance("1.2.4", "1.2.4.1", "1.2.4.1.1"))
        archive.storage.remove(scope=Scope(study_uid="1.2.4"), keep=True)
    assert main(["migrate", "--config", str(path)]) == 0
    assert main(["check", "--config", str(path), "--deep"]) == 0
    assert main(["backup", "--config", str(path), str(tmp_path / "backup")]) == 0
    restored = settings_file(tmp_path / "restored")
    assert main(["restore-backup", "--config", str(restored), str(tmp_path / "backup")]) == 0
    assert main(["check", "--config", str(restored), "--deep"]) == 0
    with opened(path) as archive:
        (lost, *_) = archive.storage.instances(scope=Scope(instance_uid="1.2.3.1.2"))
        archive.blobs.delete(keys=[lost.blob.key])
    capsys.readouterr()
    assert main(["check", "--config", str(path), "--repair"]) == 0
    assert "repaired  missing file: 1.2.3/1.2.3.1/1.2.3.1.2: " in capsys.readouterr().out
    assert main(["check", "--config", str(path), "--deep"]) == 0
