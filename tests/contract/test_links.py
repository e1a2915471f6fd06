"""Links to files elsewhere: one list for all that are kept together, from which each can go alone."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from backends.files import FileBlobStore
from dicomweb_server.errors import LinkBroken, StorageCorrupt
from dicomweb_server.testing.blob_suite import kept, staged
from tests.contract.test_blobs import all_files, opened


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileBlobStore]:
    blobs = opened(tmp_path / "data")
    yield blobs
    blobs.close()


@pytest.fixture
def linked(files: FileBlobStore, tmp_path: Path) -> dict[str, bytes]:
    """Contents of files elsewhere, by the keys of their links, which were kept together."""
    return link(files, tmp_path, 5)


def link(files: FileBlobStore, folder: Path, number: int) -> dict[str, bytes]:
    contents = [b"content %d" % place for place in range(number)]
    paths = [folder / f"file {place}\n" for place in range(number)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    keys = files.keep(staged=[files.link(path=str(path)) for path in paths])
    return dict(zip(keys, contents, strict=True))


def lists(folder: Path) -> list[Path]:
    return all_files(folder / "data" / "blobs")


def read(files: FileBlobStore, key: str) -> bytes:
    return b"".join(files.stream(key=key))


def test_what_is_kept_together_is_one_file_and_reads_as_its_files(
    files: FileBlobStore, tmp_path: Path, linked: dict[str, bytes]
) -> None:
    assert len(lists(tmp_path)) == 1
    assert {key: read(files, key) for key in linked} == linked
    assert {key: files.size(key=key) for key in linked} == {key: len(content) for key, content in linked.items()}
    assert set(files.keys(older_than_seconds=0)) == set(linked)
    assert list(files.keys(older_than_seconds=3600)) == []
    assert all_files(tmp_path / "data" / "staging") == []


def test_links_and_files_are_kept_together_in_their_order(files: FileBlobStore, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    mixed = [files.link(path=str(tmp_path / "a")), staged(files, b"file"), files.link(path=str(tmp_path / "b"))]
    assert [read(files, key) for key in files.keep(staged=mixed)] == [b"a", b"file", b"b"]
    assert len(lists(tmp_path)) == 2


def test_one_goes_without_the_others_and_the_last_takes_the_list_along(
    files: FileBlobStore, tmp_path: Path, linked: dict[str, bytes]
) -> None:
    first, *others = linked
    files.delete(keys=[first, f"{first.removesuffix('-0')}-7", first])
    with pytest.raises(StorageCorrupt, match="is missing"):
        files.stream(key=first)
    assert {key: read(files, key) for key in others} == {key: linked[key] for key in others}
    assert set(files.keys(older_than_seconds=0)) == set(others)
    files.delete(keys=others)
    assert lists(tmp_path) == []
    files.delete(keys=linked)
    assert sorted(path.read_bytes() for path in all_files(tmp_path)) == sorted(linked.values())


@pytest.mark.parametrize("end", ["delete again", "keys"])
def test_a_list_that_was_left_empty_by_a_kill_goes_later(
    files: FileBlobStore, tmp_path: Path, linked: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(os, "unlink", lambda _path: None)
        files.delete(keys=linked)
    assert len(lists(tmp_path)) == 1
    if end == "keys":
        assert list(files.keys(older_than_seconds=0)) == []
    else:
        files.delete(keys=list(linked)[:1])
    assert lists(tmp_path) == []


def test_several_may_delete_at_once(files: FileBlobStore, tmp_path: Path) -> None:
    others = [opened(tmp_path / "data") for _ in range(4)]
    keys = list(link(files, tmp_path, 60))
    threads = [
        threading.Thread(target=lambda store=store, place=place: [store.delete(keys=[key]) for key in keys[place::4]])
        for place, store in enumerate(others)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lists(tmp_path) == []
    for store in others:
        store.close()


def test_a_file_that_is_missing_or_has_changed_spoils_no_other(
    files: FileBlobStore, tmp_path: Path, linked: dict[str, bytes]
) -> None:
    missing, changed, *others = linked
    (tmp_path / "file 0\n").unlink()
    os.utime(tmp_path / "file 1\n", (1, 1))
    for key, words in ((missing, "is missing"), (changed, "has changed")):
        with pytest.raises(LinkBroken, match=words):
            files.size(key=key)
    assert {key: read(files, key) for key in others} == {key: linked[key] for key in others}


def test_a_key_that_leads_into_the_midst_of_a_list_or_to_a_damaged_one(
    files: FileBlobStore, tmp_path: Path, linked: dict[str, bytes]
) -> None:
    first = next(iter(linked))
    for wrong in (f"{first.removesuffix('-0')}-7", f"{first}1", f"{first}0", first.removesuffix("-0"), f"{first}-0"):
        with pytest.raises(StorageCorrupt):
            files.stream(key=wrong)
    (place,) = lists(tmp_path)
    place.write_bytes(b"+\0" + place.read_bytes()[2:])
    with pytest.raises(StorageCorrupt, match="damaged"):
        files.stream(key=first)


def test_links_that_were_kept_one_by_one_before(files: FileBlobStore, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    found = (tmp_path / "a").stat()
    name = kept(files, b"makes the directory")
    key = f"{name[:-1]}{'0' if name[-1] != '0' else '1'}.link"
    content = {"path": os.fsencode(tmp_path / "a").hex(), "size": found.st_size, "stamp": found.st_mtime_ns}
    (tmp_path / "data" / "blobs" / key).write_bytes(orjson.dumps(content))
    assert (read(files, key), files.size(key=key)) == (b"a", 1)
    assert set(files.keys(older_than_seconds=0)) == {name, key}
    os.utime(tmp_path / "data" / "blobs" / key, (time.time() - 7200,) * 2)
    assert list(files.keys(older_than_seconds=3600)) == [key]
    files.delete(keys=[key])
    assert set(files.keys(older_than_seconds=0)) == {name}
