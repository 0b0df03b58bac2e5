"""One server, several models, real engines: swaps under load, memory that comes back, and models that cannot be loaded.

QUINCE_TEST_SWAPS (default 6) and QUINCE_TEST_SECONDS (default 10) make the long runs longer; what they showed at 100
swaps and at 120 seconds is in docs/models.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from quince.models.store import ModelStore
from tests.demo_models import DEMOS
from tests.e2e.helpers import assert_error_shape, chat_body, eventually, http_client, sse_events
from tests.e2e.server_process import QUINCE, ServerProcess, environment, is_alive, wait_for
from tests.hub_server import HubServer
from tests.models.test_convert import plain as plain  # the demo model as a plain checkpoint
from tests.models.test_store import install

CHAT = "/v1/chat/completions"
SWAPS = int(os.environ.get("QUINCE_TEST_SWAPS", "6"))
SECONDS = float(os.environ.get("QUINCE_TEST_SECONDS", "10"))
CLIENTS = 8
# Bytes of the server and its engine together that may differ between one swap and another.
GROWTH = 20 * 2**20

Start = Callable[..., ServerProcess]


@pytest.fixture
def start(tmp_path: Path, model_dir: Path) -> Iterator[Start]:
    """``start("one", "two", "--max-loaded-models", "1")``: a server with these models installed."""
    servers: list[ServerProcess] = []

    def make(*args: str) -> ServerProcess:
        home = tmp_path / f"home-{len(servers)}"
        names = [name for name in args if name.isalpha()]
        for name in names:
            install(ModelStore(home), model_dir, name, f"quinces/{name}")
        options = [arg for arg in args if arg not in names]
        server = ServerProcess(tmp_path / f"server-{len(servers)}.log", *options, env={"QUINCE_HOME": str(home)})
        servers.append(server)
        server.home = home  # type: ignore[attr-defined]
        return server.__enter__().wait_ready()

    try:
        yield make
    finally:
        for server in servers:
            server.__exit__(None, None, None)


def loads(server: ServerProcess, name: str) -> int:
    return len(re.findall(rf"loaded {name} in", server.logs()))


def model_state(server: ServerProcess, name: str) -> str:
    state: str = server.get(f"/v1/models/{name}").json()["state"]
    return state


def engine_count(server: ServerProcess) -> int:
    """Engine processes that live now, without the compilers that MLX's CPU build starts."""
    count = 0
    for process in server.engines():
        with contextlib.suppress(psutil.NoSuchProcess):
            # Between fork and exec, a compiler looks like the engine that starts it.
            count += process.ppid() == server.pid and "quince.engine.process" in process.cmdline()
    return count


def resident(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


async def ask(http: httpx2.AsyncClient, name: str, **fields: Any) -> str:
    answer = await http.post(CHAT, json=chat_body(model=name, **fields))
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == name
    content: str = answer.json()["choices"][0]["message"]["content"]
    return content


async def test_twenty_simultaneous_first_requests_load_once(start: Start) -> None:
    server = start("one")
    assert server.engines() == []
    async with http_client(server.base_url) as http:
        answers = await asyncio.gather(*(ask(http, "one") for _ in range(20)))
    assert len(set(answers)) == 1
    assert loads(server, "one") == 1 and len(server.engines()) == 1


async def test_who_waits_for_a_load_can_be_cancelled(start: Start) -> None:
    server = start("one", "--keepalive-interval", "0.05")
    async with http_client(server.base_url) as http:
        whole = asyncio.create_task(http.post(CHAT, json=chat_body(model="one")))
        async with http.stream("POST", CHAT, json=chat_body(model="one", stream=True)) as response:
            name = response.headers["x-request-id"]
            assert model_state(server, "one") == "loading", "the headers came with a keepalive"
            answer = await http.post("/v1/cancel", json={"request_id": name})
            assert answer.json() == {"cancelled": [name]}
            text = (await asyncio.wait_for(response.aread(), 5)).decode()
        assert '"code":"cancelled"' in text
        assert len((await http.post("/v1/cancel")).json()["cancelled"]) == 1
        assert_error_shape(await whole, 499)
        assert await ask(http, "one")
    assert loads(server, "one") == 1


async def test_swaps_under_load(start: Start) -> None:
    """Room for one of two models: no request fails, every swap is one load, and the processes' memory stays flat."""
    server = start("one", "two", "--max-loaded-models", "1")
    api = psutil.Process(server.pid)
    expected: dict[str, str] = {}
    sizes: list[int] = []
    async with http_client(server.base_url) as http:
        for swap in range(SWAPS):
            name = ("one", "two")[swap % 2]
            answers = await asyncio.gather(*(ask(http, name, max_tokens=8) for _ in range(4)))
            assert set(answers) == {expected.setdefault(name, answers[0])}
            assert engine_count(server) == 1
            sizes.append(resident(api) + sum(resident(engine) for engine in server.engines()))
    print("megabytes of all processes after each swap:", [size // 2**20 for size in sizes])
    assert loads(server, "one") + loads(server, "two") == SWAPS
    settled = sizes[min(4, SWAPS // 2) :]
    assert max(settled) - min(settled) < GROWTH, sizes


async def test_random_names_under_load(start: Start) -> None:
    """Three models, room for two, eight clients that ask for any of them, streamed or not."""
    server = start("one", "two", "three", "--max-loaded-models", "2")
    deadline = time.monotonic() + SECONDS
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        draw = random.Random(number)
        while time.monotonic() < deadline:
            body = chat_body(model=draw.choice(("one", "two", "three")), max_tokens=draw.randint(1, 30))
            body["stream"] = draw.random() < 0.5
            answer = await http.post(CHAT, json=body)
            assert answer.status_code == 200, answer.text
            if body["stream"]:
                assert answer.text.endswith("data: [DONE]\n\n")
                assert all("error" not in event for event in sse_events(answer.text))
            done += 1

    async with http_client(server.base_url) as http:
        tasks = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, engine_count(server))
            await asyncio.sleep(0.05)
        await asyncio.gather(*tasks)
    assert most <= 2
    assert done >= CLIENTS
    assert "Traceback" not in server.logs()
    print(f"{done} requests, {sum(loads(server, name) for name in ('one', 'two', 'three'))} loads")


async def test_an_idle_model_is_unloaded_and_its_memory_is_back(start: Start) -> None:
    server = start("one", "--idle-ttl", "1")
    async with http_client(server.base_url) as http:
        first = await ask(http, "one")
        (engine,) = server.engines()
        assert resident(engine) > 50 * 2**20
        assert model_state(server, "one") == "ready"

        async def gone() -> bool:
            return not is_alive(engine)

        await eventually(gone, within=5, what="the idle engine has ended")
        wait_for(lambda: model_state(server, "one") == "unloaded", within=2, what="the server has noticed")
        assert server.health().status_code == 200
        assert await ask(http, "one") == first


def test_unloading_during_a_stream(start: Start) -> None:
    server = start("one")
    server.post("/v1/models/one/load", {})
    body = chat_body(model="one", max_tokens=300, stream=True)
    with server.http.stream("POST", server.base_url + CHAT, json=body) as response:
        pieces = response.iter_text()
        text = next(pieces)
        assert server.post("/v1/models/one/unload", {}).json()["state"] == "draining"
        text += "".join(pieces)
    assert text.endswith("data: [DONE]\n\n")
    assert sse_events(text)[-1]["choices"][0]["finish_reason"] == "length"
    wait_for(lambda: model_state(server, "one") == "unloaded", within=5, what="it is unloaded")
    assert server.engines() == []
    assert server.post("/v1/models/one/load", {}).json()["state"] == "ready"
    assert server.post("/v1/models/one/unload", {}).json()["state"] == "unloaded"
    assert server.engines() == []


def test_a_client_that_leaves_lets_go_of_the_engine(start: Start) -> None:
    server = start("one", "two", "--max-loaded-models", "1")
    body = chat_body(model="one", max_tokens=4000, stream=True)
    with server.http.stream("POST", server.base_url + CHAT, json=body) as response:
        next(response.iter_text())
    started = time.monotonic()
    assert server.post(CHAT, chat_body(model="two")).status_code == 200
    assert time.monotonic() - started < 10


async def test_a_killed_engine_does_not_disturb_the_other(start: Start) -> None:
    server = start("one", "two")
    server.post("/v1/models/one/load", {})
    (victim,) = server.engines()
    async with http_client(server.base_url) as http:
        body = chat_body(model="two", max_tokens=400, stream=True)
        async with http.stream("POST", CHAT, json=body) as response:
            pieces = response.aiter_text()
            text = await anext(pieces)
            victim.send_signal(signal.SIGKILL)
            async for piece in pieces:
                text += piece
        assert text.endswith("data: [DONE]\n\n")

        async def back() -> bool:
            answer = await http.post(CHAT, json=chat_body(model="one"))
            assert answer.status_code in (200, 503)
            return answer.status_code == 200

        await eventually(back, within=20, what="the killed model answers again")


def break_weights(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500_000])


def break_architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))


def remove_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (break_weights, "safetensors"),
    "foreign": (break_architecture, "nonsense"),
    "mute": (remove_tokenizer, "tokenizer"),
}


def test_models_that_cannot_be_loaded(start: Start) -> None:
    server = start("good", *DAMAGES)
    for name, (damage, _) in DAMAGES.items():
        damage(server.home / "models" / name)  # type: ignore[attr-defined]
    assert server.post(CHAT, chat_body(model="good")).status_code == 200
    for name, (_, word) in DAMAGES.items():
        for _ in range(2):
            error = assert_error_shape(server.post(CHAT, chat_body(model=name)), 503)
            assert word in error["message"] and error["code"] == "model_load_failed"
        assert model_state(server, name) == "failed"
    time.sleep(1.5)  # an engine that is restarted in a loop would be there again
    assert len(server.engines()) == 1
    assert server.health().status_code == 200
    assert server.post(CHAT, chat_body(model="good")).status_code == 200
    assert loads(server, "good") == 1


def test_a_model_that_does_not_fit(start: Start) -> None:
    server = start("one", "--memory-budget", str(100 * 2**20))
    error = assert_error_shape(server.post(CHAT, chat_body(model="one")), 503)
    assert error["code"] == "insufficient_memory"
    assert re.search(r"0\.\d\d GB .* 0\.10 GB", error["message"])
    assert server.engines() == []


def test_models_are_listed_with_type_state_and_context(start: Start) -> None:
    server = start("one", "--ctx-size", "64")
    *_, second = listed = server.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == [*DEMOS, "one"]
    assert (second["type"], second["state"], second["max_model_len"]) == ("llm", "unloaded", 64)
    assert server.post(CHAT, chat_body(model="one")).status_code == 200
    one = server.get("/v1/models/one").json()
    assert (one["state"], one["max_model_len"]) == ("ready", 64)
    assert_error_shape(server.get("/v1/models/nothing"), 404)
    assert_error_shape(server.post("/v1/models/nothing/load", {}), 404)
    assert_error_shape(server.post(CHAT, chat_body(model="nothing")), 404)


def test_what_is_installed_while_the_server_runs(start: Start, model_dir: Path) -> None:
    server = start("one")
    assert_error_shape(server.post(CHAT, chat_body(model="late")), 404)
    store = ModelStore(server.home)  # type: ignore[attr-defined]
    install(store, model_dir, "late")
    store.set_alias("later", "late")
    assert server.post(CHAT, chat_body(model="later")).status_code == 200
    store.remove("late")
    assert_error_shape(server.post(CHAT, chat_body(model="later")), 404)
    wait_for(lambda: not server.engines(), within=5, what="the removed model is unloaded")


@pytest.mark.parametrize(("pulled_with", "name"), [(["--quantize", "4"], "plain-4bit"), ([], "quinces/plain")])
def test_a_plain_checkpoint_serves(tmp_path: Path, plain: Path, pulled_with: list[str], name: str) -> None:
    """Quantised by ``quince pull``; or pulled by ``quince serve --auto-download``, as nothing of the name is here."""
    with HubServer() as hub:
        hub.add("quinces/plain", plain)
        env = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "", "QUINCE_HOME": str(tmp_path / "home")}
        if pulled_with:
            command = [*QUINCE, "pull", "quinces/plain", *pulled_with]
            subprocess.run(command, env=environment(env), check=True, capture_output=True, timeout=120)
        with ServerProcess(tmp_path / "log", name, "--auto-download", env=env) as server:
            server.wait_ready()
            assert server.get("/v1/models").json()["data"][0]["id"] == name.rpartition("/")[2]
            body = chat_body("What is the capital of France?", model=name, ignore_eos=False, max_tokens=30)
            answer = server.post(CHAT, body).json()["choices"][0]["message"]["content"]
            assert "Paris" in answer


def test_looking_leaves_nothing_but_the_servers_own_record(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ServerProcess(tmp_path / "log", env={"QUINCE_HOME": str(home)}) as server:
        server.wait_ready()
        assert server.get("/v1/models").status_code == 200
    assert [path.name for path in home.iterdir()] == ["servers"]


def test_a_client_that_leaves_during_the_load(start: Start) -> None:
    """It is not waited for, and the load that others may want goes on."""
    server = start("one")
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(server.base_url + CHAT, json=chat_body(model="one", max_tokens=4000), timeout=0.3, trust_env=False)
    wait_for(lambda: model_state(server, "one") == "ready", within=20, what="it is loaded")
    stats = server.get("/stats").json()
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert server.post("/v1/models/one/unload", {}).json()["state"] == "unloaded", "nobody holds it"
