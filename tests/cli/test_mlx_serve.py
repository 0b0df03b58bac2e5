"""mlx-serve's commands: what each of their words means, where files and models are, and what goes before what."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from quince import environment
from quince.cli import background, mlx_serve, service
from quince.config import NO_OPTIONS, ServeConfig
from quince.server import run

# As it stands in the described documents.
DESCRIBED = """\
server:
  host: "0.0.0.0"
  port: 8000

models:
  directory: ~/.mlx-serve/models
  preload:
    - Qwen3-0.6B-4bit
  auto_download: true

cache:
  max_embedding_models: 3
  max_reranker_models: 2
  ttl_seconds: 1800

logging:
  level: INFO
  format: json
"""


class User:
    """Files, and what was done: ``ran`` in the foreground, ``launched`` in the background, ``defined`` as a service."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.file = home / ".mlx-serve" / "config.yaml"
        self.ran: ServeConfig | None = None
        self.launched: list[str] = []
        self.defined: list[str] = []

    def write(self, text: str) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> User:
    found = User(tmp_path / "user")
    monkeypatch.setenv("HOME", str(found.home))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("QUINCE_HOME", raising=False)
    monkeypatch.setenv("QUINCE_MODELS_DIR", "")  # set, so that what a test's command sets is undone
    monkeypatch.delenv("QUINCE_MODELS_DIR")
    monkeypatch.setattr(run, "serve", lambda config: setattr(found, "ran", config))
    monkeypatch.setattr(background, "launch", lambda arguments, _: setattr(found, "launched", list(arguments)))
    monkeypatch.setattr(service, "define", lambda arguments, _: setattr(found, "defined", list(arguments)))
    return found


def mlx(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mlx-serve", *args])
    with pytest.raises(SystemExit) as ended:
        mlx_serve.main()
        sys.exit(0)
    return int(ended.value.code or 0)


def started(user: User, monkeypatch: pytest.MonkeyPatch, *args: str) -> dict[str, Any]:
    """What is not as in a `quince serve` without any words."""
    assert mlx(monkeypatch, "start", "--foreground", *args) == 0
    assert user.ran is not None
    plain = ServeConfig()
    names = set(ServeConfig.model_fields) - NO_OPTIONS
    return {name: getattr(user.ran, name) for name in names if getattr(user.ran, name) != getattr(plain, name)}


OPEN = {"host": "0.0.0.0"}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((), OPEN),
        (("--host", "127.0.0.1", "--port", "9"), {"port": 9}),
        (("--preload", "a", "--preload", "b"), {**OPEN, "preload": ("a", "b")}),
    ],
)
def test_flags(user: User, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], expected: dict[str, Any]) -> None:
    assert started(user, monkeypatch, *args) == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("HOST", "127.0.0.1", {}),
        ("PORT", "8001", {**OPEN, "port": 8001}),
        ("LOG_LEVEL", "WARNING", {**OPEN, "log_level": "warning"}),
        ("PRELOAD_MODELS", "a, b", {**OPEN, "preload": ("a", "b")}),
        ("PRELOAD_MODELS", "", OPEN),
        ("AUTO_DOWNLOAD", "true", {**OPEN, "auto_download": True}),
        ("AUTO_DOWNLOAD", "false", OPEN),
    ],
)
def test_variables(
    user: User, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, expected: dict[str, Any]
) -> None:
    monkeypatch.setenv(f"MLX_SERVE_{variable}", value)
    assert started(user, monkeypatch) == expected


IN_WORDS = {
    **OPEN,
    "preload": ("Qwen3-0.6B-4bit",),
    "auto_download": True,
    "max_embedding_models": 3,
    "max_reranker_models": 2,
    "idle_ttl": 1800,
    "log_format": "json",
}
ARGUMENTS = (
    "--host 0.0.0.0 --port 8000 --preload Qwen3-0.6B-4bit --auto-download --max-embedding-models 3 "
    "--max-reranker-models 2 --idle-ttl 1800.0 --log-level info --log-format json"
)


def test_the_described_file(user: User, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    user.write(DESCRIBED)
    assert started(user, monkeypatch) == IN_WORDS
    assert user.ran is not None and user.ran.models_dir == user.home / ".mlx-serve" / "models"
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 1}\n")
    assert started(user, monkeypatch, "--config", str(other)) == {**OPEN, "port": 1}


def test_servers_in_the_background_and_services_are_told_the_same(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """As arguments of `quince serve`, which reads them as the settings that they are."""
    from typer.testing import CliRunner

    from quince.cli import models
    from quince.cli.main import app

    user.write(DESCRIBED)
    assert mlx(monkeypatch, "start") == mlx(monkeypatch, "service", "install") == 0
    # The values of the file, wherever they stand in the order of the settings.
    assert sorted(user.launched) == sorted(user.defined) == sorted(ARGUMENTS.split())
    monkeypatch.setattr(models, "pull_missing", lambda name: None)
    assert CliRunner().invoke(app, ["serve", *user.launched]).exit_code == 0
    told = user.ran
    assert started(user, monkeypatch) == IN_WORDS and told is not None and user.ran is not None
    assert told.model_copy(update={"named": user.ran.named}) == user.ran


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sever: {port: 1}", ("line 1", "sever", "did you mean 'server'?")),
        ("server:\n  prot: 1", ("line 2", "prot", "did you mean 'port'?")),
        ("server:\n  port: x", ("line 2: server.port = 'x'",)),
        ("server: 8000", ("line 1: server", "name: value")),
        ("port: 8000", ("line 1", "'port'")),
        ("logging:\n  level: LOUD", ("line 2: logging.level = 'loud'",)),
        ("logging:\n  format: xml", ("line 2: logging.format",)),
        ("cache:\n  ttl_seconds: 0", ("line 2: cache.ttl_seconds",)),
        ("cache:\n  max_embedding_models: 0", ("line 2: cache.max_embedding_models",)),
        ("models:\n  preload: {a: b}", ("line 2: preload", "a list of values")),
    ],
)
def test_a_file_that_cannot_be(
    user: User,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: tuple[str, ...],
) -> None:
    user.write(text)
    assert mlx(monkeypatch, "start") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"mlx-serve: {user.file}, ") and told.count("\n") == 1
    assert all(word in told for word in words), told
    assert not user.launched


def test_what_goes_before_what(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A default of mlx-serve yields to everything, Quince's own file among it."""
    (user.home / ".quince").mkdir(parents=True)
    (user.home / ".quince" / "config.yaml").write_text("host: 127.0.0.2\nport: 1\n")

    def found(*args: str) -> tuple[str, int]:
        values = {**ServeConfig().model_dump(), **started(user, monkeypatch, *args)}
        return values["host"], values["port"]

    assert found() == ("127.0.0.2", 1)
    user.write("server: {port: 2}")
    assert found() == ("127.0.0.2", 2)
    monkeypatch.setenv("QUINCE_PORT", "3")
    assert found()[1] == 3
    monkeypatch.setenv("MLX_SERVE_PORT", "4")
    assert found()[1] == 4
    assert found("--port", "5")[1] == 5


def test_a_file_that_is_named_and_missing(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlx(monkeypatch, "start", "--config", "nowhere.yaml") == 1
    assert "nowhere.yaml" in capsys.readouterr().err


# Where models are


def models_of(monkeypatch: pytest.MonkeyPatch) -> Path:
    """For one command: what it has told itself and its children is gone again after it."""
    assert mlx(monkeypatch, "list") == 0
    found = environment.models_directory()
    monkeypatch.delenv("QUINCE_MODELS_DIR", raising=False)
    return found


def test_where_models_are(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `quince` has them; where mlx-serve has left some; where the file says; where the variable says."""
    assert models_of(monkeypatch) == user.home / ".quince" / "models"
    (user.home / ".mlx-serve" / "models").mkdir(parents=True)
    assert models_of(monkeypatch) == user.home / ".mlx-serve" / "models"
    user.write("models: {directory: ~/elsewhere}")
    assert models_of(monkeypatch) == user.home / "elsewhere"
    monkeypatch.setenv("MLX_SERVE_MODELS_DIR", "~/far")
    assert models_of(monkeypatch) == user.home / "far"


def test_quinces_own_variable_goes_before_the_usual_place(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    (user.home / ".mlx-serve" / "models").mkdir(parents=True)
    monkeypatch.setenv("QUINCE_MODELS_DIR", str(user.home / "own"))
    assert models_of(monkeypatch) == user.home / "own"


def test_a_service_keeps_the_directory_of_models(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_SERVE_MODELS_DIR", "~/far")
    assert mlx(monkeypatch, "service", "install") == 0
    assert environment.for_a_service()["QUINCE_MODELS_DIR"] == str(user.home / "far")


# config


def test_config(user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    user.write("cache: {ttl_seconds: 7}")
    monkeypatch.setenv("MLX_SERVE_PORT", "9")
    assert mlx(monkeypatch, "config", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    found = {name: (rows[name]["value"], rows[name]["source"], rows[name]["where"]) for name in rows}
    assert found["idle_ttl"] == (7, "file", f"{user.file}, line 1")
    assert found["port"] == (9, "env", "MLX_SERVE_PORT")
    assert found["host"] == ("0.0.0.0", "default", "mlx-serve")
    assert found["queue_size"] == (100, "default", None)
    assert mlx(monkeypatch, "config") == 0
    assert re.search(r"^port +9 +MLX_SERVE_PORT", capsys.readouterr().out, re.MULTILINE)


def test_config_path_and_example(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the file is broken; the example says every name, and is read."""
    user.write("sever: 1")
    assert mlx(monkeypatch, "config", "--path") == 0
    assert capsys.readouterr().out == f"{user.file}\n"
    assert mlx(monkeypatch, "config", "--example") == 0
    text = capsys.readouterr().out
    user.write(text)
    assert started(user, monkeypatch) == {name: value for name, value in IN_WORDS.items() if name != "preload"}
    assert all(f" {name.partition('.')[2]}:" in text for name in mlx_serve.words())
    assert mlx(monkeypatch, "config", "--path", "--example") == 2


def test_what_lets_everybody_in_is_told(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlx(monkeypatch, "start")
    assert "every machine that reaches this one" in capsys.readouterr().err
    mlx(monkeypatch, "start", "--host", "0.0.0.0")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("QUINCE_API_KEY", "key")
    mlx(monkeypatch, "start")
    assert capsys.readouterr().err == ""
