"""The bounded queue: who is turned away, who waited too long, and what keeps a waiting stream alive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import (
    arguments,
    assert_error_shape,
    async_client,
    chat_body,
    eventually,
    http_client,
    sse_events,
)
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"


@contextlib.asynccontextmanager
async def occupied(http: httpx2.AsyncClient, waiting: int = 0) -> AsyncIterator[httpx2.Response]:
    """One request runs for long, ``waiting`` others are behind it; all leave with the block."""
    async with http.stream("POST", CHAT, json=chat_body(max_tokens=8000, stream=True)) as running:
        behind = [asyncio.create_task(http.post(CHAT, json=chat_body(f"{number}"))) for number in range(waiting)]
        try:
            await counts_are(http, (1, waiting))
            yield running
        finally:
            for task in behind:
                task.cancel()
            await asyncio.gather(*behind, return_exceptions=True)


async def counts_are(http: httpx2.AsyncClient, expected: tuple[int, int]) -> None:
    async def reached() -> bool:
        stats = (await http.get("/stats")).json()
        return (stats["running"], stats["waiting"]) == expected

    await eventually(reached, within=2, what=f"running and waiting are {expected}")


@pytest.fixture(scope="module")
def narrow(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One request runs, two wait."""
    args = (str(model_dir), "--max-running-requests", "1", "--queue-size", "2")
    with ServerProcess(tmp_path_factory.mktemp("narrow") / "log", *args) as process:
        yield process.wait_ready()


async def test_a_full_queue(narrow: ServerProcess) -> None:
    """429 at once, with Retry-After, streamed or not; and room again when somebody leaves."""
    async with http_client(narrow.base_url) as http, async_client(narrow.base_url) as client:
        async with occupied(http, waiting=2):
            for stream in (False, True):
                answer = await http.post(CHAT, json=chat_body(stream=stream))
                error = assert_error_shape(answer, 429)
                assert error["code"] == "queue_full"
                assert float(answer.headers["retry-after"]) > 0
            with pytest.raises(openai.RateLimitError):
                await client.chat.completions.create(**arguments(chat_body()))
            assert (await http.get("/health")).status_code == 200
            stats = (await http.get("/stats")).json()
            assert (stats["running"], stats["waiting"]) == (1, 2)
        await counts_are(http, (0, 0))
        assert (await http.post(CHAT, json=chat_body())).status_code == 200


async def test_a_queue_of_none(start_server: StartServer) -> None:
    server = start_server("--max-running-requests", "1", "--queue-size", "0")
    async with http_client(server.base_url) as http:
        async with occupied(http):
            assert_error_shape(await http.post(CHAT, json=chat_body()), 429)
        await counts_are(http, (0, 0))
        assert (await http.post(CHAT, json=chat_body())).status_code == 200


async def test_retries_of_the_client_get_through(narrow: ServerProcess) -> None:
    """What Retry-After is for: twelve at once on a server that holds three."""
    async with async_client(narrow.base_url) as client:
        patient = client.with_options(max_retries=30)
        bodies = [arguments(chat_body(f"{number}", max_tokens=20)) for number in range(12)]
        answers = await asyncio.gather(*(patient.chat.completions.create(**body) for body in bodies))
    assert all(answer.usage is not None and answer.usage.completion_tokens == 20 for answer in answers)


async def test_waiting_too_long(start_server: StartServer) -> None:
    """504 for the one that waits, after the time that was set; the one that runs goes on."""
    server = start_server("--max-running-requests", "1", "--queue-timeout", "1")
    async with http_client(server.base_url) as http:
        async with occupied(http) as running:
            for stream in (False, True):
                began = time.monotonic()
                answer = await http.post(CHAT, json=chat_body(stream=stream))
                assert 0.9 < time.monotonic() - began < 3
                assert assert_error_shape(answer, 504)["code"] == "queue_timeout"
            await counts_are(http, (1, 0))
            pieces = running.aiter_bytes()
            await asyncio.wait_for(anext(pieces), 5)
        await counts_are(http, (0, 0))


@pytest.fixture(scope="module")
def slow(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Long prompts take longer than requests may wait."""
    args = (str(model_dir), "--queue-timeout", "0.5", "--prefill-chunk-size", "16", "--prefix-cache-bytes", "0")
    env = {"QUINCE_KEEPALIVE_INTERVAL": "0.05"}
    with ServerProcess(tmp_path_factory.mktemp("slow") / "log", *args, env=env) as process:
        yield process.wait_ready()


async def test_a_long_prompt_is_not_a_long_wait(slow: ServerProcess) -> None:
    """The queue's timeout is for the queue: a request that was started in time may take longer than it."""
    async with http_client(slow.base_url) as http:
        began = time.monotonic()
        answer = await http.post(CHAT, json=chat_body("quince " * 8000, max_tokens=2))
        assert time.monotonic() - began > 0.5, "the prompt took no longer than the timeout: nothing was shown"
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def impatient(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    args = (str(model_dir), "--max-running-requests", "1", "--queue-timeout", "3")
    env = {"QUINCE_KEEPALIVE_INTERVAL": "0.1"}
    with ServerProcess(tmp_path_factory.mktemp("impatient") / "log", *args, env=env) as process:
        yield process.wait_ready()


async def read_comments(pieces: AsyncIterator[str], count: int) -> str:
    text = ""
    while text.count(": keepalive\n\n") < count:
        text += await asyncio.wait_for(anext(pieces), 5)
    return text


async def test_keepalives_while_queued(impatient: ServerProcess) -> None:
    """Headers and comments while it waits, then the answer, unharmed."""
    body: dict[str, Any] = chat_body("I waited.", max_tokens=20)
    alone = impatient.post(CHAT, body).json()["choices"][0]["message"]["content"]
    async with (
        http_client(impatient.base_url) as http,
        occupied(http) as running,
        http.stream("POST", CHAT, json={**body, "stream": True}) as queued,
    ):
        assert queued.status_code == 200
        pieces = queued.aiter_text()
        text = await read_comments(pieces, 3)
        assert "data: " not in text
        await http.post("/v1/cancel", json={"request_id": running.headers["x-request-id"]})
        async for piece in pieces:
            text += piece
    assert text.endswith("data: [DONE]\n\n")
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in sse_events(text)) == alone


async def test_the_client_reads_through_keepalives(impatient: ServerProcess) -> None:
    """The official client passes over the comments."""
    async with http_client(impatient.base_url) as http, async_client(impatient.base_url) as client:
        async with occupied(http) as running:
            body = arguments(chat_body("I waited.", max_tokens=20))
            async with await client.chat.completions.create(stream=True, **body) as stream:
                await counts_are(http, (1, 1))
                await http.post("/v1/cancel", json={"request_id": running.headers["x-request-id"]})
                chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "length"


async def test_waiting_too_long_after_keepalives(impatient: ServerProcess) -> None:
    """The headers are gone by then: the 504 is an error event, and the stream ends."""
    async with http_client(impatient.base_url) as http, async_client(impatient.base_url) as client, occupied(http):
        body = arguments(chat_body())
        with pytest.raises(openai.APIError) as failure:
            async with await client.chat.completions.create(stream=True, **body) as stream:
                assert [chunk async for chunk in stream] == []
        assert failure.value.code == "queue_timeout"
        await counts_are(http, (1, 0))


async def test_keepalives_during_a_long_prefill(slow: ServerProcess) -> None:
    async with http_client(slow.base_url) as http:
        body = chat_body("quince " * 8000, max_tokens=2, stream=True)
        async with http.stream("POST", CHAT, json=body) as response:
            text = (await response.aread()).decode()
    assert text.index(": keepalive\n\n") < text.index("data: ")
    assert text.endswith("data: [DONE]\n\n")
