"""Clients that leave: what they asked for ends within a second, and nobody beside them notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.helpers import chat_body, eventually, http_client, sse_events
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"
BACK_WITHIN = 1.0
PREPARED_WITHIN = 10.0
MAX_RUNNING = 2
PREFILL_CHUNK = 16
LONG_PROMPT = "quince " * 6000
Counts = tuple[int, int]


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two requests run, others queue, and a long prompt takes hundreds of steps."""
    log = tmp_path_factory.mktemp("disconnect") / "log"
    flags = ("--max-running-requests", str(MAX_RUNNING), "--prefill-chunk-size", str(PREFILL_CHUNK))
    with ServerProcess(log, str(model_dir), *flags) as process:
        yield process.wait_ready()


@pytest.fixture(scope="module")
def alone(server: ServerProcess) -> str:
    """What the bystander says when nobody is beside it, in full."""
    text: str = server.post(CHAT, bystander_body(stream=False)).json()["choices"][0]["message"]["content"]
    assert len(text) > 8_000
    return text


@pytest.fixture
async def http(server: ServerProcess) -> AsyncIterator[httpx2.AsyncClient]:
    async with http_client(server.base_url) as client:
        yield client
        await counts_are_back(client, (0, 0))


def bystander_body(*, stream: bool) -> dict[str, Any]:
    return chat_body("I was here first.", max_tokens=4000, stream=stream)


async def stats(http: httpx2.AsyncClient) -> dict[str, Any]:
    body: dict[str, Any] = (await http.get("/stats")).json()
    return {**body["models"]["tiny-chat"], **body}


async def counts_are(http: httpx2.AsyncClient, expected: Counts, *, within: float = PREPARED_WITHIN) -> None:
    """Wait until the server runs and queues so many: how the scene of a test is set."""
    seen: list[Counts] = []

    async def reached() -> bool:
        now = await stats(http)
        seen.append((now["running"], now["waiting"]))
        return seen[-1] == expected

    try:
        await eventually(reached, within=within, what=f"running and waiting are {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}, but {seen[-1]}") from None


async def counts_are_back(http: httpx2.AsyncClient, expected: Counts) -> None:
    """What is shown: whoever has left is gone within a second."""
    await counts_are(http, expected, within=BACK_WITHIN)


class Bystander:
    """A stream that is read all the time."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._raw = ""

    @property
    def text(self) -> str:
        complete = self._raw[: self._raw.rfind("\n\n") + 2]
        choices = [choice for event in sse_events(complete) for choice in event["choices"]]
        return "".join(choice["delta"].get("content", "") for choice in choices)

    @property
    def finished(self) -> bool:
        return "finish_reason" in self._raw and '"finish_reason":"' in self._raw

    async def read(self) -> None:
        async for piece in self._response.aiter_text():
            self._raw += piece


@asynccontextmanager
async def bystander(http: httpx2.AsyncClient, alone: str) -> AsyncIterator[Bystander]:
    """Runs beside the block and for some text after it; what it said must be what it says alone."""
    async with http.stream("POST", CHAT, json=bystander_body(stream=True)) as response:
        watched = Bystander(response)
        reader = asyncio.create_task(watched.read())
        try:
            await counts_are(http, (1, 0))
            yield watched
            assert not watched.finished, "the bystander ended before the test did: nothing was shown"
            before = len(watched.text)

            async def went_on() -> bool:
                return len(watched.text) > before + 200

            await eventually(went_on, within=10, what="the bystander goes on")
            assert alone.startswith(watched.text)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


@asynccontextmanager
async def request(http: httpx2.AsyncClient, body: dict[str, Any]) -> AsyncIterator[asyncio.Task[httpx2.Response]]:
    """A request whose answer is waited for in the background; leaving the block closes its connection."""
    task = asyncio.create_task(http.post(CHAT, json=body))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_leaving_while_streaming(http: httpx2.AsyncClient, alone: str) -> None:
    async with bystander(http, alone):
        async with http.stream("POST", CHAT, json=chat_body(max_tokens=6000, stream=True)) as response:
            pieces = response.aiter_bytes()  # named: an iterator that is thrown away closes the response
            await anext(pieces)
            await counts_are(http, (2, 0))
        await counts_are_back(http, (1, 0))


async def test_leaving_while_waiting_for_a_whole_answer(http: httpx2.AsyncClient, alone: str) -> None:
    async with bystander(http, alone):
        async with request(http, chat_body(max_tokens=6000)) as task:
            await counts_are(http, (2, 0))
            assert not task.done()
        await counts_are_back(http, (1, 0))


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_the_queue(http: httpx2.AsyncClient, alone: str, stream: bool) -> None:
    """The one that runs goes on; the one behind in the queue is served in its turn."""
    async with bystander(http, alone), request(http, chat_body(max_tokens=6000)) as running:
        await counts_are(http, (2, 0))
        async with request(http, chat_body("next", max_tokens=5, stream=stream)):
            await counts_are(http, (2, 1))
            async with request(http, chat_body("last", max_tokens=5)) as last:
                await counts_are(http, (2, 2))
            await counts_are_back(http, (2, 1))
        await counts_are_back(http, (2, 0))
        assert not running.done() and last.cancelled()


async def test_the_queue_moves_up_when_a_running_client_leaves(http: httpx2.AsyncClient, alone: str) -> None:
    async with bystander(http, alone):
        async with request(http, chat_body(max_tokens=6000)):
            await counts_are(http, (2, 0))
            queued = asyncio.create_task(http.post(CHAT, json=chat_body("next", max_tokens=5)))
            await counts_are(http, (2, 1))
        answer = await asyncio.wait_for(queued, 10)
        assert answer.json()["usage"]["completion_tokens"] == 5
        await counts_are_back(http, (1, 0))


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_in_mid_prefill(http: httpx2.AsyncClient, alone: str, stream: bool) -> None:
    async with bystander(http, alone):
        start = (await stats(http))["prompt_tokens"]
        async with request(http, chat_body(LONG_PROMPT, max_tokens=50, stream=stream)) as task:
            await prefilled(http, start + 5 * PREFILL_CHUNK)
            assert not task.done()
        await counts_are_back(http, (1, 0))
        done = (await stats(http))["prompt_tokens"] - start
        assert done < 6000, "the whole prompt was computed before the client left: nothing was shown"
        await asyncio.sleep(0.1)
        assert (await stats(http))["prompt_tokens"] - start == done


async def prefilled(http: httpx2.AsyncClient, tokens: int) -> None:
    async def reached() -> bool:
        return bool((await stats(http))["prompt_tokens"] >= tokens)

    await eventually(reached, within=10, what=f"{tokens} prompt tokens are computed")


async def test_cancel_by_id(http: httpx2.AsyncClient, alone: str) -> None:
    async with bystander(http, alone):
        async with http.stream("POST", CHAT, json=chat_body(max_tokens=6000, stream=True)) as response:
            request_id = response.headers["x-request-id"]
            answer = await http.post("/v1/cancel", json={"request_id": request_id})
            assert answer.json() == {"cancelled": [request_id]}
            await counts_are_back(http, (1, 0))
            text = (await asyncio.wait_for(response.aread(), 5)).decode()
        assert text.endswith("data: [DONE]\n\n")
        assert "error" not in text
        assert sse_events(text)[-1]["choices"][0]["finish_reason"] == "abort"
        again = await http.post("/v1/cancel", json={"request_id": request_id})
        assert again.json() == {"cancelled": []}


async def test_cancel_of_all(http: httpx2.AsyncClient) -> None:
    """Streaming, waiting for a whole answer, queued, and with a body or without one."""
    for body in (None, {}):
        async with http.stream("POST", CHAT, json=bystander_body(stream=True)) as streaming:
            whole = asyncio.create_task(http.post(CHAT, json=chat_body(LONG_PROMPT, max_tokens=100)))
            await counts_are(http, (2, 0))
            queued = asyncio.create_task(http.post(CHAT, json=chat_body(max_tokens=5)))
            await counts_are(http, (2, 1))
            answer = await (http.post("/v1/cancel") if body is None else http.post("/v1/cancel", json=body))
            assert len(answer.json()["cancelled"]) == 3
            await counts_are_back(http, (0, 0))
            text = (await asyncio.wait_for(streaming.aread(), 5)).decode()
        assert sse_events(text)[-1]["choices"][0]["finish_reason"] == "abort"
        for task in (whole, queued):
            ended = await asyncio.wait_for(task, 5)
            assert ended.status_code == 200
            assert ended.json()["choices"][0]["finish_reason"] == "abort"


async def test_many_leave_at_once(http: httpx2.AsyncClient, alone: str) -> None:
    """Thirty in the queue and one running, all gone at the same moment."""
    async with bystander(http, alone):
        bodies = [chat_body(f"victim {number}", max_tokens=3000, stream=number % 2 == 0) for number in range(31)]
        tasks = [asyncio.create_task(http.post(CHAT, json=body)) for body in bodies]
        await counts_are(http, (2, 30))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await counts_are_back(http, (1, 0))


async def test_a_bystanders_whole_text(http: httpx2.AsyncClient, alone: str) -> None:
    """From the first token to the last, with neighbours that come, go and are cancelled."""
    async with http.stream("POST", CHAT, json=bystander_body(stream=True)) as response:
        watched = Bystander(response)
        reader = asyncio.create_task(watched.read())
        for round_ in range(6):
            async with request(http, chat_body("quince " * (40 * round_ + 1), max_tokens=3000, stream=round_ % 2 == 0)):
                await counts_are(http, (2, 0))
            await counts_are_back(http, (1, 0))
        assert not watched.finished
        await asyncio.wait_for(reader, 60)
    assert watched.text == alone
