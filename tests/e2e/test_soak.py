"""Five hundred requests of every size and fate, sixty-four at a time: no error, no leak."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import httpx2

from quince.engine.core import POOL_SHARE
from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body, eventually, http_client, sse_events
from tests.e2e.server_process import ServerProcess

CHAT = "/v1/chat/completions"
REQUESTS = 500
FIRST = 50
CONCURRENT = 64
TOLERANCE = 0.05
MEMORY = 512 * 2**20
CACHE = 256 * 2**10
PROMPT_WORDS = (1, 3, 10, 40, 150, 500, 2000)
SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1, "top_k": 40},
    {"temperature": 1.5, "min_p": 0.05, "seed": 3},
    {"temperature": 1, "stop": ["a", "qu"]},
    {"ignore_eos": False},
)


class Plan:
    """One request and when its client leaves: never (None), or after so many pieces of the stream."""

    def __init__(self, draw: random.Random) -> None:
        words = draw.choice(PROMPT_WORDS)
        self.leaves_after = draw.choice((None, None, None, None, 0, 1, 10))
        self.body = chat_body(
            "quince " * draw.randint(1, words),
            max_tokens=draw.choice((1, 2, 10, 40, 120)),
            stream=self.leaves_after is not None or draw.random() < 0.5,
            **draw.choice(SAMPLING),
        )


async def perform(http: httpx2.AsyncClient, plan: Plan) -> None:
    """Carry the plan out; an answer that is read to its end must be whole."""
    async with http.stream("POST", CHAT, json=plan.body) as response:
        assert response.status_code == 200, await response.aread()
        if plan.leaves_after == 0:
            return
        text, pieces = "", 0
        async for piece in response.aiter_text():
            text += piece
            pieces += 1
            if pieces == plan.leaves_after:
                return
    if plan.body["stream"]:
        assert text.endswith("data: [DONE]\n\n")
        assert sse_events(text)[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    else:
        assert json.loads(text)["choices"][0]["finish_reason"] in ("stop", "length")


async def perform_all(http: httpx2.AsyncClient, plans: list[Plan]) -> None:
    free = asyncio.Semaphore(CONCURRENT)

    async def one(plan: Plan) -> None:
        async with free:
            await perform(http, plan)

    async with asyncio.TaskGroup() as group:
        for plan in plans:
            group.create_task(one(plan))


async def at_rest(http: httpx2.AsyncClient) -> dict[str, Any]:
    """The model's figures once nothing runs, nothing waits and no request is open."""

    async def figures() -> dict[str, Any] | None:
        body = (await http.get("/stats")).json()
        model: dict[str, Any] = body["models"]["tiny-chat"]
        idle = (body["running"], body["waiting"], model["open_requests"]) == (0, 0, 0)
        return model if idle else None

    model = await eventually(figures, within=2, what="nothing runs and nothing waits")
    assert model is not None
    return model


async def settled_rss(server: ServerProcess) -> int:
    """The engine's resident bytes once they stop changing; MLX's pool of buffers among them."""
    engine = server.engine()
    seen: list[int] = []

    async def settled() -> bool:
        seen.append(engine.memory_info().rss)
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    await eventually(settled, within=5, what="the engine's memory settles")
    return seen[-1]


async def test_500_requests_at_64_concurrent(start_server: StartServer) -> None:
    draw = random.Random(500)
    plans = [Plan(draw) for _ in range(REQUESTS)]
    # The prefix cache is about full after the first requests: it may not grow on.
    server = start_server("--prefix-cache-bytes", str(CACHE), "--memory-bytes", str(MEMORY))
    engine = server.engine().pid
    limits = httpx2.Limits(max_connections=2 * CONCURRENT)
    async with (
        http_client(server.base_url) as watch,
        httpx2.AsyncClient(base_url=server.base_url, trust_env=False, timeout=60, limits=limits) as http,
    ):
        await perform_all(http, plans[:FIRST])
        first, first_rss = await at_rest(watch), await settled_rss(server)
        await perform_all(http, plans[FIRST:])
        last, last_rss = await at_rest(watch), await settled_rss(server)
    print(f"{first_rss=} {last_rss=} {first=} {last=}")
    assert server.engine().pid == engine
    assert "Traceback" not in server.logs() and "ERROR" not in server.logs()
    assert last["active_memory"] <= first["active_memory"] * (1 + TOLERANCE) + CACHE - first["cache_bytes"]
    if sys.platform == "linux":
        assert last_rss <= first_rss * (1 + TOLERANCE) + MEMORY // POOL_SHARE
