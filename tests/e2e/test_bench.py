"""``quince bench``: its server is its own, and ends with it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.server_process import QUINCE, environment, is_alive, wait_for

SHORT = ("-c", "1", "--requests", "1", "--prompt-tokens", "8", "--max-tokens", "4")


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home whose configuration file asks for a key; no process of it outlives the test."""
    (tmp_path / "config.yaml").write_text("api_key: from-the-file\n")
    env = environment({"QUINCE_HOME": str(tmp_path)})
    try:
        yield env
    finally:
        for process in processes(env):
            process.kill()


def processes(env: dict[str, str]) -> list[psutil.Process]:
    def has_home(process: psutil.Process) -> bool:
        try:
            return process.environ().get("QUINCE_HOME") == env["QUINCE_HOME"] and is_alive(process)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if has_home(process)]


def bench(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUINCE, "bench", *args, *SHORT], capture_output=True, text=True, timeout=120, env=env, check=False
    )


def test_it_measures_where_servers_want_a_key(env: dict[str, str]) -> None:
    result = bench("--json", env=env)
    assert result.returncode == 0, result.stderr
    (level,) = json.loads(result.stdout)
    assert (level["concurrency"], level["completion_tokens"]) == (1, 4)
    assert processes(env) == []


@pytest.mark.parametrize(
    ("model", "said"), [("quince-demo-embedding", "is of type embedding"), ("no-such-model", "there is no model")]
)
def test_what_cannot_be_measured_is_one_sentence(env: dict[str, str], model: str, said: str) -> None:
    result = bench(model, env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("quince: ") and said in result.stderr
    assert result.stderr.count("\n") == 1 and "{" not in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_server_ends_with_it(env: dict[str, str], number: signal.Signals) -> None:
    with subprocess.Popen([*QUINCE, "bench", "--requests", "1000"], env=env, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(processes(env)) >= 3, within=30, what="command, server and engine run")
        finally:
            process.send_signal(number)
    wait_for(lambda: not processes(env), within=20, what="every process has ended")
