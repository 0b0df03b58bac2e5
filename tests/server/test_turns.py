from __future__ import annotations

import asyncio

from quince.server.turns import Turns


async def test_each_goes_on_in_an_iteration_of_its_own_in_order() -> None:
    turns = Turns()
    said: list[int | str] = []

    async def take(number: int) -> None:
        await turns.take()
        said.append(number)

    async def other() -> None:
        for _ in range(4):
            said.append("other")
            await asyncio.sleep(0)

    await asyncio.gather(*map(take, range(3)), other())
    assert [one for one in said if one != "other"] == [0, 1, 2]
    assert all(said[said.index(number) - 1] == "other" for number in (1, 2))


async def test_whoever_comes_alone_does_not_wait() -> None:
    turns = Turns()
    for _ in range(2):
        taking = turns.take()
        try:
            taking.send(None)
        except StopIteration:
            await asyncio.sleep(0)
        else:
            raise AssertionError("it waits")


async def test_who_has_left_is_passed_over() -> None:
    turns = Turns()
    tasks = [asyncio.create_task(turns.take()) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns.take()
    assert [task.cancelled() for task in tasks] == [False, True, True, False]
