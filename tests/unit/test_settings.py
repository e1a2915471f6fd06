"""Settings: order of the sources, refusals that name what to mend, secrets, dangerous pairs, config/default.toml."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomweb_server.errors import ConfigError
from dicomweb_server.plugins import blob_store_class, storage_class
from dicomweb_server.settings import Settings, load

CONFIG = Path(__file__).parents[2] / "config"
DEFAULT_TOML = CONFIG / "default.toml"


def written(directory: Path, text: str) -> Path:
    path = directory / "site.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(config: Path | None = None, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(config, **{"environ": {}, **given})
    return caught.value.message


class TestSources:
    def test_a_later_source_wins_and_is_told(self, tmp_path: Path) -> None:
        path = written(tmp_path, '[server]\nport = 1\nthreads = 2\nworkers = 3\n[log]\nlevel = "debug"\n')
        settings = load(
            path,
            overrides={"server.port": 11},
            environ={"DICOMWEB__SERVER__PORT": "111", "DICOMWEB__SERVER__THREADS": "22"},
        )
        assert (settings.server.port, settings.server.threads, settings.server.workers) == (11, 22, 3)
        assert settings.log.level == "debug"
        assert settings.sources == {
            "server.port": "command line",
            "server.threads": "environment DICOMWEB__SERVER__THREADS",
            "server.workers": f"file {path}",
            "log.level": f"file {path}",
        }

    def test_every_item_has_a_source(self) -> None:
        items = {name: source for name, _, source in load(environ={"DICOMWEB__LOG__FORMAT": "json"}).items()}
        assert items.pop("log.format") == "environment DICOMWEB__LOG__FORMAT"
        assert set(items.values()) == {"default"}

    def test_the_file_can_be_named_by_the_environment(self, tmp_path: Path) -> None:
        path = written(tmp_path, "[search]\nmax_results = 7\n")
        assert load(environ={"DICOMWEB_CONFIG": str(path)}).search.max_results == 7

    def test_the_environment_of_the_process_is_read_by_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DICOMWEB__SEARCH__MAX_RESULTS", "9")
        assert load().search.max_results == 9

    @pytest.mark.parametrize(
        ("variable", "text", "value"),
        [
            ("DICOMWEB__HTTP__PREFIXES", ",/pacs", ("", "/pacs")),
            ("DICOMWEB__HTTP__PREFIXES", '["/a", "/b"]', ("/a", "/b")),
            ("DICOMWEB__HTTP__ALLOWED_ORIGINS", "", ()),
            ("DICOMWEB__STOW__WIPE_PREAMBLE", "yes", True),
            ("DICOMWEB__STOW__WIPE_PREAMBLE", "0", False),
            ("DICOMWEB__STORAGE__DIRECTORY", "/srv/x", Path("/srv/x")),
            ("DICOMWEB__HTTP__EMPTY_SEARCH_STATUS", "204", 204),
        ],
    )
    def test_text_of_the_environment_becomes_the_type_of_the_setting(
        self, variable: str, text: str, value: object
    ) -> None:
        _, section, key = variable.lower().split("__")
        assert getattr(getattr(load(environ={variable: text}), section), key) == value


class TestRefusals:
    def test_an_unknown_key_names_file_key_and_the_nearest(self, tmp_path: Path) -> None:
        path = written(tmp_path, "[server]\nprot = 1\n")
        assert refusal(path) == f'{path}: "server.prot" is not known; did you mean "server.port"?'

    def test_an_unknown_section_names_the_nearest(self, tmp_path: Path) -> None:
        path = written(tmp_path, "[serach]\nmax_results = 1\n")
        assert refusal(path) == f'{path}: "serach" is not known; did you mean "search"?'

    def test_a_key_that_is_near_to_nothing_lists_the_known(self, tmp_path: Path) -> None:
        assert "known are max_results" in refusal(written(tmp_path, "[search]\nqqq = 1\n"))

    @pytest.mark.parametrize("key", ["sections", "sources"])
    def test_what_is_no_setting_cannot_be_set(self, tmp_path: Path, key: str) -> None:
        assert "is not known" in refusal(written(tmp_path, f"[storage]\n{key} = 1\n"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('[server]\nport = "80"', "server.port must be a whole number, not '80'"),
            ("[server]\nport = true", "server.port must be a whole number, not True"),
            ("[server]\nport = 70000", "server.port must be between 0 and 65535, not 70000"),
            ("[server]\nthreads = 0", "server.threads must be between 1 and 1024, not 0"),
            ("[stow]\nwipe_preamble = 1", "stow.wipe_preamble must be true or false, not 1"),
            ('[stow]\non_duplicate = "keep"', "stow.on_duplicate must be reject or replace, not 'keep'"),
            ("[http]\nempty_search_status = 201", "http.empty_search_status must be 200 or 204, not 201"),
            ('[http]\nprefixes = ["x"]', 'http.prefixes must be paths like "/dicom-web"'),
            ("[http]\nprefixes = []", "http.prefixes must name at least one path"),
            ('[http]\nprefixes = ["/a", "/a"]', "http.prefixes must name at least one path, and each once"),
            ('[http]\npublic_url = "ftp://x"', "http.public_url must be an http or https URL"),
            ('[http]\npublic_url = "https://x/?a=1"', "http.public_url must be an http or https URL"),
            ('[http]\nallowed_origins = ["https://x/path"]', "http.allowed_origins must be origins"),
            ('[http]\nallowed_hosts = ["x:80"]', "http.allowed_hosts must be host names without port"),
            ('[http]\ntrusted_proxies = ["proxy"]', "http.trusted_proxies must be IP addresses"),
            ("[http]\nprefixes = [1]", "http.prefixes must be paths"),
            ('[storage]\ndirectory = ""', "storage.directory must be a path, not ''"),
            ("server = 1", "server is a table of settings, write [server]"),
            ("[server", "is not valid TOML"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused(self, tmp_path: Path, text: str, words: str) -> None:
        path = written(tmp_path, text)
        message = refusal(path)
        assert str(path) in message
        assert words in message

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "none.toml").endswith("cannot be read: No such file or directory")

    @pytest.mark.parametrize(
        ("variable", "words"),
        [
            ("DICOMWEB__SERVER__PROT", 'did you mean "server.port"'),
            ("DICOMWEB__SEVER__PORT", 'did you mean "server"'),
            ("DICOMWEB__SERVER__PORT", "server.port must be a whole number, not 'x'"),
            ("DICOMWEB__STOW__WIPE_PREAMBLE", "stow.wipe_preamble must be true or false, not 'x'"),
            ("DICOMWEB__STORAGE", '"storage."'),
        ],
    )
    def test_a_variable_is_refused_by_name(self, variable: str, words: str) -> None:
        message = refusal(environ={variable: "x"})
        assert variable in message
        assert words in message

    def test_other_variables_are_left_alone(self) -> None:
        assert load(environ={"DICOMWEB_HOME": "x", "PORT": "1"}) == Settings()


class TestPluginTables:
    def test_the_directory_stands_in_the_defaults(self, tmp_path: Path) -> None:
        settings = load(overrides={"storage.directory": tmp_path}, environ={})
        assert settings.storage_section == {"path": str(tmp_path / "index.sqlite")}
        assert settings.blobs_section == {"directory": str(tmp_path)}
        assert settings.blob_store == "files"

    def test_the_table_of_the_chosen_plugin_is_passed_on(self, tmp_path: Path) -> None:
        path = written(
            tmp_path, '[storage]\nbackend = "mine"\n[storage.mine]\nsize = 3\n[blobs.files]\nx = "{directory}/y"\n'
        )
        settings = load(
            path, overrides={"storage.directory": tmp_path}, environ={"DICOMWEB__STORAGE__MINE__DEEP": "true"}
        )
        assert settings.storage_section == {"size": 3, "deep": True}
        assert settings.blobs_section == {"directory": str(tmp_path), "x": f"{tmp_path}/y"}
        assert settings.sources["storage.mine.deep"] == "environment DICOMWEB__STORAGE__MINE__DEEP"

    def test_a_table_of_nothing_in_use_is_refused(self, tmp_path: Path) -> None:
        message = refusal(written(tmp_path, "[storage.sqlit]\npath = 'x'\n"))
        assert message.endswith('[storage.sqlit] belongs to nothing in use; did you mean "sqlite"?')

    def test_a_secret_comes_from_a_file_and_is_masked(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("hush\n", encoding="utf-8")
        settings = load(
            overrides={"storage.backend": "mine"},
            environ={
                "DICOMWEB__STORAGE__MINE__PASSWORD_FILE": str(tmp_path / "password"),
                "DICOMWEB__STORAGE__MINE__URL": "db://me:hush@host/x",
            },
        )
        assert settings.storage_section == {"password": "hush", "url": "db://me:hush@host/x"}
        shown = {name: value for name, value, _ in settings.items()}
        assert shown["storage.mine.password"] == "***"
        assert shown["storage.mine.url"] == "db://me:***@host/x"

    def test_the_keys_of_s3_come_from_files_and_are_masked(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("hush\n", encoding="utf-8")
        variable = "DICOMWEB__BLOBS__S3__SECRET_ACCESS_KEY_FILE"
        settings = load(overrides={"blobs.store": "s3"}, environ={variable: str(tmp_path / "key")})
        assert settings.blobs_section == {"secret_access_key": "hush"}
        assert dict((name, value) for name, value, _ in settings.items())["blobs.s3.secret_access_key"] == "***"

    def test_an_unreadable_secret_is_refused(self) -> None:
        variable = "DICOMWEB__STORAGE__SQLITE__PASSWORD_FILE"
        assert "the file /none cannot be read" in refusal(environ={variable: "/none"})

    def test_a_text_that_looks_like_a_date_stays_a_text(self) -> None:
        settings = load(environ={"DICOMWEB__STORAGE__SQLITE__PATH": "1999-01-01"})
        assert settings.storage_section["path"] == "1999-01-01"


class TestFilesInTheDatabase:
    @pytest.mark.parametrize("text", ["", '[blobs]\nstore = "database"\n'])
    def test_the_blob_store_has_the_name_and_the_table_of_the_storage(self, tmp_path: Path, text: str) -> None:
        storage = '[storage]\nbackend = "couchdb"\n[storage.couchdb]\nurl = "http://x:5984"\n'
        settings = load(written(tmp_path, storage + text), environ={})
        assert (settings.storage.backend, settings.blob_store) == ("couchdb", "couchdb")
        assert settings.blobs_section == settings.storage_section == {"url": "http://x:5984"}

    def test_another_table_of_the_same_name_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path, '[storage]\nbackend = "couchdb"\n[blobs.couchdb]\nurl = "http://x:5984"\n')
        assert "the table [blobs.couchdb] belongs to nothing in use" in refusal(path)

    def test_a_store_of_its_own_has_its_own_table(self, tmp_path: Path) -> None:
        path = written(tmp_path, '[storage]\nbackend = "mongodb"\n[blobs]\nstore = "s3"\n[blobs.s3]\nbucket = "b"\n')
        settings = load(path, environ={})
        assert (settings.blob_store, settings.blobs_section) == ("s3", {"bucket": "b"})

    def test_sqlite_keeps_no_files(self, tmp_path: Path) -> None:
        message = refusal(written(tmp_path, '[blobs]\nstore = "database"\n'))
        assert message.endswith('blobs.store is "database", but SQLite keeps no files; choose "files" or "s3"')

    @pytest.mark.parametrize(("name", "driver"), [("mongodb", "pymongo"), ("couchdb", "couchdb")])
    def test_the_file_of_a_database_fits_it(self, name: str, driver: str) -> None:
        """Storage and blob store take every key of the file."""
        pytest.importorskip(driver, reason=f"pip install 'dicomweb-server[{name}]'")
        settings = load(CONFIG / f"{name}.toml", environ={})
        storage_class(settings.storage.backend).from_settings(settings=settings.storage_section)
        blob_store_class(settings.blob_store).from_settings(settings=settings.blobs_section)
        assert settings.blobs_in_database


class TestPublicAddress:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "archive.example"])  # noqa: S104
    def test_a_public_address_needs_consent(self, host: str) -> None:
        assert "server.allow_public_without_login = true" in refusal(overrides={"server.host": host})
        consent = {"server.host": host, "server.allow_public_without_login": True}
        assert load(overrides=consent, environ={}).server.is_public

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
    def test_a_loopback_address_needs_none(self, host: str) -> None:
        assert not load(overrides={"server.host": host}, environ={}).server.is_public


def test_host_names_hold_what_the_server_is_called() -> None:
    settings = Settings()
    settings = replace(
        settings,
        server=replace(settings.server, host="2001:db8::A"),
        http=replace(settings.http, public_url="https://Archive.example/pacs", allowed_hosts=("Other",)),
    )
    assert settings.host_names == {"other", "[2001:db8::a]", "archive.example"}


def test_default_toml_is_the_defaults() -> None:
    """Every key is in the file, with the value of the code, and the file can be loaded as it is."""
    in_file = {
        f"{section}.{key}": value
        for section, table in tomllib.loads(DEFAULT_TOML.read_text(encoding="utf-8")).items()
        for key, value in flattened(table)
    }
    in_code = {name: plain(value) for name, value, _ in Settings().items()}
    assert {name: str(Path(v)) if name == "storage.directory" else v for name, v in in_file.items()} == in_code
    assert replace(load(DEFAULT_TOML, environ={}), sources={}) == Settings()


def flattened(table: dict[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        pairs += [(f"{key}.{inner}", v) for inner, v in value.items()] if isinstance(value, dict) else [(key, value)]
    return pairs


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
