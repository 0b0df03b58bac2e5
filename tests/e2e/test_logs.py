"""The log of a server that serves: a line for each request, nothing of what was asked, and the engine's words in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import ServerProcess, wait_for

SECRET = "The password is marzipan."


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def wait_for_entry(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The line may come a moment after the answer."""
    return wait_for(lambda: [one for one in entries(file) if wanted(one)], within=5, what="the line is there")[-1]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logging") / "logs" / "quince.log"


@pytest.fixture(scope="module")
def json_server(model_dir: Path, log: Path) -> Iterator[ServerProcess]:
    env = {"QUINCE_LOG_FORMAT": "json", "QUINCE_LOG_FILE": str(log)}
    with ServerProcess(log.parents[1] / "log", str(model_dir), env=env) as process:
        yield process.wait_ready()


def test_a_request_is_one_line(json_server: ServerProcess, log: Path) -> None:
    answer = json_server.post("/v1/chat/completions", chat_body(SECRET, user=SECRET)).json()
    line = wait_for_entry(log, lambda one: one.get("request_id") == answer["id"])
    numbers = {name: line.pop(name) for name in ("duration", "queue_time", "ttft", "tps")}
    assert 0 < numbers["queue_time"] <= numbers["ttft"] <= numbers["duration"]
    # Of the time since the engine has begun with it.
    assert 16 / numbers["duration"] < numbers["tps"] < 16 / (numbers["duration"] - numbers["ttft"])
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "quince.requests",
        "message": "POST /v1/chat/completions",
        "request_id": answer["id"],
        "status": 200,
        "client": "127.0.0.1",
        "type": "text",
        "model": "tiny-chat",
        "outcome": "success",
        "prompt_tokens": answer["usage"]["prompt_tokens"],
        "cached_tokens": 0,
        "completion_tokens": 16,
        "finish_reason": "length",
    }
    assert "marzipan" not in json_server.logs() + log.read_text()


def test_failures_have_their_code_and_their_id(json_server: ServerProcess, log: Path) -> None:
    failed = json_server.post("/v1/chat/completions", {**chat_body(SECRET), "model": SECRET})
    line = wait_for_entry(log, lambda one: one.get("request_id") == failed.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["error"]) == (404, "error", "model_not_found")
    assert "marzipan" not in log.read_text()


def test_other_routes_have_a_line_without_their_query(json_server: ServerProcess, log: Path) -> None:
    assert json_server.get("/v1/models?key=marzipan").status_code == 200
    line = wait_for_entry(log, lambda one: one["message"] == "GET /v1/models")
    assert (line["status"], line["client"]) == (200, "127.0.0.1") and "type" not in line
    assert "marzipan" not in log.read_text()


def test_probes_are_not_worth_a_line(json_server: ServerProcess, log: Path) -> None:
    for path in ("/health", "/metrics", "/stats"):
        assert json_server.get(path).status_code == 200
    json_server.get("/v1/models")
    wait_for_entry(log, lambda one: one["message"] == "GET /v1/models")
    answered = {one["message"] for one in entries(log) if one.get("status") == 200}
    assert not answered & {"GET /health", "GET /metrics", "GET /stats"}


def test_the_engine_is_heard_under_its_model_s_name(json_server: ServerProcess, log: Path) -> None:
    line = wait_for_entry(log, lambda one: one["logger"] == "quince.engine")
    assert (line["level"], line["model"], line["engine"]) == ("info", "tiny-chat", json_server.engine().pid)


def test_a_path_forges_no_line(server: ServerProcess) -> None:
    server.get("/x%0a2026-01-01%20ERROR%20quince:%20forged%20status=200%1b[2J")
    wait_for(lambda: "GET /x%0A2026" in server.logs(), within=5, what="the line is there")
    assert "\x1b" not in server.logs()
    assert not [line for line in server.logs().splitlines() if line.startswith("2026-01-01")]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_full_disk_does_not_stop_the_server(start_server: StartServer) -> None:
    server = start_server(env={"QUINCE_LOG_FILE": "/dev/full"})
    for _ in range(3):
        assert server.post("/v1/chat/completions", chat_body()).status_code == 200
    assert server.logs().count("cannot write the log file /dev/full: No space left on device") == 1
    assert server.stop() == 0
