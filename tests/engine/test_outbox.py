from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from quince.engine import outbox
from quince.engine.messages import Abort, ToEngine
from quince.engine.outbox import Outbox


def message(number: int) -> Abort:
    return Abort([str(number)])


class Sent(list[list[ToEngine]]):
    def __call__(self, messages: Sequence[ToEngine]) -> None:
        self.append(list(messages))


@pytest.fixture
def sent() -> Sent:
    return Sent()


async def go_round(passes: int) -> None:
    for _ in range(passes):
        await asyncio.sleep(0)


async def test_what_comes_within_a_few_passes_goes_together(sent: Sent) -> None:
    box = Outbox(sent)
    for number in range(5):
        box.put(message(number))
        await go_round(outbox.QUIET_PASSES // 2)
    assert sent == []
    await go_round(outbox.QUIET_PASSES)
    assert sent == [[message(number) for number in range(5)]]


async def test_one_alone_goes_without_a_timer(sent: Sent) -> None:
    box = Outbox(sent)
    box.put(message(1))
    await go_round(outbox.QUIET_PASSES + 1)
    box.put(message(2))
    await go_round(outbox.QUIET_PASSES + 1)
    assert sent == [[message(1)], [message(2)]]


async def test_nothing_is_held_back_for_ever(sent: Sent) -> None:
    box = Outbox(sent)
    started = time.monotonic()
    number = 0
    while not sent and time.monotonic() < started + 10:
        box.put(message(number := number + 1))
        await asyncio.sleep(0)
    assert time.monotonic() - started >= outbox.LIMIT
    assert sent[0] == [message(number) for number in range(1, len(sent[0]) + 1)]


async def test_flush_sends_at_once_and_in_order(sent: Sent) -> None:
    box = Outbox(sent)
    box.put(message(1))
    box.put(message(2))
    box.flush()
    assert sent == [[message(1), message(2)]]
    await go_round(outbox.QUIET_PASSES + 1)
    box.flush()
    assert len(sent) == 1


async def test_what_is_cleared_is_not_sent(sent: Sent) -> None:
    box = Outbox(sent)
    box.put(message(1))
    box.clear()
    await go_round(outbox.QUIET_PASSES + 1)
    box.put(message(2))
    await go_round(outbox.QUIET_PASSES + 1)
    assert sent == [[message(2)]]
