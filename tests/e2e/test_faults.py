"""Processes that are killed, stopped or never come up: who notices, what they are told, and what is left."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import (
    MODEL,
    arguments,
    async_client,
    chat_body,
    eventually,
    http_client,
    sse_events,
    sync_client,
)
from tests.e2e.server_process import QUINCE, ServerProcess, environment, is_alive, wait_for

CHAT = "/v1/chat/completions"
ENDLESS: dict[str, Any] = {"max_tokens": 8000}
RESTARTED_WITHIN = 20.0


# The engine dies


async def failure_of(client: openai.AsyncOpenAI, number: int, started: asyncio.Semaphore) -> openai.APIError:
    """Read an endless stream to its end, which must be an error."""
    got_text = False
    body = arguments(chat_body(f"stream {number}", **ENDLESS))
    async with await client.chat.completions.create(stream=True, **body) as stream:
        try:
            async for chunk in stream:
                if not got_text and chunk.choices and chunk.choices[0].delta.content:
                    got_text = True
                    started.release()
        except openai.APIError as error:
            assert got_text
            return error
    raise AssertionError(f"stream {number} ended without an error")


async def raw_failure(http: httpx2.AsyncClient, started: asyncio.Semaphore) -> str:
    """The same on the wire: everything until the server closes the stream."""
    text = ""
    async with http.stream("POST", CHAT, json=chat_body("raw", stream=True, **ENDLESS)) as response:
        async for piece in response.aiter_text():
            if not text:
                started.release()
            text += piece
    return text


async def test_the_engine_is_killed_under_16_streams(start_server: StartServer) -> None:
    server = start_server()
    pid, engine = server.pid, server.engine()
    started = asyncio.Semaphore(0)
    async with async_client(server.base_url) as client, http_client(server.base_url) as http:
        streams = [asyncio.create_task(failure_of(client, number, started)) for number in range(16)]
        raw = asyncio.create_task(raw_failure(http, started))
        waiting = asyncio.create_task(http.post(CHAT, json=chat_body("whole", **ENDLESS)))
        for _ in range(17):
            await asyncio.wait_for(started.acquire(), 30)
        await eventually(lambda: running(http, 18), within=5, what="all requests run")
        engine.kill()
        unhealthy = await eventually(lambda: health(http, 503), within=5, what="/health says 503")
        errors = await asyncio.wait_for(asyncio.gather(*streams), 10)
        text, answer = await raw, await waiting
        await eventually(lambda: health(http, 200), within=RESTARTED_WITHIN, what="/health says 200 again")
        after = await http.post(CHAT, json=chat_body())

    assert unhealthy is not None and unhealthy["status"] == "unavailable" and unhealthy["reason"]
    assert all("killed by signal 9" in error.message for error in errors)
    assert_ends_with_error_event(text)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_unavailable"
    assert float(answer.headers["retry-after"]) > 0
    assert after.status_code == 200
    assert server.pid == pid and server.process.poll() is None
    assert server.engine().pid != engine.pid


def assert_ends_with_error_event(text: str) -> None:
    assert text.endswith("\n\n")
    assert "[DONE]" not in text
    *before, last = sse_events(text)
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert before and all("error" not in event for event in before)


async def health(http: httpx2.AsyncClient, status: int) -> dict[str, Any] | None:
    answer = await http.get("/health")
    body: dict[str, Any] = answer.json()
    return body if answer.status_code == status else None


async def running(http: httpx2.AsyncClient, count: int) -> bool:
    return bool((await http.get("/stats")).json()["running"] == count)


def test_the_engine_is_killed_while_idle_and_again(start_server: StartServer) -> None:
    server = start_server()
    expected = content(server.post(CHAT, chat_body()))
    for _ in range(2):
        engine = server.engine()
        engine.kill()
        wait_for(lambda: server.health().status_code == 503, within=5, what="/health says 503")
        server.wait_ready(RESTARTED_WITHIN)
        assert server.engine().pid != engine.pid
        assert content(server.post(CHAT, chat_body())) == expected


def content(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_requests_during_a_restart_get_an_answer(start_server: StartServer) -> None:
    """Each either waits for the new engine or is told at once to come back; none hangs or breaks."""
    server = start_server()
    server.engine().kill()
    statuses = set()
    for _ in range(100):
        answer = server.post(CHAT, chat_body(max_tokens=2))
        statuses.add(answer.status_code)
        if answer.status_code == 503:
            assert float(answer.headers["retry-after"]) > 0
        if server.health().status_code == 200 and answer.status_code == 200:
            break
    else:
        wait_for(lambda: server.health().status_code == 200, within=RESTARTED_WITHIN, what="/health says 200 again")
        statuses.add(server.post(CHAT, chat_body(max_tokens=2)).status_code)
    assert statuses <= {200, 503} and 200 in statuses


@pytest.mark.parametrize("busy", [True, False])
def test_an_engine_that_hangs_is_replaced(start_server: StartServer, busy: bool) -> None:
    """Stopped in mid-stream, or before a request comes: --engine-timeout later it is killed."""
    server = start_server("--engine-timeout", "2", env={"QUINCE_KEEPALIVE_INTERVAL": "1"})
    engine = server.engine()
    with server.http.stream("POST", server.base_url + CHAT, json=chat_body(stream=True, **ENDLESS)) as response:
        pieces = response.iter_text()
        text = next(pieces)
        if busy:
            engine.suspend()
            text += read_rest(pieces, within=10)
            assert_ends_with_error_event(text)
    if not busy:
        wait_for(lambda: server.stats()["running"] == 0, within=2, what="nothing runs")
        engine.suspend()
        answer = server.post(CHAT, chat_body())
        assert answer.status_code == 503
    server.wait_ready(RESTARTED_WITHIN)
    assert not is_alive(engine)
    assert server.engine().pid != engine.pid
    assert content(server.post(CHAT, chat_body()))


def read_rest(pieces: Iterator[str], *, within: float) -> str:
    """Everything until the stream ends, which keepalive comments could put off for ever."""
    text, deadline = "", time.monotonic() + within
    for piece in pieces:
        text += piece
        assert time.monotonic() < deadline, f"the stream went on for more than {within:g} s"
    return text


# The API process dies


@pytest.mark.parametrize("busy", [True, False])
def test_the_api_process_is_killed(start_server: StartServer, busy: bool) -> None:
    server = start_server()
    engine = server.engine()
    if busy:
        with server.http.stream("POST", server.base_url + CHAT, json=chat_body(stream=True, **ENDLESS)) as response:
            pieces = response.iter_bytes()
            next(pieces)
            server.process.kill()
            with pytest.raises(httpx2.HTTPError):
                list(pieces)
    else:
        server.process.kill()
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")
    assert server.process.wait(2) == -signal.SIGKILL


def test_the_api_process_is_killed_while_the_engine_loads(start_server: StartServer) -> None:
    server = start_server(ready=False)
    (engine, *_) = wait_for(server.engines, within=20, what="an engine process is there")
    server.process.kill()
    wait_for(lambda: not is_alive(engine), within=5, what="the engine is gone")


# Ends on purpose


class Reader(threading.Thread):
    """Reads one stream of the openai client to its end, in the background."""

    def __init__(self, server: ServerProcess, max_tokens: int) -> None:
        super().__init__()
        self._server = server
        self._max_tokens = max_tokens
        self.has_text = threading.Event()
        self.text = ""
        self.finish_reason: str | None = None
        self.completion_tokens: int | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        body = chat_body(max_tokens=self._max_tokens, stream_options={"include_usage": True})
        try:
            with (
                sync_client(self._server.base_url) as client,
                client.chat.completions.create(stream=True, **arguments(body)) as stream,
            ):
                for chunk in stream:
                    self._take(chunk)
        except (openai.APIError, httpx2.HTTPError) as error:
            self.error = error

    def _take(self, chunk: Any) -> None:
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage:
            self.completion_tokens = chunk.usage.completion_tokens
        if self.text:
            self.has_text.set()

    def begin(self) -> Reader:
        self.start()
        assert self.has_text.wait(20)
        return self


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_requests_finish(start_server: StartServer, number: signal.Signals) -> None:
    """And then nothing is left: no process, no file."""
    server = start_server()
    engine = server.engine()
    assert server.leftovers(), "the engine's socket"
    reader = Reader(server, 1500).begin()
    server.signal(number)
    wait_for(lambda: refuses_connections(server.base_url), within=5, what="no new connections")
    assert reader.is_alive(), "the stream ended before the drain did: nothing was shown"
    reader.join(30)
    assert (reader.error, reader.finish_reason, reader.completion_tokens) == (None, "length", 1500)
    assert server.process.wait(10) == 0
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")
    assert server.leftovers() == []
    assert "Traceback" not in server.logs()


def refuses_connections(base_url: str) -> bool:
    url = httpx2.URL(base_url)
    assert url.port is not None
    try:
        socket.create_connection((url.host, url.port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_interrupt_ends_at_once(start_server: StartServer) -> None:
    server = start_server()
    engine = server.engine()
    reader = Reader(server, 8000).begin()
    server.signal(signal.SIGINT)
    wait_for(lambda: refuses_connections(server.base_url), within=5, what="no new connections")
    server.signal(signal.SIGINT)
    server.process.wait(3)
    reader.join(5)
    assert reader.finish_reason is None, "the stream ended before the second signal: nothing was shown"
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")
    assert "Traceback" not in server.logs()


def test_a_drain_has_an_end(start_server: StartServer) -> None:
    """Whoever is not done by then gets an error event, not a broken connection."""
    server = start_server(env={"QUINCE_DRAIN_TIMEOUT": "1"})
    engine = server.engine()
    reader = Reader(server, 8000).begin()
    server.signal(signal.SIGTERM)
    assert server.process.wait(6) == 0
    reader.join(5)
    assert reader.finish_reason is None, "the stream ended before the drain did: nothing was shown"
    assert type(reader.error) is openai.APIError, reader.error
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")
    assert "Traceback" not in server.logs()


def test_stopping_while_the_model_loads(start_server: StartServer) -> None:
    server = start_server(ready=False)
    (engine, *_) = wait_for(server.engines, within=20, what="an engine process is there")
    assert server.stop(within=10) == 0
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")


# Never comes up


def run_serve(*args: str) -> subprocess.CompletedProcess[str]:
    command = [*QUINCE, "serve", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=False)


def assert_one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1 and one line on stderr that has these words."""
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("quince: ")
    assert all(word in line for word in words), line


def test_an_occupied_port(model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        assert_one_sentence(run_serve("--port", port, str(model_dir)), port, "in use")


def test_two_servers_on_one_port(start_server: StartServer) -> None:
    """Started at the same moment: one gets the port, the other ends and says so."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    servers = [start_server("--port", port, ready=False) for _ in range(2)]
    ended = wait_for(lambda: [s for s in servers if s.process.poll() is not None], within=20, what="one server ends")
    assert [server.process.returncode for server in ended] == [1]
    assert "in use" in ended[0].logs()
    (winner,) = (server for server in servers if server not in ended)
    winner.wait_ready()


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert_one_sentence(run_serve("--port", "0", str(tmp_path / "nothing")), "nothing")


def break_config(path: Path) -> None:
    (path / "config.json").unlink()


def break_config_text(path: Path) -> None:
    (path / "config.json").write_text('{"model_type": ')


def break_model_type(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))


def break_weights(path: Path) -> None:
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(500_000)


def remove_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def remove_tokenizer(path: Path) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (path / file).unlink()


def break_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text('{"version": "1.0", ')


BROKEN = [
    (break_config, "config.json"),
    (break_config_text, "config.json"),
    (break_model_type, "nonsense"),
    (break_weights, "safetensors"),
    (remove_weights, "safetensors"),
    (remove_tokenizer, "tokenizer"),
    (break_tokenizer, "tokenizer"),
]


def reason_of(server: ServerProcess) -> str:
    """Why it cannot serve: what /health says, or what it said on stderr before it exited with 1."""

    def reason() -> str:
        if server.process.poll() is not None:
            assert server.process.returncode == 1
            return server.logs()
        answer = server.health()
        assert answer.status_code == 503, answer.text
        return "" if answer.json()["reason"] in ("loading", "not listening", "ready") else answer.text

    return wait_for(reason, within=30, what="the server says why it cannot serve")


def broken_model(model_dir: Path, path: Path, damage: Any) -> Path:
    shutil.copytree(model_dir, path)
    damage(path)
    return path


@pytest.fixture(scope="module")
def outcomes(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """For every damage, the reason that the server gives and its log; two at a time, since most of it is waiting."""
    root = tmp_path_factory.mktemp("broken")

    def outcome(damage: Any) -> tuple[str, str]:
        path = broken_model(model_dir, root / damage.__name__, damage)
        with ServerProcess(root / f"{damage.__name__}.log", str(path)) as server:
            try:
                return reason_of_started(server), server.logs()
            except AssertionError as error:
                return f"no reason was given: {error}", server.logs()

    with ThreadPoolExecutor(2) as pool:
        results = pool.map(outcome, [damage for damage, _ in BROKEN])
    return {damage.__name__: result for (damage, _), result in zip(BROKEN, results, strict=True)}


def reason_of_started(server: ServerProcess) -> str:
    wait_for(lambda: "http://" in server.logs() or server.process.poll() is not None, within=30, what="it starts")
    return reason_of(server)


@pytest.mark.parametrize(("damage", "word"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_model_says_what_is_wrong(outcomes: dict[str, tuple[str, str]], damage: Any, word: str) -> None:
    reason, log = outcomes[damage.__name__]
    assert word in reason and "no reason was given" not in reason, reason
    assert "Traceback" not in log
    assert "Traceback" not in reason


def test_a_request_to_a_broken_model(start_server: StartServer, model_dir: Path, tmp_path: Path) -> None:
    """503 with the reason; and once the model is whole, the server recovers by itself."""
    path = broken_model(model_dir, tmp_path / "broken", break_weights)
    server = start_server(model=path, ready=False)
    reason_of_started(server)
    answer = server.post(CHAT, chat_body(model=MODEL))
    assert answer.status_code == 503
    assert "safetensors" in answer.json()["error"]["message"]
    shutil.copy(model_dir / "model.safetensors", path)
    server.wait_ready(RESTARTED_WITHIN)
    assert content(server.post(CHAT, chat_body()))
