"""Configuration files of every kind of right and wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from quince import config_sources
from quince.errors import UsageError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def load(
    home: Path, text: str | bytes, flags: dict[str, Any] | None = None, name: str = "config.yaml", **env: str
) -> Any:
    data = text.encode() if isinstance(text, str) else text
    (home / name).write_bytes(data)
    return config_sources.load(flags or {}, {"QUINCE_HOME": str(home), **env})


def refusal(home: Path, text: str | bytes, flags: dict[str, Any] | None = None, name: str = "config.yaml") -> str:
    """What is said of it after the file's path."""
    with pytest.raises(UsageError) as refused:
        load(home, text, flags, name)
    message = refused.value.message
    assert "\n" not in message
    assert message.startswith(str(home / name))
    return message.removeprefix(str(home / name))


def test_yaml(home: Path) -> None:
    found = load(
        home,
        """
# mine
host: 0.0.0.0
port: 9000
queue-size: 7
queue_timeout: 1e2
any-model-name: yes
api_key: [0123, "a,b"]
preload:
  - qwen3:0.6b
  - "no"
log_level: debug
""",
    )
    assert (found.host, found.port, found.queue_size, found.queue_timeout) == ("0.0.0.0", 9000, 7, 100)
    assert found.any_model_name and found.log_level == "debug" and found.preload == ("qwen3:0.6b", "no")
    assert [key.get_secret_value() for key in found.api_key] == ["0123", "a,b"], "text stays as it is written"


@pytest.mark.parametrize(
    "text",
    [
        '{"port": 9000, "cors-origin": ["*"], "models": {"a\\u00e9/b\\ud83d\\ude00": {"top_k": 5}}, "host": null}',
        '{"port":9000,"cors-origin":["*"],"models":{"a\\u00e9\\/b\\ud83d\\ude00":{"top_k":5}}}',
        '{\n\t"port": 9000,\r\n\t"cors_origin":\t["*"],\n\t"models": {"aé/b😀": {"top-k": 5}}\n}\n',
    ],
)
def test_json(home: Path, text: str) -> None:
    found = load(home, text, name="config.json")
    assert (found.port, found.cors_origin, found.host) == (9000, ("*",), "127.0.0.1")
    assert found.models["aé/b😀"].top_k == 5


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null", "\ufeffport: 8000", "models:", "port: ~"])
@pytest.mark.parametrize("name", ["config.yaml", "config.yml"])
def test_a_file_that_says_nothing(home: Path, text: str, name: str) -> None:
    assert load(home, text, name=name) == config_sources.load({}, {"QUINCE_HOME": str(home)} | {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("host: a\n\n\nprot: 1", ", line 4: unknown key 'prot'; did you mean 'port'?"),
        ("queue-sise: 1", ", line 1: unknown key 'queue-sise'; did you mean 'queue-size'?"),
        ("model: m\nqueue_sise: 1", ", line 2: unknown key 'queue_sise'; did you mean 'queue_size'?"),
        ("xyzzy: 1", ", line 1: unknown key 'xyzzy'"),
        ("home: /x", ", line 1: home: the home directory is set by QUINCE_HOME"),
        ("\nport: eighty", ", line 2: port = 'eighty': Input should be a valid integer"),
        ("port: 70000", ", line 1: port = '70000': Input should be less than or equal to 65535"),
        ("port: yes", ", line 1: port = 'yes': Input should be a valid integer"),
        ("port: 22:22", ", line 1: port = '22:22': Input should be a valid integer"),
        ("any-model-name: perhaps", ", line 1: any-model-name = 'perhaps': Input should be a valid boolean"),
        ("kv_bits: 5", ", line 1: kv_bits = '5': Input should be 4 or 8"),
        ("port: [1]", ", line 1: port: one value belongs here"),
        ("port: {a: 1}", ", line 1: port: one value belongs here"),
        ("preload: {a: 1}", ", line 1: preload: a list of values belongs here"),
        ("preload: [a, [b]]", ", line 1: preload: a list of values belongs here"),
        ("preload: [a, null]", ", line 1: preload: a list of values belongs here"),
        ("port: 1\nhost: a\nport: 2", ", line 3: 'port' stands here again, after line 1"),
        ("queue-size: 1\nqueue_size: 2", ", line 2: 'queue_size' stands here again, after line 1"),
        ("- port", ", line 1: settings are written as 'name: value'"),
        ("port 8000", ", line 1: settings are written as 'name: value'"),
        ("host: a\n\tport: 1", ", line 2: a tab stands here: indent with spaces"),
        ("models:\n\ta: {}", ", line 2: a tab stands here: indent with spaces"),
        ("host: 'a\nport: 1\n", ", line 3: found unexpected end of stream"),
        ("a: b: c", ", line 1: mapping values are not allowed here"),
        ("host: {a", ", line 1: expected ',' or '}', but got '<stream end>'"),
        ("port: 1\n---\nport: 2", ", line 2: but found another document"),
        ("? [a]\n: 1", ", line 1: a name is text, not a list or a section"),
        ("host: !!python/object/apply:os.system [x]", ", line 1: tags (!) are not supported"),
        ("host: !mine x", ", line 1: tags (!) are not supported"),
        ("host: &x a", ", line 1: anchors (&) and aliases (*) are not supported"),
        ("host: *x", ", line 1: anchors (&) and aliases (*) are not supported"),
        ("<<: {port: 1}", ", line 1: unknown key '<<'"),
        ("host: a\0b", ", line 1: a control character stands here"),
        ("host: a\nport: \x07", ", line 2: a control character stands here"),
        (b"host: a\nhost: \xff\xfe", ", line 2: this is no UTF-8 text"),
        ("port: 8000".encode("utf-16"), ", line 1: this is no UTF-8 text"),
        ("[" * 100_000, ", line 1: this is nested too deeply"),
        ("a: " + "{a: " * 20 + "}" * 20, ", line 1: this is nested too deeply"),
        ("# " + "x" * 300_000, " is too large for a configuration file: at most 256 KiB are read"),
        ("models: 5", ", line 1: models: names of models belong here"),
        ("models: [a]", ", line 1: models: names of models belong here"),
        ("models:\n  a: 5", ", line 2: under 'a' its settings belong"),
        ("models:\n  a:\n    temprature: 5", ", line 3: unknown key 'temprature'; did you mean 'temperature'?"),
        ("models:\n  a:\n    port: 5", ", line 3: port: this is for the whole server, not for one model"),
        ("models:\n  a:\n    temperature: 5", ", line 3: temperature = '5': Input should be less than or equal to 2"),
        ("models:\n  a: {}\n  a: {}", ", line 3: 'a' stands here again, after line 2"),
        ("models: {a: {alias: c}, b: {alias: [d, c]}}", ", line 1: alias = 'c': another model here has this name"),
        ("models: {a: {alias: b}, b: {}}", ", line 1: alias = 'b': another model here has this name"),
        ("models: {a: {alias: ''}}", ", line 1: alias = ['']: String should have at least 1 character"),
        ("host: a\nadapter: b", ", line 2: adapter is for a server of one MODEL, and none was given"),
        ("model: a\nidle-ttl: 5", ", line 2: idle-ttl is for a server without a MODEL"),
    ],
)
def test_what_is_refused(home: Path, text: str | bytes, said: str) -> None:
    assert refusal(home, text).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "port" 1}', ", line 2: this is no JSON: Expecting ':' delimiter"),
        ("port: 1", ", line 1: this is no JSON: Expecting value"),
        ('{"port": 1, "port": 2}', ", line 1: 'port' stands here again, after line 1"),
        ('{\n\t"prot": 1}', ", line 2: unknown key 'prot'; did you mean 'port'?"),
        ('{"port": true}', ", line 1: port = 'true': Input should be a valid integer"),
        ("[" * 100_000, ", line 1: this is nested too deeply"),
        ("[]", ", line 1: settings are written as 'name: value'"),
    ],
)
def test_what_is_refused_in_json(home: Path, text: str, said: str) -> None:
    assert refusal(home, text, name="config.json").startswith(said)


def test_no_file(home: Path) -> None:
    for flags, env in (({"config": str(home / "mine.yaml")}, {}), ({}, {"QUINCE_CONFIG": str(home / "mine.yaml")})):
        with pytest.raises(UsageError, match=r"the configuration file .*mine\.yaml cannot be read: No such file"):
            config_sources.load(flags, {"QUINCE_HOME": str(home), **env})


def test_what_is_no_file(home: Path) -> None:
    (home / "config.yaml").mkdir()
    with pytest.raises(UsageError, match="is a directory, not a configuration file"):
        config_sources.load({}, {"QUINCE_HOME": str(home)})
    (home / "config.yaml").rmdir()
    (home / "config.yaml").symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot be read"):
        config_sources.load({}, {"QUINCE_HOME": str(home)})
    (home / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"there are both .*config\.yaml and config\.json: remove one"):
        config_sources.load({}, {"QUINCE_HOME": str(home)})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else(home: Path) -> None:
    (home / "config.yaml").write_text("port: 1")
    (home / "config.yaml").chmod(0)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        config_sources.load({}, {"QUINCE_HOME": str(home)})


def test_flag_over_environment_over_file_over_default(home: Path) -> None:
    text = "port: 9000\npreload: [a]\n"
    assert load(home, text).port == 9000
    assert load(home, text, QUINCE_PORT="9001").port == 9001
    assert load(home, text, {"port": 9002}, QUINCE_PORT="9001").port == 9002
    assert load(home, text, {"preload": ["b"]}).preload == ("b",)
    (home / "mine.json").write_text('{"port": 9003}')
    assert load(home, text, {"config": str(home / "mine.json")}).port == 9003
    assert load(home, text, QUINCE_CONFIG=str(home / "mine.json")).port == 9003


def test_no_secret_is_shown(home: Path) -> None:
    for text in (
        "api_key: [sesame, 'open sesame']",
        "api_key: {sesame: 1}",
        "api_key: *sesame",
        "api_key: !sesame x",
        "api_key: [sesame",
        "api_key: sesame: 1",
        "api_key: 'sesame",
        "api_key: sesame\n x: sesame: y",
    ):
        assert "sesame" not in refusal(home, text)


def test_sections_of_models(home: Path) -> None:
    text = """
temperature: 0.5
idle_ttl: 60
models:
  qwen3:0.6b: {alias: [small, tiny], temperature: 0.1, kv-bits: 8, idle-ttl: null}
  owner/large:
    top_p: 0.5
  nothing:
"""
    found = load(home, text)
    small, large = (found.for_model(found.models[name]) for name in ("qwen3:0.6b", "owner/large"))
    assert (small.temperature, small.kv_bits, small.idle_ttl, small.top_p) == (0.1, 8, None, None)
    assert (large.temperature, large.kv_bits, large.idle_ttl, large.top_p) == (0.5, None, 60, 0.5)
    assert found.for_model(found.models["nothing"]) == found.for_model(None) == found
    assert found.models["qwen3:0.6b"].alias == ("small", "tiny")


def test_a_flag_or_a_variable_overrules_the_sections_too(home: Path) -> None:
    text = "models: {a: {temperature: 0.1, top_k: 5}}"
    for found in (load(home, text, {"temperature": 0.9}), load(home, text, QUINCE_TEMPERATURE="0.9")):
        assert found.for_model(found.models["a"]).temperature == 0.9
        assert found.for_model(found.models["a"]).top_k == 5


def test_one_file_for_servers_of_one_model_and_of_all(home: Path) -> None:
    """What only a server of all models has use for is set aside by `quince serve MODEL`."""
    text = "idle_ttl: 60\npreload: [a]\n"
    assert load(home, text).idle_ttl == 60
    found = load(home, text, {"model": "m"})
    assert (found.idle_ttl, found.preload) == (None, ())
    assert load(home, "adapter: x\n", {"model": "m"}).adapter == "x"
    assert refusal(home, "model: a\nadapter: x\n", {"model": "b"}) == (
        ", line 2: adapter is for the file's own model: write it under 'models'"
    )


def test_where_values_came_from(home: Path) -> None:
    (home / "config.yaml").write_text("port: 1\nhost: a\nmodels:\n  m:\n    top-k: 5\n")
    env = {"QUINCE_HOME": str(home), "QUINCE_HOST": "b"}
    found = config_sources.resolve({"queue_size": 7}, env)
    assert found.file == home / "config.yaml"
    assert {name: (source.kind.value, source.place) for name, source in found.sources.items()} == {
        "home": ("env", "QUINCE_HOME"),
        "queue_size": ("flag", "--queue-size"),
        "host": ("env", "QUINCE_HOST"),
        "port": ("file", f"{found.file}, line 1"),
        ("m", "top_k"): ("file", f"{found.file}, line 5"),
    }
