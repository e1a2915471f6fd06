"""Edits beside other writers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomweb_server.errors import Conflict, StorageFull
from dicomweb_server.opening import ingest_of
from dicomweb_server.services.copy import Archive
from dicomweb_server.services.edit import Cause, Edit
from dicomweb_server.services.edit_intents import Hold, Intent
from dicomweb_server.services.editor import Editor
from dicomweb_server.settings import load
from dicomweb_server.storage.packing import unpack_metadata
from dicomweb_server.storage.records import Document, Scope
from tests.commands.archives import opened, settings_file, store
from tests.samples import instance

STUDY = Scope(study_uid="1.2.3")
CAUSE = Cause(reason="why")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Two instances of a study."""
    with opened(settings_file(tmp_path / "archive")) as found:
        store(found, *(instance("1.2.3", "1.2.3.1", f"1.2.3.1.{number}") for number in (1, 2)))
        yield found


def editor(archive: Archive, tmp_path: Path, text: str = "") -> Editor:
    settings = load(settings_file(tmp_path / "archive", text), environ={})
    return Editor(archive.storage, archive.blobs, ingest_of(settings, archive.storage, archive.blobs, edits=True))


def shown(archive: Archive, text: bytes) -> int:
    """How many instances have this text in their metadata."""
    return sum(text in unpack_metadata(one.deflated) for one in archive.storage.metadata(scope=STUDY))


def test_two_edits_of_one_study_do_not_mix(archive: Archive, tmp_path: Path) -> None:
    work = editor(archive, tmp_path)
    edit = Edit(archive.storage, work)
    plan = edit.attributes(STUDY, {"PatientID": "P2"}, CAUSE)
    with Hold(archive.storage, ["1.2.3"]), pytest.raises(Conflict, match="another edit"):
        edit.run(plan)
    with Hold(archive.storage, ["1.2.4"]):
        assert edit.run(plan).edited == 2


def test_what_is_stored_meanwhile_is_neither_lost_nor_left_out(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = editor(archive, tmp_path)
    write = work.intents.write

    def write_and_store(intent: Intent) -> Document:
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.3"))
        store(archive, instance("1.2.3", "1.2.3.1", "1.2.3.1.1", SeriesDescription="newer"))
        return write(intent)

    monkeypatch.setattr(work.intents, "write", write_and_store)
    edit = Edit(archive.storage, work)
    assert edit.run(edit.attributes(STUDY, {"PatientID": "P2"}, CAUSE)).edited == 3
    assert (shown(archive, b'"P2"'), shown(archive, b'"newer"')) == (3, 1)


def test_where_there_is_no_room_nothing_changes(archive: Archive, tmp_path: Path) -> None:
    edit = Edit(archive.storage, editor(archive, tmp_path, "[disk]\nquota_bytes = 2000\n"))
    with pytest.raises(StorageFull):
        edit.run(edit.attributes(STUDY, {"PatientID": "P2"}, CAUSE))
    assert shown(archive, b'"P2"') == 0
    assert edit.history("1.2.3") == []
