"""Embedding under load: beside a running chat, cancelled, abandoned, refused at the door, and through a crash."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.helpers import assert_error_shape, chat_body, eventually, http_client
from tests.e2e.pooling_server import pooling_server
from tests.e2e.server_process import QUINCE, ServerProcess, environment, wait_for

PATH = "/v1/embeddings"
CLIENTS = 64
ANSWER = 300  # tokens of the stream that is watched
# Some seconds of work for the tiny model.
LARGE = {"model": "bert", "input": ["quince " * 35] * 256}
MEDIUM = {"model": "bert", "input": ["quince " * 35] * 40}


async def gaps(client: httpx2.AsyncClient) -> list[float]:
    """Seconds between the chunks of one streamed answer."""
    body = chat_body(max_tokens=ANSWER, model="chat", stream=True)
    times = []
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            assert '"error"' not in line
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


async def test_64_clients_embed_while_a_chat_streams(pooling: ServerProcess, record_property: Any) -> None:
    done = 0
    stop = asyncio.Event()

    async def embed(number: int, client: httpx2.AsyncClient) -> None:
        nonlocal done
        draw = random.Random(number)
        while not stop.is_set():
            text = "quince " * draw.randrange(1, 30)
            answer = await client.post(PATH, json={"model": "bert", "input": text, "encoding_format": "base64"})
            assert answer.status_code == 200, answer.text
            done += 1
            await asyncio.sleep(draw.random() * 0.2)

    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(base_url=pooling.base_url, trust_env=False, timeout=60, limits=limits) as client:
        await client.post(PATH, json={"model": "bert", "input": "load it"})
        await gaps(client)
        alone = p99(await gaps(client))
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(embed(number, client))
            await asyncio.sleep(1)
            before, started = done, time.perf_counter()
            beside = p99(await gaps(client))
            rate = (done - before) / (time.perf_counter() - started)
            stop.set()
    assert rate > 0
    print(f"p99 gap alone {alone * 1e3:.1f} ms, beside {CLIENTS} clients ({rate:.0f} requests/s) {beside * 1e3:.1f} ms")
    record_property("p99_gap_ratio", beside / alone)


async def test_a_cancelled_request_ends_and_the_engine_goes_on(pooling: ServerProcess) -> None:
    async with http_client(pooling.base_url) as client:
        task = asyncio.create_task(client.post(PATH, json=LARGE))

        async def cancelled() -> list[str]:
            found: list[str] = (await client.post("/v1/cancel", json={})).json()["cancelled"]
            return found

        (name,) = await eventually(cancelled, within=20, what="the request is there")
        assert name.startswith("embd-")
        error = assert_error_shape(await task, 499)
        assert error["code"] == "cancelled"
        started = time.monotonic()
        answer = await client.post(PATH, json={"model": "bert", "input": "next"})
        assert answer.status_code == 200 and time.monotonic() - started < 5


async def test_a_request_whose_client_leaves_is_dropped(pooling: ServerProcess) -> None:
    async def open_requests() -> int:
        stats: dict[str, Any] = (await client.get("/stats")).json()
        return int(stats["models"]["bert"]["open_requests"])

    async def begun() -> bool:
        return await open_requests() == 1

    async def over() -> bool:
        return await open_requests() == 0

    async with http_client(pooling.base_url) as client:
        await client.post(PATH, json={"model": "bert", "input": "load it"})
        task = asyncio.create_task(client.post(PATH, json=LARGE))
        await eventually(begun, within=20, what="the request is there")
        task.cancel()
        await eventually(over, within=2, what="the request is gone")


async def test_a_short_request_passes_a_large_one(pooling: ServerProcess) -> None:
    async with http_client(pooling.base_url) as client:
        large = asyncio.create_task(client.post(PATH, json=LARGE))
        await asyncio.sleep(0.3)
        assert (await client.post(PATH, json={"model": "bert", "input": "short"})).status_code == 200
        assert not large.done()
        assert (await large).status_code == 200


# Servers of their own


@pytest.fixture
def narrow(tmp_path: Path, model_dir: Path) -> Iterator[ServerProcess]:
    with pooling_server(tmp_path, model_dir, "--max-running-requests", "1", "--queue-size", "1") as server:
        yield server


async def test_more_than_may_wait_are_refused_at_the_door(narrow: ServerProcess) -> None:
    async with http_client(narrow.base_url) as client:
        await client.post(PATH, json={"model": "bert", "input": "load it"})
        answers = await asyncio.gather(*(client.post(PATH, json=MEDIUM) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert assert_error_shape(refused, 429)["code"] == "queue_full" and refused.headers["retry-after"]


async def test_a_crash_fails_its_own_requests_and_is_recovered_from(narrow: ServerProcess) -> None:
    async with http_client(narrow.base_url) as client:
        await client.post(PATH, json={"model": "bert", "input": "load it"})
        await client.post("/v1/rerank", json={"model": "bert-reranker", "query": "q", "documents": ["x"]})
        task = asyncio.create_task(client.post(PATH, json=LARGE))
        await asyncio.sleep(0.5)
        pids = [engine for engine in narrow.engines() if "process" in " ".join(engine.cmdline())]
        min(pids, key=lambda engine: engine.create_time()).kill()
        assert_error_shape(await task, 503)
        ranked = await client.post("/v1/rerank", json={"model": "bert-reranker", "query": "q", "documents": ["x"]})
        assert ranked.status_code == 200

    def embeds() -> bool:
        return narrow.post(PATH, {"model": "bert", "input": "again"}).status_code == 200

    wait_for(embeds, within=30, what="the engine is there again")


async def test_what_a_pooling_model_does_is_counted(pooling: ServerProcess) -> None:
    async with http_client(pooling.base_url) as client:
        await client.post(PATH, json={"model": "modernbert", "input": ["abc", "defg"]})
        before = (await client.get("/stats")).json()["models"]["modernbert"]
        await client.post(PATH, json={"model": "modernbert", "input": ["abc", "defg"]})
        after = (await client.get("/stats")).json()["models"]["modernbert"]
        assert after["prompt_tokens"] - before["prompt_tokens"] == 3 + 4 + 2 * 2
        assert after["steps"] > before["steps"] and after["running"] == after["waiting"] == 0
        health = json.loads((await client.get("/health")).text)
        assert health["models"]["modernbert"]["state"] == "ready"


@pytest.mark.parametrize(
    ("args", "env", "named"),
    [
        (("--adapter", "somewhere"), {}, "--adapter"),
        (("--kv-bits", "8"), {}, "--kv-bits"),
        ((), {"QUINCE_TEMPERATURE": "0.5"}, "QUINCE_TEMPERATURE"),
    ],
)
def test_a_setting_for_models_that_write_is_refused(args: tuple[str, ...], env: dict[str, str], named: str) -> None:
    command = [*QUINCE, "serve", "quince-demo-embedding", "--port", "0", *args]
    ran = subprocess.run(command, env=environment(env), capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == 1
    assert named in ran.stderr and "is for models that write" in ran.stderr and "of type embedding" in ran.stderr
