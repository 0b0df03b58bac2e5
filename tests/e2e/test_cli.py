"""The command line as a user meets it: exit codes, sentences, and which setting wins. More cases: tests/cli."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path

import pytest

from quince import __version__
from quince.config import SETTINGS
from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import QUINCE, environment


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    wide = {"COLUMNS": "200", "NO_COLOR": "1", "QUINCE_HOME": "/nonexistent", **(env or {})}
    return subprocess.run(
        [*QUINCE, *args], capture_output=True, text=True, timeout=60, env=environment(wide), check=False
    )


def test_help() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "serve" in result.stdout


def test_serve_help_names_every_option() -> None:
    result = run("serve", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    flags = [setting.flag for name, setting in SETTINGS.items() if name != "model"]
    assert len(flags) > 30
    assert [flag for flag in ("--config", *flags) if not re.search(rf"^  {flag}\b", result.stdout, re.MULTILINE)] == []


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"quince {__version__}\n", "")


@pytest.mark.parametrize(
    "args",
    [
        ("--nothing",),
        ("serve", "--temperature", "hot"),
    ],
)
def test_wrong_usage(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert any(argument in result.stderr for argument in args)


@pytest.mark.parametrize(
    ("args", "env", "source"),
    [
        (("--temperature", "9"), {}, "--temperature"),
        ((), {"QUINCE_PORT": "eighty"}, "QUINCE_PORT"),
        (("--host", "no.such.host.invalid"), {}, "no.such.host.invalid"),
    ],
)
def test_a_bad_value_is_one_sentence(model_dir: Path, args: tuple[str, ...], env: dict[str, str], source: str) -> None:
    """It names where the value came from."""
    port = () if "QUINCE_PORT" in env or "--port" in args else ("--port", "0")
    result = run("serve", *port, *args, str(model_dir), env=env)
    assert result.returncode == (2 if source.startswith("--") else 1)
    assert "Traceback" not in result.stderr
    assert source in result.stderr
    if source != "--log-level":  # typer's own
        assert re.fullmatch(r"quince: .+\n", result.stderr), result.stderr


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def test_settings_from_the_environment(start_server: StartServer, model_dir: Path) -> None:
    """The environment beats the default, a flag beats the environment."""
    port = free_port()
    env = {
        "QUINCE_PORT": "1",
        "QUINCE_CTX_SIZE": "128",
        "QUINCE_MAX_TOKENS": "5",
        "QUINCE_TEMPERATURE": "0",
        "QUINCE_QUEUE_SIZE": "7",
        "QUINCE_ANY_MODEL_NAME": "true",
    }
    server = start_server("--port", port, "--queue-size", "9", env=env)
    assert server.base_url == f"http://127.0.0.1:{port}"
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] == 128
    assert server.stats()["queue_size"] == 9
    body = chat_body(model="whatever")
    del body["max_tokens"], body["temperature"]
    first, second = (server.post("/v1/chat/completions", body).json() for _ in range(2))
    assert first["usage"]["completion_tokens"] == 5
    assert first["choices"][0]["message"]["content"] == second["choices"][0]["message"]["content"]
    too_long = server.post("/v1/chat/completions", chat_body("quince " * 200))
    assert too_long.json()["error"]["code"] == "context_length_exceeded"


def test_tracebacks_are_for_debugging(model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        args = ("serve", "--port", str(occupied.getsockname()[1]), str(model_dir))
        assert "Traceback" not in run(*args).stderr
        for shown in (run(*args, "--log-level", "debug"), run(*args, env={"QUINCE_LOG_LEVEL": "debug"})):
            assert shown.returncode == 1 and "Traceback" in shown.stderr
            assert shown.stderr.splitlines()[-1].startswith("quince: port")


def test_the_port_from_the_environment(model_dir: Path) -> None:
    """Taken by somebody else, so that the sentence shows which one it was."""
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        result = run("serve", str(model_dir), env={"QUINCE_PORT": port})
    assert result.returncode == 1
    assert port in result.stderr


def test_the_quince_command_is_the_module(model_dir: Path) -> None:
    command = Path(QUINCE[0]).with_name("quince")
    result = subprocess.run(
        [command, "--version"], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    assert (result.returncode, result.stdout) == (0, f"quince {__version__}\n")


def test_a_relative_path_and_the_served_name(start_server: StartServer, model_dir: Path, tmp_path: Path) -> None:
    """A directory may be given in any spelling; requests may use that spelling or its last part."""
    spelled = f"{model_dir.parent}/./{model_dir.name}/"
    server = start_server(model=Path(spelled))
    for name in (model_dir.name, str(model_dir)):
        answer = server.post("/v1/chat/completions", chat_body(model=name, max_tokens=2))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == name


FILE = """
port: 9000
api_key: [sesame]
models:
  m: {top-k: 5, alias: [a, b]}
"""


def test_the_effective_configuration(tmp_path: Path) -> None:
    """Each value with its source; no secret."""
    (tmp_path / "config.yaml").write_text(FILE)
    env = {"QUINCE_HOME": str(tmp_path), "QUINCE_HOST": "::1"}
    shown = run("config", env=env)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.stdout.splitlines()]
    assert lines[0] == ["SETTING", "VALUE", "FROM"]
    for line in (
        ["home", str(tmp_path), "QUINCE_HOME"],
        ["host", "::1", "QUINCE_HOST"],
        ["port", "9000", f"{tmp_path}/config.yaml, line 2"],
        ["api_key", "********", f"{tmp_path}/config.yaml, line 3"],
        ["queue_size", "100", "default"],
        ["m: top_k", "5", f"{tmp_path}/config.yaml, line 5"],
        ["m: alias", "a, b", f"{tmp_path}/config.yaml, line 5"],
    ):
        assert line in lines
    assert "sesame" not in shown.stdout

    rows = json.loads(run("config", "--json", env=env).stdout)
    found = {(row["model"], row["name"]): row for row in rows}
    place = f"{tmp_path}/config.yaml, line"
    port = {"name": "port", "model": None, "value": 9000, "source": "file", "where": f"{place} 2"}
    assert found[None, "port"] == port
    assert found[None, "api_key"]["value"] == ["********"]
    assert found[None, "queue_size"] == {**port, "name": "queue_size", "value": 100, "source": "default", "where": None}
    assert found["m", "alias"]["value"] == ["a", "b"]


def test_where_the_configuration_file_is(tmp_path: Path) -> None:
    env = {"QUINCE_HOME": str(tmp_path)}
    assert run("config", "--path", env=env).stdout == f"{tmp_path}/config.yaml\n"
    (tmp_path / "config.json").write_text("{}")
    assert run("config", "--path", env=env).stdout == f"{tmp_path}/config.json\n"
    assert run("config", "--path", "--config", "x.yaml", env=env).stdout == "x.yaml\n"
    assert run("config", "--path", "--example", env=env).returncode == 2


def test_an_example_that_changes_nothing(tmp_path: Path) -> None:
    env = {"QUINCE_HOME": str(tmp_path)}
    (tmp_path / "config.yaml").write_text(run("config", "--example", env=env).stdout)
    rows = json.loads(run("config", "--json", env=env).stdout)
    assert {row["source"] for row in rows if row["name"] != "home"} == {"default"}


@pytest.mark.parametrize("command", [("config",), ("serve", "--port", "0")])
def test_a_broken_configuration_file_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "config.yaml").write_text("host: a\nprot: 9000\n")
    result = run(*command, env={"QUINCE_HOME": str(tmp_path)})
    said = f"quince: {tmp_path}/config.yaml, line 2: unknown key 'prot'; did you mean 'port'?\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", said)
