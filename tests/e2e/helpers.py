"""Bodies, streams and waiting, shared by the end-to-end tests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx2
import openai

T = TypeVar("T")

MODEL = "default"
# The tiny model's context, in tokens.
CONTEXT = 8192


def chat_body(text: str = "Count the quinces.", *, max_tokens: int = 16, **fields: Any) -> dict[str, Any]:
    """A greedy chat request that runs to ``max_tokens``: a random model may end its answer at any time."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        **fields,
    }


def arguments(body: dict[str, Any]) -> dict[str, Any]:
    """The same request for the ``openai`` client, which takes unknown fields separately."""
    extensions = ("ignore_eos", "top_k", "min_p", "chat_template_kwargs")
    known = {name: value for name, value in body.items() if name not in extensions}
    return {**known, "extra_body": {name: body[name] for name in extensions if name in body}}


@contextmanager
def sync_client(base_url: str) -> Iterator[openai.OpenAI]:
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(
        base_url=base_url + "/v1", api_key="none", max_retries=0, timeout=60, http_client=http
    ) as client:
        yield client


@asynccontextmanager
async def async_client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(
        trust_env=False, limits=httpx2.Limits(max_connections=200, max_keepalive_connections=20)
    )
    async with openai.AsyncOpenAI(
        base_url=base_url + "/v1", api_key="none", max_retries=0, timeout=60, http_client=http
    ) as client:
        yield client


def http_client(base_url: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=base_url, trust_env=False, timeout=60)


async def eventually(condition: Callable[[], Awaitable[T]], *, within: float, what: str) -> T:
    """Poll until ``condition`` is true; returns its value. Fails the test with ``what`` after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not (value := await condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what}")
        await asyncio.sleep(0.02)
    return value


def sse_events(body: str) -> list[dict[str, Any]]:
    """The JSON of every event of a finished stream, without the end mark."""
    data = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    return [json.loads(item) for item in data if item != "[DONE]"]


def assert_error_shape(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """OpenAI's error object and nothing else; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and error["type"]
    assert "Traceback" not in error["message"]
    return error
