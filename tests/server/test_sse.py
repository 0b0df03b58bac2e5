from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message

from quince.errors import EngineError, QueueFull
from quince.server.sse import KEEPALIVE, EventStream


class Client:
    """The other end of an ASGI response: collects what is sent, leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.left = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def get(self, chunks: AsyncGenerator[bytes, None], *, keepalive: float = 10) -> None:
        stream = EventStream(
            chunks,
            encode_error=lambda error: error.message.encode(),
            headers={"x-request-id": "r"},
            keepalive_interval=keepalive,
        )
        await stream({"type": "http"}, self.receive, self.send)


async def test_headers_then_chunks_then_the_end() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"a"
        yield b"b"

    client = Client()
    await client.get(chunks())
    assert [message["type"] for message in client.sent] == ["http.response.start"] + ["http.response.body"] * 3
    headers = dict(client.sent[0]["headers"])
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"x-request-id"] == b"r"
    assert client.body == b"ab"
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_an_error_before_the_first_chunk_is_an_http_error() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        raise QueueFull("full")
        yield b""

    client = Client()
    with pytest.raises(QueueFull):
        await client.get(chunks())
    assert client.sent == []


async def test_an_error_later_is_an_event_and_the_end() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise EngineError("broken")

    client = Client()
    await client.get(chunks())
    assert client.body == b"adata: broken\n\n"
    assert client.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_silence_is_filled_and_an_error_after_it_is_an_event() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.25)
        raise QueueFull("full")
        yield b""

    client = Client()
    await client.get(chunks(), keepalive=0.05)
    assert client.sent[0]["status"] == 200
    assert client.body.startswith(KEEPALIVE * 2)
    assert client.body.endswith(b"data: full\n\n")


async def test_no_comment_while_chunks_flow() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(20):
            await asyncio.sleep(0.01)
            yield b"a"

    client = Client()
    await client.get(chunks(), keepalive=0.1)
    assert client.body == b"a" * 20


async def test_a_client_that_leaves_closes_the_generator_at_once() -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.sleep(60)
        finally:
            closed.set()

    client = Client()
    task = asyncio.create_task(client.get(chunks()))
    while not client.body:
        await asyncio.sleep(0)
    client.left.set()
    await asyncio.wait_for(task, 2)
    assert closed.is_set()
