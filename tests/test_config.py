from __future__ import annotations

from pathlib import Path

import pytest

from quince import config, config_sources, environment
from quince.errors import UsageError, WrongOption


@pytest.fixture(autouse=True)
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a configuration file."""
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_flag_beats_the_environment_beats_the_default() -> None:
    assert config_sources.load({}, {}).port == 8000
    assert config_sources.load({}, {"QUINCE_PORT": "9000"}).port == 9000
    assert config_sources.load({"port": 9001, "host": None}, {"QUINCE_PORT": "9000"}).port == 9001


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"port": 70000}, {}, "--port = 70000"),
        ({}, {"QUINCE_PORT": "many"}, "QUINCE_PORT = 'many'"),
        ({"temperature": 3.0}, {}, "--temperature = 3.0"),
        ({}, {"QUINCE_LOG_LEVEL": "loud"}, "QUINCE_LOG_LEVEL = 'loud'"),
        ({}, {"QUINCE_HOST": ""}, "QUINCE_HOST = ''"),  # which would be every address
    ],
)
def test_a_bad_value_is_named_with_its_source(flags: dict[str, object], environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        config_sources.load(flags, environ)
    assert named in refused.value.message
    assert "\n" not in refused.value.message


def keys(flags: dict[str, object], environ: dict[str, str]) -> list[str]:
    return [key.get_secret_value() for key in config_sources.load(flags, environ).api_key]


def test_keys_from_flags_and_from_the_environment() -> None:
    """A flag is one key, whatever is in it; the variable is as many as it has commas; they are not merged."""
    variable = {"QUINCE_API_KEY": "a, b,c"}
    assert keys({}, {}) == []
    assert keys({}, variable) == ["a", "b", "c"]
    assert keys({"api_key": ["d,e", "ü"]}, variable) == ["d,e", "ü"]


@pytest.mark.parametrize("text", ["", " ", "open sesame", "sesame\n\nsesame"])
def test_a_key_that_is_none_is_refused_and_not_shown(text: str) -> None:
    """Serving everybody because a variable was empty would be worse."""
    for flags, environ, source in (
        ({"api_key": ["sesame", text]}, {}, "--api-key: "),
        ({}, {"QUINCE_API_KEY": text}, "QUINCE_API_KEY: "),
        ({}, {"QUINCE_API_KEY": f"sesame,{text}"}, "QUINCE_API_KEY: "),
    ):
        with pytest.raises(UsageError) as refused:
            config_sources.load(flags, environ)
        assert refused.value.message.startswith(source)
        assert "sesame" not in refused.value.message


def test_a_configuration_does_not_show_its_keys() -> None:
    settings = config_sources.load({"api_key": ["sesame"]}, {})
    assert "sesame" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    with pytest.raises(ValueError, match="port") as refused:
        config.ServeConfig.model_validate({"api_key": ["sesame"], "port": "x"})
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "http://localhost:3000", "https://chat.example", "app://obsidian.md", "http://[::1]:80"],
)
def test_origins(origin: str) -> None:
    assert config_sources.load({}, {"QUINCE_CORS_ORIGIN": f"{origin}, http://Other"}).cors_origin == (
        origin,
        "http://other",
    )


@pytest.mark.parametrize("origin", ["", "localhost", "http://localhost/", "http://a/b", "http://", "http://*/", "**"])
def test_what_no_browser_sends_as_an_origin(origin: str) -> None:
    with pytest.raises(UsageError, match=r"--cors-origin = .*an origin is"):
        config_sources.load({"cors_origin": [origin]}, {})


def test_the_configuration_is_frozen() -> None:
    settings = config_sources.load({}, {})
    with pytest.raises(Exception, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_the_home_is_moved_by_the_environment() -> None:
    assert environment.home({}) == Path.home() / ".quince"
    assert environment.home({"QUINCE_HOME": "/somewhere"}) == Path("/somewhere")
    assert config_sources.load({}, {"QUINCE_HOME": "/somewhere"}).home == Path("/somewhere")
    assert environment.home({"QUINCE_HOME": ""}) == Path.home() / ".quince"


def test_models_to_preload() -> None:
    assert config_sources.load({"preload": ["a", "b"]}, {}).preload == ("a", "b")
    assert config_sources.load({"preload": []}, {"QUINCE_PRELOAD": "a, b"}).preload == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"model": "m", "preload": ["a"]}, {}, "--preload"),
        ({"model": "m"}, {"QUINCE_IDLE_TTL": "5"}, "QUINCE_IDLE_TTL"),
        ({"model_type": "llm"}, {}, "--model-type"),
        ({"model": "m", "model_type": "audio"}, {}, "--model-type = 'audio'"),
        ({"max_loaded_models": 0}, {}, "--max-loaded-models = 0"),
        ({"memory_budget": 5}, {}, "--memory-budget = 5"),
        (
            {"prefix_cache_dir": "/tmp/x"},
            {},
            "--prefix-cache-dir is for files, of which there are none without --prefix",
        ),
        ({"prefix_cache_disk_bytes": 0}, {"QUINCE_PREFIX_CACHE_DIR": "/tmp/x"}, "QUINCE_PREFIX_CACHE_DIR"),
        (
            {"model": "m", "prefix_cache_bytes": 0},
            {"QUINCE_PREFIX_CACHE_DISK_BYTES": "1"},
            "QUINCE_PREFIX_CACHE_DISK_BYTES",
        ),
    ],
)
def test_what_does_not_go_together(flags: dict[str, object], environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        config_sources.load(flags, environ)
    assert named in refused.value.message
    # Wrong usage of the command line, by its exit code, is only what stands on it.
    assert isinstance(refused.value, WrongOption) is named.startswith("--")


def test_the_files_directory_rests_where_its_files_are_turned_off(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("prefix_cache_disk_bytes: 1000\nprefix_cache_dir: /tmp/x\n")
    environ = {"QUINCE_HOME": str(tmp_path)}
    assert config_sources.load({}, environ).prefix_cache_dir == "/tmp/x"
    assert config_sources.load({"prefix_cache_disk_bytes": 0}, environ).prefix_cache_disk_bytes == 0
    (tmp_path / "config.yaml").write_text("prefix_cache_dir: /tmp/x\n")
    with pytest.raises(UsageError, match="line 1: prefix_cache_dir is for files"):
        config_sources.load({}, environ)


def test_what_goes_together() -> None:
    flags = {"model": "m", "max_loaded_models": 1, "auto_download": True, "model_type": "auto"}
    settings = config_sources.load(flags, {})
    assert settings.auto_download and settings.max_loaded_models == 1


def test_bits_of_keys_and_values_are_numbers_in_the_environment_too() -> None:
    settings = config_sources.load({}, {"QUINCE_KV_BITS": "8", "QUINCE_KV_GROUP_SIZE": "32"})
    assert (settings.kv_bits, settings.kv_group_size) == (8, 32)
    with pytest.raises(UsageError, match="QUINCE_KV_BITS = '5'"):
        config_sources.load({}, {"QUINCE_KV_BITS": "5"})


def test_an_adapter_needs_the_model_that_it_is_for() -> None:
    assert config_sources.load({"model": "m", "adapter": "/a"}, {}).adapter == "/a"
    with pytest.raises(UsageError, match="--adapter is for a server of one MODEL"):
        config_sources.load({"adapter": "/a"}, {})


def test_adapters_have_names_and_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config_sources.load({"model": "m"}, {"QUINCE_ADAPTERS": "sql=/a/../b, poet=c=d"})
    assert settings.adapter_directories == {"sql": "/b", "poet": f"{tmp_path}/c=d"}
    assert config_sources.load({"model": "m", "adapters": ["x=/y"]}, {}).adapter_directories == {"x": "/y"}
    for wrong, why in (("sql", "NAME=DIR"), ("a:b=/c", "NAME=DIR"), ("a=", "has a name"), ("a=/b,a=/c", "names two")):
        with pytest.raises(UsageError, match=f"QUINCE_ADAPTERS = .*{why}"):
            config_sources.load({"model": "m"}, {"QUINCE_ADAPTERS": wrong})


def test_adapters_need_one_model_and_no_adapter_for_all() -> None:
    with pytest.raises(UsageError, match="--adapters is for a server of one MODEL"):
        config_sources.load({"adapters": ["x=/y"]}, {})
    with pytest.raises(UsageError, match="--adapter is for all requests: it cannot be combined with QUINCE_ADAPTERS"):
        config_sources.load({"model": "m", "adapter": "/a"}, {"QUINCE_ADAPTERS": "x=/y"})


def test_a_server_of_all_models_where_the_settings_name_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: m\nadapter: /a\nqueue_size: 3\n")
    home = {"QUINCE_HOME": str(tmp_path)}
    settings = config_sources.load_for_all_models({"preload": ["n"]}, home)
    assert (settings.model, settings.adapter, settings.preload, settings.queue_size) == (None, None, ("n",), 3)
    (tmp_path / "config.yaml").unlink()
    environ = {**home, "QUINCE_MODEL": "m", "QUINCE_ADAPTER": "/a", "QUINCE_QUEUE_SIZE": "4"}
    settings = config_sources.load_for_all_models({"preload": ["n"]}, environ)
    assert (settings.model, settings.adapter, settings.queue_size) == (None, None, 4)
    with pytest.raises(UsageError, match="QUINCE_ADAPTER"):
        config_sources.load_for_all_models({}, {**home, "QUINCE_ADAPTER": "/a"})


def test_directories_of_media_are_found_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/quince")
    environ = {"QUINCE_ALLOWED_MEDIA_PATH": "/a/../b,pictures, ~/c"}
    assert config_sources.load({}, environ).allowed_media_path == ("/b", f"{tmp_path}/pictures", "/home/quince/c")
    with pytest.raises(UsageError, match="QUINCE_ALLOWED_MEDIA_PATH"):
        config_sources.load({}, {"QUINCE_ALLOWED_MEDIA_PATH": ""})
