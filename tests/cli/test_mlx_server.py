"""mlx-server's three forms: what each of their words means, which defaults hold, and what goes before what."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from quince.cli import background, mlx_server, models
from quince.config import NO_OPTIONS, ServeConfig
from quince.models import demo
from quince.server import run

DEMO = str(demo.path(demo.CHAT))


@dataclasses.dataclass
class Started:
    """What would have been served, downloaded and stopped."""

    config: ServeConfig | None = None
    pulled: str | None = None
    stopped: list[int | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    found = Started()
    monkeypatch.setenv("QUINCE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "serve", lambda config: setattr(found, "config", config))
    monkeypatch.setattr(models, "pull_missing", lambda name: setattr(found, "pulled", name))
    monkeypatch.setattr(background, "stop", lambda *, port: found.stopped.append(port))
    monkeypatch.chdir(tmp_path)
    return found


def mlx(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mlx-server", *args])
    with pytest.raises(SystemExit) as ended:
        mlx_server.main()
        sys.exit(0)
    return int(ended.value.code or 0)


def served(started: Started, monkeypatch: pytest.MonkeyPatch, *args: str) -> dict[str, Any]:
    """What is not as in a `quince serve` without any words."""
    assert mlx(monkeypatch, *args) == 0
    assert started.config is not None
    plain = ServeConfig(home=started.config.home)
    names = set(ServeConfig.model_fields) - NO_OPTIONS
    return {
        name: getattr(started.config, name) for name in names if getattr(started.config, name) != getattr(plain, name)
    }


ANY = {"any_model_name": True}
LAUNCH = {**ANY, "host": "0.0.0.0", "model_type": "llm", "max_running_requests": 1}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), ANY),
        (("/m",), {**ANY, "model": "/m"}),
        (("/m", "--port", "9", "--host", "0.0.0.0"), {**ANY, "model": "/m", "port": 9, "host": "0.0.0.0"}),
        (
            ("/m", "--adapter", "/a", "--max-tokens", "200", "--temperature", "0.8", "--log-level", "DEBUG"),
            {**ANY, "model": "/m", "adapter": "/a", "max_tokens": 200, "temperature": 0.8, "log_level": "debug"},
        ),
        (("/m", "--log-file", "server.log"), {**ANY, "model": "/m", "log_file": Path("server.log")}),
        (("/m", "--temperature", "0"), {**ANY, "model": "/m", "temperature": 0}),
        (("/m", "--verbose", "--workers", "1"), {**ANY, "model": "/m", "log_level": "debug"}),
        (("--model", "/m"), {**ANY, "model": "/m", "port": 8080, "ctx_size": 4096}),
        (("-m", "/m", "--port", "9", "--ctx-size", "64"), {**ANY, "model": "/m", "port": 9, "ctx_size": 64}),
        (("/m", "--ctx-size", "64"), {**ANY, "model": "/m", "ctx_size": 64}),
        (("launch", "--model-path", "/m"), {**LAUNCH, "model": "/m"}),
        (
            ("launch", "--model-path", "/m", "--model-type", "vlm", "--port", "9", "--host", "::1"),
            {**LAUNCH, "model": "/m", "model_type": "vlm", "port": 9, "host": "::1"},
        ),
        (
            ("launch", "--model-path=/m", "--max-concurrency=8", "--queue-timeout=5", "--queue-size=7"),
            {**LAUNCH, "model": "/m", "max_running_requests": 8, "queue_timeout": 5, "queue_size": 7},
        ),
    ],
)
def test_flags(
    started: Started, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], expected: dict[str, Any]
) -> None:
    assert served(started, monkeypatch, *args) == expected


def test_the_short_forms_context_is_no_longer_than_the_models(
    started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    for file in Path(DEMO).iterdir():
        (tmp_path / "small" / file.name).symlink_to(file)
    config = json.loads((Path(DEMO) / "config.json").read_text()) | {"max_position_embeddings": 512}
    (tmp_path / "small" / "config.json").unlink()
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    assert served(started, monkeypatch, "-m", "./small")["ctx_size"] == 512
    assert served(started, monkeypatch, "-m", DEMO)["ctx_size"] == 4096
    monkeypatch.setenv("QUINCE_CTX_SIZE", "1000")
    assert served(started, monkeypatch, "-m", "./small")["ctx_size"] == 1000


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HOST", "0.0.0.0", {"host": "0.0.0.0"}),
        ("PORT", "8080", {"port": 8080}),
        ("MODEL_PATH", "/m", {"model": "/m"}),
        ("LOG_LEVEL", "DEBUG", {"log_level": "debug"}),
        ("LOG_LEVEL", "CRITICAL", {"log_level": "error"}),
        ("DEFAULT_MAX_TOKENS", "7", {"max_tokens": 7}),
        ("CORS_ORIGINS", "http://a, http://b", {"cors_origin": ("http://a", "http://b")}),
        ("HOST", "", {}),
    ],
)
def test_variables(
    started: Started, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv(f"MLX_SERVER_{variable}", value)
    assert served(started, monkeypatch) == {**ANY, **expected}


def test_the_key_of_a_variable(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_SERVER_API_KEY", "your-secret-key")
    (key,) = served(started, monkeypatch, "launch", "--model-path", "/m")["api_key"]
    assert key.get_secret_value() == "your-secret-key"


DESCRIBED = {
    "host": "127.0.0.1",
    "port": 8001,
    "log_level": "INFO",
    "model_path": "/path/to/model",
    "adapter_path": None,
    "default_max_tokens": 150,
    "default_temperature": 0.7,
    "logs_dir": "./logs",
    "cors_enabled": True,
    "cors_origins": ["*"],
}
IN_WORDS = {
    **ANY,
    "port": 8001,
    "model": "/path/to/model",
    "max_tokens": 150,
    "temperature": 0.7,
    "log_file": Path("logs/mlx-server.log"),
    "cors_origin": ("*",),
}


def write(tmp_path: Path, settings: dict[str, Any]) -> str:
    (tmp_path / "config.json").write_text(json.dumps(settings, indent=2))
    return "config.json"


def test_the_described_file(started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write(tmp_path, DESCRIBED)
    assert served(started, monkeypatch, "--config", file) == IN_WORDS
    assert served(started, monkeypatch, "/m", "--config", file) == {**IN_WORDS, "model": "/m"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"cors_enabled": False}, {name: value for name, value in IN_WORDS.items() if name != "cors_origin"}),
        ({"cors_origins": None}, IN_WORDS),
        ({"cors_origins": ["http://a"]}, {**IN_WORDS, "cors_origin": ("http://a",)}),
        ({"queue-size": 3}, {**IN_WORDS, "queue_size": 3}),
        ({"any_model_name": False}, {name: value for name, value in IN_WORDS.items() if name != "any_model_name"}),
    ],
)
def test_changes_of_the_file(
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    assert served(started, monkeypatch, "--config", write(tmp_path, {**DESCRIBED, **more})) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modelpath": "/m"}, ("config.json, line 2", "modelpath", "did you mean 'model_path'?")),
        ({"model": "/m", "model_path": "/m"}, ("config.json, line 3: model_path", "said above, as model")),
        ({"port": "many"}, ("config.json, line 2: port = 'many'",)),
        ({"cors_enabled": "perhaps"}, ("config.json, line 2: cors_enabled = 'perhaps'",)),
        ({"logs_dir": ["a"]}, ("config.json, line 2: logs_dir", "one value")),
    ],
)
def test_a_file_that_cannot_be(
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    assert mlx(monkeypatch, "--config", write(tmp_path, settings)) == 1
    told = capsys.readouterr().err
    assert told.startswith("mlx-server: ") and told.count("\n") == 1 and all(word in told for word in words), told
    assert started.config is None


def test_what_goes_before_what(started: Started, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A default of mlx-server yields to everything, Quince's own file among it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.yaml").write_text("host: 127.0.0.2\nport: 1\nmax_running_requests: 9\n")
    launch = ("launch", "--model-path", "/m")

    def found(*args: str) -> tuple[str, int, int]:
        config = {**ServeConfig().model_dump(), **served(started, monkeypatch, *args)}
        return config["host"], config["port"], config["max_running_requests"]

    assert found(*launch) == ("127.0.0.2", 1, 9)
    file = ("--config", write(tmp_path, {"port": 2}))
    assert found(*file)[1] == 2
    monkeypatch.setenv("QUINCE_PORT", "3")
    assert found(*file)[1] == found(*launch)[1] == 3
    monkeypatch.setenv("MLX_SERVER_PORT", "4")
    assert found(*file)[1] == found(*launch)[1] == 4
    assert found(*file, "--port", "5")[1] == found(*launch, "--port", "5")[1] == 5


def test_only_a_default_that_lets_everybody_in_is_told(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launch = ("launch", "--model-path", "/m")
    mlx(monkeypatch, *launch)
    assert "every machine that reaches this one" in capsys.readouterr().err
    for args in ((*launch, "--host", "0.0.0.0"), (*launch, "--host", "127.0.0.1"), ("/m",)):
        mlx(monkeypatch, *args)
        assert capsys.readouterr().err == ""
    monkeypatch.setenv("MLX_SERVER_API_KEY", "key")
    mlx(monkeypatch, *launch)
    assert capsys.readouterr().err == ""


def test_hub_ids_are_downloaded_where_the_described_servers_do_it(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlx(monkeypatch, "owner/name")
    assert started.pulled is None
    mlx(monkeypatch, "--model", "owner/name")
    assert started.pulled == "owner/name"
    mlx(monkeypatch, "launch", "--model-path", "owner/other")
    assert started.pulled == "owner/other"


def test_stop(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    mlx(monkeypatch, "--stop")
    mlx(monkeypatch, "--stop", "--port", "8123")
    monkeypatch.setenv("MLX_SERVER_PORT", "8124")
    mlx(monkeypatch, "--stop")
    assert started.stopped == [None, 8123, 8124] and started.config is None


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("/m", "--workers", "4"), 1, ("--workers 4", "more than one brings nothing")),
        (("/m", "--workers", "0"), 2, ("--workers",)),
        (("/m", "-m", "/n"), 2, ("given twice",)),
        (("/m", "--verbose", "--log-level", "INFO"), 2, ("--verbose",)),
        (("/m", "--log-level", "LOUD"), 2, ("--log-level = 'loud'",)),
        (("-m", "/m", "--api-key", ""), 2, ("--api-key", "a key is not empty")),
        (("--adapter", "/a"), 2, ("--adapter is for a server of one MODEL",)),
        (("launch",), 2, ("--model-path",)),
        (("launch", "--model-path", "/m", "--model-type", "audio"), 2, ("audio",)),
        (("launch", "--model-path", "/m", "--max-concurrency", "0"), 2, ("--max-concurrency = 0",)),
        (("/m", "--nothing"), 2, ("--nothing",)),
    ],
)
def test_what_is_refused(
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    assert mlx(monkeypatch, *args) == code
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert started.config is None


def test_a_wrong_variable_is_named(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLX_SERVER_PORT", "many")
    assert mlx(monkeypatch, "/m") == 1
    assert "MLX_SERVER_PORT = 'many'" in capsys.readouterr().err
