"""Bodies that are held, over a bare application that reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message, Receive, Scope, Send

from quince.errors import BodyTooLarge, QueueFull
from quince.server.limits import MAX_LARGEST_BODIES, BodyLimit

SIZE = 1000


class Reader:
    """An application that reads bodies and is not finished before it is told."""

    def __init__(self) -> None:
        self.read = 0
        self.done = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.read += 1
        await self.done.wait()


async def unexpected(message: Message) -> None:
    raise AssertionError(message)


async def request(app: BodyLimit, size: int, *, announced: bool = False) -> None:
    headers = [(b"content-length", str(size).encode())] if announced else []

    async def pieces() -> AsyncIterator[Message]:
        for start in range(0, size, 100):
            yield {"type": "http.request", "body": b"x" * min(100, size - start), "more_body": start + 100 < size}

    body = pieces()
    await app({"type": "http", "headers": headers}, lambda: anext(body), unexpected)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("announced", [True, False])
async def test_one_body(announced: bool) -> None:
    app = BodyLimit(Reader(), SIZE)
    with pytest.raises(BodyTooLarge):
        await request(app, SIZE + 1, announced=announced)


async def test_all_bodies_together() -> None:
    """As many as there is room for; the next is refused until one is finished."""
    reader = Reader()
    app = BodyLimit(reader, SIZE)
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(request(app, SIZE)) for _ in range(MAX_LARGEST_BODIES)]
        while reader.read < MAX_LARGEST_BODIES:
            await asyncio.sleep(0)
        for _ in range(3):  # what is refused leaves nothing behind
            with pytest.raises(QueueFull) as refused:
                await request(app, 1)
            assert refused.value.retry_after == 1
        held[0].cancel()
        await asyncio.wait([held[0]])
        held.append(group.create_task(request(app, SIZE)))
        while reader.read <= MAX_LARGEST_BODIES:
            await asyncio.sleep(0)
        reader.done.set()
    await request(app, SIZE)
