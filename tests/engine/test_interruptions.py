"""Waits that others end."""

from __future__ import annotations

import asyncio

import pytest

from quince.engine.interruptions import Interruptions
from quince.errors import RequestCancelled


async def wait(waits: Interruptions, event: asyncio.Event, *names: str) -> str:
    async with waits.block(names):
        await event.wait()
    return "went on"


async def test_one_of_several_ends() -> None:
    waits, event = Interruptions(), asyncio.Event()
    tasks = [asyncio.create_task(wait(waits, event, *names)) for names in (("a",), ("b", "c"), ("d",))]
    await asyncio.sleep(0)
    assert waits.end(["c", "nobody"]) == ["c"]
    with pytest.raises(RequestCancelled):
        await tasks[1]
    event.set()
    assert await asyncio.gather(tasks[0], tasks[2]) == ["went on"] * 2
    assert waits.end() == []


async def test_what_is_told_to_be_ended_is() -> None:
    """Also if what it waited for has just come."""
    waits, event = Interruptions(), asyncio.Event()
    task = asyncio.create_task(wait(waits, event, "a"))
    await asyncio.sleep(0)
    event.set()
    assert waits.end() == ["a"]
    with pytest.raises(RequestCancelled):
        await task


async def test_other_timeouts_are_not_its_own() -> None:
    waits = Interruptions()
    with pytest.raises(TimeoutError):
        async with waits.block(["a"]), asyncio.timeout(0.01):
            await asyncio.sleep(10)
    assert waits.end() == []
