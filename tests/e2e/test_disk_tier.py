"""Servers that end, by a signal or a kill, and what the next one on the same directory still knows."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import ServerProcess, wait_for

PROMPT = "The quick brown fox jumps over the lazy dog. " * 120


def ask(server: ServerProcess, extra: str = "") -> tuple[str, int, int]:
    """The answer to a long prompt, how much of the prompt was cached, and how long it is."""
    body = chat_body(max_tokens=20, temperature=0)
    body["messages"] = [{"role": "user", "content": PROMPT + extra}]
    answer: dict[str, Any] = server.http.post(server.base_url + "/v1/chat/completions", json=body).json()
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return json.dumps(answer["choices"][0]["message"]), cached, usage["prompt_tokens"]


def files(root: Path) -> list[Path]:
    return [path for path in root.glob("*/*") if not path.name.startswith(".")]


@pytest.mark.parametrize("end", ["terminate", "kill the engine", "kill the server"])
def test_the_next_server_goes_on(start_server: StartServer, tmp_path: Path, end: str) -> None:
    root = tmp_path / "cache"
    env = {"QUINCE_PREFIX_CACHE_DISK_BYTES": str(2**28), "QUINCE_PREFIX_CACHE_DIR": str(root)}
    server = start_server(env=env)
    text, cached, tokens = ask(server)
    assert cached == 0 and tokens > 1000
    if end == "terminate":
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    else:
        wait_for(lambda: len(files(root)) >= 1, within=10, what="it is written without an end")
        time.sleep(0.5)
        (server.engine() if end == "kill the engine" else server.process).kill()
    if end == "kill the engine":
        url, hello = server.base_url + "/v1/chat/completions", chat_body(max_tokens=1)
        wait_for(lambda: server.http.post(url, json=hello).status_code == 200, within=30, what="it is back")
    else:
        server = start_server(env=env)
    again, cached, _ = ask(server)
    assert again == text
    assert tokens - 2 <= cached < tokens
    assert root.stat().st_mode & 0o777 == 0o700


def test_files_stay_within_the_cap_of_a_server(start_server: StartServer, tmp_path: Path) -> None:
    root, cap = tmp_path / "cache", 2**21
    server = start_server(env={"QUINCE_PREFIX_CACHE_DISK_BYTES": str(cap), "QUINCE_PREFIX_CACHE_DIR": str(root)})
    for number in range(8):
        ask(server, str(number) * 400)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    assert 0 < sum(path.stat().st_size for path in files(root)) <= cap
    assert "Traceback" not in server.logs()


def test_it_is_off_by_default(start_server: StartServer) -> None:
    server = start_server()
    ask(server)
    assert not (server.temporary / "quince_home" / "cache").exists()
