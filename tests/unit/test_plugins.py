"""Plug-ins: the table, entry points and module:attribute, and every way in which a name can be wrong."""

import configparser
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from dicomweb_server import plugins
from dicomweb_server.errors import ConfigError
from dicomweb_server.plugins import BLOBS, STORAGE, Kind, blob_store_class, find_class, storage_class
from dicomweb_server.storage.base import BlobStore, Storage

SETUP_CFG = Path(__file__).parents[2] / "setup.cfg"


class Base:
    """What the plug-ins of these tests implement."""


class Plugin(Base):
    """A plug-in."""


HERE = f"{__name__}:Plugin"
KIND = Kind(label="thing", group="dicomweb_server.things", base=Base, builtin={"own": HERE})


def refusal(name: str, kind: Kind = KIND) -> str:
    with pytest.raises(ConfigError) as caught:
        find_class(name, kind)
    return caught.value.message


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """The entry points that the code sees."""
    found: list[EntryPoint] = []

    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints(found).select(group=group)

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    return found


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, KIND.group)


DRIVERS = {"mongodb": "pymongo", "couchdb": "couchdb", "s3": "obstore"}


@pytest.mark.parametrize("name", STORAGE.builtin)
def test_the_built_in_storages_are_found(name: str) -> None:
    pytest.importorskip(DRIVERS.get(name, "sqlite3"), reason=f"pip install 'dicomweb-server[{name}]'")
    assert issubclass(storage_class(name), Storage)


@pytest.mark.parametrize("name", BLOBS.builtin)
def test_the_built_in_blob_stores_are_found(name: str) -> None:
    pytest.importorskip(DRIVERS.get(name, "os"), reason=f"pip install 'dicomweb-server[{name}]'")
    assert issubclass(blob_store_class(name), BlobStore)


def test_every_driver_has_an_extra_of_that_name() -> None:
    """A missing one is told as `pip install 'dicomweb-server[NAME]'`."""
    config = configparser.RawConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    extras = config["options.extras_require"]
    assert all(driver in extras[name] for name, driver in DRIVERS.items())
    assert {*STORAGE.builtin, *BLOBS.builtin} - {"sqlite", "files"} == set(DRIVERS)


def test_the_tables_are_those_of_setup_cfg() -> None:
    """An installed package shows other servers what ours are, and a bare checkout has no entry points."""
    config = configparser.RawConfigParser()
    config.read(SETUP_CFG, encoding="utf-8")
    for kind in (STORAGE, BLOBS):
        lines = config["options.entry_points"][kind.group].strip().splitlines()
        assert {name.strip(): value.strip() for name, value in (line.split("=") for line in lines)} == kind.builtin


def test_a_name_is_looked_up_in_table_entry_points_and_modules(entries: list[EntryPoint]) -> None:
    entries.append(entry("other", HERE))
    assert find_class("own", KIND) is find_class("other", KIND) is find_class(HERE, KIND) is Plugin


def test_an_entry_point_that_repeats_the_table_is_no_clash(entries: list[EntryPoint]) -> None:
    entries += [entry("own", HERE), entry("own", HERE)]
    assert find_class("own", KIND) is Plugin


def test_a_name_with_two_meanings_is_refused(entries: list[EntryPoint]) -> None:
    entries.append(entry("own", "elsewhere:Thing"))
    assert refusal("own") == f'two packages provide a thing "own": {HERE} and elsewhere:Thing; remove one'


def test_an_unknown_name_lists_the_known(entries: list[EntryPoint]) -> None:
    entries.append(entry("other", HERE))
    assert refusal("owm") == 'there is no thing "owm"; known are "other", "own", and any class as module:attribute'


@pytest.mark.parametrize("name", ["", ":", "x:", ":x"])
def test_an_incomplete_name_is_unknown(name: str) -> None:
    assert "there is no thing" in refusal(name)


def test_a_class_of_another_kind_is_refused() -> None:
    assert refusal("pathlib:Path") == 'the thing "pathlib:Path" is pathlib:Path, which is no subclass of Base'
    assert "no subclass" in refusal("pathlib:Path.cwd")


def test_a_missing_attribute_or_module_is_named() -> None:
    assert refusal("pathlib:None_such") == 'the thing "pathlib:None_such": pathlib has no None_such'
    assert (
        refusal("no_such.module:X")
        == 'the thing "no_such.module:X" is in the module no_such.module, which is not installed'
    )


def test_a_missing_driver_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_a_driver.py").write_text("import no_such_driver\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    kind = Kind(label="thing", group=KIND.group, base=Base, builtin={"big": "needs_a_driver:Thing"})
    hint = "needs the Python module no_such_driver"
    assert refusal("big", kind) == f"the thing \"big\" {hint}: pip install 'dicomweb-server[big]'"
    assert refusal("needs_a_driver:Thing", kind).endswith(hint)


def test_only_the_chosen_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_imported.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    find_class("own", Kind(label="thing", group=KIND.group, base=Base, builtin={"own": HERE, "x": "never_imported:X"}))
    assert "never_imported" not in sys.modules
