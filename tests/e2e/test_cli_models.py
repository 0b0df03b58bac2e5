"""Managing models at the command line: what is printed, what is left, and how it ends. Real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from quince.models import description
from tests.demo_models import DEMOS
from tests.e2e.server_process import QUINCE, environment, is_alive, wait_for
from tests.hub_server import HubServer
from tests.models.conftest import write_model

REPO = "quinces/tiny"
WEIGHTS = "model.safetensors"


class Cli:
    """Commands with a home and a hub of their own."""

    def __init__(self, home: Path, hub: HubServer) -> None:
        self.home = home
        self.hub = hub
        self.env = environment(
            {
                "QUINCE_HOME": str(home),
                "HF_HUB_CACHE": str(home / "hf"),
                "HF_ENDPOINT": hub.endpoint,
                "HF_TOKEN": "",
                "NO_COLOR": "1",
            }
        )

    def __call__(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*QUINCE, *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**self.env, **env}, check=False)

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*QUINCE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.env
        )

    def json(self, *args: str) -> Any:
        result = self(*args, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def names(self) -> list[str]:
        return [model["name"] for model in self.json("list")]

    def on_terminal(self, *args: str, columns: int) -> str:
        """What a terminal of this width shows."""
        master, slave = pty.openpty()
        env = {**self.env, "COLUMNS": str(columns), "TERM": "xterm"}
        process = subprocess.Popen([*QUINCE, *args], stdin=slave, stdout=slave, stderr=slave, env=env)
        os.close(slave)
        shown = b""
        try:
            while block := os.read(master, 65536):
                shown += block
        except OSError:  # how Linux says that the other side is closed
            pass
        os.close(master)
        assert process.wait(30) == 0, shown
        return shown.decode()


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with HubServer() as hub:
        hub.add(REPO, write_model(tmp_path / "tiny", size=400_000))
        yield Cli(tmp_path / "home", hub)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("quince: ") and all(word in last for word in words), result.stderr
    assert "Traceback" not in result.stderr


def test_pull_list_show_alias_remove(cli: Cli) -> None:
    pulled = cli("pull", REPO)
    assert pulled.returncode == 0, pulled.stderr
    assert re.fullmatch(r"installed tiny \(llm, .* parameters, .* MB\)\n", pulled.stdout)
    assert "downloading 100 %" in pulled.stderr, "without a terminal, progress is lines"

    listed = cli("list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["NAME", *DEMOS, "tiny"]
    (model,) = (one for one in cli.json("list") if one["name"] == "tiny")
    assert (model["type"], model["repo_id"], model["license"]) == ("llm", REPO, "apache-2.0")
    assert model["size"] > 400_000 and model["context"] == 512

    assert cli("alias", "little", "tiny").stdout == "little means tiny\n"
    shown = cli.json("show", "little")
    assert (shown["name"], shown["aliases"]) == ("tiny", ["little"])
    assert shown["template"] == cli("show", "tiny", "--template").stdout
    text = cli("show", "tiny").stdout
    assert "apache-2.0" in text and "512 tokens" in text and "little" in text
    assert {"alias": "little", "target": "tiny", "own": True} in cli.json("alias")

    (cli.home / "config.yaml").write_text("models:\n  tiny:\n    alias: [small, wee]\n")
    assert "tiny (little, small, wee) " in cli("list").stdout
    assert cli.json("show", "wee")["aliases"] == ["little", "small", "wee"]

    assert cli("remove", "tiny").stdout == "removed tiny\n"
    assert cli.names() == DEMOS
    assert not any(one["own"] for one in cli.json("alias"))


def test_results_as_json_and_in_silence(cli: Cli) -> None:
    assert cli.json("pull", REPO, "--name", "mine", "--type", "embedding")["type"] == "embedding"
    assert cli.json("remove", "mine") == {"removed": "mine"}
    result = cli("pull", REPO, "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_model_that_is_quantised(cli: Cli) -> None:
    cli.hub.add("quinces/demo", Path(description.__file__).parent / "demo" / "quince-demo")
    assert cli("pull", "quinces/demo", "--quantize", "8", "--group-size", "32").returncode == 0
    model = cli.json("show", "demo-8bit")
    assert (model["bits"], model["group_size"], model["parameters"]) == (8, 32, pytest.approx(5.2e6, rel=0.02))
    assert cli("pull", "quinces/demo").returncode == 0
    made = cli.json("quantize", "demo", "--bits", "4")
    assert (made["name"], made["bits"], made["group_size"]) == ("demo-4bit", 4, 64)
    assert cli.names() == [*DEMOS, "demo", "demo-4bit", "demo-8bit"]
    assert_one_sentence(cli("quantize", "demo-4bit", "--bits", "4"), "already quantised")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("pull", "quinces/nothing"), ("no model repository", "quinces/nothing")),
        (("pull", "nothing"), ("nothing", "hub id")),
        (("pull", REPO, "--name", "../x"), ("../x", "name")),
        (("pull", REPO, "--revision", "v9"), ("revision",)),
        (("show", "nothing"), ("nothing", "quince list")),
        (("remove", "nothing"), ("nothing",)),
        (("remove", "quince-demo"), ("cannot be removed",)),
        (("quantize", "nothing", "--bits", "4"), ("nothing",)),
        (("alias", "a/b", "quince-demo"), ("a/b",)),
        (("alias", "a", "nothing"), ("nothing",)),
        (("serve", "nothing"), ("nothing", "quince pull")),
        (("alias", "default", "quince-demo"), ("'default'", "first model")),
        (("serve", "--preload", "nothing"), ("nothing",)),
    ],
)
def test_problems_are_one_sentence(cli: Cli, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_sentence(cli(*args), *words)


@pytest.mark.parametrize(
    "args",
    [
        ("pull",),
        ("pull", REPO, "--quantize", "3"),
        ("pull", REPO, "--type", "audio"),
        ("quantize", "quince-demo"),
        ("alias", "one"),
        ("list", "--nothing"),
        ("serve", "quince-demo", "--preload", "quince-demo"),
        ("serve", "--model-type", "llm"),
    ],
)
def test_wrong_usage(cli: Cli, args: tuple[str, ...]) -> None:
    result = cli(*args)
    assert result.returncode == 2 and result.stderr and "Traceback" not in result.stderr
    assert cli.hub.requests == []


def test_a_wrong_token_and_a_network_that_is_down(cli: Cli) -> None:
    assert_one_sentence(cli("pull", REPO, HF_TOKEN="hf_wrong"), "token")
    assert_one_sentence(cli("pull", REPO, HF_ENDPOINT="http://127.0.0.1:9"), "cannot be reached")
    assert cli.names() == DEMOS


def test_an_unexpected_error_is_a_sentence_too(cli: Cli) -> None:
    cli.home.write_text("a file where a directory should be")
    assert_one_sentence(cli("pull", REPO), "irectory")
    result = cli("pull", REPO, QUINCE_LOG_LEVEL="debug")
    assert "Traceback" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pull_resumes(cli: Cli, number: signal.Signals) -> None:
    repo = cli.hub.repos[REPO]
    repo.bytes_per_second = 100_000
    process = cli.start("pull", REPO)
    part = wait_for(lambda: list(cli.home.glob("models/.staging/*/*.safetensors.part")), within=20, what="it begins")[0]
    wait_for(lambda: part.stat().st_size > 100_000, within=20, what="a quarter has come")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=5)
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == "quince: the pull was cancelled; what has come is kept for the next one"
    assert "Traceback" not in stderr
    assert cli.names() == DEMOS
    assert [path.name for path in (cli.home / "models").glob("[!.]*")] == []

    repo.bytes_per_second = None
    assert cli("pull", REPO).returncode == 0
    assert cli.names() == [*DEMOS, "tiny"]
    last = [one for one in cli.hub.sent if one.name == WEIGHTS][-1]
    assert last.start > 100_000
    assert last.start + last.sent == len(repo.files[WEIGHTS])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_conversion_leaves_no_process(cli: Cli, number: signal.Signals) -> None:
    cli.hub.add("quinces/demo", Path(description.__file__).parent / "demo" / "quince-demo")
    process = cli.start("pull", "quinces/demo", "--quantize", "4")
    children = wait_for(lambda: psutil.Process(process.pid).children(), within=30, what="the converter starts")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=5)
    assert process.returncode == -signal.SIGKILL or (process.returncode == 1 and "cancelled" in stderr)
    wait_for(lambda: not any(is_alive(child) for child in children), within=5, what="the converter has ended")
    assert cli.names() == DEMOS
    assert cli("pull", "quinces/demo", "--quantize", "4").returncode == 0
    assert len([one for one in cli.hub.sent if one.name == WEIGHTS]) == 1, "the download was not lost"


def test_two_processes_pull_the_same(cli: Cli) -> None:
    cli.hub.repos[REPO].bytes_per_second = 400_000
    processes = [cli.start("pull", REPO) for _ in range(2)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("waiting for another pull" in stderr for _, stderr in outputs) == 1
    assert cli.hub.bytes_sent(WEIGHTS) == len(cli.hub.repos[REPO].files[WEIGHTS])


# What a terminal shows


@pytest.mark.parametrize("columns", [30, 60, 120])
def test_a_table_fits_the_terminal(cli: Cli, columns: int) -> None:
    assert cli("pull", REPO, "--quiet").returncode == 0
    shown = cli.on_terminal("list", columns=columns)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in shown.splitlines()]
    assert max(len(line) for line in lines) <= columns
    assert any("quince-demo" in line for line in lines), "a name is never cut"
    assert ("FROM" in shown) == (columns == 120)


def test_a_pipe_gets_everything_plain(cli: Cli) -> None:
    shown = cli("list", COLUMNS="30").stdout
    assert "comes with Quince" in shown
    assert "\x1b" not in shown and "─" not in shown


def test_no_color(cli: Cli) -> None:
    shown = cli.on_terminal("pull", REPO, columns=100)
    assert "installed tiny" in shown
    assert not re.search(r"\x1b\[3[0-7]m", shown)
